"""Small traces whose cost and waiting can be reckoned by hand, and what holds of any."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sojourn.errors import DoesNotFit
from sojourn.policies import Rules
from sojourn.savings import AlwaysOn, Cull, Event, Habits, Policies, Regime, Setting, Terms, Times, invent, replay
from sojourn.savings.prices import NodeKind, Prices
from sojourn.savings.regimes import HOUR
from sojourn.savings.replay import RERUN_SHARE, Replay

KIND = NodeKind("box", cores=2, memory_bytes=9 * 2**30, on_demand=1.0, spot=0.25, evictions_per_s=0.0)
PRICES = Prices("USD", "today", "made up", per_gb_month=0.0, put_per_1000=0.0, get_per_1000=0.0, nodes=(KIND,))
TIMES = Times(
    save_s_per_gb=1.0, save_overhead_s=0.0, wake_median_s=0.5, wake_p95_s=0.5, wake_elsewhere_s=0.7,
    kernel_start_s=1.0, move_s_per_gb=0.5, node_start_s=100.0, eviction_notice_s=120.0,
)  # fmt: skip
SETTING = Setting(PRICES, KIND, TIMES, Terms(spare_sessions=0))
GIGA = 2**30
SUSPEND = Policies("suspend", Rules.read({"idle": {"after": "30m"}}))


def trace(*cells: tuple[float, float], end: float = 0.0, session: str = "a", memory: int = GIGA) -> list[Event]:
    """A session that starts at 0 and executes these cells; `end` is when the trace does."""
    events = [Event(session, session, "start", 0.0, memory)]
    for begin, finish in cells:
        events += [Event(session, session, "busy", begin, memory), Event(session, session, "idle", finish, memory)]
    return [*events, Event(f"end of {session}", "nobody", "start", end, 0)] if end else events


def test_always_on_pays_for_every_hour() -> None:
    outcome = replay(trace((200, 210), (10 * HOUR - 10, 10 * HOUR)), AlwaysOn(), SETTING)
    assert outcome.cost == pytest.approx(10.0)
    assert outcome.waits_s == []


def test_an_idle_session_is_suspended_and_its_node_given_back() -> None:
    outcome = replay(trace((200, 210), end=10 * HOUR), SUSPEND, SETTING)
    asleep_at = 210 + 1800 + 1.0
    assert outcome.node_hours * HOUR == pytest.approx(asleep_at + 600)  # 1 s/GB to save it, 10 minutes of grace
    assert outcome.suspended == 1


def test_who_comes_back_waits_for_the_wake_and_if_need_be_for_a_node() -> None:
    outcome = replay(trace((200, 210), (10 * HOUR, 10 * HOUR + 5)), SUSPEND, SETTING)
    assert outcome.waits_s == [pytest.approx(100 + 0.7)]
    assert outcome.waits_for_nodes == 1
    spared = replace(SETTING, terms=Terms(spare_sessions=1))
    outcome = replay(trace((200, 210), (10 * HOUR, 10 * HOUR + 5)), SUSPEND, spared)
    assert outcome.waits_s == [pytest.approx(0.5)]
    assert outcome.waits_for_nodes == 0
    assert outcome.node_hours == pytest.approx(10, rel=0.01)


def test_who_comes_back_while_it_is_being_saved_waits_for_both() -> None:
    outcome = replay(trace((200, 210), (2011, 2020), memory=4 * GIGA), SUSPEND, SETTING)
    assert outcome.waits_s == [pytest.approx(210 + 1800 + 4 - 2011 + 0.5)]


def test_a_cell_is_never_cut_short() -> None:
    outcome = replay(trace((200, 5 * HOUR), end=5 * HOUR + 1000), SUSPEND, SETTING)
    assert outcome.suspended == 0


def test_without_rules_nothing_is_done() -> None:
    events = trace((200, 210), end=10 * HOUR)
    assert replay(events, Policies("none", Rules.NONE), SETTING).cost == replay(events, AlwaysOn(), SETTING).cost


def test_what_is_only_rehearsed_is_not_done() -> None:
    rules = Rules.read({"dry_run": True, "idle": {"after": "30m"}})
    assert replay(trace((200, 210), end=10 * HOUR), Policies("dry", rules), SETTING).suspended == 0


def test_culling_loses_what_was_computed() -> None:
    outcome = replay(trace((200, 200 + HOUR), (10 * HOUR, 10 * HOUR + 5)), Cull(), SETTING)
    assert outcome.rerun_hours == pytest.approx(RERUN_SHARE)
    assert outcome.waits_s == [pytest.approx(100 + 1 + RERUN_SHARE * HOUR)]


def test_culling_looks_every_ten_minutes() -> None:
    outcome = replay(trace((200, 210), end=10 * HOUR), Cull(), SETTING)
    assert outcome.node_hours * HOUR == pytest.approx(4200 + 600)  # idle for an hour at 3810


def test_checkpoints_cost_what_is_stored_and_asked() -> None:
    prices = replace(PRICES, per_gb_month=730.0, put_per_1000=1000.0)
    outcome = replay(trace((200, 210), end=10 * HOUR), SUSPEND, replace(SETTING, prices=prices))
    stored_hours = (10 * HOUR - 2011) / HOUR
    assert outcome.storage == pytest.approx(stored_hours * GIGA / 1e9 + 4097)  # chunks of 256 KiB, and the manifest


def test_sessions_are_packed_by_what_is_set_aside_for_them() -> None:
    events = [event for name in "abcde" for event in trace(end=HOUR, session=name)]
    outcome = replay(sorted(events, key=lambda event: event.at), AlwaysOn(), SETTING)
    assert outcome.node_hours == pytest.approx(2.0)  # four of half a core on a node with two cores


def test_a_session_larger_than_a_node_is_refused() -> None:
    with pytest.raises(DoesNotFit, match="fits no box"):
        replay(trace((200, 210), memory=20 * GIGA), AlwaysOn(), SETTING)


# ── spot ──


def evicted(every_s: float) -> Setting:
    return replace(SETTING, kind=replace(KIND, evictions_per_s=1 / every_s))


def test_sessions_leave_a_node_that_is_taken_away() -> None:
    outcome = replay(trace((200, 20 * HOUR)), Policies("spot", Rules.NONE), evicted(2 * HOUR), spot=True)
    assert outcome.evictions > 3
    assert outcome.suspended + outcome.moved >= outcome.evictions - 1  # the last node may outlive the trace
    assert outcome.lost == 0
    assert outcome.rerun_hours == 0
    assert outcome.compute == pytest.approx(outcome.node_hours * KIND.spot)


def test_a_notice_too_short_loses_what_no_checkpoint_has() -> None:
    setting = replace(evicted(2 * HOUR), times=replace(TIMES, eviction_notice_s=0.5))
    cells = [(begin, begin + 900.0) for begin in range(1000, 72_000, 1000)]
    unsaved = replay(trace(*cells), Policies("spot", Rules.NONE), setting, spot=True)
    saved = replay(
        trace(*cells), Policies("spot", Rules.read({"spot": {"checkpoint_every": "15m"}})), setting, spot=True
    )
    assert saved.rerun_hours / saved.lost < 0.25 + 300 / HOUR  # a quarter of an hour, and a look
    assert unsaved.rerun_hours / unsaved.lost > 3 * saved.rerun_hours / saved.lost


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    regime=st.sampled_from(
        [AlwaysOn(), Cull(), SUSPEND, Policies("all", Rules.read({"idle": {}, "spot": {"checkpoint_every": "1h"}}))]
    ),
    spare=st.integers(0, 3),
    notice=st.sampled_from([0.2, 10.0, 120.0]),
)
def test_whatever_happens_a_session_is_at_one_place_or_asleep(
    seed: int, regime: Regime, spare: int, notice: float
) -> None:
    times = replace(TIMES, eviction_notice_s=notice)
    setting = replace(evicted(3 * HOUR), times=times, terms=Terms(spare_sessions=spare), seed=seed)
    run = Replay(regime, setting, spot=True)
    events = invent(Habits(visits_per_day=0.7, memory_median_bytes=1e9, memory_sigma=0.5), 8, 3, seed)
    outcome = run.run(events)
    held = {(node.name, session) for node in run._fleet.nodes for session in node.rooms}
    moving = {(stay.busy.removeprefix("on its way to "), stay.session) for stay in run._stays.values()}
    assert held - moving == {(stay.node.name, stay.session) for stay in run._stays.values() if stay.node}
    assert outcome.node_hours >= 0
    assert all(wait >= 0 for wait in outcome.waits_s)
    assert run._store._bytes == sum(sum(stay.kept) for stay in run._stays.values())
