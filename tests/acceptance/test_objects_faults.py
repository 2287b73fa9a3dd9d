"""Somebody dies in the middle of a move by objects: the session is somewhere, whole, and answers."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import sojourn
from sojourn.errors import SojournError
from sojourn.testing import end_kernel, execute, session_of, start_kernel
from sojourn.testing.parts import Parts, parts, until

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(180)]

SLOW = """
class Slow:
    "Takes a while to be made again."
    def __reduce__(self): return (__import__('time').sleep, (4,))
slow, precious = Slow(), [[1], 2]; alias = precious[0]
"""


@pytest.fixture(scope="module")
def running() -> Iterator[Parts]:
    with parts() as made:
        yield made


@pytest.mark.parametrize("victim", ["here", "there", "controller"])
def test_who_is_killed_in_the_middle_of_a_move_takes_nothing_along(running: Parts, victim: str) -> None:
    manager, client = start_kernel(sandbox="process", needs="here")
    try:
        execute(client, SLOW)
        with sojourn.Client(running.controller.url, running.controller.token) as sojourner:
            moving = threading.Thread(target=_try_to_move, args=(sojourner, session_of(manager)))
            moving.start()
            until(lambda: stands_still(sojourner, manager), "the kernel to stand still")
            time.sleep(0.5)
            running.kill(victim)
            running.start(victim)
            running.await_nodes()
            moving.join(60)
            until(lambda: is_at_rest(sojourner, manager), "the session to be at rest")
            assert manager.is_alive()
            assert execute(client, "precious, alias is precious[0]") == "([[1], 2], True)"
            assert sojourner.session(session_of(manager)).node == ("there" if victim == "controller" else "here")
    finally:
        end_kernel(manager, client)


def _try_to_move(sojourner: sojourn.Client, session: str) -> None:
    with contextlib.suppress(SojournError):
        sojourner.move(session, "there", carrier="objects", wait="filled")


def stands_still(sojourner: sojourn.Client, manager: Any) -> bool:
    moves = sojourner.moves()
    return bool(moves) and moves[0].session == session_of(manager) and moves[0].report.froze


def is_at_rest(sojourner: sojourn.Client, manager: Any) -> bool:
    with contextlib.suppress(SojournError):
        session = sojourner.session(session_of(manager))
        return session.status == "running" and session.move is None
    return False
