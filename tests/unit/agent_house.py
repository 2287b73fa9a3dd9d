"""A runner and both halves of moves, saves and wakes, in a house where movers and sandboxes only pretend."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from sojourn import movers
from sojourn.agent import departures as departures_module
from sojourn.agent.arrivals import Arrivals
from sojourn.agent.attendance import Attendance
from sojourn.agent.departures import Departures
from sojourn.agent.journal import Journal, Life
from sojourn.agent.recovery import recover
from sojourn.agent.runner import Node, Runner
from sojourn.model import MoveReport, Program, SessionSpec
from sojourn.wire import Event, SessionFilled

SPEC = SessionSpec(program=Program(argv=("true",)), sandbox="runc")

Kind = TypeVar("Kind")


class PretendedSandbox:
    """Its rider says yes to everything, and hangs up when asked to."""

    secret = None
    passes_descriptors = True

    def __init__(self) -> None:
        self.did: list[str] = []
        self.first_lines: list[dict[str, Any]] = []
        self.running = True

    def connect(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        threading.Thread(target=self._ride, args=(theirs,), daemon=True).start()
        return ours

    def _ride(self, end: socket.socket) -> None:
        with end, contextlib.suppress(OSError, ValueError):  # the line may be let go at any moment
            line, passed, _, _ = socket.recv_fds(end, 4096, 1)
            self.first_lines.append(json.loads(line))
            end.sendall(b'{"ok":true,"incarnation":1}\n')
            if passed:
                with socket.socket(fileno=passed[0]) as client:
                    client.sendall(b"from the rider")
                return
            while (said := end.recv(4096)) and b"hang_up" not in said:
                pass
        self.did.append("line closed")

    def alive(self) -> bool:
        return self.running

    def root_pid(self) -> int | None:
        return None

    def remove(self) -> None:
        self.did.append("removed")


class PretendedMover:
    """Either half. `script` gets the mover and plays `run` or `receive`."""

    def __init__(self, script: Callable[[PretendedMover], None], **callables: Any) -> None:
        self.script, self.calls = script, callables
        self.resumed, self.scathed, self.thawed = True, False, False
        self.did: list[str] = []
        self.link: Any = None
        self.broken = threading.Event()

    def run(self, link: Any) -> None:
        self.link = link
        self.script(self)

    receive = run

    def stop(self) -> None:
        self.broken.set()

    def tell(self, event: Event) -> None:
        self.calls["tell"](event)

    def go_on(self) -> None:
        self.did.append("went on")
        self.tell(SessionFilled(move="m", session="s", incarnation=2, report=MoveReport()))

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name in ("commit", "roll_back", "prepare", "halt", "abandon"):
            return lambda: self.did.append(name)
        raise AttributeError(name)


class PretendedLink:
    def __init__(self, address: str, ticket: str) -> None:
        self.closed = threading.Event()

    def close(self) -> None:
        self.closed.set()


class House:
    """A runner with a session `s` in it, unless it is empty."""

    def __init__(self, folder: Path, journal: Journal) -> None:
        (folder / "sandboxes").mkdir(exist_ok=True)
        self.journal = journal
        node = Node("here", folder / "sandboxes", ("runc", "process"), "rider.pyz")
        self.runner = Runner(node, journal, lambda event: None)
        self.departures, self.arrivals = Departures(self.runner), Arrivals(self.runner)
        self._told = 0

    async def inhabit(self) -> Attendance:
        life = Life(session="s", born=1, incarnation=1, epoch=1, state="running", sandbox="runc", spec=SPEC)
        attendance = self.runner.add(life)
        attendance.write()
        await attendance.line.attach(1, 1)
        await attendance.line.attached(5)
        await asyncio.to_thread(attendance.door.open, attendance.life)
        return attendance

    async def hears(self, kind: type[Kind]) -> Kind:
        """The next event; it must be of this kind."""
        for _ in range(500):
            for number, event in self.journal.events_after(self._told):
                self._told = number
                assert isinstance(event, kind), f"expected {kind.__name__}, heard {event!r}"
                return event
            await asyncio.sleep(0.01)
        raise AssertionError(f"never heard {kind.__name__}")

    @property
    def life(self) -> Life:
        (life,) = self.journal.lives()
        return life


Play = Callable[[PretendedMover], None]
Script = Callable[[Play], list[PretendedMover]]

_MAKERS = ("departure", "arrival", "save", "wake")


@contextlib.asynccontextmanager
async def a_house(folder: Path) -> AsyncIterator[House]:
    house = House(folder, Journal(folder / "journal.sqlite", "boot"))
    yield house
    await house.runner.leave()
    house.journal.close()


def pretend_sandboxes(monkeypatch: pytest.MonkeyPatch) -> PretendedSandbox:
    """One sandbox for all lives."""
    sandbox = PretendedSandbox()
    monkeypatch.setattr(Node, "sandbox", lambda self, life: sandbox)
    monkeypatch.setattr(Attendance, "watch", lambda self: None)
    monkeypatch.setattr(departures_module, "DialledLink", PretendedLink)
    return sandbox


def pretend_movers(monkeypatch: pytest.MonkeyPatch) -> Script:
    """Give the script of all movers; they are gathered in the list."""

    def give(play: Play) -> list[PretendedMover]:
        made: list[PretendedMover] = []

        def make(sandbox: Any, move: str, *_more: Any, **callables: Any) -> PretendedMover:
            made.append(PretendedMover(play, **callables))
            return made[-1]

        for name in (*_MAKERS, *(f"recover_{name}" for name in _MAKERS)):
            monkeypatch.setitem(vars(movers), name, make)
        return made

    return give


async def successor(house: House, tmp_path: Path, script: Script, **state: bool) -> tuple[House, PretendedMover]:
    """Another agent on the same journal; its mover finds itself in this state."""
    await house.runner.leave()
    made = script(lambda mover: None)

    def set_state(mover: PretendedMover, **_: Any) -> None:
        mover.__dict__.update(state)

    original = PretendedMover.__init__

    def begin(self: PretendedMover, play: Any, **callables: Any) -> None:
        original(self, play, **callables)
        set_state(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PretendedMover, "__init__", begin)
        heir = House(tmp_path, house.journal)
        heir._told = house._told
        await recover(heir.runner, heir.departures, heir.arrivals)
    return heir, made[0]
