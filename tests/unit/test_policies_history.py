"""What a session's samples say of its growth and its use."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sojourn.policies import History, Sample

MB = 2**20


def grown(*sizes: int, step: float = 5.0) -> History:
    history = History("here")
    for number, size in enumerate(sizes):
        history.add(Sample(number * step, size * MB, 0.0, 0))
    return history


def test_growth_is_a_slope_in_bytes_per_second() -> None:
    assert grown(100, 150, 200, 250).growth_bytes_per_s == 10 * MB
    assert grown(100, 100, 100).growth_bytes_per_s == 0
    assert grown(100, 200).growth_bytes_per_s == 0, "two samples are no trend"


def test_growth_that_has_stopped_is_soon_forgotten() -> None:
    assert grown(*range(0, 1000, 100), *[1000] * 12).growth_bytes_per_s == 0


def test_what_was_there_before_a_cell_began_to_grow_does_not_make_it_seem_slow() -> None:
    quiet_then_growing = grown(*[100] * 20, 140, 180, 220, 260, step=2.0)
    assert quiet_then_growing.growth_bytes_per_s == 20 * MB


def test_one_large_array_among_the_newest_samples_is_not_a_pace() -> None:
    array = grown(*[100] * 20, 1100, 1100, step=2.0)
    assert 0 < array.growth_bytes_per_s < 100 * MB, "a trend of 45 seconds, not 1000 MB in two"


def test_two_heartbeats_within_a_moment_are_no_pace() -> None:
    history = grown(100, 110, 120, 130, step=2.0)
    history.add(Sample(6.001, 131 * MB, 0.0, 0))
    history.add(Sample(6.002, 132 * MB, 0.0, 0))
    assert history.growth_bytes_per_s < 6 * MB


def test_a_sample_that_comes_twice_counts_once() -> None:
    history = grown(100, 150, 200)
    history.add(Sample(10.0, 900 * MB, 0.0, 0))
    assert history.growth_bytes_per_s == 10 * MB


def test_the_most_it_used_is_remembered_for_a_day() -> None:
    history = History("here")
    for minute in range(30 * 60):
        cpu = 60.0 * 3 * min(minute, 10)
        history.add(Sample(minute * 60.0, (500 if minute == 3 else 100) * MB, cpu, 0))
        if minute == 60:
            assert history.peak_bytes == 500 * MB
            assert 2.9 < history.busiest_cores < 3.1
            assert history.watched_s == 3600
    assert history.peak_bytes == 100 * MB
    assert history.busiest_cores == 0
    assert history.watched_s < 25 * 3600


def test_work_and_talk_are_noticed_and_a_trickle_is_not() -> None:
    history = History("here")
    for at, cpu, network in ((0, 0, 0), (5, 0.1, 200), (10, 0.2, 400)):
        history.add(Sample(at, 0, cpu, network))
    assert history.active_at is None
    history.add(Sample(15, 0, 4.0, 600))
    assert history.active_at == 15
    history.add(Sample(20, 0, 4.0, 10**6))
    assert history.active_at == 20


def test_a_burst_between_two_heartbeats_is_neither_work_nor_talk() -> None:
    history = History("here")
    for at in range(0, 60, 2):
        history.add(Sample(at, 0, 0.5 if at > 30 else 0.0, 5000 if at > 30 else 0))
    assert history.active_at is None


def test_what_comes_in_while_pages_are_on_their_way_is_no_growth() -> None:
    history = grown(0, 500, 1000)
    history.interrupt(20.0)
    history.add(Sample(20.0, 2000 * MB, 0.0, 0))
    assert (history.growth_bytes_per_s, history.peak_bytes) == (0, 1000 * MB)
    for at in (25, 30, 35):
        history.add(Sample(at, 2000 * MB, 0.0, 0))
    assert history.growth_bytes_per_s == 0


@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 2**40), st.floats(0, 1e6)), max_size=60))
def test_no_samples_upset_it(samples: list[tuple[float, int, float]]) -> None:
    history = History("here")
    for at, memory, cpu in samples:
        history.add(Sample(at, memory, cpu, 0))
        assert history.cores_used >= 0
        assert history.watched_s >= 0
        assert abs(history.growth_bytes_per_s) < float("inf")
