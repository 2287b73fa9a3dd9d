"""Kernels under our provisioner, with plain processes for sandboxes: everything but the moves."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager, KernelManager

from sojourn import embedded
from sojourn.client import Client
from sojourn.testing import OURS, execute

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

IPYTHON = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
PATIENCE = 20


@pytest.fixture(scope="module")
def controller(tmp_path_factory):
    """One node of plain processes; the client of its controller. No session is left at the end."""
    before = os.environ.get("SOJOURN_HOME")
    os.environ["SOJOURN_HOME"] = str(tmp_path_factory.mktemp("home"))
    found = embedded.start(("here",), str, sandbox="process")
    try:
        with Client(found.url, found.token) as client:
            yield client
            until(lambda: alive(client) == [])  # the will of a launcher that was killed takes a moment
    finally:
        embedded.stop()
        os.environ.pop("SOJOURN_HOME")
        if before:
            os.environ["SOJOURN_HOME"] = before


def alive(client: Client) -> list[str]:
    return [view.id for view in client.sessions() if view.status not in ("stopped", "failed", "lost")]


def manager_of(
    provisioner: str = OURS, argv: list[str] = IPYTHON, kind: type = KernelManager, **config
) -> KernelManager:
    manager = kind()
    metadata = {"kernel_provisioner": {"provisioner_name": provisioner, "config": config}}
    metadata["supported_encryption"] = "curve"
    manager._kernel_spec = KernelSpec(argv=argv, display_name="test", language="python", metadata=metadata)
    return manager


def client_of(manager: KernelManager):
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    return client


@pytest.fixture
def started(controller):
    """Start kernels; they are shut down at the end."""
    begun: list[tuple] = []

    def start(manager: KernelManager | None = None, **options):
        manager = manager or manager_of()
        manager.start_kernel(**options)
        begun.append((manager, client_of(manager)))
        return begun[-1]

    yield start
    for manager, client in begun:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def reply_to(client, message: str) -> dict:
    """The content of the reply to a request; replies to what `wait_for_ready` asked may come before it."""
    while True:
        reply = client.get_shell_msg(timeout=PATIENCE)
        if reply["parent_header"]["msg_id"] == message:
            return reply["content"]


def until(holds, seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.05)


# ── a kernel's life ──


def test_a_kernel_runs_where_and_as_the_client_said(started, controller, tmp_path):
    environment = os.environ | {
        "JUPYTERHUB_API_TOKEN": "secret",
        "GREETING": "hello",
        "JPY_SESSION_NAME": "my essay.ipynb",
    }
    manager, client = started(cwd=str(tmp_path), env=environment)
    code = "import os; print(os.getcwd(), os.environ['GREETING'], os.getuid(), os.environ.get('JUPYTERHUB_API_TOKEN'))"
    assert execute(client, code) == f"{tmp_path} hello {os.getuid()} None"
    names = [view.name for view in controller.sessions() if view.id == manager.provisioner.session]
    assert names[0].startswith("my-essay-")
    assert manager.resolve_path("x.py") is None
    (tmp_path / "x.py").touch()
    assert manager.resolve_path("x.py") == str(tmp_path / "x.py")


def test_the_magic_says_where(started):
    _, client = started()
    assert "is on here (running)" in execute(client, "%sojourn where")
    assert "here" in execute(client, "%sojourn nodes")


def test_an_interrupt_reaches_the_kernel_and_what_it_started(started):
    manager, client = started()
    child = "import subprocess; child = subprocess.Popen(['sleep', '100']); print(child.pid)"
    pid = int(execute(client, child))
    message = client.execute("import time; time.sleep(100)")
    until(lambda: client.get_iopub_msg(timeout=10)["msg_type"] == "execute_input")
    manager.interrupt_kernel()
    assert reply_to(client, message)["ename"] == "KeyboardInterrupt"
    execute(client, "child.wait()")
    assert not psutil.pid_exists(pid)


def test_a_restart_keeps_session_ports_and_key(started, controller):
    manager, client = started()
    pid, session, info = (
        execute(client, "import os; os.getpid()"),
        manager.provisioner.session,
        manager.get_connection_info(),
    )
    execute(client, "x = 1")
    manager.restart_kernel()
    client.wait_for_ready(timeout=60)
    assert execute(client, "import os; os.getpid()") != pid
    assert execute(client, "'x' in globals()") == "False"
    assert manager.provisioner.session == session
    assert manager.get_connection_info() == info
    assert session in alive(controller)


def test_a_restart_may_change_the_environment(started):
    """As Jupyter Server does when a notebook is renamed."""
    manager, client = started(env=dict(os.environ))
    manager.update_env(env={"JPY_SESSION_NAME": "renamed.ipynb"})
    manager.restart_kernel()
    client.wait_for_ready(timeout=60)
    assert execute(client, "import os; print(os.environ['JPY_SESSION_NAME'])") == "renamed.ipynb"
    assert "is on here" in execute(client, "%sojourn where")


def test_a_restart_may_change_the_ports(started):
    manager = manager_of()
    manager.cache_ports = False  # else jupyter_client does not take them for random ones
    started(manager)
    before = manager.ports
    manager.restart_kernel(now=True, newports=True)
    assert set(manager.ports).isdisjoint(before)
    again = client_of(manager)
    assert execute(again, "1 + 1") == "2"
    again.stop_channels()


def test_a_kernel_that_died_is_seen_and_can_be_restarted(started):
    manager, client = started()
    client.execute("import os; os._exit(7)")
    until(lambda: not manager.is_alive())
    assert asyncio.run(manager.provisioner.poll()) == 7
    manager.restart_kernel(now=True)
    client.wait_for_ready(timeout=60)
    assert execute(client, "1 + 1") == "2"


def test_a_shutdown_frees_everything(controller):
    manager = manager_of()
    manager.start_kernel()
    client = client_of(manager)
    pid, session = int(execute(client, "import os; os.getpid()")), manager.provisioner.session
    client.stop_channels()
    manager.shutdown_kernel()
    assert not manager.has_kernel
    until(lambda: session not in alive(controller) and not psutil.pid_exists(pid))


def test_a_session_that_was_stopped_elsewhere_is_a_dead_kernel_that_restarts_in_a_new_one(started, controller):
    manager, client = started()
    session = manager.provisioner.session
    controller.stop(session)
    until(lambda: not manager.is_alive())
    manager.restart_kernel(now=True)
    client.wait_for_ready(timeout=60)
    assert manager.provisioner.session != session
    assert execute(client, "1 + 1") == "2"


def test_encrypted_channels(started):
    manager = manager_of()
    manager.transport_encryption = "required"
    manager, client = started(manager)
    assert manager.get_connection_info()["curve_publickey"]
    assert execute(client, "1 + 1") == "2"


def test_channels_over_ipc(started, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    manager = manager_of()
    manager.transport = "ipc"
    manager.ip = "kernel"  # below the client's working folder
    _, client = started(manager)
    assert execute(client, "1 + 1") == "2"
    manager.restart_kernel(now=True)
    again = client_of(manager)
    assert execute(again, "2 + 2") == "4"
    again.stop_channels()


async def test_an_async_client(controller):
    manager = manager_of(kind=AsyncKernelManager)
    await manager.start_kernel()
    client = manager.client()
    client.start_channels()
    await client.wait_for_ready(timeout=60)
    assert (await client.execute_interactive("1", timeout=30))["content"]["status"] == "ok"
    await manager.restart_kernel(now=True)
    await client.wait_for_ready(timeout=60)
    client.stop_channels()
    await manager.shutdown_kernel()
    assert not await manager.is_alive()


def test_a_place_that_no_node_offers_is_refused(controller):
    from sojourn.errors import SojournError

    manager = manager_of(needs="mem>=100T")
    with pytest.raises(SojournError):
        manager.start_kernel()
    manager.cleanup_resources()


# ── what dies around it ──

CLIENT = """
import sys, time
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager
manager = KernelManager()
stanza = {"provisioner_name": "sojourn-provisioner", "config": {"lease_seconds": 2}}
argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
manager._kernel_spec = KernelSpec(argv=argv, language="python", metadata={"kernel_provisioner": stanza})
manager.start_kernel()
print(manager.provisioner.session, flush=True)
time.sleep(600)
"""


def test_the_kernel_of_a_client_that_died_ends_with_its_lease(controller):
    client = subprocess.Popen([sys.executable, "-c", CLIENT], stdout=subprocess.PIPE, text=True)
    session = client.stdout.readline().strip()
    assert session in alive(controller)
    time.sleep(3)
    assert session in alive(controller)  # it is renewed while the client lives, though nobody polls
    client.kill()
    client.wait()
    client.stdout.close()
    until(lambda: session not in alive(controller))


def test_a_kernel_survives_its_front(started):
    from sojourn.settings import data_folder

    manager, client = started()
    execute(client, "x = 5")
    front = json.loads((data_folder() / "front" / "front.json").read_text())
    os.kill(front["pid"], signal.SIGKILL)
    assert manager.is_alive()
    assert execute(client, "x + 1") == "6"


# ── the launcher, under the plain local provisioner ──

LAUNCHER = [sys.executable, "-m", "sojourn.jupyter.launcher", "-f", "{connection_file}"]


@pytest.fixture
def launched(started, controller):
    return started(manager_of("local-provisioner", LAUNCHER))


def test_a_launched_kernel_is_a_session(launched, controller):
    _, client = launched
    assert execute(client, "1 + 1") == "2"
    assert len(alive(controller)) == 1
    assert "is on here" in execute(client, "%sojourn where")


def test_a_launched_kernel_is_interrupted(launched):
    manager, client = launched
    message = client.execute("import time; time.sleep(100)")
    until(lambda: client.get_iopub_msg(timeout=10)["msg_type"] == "execute_input")
    manager.interrupt_kernel()
    assert reply_to(client, message)["ename"] == "KeyboardInterrupt"


def test_a_launcher_exits_as_its_kernel_did(launched):
    manager, client = launched
    client.execute("import os; os._exit(7)")
    assert manager.provisioner.process.wait(PATIENCE) == 7


def test_a_launched_kernel_restarts_at_its_ports(launched, controller):
    manager, client = launched
    for now in (False, True):  # asked to, and killed: then the old session still holds the ports
        execute(client, "x = 1")
        manager.restart_kernel(now=now)
        client.wait_for_ready(timeout=60)
        assert execute(client, "'x' in globals()") == "False"
    until(lambda: len(alive(controller)) == 1)


def test_a_launched_kernel_ends_with_the_client_that_started_it(controller, tmp_path):
    program = CLIENT.replace("sojourn-provisioner", "local-provisioner").replace('"lease_seconds": 2', "")
    program = program.replace("ipykernel_launcher", "sojourn.jupyter.launcher").replace(
        "manager.provisioner.session", "1"
    )
    client = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    client.stdout.readline()
    until(lambda: len(alive(controller)) == 1, 60)
    client.kill()
    client.wait()
    client.stdout.close()
    until(lambda: alive(controller) == [])


def test_a_launcher_without_a_connection_file(controller, tmp_path):
    missing = str(Path(tmp_path) / "none.json")
    done = subprocess.run([*LAUNCHER[:-1], missing], capture_output=True, text=True)
    assert done.returncode == 1
    assert missing in done.stderr
    assert "Traceback" not in done.stderr
