from __future__ import annotations

import json
import socket
from contextlib import suppress
from typing import Any

import pytest

from sojourn.errors import Invalid, TunnelFailed, Unauthorized
from sojourn.rider.door import Attach, Door
from sojourn.transport.loop import Loop

FIRST = {"attach": "tunnel", "anchor": "a1", "incarnation": 3, "epoch": 1, "secret": "s"}


def line(**changes: Any) -> bytes:
    return json.dumps({**FIRST, **changes}).encode()


def test_a_first_line_says_what_is_attached() -> None:
    attach = Attach(line(), "s")
    assert (attach.what, attach.anchor, attach.incarnation, attach.epoch) == ("tunnel", "a1", 3, 1)
    assert Attach(line(attach="control", anchor=None, secret=None), None).what == "control"


@pytest.mark.parametrize("secret", ["", "S", "ss", None, 5])
def test_only_the_right_secret_passes(secret: object) -> None:
    with pytest.raises(Unauthorized):
        Attach(line(secret=secret), "s")


@pytest.mark.parametrize(
    "wrong", [b"nonsense", b"[]", line(attach="lunch"), line(anchor=""), line(incarnation="x"), line(epoch=None)]
)
def test_what_means_nothing_is_refused(wrong: bytes) -> None:
    with pytest.raises(Invalid):
        Attach(wrong, None)


class House:
    """A door and who came through."""

    def __init__(self, secret: str | None = "s", where: str = "127.0.0.1:0") -> None:
        self.loop = Loop()
        self.came: list[tuple[Attach, socket.socket, bytes]] = []
        self.door = Door(self.loop, where, secret, check=self.check, attach=lambda *what: self.came.append(what))

    def check(self, attach: Attach) -> None:
        if attach.incarnation < 3:
            raise TunnelFailed("too old")

    def visit(self) -> socket.socket:
        if self.door.address.startswith("/"):
            visitor = socket.socket(socket.AF_UNIX)
            visitor.connect(self.door.address)
        else:
            host, port = self.door.address.split(":")
            visitor = socket.create_connection((host, int(port)))
        visitor.settimeout(5)
        return visitor

    def run(self, rounds: int = 4) -> None:
        for _ in range(rounds):
            self.loop.run_once(0.02)


def test_a_line_may_come_in_pieces_and_more_behind_it() -> None:
    house = House()
    with house.visit() as visitor:
        for piece in (line()[:10], line()[10:] + b"\nmore"):
            visitor.sendall(piece)
            house.run()
        assert json.loads(visitor.recv(100)) == {"ok": True, "incarnation": 3}
    assert house.came[0][2] == b"more"
    house.came[0][1].close()


def test_who_is_turned_away_hears_why_and_nothing_else() -> None:
    house = House()
    for first, word in ((line(incarnation=2), "too old"), (line(secret="x"), "secret"), (b"?", "JSON")):
        with house.visit() as visitor:
            visitor.sendall(first + b"\n")
            house.run()
            answer = json.loads(visitor.recv(1000))
            assert (answer["ok"], word in answer["error"], visitor.recv(1)) == (False, True, b"")
    assert not house.came


def test_a_passed_socket_is_taken_and_the_messenger_dismissed(tmp_path: Any) -> None:
    house = House(where=str(tmp_path / "door"))
    here, there = socket.socketpair()
    with house.visit() as messenger, here, there:
        socket.send_fds(messenger, [line() + b"\n"], [there.fileno()])
        house.run()
        assert json.loads(messenger.recv(100))["ok"]
        assert messenger.recv(1) == b""
        with house.came[0][1] as taken:
            taken.send(b"hello")
            assert here.recv(10) == b"hello"
            assert not taken.get_inheritable()


def test_without_a_secret_a_peer_with_a_pid_here_is_not_heard(tmp_path: Any) -> None:
    house = House(secret=None, where=str(tmp_path / "door"))
    with house.visit() as visitor:
        visitor.sendall(line() + b"\n")
        house.run()
        with suppress(ConnectionResetError):  # it was closed with our line unread
            assert visitor.recv(1) == b""
    assert not house.came


def test_hanging_up_closes_who_has_said_nothing_yet() -> None:
    house = House()
    with house.visit() as visitor:
        house.run()
        house.door.hang_up()
        assert visitor.recv(1) == b""
    with house.visit() as another:
        another.sendall(line() + b"\n")
        house.run()
        assert json.loads(another.recv(100))["ok"]
    house.came[0][1].close()
