"""What dies of the embedded parts is started again, on what it left, and takes its sessions back."""

from __future__ import annotations

import os
import signal
from typing import Any

import psutil
import pytest

import sojourn
from sojourn import embedded
from sojourn.testing import execute, session_of
from sojourn.testing.parts import until

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(120)]


def test_a_kernel_has_the_parts_started_again(sojourner: sojourn.Client, kernel: tuple[Any, Any]) -> None:
    """Where nobody runs `sojourn up`."""
    old = embedded._memory()["parts"]["here"]["pid"]
    psutil.Process(old).kill()
    until(lambda: embedded._memory()["parts"]["here"]["pid"] != old, "another agent")
    until(lambda: all(node.status == "online" for node in sojourner.nodes()), "both nodes")
    assert execute(kernel[1], "1 + 1") == "2"


@pytest.mark.parametrize("dead", [("here",), ("there",), ("controller",), ("controller", "here", "there")])
def test_a_session_outlives_the_parts(
    sojourner: sojourn.Client, kernel: tuple[Any, Any], dead: tuple[str, ...]
) -> None:
    manager, client = kernel
    session = session_of(manager)
    execute(client, "kept = 41")
    for name in dead:
        process = psutil.Process(embedded._memory()["parts"][name]["pid"])
        os.kill(process.pid, signal.SIGKILL)
        process.wait(10)
    assert execute(client, "kept + 1") == "42"  # no byte of a tunnel passes through them
    embedded.mend()
    until(lambda: all(node.status == "online" for node in sojourner.nodes()), "both nodes")
    target = "there" if sojourner.session(session).node == "here" else "here"
    sojourner.move(session, target, wait="filled")
    assert execute(client, "kept + 2") == "43"
