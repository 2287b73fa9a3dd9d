"""Dialing an agent that may not be where its address leads."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sojourn.errors import Busy, SojournError, Unauthorized, Unreachable
from sojourn.transport import routes as routes_module
from sojourn.transport.dial import Dial
from sojourn.transport.loop import READ, Loop
from sojourn.transport.routes import Routes

YES = b'{"ok": true}\n'


class Answerer:
    """Listens; says `answer` once to each caller who has said something, and closes unless it is a yes."""

    def __init__(self, loop: Loop, answer: bytes) -> None:
        self.answer = answer
        self.calls: list[list[Any]] = []
        self._loop = loop
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        loop.watch(self._listener, READ, self._accept)

    @property
    def address(self) -> str:
        return "{}:{}".format(*self._listener.getsockname())

    def _accept(self, _ready: int) -> None:
        caller, _ = self._listener.accept()
        self._open.append(caller)
        self._loop.watch(caller, READ, lambda _ready: self._hear(caller))

    def _hear(self, caller: socket.socket) -> None:
        self._loop.forget(caller)
        self.calls.append([json.loads(line) for line in caller.recv(4096).splitlines()])
        caller.sendall(self.answer)
        if not self.answer.startswith(YES):
            self._open.remove(caller)
            caller.close()

    def close(self) -> None:
        for one in (self._listener, *self._open):
            self._loop.forget(one)
            one.close()


class Scene:
    def __init__(self) -> None:
        self.loop = Loop()
        self.answerers: list[Answerer] = []
        self.ends: list[str | SojournError] = []

    def answerer(self, answer: bytes) -> Answerer:
        self.answerers.append(Answerer(self.loop, answer))
        return self.answerers[-1]

    def dial(self, routes: Routes) -> str | SojournError:
        """What came first of the far end, or why nothing did."""

        def spoke(connection: socket.socket, early: bytes) -> None:
            connection.close()
            self.ends.append(early.decode())

        before = len(self.ends)
        dial = Dial(self.loop, routes, "t", spoke=spoke, failed=self.ends.append)
        self.until(lambda: len(self.ends) > before)
        dial.close()
        return self.ends[-1]

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline, "waited in vain"
            self.loop.run_once(0.05)


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    for answerer in scene.answerers:
        answerer.close()
    scene.loop.close()


def no(error: SojournError) -> bytes:
    return json.dumps({"ok": False, "error": error.to_wire()}).encode() + b"\n"


def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return "{}:{}".format(*server.getsockname())


def test_directly_where_that_is_possible(scene: Scene) -> None:
    agent, relay = scene.answerer(YES + b"hello"), scene.answerer(YES + b"relayed")
    assert scene.dial(Routes("n", agent.address, relay.address)) == "hello"
    assert relay.calls == []


def test_by_the_relay_when_nothing_listens_and_again_without_trying(scene: Scene) -> None:
    relay = scene.answerer(YES + b"relayed")
    routes = Routes("n", closed_port(), relay.address)
    assert scene.dial(routes) == "relayed"
    assert relay.calls == [[{"sojourn": 1, "node": "n"}, {"sojourn": 1, "ticket": "t"}]]
    assert routes.ahead(time.monotonic())[0].address == relay.address


@pytest.mark.parametrize(
    "answer", [no(Unauthorized("The ticket was not signed for this node.")), b"SSH-2.0-x\r\n", b""], ids=str
)
def test_by_the_relay_when_somebody_else_is_there(scene: Scene, answer: bytes) -> None:
    stranger, relay = scene.answerer(answer), scene.answerer(YES + b"relayed")
    assert scene.dial(Routes("n", stranger.address, relay.address)) == "relayed"
    assert len(stranger.calls) == 1


def test_by_the_relay_when_nobody_answers_in_time(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes_module, "DIRECT_SECONDS", 0.1)
    relay = scene.answerer(YES + b"relayed")
    with socket.socket() as full, socket.socket() as first:  # a backlog of one, taken: who comes next is not answered
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        first.connect(full.getsockname())
        assert scene.dial(Routes("n", "{}:{}".format(*full.getsockname()), relay.address)) == "relayed"


def test_what_the_agent_says_counts(scene: Scene) -> None:
    agent, relay = scene.answerer(no(Busy("It has left."))), scene.answerer(YES + b"relayed")
    refused = scene.dial(Routes("n", agent.address, relay.address))
    assert isinstance(refused, Busy)
    assert relay.calls == []


def test_no_way_at_all(scene: Scene) -> None:
    relay = scene.answerer(no(Unreachable("Node n is offline.")))
    offline = scene.dial(Routes("n", closed_port(), relay.address))
    assert isinstance(offline, Unreachable)
    assert offline.message == "Node n is offline."
    assert isinstance(scene.dial(Routes("n", "", "")), Unreachable)
    assert "can't be reached" in str(scene.dial(Routes("n", closed_port(), closed_port())))


def test_whoever_stops_dialing_hears_nothing_more(scene: Scene) -> None:
    relay = scene.answerer(YES + b"relayed")
    routes = Routes("n", closed_port(), relay.address)
    dial = Dial(scene.loop, routes, "t", spoke=lambda *_: scene.ends.append("spoke"), failed=scene.ends.append)
    dial.close()
    for _ in range(5):
        scene.loop.run_once(0.01)
    assert (scene.ends, relay.calls) == ([], [])
