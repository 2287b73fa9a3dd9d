"""Clocks that go on, and the one case in which they would go back."""

from __future__ import annotations

import os
import time

import pytest

from sojourn.errors import Incompatible
from sojourn.movers.clocks import check_clock, monotonic_in, offset_in


def test_an_offset_is_added_to_the_machines_clock() -> None:
    assert offset_in("monotonic  -2  500000000\nboottime   -2   0\n") == -1.5
    assert offset_in("") == 0
    assert abs(monotonic_in(os.getpid()) - time.monotonic()) < 1


@pytest.mark.parametrize(("images", "has_namespaces", "now"), [({"timens-0.img"}, True, 5), (set(), False, 200)])
def test_a_clock_goes_on_where_it_is_carried_or_stands_higher(
    images: set[str], has_namespaces: bool, now: float
) -> None:
    check_clock(100.0, images, has_namespaces=has_namespaces, now=now)


@pytest.mark.parametrize(("images", "has_namespaces"), [({"timens-0.img"}, False), (set(), True)])
def test_a_clock_that_would_go_back_is_refused(images: set[str], has_namespaces: bool) -> None:
    with pytest.raises(Incompatible, match="go back by 95 s"):
        check_clock(100.0, images, has_namespaces=has_namespaces, now=5.0)
