"""Controller, front and nodes below a private folder, removed at the end; kernels under either provisioner."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager

from sojourn.client import Client
from sojourn.sandbox.mounts import remove_tree

OURS = "sojourn-provisioner"
LOCAL = "local-provisioner"
READY_SECONDS = 60


@contextmanager
def stack(nodes: tuple[str, ...] = ("here", "there")) -> Iterator[Client]:
    """Nodes on this machine, and a client of their controller. `SOJOURN_HOME` points to it meanwhile."""
    from sojourn import embedded

    folder = tempfile.mkdtemp(prefix="sojourn-test-")
    before = os.environ.get("SOJOURN_HOME")
    os.environ["SOJOURN_HOME"] = folder
    try:
        controller = embedded.start(nodes=nodes)
        with Client(controller.url, controller.token) as client:
            yield client
    finally:
        embedded.stop()
        os.environ.pop("SOJOURN_HOME")
        if before is not None:
            os.environ["SOJOURN_HOME"] = before
        remove_tree(Path(folder))  # raises rather than reach through a mount that was left behind


def start_kernel(provisioner: str = OURS, **config: Any) -> tuple[KernelManager, Any]:
    """A kernel of this environment under the given provisioner, ready, and a blocking client attached to it."""
    manager = KernelManager()
    manager._kernel_spec = KernelSpec(
        argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        display_name="test",
        language="python",
        metadata={"kernel_provisioner": {"provisioner_name": provisioner, "config": config}},
    )
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=READY_SECONDS)
    return manager, client


def end_kernel(manager: KernelManager, client: Any) -> None:
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def session_of(manager: KernelManager) -> str:
    """The id of the session behind a kernel of ours."""
    session: str = manager.provisioner.session
    return session


def execute(client: Any, code: str, timeout: float = 60) -> str:
    """What a cell printed (stdout, and the text of its result); raises RuntimeError with the traceback if it failed."""
    heard: list[str] = []

    def hear(message: dict[str, Any]) -> None:
        content = message["content"]
        if message["msg_type"] == "stream" and content["name"] == "stdout":
            heard.append(content["text"])
        elif message["msg_type"] == "execute_result":
            heard.append(content["data"]["text/plain"])

    reply = client.execute_interactive(code, timeout=timeout, output_hook=hear)
    if reply["content"]["status"] != "ok":
        raise RuntimeError("\n".join(reply["content"].get("traceback", [str(reply["content"])])))
    return "".join(heard).strip()
