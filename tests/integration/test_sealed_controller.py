"""A controller that speaks TLS with an authority of its own, and those who answer in its place."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, nullcontext
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from unittest.mock import patch

import pytest
import uvicorn

from sojourn.agent import data_port
from sojourn.agent.data_port import DataPort
from sojourn.agent.identity import Identity
from sojourn.agent.journal import Journal
from sojourn.agent.line import Line
from sojourn.client import AsyncClient, Client
from sojourn.client.trust import authorities, trust
from sojourn.client.words import TokenRequest
from sojourn.controller import Controller, port
from sojourn.controller.app import build_app
from sojourn.controller.authority import Authority, Shown, kept
from sojourn.controller.port import SharedPort
from sojourn.database import Database, sqlite_url
from sojourn.errors import Invalid, Unauthorized
from sojourn.model import Load
from sojourn.transport.tls import presenting

pytestmark = pytest.mark.integration


class House:
    """A controller, and a token of each kind that names its authority."""

    def __init__(self, folder: Path) -> None:
        self.database = Database(sqlite_url(folder / "db"))
        self.authority = kept(self.database, time.time())
        self.controller = Controller(self.database, authority=self.authority)
        self.names = {"localhost"}
        self.shown = Shown(self.authority, lambda: frozenset(self.names), time.time())
        config = uvicorn.Config(build_app(self.controller), log_config=None, ws="websockets-sansio")
        self.server = SharedPort(config, self.controller.roster, self.shown.context)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "{}:{}".format(*self.listener.getsockname())
        self.url = f"https://{self.address}"
        self.secret = self.controller.gate.create(TokenRequest(kind="api", name="ada", admin=True), time.time())[1]
        self.token = self.authority.pinned(self.secret)
        joining = self.controller.gate.create(TokenRequest(kind="join", name="nodes"), time.time())[1]
        self.join_token = self.authority.pinned(joining)


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setenv("SOJOURN_HOME", str(tmp_path))
    made = House(tmp_path)
    serving = threading.Thread(target=made.server.run, args=([made.listener],))
    with patch.object(SharedPort, "capture_signals", nullcontext):
        serving.start()
        yield made
        made.server.should_exit = True
        await asyncio.to_thread(serving.join)
    made.database.close()


class Impostor:
    """Answers in the controller's place, with a certificate of another authority, and hears what it is told."""

    def __init__(self, says: str, authority: Authority) -> None:
        heard = self.heard = list[str]()

        class Answers(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                heard.append(f"{self.path} {self.headers}")
                self.send_response(200)
                self.end_headers()
                self.wfile.write(says.encode())

            def log_message(self, *_: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Answers)
        context = presenting(authority.chain((), time.time()))
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign, assignment]
        self.url = f"https://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def end(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def other() -> Authority:
    return Authority.new(time.time())


@pytest.fixture
def impostors(house: House, other: Authority) -> Iterator[tuple[Impostor, Impostor]]:
    """One that names its own authority, and one that names the controller's."""
    both = Impostor(other.certificate, other), Impostor(house.authority.certificate, other)
    yield both
    for one in both:
        one.end()


async def test_the_first_connection_settles_whom_to_trust(house: House) -> None:
    async with AsyncClient(house.url, house.token) as client:
        assert await client.nodes() == []
        created = await client.create_token("join", "more")
    assert created["token"].endswith(f".{house.authority.fingerprint}")
    (known,) = authorities().iterdir()
    assert known.read_text() == house.authority.certificate
    assert trust(house.url, house.authority.fingerprint, authorities())  # asks nobody


async def test_who_answers_with_another_authority_is_told_no_token(
    house: House, other: Authority, impostors: tuple[Impostor, Impostor]
) -> None:
    for impostor, why in zip(impostors, (other.fingerprint, "has no certificate of it"), strict=True):
        for _ in range(2):  # the second time, its authority may be known
            with Client(impostor.url, house.token) as client, pytest.raises(Unauthorized) as refused:
                await asyncio.to_thread(client.nodes)
            assert why in refused.value.message
            assert house.authority.fingerprint in refused.value.message
        assert impostor.heard
        assert all("/api/authority" in said for said in impostor.heard)
        assert not any(house.secret in said for said in impostor.heard)


async def test_neither_does_an_agent_tell_them(
    house: House, impostors: tuple[Impostor, Impostor], tmp_path: Path
) -> None:
    identity = Identity.load(tmp_path / "node.json", house.join_token)
    with closing(Journal(tmp_path / "journal.sqlite", "boot")) as journal:
        for impostor in impostors:
            line = Line(impostor.url, identity, journal, lambda: pytest.fail("said hello"), Load, lambda _: None)
            with pytest.raises(Unauthorized, match=house.authority.fingerprint):
                await line._talk()
            assert not any(house.join_token.partition(".")[0] in said for said in impostor.heard)


async def test_a_token_without_a_fingerprint_is_told_what_is_missing(house: House) -> None:
    async with AsyncClient(house.url, house.secret) as client:
        with pytest.raises(Unauthorized, match=house.authority.fingerprint) as refused:
            await client.nodes()
    assert "token create" in refused.value.hint


async def test_on_this_machine_plain_is_spoken_too_and_from_elsewhere_it_is_refused(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = house.url.replace("https", "http")
    async with AsyncClient(url, house.token) as client:
        assert await client.nodes() == []
    monkeypatch.setattr(port, "is_from_here", lambda connection: False)
    async with AsyncClient(url, house.token) as client:
        with pytest.raises(Invalid, match="speaks TLS with other machines"):
            await client.nodes()
    async with AsyncClient(house.url, house.token) as client:
        assert await client.nodes() == []


async def test_the_port_goes_on_with_a_new_certificate(house: House) -> None:
    def shown() -> str:
        with socket.create_connection(house.address.split(":")) as connection:  # type: ignore[arg-type]
            context = ssl._create_unverified_context()
            with context.wrap_socket(connection) as sealed:
                return ssl.DER_cert_to_PEM_cert(sealed.getpeercert(True) or b"")

    before = await asyncio.to_thread(shown)
    assert await asyncio.to_thread(shown) == before
    house.names.add("sojourn.example")
    assert house.shown.renew(time.time())
    assert await asyncio.to_thread(shown) != before
    async with AsyncClient(house.url, house.token) as client:
        assert await client.nodes() == []


async def test_a_data_port_takes_nothing_plain_from_elsewhere(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = Identity(tmp_path / "node.json", "")
    context = presenting(identity_chain(identity, house.authority))

    async def answer(door: DataPort, said: bytes) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", door.open("127.0.0.1", 0))
        writer.write(said)
        line = await reader.readline()
        writer.close()
        await door.close()
        return str(json.loads(line)["error"]["message"])

    monkeypatch.setattr(data_port, "is_from_here", lambda connection: False)
    sealed = DataPort(lambda: "ab" * 32, {}, lambda: context)
    assert "speaks TLS with other machines" in await answer(sealed, b'{"sojourn": 1, "ticket": "t"}\n')
    unsealed = DataPort(lambda: "ab" * 32, {})
    assert "has no certificate" in await answer(unsealed, b"\x16\x03\x01")
    assert "not a session ticket" in await answer(unsealed, b'{"sojourn": 1, "ticket": "t"}\n')


def identity_chain(identity: Identity, authority: Authority) -> str:
    certificate = authority.certify(identity.request(), "n", time.time())
    return identity._new_key + certificate
