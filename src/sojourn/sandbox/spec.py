"""What runc is told: the OCI bundle's config.json and the rider's own configuration, as pure functions.

Few mounts: each costs CRIU about two milliseconds while the session stands still, and a tmpfs, which it hands to
`tar`, ten. So /dev/shm is a folder of /dev, which is a tmpfs anyway. /proc is read-only as a whole
instead of masked path by path, which also closes what root in a sandbox could do through it (sysrq, core_pattern).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sojourn.model.sessions import Mount, Program, SessionSpec
from sojourn.sandbox import seccomp
from sojourn.sandbox.folders import enclosing, is_inside, standing

INSIDE = "/run/sojourn"
"""Where the rider lives inside: its program, configuration, verb socket, spool and logs. Travels with the layer."""
RIDER = f"{INSIDE}/rider.pyz"
CONFIG = f"{INSIDE}/rider.json"
NOTES = f"{INSIDE}/rider.log"
"""What the rider says of itself."""
LOG = f"{INSIDE}/program.log"
"""What the program writes to stdout and stderr."""

BOOT = "; ".join(
    (
        "import os, sys, zipimport",
        "os.path.isdir('/dev/shm') or os.mkdir('/dev/shm'), os.chmod('/dev/shm', 0o1777)",
        f"notes = os.open({NOTES!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)",
        "os.dup2(notes, 1), os.dup2(notes, 2), os.close(notes)",
        f"sys.argv[:] = {[RIDER, CONFIG]!r}",
        f"sys.path.insert(0, {RIDER!r})",
        f"exec(zipimport.zipimporter({RIDER!r}).get_code('__main__'), {{'__name__': '__main__'}})",
    )
)
"""`PYTHON rider.pyz CONFIG`, with what it says kept inside: CRIU refuses a tree that has a file of the node open."""

SPOOL_MEMORY_BYTES = 1 << 20
SPOOL_DISK_BYTES = 256 << 20

CAPABILITIES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETGID",
    "CAP_SETUID",
)
"""What a program running as root expects, and the rider needs to start one as somebody else; nothing that reaches
the node: no mounts, no devices, no tracing of what is not its own."""

_NAMESPACES = ("pid", "mount", "ipc", "uts")


@dataclass(frozen=True)
class NodeFacts:
    """What the node adds to a session's spec."""

    rootfs: str
    netns: str
    cgroups_path: str
    """From the root of each hierarchy: `/sojourn/…/box`."""
    python: str
    """The interpreter that runs the rider, as seen inside."""
    binds: Mapping[str, str]
    """Folder inside -> folder of the node: the shared folders, and empty ones over what they would give away."""
    machine: str
    """As uname says it: `x86_64`."""


def oci_config(name: str, facts: NodeFacts, held: Mapping[str, str] | None = None) -> dict[str, Any]:
    """config.json (OCI runtime specification 1.0) of a sandbox named `name`. `held`: what keeps a session to its
    baseline, which the rider has to keep to as well: it goes where the session goes."""
    return {
        "ociVersion": "1.0.2",
        "hostname": hostname(name),
        "process": _process(facts.python, held or {}),
        "root": {"path": facts.rootfs, "readonly": False},
        "mounts": [*_mounts(), *(_bind(inside, outside) for inside, outside in facts.binds.items())],
        "linux": {
            "cgroupsPath": facts.cgroups_path,
            "namespaces": [*({"type": kind} for kind in _NAMESPACES), {"type": "network", "path": facts.netns}],
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "seccomp": seccomp.profile(CAPABILITIES, facts.machine),
        },
    }


def _process(python: str, held: Mapping[str, str]) -> dict[str, Any]:
    return {
        "terminal": False,
        "user": {"uid": 0, "gid": 0},
        # Isolated and without site: quicker, smaller, and nothing of the session's files gets in.
        "args": [python, "-I", "-S", "-B", "-c", BOOT],
        "env": [
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG=C.UTF-8",
            *(f"{name}={value}" for name, value in held.items()),
        ],
        "cwd": "/",
        "capabilities": {kind: list(CAPABILITIES) for kind in ("bounding", "effective", "permitted")},
        "noNewPrivileges": True,
    }


def _mounts() -> list[dict[str, Any]]:
    return [
        _mount("/proc", "proc", "nosuid", "noexec", "nodev", "ro"),
        _mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755"),
        _mount("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
        _mount("/sys", "sysfs", "nosuid", "noexec", "nodev", "ro"),
    ]


def _mount(destination: str, kind: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": kind, "options": list(options)}


def _bind(inside: str, outside: str) -> dict[str, Any]:
    return {"destination": inside, "type": "bind", "source": outside, "options": ["bind", "rw", "nosuid", "nodev"]}


def rider_config(session: str, spec: SessionSpec) -> dict[str, Any]:
    """The rider's CONFIG in a runc sandbox (docs/contracts.md, section 1)."""
    return {
        "session": session,
        "listen": "@sojourn-rider",
        "secret": None,
        "announce": None,
        "socket": f"{INSIDE}/verbs.sock",
        "program": program_config(spec.program),
        "held": {**(spec.pinned.env if spec.pinned else {}), **held_to(spec)},
        "autostart": spec.autostart,
        "spool": spool_config(f"{INSIDE}/spool"),
        "log": LOG,
    }


def dump(body: dict[str, Any]) -> bytes:
    return json.dumps(body).encode()


def program_config(program: Program) -> dict[str, Any]:
    """As the rider starts it. libuv's io_uring can't be dumped, so Node.js is told to do without."""
    return {**program.model_dump(mode="json"), "env": {"UV_USE_IO_URING": "0", **program.env}}


def held_to(spec: SessionSpec) -> dict[str, str]:
    """The variables that keep a session to the CPU it was started for; none where that is its node's own."""
    return spec.baseline.env if spec.baseline else {}


def spool_config(folder: str) -> dict[str, Any]:
    return {"folder": folder, "memory_bytes": SPOOL_MEMORY_BYTES, "disk_bytes": SPOOL_DISK_BYTES}


def hostname(name: str) -> str:
    """A name as a host's: letters, digits and hyphens, at most 63 (RFC 1123)."""
    kept = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name)[:63].strip("-")
    return kept or "session"


def binds(spec: SessionSpec, hidden: Iterable[str], nothing: str, root: str = "") -> dict[str, str]:
    """Folder inside -> folder of the node: the shared folders and those to be left; where something is carried that
    lies in one of them, its copy below `root`, the session's own; and `nothing`, an empty one, over the hidden folders
    that lie in them, where no mask reaches."""
    mounts = standing(spec.mounts)
    bound: dict[str, str] = {}
    for mount in mounts:
        if mount.mode != "carried":
            bound[mount.path] = mount.path
        elif _is_bound(enclosing(mount.path, mounts)):
            bound[mount.path] = root + mount.path
    covered = outermost(path for path in hidden if path in bound or _is_bound(enclosing(path, mounts)))
    return {**bound, **dict.fromkeys(covered, nothing)}


def _is_bound(mount: Mount | None) -> bool:
    return mount is not None and mount.mode != "carried"


def outermost(folders: Iterable[str]) -> list[str]:
    """Without those that lie inside another: a mount in a covered folder would have no place to be restored at."""
    kept: list[str] = []
    for folder in sorted(folders):
        if not any(is_inside(folder, outer) for outer in kept):
            kept.append(folder)
    return kept
