"""What a kernel asks for: the SessionSpec made from a command, an environment and a folder.

The provisioner and the launcher both come through here, so a kernel is the same whoever started it.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from pydantic import ValidationError

from sojourn.errors import Invalid
from sojourn.model.resources import Needs
from sojourn.model.sessions import Cpu, Mount, Program, SandboxKind, SessionSpec
from sojourn.sandbox.canary import User, canaries
from sojourn.sandbox.folders import check_excludes

CONNECTION_FILE = "{connection_file}"
"""Stands in argv for the kernel's own connection file, which the front writes."""
LAUNCHER = "sojourn-kernel"
IN_KERNEL = "/run/sojourn/session.py"
"""Where `magics.py` lies in the sandbox."""

_OUTSIDE = re.compile(
    r"SOJOURN_.*|JUPYTER_TOKEN|JUPYTERHUB_API_TOKEN|JPY_API_TOKEN"  # who holds these may act for the user
    r"|JPY_PARENT_PID|JPY_INTERRUPT_EVENT"  # an IPython kernel would end when it sees another parent
    r"|JUPYTER_DEFAULT_PROVISIONER_NAME"  # a kernel that this one starts belongs into the same session
)
_OF_PREFIX = re.compile(
    r"PYTHON(HOME|PATH|STARTUP|USERBASE|EXECUTABLE)|VIRTUAL_ENV.*|CONDA_.*|LD_(LIBRARY_PATH|PRELOAD)|SHELL"
)


@dataclass(frozen=True)
class Wishes:
    """What the kernelspec or the user's configuration asks for, beside a place.

    `shared` and `carried` are folders; `{cwd}` and `{home}` stand for the kernel's working folder and the user's home.
    `mounts` are folders with more to be said of each, as `model.Mount` has it, and win over the two.
    """

    image: str | None = None
    sandbox: SandboxKind | None = None
    shared: tuple[str, ...] = ("{cwd}", "{home}")
    carried: tuple[str, ...] = ()
    cpu: Cpu = "node"
    environment: str | None = None
    """The node whose root the kernel is to start on."""
    mounts: tuple[Mapping[str, Any], ...] = ()


ANYWHERE = Needs()
NO_WISHES = Wishes()


def kernel_spec(
    argv: Sequence[str],
    environment: Mapping[str, str],
    cwd: str,
    unique: str,
    needs: Needs = ANYWHERE,
    wishes: Wishes = NO_WISHES,
) -> SessionSpec:
    """The session of a kernel. `argv` holds CONNECTION_FILE; `unique` makes the session's name its own."""
    kept, command = kept_environment(environment), kernel_command(argv)
    if wishes.image:
        kept, command = _without_prefix(kept), _in_image(command)
    command, files = with_magic(command)
    uid, gid = (os.getuid(), os.getgid()) if hasattr(os, "getuid") else (0, 0)
    return SessionSpec(
        name=session_name(environment, unique),
        program=Program(argv=command, env=kept, cwd=cwd, uid=uid, gid=gid),
        files=files,
        needs=needs,
        sandbox=wishes.sandbox,
        image=wishes.image,
        cpu=wishes.cpu,
        environment=wishes.environment,
        mounts=mounts(wishes, cwd, kept.get("HOME", "")),
    )


def inside_session() -> bool:
    """Whether this process runs in a session."""
    return "SOJOURN_SOCKET" in os.environ


def kernel_command(argv: Sequence[str]) -> tuple[str, ...]:
    """The command of the kernel itself, where argv is our own launcher: ipykernel in the launcher's environment."""
    if Path(argv[0]).stem == LAUNCHER:
        return (_python_beside(argv[0]), "-m", "ipykernel_launcher", *argv[1:])
    if tuple(argv[1:3]) == ("-m", "sojourn.jupyter.launcher"):
        return (argv[0], "-m", "ipykernel_launcher", *argv[3:])
    return tuple(argv)


def _python_beside(command: str) -> str:
    """The interpreter of the environment that a script is installed in."""
    script = shutil.which(command)
    beside = Path(script).parent if script else Path(sys.executable).parent
    return shutil.which("python", path=str(beside)) or sys.executable


def _in_image(command: Sequence[str]) -> tuple[str, ...]:
    """The command where the Python of this environment, which Jupyter puts in for `python`, is not: the image's own."""
    own = Path(command[0]) == Path(sys.executable) or Path(command[0]).parent == Path(sys.prefix, "bin")
    name = Path(command[0]).name
    return ("python3" if own and name.startswith("python") else command[0], *command[1:])


def _without_prefix(environment: Mapping[str, str]) -> dict[str, str]:
    """Without what leads to this machine's Python, libraries and shell. PATH and the like are the image's to say."""
    return {name: value for name, value in environment.items() if not _OF_PREFIX.fullmatch(name)}


def with_magic(argv: Sequence[str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """The command and the files that give an IPython kernel `%sojourn`; any other command as it is."""
    for place in range(1, len(argv) - 1):
        if argv[place] == "-m" and argv[place + 1] in ("ipykernel_launcher", "ipykernel"):
            magic = Path(__file__).with_name("magics.py").read_text(encoding="utf-8")
            return (*argv[:place], IN_KERNEL, *argv[place + 2 :]), {IN_KERNEL: magic}
    return tuple(argv), {}


def kept_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without what belongs to the client's process: its tokens, its parent, its Sojourn."""
    return {name: value for name, value in environment.items() if not _OUTSIDE.fullmatch(name)}


def session_name(environment: Mapping[str, str], unique: str) -> str:
    """A name a person recognises: the notebook's, with a few characters that make it unique."""
    stem = PurePath(environment.get("JPY_SESSION_NAME", "")).stem
    readable = re.sub(r"[^\w.-]+", "-", stem).strip("-.") or "kernel"
    return f"{readable[:40]}-{unique[:6]}"


def mounts(wishes: Wishes, cwd: str, home: str) -> tuple[Mount, ...]:
    """The folders a kernel sees of its node. One inside another of its mode is left out; so is `/`, and what does not
    exist, but for those that are named in `mounts`. Raises Invalid for one of these that makes no sense."""

    def meant(path: str) -> str:
        return path.replace("{cwd}", cwd).replace("{home}", home)

    def real(path: str) -> Path:
        return Path(cwd, Path(meant(path)).expanduser()).resolve()

    # {cwd} may be {home}: what is said last holds.
    named = {mount.path: mount for mount in (_mount(entry, real) for entry in wishes.mounts)}
    carried = _outermost(real(path) for path in wishes.carried if meant(path))
    shared = _outermost(real(path) for path in wishes.shared if meant(path))
    return (
        *(Mount(path=path, mode="shared") for path in shared if path not in {*named, *carried}),
        *(Mount(path=path, mode="carried") for path in carried if path not in named),
        *named.values(),
    )


@contextmanager
def witnessed(spec: SessionSpec, unique: str) -> Iterator[SessionSpec]:
    """The spec, with what is seen on this machine of the folders that the kernel shares: a node whose folders of these
    names are other ones will not start it. To last until it has started."""
    here = [mount.path for mount in spec.mounts if mount.mode == "shared" and Path(mount.path).is_dir()]
    with canaries(here, unique, User(spec.program.uid, spec.program.gid)) as seen:
        met = [mount.model_copy(update={"seen": seen.get(mount.path)}) for mount in spec.mounts]
        yield spec.model_copy(update={"mounts": tuple(met)})


def _mount(entry: Mapping[str, Any], real: Callable[[str], Path]) -> Mount:
    try:
        mount = Mount.model_validate(dict(entry))
    except ValidationError as wrong:
        first = wrong.errors()[0]
        raise Invalid(
            f"The folder {dict(entry)!r} among a kernel's `mounts` makes no sense: "
            f"{'.'.join(map(str, first['loc']))}: {first['msg']}.",
            'Write {"path": "{cwd}", "mode": "shared", "carried" or "left", "exclude": ["*.zarr"]}.',
        ) from wrong
    check_excludes(mount)
    return mount.model_copy(update={"path": str(real(mount.path))})


def _outermost(paths: Iterable[Path]) -> list[str]:
    folders = [path for path in sorted(set(paths)) if path.is_dir() and path != Path(path.anchor)]
    return [str(path) for path in folders if not any(other in path.parents for other in folders)]
