"""Put a CRIU from a newer suite of this distribution into a folder of its own: nothing of the system changes.

    python -m sojourn.doctor.private_criu [FOLDER]

For a Debian or Ubuntu whose own criu is too old. apt is given lists, a cache and a package status of its own, so that
it resolves criu's libraries as on an empty machine of the newer suite; the packages are unpacked, not installed, and
criu is started through that suite's own dynamic linker by a two-line wrapper. The suites are tried oldest first, from
the machine's own mirror, until one gives a criu that is new enough and whose `criu check` passes.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sojourn.doctor.criu import version_in
from sojourn.doctor.machine import read_distribution
from sojourn.sandbox.criu_path import OLDEST, PRIVATE

SUITES = {"debian": ("trixie", "forky", "sid"), "ubuntu": ("plucky", "questing", "resolute", "devel")}
_COMPONENTS = {"debian": "main", "ubuntu": "main universe"}
_LIBRARY = re.compile(r"lib(?!perl|python)|zlib1g")


class NotInstalled(Exception):
    """No suite gave a criu that works; the message says what was tried."""


@dataclass(frozen=True)
class Mirror:
    """Where this machine gets its packages, and what signs them."""

    uri: str
    keyring: str
    """Empty: apt's own trusted keys."""

    def source(self, suite: str, components: str) -> str:
        """A deb822 source of one suite."""
        signed = f"Signed-By: {self.keyring}\n" if self.keyring else ""
        return f"Types: deb\nURIs: {self.uri}\nSuites: {suite}\nComponents: {components}\n{signed}"


def main(argv: list[str]) -> int:
    folder = Path(argv[1]) if len(argv) > 1 else PRIVATE.parent
    try:
        print(f"{install(folder)} is ready: criu {'.'.join(map(str, version_of(folder)))}")
    except NotInstalled as failure:
        print(failure, file=sys.stderr)
        return 1
    return 0


def install(folder: Path) -> Path:
    """Install into `folder`, replacing what is there only by something that works; returns the wrapper."""
    distribution = read_distribution(Path("/etc/os-release").read_text()).id
    if distribution not in SUITES:
        raise NotInstalled(f"No newer suites are known for {distribution}; build criu 4.1 or newer from source.")
    mirror, tried = own_mirror(distribution), []
    for suite in SUITES[distribution]:
        print(f"Trying criu from {suite} …", flush=True)
        try:
            return _install_from(suite, mirror.source(suite, _COMPONENTS[distribution]), folder)
        except (NotInstalled, subprocess.CalledProcessError) as failure:
            tried.append(f"{suite}: {_explain(failure)}")
    raise NotInstalled("No suite gave a criu that works.\n  " + "\n  ".join(tried))


def own_mirror(distribution: str) -> Mirror:
    """The mirror of the machine's own main archive, as apt knows it; raises NotInstalled without one."""
    targets = _run("apt-get", "indextargets", "--format", "$(ORIGIN)\t$(REPO_URI)", "Created-By: Packages")
    rows = [line.split("\t") for line in targets.splitlines()]
    own = [row for row in rows if row[0].lower() == distribution and "security" not in row[1]]
    if not own:
        raise NotInstalled("apt knows no archive of this distribution; run `apt-get update` and try again.")
    keyring = Path(f"/usr/share/keyrings/{distribution}-archive-keyring.gpg")
    return Mirror(own[0][1], str(keyring) if keyring.exists() else "")


def version_of(folder: Path) -> tuple[int, ...]:
    """The version of the criu installed in a folder; () when there is none that starts."""
    done = subprocess.run([folder / "criu", "--version"], capture_output=True, text=True, check=False)
    return version_in(done.stdout)


def _install_from(suite: str, source: str, folder: Path) -> Path:
    with tempfile.TemporaryDirectory(prefix="sojourn-criu-") as scratch:
        work = Path(scratch)
        work.chmod(0o755)
        packages = list(_download(work, source))
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as draft:
            for package in packages:
                _run("dpkg-deb", "--extract", str(package), draft)
            write_wrapper(Path(draft), Path(draft))
            _prove(Path(draft), suite)
            write_wrapper(Path(draft), folder)
            _replace(folder, Path(draft))
    return folder / "criu"


def _download(work: Path, source: str) -> Iterator[Path]:
    """Fetch criu and the libraries it needs on an otherwise empty machine; yields the packages."""
    apt = ["apt-get", *_private_apt(work, source)]
    _run(*apt, "update")
    planned = _run(*apt, "--simulate", "--no-install-recommends", "install", "criu")
    needed = [name for name in re.findall(r"^Inst (\S+)", planned, re.M) if _LIBRARY.match(name)]
    packages = work / "packages"
    packages.mkdir()
    _run(*apt, "download", "criu", *needed, cwd=packages)
    yield from sorted(packages.glob("*.deb"))


def _private_apt(work: Path, source: str) -> list[str]:
    """Options that keep apt from reading or changing anything of the system's but its keys and proxies."""
    for folder in ("lists/partial", "cache/archives/partial", "sources"):
        (work / folder).mkdir(parents=True)
    (work / "sources/newer.sources").write_text(source)
    (work / "status").touch()
    options = {
        "Dir::State::Lists": work / "lists",
        "Dir::State::status": work / "status",
        "Dir::Cache": work / "cache",
        "Dir::Etc::SourceList": "/dev/null",
        "Dir::Etc::SourceParts": work / "sources",
        "Dir::Etc::Preferences": "/dev/null",
        "Dir::Etc::PreferencesParts": work / "cache",
        "APT::Sandbox::User": "root",
        "APT::Default-Release": "",
        "Acquire::Languages": "none",
    }
    return [f"-o{name}={value}" for name, value in options.items()]


def write_wrapper(unpacked: Path, home: Path) -> None:
    """Write `unpacked`/criu, which starts the criu that lies (or will lie) in `home`."""
    linker = _only(unpacked, "usr/lib*/ld-linux*.so.*", "lib*/ld-linux*.so.*", "usr/lib/*/ld-linux*.so.*")
    libraries = _only(unpacked, "usr/lib/*-linux-gnu*")
    program = _only(unpacked, "usr/sbin/criu", "sbin/criu")
    words = (home / linker, "--library-path", home / libraries, home / program)
    line = " ".join(shlex.quote(str(word)) for word in words)
    wrapper = unpacked / "criu"
    wrapper.write_text(f'#!/bin/sh\nexec {line} "$@"\n')
    wrapper.chmod(0o755)


def _only(root: Path, *patterns: str) -> Path:
    """The first match of the first pattern that has any, relative to the root."""
    for pattern in patterns:
        if found := sorted(root.glob(pattern)):
            return found[0].relative_to(root)
    raise NotInstalled(f"the packages hold no {patterns[0]}")


def _prove(folder: Path, suite: str) -> None:
    version = version_of(folder)
    if version < OLDEST:
        raise NotInstalled(f"{suite} has criu {'.'.join(map(str, version)) or 'that does not start'}")
    _run(str(folder / "criu"), "check")


def _replace(folder: Path, draft: Path) -> None:
    """Put the draft in the folder's place. (Not in one step: a folder can't be replaced by a rename.)"""
    old = draft.with_name(f"{draft.name}.old")
    if folder.exists():
        folder.rename(old)
    draft.rename(folder)
    folder.chmod(0o755)
    draft.mkdir()  # the caller's TemporaryDirectory removes it
    shutil.rmtree(old, ignore_errors=True)


def _run(*argv: str, cwd: Path | None = None) -> str:
    """Run a program; its stdout. Raises CalledProcessError."""
    environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(argv, cwd=cwd, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    done.check_returncode()
    return done.stdout


def _explain(failure: Exception) -> str:
    if not isinstance(failure, subprocess.CalledProcessError):
        return str(failure)
    lines = [line for line in f"{failure.stdout}\n{failure.stderr}".splitlines() if line.strip()]
    wrong = [line for line in lines if "error" in line.lower() or line.startswith("E:")]
    return f"{Path(failure.cmd[0]).name}: {(wrong or lines or ['failed'])[-1].strip()}"


if __name__ == "__main__":
    sys.exit(main(sys.argv))
