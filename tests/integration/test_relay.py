"""The relay as it stands in a controller, and a node that nobody can dial: its line, its data port, and no address."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import uvicorn
from tests.integration.fake_agent import FakeAgent

from sojourn import tickets
from sojourn.agent.calls import fetch
from sojourn.agent.data_port import Claims, DataPort
from sojourn.agent.identity import Identity
from sojourn.agent.journal import Journal
from sojourn.agent.line import Line
from sojourn.agent.links import DialledLink
from sojourn.client import AsyncClient
from sojourn.client.words import TokenRequest
from sojourn.controller import Controller, relay
from sojourn.controller.app import build_app
from sojourn.controller.authority import Shown, kept, own_names
from sojourn.controller.port import SharedPort
from sojourn.controller.relay import Relay
from sojourn.database import Database, sqlite_url
from sojourn.errors import Busy, SojournError, Unauthorized, Unknown, Unreachable, from_wire
from sojourn.model import Load
from sojourn.transport.answers import say
from sojourn.transport.routes import Routes, relay_of
from sojourn.wire import Hello

pytestmark = pytest.mark.integration


def line(**said: Any) -> bytes:
    return json.dumps({"sojourn": 1, **said}).encode() + b"\n"


# ── alone ────────────────────────────────────────────────────────────────────────────────────────────────────


class Place:
    """A relay, and what it does with those who come."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = self.listener.getsockname()
        self.http: list[socket.socket] = []
        self.calls: list[tuple[str, str]] = []
        self.relay = Relay(self.listener)
        self.relay.open(
            lambda connection, first: self.http.append(connection), lambda node, call: self.calls.append((node, call))
        )
        self._open: list[socket.socket] = []

    def dial(self, *said: bytes) -> socket.socket:
        connection = socket.create_connection(self.address, 10)
        self._open.append(connection)
        for part in said:
            connection.sendall(part)
        return connection

    def close(self) -> None:
        self.relay.close()
        for one in (self.listener, *self._open, *self.http):
            one.close()


@pytest.fixture
def place() -> Iterator[Place]:
    place = Place()
    yield place
    place.close()


def eventually(true: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def refusal(connection: socket.socket) -> SojournError:
    answer = json.loads(connection.makefile().readline())
    assert answer["ok"] is False
    return from_wire(answer["error"])


def test_a_caller_and_the_agent_that_fetches_it_are_joined(place: Place) -> None:
    caller = place.dial(line(node="n") + line(ticket="t"))
    eventually(lambda: place.calls)
    ((node, call),) = place.calls
    assert node == "n"
    agent = place.dial(line(call=call))
    assert agent.makefile().readline().encode() == line(ticket="t")
    agent.sendall(b"answer")
    assert caller.recv(100) == b"answer"
    place.relay.close()
    assert (caller.recv(1), agent.recv(1)) == (b"", b"")


def test_a_first_line_may_come_in_pieces_and_http_is_not_touched(place: Place) -> None:
    place.dial(b'{"node"', b': "n"}\n')
    eventually(lambda: place.calls)
    place.dial(b"GET / HTTP/1.1\r\n\r\n")
    eventually(lambda: place.http)
    assert place.http[0].recv(100) == b"GET / HTTP/1.1\r\n\r\n"


def test_nobody_waits_for_an_agent_for_ever(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "_FETCH_SECONDS", 0.05)
    refused = refusal(place.dial(line(node="n")))
    assert isinstance(refused, Unreachable)
    assert "Node n did not fetch" in refused.message
    late = refusal(place.dial(line(call=place.calls[0][1])))
    assert isinstance(late, Unknown)


def test_who_waits_for_a_node_whose_line_ends_is_told_at_once(place: Place) -> None:
    caller, other = place.dial(line(node="n")), place.dial(line(node="other"))
    eventually(lambda: len(place.calls) == 2)
    place.relay.node_left("n")
    refused = refusal(caller)
    assert isinstance(refused, Unreachable)
    assert refused.message == "The line to node n ended."
    assert refusal(place.dial(line(call=dict(place.calls)["n"])))
    agent = place.dial(line(call=dict(place.calls)["other"]) + b"hello")
    assert agent
    assert other.recv(100) == b"hello"


@pytest.mark.parametrize("said", [b"{}\n", b'{"node": 5}\n', b"{nonsense\n", line(ticket="t"), line(call="guessed")])
def test_whoever_is_no_caller_is_told_so(place: Place, said: bytes) -> None:
    assert refusal(place.dial(said)).code in ("invalid", "unknown")
    assert place.calls == []


def test_callers_that_nobody_fetches_are_bounded(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "_MOST_WAITING", 2)
    for _ in range(2):
        place.dial(line(node="n"))
    eventually(lambda: len(place.calls) == 2)
    assert isinstance(refusal(place.dial(line(node="n"))), Busy)


def test_who_says_nothing_is_left_to_http(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "_FIRST_LINE_SECONDS", 0.05)
    place.dial()
    eventually(lambda: place.http)
    assert refusal(place.dial(b'{"node"')).code == "invalid"


# ── in a controller ──────────────────────────────────────────────────────────────────────────────────────────


class ShyNode:
    """The parts of an agent by which it is reached; it sends back what whoever comes says."""

    def __init__(self, url: str, token: str, folder: Path) -> None:
        self.identity = Identity.load(folder / "node.json", token)
        self.journal = Journal(folder / "journal.sqlite", "boot")
        self.claims: list[Claims] = []
        self.port = DataPort(lambda: self.identity.key, {"tunnel": self._echo}, lambda: self.identity.seal)
        self.fetching = True
        self._relay = relay_of(url)
        self._tasks: list[asyncio.Task[None]] = []
        self.line = Line(url, self.identity, self.journal, self._hello, Load, lambda _: None, self._called)

    def _hello(self) -> Hello:
        pretended = FakeAgent("", "", "shy")
        pretended.address = None
        return pretended.hello().model_copy(update={"request": self.identity.request()})

    def _called(self, call: str) -> None:
        if self.fetching:
            self._tasks.append(asyncio.create_task(fetch(call, self._relay, self.port)))

    async def _echo(self, connection: socket.socket, claims: Claims) -> None:
        self.claims.append(claims)
        say(connection, {"ok": True})
        loop = asyncio.get_running_loop()
        with connection:
            while data := await loop.sock_recv(connection, 1 << 16):
                await loop.sock_sendall(connection, data)

    @asynccontextmanager
    async def online(self) -> AsyncIterator[None]:
        running = asyncio.create_task(self.line.run())
        try:
            await asyncio.wait_for(self.line.welcomed.wait(), 10)
            yield
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await self.port.close()
            self.journal.close()

    def ticket(self, **changes: Any) -> str:
        claims = {"for": "tunnel", "session": "s", "incarnation": 1, "epoch": 1, "anchor": "a", **changes}
        return tickets.sign(claims, self.identity.key, time.time() + 60)


class House:
    def __init__(self, url: str, client: AsyncClient, node: ShyNode, authority: str) -> None:
        self.url, self.client, self.node, self.authority = url, client, node, authority

    async def link(self, ticket: str, node: str = "shy", address: str = "") -> DialledLink:
        routes = Routes(node, address, relay_of(self.url), self.authority)
        return await asyncio.to_thread(DialledLink, routes, ticket)


@pytest.fixture(params=["plain", "sealed"])
async def house(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[House]:
    """What is relayed is the same, sealed or not."""
    monkeypatch.setenv("SOJOURN_HOME", str(tmp_path))
    database = Database(sqlite_url(tmp_path / "db"))
    authority = kept(database, time.time()) if request.param == "sealed" else None
    controller = Controller(database, authority=authority)
    pinned = authority.pinned if authority else str
    join_token = pinned(controller.gate.create(TokenRequest(kind="join", name="test"), time.time())[1])
    token = pinned(controller.gate.create(TokenRequest(kind="api", name="test", admin=True), time.time())[1])
    config = uvicorn.Config(build_app(controller), log_config=None, ws="websockets-sansio")
    shown = Shown(authority, own_names, time.time()).context if authority else None
    server = SharedPort(config, controller.roster, shown)
    listener = socket.create_server(("127.0.0.1", 0))
    url = "{}://{}:{}".format("https" if authority else "http", *listener.getsockname())
    serving = threading.Thread(target=server.run, args=([listener],))
    with patch.object(SharedPort, "capture_signals", nullcontext):
        serving.start()
        async with AsyncClient(url, token) as client:
            node = ShyNode(url, join_token, tmp_path)
            async with node.online():
                yield House(url, client, node, controller.roster.authority)
        server.should_exit = True
        await asyncio.to_thread(serving.join)
    database.close()


async def test_a_node_without_an_address_is_reached_by_the_relay(house: House) -> None:
    (view,) = await house.client.nodes()
    assert view.address is None
    link = await house.link(house.node.ticket())
    assert house.node.claims[0]["relayed"] is True
    data = bytes(range(256)) * 8192

    def exchange() -> bytes:
        with link.socket as connection:
            threading.Thread(target=lambda: (connection.sendall(data), connection.shutdown(socket.SHUT_WR))).start()
            return b"".join(iter(lambda: connection.recv(1 << 16), b""))

    assert await asyncio.to_thread(exchange) == data


async def test_the_agent_checks_the_ticket_of_whoever_is_relayed(house: House) -> None:
    forged = tickets.sign({"for": "tunnel"}, "cd" * 32, time.time() + 60)
    with pytest.raises(Unauthorized, match="not signed for this node"):
        await house.link(forged)
    assert house.node.claims == []


async def test_another_node_s_address_is_passed_over(house: House) -> None:
    """On this machine, where the address leads, another agent listens."""
    stranger = DataPort(lambda: "cd" * 32, {"tunnel": house.node._echo})
    port = stranger.open("127.0.0.1", 0)
    link = await house.link(house.node.ticket(), address=f"127.0.0.1:{port}")
    assert house.node.claims[0]["relayed"] is True
    link.close()
    await stranger.close()


async def test_unknown_and_silent_nodes(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "_FETCH_SECONDS", 0.1)
    with pytest.raises(Unknown, match="no node 'nobody'"):
        await house.link("t", node="nobody")
    house.node.fetching = False
    with pytest.raises(Unreachable, match="did not fetch its caller"):
        await house.link("t")


async def test_an_offline_node_is_refused_at_once(house: House) -> None:
    token = await house.client.create_token("join", "gone")
    gone = FakeAgent(house.url.replace("https:", "http:"), token["token"], "gone")  # on this machine both are spoken
    await gone.dial()
    await gone.hang_up()
    while [node.status for node in await house.client.nodes() if node.name == "gone"] != ["offline"]:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    began = time.monotonic()
    with pytest.raises(Unreachable, match="Node gone is offline"):
        await house.link("t", node="gone")
    assert time.monotonic() - began < relay._FETCH_SECONDS / 2
