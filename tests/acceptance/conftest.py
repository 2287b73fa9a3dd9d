"""The real parts, together: runc, CRIU, Jupyter. Where they can't run the tests say why and skip."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import suppress
from typing import Any

import pytest

import sojourn
from sojourn.testing import end_kernel, stack, start_kernel


def why_no_live_move() -> str:
    """The reason why this machine can't move a live session; empty when it can."""
    from sojourn.movers import probe

    strategies, refusals = probe()
    return "" if "lazy" in strategies else refusals.get("lazy", "lazy moves are not possible here")


@pytest.fixture(scope="session")
def sojourner() -> Iterator[sojourn.Client]:
    """A client of a Sojourn with the nodes `here` and `there`, one for all tests."""
    if reason := why_no_live_move():
        pytest.skip(reason)
    with stack() as client:
        yield client


@pytest.fixture
def kernel(sojourner: sojourn.Client) -> Iterator[tuple[Any, Any]]:
    """A fresh kernel of ours and a blocking client attached to it."""
    manager, client = start_kernel()
    yield manager, client
    end_kernel(manager, client)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """A test that fails says what became of its session: what its client saw is only the last of it."""
    try:
        return (yield)
    except Exception as failed:
        with suppress(Exception):  # the failure is worth more than what explains it
            for line in _fate(item):
                failed.add_note(line)
        raise


def _fate(item: pytest.Item) -> Iterator[str]:
    found = getattr(item, "funcargs", {})
    client, manager = found["sojourner"], found["kernel"][0]
    session = client.session(manager.provisioner.session)
    yield f"{session.name} on {session.node}: {session.status}, epoch {session.epoch}. {session.reason}".rstrip()
    for move in client.moves():
        if move.session in (session.id, session.name):
            why = f", {move.error}" if move.error else ""
            yield f"{move.strategy} from {move.source} to {move.target}: {move.phase}{why}"
