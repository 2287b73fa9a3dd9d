"""The real parts, together: runc, CRIU, Jupyter. Where they can't run the tests say why and skip."""

from __future__ import annotations

from collections.abc import Iterator
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
