"""A node that is to be removed: what becomes of its sessions, told against a made-up controller."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import pytest
from tests.unit.test_cli import node, session

from sojourn.client import Decided, Policies
from sojourn.errors import Busy, Invalid, Refused
from sojourn.hosts import emptying
from sojourn.hosts.emptying import empty
from sojourn.model import Program, SessionSpec, SessionStatus, SessionView


class MadeUpController:
    """Holds one session at `far`; with `moves` it has moved as soon as the node is drained."""

    def __init__(self, view: SessionView, moves: bool = True, image: str | None = None, alike: bool = False) -> None:
        self.view, self.done = view, []
        self._moves, self._image, self._alike = moves, image, alike

    def nodes(self) -> list[Any]:
        far, here = node("far"), node("here")
        own = far.capabilities.model_copy(update={"root_id": "far's own"})
        return [far if self._alike else far.model_copy(update={"capabilities": own}), here]

    def sessions(self) -> list[SessionView]:
        return [self.view]

    def spec(self, name: str) -> SessionSpec:
        return SessionSpec(program=Program(argv=("x",)), image=self._image)

    def drain(self, name: str, dry_run: bool = False, reason: str = "") -> list[Decided]:
        if not dry_run:
            self.done.append(f"drain {name}: {reason}")
            if self._moves:
                self.view = self.view.model_copy(update={"node": "here"})
        return [Decided(kind="move", session=self.view.id, node=name, target="here", rule="drain", why="it is drained")]

    def undrain(self, name: str) -> None:
        self.done.append(f"undrain {name}")

    def policies(self) -> Policies:
        (failed,) = self.drain("far", dry_run=True)
        error = {"code": "incompatible", "message": "The target lacks avx2.", "hint": ""}
        return Policies(rules={}, decisions=(), done=(failed.model_copy(update={"error": error}),))


class Voice:
    def __init__(self, answer: bool = True) -> None:
        self.heard: list[str] = []
        self._answer = answer

    @contextmanager
    def step(self, title: str):
        self.heard.append(title)
        yield

    def ask(self, what: str, lines) -> None:
        self.heard += [what, *lines]
        if not self._answer:
            raise Refused("Nothing was done.")

    def say(self, sentence: str) -> None: ...


def test_sessions_move_away_when_somebody_has_said_yes():
    made, voice = MadeUpController(session(place="far")), Voice()
    empty(made, "far", "ask", voice)
    question = ["far holds sessions, which are brought away first:", "analysis: move to here"]
    assert voice.heard == [*question, "Bring its sessions away"]
    assert made.done == ["drain far: it is to be removed"]


def test_nothing_is_done_when_the_answer_is_no():
    made = MadeUpController(session(place="far"))
    with pytest.raises(Refused):
        empty(made, "far", "ask", Voice(answer=False))
    assert made.done == []


def test_nobody_is_asked_with_drain_nor_where_no_session_is():
    voice = Voice(answer=False)
    empty(MadeUpController(session(place="far")), "far", "drain", voice)
    empty(MadeUpController(session(place="here")), "far", "ask", voice)
    assert voice.heard == ["Bring its sessions away"]


def test_a_session_that_can_not_leave_is_named_with_the_reason_and_the_node_is_open_again(monkeypatch):
    monkeypatch.setattr(emptying, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(emptying, "LOOK_SECONDS", 0.0)
    made = MadeUpController(session(place="far"), moves=False)
    with pytest.raises(Busy, match="analysis: The target lacks avx2"):
        empty(made, "far", "drain", Voice())
    assert made.done[-1] == "undrain far"


def test_a_session_that_sleeps_and_could_wake_nowhere_else_keeps_its_node():
    asleep = session(place="far").model_copy(update={"status": SessionStatus.SUSPENDED})
    with pytest.raises(Busy, match="far alone can wake these sessions: analysis"):
        empty(MadeUpController(asleep), "far", "drain", Voice())
    empty(MadeUpController(asleep, image="python"), "far", "drain", Voice())
    empty(MadeUpController(asleep, alike=True), "far", "drain", Voice())
    empty(MadeUpController(asleep), "far", "end", Voice())


def test_who_can_not_be_asked_is_told_the_flags():
    from sojourn.cli.hosts import Talk

    with pytest.raises(Invalid) as refused:
        Talk(yes=False, hint="--drain").ask("Go?", [])
    assert refused.value.hint == "--drain"
