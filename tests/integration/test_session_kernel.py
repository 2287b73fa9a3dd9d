"""An IPython kernel started through `magics.py`, as every sandbox starts one: the magic, and nothing else changed."""

import json
import queue
import socket
import sys
import threading
from pathlib import Path

import pytest
from jupyter_client.manager import KernelManager

from sojourn.jupyter import magics

pytestmark = pytest.mark.integration


def start(argv: list[str], environment: dict[str, str]) -> tuple:
    from jupyter_client.kernelspec import KernelSpec

    manager = KernelManager()
    manager._kernel_spec = KernelSpec(argv=argv, display_name="test", language="python")
    manager.start_kernel(env=environment)
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    return manager, client


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """A kernel whose environment has no Sojourn, and a rider that answers `where`."""
    folder = tmp_path_factory.mktemp("session")
    script = folder / "session.py"
    script.write_text(Path(magics.__file__).read_text())
    rider = socket.socket(socket.AF_UNIX)
    rider.bind(str(folder / "verbs"))
    rider.listen()
    threading.Thread(target=answer, args=(rider,), daemon=True).start()
    # A module of that name that can't be imported stands for an environment without Sojourn.
    (folder / "none").mkdir()
    (folder / "none" / "sojourn.py").write_text("raise ModuleNotFoundError(name='sojourn')")
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(folder),
        "PYTHONPATH": str(folder / "none"),
        "SOJOURN_SOCKET": str(folder / "verbs"),
    }
    manager, client = start([sys.executable, str(script), "-f", "{connection_file}"], environment)
    yield client
    client.stop_channels()
    manager.shutdown_kernel(now=True)
    rider.close()


def answer(rider: socket.socket) -> None:
    while True:
        try:
            line, _ = rider.accept()
        except OSError:
            return
        with line, line.makefile("rwb") as file:
            file.readline()
            body = {"session": {"name": "essay", "node": "there", "status": "running"}}
            file.write(json.dumps({"ok": True, "body": body}).encode() + b"\n")


def run(client, code: str) -> tuple[dict, str]:
    """The reply, and all text the cell gave."""
    heard: list[str] = []

    def hear(message: dict) -> None:
        content = message["content"]
        heard.append(content.get("text") or content.get("data", {}).get("text/plain", "") or "")

    reply = client.execute_interactive(code, timeout=30, output_hook=hear)
    return reply["content"], "".join(heard)


def test_the_magic_is_there(kernel):
    reply, text = run(kernel, "%sojourn where")
    assert (reply["status"], text) == ("ok", "essay is on there (running).")


def test_the_first_cell_is_cell_one_and_nothing_was_printed(kernel):
    reply, text = run(kernel, "%history -g -l 5")
    assert reply["execution_count"] == 2  # this is the second
    assert "sojourn" not in text.replace("%sojourn where", "")
    with pytest.raises(queue.Empty):
        kernel.get_iopub_msg(timeout=0.2)


def test_the_namespace_is_a_plain_kernels(kernel, tmp_path):
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    manager, plain = start(argv, {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)})
    try:
        code = (
            "print(sorted(k for k in globals() if not k.strip('_').startswith(('i', 'o')) and not k.startswith('_')))"
        )
        assert run(kernel, code)[1] == run(plain, code)[1]
        code = "%who"
        assert run(kernel, code)[1] == run(plain, code)[1]
        code = "import sys; print([p for p in sys.path if 'site-packages' in p], __name__, sys.path[0] == '')"
        assert run(kernel, code)[1] == run(plain, code)[1]
    finally:
        plain.stop_channels()
        manager.shutdown_kernel(now=True)


def test_loading_the_extension_is_right_though_sojourn_is_not_installed(kernel):
    reply, text = run(kernel, "%load_ext sojourn")
    assert reply["status"] == "ok"
    assert "already loaded" in text


def test_a_refused_verb_is_one_line_and_fails_the_cell(kernel):
    reply, _ = run(kernel, "%sojourn fly")
    assert (reply["status"], reply["ename"]) == ("error", "UsageError")


def test_processes_can_be_spawned(kernel):
    """multiprocessing's spawn looks at __main__, which must not be our file."""
    code = (
        "import multiprocessing, operator\n"
        "with multiprocessing.get_context('spawn').Pool(1) as pool: print(pool.map(operator.neg, [1, 2]))"
    )
    assert run(kernel, code)[1].strip() == "[-1, -2]"
