"""What moving a session would mean, read from /proc before anything is frozen."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from sojourn.model import Inspection
from sojourn.model.sessions import Folder, Mount
from sojourn.movers.connections import outside_connections
from sojourn.sandbox.base import Sandbox
from sojourn.sandbox.folders import enclosing, standing
from sojourn.sandbox.layer import Index, size_of

MOST_SHARED_BYTES = 64 << 20
"""Forks that share more than this of their memory are copied through images: the pager would multiply it."""
_BLOCKING_FILES = {
    "/dev/nvidia": "a GPU is in use",
    "/dev/kfd": "a GPU is in use",
    "/dev/dri/": "a GPU is in use",
    "anon_inode:[io_uring]": "io_uring is in use",
    "anon_inode:[userfaultfd]": "it handles page faults of its own (userfaultfd)",
    "anon_inode:[perf_event]": "performance counters are in use",
    "anon_inode:bpf": "BPF programs are in use",
}
"""What CRIU can't carry, by how the descriptor's link begins -> in a person's words."""

_NO_FILES = ("/memfd:", "/SYSV", "/dev/zero")
"""What looks like a path in a list of mappings, and is memory."""


def inspect(sandbox: Sandbox) -> Inspection:
    """Called by the agent for `InspectSession`, and before a move. About 10 ms per GB of memory."""
    tasks = [task for task in (_look(pid) for pid in sandbox.pids()) if task]
    root, layer = sandbox.root_pid(), sandbox.layer.index()
    return Inspection(
        memory_bytes=sum(task["Pss"] for task in tasks),
        private_dirty_bytes=sum(task["Private_Dirty"] for task in tasks),
        layer_bytes=size_of(layer),
        folders=tuple(_folder(mount, layer) for mount in standing(sandbox.plan.spec.mounts)),
        processes=len(tasks),
        forked_sharing_bytes=_forked_sharing([task["Shared_Dirty"] for task in tasks]),
        outside_connections=tuple(map(str, outside_connections(root))) if root else (),
        blockers=blockers(sandbox),
    )


def shares_memory(found: Inspection) -> bool:
    """Whether the session is to be copied through CRIU's images."""
    return found.forked_sharing_bytes > MOST_SHARED_BYTES


def _folder(mount: Mount, layer: Index) -> Folder:
    size = size_of(layer, mount.path.lstrip("/")) if mount.mode == "carried" else 0
    return Folder(path=mount.path, mode=mount.mode, size_bytes=size)


def blockers(sandbox: Sandbox) -> tuple[str, ...]:
    """What keeps the session from being moved, in a person's words."""
    mounts = standing(sandbox.plan.spec.mounts)
    along = tuple(f"{path}/" for path in sandbox.facts.get("prefixes", ()))
    leaves = any(mount.mode == "left" for mount in mounts)
    found = {reason for pid in sandbox.pids() for reason in _blockers(pid)}
    return tuple(sorted(found.union(*(_left_open(pid, mounts, along) for pid in sandbox.pids() if leaves))))


def _left_open(pid: int, mounts: list[Mount], along: tuple[str, ...]) -> Iterator[str]:
    """What a process uses in folders that stay behind, but for those that go `along`: another node has no such file. To
    stand in such a folder itself is no harm, for the next node has one."""
    for path in {*_links(pid), *_mapped(pid), *_standing_in(pid)}:
        around = enclosing(path, mounts)
        if around and around.mode == "left" and not path.startswith(along):
            yield f"{_name(pid)} uses {path}, and {around.path} is left behind"


def _forked_sharing(shared: list[int]) -> int:
    """What lazy pages would add: each task but one would get its own copy of what it shares."""
    return sum(shared) - max(shared, default=0)


def _look(pid: int) -> dict[str, int] | None:
    """The sums over a task's mappings, in bytes (proc_pid_smaps(5)); None when it has ended meanwhile."""
    with contextlib.suppress(OSError):
        return sums(Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines())
    return None


def sums(lines: Iterable[str]) -> dict[str, int]:
    found = dict.fromkeys(("Pss", "Private_Dirty", "Shared_Dirty"), 0)
    for line in lines:
        name, _, rest = line.partition(":")
        if name in found:
            found[name] = int(rest.split()[0]) * 1024
    return found


def _blockers(pid: int) -> Iterator[str]:
    for link in _links(pid):
        for beginning, reason in _BLOCKING_FILES.items():
            if link.startswith(beginning):
                yield f"{reason}: {_name(pid)} has {link} open"


def _name(pid: int) -> str:
    """A process as the session itself knows it: its command, and its innermost number (proc_pid_status(5))."""
    with contextlib.suppress(OSError):
        fields = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return f"process {fields['NSpid'].split()[-1]} ({fields['Name']})"
    return "a process"


def _mapped(pid: int) -> set[str]:
    """The files in its memory: libraries too (proc_pid_maps(5))."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/maps").read_text(errors="surrogateescape").splitlines()
        return {line.split(maxsplit=5)[5] for line in lines if line.count(" /")}
    return set()


def in_use(pids: Iterable[int]) -> set[str]:
    """The files and folders that these processes have open, mapped, run from, or stand in, as they see them."""
    found = {path for pid in pids for path in (*_links(pid), *_mapped(pid), *_standing_in(pid))}
    return {path for path in found if path.startswith("/") and not path.startswith(_NO_FILES)}


def _standing_in(pid: int) -> Iterator[str]:
    with contextlib.suppress(OSError):
        yield str(Path(f"/proc/{pid}/cwd").readlink())


def _links(pid: int) -> Iterator[str]:
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                yield str(entry.readlink())
