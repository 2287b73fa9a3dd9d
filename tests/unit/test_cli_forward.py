"""What `sojourn forward` reads, says and is called."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sojourn.cli import forward, main
from sojourn.cli.forward import read_passage
from sojourn.client import Watched
from sojourn.errors import Invalid, SessionLost
from sojourn.front.correspondent import own_front
from sojourn.front.forwarding import Passage, tidings
from sojourn.model import MovePhase, MoveView, SessionStatus, SessionView


def session(status: SessionStatus = SessionStatus.RUNNING, node: str = "here") -> SessionView:
    return SessionView(
        id="s1", name="analysis", owner="ada", status=status, node=node, incarnation=1, epoch=1, created_at=time.time()
    )


def news(now: SessionView) -> Watched:
    move = MoveView(
        id="m", session="s1", source="here", target="there", strategy="lazy", phase=MovePhase.DEPARTING, started_at=0.0
    )
    return Watched(session=now, place=None, next_place=None, move=move)


@pytest.mark.parametrize(
    ("text", "passage"),
    [("8787", Passage(8787, 8787)), ("8080:5000", Passage(8080, 5000)), (":5000", Passage(0, 5000))],
)
def test_a_port_is_read(text: str, passage: Passage) -> None:
    assert read_passage(text) == passage


@pytest.mark.parametrize("text", ["", "0", "8080:", "8080:0", "web", "1:2:3", "-1", "65536", "٣"])
def test_what_names_no_port_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="names no port"):
        read_passage(text)


RUNNING, FILLING, MOVING = SessionStatus.RUNNING, SessionStatus.FILLING, SessionStatus.MOVING
SUSPENDING, SUSPENDED, WAKING = SessionStatus.SUSPENDING, SessionStatus.SUSPENDED, SessionStatus.WAKING


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (session(), session(), ""),
        (session(), session(MOVING), "moves to there."),
        (session(MOVING), session(FILLING, "there"), "is on there now."),
        (session(), session(RUNNING, "there"), "is on there now."),  # the steps in between were missed
        (session(FILLING, "there"), session(RUNNING, "there"), ""),
        (session(MOVING), session(), "stays on here."),
        (session(), session(SUSPENDING), ""),
        (session(SUSPENDING), session(SUSPENDED), "sleeps; the next connection wakes it."),
        (session(SUSPENDED), session(WAKING), ""),
        (session(WAKING), session(FILLING), "is awake on here."),
        (session(SUSPENDING), session(), "is awake on here."),
    ],
)
def test_a_person_is_told_what_happens_to_the_session(before: SessionView, now: SessionView, said: str) -> None:
    assert tidings(before, news(now), wakes=True) == said


def test_no_two_at_once_have_the_same_name_and_it_is_used_again(tmp_path: Path) -> None:
    with own_front(tmp_path) as first, own_front(tmp_path) as second:
        assert first != second
        assert "." not in first + second  # riders tell a front from its lives by the dot
    with own_front(tmp_path) as third:
        assert third == first


def test_an_ended_session_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class MadeUpClient:
        def __enter__(self) -> MadeUpClient:
            return self

        def __exit__(self, *_: object) -> None: ...

        def session(self, _name: str) -> SessionView:
            return session(SessionStatus.STOPPED)

    monkeypatch.setattr(forward, "connect", MadeUpClient)
    ended = CliRunner().invoke(main.app, ["forward", "analysis", "8787"])
    assert isinstance(ended.exception, SessionLost)
