"""What root inside a sandbox tries in vain, where it was born and where it has moved to."""

from __future__ import annotations

import json
import platform
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.acceptance.heap_session import until, without_filter
from tests.acceptance.test_mover import Move

from sojourn.model import Needs, Program, SessionSpec, Strategy
from sojourn.movers import probe
from sojourn.rider.build import build_rider
from sojourn.sandbox.base import SandboxPlan
from sojourn.sandbox.cgroups import PIDS_LIMIT
from sojourn.sandbox.runc import RuncSandbox, runc_missing

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the probe knows the system calls of x86-64"),
    pytest.mark.skipif(runc_missing() is not None, reason=f"no runc sandboxes here: {runc_missing()}"),
]

PROBE = Path(__file__).with_name("isolation_probe.py").read_text()
PROCESSES = 40
"""Instead of `PIDS_LIMIT`, which this machine should not have to bear."""

NOT_PERMITTED = (
    *("mount", "umount2", "unshare users", "unshare mounts", "setns", "keyctl", "add_key", "bpf", "perf_event_open"),
    *("userfaultfd", "kexec_load", "init_module", "open_by_handle_at", "swapoff", "sethostname", "clock_settime"),
    *("chroot", "a device", "raw packets"),
)
NO_SUCH_CALL = (
    *("clone into a user namespace", "clone3", "io_uring_setup", "memfd_secret", "landlock_create_ruleset"),
    "fixed addresses (personality)",
)
READ_ONLY = ("core_pattern", "drop_caches", "sysfs")
NOT_THERE = ("/dev/mem", "a hidden folder", "a hidden token")
LIMITED = {"fork bomb": "EAGAIN", "too much memory": "SIGKILL"}
ALLOWED = (
    *("a file beside the hidden folder", "the own personality", "to debug a child", "threads and programs"),
    *("memory by a descriptor", "all cores"),
)
CONFINED = {
    **dict.fromkeys(NOT_PERMITTED, "EPERM"),
    **dict.fromkeys(NO_SUCH_CALL, "ENOSYS"),
    **dict.fromkeys(READ_ONLY, "EROFS"),
    **dict.fromkeys(NOT_THERE, "ENOENT"),
    "sysrq": "EROFS" if Path("/proc/sysrq-trigger").exists() else "ENOENT",
    "the node's audit": "EINVAL",
    **LIMITED,
    **dict.fromkeys(ALLOWED, "done"),
}

MAY = f"{sum(1 << number for number in (0, 1, 3, 4, 5, 6, 7, 10)):016x}"
"""CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, NET_BIND_SERVICE (capabilities(7))."""

Make = Callable[[], RuncSandbox]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Make lives of one session, not yet created, whose program is the probe."""
    hidden, beside, session = tmp_path / "node", tmp_path / "beside", uuid.uuid4().hex[:12]
    hidden.mkdir()
    (hidden / "token").write_text("secret")
    beside.write_text("for everybody")
    rider = str(build_rider(tmp_path / "rider"))
    program = Program(argv=("/usr/bin/python3", "/var/probe.py", str(hidden), str(beside)))
    needs = Needs(memory_bytes=256 << 20, cores=0.5)
    spec = SessionSpec(program=program, files={"/var/probe.py": PROBE}, sandbox="runc", needs=needs)
    made: list[RuncSandbox] = []

    def make() -> RuncSandbox:
        number = len(made) + 1
        words = {"kind": "runc", "session": session, "rider": rider, "hidden": (str(hidden),)}
        plan = SandboxPlan(node=f"isolation-{number}", incarnation=number, spec=spec, **words)
        made.append(RuncSandbox(hidden / str(number), plan))
        return made[-1]

    yield make
    for sandbox in made:
        sandbox.remove()


def limit_file(sandbox: RuncSandbox, controller: str, name: str) -> Path:
    boxes = sandbox.cgroups.boxes()
    return (boxes.get(controller) or boxes[""]) / name


def findings(sandbox: RuncSandbox) -> dict[str, Any]:
    """What the probe finds out now."""
    folder = Path(f"/proc/{sandbox.root_pid()}/root/var/probe")
    until(folder.exists)
    (folder / "answer").unlink(missing_ok=True)
    (folder / "ask").touch()
    until((folder / "answer").exists)
    found: dict[str, Any] = json.loads((folder / "answer").read_text())
    return found


def assert_confined(sandbox: RuncSandbox) -> None:
    limit = limit_file(sandbox, "pids", "pids.max")
    assert int(limit.read_text()) == PIDS_LIMIT
    limit.write_text(str(PROCESSES))
    found = findings(sandbox)
    assert found["attempts"] == CONFINED
    assert len(found["states"]) == 2, "it sees the rider and itself"
    for state in found["states"]:
        assert (state["Seccomp"], state["NoNewPrivs"]) == ("2", "1")
        assert [state[f"Cap{kind}"] for kind in ("Prm", "Eff", "Bnd")] == [MAY] * 3
        assert not int(state["CapInh"], 16) | int(state["CapAmb"], 16)
    assert throttled(sandbox), "it wanted a whole core, and has half a one"


def throttled(sandbox: RuncSandbox) -> int:
    lines = limit_file(sandbox, "cpu", "cpu.stat").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("nr_throttled"))


def moved(here: RuncSandbox, there: RuncSandbox, strategy: Strategy) -> RuncSandbox:
    move = Move(here, there, strategy)
    move.run()
    assert move.failure is None
    move.departure.commit()
    return there


@pytest.fixture
def _criu() -> None:
    strategies, refusals = probe()
    if "lazy" not in strategies:
        pytest.skip(f"no lazy moves here: {refusals.get('lazy')}")


def test_root_inside_is_confined_where_it_is_born(make: Make) -> None:
    sandbox = make()
    sandbox.create()
    sandbox.start()
    assert_confined(sandbox)


@pytest.mark.usefixtures("_criu")
def test_and_where_it_moves_to(make: Make) -> None:
    here = make()
    here.create()
    here.start()
    for strategy in ("lazy", "copy"):
        here = moved(here, make(), strategy)
        assert_confined(here)


@pytest.mark.usefixtures("_criu")
def test_a_session_born_before_there_was_a_filter_goes_on_without(make: Make) -> None:
    here = make()
    here.create()
    without_filter(here)
    here.start()
    assert_unfiltered(here)
    assert_unfiltered(moved(here, make(), "lazy"))


def assert_unfiltered(sandbox: RuncSandbox) -> None:
    found = findings(sandbox)
    assert {state["Seccomp"] for state in found["states"]} == {"0"}
    tried = found["attempts"]
    assert tried["unshare users"] == tried["io_uring_setup"] == "done", "what the filter is there to refuse"
    assert tried["mount"] == "EPERM", "the capabilities are the same"
