"""The cgroups of a sandbox: `<base>/sojourn/<node>/<session>.<incarnation>/box`, version 1 or 2.

The processes are in `box`, which CRIU may freeze and thaw as it likes. The parent is the agent's alone: while it is
held, nothing in the box runs, whoever thaws the box. The base is the root of the mounted hierarchy, not the agent's
own cgroup, because sessions outlive their agent.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sojourn.errors import SandboxFailed

FREEZE_SECONDS = 2.0
KILL_SECONDS = 20.0
_SETTLE_ROUNDS = 3
_OVERTAKE_TRIES = 5
_FAST_SHARES = "65536"
"""Of the cores, where any other group has 1024."""
PIDS_LIMIT = 4096
"""Room for any kernel with its threads and workers; a fork bomb ends here."""

_NO_CONTROLLERS = {"rw", "ro", "xattr", "none", "noprefix", "clone_children", "cpuset_v2_mode", "all"}
_CPU_PERIOD_US = 100_000
_CONTROLLERS_V1 = ("freezer", "memory", "cpu", "pids")
_CONTROLLERS_V2 = ("memory", "cpu", "pids")


@dataclass(frozen=True)
class Limits:
    """Zero means: no limit."""

    memory_bytes: int = 0
    cores: float = 0
    pids: int = PIDS_LIMIT


@dataclass(frozen=True)
class Hierarchies:
    """What /proc/self/mountinfo says of cgroups: a controller (or `name=systemd`) -> mount point."""

    v1: Mapping[str, Path]
    v2: Path | None

    @staticmethod
    def parse(mountinfo: str) -> Hierarchies:
        """Find them in the text of /proc/PID/mountinfo (proc(5))."""
        v1: dict[str, Path] = {}
        v2: Path | None = None
        for line in mountinfo.splitlines():
            place, _, kind = line.partition(" - ")
            mount_point = Path(place.split()[4])
            file_system, _, options = kind.split()[:3]
            if file_system == "cgroup2":
                v2 = mount_point
            elif file_system == "cgroup":
                names = [word for word in options.split(",") if _is_controller(word)]
                v1.update(dict.fromkeys(names, mount_point))
        return Hierarchies(v1, v2)

    @staticmethod
    def mounted() -> Hierarchies:
        return Hierarchies.parse(Path("/proc/self/mountinfo").read_text())


class Cgroups(ABC):
    """The cgroups of one sandbox; `path` is the parent's, relative to the base: `sojourn/<node>/<session>.<n>`."""

    def __init__(self, path: str, roots: Mapping[str, Path]) -> None:
        self.path = path
        self._roots = roots
        """Controller -> the root of a hierarchy that sandboxes get limits or freezing from."""

    @property
    def box_path(self) -> str:
        """As OCI's `cgroupsPath` and CRIU's cgroup options want it."""
        return f"/{self.path}/box"

    def boxes(self) -> dict[str, Path]:
        """Controller ("" in version 2) -> the folder of the box."""
        return {name: root / self.path / "box" for name, root in self._roots.items()}

    def create(self, limits: Limits) -> None:
        """Make parents and boxes and set the limits on the boxes."""
        for box in self.boxes().values():
            _make(box)
        for file, value in self._limit_files(limits):
            _write(file, value)

    def enter(self, pid: int) -> None:
        """Put a process into the box; what it forks from then on is born there. Where the cores are shared out by a
        hierarchy of their own (version 1), it goes before everybody until `settle`."""
        for name, box in self.boxes().items():
            if name != "cpu":
                _write(box / "cgroup.procs", str(pid))
        for _ in range(_OVERTAKE_TRIES):
            if not (fast := self._fast_lane()):
                return
            with contextlib.suppress(OSError):  # another move has just left it, and taken it away
                fast.mkdir(exist_ok=True)
                (fast / "cpu.shares").write_text(_FAST_SHARES)
                (fast / "cgroup.procs").write_text(str(pid))
                return
        _write(self.boxes()["cpu"] / "cgroup.procs", str(pid))

    def settle(self) -> None:
        """Give those who have entered the box's share of the cores. Right any number of times."""
        if fast := self._fast_lane():
            # Again, for what was forked meanwhile by one that had not settled yet.
            for _ in range(_SETTLE_ROUNDS):
                for pid in set(self.pids()) & set(_processes(fast)):
                    with contextlib.suppress(OSError):  # it has ended, or is a realtime task, which no box takes
                        (self.boxes()["cpu"] / "cgroup.procs").write_text(str(pid))
            self._leave_fast_lane()

    def _leave_fast_lane(self) -> None:
        if fast := self._fast_lane():
            with contextlib.suppress(OSError):  # there is none, or another move is under way
                fast.rmdir()

    def _fast_lane(self) -> Path | None:
        """The group of all that is restored at this moment, beside the groups of everything else."""
        return self._roots["cpu"] / "sojourn-restoring" if "cpu" in self._roots else None

    def pids(self) -> list[int]:
        """The processes in the box."""
        return _processes(self._main_box())

    def freeze(self) -> None:
        """Freeze the box; returns when every task stands still. Raises SandboxFailed, thawed, after two seconds."""
        self._freeze(self._main_box())

    def thaw(self) -> None:
        self._thaw(self._main_box())

    def hold(self) -> None:
        """Freeze the parent: no thaw of the box lets anything run."""
        self._freeze(self._main_box().parent)

    def release(self) -> None:
        self._thaw(self._main_box().parent)

    def kill(self) -> None:
        """SIGKILL to all in the box, frozen or held; returns when they are gone."""
        deadline = time.monotonic() + KILL_SECONDS
        pause = 0.0005
        while pids := self.pids():
            self._kill_once(pids)
            if time.monotonic() > deadline:
                raise SandboxFailed(
                    f"Processes {pids} of {self.path} do not die.",
                    "They hang in the kernel: see their /proc/PID/stack.",
                )
            time.sleep(pause)
            pause = min(pause * 1.5, 0.02)

    def remove(self) -> None:
        """Remove both levels, and the levels above when they are empty, from every hierarchy that has them, whoever
        made them there (runc does so in all)."""
        self._leave_fast_lane()
        mounted = Hierarchies.mounted()
        for root in {*mounted.v1.values(), *self._roots.values(), *([mounted.v2] if mounted.v2 else [])}:
            _remove_box(root / self.path)
            for above in (root / self.path).parents[: len(Path(self.path).parts) - 1]:
                with contextlib.suppress(OSError):  # other sandboxes of the node are still in it
                    above.rmdir()

    @abstractmethod
    def _main_box(self) -> Path:
        """The box where processes are listed and frozen."""

    @abstractmethod
    def _limit_files(self, limits: Limits) -> Iterable[tuple[Path, str]]: ...

    @abstractmethod
    def _freeze(self, group: Path) -> None: ...

    @abstractmethod
    def stands_still(self) -> bool:
        """Whether a freeze or a hold is in force, so that nothing in the box runs."""

    @abstractmethod
    def _thaw(self, group: Path) -> None: ...

    @abstractmethod
    def _kill_once(self, pids: list[int]) -> None: ...


class CgroupsV1(Cgroups):
    """One hierarchy per controller; of those that sandboxes use, the ones this kernel has."""

    def __init__(self, path: str, mounted: Mapping[str, Path]) -> None:
        super().__init__(path, {name: mounted[name] for name in _CONTROLLERS_V1 if name in mounted})
        self._mounted = mounted

    def create(self, limits: Limits) -> None:
        # In the others too: runc will use them, and must not meet a neighbour's clean-up of the levels above.
        for root in self._mounted.values():
            _make(root / self.path / "box")
        super().create(limits)

    def _main_box(self) -> Path:
        return self._roots["freezer"] / self.path / "box"

    def _limit_files(self, limits: Limits) -> Iterable[tuple[Path, str]]:
        boxes = self.boxes()
        if limits.memory_bytes and "memory" in boxes:
            yield boxes["memory"] / "memory.limit_in_bytes", str(limits.memory_bytes)
        if limits.cores and "cpu" in boxes:
            yield boxes["cpu"] / "cpu.cfs_period_us", str(_CPU_PERIOD_US)
            yield boxes["cpu"] / "cpu.cfs_quota_us", str(int(limits.cores * _CPU_PERIOD_US))
        if limits.pids and "pids" in boxes:
            yield boxes["pids"] / "pids.max", str(limits.pids)

    def _freeze(self, group: Path) -> None:
        state = group / "freezer.state"
        deadline = time.monotonic() + FREEZE_SECONDS
        # Asking again now and then catches what forked or woke while the kernel counted.
        for tries in range(1_000_000):
            if tries % 50 == 0:
                _write(state, "FROZEN")
            if state.read_text().strip() == "FROZEN":
                return
            if time.monotonic() > deadline:
                break
            time.sleep(0.0002)
        self._thaw(group)
        raise SandboxFailed(
            f"{group} does not freeze: {_stuck(self.pids())}", "Try again; a task is busy in the kernel."
        )

    def stands_still(self) -> bool:
        return _read(self._main_box() / "freezer.state") != "THAWED"  # a parent's counts in it

    def _thaw(self, group: Path) -> None:
        if group.exists():
            _write(group / "freezer.state", "THAWED")

    def _kill_once(self, pids: list[int]) -> None:
        # A frozen task of version 1 takes the signal when it thaws, and dies of it before it runs another instruction.
        for pid in pids:
            _kill(pid)
        self.thaw()
        self.release()


class CgroupsV2(Cgroups):
    """The unified hierarchy. Freezing and killing are the kernel's own there; limits need delegated controllers."""

    def __init__(self, path: str, root: Path) -> None:
        super().__init__(path, {"": root})

    def _main_box(self) -> Path:
        return self._roots[""] / self.path / "box"

    def create(self, limits: Limits) -> None:
        _make(self._main_box())
        for group in reversed([self._main_box().parent, *self._main_box().parent.parents]):
            if group.is_relative_to(self._roots[""]):
                self._delegate(group)
        super().create(limits)

    def _delegate(self, group: Path) -> None:
        offered = (group / "cgroup.controllers").read_text().split()
        for name in _CONTROLLERS_V2:
            if name in offered:
                # EBUSY in the root of a container that has processes of its own there: then there are no limits.
                with contextlib.suppress(OSError):
                    (group / "cgroup.subtree_control").write_text(f"+{name}")

    def _limit_files(self, limits: Limits) -> Iterable[tuple[Path, str]]:
        box = self._main_box()
        offered = (box / "cgroup.controllers").read_text().split()
        if limits.memory_bytes and "memory" in offered:
            yield box / "memory.max", str(limits.memory_bytes)
        if limits.cores and "cpu" in offered:
            yield box / "cpu.max", f"{int(limits.cores * _CPU_PERIOD_US)} {_CPU_PERIOD_US}"
        if limits.pids and "pids" in offered:
            yield box / "pids.max", str(limits.pids)

    def _freeze(self, group: Path) -> None:
        _write(group / "cgroup.freeze", "1")
        deadline = time.monotonic() + FREEZE_SECONDS
        while "frozen 1" not in (group / "cgroup.events").read_text():
            if time.monotonic() > deadline:
                self._thaw(group)
                raise SandboxFailed(f"{group} does not freeze: {_stuck(self.pids())}", "Try again.")
            time.sleep(0.0002)

    def stands_still(self) -> bool:
        box = self._main_box()
        return any(_read(group / "cgroup.freeze") in ("1", "") for group in (box, box.parent))

    def _thaw(self, group: Path) -> None:
        if group.exists():
            _write(group / "cgroup.freeze", "0")

    def _kill_once(self, pids: list[int]) -> None:
        # cgroup.kill (Linux 5.14) reaches what forks meanwhile, and the frozen.
        killer = self._main_box() / "cgroup.kill"
        if killer.exists():
            _write(killer, "1")
        for pid in pids:
            _kill(pid)
        if not killer.exists():
            self.thaw()
            self.release()


def open_cgroups(path: str, mounted: Hierarchies | None = None) -> Cgroups:
    """The cgroups at a path, in the version whose freezer this machine has. Raises SandboxFailed without any."""
    mounted = mounted or Hierarchies.mounted()
    if "freezer" in mounted.v1:
        return CgroupsV1(path, mounted.v1)
    if mounted.v2:
        return CgroupsV2(path, mounted.v2)
    raise SandboxFailed("No cgroup freezer is mounted.", "Mount cgroup2 at /sys/fs/cgroup.")


def _is_controller(option: str) -> bool:
    return option.startswith("name=") or (option not in _NO_CONTROLLERS and "=" not in option)


def _make(group: Path) -> None:
    """A neighbour's clean-up may take an empty level away while we are above it: try again."""
    for attempt in range(10):
        try:
            group.mkdir(parents=True, exist_ok=True)
            return
        except OSError as failed:
            if attempt == 9:
                raise SandboxFailed(f"The cgroup {group} can't be made: {failed.strerror}") from failed


def _write(file: Path, value: str) -> None:
    try:
        file.write_text(value)
    except OSError as failed:
        raise SandboxFailed(f"Writing {value} to {file} failed: {failed.strerror}") from failed


def _read(file: Path) -> str:
    """Empty for a cgroup that is gone."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def _processes(group: Path) -> list[int]:
    try:
        return [int(pid) for pid in (group / "cgroup.procs").read_text().split()]
    except OSError:  # removed, or about to be
        return []


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _remove_box(parent: Path) -> None:
    """A cgroup is busy for a moment after its last process, until the kernel has let go of it."""
    for group in (parent / "box", parent):
        for _ in range(200):
            try:
                group.rmdir()
            except FileNotFoundError:
                break
            except OSError:
                time.sleep(0.005)
            else:
                break
        else:
            raise SandboxFailed(
                f"The cgroup {group} can't be removed.", "A process is still in it: see its cgroup.procs."
            )


def _stuck(pids: list[int]) -> str:
    """Which processes sleep uninterruptibly (state D), and where in the kernel."""
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            if state == "D":
                found.append(f"{pid} ({Path(f'/proc/{pid}/wchan').read_text()})")
    return ", ".join(found) or "no task sleeps in the kernel"
