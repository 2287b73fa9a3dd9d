"""The drills of `test_failures`, with a cable pulled instead of a part killed: nobody is told anything, and whoever
waits for an answer has to find out by himself that none will come.

Source, target and controller are machines of their own; the front and its client are at the desk. A move is brought to
a step and held there, a cable is pulled and the move let go. The cable is put back after a moment, before anybody gives
up, or when everybody has.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import product

import pytest
from tests.acceptance.cables import CabledParts, cabled, why_no_cables
from tests.acceptance.test_failures import (
    Drill,
    Outcome,
    committing,
    dumping,
    filling,
    preparing,
    restoring,
    the_client_heard,
)

from bench.heap import prepare
from sojourn.client import Client
from sojourn.errors import Unreachable
from sojourn.model import MovePhase
from sojourn.testing import end_kernel, execute, session_of, start_kernel
from sojourn.testing.parts import until
from sojourn.testing.remains import copies, remains, vigil
from sojourn.transport.keepalive import SILENT_SECONDS

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(180)]

PLACES = {"controller": "tower", "here": "here", "there": "there"}
HEAP_GB = 0.1
FENCE_SECONDS = 10.0
MOMENT, FOR_GOOD = 3.0, 2 * SILENT_SECONDS + FENCE_SECONDS


STEPS: dict[Callable[[Drill], None], dict[str, Outcome]] = {
    preparing: {"here": "goes on", "there": "stays", "tower": "stays"},
    dumping: {"here": "stays", "there": "rolled back", "tower": "goes on"},
    restoring: {"here": "stays", "there": "rolled back", "tower": "goes on"},
    filling: {"here": "rolled back", "there": "rolled back", "tower": "goes on"},
    committing: {"here": "goes on", "there": "goes on", "tower": "goes on"},
}
"""What comes of it, by whose cable is out for good. A moment costs nothing: the move goes on."""
REACHED = [step for step in STEPS if step is not committing]
"""To the last one no drill gets where connections are sealed: the agent that it stops carries the pages, too."""
ALL = list(product(REACHED, ("here", "there", "tower"), (MOMENT, FOR_GOOD)))
A_FEW = [(dumping, "here", MOMENT), (restoring, "tower", MOMENT), (filling, "there", FOR_GOOD)]
CHOSEN = ALL if os.environ.get("SOJOURN_TEST_CABLES") == "all" else A_FEW
"""All of them take twenty minutes."""


@pytest.fixture(scope="module")
def running() -> Iterator[CabledParts]:
    if reason := why_no_cables():
        pytest.skip(reason)
    with cabled(PLACES, fence_s=FENCE_SECONDS) as made:
        yield made


@pytest.fixture
def drill(running: CabledParts) -> Iterator[Drill]:
    manager, kernel = start_kernel(needs="here")
    running.log()
    with Client(running.controller.url, running.controller.token) as client:
        execute(kernel, prepare(HEAP_GB))
        try:
            yield Drill(running, client, manager, kernel, session_of(manager))
        finally:
            running.network.put_back()
            running.go_on()
            end_kernel(manager, kernel)
            print(running.log())  # shown when the drill has failed


@pytest.mark.parametrize(("step", "cable", "seconds"), CHOSEN)
def test_a_cable_that_is_pulled(drill: Drill, step: Callable[[Drill], None], cable: str, seconds: float) -> None:
    network, parts = drill.parts.network, drill.parts
    outcome = STEPS[step][cable] if seconds == FOR_GOOD else "goes on"
    drill.count()
    with vigil(drill.session) as doubles:
        step(drill)
        network.pull(cable)
        parts.go_on()
        time.sleep(MOMENT)
        deadline = time.monotonic() + seconds - MOMENT
        while time.monotonic() < deadline and not is_settled(drill):
            time.sleep(0.1)
        network.put_back()
        until(lambda: can_reach(drill.client), "the way to the controller")
        parts.await_nodes()
        drill.await_phase(MovePhase.DONE, MovePhase.FAILED)
        until(lambda: drill.view().status == "running", "the session to run")
    assert drill.view().node == ("there" if outcome == "goes on" else "here"), drill.view().reason
    assert doubles == []
    the_client_heard(drill, outcome == "rolled back")
    assert execute(drill.kernel, "verify()") == "0"
    assert len(copies(drill.session)) == 1
    end_kernel(drill.manager, drill.kernel)
    until(lambda: not remains(parts, drill.session), "nothing to be left")


def is_settled(drill: Drill) -> bool:
    """As far as can be seen from the desk."""
    with suppress(Unreachable):
        return drill.phase() in (MovePhase.DONE, MovePhase.FAILED) and drill.view().status == "running"
    return False


def can_reach(client: Client) -> bool:
    with suppress(Unreachable):
        return bool(client.version())
    return False
