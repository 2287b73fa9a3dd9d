"""The launcher: what it asks of the front, and how it ends."""

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from sojourn.errors import Invalid, Unreachable
from sojourn.jupyter import launcher


class Front:
    """Tells one state of the kernel after the other; an exception among them is raised."""

    def __init__(self, *states) -> None:
        self.states = list(states)
        self.asked: list[tuple] = []

    def signal(self, session, signum):
        self.asked.append(("signal", signum))

    def lease(self, session, seconds):
        self.asked.append(("lease", seconds))

    def close(self, session):
        self.asked.append(("close", session))

    def kernels(self):
        return self.states

    def kernel(self, session):
        state = self.states.pop(0)
        if isinstance(state, Exception):
            raise state
        return SimpleNamespace(running=state is None, exit_code=state, status="running")


class Wanted:
    def __init__(self, *signals: int) -> None:
        self.signals = list(signals)

    def take(self):
        taken, self.signals = self.signals, []
        return taken

    def wait(self, seconds): ...


def test_it_stays_until_the_kernel_has_ended_and_passes_signals_on():
    front = Front(None, None, 3)
    started = []
    wanted = Wanted(signal.SIGINT)
    assert launcher.attend(front, "s", wanted, os.getppid(), lambda: started.append("seen")) == 3
    assert started, "it need not be kept from starting with another machine's folders any more"
    assert front.asked[0] == ("signal", signal.SIGINT)
    assert front.asked.count(("lease", launcher.LEASE_SECONDS)) == 3


def test_it_ends_when_its_parent_has():
    assert launcher.attend(Front(), "s", Wanted(), parent=-1) == 0


def test_a_front_that_died_is_started_again(monkeypatch):
    monkeypatch.setattr(launcher, "open_front", lambda: Front(None, 0))
    assert launcher.attend(Front(Unreachable("gone")), "s", Wanted(), os.getppid()) == 0


def test_a_kernel_that_still_holds_the_ports_is_ended():
    kernels = [SimpleNamespace(session=str(port), connection={"shell_port": port}) for port in (1, 2)]
    front = Front(*kernels)
    launcher.make_room(front, {"shell_port": 2})
    assert front.asked == [("close", "2")]


def test_what_is_for_ipykernel_is_passed_on():
    arguments, rest = launcher.parse(["--debug", "-f", "x.json", "--IPKernelApp.quiet=True"])
    assert (arguments.connection_file, rest) == ("x.json", ["--debug", "--IPKernelApp.quiet=True"])


def test_a_connection_file_that_is_none(tmp_path):
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(Invalid, match=r"x\.json"):
        launcher.read_connection(tmp_path / "x.json")


@pytest.mark.parametrize("code", [0, 3, -signal.SIGTERM, -signal.SIGKILL])
def test_it_exits_as_its_kernel_did(code):
    program = f"from sojourn.jupyter.launcher import leave; leave({int(code)})"
    assert subprocess.run([sys.executable, "-c", program]).returncode == code
