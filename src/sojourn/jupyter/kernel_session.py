"""What a kernel asks for: the SessionSpec made from a command, an environment and a folder.

The provisioner and the launcher both come through here, so a kernel is the same whoever started it.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from sojourn.model.resources import Needs
from sojourn.model.sessions import Mount, Program, SandboxKind, SessionSpec

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


@dataclass(frozen=True)
class Wishes:
    """What the kernelspec or the user's configuration asks for, beside a place.

    `shared` and `carried` are folders; `{cwd}` and `{home}` stand for the kernel's working folder and the user's home.
    """

    image: str | None = None
    sandbox: SandboxKind | None = None
    shared: tuple[str, ...] = ("{cwd}", "{home}")
    carried: tuple[str, ...] = ()


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
    kept = kept_environment(environment)
    command, files = with_magic(kernel_command(argv))
    uid, gid = (os.getuid(), os.getgid()) if hasattr(os, "getuid") else (0, 0)
    return SessionSpec(
        name=session_name(environment, unique),
        program=Program(argv=command, env=kept, cwd=cwd, uid=uid, gid=gid),
        files=files,
        needs=needs,
        sandbox=wishes.sandbox,
        image=wishes.image,
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
    """The folders a kernel sees of its node. One inside another is left out; so is `/`, and what does not exist."""
    known = {"{cwd}": cwd, "{home}": home}
    carried = _outermost(known.get(path, path) for path in wishes.carried)
    shared = _outermost(known.get(path, path) for path in wishes.shared)
    return (
        *(Mount(path=path, mode="shared") for path in shared if path not in carried),
        *(Mount(path=path, mode="carried") for path in carried),
    )


def _outermost(paths: Iterable[str]) -> list[str]:
    real = sorted({Path(path).expanduser().resolve() for path in paths if path})
    folders = [path for path in real if path.is_dir() and path != Path(path.anchor)]
    return [str(path) for path in folders if not any(other in path.parents for other in folders)]
