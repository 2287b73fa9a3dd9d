"""What each session uses, as its cgroup and its network namespace count.

Reading is cheap (a handful of small files per session) and never raises: what can't be read counts nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sojourn.agent.attendance import Attendance
from sojourn.model import SessionLoad
from sojourn.sandbox.base import Sandbox

Boxes = Mapping[str, Path]
"""As `Cgroups.boxes`: controller -> folder, "" in version 2."""

_V1 = {"used": "memory.usage_in_bytes", "idle": "total_inactive_file", "limit": "memory.limit_in_bytes"}
_V2 = {"used": "memory.current", "idle": "inactive_file", "limit": "memory.max"}
_UNLIMITED = 1 << 62
"""Version 1 of cgroups writes its largest number where there is no limit."""
_NOWHERE = Path("/nonexistent")


@dataclass
class Counter:
    """Adds up what another one counts. When that one has less than before (a process took its share of the sum with it,
    a network device was made anew), this one stands still for once."""

    total: float = 0
    _last: float = 0

    def add_up(self, now: float) -> float:
        self.total += max(now - self._last, 0)
        self._last = now
        return self.total


class Meters:
    """Of all sessions of a node, from one reading to the next."""

    def __init__(self) -> None:
        self._counters: dict[tuple[str, int], tuple[Counter, Counter]] = {}

    def read(self, attendances: Iterable[Attendance]) -> tuple[SessionLoad, ...]:
        """One for each session that is in a sandbox of its own; of two lives, what the newer one uses."""
        newest = {one.life.session: one for one in sorted(attendances, key=lambda one: one.life.incarnation)}
        keys = {(one.life.session, one.life.born) for one in newest.values()}
        self._counters = {key: counters for key, counters in self._counters.items() if key in keys}
        return tuple(load for one in newest.values() if (load := self._read_one(one)))

    def _read_one(self, attendance: Attendance) -> SessionLoad | None:
        sandbox, life = attendance.sandbox, attendance.life
        boxes = _boxes(sandbox)
        if not boxes:
            return None
        cpu, network = self._counters.setdefault((life.session, life.born), (Counter(), Counter()))
        return SessionLoad(
            session=life.session,
            memory_bytes=_memory(boxes),
            memory_limit_bytes=_limit(boxes),
            memory_pressure=_pressure(boxes),
            cpu_seconds=cpu.add_up(_cpu_seconds(boxes, sandbox)),
            network_bytes=int(network.add_up(_network_bytes(sandbox))),
            no_network=_no_network(sandbox),
        )


def memory_in_use(sandbox: Sandbox) -> int:
    """Bytes, without the file pages that the kernel would drop before anything else."""
    return _memory(_boxes(sandbox))


def _boxes(sandbox: Sandbox) -> Boxes:
    """Empty for a sandbox without cgroups."""
    if sys.platform != "linux":
        return {}
    from sojourn.sandbox.runc import RuncSandbox  # imports what only Linux has

    return sandbox.cgroups.boxes() if isinstance(sandbox, RuncSandbox) else {}


# ── memory ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _memory_files(boxes: Boxes) -> tuple[Path, Mapping[str, str]]:
    return (boxes[""], _V2) if "" in boxes else (boxes.get("memory", _NOWHERE), _V1)


def _memory(boxes: Boxes) -> int:
    box, names = _memory_files(boxes)
    return max(_number(box / names["used"]) - _field(box / "memory.stat", names["idle"]), 0)


def _limit(boxes: Boxes) -> int | None:
    box, names = _memory_files(boxes)
    limit = _number(box / names["limit"])
    return limit if 0 < limit < _UNLIMITED else None


def _pressure(boxes: Boxes) -> float:
    """From `some avg10=1.50 avg60=…`, in percent. Version 1 counts how often its limit was hit, but not how long
    anything waited for that: 0 there."""
    if "" in boxes:
        with suppress(ValueError, IndexError):
            return float(_text(boxes[""] / "memory.pressure").split()[1].removeprefix("avg10=")) / 100
    return 0.0


# ── processors and network ───────────────────────────────────────────────────────────────────────────────────────


def _cpu_seconds(boxes: Boxes, sandbox: Sandbox) -> float:
    if "" in boxes:
        return _field(boxes[""] / "cpu.stat", "usage_usec") / 1e6
    # Where `cpuacct` is a hierarchy of its own, what CRIU restored is not in the sandbox's group of it.
    return _number(boxes.get("cpu", _NOWHERE) / "cpuacct.usage") / 1e9 or sum(map(_seconds_of, sandbox.pids()))


def _seconds_of(pid: int) -> float:
    """Of a process and the children it has waited for: fields 14 to 17 of proc_pid_stat(5)."""
    times = _text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()[11:15]
    return sum(map(int, times)) / os.sysconf("SC_CLK_TCK")


def _network_bytes(sandbox: Sandbox) -> int:
    """What the way out (eth0) has received and sent."""
    for line in _text(Path(f"/proc/{sandbox.root_pid()}/net/dev")).splitlines():
        device, _, counts = line.partition(":")
        if device.strip() == "eth0":
            return int(counts.split()[0]) + int(counts.split()[8])
    return 0


def _no_network(sandbox: Sandbox) -> str:
    outside = str(sandbox.facts.get("outside", "open"))
    return "" if outside == "open" else outside


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:  # its cgroup or process is gone, or this kernel does not count that
        return ""


def _number(file: Path) -> int:
    """0 for what is no number: "max" as well."""
    text = _text(file).strip()
    return int(text) if text.isdecimal() else 0


def _field(file: Path, name: str) -> int:
    """Of a file with lines `NAME NUMBER`."""
    return next((int(line.split()[1]) for line in _text(file).splitlines() if line.startswith(f"{name} ")), 0)
