from __future__ import annotations

import socket
import threading

from sojourn.transport.loop import READ, WRITE, Loop


def test_what_is_ready_is_told_and_what_is_forgotten_is_not() -> None:
    loop, told = Loop(), []
    one, other = socket.socketpair()
    with one, other:
        loop.watch(one, READ | WRITE, told.append)
        loop.run_once(0)
        assert told == [WRITE]
        loop.watch(one, READ, told.append)
        loop.run_once(0)
        other.send(b"x")
        loop.run_once(1)
        assert told == [WRITE, READ]
        loop.forget(one)
        loop.forget(one)
        loop.run_once(0)
        assert told == [WRITE, READ]
    loop.close()


def test_a_file_forgotten_in_the_same_round_is_not_told_any_more() -> None:
    loop, told = Loop(), []
    pairs = [socket.socketpair() for _ in range(2)]

    def first_come(index: int) -> None:
        told.append(index)
        loop.forget(pairs[1 - index][0])

    for index, (one, other) in enumerate(pairs):
        loop.watch(one, READ, lambda _ready, index=index: first_come(index))  # type: ignore[misc]
        other.send(b"x")
    loop.run_once(1)
    assert len(told) == 1
    for one, other in pairs:
        one.close()
        other.close()
    loop.close()


def test_timers_fire_in_the_order_they_are_due_unless_cancelled() -> None:
    loop, told = Loop(), []
    loop.later(0.02, lambda: told.append("late"))
    loop.later(0.001, lambda: told.append("early"))
    loop.later(0.0, lambda: told.append("never")).cancel()
    while len(told) < 2:
        loop.run_once()
    assert told == ["early", "late"]
    loop.close()


def test_other_threads_get_in_and_in_order() -> None:
    loop, told = Loop(), []

    def other() -> None:
        for number in range(100):
            loop.soon(lambda number=number: told.append(number))  # type: ignore[misc]
        loop.soon(loop.stop)

    threading.Thread(target=other).start()
    loop.run()
    assert told == list(range(100))
    loop.close()
