"""What there is of a session on this machine: the copies that could run, and what was left behind."""

from __future__ import annotations

import contextlib
import glob
import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sojourn.sandbox.cgroups import Hierarchies
from sojourn.settings import nodes_folder
from sojourn.testing.parts import Parts, command_of

_SIGKILL_PENDING = 1 << 8
_LOOK_SECONDS = 0.005
_HELD_OPEN = ("anon_inode:[userfaultfd]", "net:[", "/mem", "anon_inode:[pidfd]")


def copies(session: str) -> dict[str, list[int]]:
    """A sandbox's cgroup, `NODE/SESSION.INCARNATION` -> PIDs of those of its processes that are not dying."""
    found: dict[str, list[int]] = {}
    for box in _boxes(session):
        with contextlib.suppress(OSError):
            pids = [int(pid) for pid in (box / "cgroup.procs").read_text().split()]
            found[_name(box)] = [pid for pid in pids if not _is_dying(pid)]
    return {name: pids for name, pids in found.items() if pids}


def awake(session: str) -> list[str]:
    """The copies that run now: neither frozen nor still in the hands of CRIU."""
    return [_name(box) for box in _boxes(session) if not _is_frozen(box) and _has_rider(box)]


@contextmanager
def vigil(session: str) -> Iterator[list[list[str]]]:
    """While it lasts, gathers every moment at which more than one copy ran."""
    doubles: list[list[str]] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_LOOK_SECONDS):
            if len(found := awake(session)) > 1:
                doubles.append(found)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield doubles
    finally:
        over.set()
        watcher.join()


def held_as(node: str, session: str) -> list[str]:
    """The states of a session's lives on a node, as its agent has written them down."""
    with contextlib.closing(sqlite3.connect(f"file:{_journal(node)}?mode=ro", uri=True)) as journal:
        rows = journal.execute("SELECT body FROM lives WHERE session = ?", (session,)).fetchall()
    return [json.loads(body)["state"] for (body,) in rows]


def remains(parts: Parts, session: str) -> list[str]:
    """What is left of a session that has ended, on every node, in words; nothing, if all is well."""
    return sorted(
        [
            *(f"cgroup {group}" for group in _groups(session)),
            *(f"process {pid} in {name}" for name, pids in copies(session).items() for pid in pids),
            *(f"process {' '.join(words)}" for words in map(command_of, parts.processes()) if _is_a_movers(words)),
            *(left for node in parts.machines for left in _on_machine(parts, node, session)),
        ]
    )


def _on_machine(parts: Parts, node: str, session: str) -> Iterator[str]:
    outside = Path(f"/proc/{parts.machines[node].pid}")
    for mount in (outside / "mountinfo").read_text().splitlines():
        if session in mount:
            yield f"mount on {node}: {mount}"
    for folder in (outside / "root/dev/shm").glob("sojourn-*/*"):
        if folder.name != "run":  # CRIU's cache of what the kernel can do
            yield f"folder on {node}: {folder.name}"
    for folder in (nodes_folder() / node / "sandboxes").glob("*"):
        yield f"sandbox on {node}: {folder.name}"
    yield from _in_journal(node)
    for entry in Path(f"/proc/{parts.pid(node)}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if any(kind in (leads_to := str(entry.readlink())) for kind in _HELD_OPEN):
                yield f"descriptor of {node}'s agent: {leads_to}"


def _journal(node: str) -> Path:
    return nodes_folder() / node / "journal.sqlite"


def _in_journal(node: str) -> Iterator[str]:
    with contextlib.closing(sqlite3.connect(f"file:{_journal(node)}?mode=ro", uri=True)) as journal:
        for table in ("lives", "halves", "notes", "events"):
            if rows := journal.execute(f"SELECT * FROM {table}").fetchall():
                yield f"{table} in the journal of {node}: {rows}"


def _is_a_movers(command: list[str]) -> bool:
    return any("sojourn.movers" in word or word.endswith(("criu", "pasta")) for word in command)


def _groups(session: str) -> Iterator[Path]:
    mounted = Hierarchies.mounted()
    for root in {*mounted.v1.values(), *([mounted.v2] if mounted.v2 else [])}:
        yield from _found(root, f"sojourn/*/{session}.*")


def _boxes(session: str) -> Iterator[Path]:
    mounted = Hierarchies.mounted()
    root = mounted.v1.get("freezer") or mounted.v2
    assert root
    yield from _found(root, f"sojourn/*/{session}.*/box")


def _found(root: Path, pattern: str) -> Iterator[Path]:
    """A node's folder goes with its last session, at any moment: Path.glob would fail then."""
    return map(Path, glob.iglob(f"{root}/{pattern}"))  # noqa: PTH207


def _name(box: Path) -> str:
    return f"{box.parent.parent.name}/{box.parent.name}"


def _is_frozen(box: Path) -> bool:
    """Also while its parent is."""
    with contextlib.suppress(OSError):
        if (box / "freezer.state").exists():
            return (box / "freezer.state").read_text() != "THAWED\n"
        return "frozen 1" in (box / "cgroup.events").read_text()
    return True


def _has_rider(box: Path) -> bool:
    with contextlib.suppress(OSError):
        pids = (box / "cgroup.procs").read_text().split()
        riders = [int(pid) for pid in pids if b"rider.pyz" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        return any(not _is_dying(pid) for pid in riders)
    return False


def _is_dying(pid: int) -> bool:
    """It won't run another instruction of its program."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    pending = int(fields["SigPnd"], 16) | int(fields["ShdPnd"], 16)
    return fields["State"][0] in "ZX" or bool(pending & _SIGKILL_PENDING)
