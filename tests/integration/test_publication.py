"""What a kernel publishes reaches all who read it, however late; who doesn't read learns that there was more."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
import zmq

from sojourn.front import publication
from sojourn.front.publication import Publication
from sojourn.transport.loop import Loop

pytestmark = pytest.mark.integration

LIMIT = 20
"""Messages that ZeroMQ itself keeps for each listener, at either end."""
MORE = 3000
BODY = b"x" * 2000
NOTICE = [b"there was more"]


@dataclass
class Stage:
    zone: zmq.Context[zmq.Socket[bytes]]
    socket: zmq.Socket[bytes]
    loop: Loop = field(default_factory=Loop)
    listeners: list[zmq.Socket[bytes]] = field(default_factory=list)

    def listener(self) -> zmq.Socket[bytes]:
        made = self.zone.socket(zmq.SUB)
        made.rcvhwm = LIMIT
        made.rcvbuf = 4096
        made.subscribe(b"")
        made.connect(self.socket.getsockopt_string(zmq.LAST_ENDPOINT))
        assert self.socket.poll(5000)
        assert self.socket.recv() == b"\x01"
        self.listeners.append(made)
        return made

    def until(self, happened: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 10
        while not happened():
            assert time.monotonic() < deadline, "it did not happen in time"
            self.loop.later(0.005, lambda: None)
            self.loop.run_once()


@pytest.fixture
def stage() -> Iterator[Stage]:
    zone = zmq.Context()
    socket = zone.socket(zmq.XPUB)
    socket.sndhwm = LIMIT
    socket.xpub_verboser = True
    socket.sndbuf = 4096
    socket.bind("tcp://127.0.0.1:*")
    made = Stage(zone, socket)
    yield made
    for one in (*made.listeners, socket):
        one.close(0)
    zone.term()
    made.loop.close()


def heard(listener: zmq.Socket[bytes], into: list[bytes]) -> None:
    while listener.poll(0):
        into.append(listener.recv_multipart()[0])


def test_who_reads_late_misses_nothing(stage: Stage) -> None:
    published = Publication(stage.socket)
    published.begin(stage.loop, lambda: pytest.fail("nothing was dropped"))
    late, got = stage.listener(), list[bytes]()
    for number in range(MORE):
        published.send([b"%d" % number, BODY])
    stage.until(lambda: heard(late, got) or len(got) == MORE)
    assert got == [b"%d" % number for number in range(MORE)]


def test_who_does_not_read_holds_up_the_others_no_longer_than_that(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publication, "PATIENCE_SECONDS", 0.2)
    published = Publication(stage.socket)
    published.begin(stage.loop, lambda: pytest.fail("so much is kept"))
    good, stuck, got = stage.listener(), stage.listener(), list[bytes]()
    for number in range(MORE):
        published.send([b"%d" % number, BODY])
    stage.until(lambda: heard(good, got) or len(got) == MORE)
    assert got == [b"%d" % number for number in range(MORE)]

    missed: list[bytes] = []
    heard(stuck, missed)
    stage.until(lambda: heard(stuck, missed) or not stuck.poll(100))
    published.send([b"the end"])
    stage.until(lambda: heard(stuck, missed) or missed[-1] == b"the end")
    assert len(missed) < MORE


def test_where_more_comes_than_is_kept_it_says_so_at_that_place(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publication, "KEPT_BYTES", 100 * len(BODY))
    published = Publication(stage.socket)
    published.begin(stage.loop, lambda: published.send(NOTICE))
    late, got = stage.listener(), list[bytes]()
    for number in range(MORE):
        published.send([b"%d" % number, BODY])
    published.send([b"the end"])
    stage.until(lambda: heard(late, got) or got[-1:] == [b"the end"])
    before = -1
    for place, one in enumerate(got[:-1]):
        if one.isdigit():
            assert int(one) == before + 1 or got[place - 1] == NOTICE[0]
            before = int(one)
    assert NOTICE[0] in got
    assert len(got) < MORE
