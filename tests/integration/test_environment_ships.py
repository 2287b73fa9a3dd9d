"""Layers over a link: what is there does not cross, and both ends hear the same of what goes wrong."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sojourn.environment.contents import Contents
from sojourn.environment.depot import Depot
from sojourn.environment.parts import Part
from sojourn.errors import DoesNotFit, Incompatible, MoveFailed, SojournError
from sojourn.movers.environment import receive, send
from sojourn.movers.parcels import Parcels

pytestmark = pytest.mark.integration


class Counted(Parcels):
    """Knows how much it has sent."""

    sent = 0

    def _send(self, body: Any, *how: Any) -> None:
        self.sent += len(body)
        super()._send(body, *how)


@pytest.fixture
def home(tmp_path: Path) -> Depot:
    return Depot(tmp_path / "home")


@pytest.fixture
def away(tmp_path: Path) -> Depot:
    return Depot(tmp_path / "away")


@pytest.fixture
def environment(tmp_path: Path, home: Depot) -> list[Contents]:
    found = []
    for name in ("venv", "base"):
        prefix = tmp_path / name
        (prefix / "lib").mkdir(parents=True)
        for at in range(40):
            (prefix / f"lib/module{at}.py").write_text(f"{name} {at}\n" * 100)
        (prefix / "lib/big.so").write_bytes(os.urandom(5_000_000))
        found.append(home.own(Part(name=str(prefix), paths=(str(prefix),))))
    return found


class Journey:
    """One conversation: a thread at each end."""

    def __init__(self, home: Depot, away: Depot, environment: list[Contents]) -> None:
        self.here, self.there = socket.socketpair()
        self.parcels = Counted(self.here)
        self.ids: list[str] = []
        self.said: list[tuple[int, int]] = []
        self.errors: dict[str, SojournError] = {}
        self._threads = [
            self._begin("source", lambda: send(self.parcels, home, environment, lambda *so: self.said.append(so))),
            self._begin("target", lambda: self.ids.extend(receive(Parcels(self.there), away))),
        ]

    def end(self) -> Journey:
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()
        return self

    def _begin(self, side: str, work: Callable[[], Any]) -> threading.Thread:
        def run() -> None:
            try:
                work()
            except SojournError as error:
                self.errors[side] = error
            finally:
                (self.here if side == "source" else self.there).close()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread


def test_what_is_there_does_not_cross(home: Depot, away: Depot, environment: list[Contents]) -> None:
    first = Journey(home, away, environment).end()
    assert first.ids == [layer.id for layer in environment]
    assert not first.errors
    total = sum(layer.size_bytes for layer in environment)
    assert first.said[-1][1] == total
    assert total <= first.said[-1][0] < total + 100
    second = Journey(home, away, environment).end()
    assert second.ids == first.ids
    assert second.parcels.sent < 200


def test_two_moves_that_want_the_same_bring_it_once(home: Depot, away: Depot, environment: list[Contents]) -> None:
    journeys = [Journey(home, away, environment), Journey(home, away, list(reversed(environment)))]
    for journey in journeys:
        assert not journey.end().errors
    total = sum(layer.size_bytes for layer in environment)
    assert sum(journey.parcels.sent for journey in journeys) < total + 100_000
    assert len(away.stock()) == 2


def test_no_room_is_heard_at_both_ends(
    home: Depot, away: Depot, environment: list[Contents], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sojourn.environment.depot.ROOM_LEFT_BYTES", 1 << 60)
    journey = Journey(home, away, environment).end()
    assert {side: type(error) for side, error in journey.errors.items()} == {"source": DoesNotFit, "target": DoesNotFit}
    assert away.stock() == []


def test_a_changed_file_is_named_at_both_ends(home: Depot, away: Depot, environment: list[Contents]) -> None:
    changed = environment[0].part.paths[0] + "/lib/module7.py"
    Path(changed).write_text("changed")
    journey = Journey(home, away, environment).end()
    assert all(isinstance(error, Incompatible) and changed in error.message for error in journey.errors.values())
    assert len(journey.errors) == 2
    Journey(home, away, [home.own(layer.part) for layer in environment]).end()
    assert len(away.stock()) == 2


def test_a_link_that_is_cut_leaves_nothing(home: Depot, away: Depot, environment: list[Contents]) -> None:
    here, there = socket.socketpair()

    class Cut(Parcels):
        left = 3_000_000

        def _send(self, body: Any, *how: Any) -> None:
            self.left -= len(body)
            if self.left < 0:
                here.shutdown(socket.SHUT_RDWR)
            super()._send(body, *how)

    target = threading.Thread(target=lambda: journey_end(there, away))
    target.start()
    with pytest.raises(MoveFailed):
        send(Cut(here), home, environment)
    target.join(20)
    assert not target.is_alive()
    assert away.stock() == []
    assert not list((away.folder / "layers").iterdir())
    assert not Journey(home, away, environment).end().errors


def journey_end(there: socket.socket, away: Depot) -> None:
    with there, pytest.raises(MoveFailed):
        receive(Parcels(there), away)
