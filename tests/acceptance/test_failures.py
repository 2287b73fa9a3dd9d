"""Failure drills: each part is killed at each step of a move, and nothing but what the law allows comes of it.

A move is brought to a step and held there (see `sojourn.testing.parts`), a part is killed, what died is started
again as `sojourn up` does it, and the move is let go. Then the account is drawn up: where the session lives, whether
its memory is right page by page, what the client heard and was told, how many copies ran, what was left behind.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from tests.acceptance.conftest import why_no_live_move

from bench.heap import prepare
from bench.listener import Listener
from sojourn.client import Client
from sojourn.model import MovePhase, SessionView
from sojourn.testing import end_kernel, execute, session_of, start_kernel
from sojourn.testing.parts import Parts, cut, parts, processes_of, until
from sojourn.testing.remains import awake, copies, held_as, remains, vigil

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(120)]

HEAP_GB = 0.3
FENCE_SECONDS = 12.0
"""An agent that is started again has to be back by then."""

Outcome = Literal["stays", "goes on", "rolled back"]


@dataclass
class Drill:
    """A kernel that counts aloud while it is moved from `here` to `there`."""

    parts: Parts
    client: Client
    manager: Any
    kernel: Any
    session: str
    move: str = ""
    criu: int = 0
    counting: Listener | None = None

    def view(self) -> SessionView:
        return self.client.session(self.session)

    def begin_move(self, target: str = "there") -> None:
        self.move = self.client.move(self.session, target, strategy="lazy", wait="accepted").move.id

    def phase(self) -> MovePhase:
        return self.client.move_view(self.move).phase

    def await_phase(self, *phases: MovePhase) -> None:
        until(lambda: self.phase() in phases, f"the phase {phases}, not {self.client.move_view(self.move)}")

    def count(self) -> None:
        self.request = self.kernel.execute("count_aloud()")
        self.counting = Listener(self.kernel, self.request)
        until(lambda: len(self.counting.arrivals) > 50, "the first lines")

    def counts_on(self) -> None:
        """New lines still come."""
        before = len(self.counting.arrivals)
        until(lambda: len(self.counting.arrivals) > before + 50, "more lines")


# ── the steps: each brings the move there and leaves it held ─────────────────────────────────────────────────────


def preparing(drill: Drill) -> None:
    """The target has been asked to build the sandbox, and has not begun."""
    drill.parts.stop(drill.parts.pid("there"))
    drill.begin_move()
    assert drill.phase() is MovePhase.PREPARING


def dumping(drill: Drill) -> None:
    """The session is frozen and the source's CRIU about to look at it."""
    gate = drill.parts.gates["dump"]
    gate.shut()
    drill.begin_move()
    drill.criu = until(gate.visitor, "CRIU at the source")
    rider = min(processes_of("here", drill.session))
    drill.parts.stop(rider)  # so it doesn't hang up, and CRIU, which is ready then, waits for the freeze
    gate.open()
    until(Path(f"/proc/{drill.criu}/cwd/dump.log").exists, "CRIU to begin")
    time.sleep(0.3)
    drill.parts.stop(drill.criu)
    drill.parts.resume(rider)
    until(lambda: not awake(drill.session), "the freeze")


def restoring(drill: Drill) -> None:
    """The source has let go of the session, and nothing runs at the target yet."""
    gate = drill.parts.gates["restore"]
    gate.shut()
    drill.begin_move()
    drill.criu = until(gate.visitor, "CRIU at the target")
    until(lambda: held_as("here", drill.session) == ["departed"], "the sending")


def filling(drill: Drill) -> None:
    """It runs at the target with a part of its pages; the rest doesn't come."""
    restoring(drill)
    (source,) = drill.parts.pagers("source")
    with drill.parts.slowed(source):  # the thaw itself needs a few pages
        drill.parts.gates["restore"].open()
        drill.await_phase(MovePhase.FILLING)


def committing(drill: Drill) -> None:
    """Every page is in; the source has not heard of it."""
    filling(drill)
    drill.parts.stop(drill.parts.pid("here"))
    for source in drill.parts.pagers("source"):
        drill.parts.resume(source)
    drill.await_phase(MovePhase.COMMITTING)


# ── the failures ─────────────────────────────────────────────────────────────────────────────────────────────────


def part(name: str) -> Callable[[Drill], None]:
    def kill(drill: Drill) -> None:
        drill.parts.kill(name)

    return kill


def criu(drill: Drill) -> None:
    os.killpg(drill.criu, signal.SIGKILL)


def pager(end: Literal["source", "target"]) -> Callable[[Drill], None]:
    def kill(drill: Drill) -> None:
        (pid,) = drill.parts.pagers(end)
        os.kill(pid, signal.SIGKILL)

    return kill


def tunnel(drill: Drill) -> None:
    """The connections between front and rider."""
    ports = {drill.parts.data_port(node) for node in ("here", "there")}
    assert cut(drill.parts.pid("front"), ports)


def network(drill: Drill) -> None:
    """The connections between the agents, the pages' too."""
    port = {drill.parts.data_port("there")}
    assert sum(cut(pid, port) for pid in (drill.parts.pid("here"), *drill.parts.pagers("source")))


def target_node(drill: Drill) -> None:
    """Everything there at once: agent, pager, what arrived of the session, mounts."""
    drill.parts.crash("there")


@dataclass(frozen=True)
class Row:
    step: Callable[[Drill], None]
    failure: Callable[[Drill], None]
    outcome: Outcome
    revive: tuple[str, ...] = ()
    hears_all: bool = True
    """What is printed while no front runs is lost, and the cell's reply says so."""


ROWS = {
    "target's agent, preparing": Row(preparing, part("there"), "stays", ("there",)),
    "source's agent, preparing": Row(preparing, part("here"), "stays", ("here",)),
    "controller, preparing": Row(preparing, part("controller"), "goes on", ("controller",)),
    "front, preparing": Row(preparing, part("front"), "goes on", ("front",), hears_all=False),
    "source's CRIU, dumping": Row(dumping, criu, "stays"),
    "source's agent, dumping": Row(dumping, part("here"), "stays", ("here",)),
    "target's agent, dumping": Row(dumping, part("there"), "stays", ("there",)),
    "controller, dumping": Row(dumping, part("controller"), "goes on", ("controller",)),
    "front, dumping": Row(dumping, part("front"), "goes on", ("front",), hears_all=False),
    "network, dumping": Row(dumping, network, "stays"),
    "target's pager, dumping": Row(dumping, pager("target"), "stays"),
    "target's CRIU, restoring": Row(restoring, criu, "stays"),
    "target's agent, restoring": Row(restoring, part("there"), "stays", ("there",)),
    "target's pager, restoring": Row(restoring, pager("target"), "stays"),
    "source's agent, restoring": Row(restoring, part("here"), "goes on", ("here",)),
    "controller, restoring": Row(restoring, part("controller"), "goes on", ("controller",)),
    "network, restoring": Row(restoring, network, "stays"),
    "target's agent, filling": Row(filling, part("there"), "goes on", ("there",)),
    "source's agent, filling": Row(filling, part("here"), "goes on", ("here",)),
    "controller, filling": Row(filling, part("controller"), "goes on", ("controller",)),
    "front, filling": Row(filling, part("front"), "goes on", ("front",), hears_all=False),
    "tunnel, filling": Row(filling, tunnel, "goes on"),
    "target's pager, filling": Row(filling, pager("target"), "rolled back"),
    "page source, filling": Row(filling, pager("source"), "rolled back"),
    "network, filling": Row(filling, network, "rolled back"),
    "target node, filling": Row(filling, target_node, "rolled back"),
    "target's agent, committing": Row(committing, part("there"), "goes on", ("there",)),
    "source's agent, committing": Row(committing, part("here"), "goes on", ("here",)),
    "controller, committing": Row(committing, part("controller"), "goes on", ("controller",)),
}


@pytest.fixture(scope="module")
def running() -> Iterator[Parts]:
    if reason := why_no_live_move():
        pytest.skip(reason)
    with parts(fence_s=FENCE_SECONDS) as made:
        yield made


@pytest.fixture
def drill(running: Parts) -> Iterator[Drill]:
    """A kernel `here` with a patterned heap; at the end nothing of it is left."""
    for name in ("controller", "here", "there"):
        if not running.alive(name):
            running.start(name)
    manager, kernel = start_kernel(needs="here")
    session = session_of(manager)
    running.log()
    with Client(running.controller.url, running.controller.token) as client:
        execute(kernel, prepare(HEAP_GB))
        try:
            yield Drill(running, client, manager, kernel, session)
        finally:
            running.go_on()
            end_kernel(manager, kernel)
            print(running.log())  # shown when the drill has failed


@pytest.mark.parametrize("name", ROWS)
def test_a_part_that_dies(drill: Drill, name: str) -> None:
    row = ROWS[name]
    drill.count()
    with vigil(drill.session) as doubles:
        row.step(drill)
        row.failure(drill)
        for part_name in row.revive:
            drill.parts.start(part_name)
        drill.parts.go_on()
        drill.parts.await_nodes()
        drill.await_phase(MovePhase.DONE, MovePhase.FAILED)
        until(lambda: drill.view().status == "running", "the session to run")
    assert drill.view().node == ("there" if row.outcome == "goes on" else "here"), drill.view().reason
    assert doubles == []
    the_client_heard(drill, row.outcome == "rolled back", row.hears_all)
    assert execute(drill.kernel, "verify()") == "0"
    assert len(copies(drill.session)) == 1
    if not drill.parts.alive("there"):
        drill.parts.start("there")
    _moves_again(drill)
    end_kernel(drill.manager, drill.kernel)
    until(lambda: not remains(drill.parts, drill.session), "nothing to be left")


MOMENTS_MS = (1, 10, 20, 35, 50, 70, 100)


def _move_with_criu_killed(drill: Drill, end: Literal["dump", "restore"], milliseconds: int) -> None:
    """The move ends; what became of the session is for the caller to see."""
    gate = drill.parts.gates[end]
    gate.shut()
    drill.begin_move("here" if drill.view().node == "there" else "there")
    pid = until(gate.visitor, "CRIU")
    gate.open()
    time.sleep(milliseconds / 1000)
    with contextlib.suppress(ProcessLookupError):  # it was quicker
        os.killpg(pid, signal.SIGKILL)
    drill.await_phase(MovePhase.DONE, MovePhase.FAILED)


def test_criu_killed_at_any_moment_of_a_restore_costs_nothing(drill: Drill) -> None:
    drill.count()
    with vigil(drill.session) as doubles:
        for milliseconds in MOMENTS_MS:
            _move_with_criu_killed(drill, "restore", milliseconds)
            drill.counts_on()
    assert doubles == []
    the_client_heard(drill, was_reset=False)
    assert execute(drill.kernel, "verify()") == "0"


def test_criu_killed_at_any_moment_of_a_dump_costs_nothing_in_silence(drill: Drill) -> None:
    """While CRIU brings code of its own into a task, or takes it out, that task dies with it: then the session is lost.
    While it has the sockets in repair, what is printed is lost: then the streams are reset. The client is told of both.
    """
    for milliseconds in MOMENTS_MS:
        drill.count()
        epoch = drill.view().epoch
        _move_with_criu_killed(drill, "dump", milliseconds)
        time.sleep(0.3)
        if drill.view().status == "lost" or not drill.manager.is_alive():
            reply = drill.kernel.get_shell_msg(timeout=20)["content"]
            assert reply["status"] == "error", reply
            return
        the_client_heard(drill, was_reset=drill.view().epoch > epoch)
        assert execute(drill.kernel, "verify()") == "0"


def the_client_heard(drill: Drill, was_reset: bool, all_of_it: bool = True) -> None:
    """Each line once and in order, until the cell is interrupted, or answered because the streams were reset."""
    if was_reset:
        reply = drill.kernel.get_shell_msg(timeout=20)["content"]
        assert reply["status"] == "error"
        assert "earlier moment" in reply["evalue"]
        drill.manager.interrupt_kernel()
        until(lambda: _is_heard(drill.kernel), "the cell, which the kernel still had, to end")
    else:
        drill.counts_on()
        drill.manager.interrupt_kernel()
        reply = drill.kernel.get_shell_msg(timeout=20)["content"]
        assert reply["ename"] == "KeyboardInterrupt", reply
    assert drill.counting.ended.wait(20)
    faults = drill.counting.faults()
    assert faults == {"lost": 0 if all_of_it else faults["lost"], "duplicated": 0, "reordered": 0}


def _is_heard(kernel: Any) -> bool:
    """What comes too soon after a cell that fails is aborted with it."""
    reply = kernel.execute_interactive("pass", timeout=20)
    return bool(reply["content"]["status"] == "ok")


def _moves_again(drill: Drill) -> None:
    target = "here" if drill.view().node == "there" else "there"
    drill.client.move(drill.session, target, strategy="lazy", wait="filled")
    assert execute(drill.kernel, "verify()") == "0"
    assert drill.view().node == target
