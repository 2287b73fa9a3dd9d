"""Sealed connections over socket pairs: what passes, what does not, and what whoever dials is told."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from sojourn.agent.identity import Identity
from sojourn.controller.authority import Authority
from sojourn.transport import sealed
from sojourn.transport.routes import Route
from sojourn.transport.tls import HANDSHAKE, presenting


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.new(time.time())


class Node:
    """What a node called `n` shows, and the two ends of a connection to it."""

    def __init__(self, authority: Authority, folder: Path) -> None:
        identity = Identity(folder / "node.json", "")
        certificate = authority.certify(identity.request(), "n", time.time())
        self.authority, self.context = authority, presenting(identity._new_key + certificate)
        self._made: list[socket.socket] = []

    def wire(self) -> tuple[socket.socket, socket.socket]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            ours = socket.create_connection(listener.getsockname())
            return self.kept(ours, listener.accept()[0])

    def kept(self, *connections: socket.socket) -> tuple[socket.socket, socket.socket]:
        for one in connections:
            one.settimeout(10)
        self._made += connections
        ours, theirs = connections
        return ours, theirs

    def pair(self, node: str = "n") -> tuple[socket.socket, socket.socket]:
        """The plain ends: of who dials, and of the node."""
        ours, theirs = self.wire()
        dialled = sealed.dialled(ours, self.authority.certificate, node)
        return self.kept(dialled, sealed.answered(theirs, self.context))

    def close(self) -> None:
        for one in self._made:
            one.close()


@pytest.fixture
def node(authority: Authority, tmp_path: Path) -> Iterator[Node]:
    made = Node(authority, tmp_path)
    yield made
    made.close()


def all_of(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def refusal(connection: socket.socket) -> dict[str, str]:
    answer = json.loads(all_of(connection))
    assert answer["ok"] is False
    error: dict[str, str] = answer["error"]
    return error


def test_bytes_pass_both_ways_at_once_and_each_end_s_end(node: Node) -> None:
    ours, theirs = node.pair()
    there, back = bytes(range(256)) * 8192, bytes(reversed(range(256))) * 8192

    def say(connection: socket.socket, data: bytes) -> None:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)

    sayers = [threading.Thread(target=say, args=args) for args in ((ours, there), (theirs, back))]
    for sayer in sayers:
        sayer.start()
    heard: list[bytes] = []
    hearer = threading.Thread(target=lambda: heard.append(all_of(theirs)))
    hearer.start()
    assert all_of(ours) == back
    hearer.join()
    assert heard == [there]
    for sayer in sayers:
        sayer.join()


def test_who_has_said_all_still_hears(node: Node) -> None:
    ours, theirs = node.pair()
    ours.shutdown(socket.SHUT_WR)
    assert theirs.recv(1) == b""
    theirs.sendall(b"x" * 3_000_000)
    theirs.close()
    assert len(all_of(ours)) == 3_000_000


def test_one_who_does_not_read_makes_the_other_wait_and_loses_nothing(node: Node) -> None:
    ours, theirs = node.pair()
    theirs.settimeout(0.2)
    sent = 0
    with suppress(TimeoutError):
        while sent < 1 << 30:
            sent += theirs.send(b"z" * (1 << 16))
    assert sent < 1 << 27
    theirs.close()
    assert len(all_of(ours)) == sent


def test_on_the_wire_nothing_can_be_read(node: Node) -> None:
    ours, theirs = node.wire()
    plain = sealed.knock(ours, Route("address", node="n", authority=node.authority.certificate), "the ticket")
    time.sleep(0.05)
    said = theirs.recv(1 << 16)
    assert said[:1] == HANDSHAKE
    assert b"ticket" not in said
    plain.close()


def test_the_relay_s_line_is_plain_and_the_ticket_behind_it_sealed(node: Node) -> None:
    ours, theirs = node.wire()
    way = Route("address", "n", node="n", authority=node.authority.certificate)
    plain = sealed.knock(ours, way, "the ticket")
    first = b""
    while not first.endswith(b"\n"):
        first += theirs.recv(1)
    assert json.loads(first) == {"sojourn": 1, "node": "n"}
    theirs_plain = sealed.answered(theirs, node.context)
    assert json.loads(theirs_plain.recv(1000)) == {"sojourn": 1, "ticket": "the ticket"}
    node.kept(plain, theirs_plain)


@pytest.mark.parametrize("vouched", [True, False])
def test_who_is_not_the_one_meant_hears_nothing(node: Node, vouched: bool) -> None:
    """Another node of the same controller, or one of another's."""
    ours, theirs = node.wire()
    authority = node.authority if vouched else Authority.new(time.time())
    way = Route("address", node="another" if vouched else "n", authority=authority.certificate)
    plain = sealed.knock(ours, way, "the ticket")
    node.kept(plain, heard := sealed.answered(theirs, node.context))
    assert refusal(plain)["code"] == "unauthorized"
    assert all_of(heard) == b""


def test_a_refusal_in_plain_words_is_passed_on_and_a_yes_is_not(node: Node) -> None:
    for said, code in (
        (b'{"ok": false, "error": {"code": "busy", "message": "m"}}\n', "busy"),
        (b'{"ok": true}\n', "unreachable"),
        (b"HTTP/1.1 400\r\n", "unreachable"),
    ):
        ours, theirs = node.wire()
        plain = sealed.dialled(ours, node.authority.certificate, "n")
        theirs.recv(1 << 16)
        theirs.sendall(said)
        node.kept(plain, theirs)
        assert refusal(plain)["code"] == code


def test_a_connection_that_is_cut_never_looks_as_if_all_was_said(node: Node) -> None:
    """Whoever is on the way can end a connection, but not a stream: the other end then can't be written to either."""
    wires = node.wire(), node.wire()
    (ours, middle), (onward, theirs) = wires
    plain = sealed.dialled(ours, node.authority.certificate, "n")
    far = sealed.answered(theirs, node.context)
    node.kept(plain, far)
    pouring = [threading.Thread(target=pour, args=pair, daemon=True) for pair in ((middle, onward), (onward, middle))]
    for one in pouring:
        one.start()
    plain.sendall(b"hello")
    assert far.recv(10) == b"hello"
    onward.shutdown(socket.SHUT_WR)  # a TCP end, without TLS's own
    assert far.recv(10) == b""
    with pytest.raises(OSError, match=r"Broken pipe|reset"):
        go_on_saying(far)


def go_on_saying(connection: socket.socket) -> None:
    for _ in range(100):
        connection.send(b"x" * 65536)
        time.sleep(0.01)


def pour(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(1 << 16):
            sink.sendall(data)
    except OSError:
        pass


def test_a_reset_is_passed_on(node: Node) -> None:
    ours, theirs = node.wire()
    plain = sealed.dialled(ours, node.authority.certificate, "n")
    far = sealed.answered(theirs, node.context)
    node.kept(plain, far)
    plain.sendall(b"hello")
    assert far.recv(10) == b"hello"
    far.send(b"unread")
    time.sleep(0.05)
    plain.close()  # with bytes unread: a reset
    with pytest.raises(OSError, match=r"Broken pipe|reset"):
        go_on_saying(far)


def test_who_never_answers_is_given_up(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed, "HANDSHAKE_SECONDS", 0.05)
    ours, theirs = node.wire()
    plain = sealed.dialled(ours, node.authority.certificate, "n")
    node.kept(plain, theirs)
    assert refusal(plain)["code"] == "unreachable"


def test_many_connections_take_few_threads(node: Node) -> None:
    pairs = [node.pair() for _ in range(20)]
    for ours, theirs in pairs:
        ours.sendall(b"x")
        assert theirs.recv(1) == b"x"
    assert len([one for one in threading.enumerate() if one.name == "tls"]) <= 4
