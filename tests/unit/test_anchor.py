"""An anchor and a rider's end in one thread: the network is real, the far side is played by the test."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sojourn.front.anchor import Anchor
from sojourn.model.sessions import Place
from sojourn.transport.lines import LinePipe
from sojourn.transport.loop import READ, Loop
from sojourn.transport.pump import Pipe, Pump
from sojourn.tunnel.connection import RiderEnd

TARGET = "tcp:127.0.0.1:5000"


class FarPipe(Pipe):
    """The far side of a stream: keeps what comes."""

    def __init__(self, pump: Pump, number: int, target: str) -> None:
        super().__init__(pump, number)
        self.target = target
        self.data = b""
        self.reason: str | None = None

    def received(self, data: memoryview) -> None:
        self.data += bytes(data)
        self.pump.end.passed_on(self.number, len(data))

    def closed(self, reason: str) -> None:
        self.leave()
        self.reason = reason


class FarSide:
    """A session, and the agents that lead to it."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.pump = Pump(loop, RiderEnd("s1", "a1"), lost=lambda reason: None, opened=self._opened)
        self.pipes: list[FarPipe] = []
        self.said: list[dict[str, Any]] = []
        self.agents: list[FarAgent] = []

    def agent(self, incarnation: int = 1, epoch: int = 0, holds: bool = False) -> FarAgent:
        agent = FarAgent(self, incarnation, epoch, holds)
        self.agents.append(agent)
        return agent

    def _opened(self, number: int, target: str) -> None:
        if target == "control":
            control = LinePipe(
                self.pump, number, lambda line: self.said.append(json.loads(line)), gone=lambda reason: None
            )
            control.say({"event": "status", "running": True})
        else:
            self.pipes.append(FarPipe(self.pump, number, target))


class FarAgent:
    def __init__(self, far: FarSide, incarnation: int, epoch: int, holds: bool) -> None:
        self.far, self.incarnation, self.epoch, self.holds = far, incarnation, epoch, holds
        self.answer: dict[str, Any] = {"ok": True}
        self.held: list[socket.socket] = []
        self.calls: list[dict[str, Any]] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        far.loop.watch(self.listener, READ, self._accept)

    def place(self, ticket: str = "t") -> Place:
        port = self.listener.getsockname()[1]
        return Place(
            node="n",
            address=f"127.0.0.1:{port}",
            ticket=ticket,
            incarnation=self.incarnation,
            epoch=self.epoch,
        )

    def let_through(self) -> None:
        self.holds = False
        for connection in self.held:
            self.far.pump.attach(connection, self.incarnation, self.epoch)
        self.held.clear()

    def _accept(self, _ready: int) -> None:
        connection, _ = self.listener.accept()
        connection.setblocking(False)
        self.far.loop.watch(connection, READ, lambda _ready: self._hear(connection))

    def _hear(self, connection: socket.socket) -> None:
        self.far.loop.forget(connection)
        first = connection.recv(4096)
        if not first:
            connection.close()
            return
        self.calls += map(json.loads, first.splitlines())
        connection.send(json.dumps(self.answer).encode() + b"\n")
        if not self.answer["ok"]:
            connection.close()
        elif self.holds:
            self.held.append(connection)
        else:
            self.far.pump.attach(connection, self.incarnation, self.epoch)


class Scene:
    def __init__(self) -> None:
        self.loop = Loop()
        self.far = FarSide(self.loop)
        self.states: list[str] = []
        self.details: list[str] = []
        self.heard: list[dict[str, Any]] = []
        self.cuts: list[tuple[str, str]] = []
        self.anchor = Anchor(
            self.loop,
            "s1",
            "a1",
            on_control=self.heard.append,
            on_state=self._state,
            on_cut=lambda *cut: self.cuts.append(cut),
        )

    def _state(self, state: str, detail: str) -> None:
        self.states.append(state)
        self.details.append(detail)

    def until(self, condition: Callable[[], Any]) -> None:
        deadline = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline, "waited in vain"
            self.loop.run_once(0.05)

    def rest(self) -> None:
        """Whatever was going to happen by itself has happened."""
        for _ in range(8):
            self.loop.run_once(0.01)

    def connected(self) -> bool:
        return self.anchor.state == "connected"

    def client(self, endpoint: str) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.connect(endpoint.removeprefix("ipc://"))
        client.settimeout(5)
        return client


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    scene.anchor.close()
    scene.far.pump.detach()
    scene.loop.close()
    for agent in scene.far.agents:
        agent.listener.close()


def test_it_dials_with_its_ticket_and_connects(scene: Scene) -> None:
    agent = scene.far.agent()
    scene.anchor.place(agent.place("the ticket"))
    scene.until(scene.connected)
    assert agent.calls == [{"sojourn": 1, "ticket": "the ticket"}]
    scene.until(lambda: scene.heard)
    assert scene.heard == [{"event": "status", "running": True}]


def test_what_is_said_before_the_rider_can_be_reached_is_not_lost(scene: Scene) -> None:
    scene.anchor.control({"do": "start"})
    scene.anchor.place(scene.far.agent().place())
    scene.until(lambda: scene.far.said)
    assert scene.far.said == [{"do": "start"}]


def test_each_connection_to_an_endpoint_is_a_stream_to_its_target(scene: Scene) -> None:
    endpoint = scene.anchor.listen(TARGET)
    with scene.client(endpoint) as early:
        early.send(b"before anybody is there")
        scene.rest()
        scene.anchor.place(scene.far.agent().place())
        scene.until(lambda: scene.far.pipes and scene.far.pipes[0].data)
        assert (scene.far.pipes[0].target, scene.far.pipes[0].data) == (TARGET, b"before anybody is there")
        scene.far.pump.end.send(scene.far.pipes[0].number, b"answer")
        scene.far.pump.flush()
        scene.rest()
        assert early.recv(100) == b"answer"


def test_a_node_that_can_not_be_dialled_is_reached_by_the_relay_wherever_that_is_now(scene: Scene) -> None:
    agent = scene.far.agent()
    nowhere = agent.place("the ticket").model_copy(update={"address": ""})
    scene.anchor.place(nowhere)
    scene.until(lambda: scene.details)
    assert "can't be reached" in scene.details[0]
    scene.anchor.relay = lambda: agent.place().address
    scene.until(scene.connected)
    assert agent.calls == [{"sojourn": 1, "node": "n"}, {"sojourn": 1, "ticket": "the ticket"}]


def test_saying_again_what_is_so_changes_nothing(scene: Scene) -> None:
    agent = scene.far.agent()
    for ticket in ("one", "two"):
        scene.anchor.place(agent.place(ticket))
        scene.anchor.expect(agent.place(ticket))
        scene.until(scene.connected)
    scene.rest()
    assert (len(agent.calls), scene.states) == (1, ["connected"])


def test_a_lost_connection_is_dialed_again_with_the_latest_ticket(scene: Scene) -> None:
    agent = scene.far.agent()
    scene.anchor.place(agent.place("old"))
    scene.until(scene.connected)
    scene.anchor.place(agent.place("fresh"))
    scene.far.pump.detach()
    scene.until(lambda: scene.states[-2:] == ["away", "connected"])
    assert agent.calls[-1]["ticket"] == "fresh"


def test_a_refusal_is_told_and_tried_again_ever_more_slowly(scene: Scene) -> None:
    agent = scene.far.agent()
    agent.answer = {"ok": False, "error": {"code": "unauthorized", "message": "The session ticket has expired."}}
    scene.anchor.place(agent.place())
    scene.until(lambda: len(agent.calls) > 3)
    assert set(scene.details) == {"The session ticket has expired."}
    agent.answer = {"ok": True}
    scene.until(scene.connected)


def test_the_tunnel_switches_over_when_the_rider_speaks_at_the_expected_place(scene: Scene) -> None:
    here, there = scene.far.agent(), scene.far.agent(incarnation=2, holds=True)
    scene.anchor.place(here.place())
    scene.anchor.expect(there.place())
    scene.until(lambda: scene.connected() and there.held)
    client = scene.client(scene.anchor.listen(TARGET))
    client.send(b"one ")
    scene.until(lambda: scene.far.pipes and scene.far.pipes[0].data)
    here.answer = {"ok": False, "error": {"message": "frozen"}}
    scene.far.pump.detach()
    client.send(b"two")
    scene.until(lambda: "away" in scene.states)
    there.let_through()
    scene.until(lambda: scene.far.pipes[0].data == b"one two")
    calls = len(here.calls)
    scene.anchor.place(there.place())
    scene.anchor.expect(None)
    scene.rest()
    assert (len(here.calls), len(there.calls)) == (calls, 1), "nobody dials any more"
    assert scene.connected()
    client.close()


def test_a_move_that_came_to_nothing_goes_on_where_it_was(scene: Scene) -> None:
    here, there = scene.far.agent(), scene.far.agent(incarnation=2, holds=True)
    scene.anchor.place(here.place())
    scene.anchor.expect(there.place())
    scene.until(lambda: scene.connected() and there.held)
    scene.far.pump.detach()
    scene.anchor.expect(None)
    scene.until(lambda: scene.states == ["connected", "away", "connected"])


def test_who_waits_at_the_expected_place_does_not_dial_it_again_when_the_session_is_there(scene: Scene) -> None:
    here, there = scene.far.agent(), scene.far.agent(incarnation=2, holds=True)
    scene.anchor.place(here.place())
    scene.until(lambda: scene.anchor.state == "connected")
    scene.anchor.expect(there.place())
    scene.until(lambda: there.held)
    scene.anchor.place(there.place("t2"))
    scene.rest()
    assert len(there.calls) == 1, "its connection may be before the rider by now"
    there.let_through()
    scene.until(lambda: scene.anchor.state == "connected")


def test_a_session_that_is_elsewhere_is_not_served_by_the_old_connection(scene: Scene) -> None:
    here, there = scene.far.agent(), scene.far.agent(incarnation=2, holds=True)
    scene.anchor.place(here.place())
    scene.until(scene.connected)
    scene.anchor.place(there.place())
    assert not scene.connected()
    scene.until(lambda: there.held)
    there.let_through()
    scene.until(scene.connected)


def test_a_session_set_back_closes_the_local_connections(scene: Scene) -> None:
    scene.anchor.place(scene.far.agent().place())
    client = scene.client(scene.anchor.listen(TARGET))
    scene.until(lambda: scene.far.pipes)
    scene.far.pump.detach()
    scene.anchor.place(scene.far.agent(incarnation=2, epoch=1).place())
    scene.until(lambda: scene.states[-1] == "connected" and "reset" in scene.states)
    assert client.recv(10) == b""
    scene.anchor.control({"do": "status"})
    scene.until(lambda: scene.far.said)
    client.close()


def test_a_stream_reset_at_the_far_side_closes_its_connection_only(scene: Scene) -> None:
    scene.anchor.place(scene.far.agent().place())
    endpoint = scene.anchor.listen(TARGET)
    clients = [scene.client(endpoint) for _ in range(2)]
    scene.until(lambda: len(scene.far.pipes) == 2)
    scene.far.pump.end.reset(scene.far.pipes[0].number, "output truncated")
    scene.far.pump.flush()
    scene.rest()
    assert clients[0].recv(10) == b""
    assert scene.cuts == [(endpoint, "output truncated")]
    clients[1].send(b"still here")
    scene.until(lambda: scene.far.pipes[1].data == b"still here")
    for client in clients:
        client.close()


def test_another_target_closes_what_was_open_and_takes_what_comes(scene: Scene) -> None:
    scene.anchor.place(scene.far.agent().place())
    endpoint = scene.anchor.listen(TARGET)
    with scene.client(endpoint) as old:
        scene.until(lambda: scene.far.pipes)
        scene.anchor.retarget(endpoint, "tcp:127.0.0.1:6000")
        assert old.recv(10) == b""
    with scene.client(endpoint):
        scene.until(lambda: len(scene.far.pipes) == 2)
    assert scene.far.pipes[1].target == "tcp:127.0.0.1:6000"
    assert scene.far.pipes[0].reason


def test_an_address_that_is_none_is_told_of(scene: Scene) -> None:
    scene.anchor.place(Place(node="n", address="nowhere", ticket="t", incarnation=1, epoch=0))
    scene.until(lambda: scene.states)
    assert "nowhere" in scene.details[0]


def test_closing_leaves_nothing_behind(scene: Scene) -> None:
    endpoint = scene.anchor.listen(TARGET)
    scene.anchor.place(scene.far.agent().place())
    scene.until(scene.connected)
    scene.anchor.close()
    with pytest.raises(FileNotFoundError):
        scene.client(endpoint)
