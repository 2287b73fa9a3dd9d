"""The provisioner against a front that is a list of what it was asked."""

import json
import signal
import threading
import time
from types import SimpleNamespace

import pytest
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager
from jupyter_client.provisioning import LocalProvisioner

from sojourn.errors import SandboxFailed, SessionLost, Unknown, Unreachable
from sojourn.jupyter import provisioner as module
from sojourn.jupyter.provisioner import SojournProvisioner, to_json
from sojourn.model.resources import Needs


class Front:
    """Hosts kernels that do nothing. `fails` maps a call's name to the errors it raises first."""

    def __init__(self) -> None:
        self.asked: list[tuple] = []
        self.fails: dict[str, list[Exception]] = {}
        self.hosted: dict[str, SimpleNamespace] = {}
        self.status = "running"

    def _note(self, name: str, *arguments) -> None:
        self.asked.append((name, *arguments))
        if self.fails.get(name):
            raise self.fails[name].pop(0)

    def open(self, spec, connection, language, lease_seconds):
        self._note("open", spec, connection)
        session = f"session-{len(self.asked)}"
        self.hosted[session] = SimpleNamespace(running=True, exit_code=None, reason="", status=self.status)
        return session

    def start(self, session, program, connection):
        self._note("start", session)
        self.hosted[session] = SimpleNamespace(running=True, exit_code=None, reason="", status=self.status)

    def kernel(self, session):
        self._note("kernel", session)
        if session not in self.hosted:
            raise Unknown("no such kernel")
        return self.hosted[session]

    def signal(self, session, signum):
        self._note("signal", session, signum)
        if signum == signal.SIGKILL:
            self.hosted[session] = SimpleNamespace(running=False, exit_code=-9, reason="", status=self.status)

    def lease(self, session, seconds):
        self._note("lease", session)

    def close(self, session):
        self._note("close", session)
        self.hosted.pop(session, None)

    def calls(self, name: str) -> list[tuple]:
        return [call[1:] for call in self.asked if call[0] == name]


@pytest.fixture
def front(monkeypatch):
    front = Front()
    monkeypatch.setattr(module.embedded, "ensure", lambda say=None: None)
    monkeypatch.setattr(module.embedded, "mend", lambda: None)
    monkeypatch.setattr(module, "ensure", lambda controller: front)
    return front


@pytest.fixture(autouse=True)
def nothing_is_fresh(monkeypatch):
    monkeypatch.setattr(module, "FRESH_SECONDS", 0)


@pytest.fixture
def manager(tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    manager = KernelManager()
    stanza = {"provisioner_name": "sojourn-provisioner", "config": {"carried": ["{cwd}"], "lease_seconds": 9}}
    manager._kernel_spec = KernelSpec(
        argv=["sh", "--args", "{connection_file}", "{resource_dir}/x"],
        language="R",
        resource_dir="/specs/r",
        metadata={"kernel_provisioner": stanza},
    )
    yield manager
    if manager.has_kernel:
        manager.shutdown_kernel(now=True)


async def test_the_session_asked_for(front, manager, tmp_path):
    manager.start_kernel(cwd=str(tmp_path), extra_arguments=["--verbose"], env={"PATH": "/bin", "JUPYTER_TOKEN": "x"})
    spec, connection = front.calls("open")[0]
    assert spec.program.argv == ("sh", "--args", "{connection_file}", "/specs/r/x", "--verbose")
    assert spec.program.env == {"PATH": "/bin"}
    assert spec.program.cwd == str(tmp_path)
    assert [(mount.path, mount.mode) for mount in spec.mounts] == [(str(tmp_path), "carried")]
    assert connection == json.loads(json.dumps(to_json(manager.get_connection_info())))
    assert connection["key"] == json.loads((tmp_path / manager.connection_file).read_text())["key"]


def test_a_sandbox_that_can_not_be_made_is_an_error_of_the_start(front, manager):
    front.status = "failed"
    with pytest.raises(SandboxFailed, match="could not be started"):
        manager.start_kernel()
    assert front.hosted == {}
    assert not manager.is_alive()


def test_a_restart_is_in_the_same_session_and_the_end_frees_it(front, manager):
    manager.start_kernel()
    session, ports = manager.provisioner.session, manager.ports
    manager.restart_kernel(now=True)
    assert front.calls("start") == [(session,)]
    assert front.calls("close") == []
    assert manager.ports == ports
    manager.shutdown_kernel(now=True)
    assert front.calls("close") == [(session,)]
    assert not manager.has_kernel


@pytest.mark.parametrize("gone", [Unknown("gone"), SessionLost("gone")])
def test_a_kernel_whose_session_is_gone_restarts_in_a_new_one(front, manager, gone):
    manager.start_kernel()
    session = manager.provisioner.session
    front.fails["start"] = [gone]
    manager.restart_kernel(now=True)
    assert manager.provisioner.session not in ("", session)
    assert manager.is_alive()


def test_a_front_that_died_is_asked_again(front, manager):
    manager.start_kernel()
    front.fails["kernel"] = [Unreachable("no front")]
    assert manager.is_alive()
    front.fails["kernel"] = [Unreachable("no front"), Unreachable("nor now")]
    assert manager.is_alive()  # what can't be known is not death


def test_exit_codes_and_last_words(front, manager, caplog):
    manager.start_kernel()
    session = manager.provisioner.session
    front.hosted[session] = SimpleNamespace(running=False, exit_code=3, reason="Address already in use")
    assert not manager.is_alive()
    assert not manager.is_alive()
    assert caplog.text.count("Address already in use") == 1
    del front.hosted[session]
    assert not manager.is_alive()


def test_signals(front, manager):
    manager.start_kernel()
    session = manager.provisioner.session
    manager.interrupt_kernel()
    manager.signal_kernel(signal.SIGUSR1)
    assert front.calls("signal") == [(session, signal.SIGINT), (session, signal.SIGUSR1)]
    front.fails["signal"] = [Unknown("ended meanwhile")]
    manager.interrupt_kernel()


def test_a_start_that_is_refused_leaves_nothing(front, manager):
    front.fails["open"] = [SessionLost("no")]
    with pytest.raises(SessionLost):
        manager.start_kernel()
    assert not manager.has_kernel
    assert front.hosted == {}


def test_a_program_that_is_not_there_is_said_at_once(front, manager):
    manager._kernel_spec.argv[0] = "no-such-kernel"
    with pytest.raises(FileNotFoundError, match="no-such-kernel"):
        manager.start_kernel()
    assert front.asked == []


def test_the_lease_is_renewed_until_the_end(front, manager):
    manager._kernel_spec.metadata["kernel_provisioner"]["config"]["lease_seconds"] = 0.04
    manager.start_kernel()
    session = manager.provisioner.session
    while len(front.calls("lease")) < 3:
        manager.provisioner._over.wait(0.01)
    assert set(front.calls("lease")) == {(session,)}
    manager.shutdown_kernel(now=True)
    assert manager.provisioner._over.is_set()


def test_one_kernel_at_a_time_has_dead_parts_started_again(front, manager, monkeypatch):
    monkeypatch.delenv("SOJOURN_CONTROLLER", raising=False)
    monkeypatch.setattr(module, "MEND_SECONDS", 0.01)
    monkeypatch.setattr(module, "STUCK_SECONDS", 0.02)
    menders = []

    def mend():
        menders.append(threading.current_thread())
        raise Unreachable("It does not start.")

    monkeypatch.setattr(module.embedded, "mend", mend)
    other = KernelManager(connection_file=f"{manager.connection_file}.other")
    other._kernel_spec = manager._kernel_spec
    manager.start_kernel()
    other.start_kernel()
    until(lambda: len(menders) > 3)
    assert len(set(menders)) == 1
    first = menders[0]
    manager.shutdown_kernel(now=True)
    until(lambda: menders[-1] is not first)
    other.shutdown_kernel(now=True)
    until(lambda: not menders[-1].is_alive())


def test_nothing_is_mended_that_is_somebody_elses(front, manager, monkeypatch):
    monkeypatch.setattr(module, "configured_controller", lambda: SimpleNamespace(url="http://x", token=""))
    monkeypatch.setattr(module, "MEND_SECONDS", 0.01)
    monkeypatch.setattr(module.embedded, "mend", lambda: pytest.fail("mended"))
    before = set(threading.enumerate())
    manager.start_kernel()
    assert len(set(threading.enumerate()) - before) <= 1  # the lease's


def until(look, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.005)


async def test_a_kernel_that_is_left_behind_goes_on(front, manager):
    manager.start_kernel()
    session = manager.provisioner.session
    await manager.provisioner.leave_behind()
    assert session in front.hosted
    assert not manager.has_kernel
    manager.shutdown_kernel(now=True)
    assert front.calls("close") == []


def test_needs_are_looked_up_among_the_nodes(front, manager, monkeypatch):
    manager._kernel_spec.metadata["kernel_provisioner"]["config"]["needs"] = "mem>=2G"
    monkeypatch.setattr(module.embedded, "ensure", lambda say=None: SimpleNamespace(url="http://x", token=""))
    monkeypatch.setattr(module.Client, "nodes", lambda self: [])
    manager.start_kernel()
    assert front.calls("open")[0][0].needs == Needs(memory_bytes=2 * 2**30)


def test_inside_a_session_a_kernel_is_an_ordinary_process(monkeypatch):
    monkeypatch.setenv("SOJOURN_SOCKET", "/run/sojourn/verbs")
    made = SojournProvisioner(kernel_id="1", kernel_spec=KernelSpec(), parent=None, needs="gpu")
    assert type(made) is LocalProvisioner


async def test_it_can_be_found_again(front, manager):
    manager.start_kernel()
    info = await manager.provisioner.get_provisioner_info()
    other = SojournProvisioner(kernel_id="", kernel_spec=manager.kernel_spec, parent=manager)
    await other.load_provisioner_info(info)
    assert (other.session, other.kernel_id, other.has_process) == (manager.provisioner.session, manager.kernel_id, True)
    assert await other.poll() is None
    assert other.cwd == manager.provisioner.cwd
