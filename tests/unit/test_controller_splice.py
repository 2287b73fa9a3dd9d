from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable, Iterator

import pytest

from sojourn.controller.splice import PIECE, Splice
from sojourn.transport.loop import Loop


class Scene:
    """A caller and an agent, and the splice between them."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.caller, near = _joined()
        self.agent, far = _joined()
        self.carried: list[int] = []
        self.splice = Splice(self.loop, near, far, self.carried.append)

    def turn(self, condition: Callable[[], bool] = lambda: False, rounds: int = 200) -> None:
        for _ in range(rounds):
            if condition():
                return
            self.loop.run_once(0.005)

    def pour(self, source: socket.socket) -> int:
        """Write until nobody takes any more; how many bytes."""
        poured = 0
        while True:
            try:
                poured += source.send(bytes(1 << 16))
            except BlockingIOError:
                self.turn(rounds=4)
                try:
                    poured += source.send(bytes(1 << 16))
                except BlockingIOError:
                    return poured

    def drain(self, sink: socket.socket, count: int) -> int:
        drained = 0
        while drained < count:
            try:
                found = len(sink.recv(1 << 20))
            except BlockingIOError:
                self.turn(rounds=2)
                continue
            if not found:
                break
            drained += found
        return drained


def _joined() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        other, _ = server.accept()
    one.setblocking(False)
    return one, other


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    scene.splice.close()
    scene.caller.close()
    scene.agent.close()
    scene.loop.close()


def heard(connection: socket.socket) -> bytes | None:
    try:
        return connection.recv(4096)
    except BlockingIOError:
        return None


def test_what_comes_on_either_goes_out_on_the_other(scene: Scene) -> None:
    scene.caller.send(b"ping")
    scene.turn(rounds=3)
    assert heard(scene.agent) == b"ping"
    scene.agent.send(b"pong")
    scene.turn(rounds=3)
    assert heard(scene.caller) == b"pong"


def test_an_end_is_passed_on_and_the_other_way_stays_open(scene: Scene) -> None:
    scene.caller.send(b"last words")
    scene.caller.shutdown(socket.SHUT_WR)
    scene.turn(rounds=5)
    assert heard(scene.agent) == b"last words"
    assert heard(scene.agent) == b""
    scene.agent.send(b"still here")
    scene.turn(rounds=3)
    assert heard(scene.caller) == b"still here"
    assert scene.carried == []
    scene.agent.close()
    scene.turn(lambda: bool(scene.carried))
    assert heard(scene.caller) == b""
    assert scene.carried == [len("last words") + len("still here")]


def test_a_reset_is_passed_on(scene: Scene) -> None:
    scene.caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    scene.caller.close()
    scene.turn(lambda: bool(scene.carried))
    with pytest.raises(ConnectionResetError) as reset:
        scene.agent.recv(1)
    assert reset.value.errno == errno.ECONNRESET
    assert scene.carried == [0]


def test_who_does_not_read_makes_the_other_wait_and_nothing_is_lost(scene: Scene) -> None:
    poured = scene.pour(scene.caller)
    waiting = sum(len(one.waiting) for one in (scene.splice._there, scene.splice._back))
    assert 0 < waiting <= PIECE
    scene.agent.send(b"meanwhile")
    scene.turn(rounds=3)
    assert heard(scene.caller) == b"meanwhile"
    scene.caller.shutdown(socket.SHUT_WR)
    assert scene.drain(scene.agent, poured + 1) == poured


def test_one_that_waits_for_a_reader_costs_no_time(scene: Scene) -> None:
    scene.pour(scene.caller)
    ready: list[int] = []
    for file, key in list(scene.loop._selector.get_map().items()):
        callback = key.data
        scene.loop.watch(file, key.events, lambda mask, callback=callback: (ready.append(mask), callback(mask)))
    for _ in range(20):
        scene.loop.run_once(0.001)
    assert ready == []
