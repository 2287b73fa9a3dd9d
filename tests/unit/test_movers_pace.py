"""When a stream is packed: made-up links and compressors, and what the law makes of them."""

from __future__ import annotations

import pytest

from sojourn.movers.pace import Pace

MEGABYTE = 10**6


def seconds(packed: bool, link_mb_s: float, packer_mb_s: float, gain: float) -> float:
    """For a megabyte, one after the other: packed, and taken by the link."""
    return 1 / packer_mb_s + 1 / gain / link_mb_s if packed else 1 / link_mb_s


def send(pace: Pace, megabytes: int, link_mb_s: float, packer_mb_s: float = 400, gain: float = 3) -> tuple[int, float]:
    """Send so much; how many megabytes were packed, and how long all took."""
    packed_mb, took_s = 0, 0.0
    for _ in range(megabytes):
        packed = pace.packs()
        cost = seconds(packed, link_mb_s, packer_mb_s, gain)
        pace.took(packed, MEGABYTE, cost)
        packed_mb, took_s = packed_mb + packed, took_s + cost
    return packed_mb, took_s


@pytest.mark.parametrize("link_mb_s", [1.2, 12.5, 125])
def test_a_slow_link_has_nearly_everything_packed(link_mb_s: float) -> None:
    packed_mb, took_s = send(Pace(), 1000, link_mb_s)
    assert packed_mb > 930
    assert took_s < 1.04 * 1000 * seconds(True, link_mb_s, 400, 3)


@pytest.mark.parametrize("link_mb_s", [1250, 5000])
def test_a_fast_link_has_nothing_packed_but_what_is_tried(link_mb_s: float) -> None:
    packed_mb, took_s = send(Pace(), 1000, link_mb_s)
    assert 1 <= packed_mb < 20
    assert took_s < 1.04 * 1000 / link_mb_s


def test_a_fast_link_is_found_out_within_three_megabytes() -> None:
    pace = Pace()
    send(pace, 4, 1250)
    assert not any(send(pace, 1, 1250)[0] for _ in range(20))


def test_a_sender_that_waited_for_a_core_changes_nothing() -> None:
    pace = Pace()
    send(pace, 20, 1250)
    pace.took(False, MEGABYTE // 10, 0.003)
    assert not pace.packs()


def test_what_can_not_be_packed_costs_at_most_a_fiftieth() -> None:
    _, took_s = send(Pace(), 1000, link_mb_s=125, packer_mb_s=1000, gain=1)
    assert took_s < 1.025 * 1000 / 125


def test_it_packs_when_the_link_gets_slow_and_stops_when_it_gets_fast() -> None:
    pace = Pace()
    send(pace, 200, link_mb_s=5000)
    assert send(pace, 200, link_mb_s=12.5)[0] > 190
    assert send(pace, 400, link_mb_s=5000)[0] < 300
    assert send(pace, 400, link_mb_s=5000)[0] < 20


def test_it_packs_again_when_what_is_sent_can_be_packed_again() -> None:
    pace = Pace()
    send(pace, 200, link_mb_s=12.5, gain=1)
    assert send(pace, 200, link_mb_s=12.5, gain=4)[0] > 150
