"""How Sojourn itself gets to a host: this very one, in an environment of its own there, from the host's own index or
from a folder of wheels that is brought along."""

from __future__ import annotations

import hashlib
import io
import platform
import shlex
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import sojourn
from sojourn.errors import DoesNotFit, Invalid
from sojourn.hosts.ssh import Connection
from sojourn.hosts.survey import MARK, Survey
from sojourn.hosts.wheel import wheel
from sojourn.settings import store_url

NEEDED_BYTES = 600 << 20
"""For Sojourn, what it is built on, and the unpacking."""
_FOREIGN = {"amd64": "x86_64", "arm64": "aarch64"}

Means = Literal["uv", "our uv", "pip", "apt"]
"""Who makes the environment: the host's uv, this machine's brought along, the host's Python, or the same after it got
Debian's package for that."""


@dataclass(frozen=True)
class Parcel:
    """What is brought: the wheel of this Sojourn."""

    file: str
    wheel: bytes

    @property
    def fingerprint(self) -> str:
        return f"{sojourn.__version__}+{hashlib.sha256(self.wheel).hexdigest()[:16]}"


@dataclass(frozen=True)
class Plan:
    means: Means
    python: str
    """What the environment is made of: a path there, or a version for uv to find or fetch."""

    def sentence(self, survey: Survey) -> str:
        """What will be done there, for whoever is asked."""
        how = {
            "uv": "by uv",
            "our uv": "by this machine's uv, which is brought along",
            "pip": f"by pip, with {self.python}",
            "apt": "by pip, after `apt-get install python3-venv`",
        }[self.means]
        return f"Sojourn {sojourn.__version__} is installed in {survey.venv}, {how}"


def pack() -> Parcel:
    return Parcel(*wheel("sojourn", Path(str(sojourn.__file__)).parent))


def plan(survey: Survey, carried_uv: Path | None) -> Plan:
    """How the environment can be made there. Raises DoesNotFit when it can't."""
    if survey.free_bytes and survey.free_bytes < NEEDED_BYTES:
        raise DoesNotFit(
            f"{survey.free_bytes >> 20} MB are free there, and Sojourn needs {NEEDED_BYTES >> 20}.", "Make room."
        )
    able = next((one for one in survey.pythons if one.makes_venvs), None)
    some = survey.pythons[0].path if survey.pythons else "3.12"
    if survey.uv:
        return Plan("uv", some)
    if able:
        return Plan("pip", able.path)
    if carried_uv:
        return Plan("our uv", some)
    if survey.pythons and survey.apt and survey.is_root:
        return Plan("apt", some)
    raise DoesNotFit(
        "There is no Python 3.11 or newer there that can make environments, and no uv.",
        "Install python3 and python3-venv there, or uv.",
    )


def our_uv(survey: Survey) -> Path | None:
    """This machine's uv, if it is a program that runs there too."""
    path = shutil.which("uv")
    here = _FOREIGN.get(platform.machine().lower(), platform.machine())
    there = _FOREIGN.get(survey.machine.lower(), survey.machine)
    if path is None or (platform.system(), here) != (survey.system, there) or survey.libc == "musl":
        return None
    with Path(path).open("rb") as file:
        return Path(path) if file.read(2) != b"#!" else None  # a script only leads to it


def deliver(to: Connection, survey: Survey, chosen: Plan, parcel: Parcel, wheelhouse: Path | None = None) -> None:
    """Install there what is not, and replace another Sojourn; a broken environment is made anew. `wheelhouse`: a folder
    of wheels, for a host that reaches no index. Raises SojournError with what the installer said."""
    folder = to.ask("umask 077; mktemp -d /tmp/sojourn-delivery.XXXXXX").strip()
    try:
        to.put(parcel.wheel, f"{folder}/{parcel.file}")
        if chosen.means == "our uv" and (path := our_uv(survey)):
            to.put(path.read_bytes(), f"{folder}/uv")
        if wheelhouse:
            to.unpack(_archive(wheelhouse), folder)
        to.ask(script(survey, chosen, parcel, folder, "/wheelhouse" if wheelhouse else ""))
    finally:
        to.ask(f"rm -rf {shlex.quote(folder)}")


def script(survey: Survey, chosen: Plan, parcel: Parcel, folder: str, wheelhouse: str) -> str:
    """What is run there when all that is needed lies in `folder`; pure."""
    venv, uv = shlex.quote(survey.venv), shlex.quote(f"{folder}/uv" if chosen.means == "our uv" else survey.uv)
    file = shlex.quote(f"{folder}/{parcel.file}{_extras()}")
    source = f" --no-index --find-links {folder}{wheelhouse}" if wheelhouse else ""
    if chosen.means in ("uv", "our uv"):
        make = f"{uv} venv --quiet --python {shlex.quote(chosen.python)} {venv}"
        install = f"{uv} pip install --quiet --python {venv}/bin/python --reinstall-package sojourn{source} {file}"
    else:
        make = f"{shlex.quote(chosen.python)} -m venv {venv}"
        pip = f"{venv}/bin/python -m pip install --quiet --no-compile --disable-pip-version-check{source}"
        # Another Sojourn of the same version would be taken for this one.
        install = f'{pip} {file}\n[ "$fresh" ] || {pip} --force-reinstall --no-deps {folder}/{parcel.file}'
    apt = "DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install python3-venv >/dev/null"
    return f"""
deliver() {{
set -e
umask 022
{f"chmod 700 {uv}" if chosen.means == "our uv" else ":"}
{f"apt-get -qq update && {apt}" if chosen.means == "apt" else ":"}
rm -f {venv}/{MARK}
fresh=
if ! {venv}/bin/python -c '' 2>/dev/null; then
    rm -rf {venv}
    mkdir -p "$(dirname {venv})"
    {make}
    fresh=yes
fi
{install}
echo {parcel.fingerprint} >{venv}/{MARK}
}}
deliver </dev/null
"""


def _extras() -> str:
    """Nodes read and write the store themselves."""
    return "[s3]" if store_url().startswith("s3://") else ""


def _archive(wheelhouse: Path) -> bytes:
    wheels = sorted(wheelhouse.glob("*.whl"))
    if not wheels:
        raise Invalid(f"There is no wheel in {wheelhouse}.", "`pip download sojourn` into it, for the host's Python.")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in wheels:
            archive.add(path, f"wheelhouse/{path.name}")
    return buffer.getvalue()
