"""What is done with sessions unasked, as stories: facts in, decisions out."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sojourn.model import SessionStatus
from sojourn.model.nodes import Eviction
from sojourn.policies import Decision, Facts, NodeFacts, Rules, SessionFacts, decide, forecasts, would_make_it

GB = 2**30
NOW = 1_800_000_000.0
MINUTE = 60.0

HERE = NodeFacts("here", memory_bytes=16 * GB, free_bytes=8 * GB, cores=4, save_bytes_per_s=GB, link_bytes_per_s=GB)
THERE = replace(HERE, name="there")
BIG = replace(HERE, name="big", memory_bytes=256 * GB, free_bytes=200 * GB, cores=64)
EVICTED = replace(HERE, eviction=Eviction(at=NOW + 30, source="aws"))


def session(name: str = "s", **changes: Any) -> SessionFacts:
    known: dict[str, Any] = {
        "id": name,
        "name": name,
        "owner": "ada",
        "node": "here",
        "memory_bytes": GB,
        "executing": False,
        "idle_since": NOW,
        "can_move_to": ("there",),
    }
    return SessionFacts(**{**known, **changes})


def decided(
    *sessions: SessionFacts, places: tuple[NodeFacts, ...] = (HERE, THERE), now: float = NOW, **rules: Any
) -> list[Decision]:
    return decide(Facts(places, sessions), Rules.read(rules), now)


def said(decisions: list[Decision]) -> list[tuple[str, str, str | None]]:
    return [(one.session, one.kind, one.target) for one in decisions]


# ── idle ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_nothing_is_done_unasked() -> None:
    assert decided(session(idle_since=0.0)) == []


@pytest.mark.parametrize(
    ("facts", "suspended"),
    [
        ({"idle_since": NOW - 29 * MINUTE}, False),
        ({"idle_since": NOW - 30 * MINUTE}, True),
        ({"idle_since": NOW - 30 * MINUTE, "executing": True}, False),
        ({"idle_since": NOW - 30 * MINUTE, "executing": None}, False),
        ({"idle_since": None}, False),
        ({"idle_since": NOW - 30 * MINUTE, "busy": "it is being saved"}, False),
        ({"idle_since": NOW - 30 * MINUTE, "blocked": "it is a plain process"}, False),
        ({"idle_since": NOW - 30 * MINUTE, "status": SessionStatus.SUSPENDED}, False),
    ],
)
def test_who_is_idle_for_long_enough_is_suspended(facts: dict[str, Any], suspended: bool) -> None:
    assert bool(decided(session(**facts), idle={"after": "30m"})) is suspended


def test_the_reason_says_for_how_long() -> None:
    (decision,) = decided(session(idle_since=NOW - 95 * MINUTE), idle={"after": "30m"})
    assert (decision.kind, decision.rule, decision.why) == ("suspend", "idle", "idle for 1h35m")


def test_in_the_middle_of_a_cell_only_when_asked() -> None:
    waiting = session(executing=True, idle_since=NOW - 40 * MINUTE)
    assert decided(waiting, idle={"after": "30m"}) == []
    assert said(decided(waiting, idle={"after": "30m", "in_cells": True})) == [("s", "suspend", None)]


# ── working hours ────────────────────────────────────────────────────────────────────────────────────────────

BERLIN = {"hours": ["mon-fri 8:00-19:00"], "zone": "Europe/Berlin", "after": "10m"}


def at(text: str, zone: str = "Europe/Berlin") -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


@pytest.mark.parametrize(
    ("moment", "suspended"),
    [
        ("2026-11-23 18:59", False),  # a Monday
        ("2026-11-23 19:00", True),
        ("2026-11-28 12:00", True),  # a Saturday
        ("2026-11-30 07:59", True),
        ("2026-11-30 08:00", False),
        ("2026-07-01 18:59", False),  # in summer time
    ],
)
def test_outside_working_hours_idle_sessions_are_suspended_sooner(moment: str, suspended: bool) -> None:
    now = at(moment)
    decisions = decided(session(idle_since=now - 10 * MINUTE), now=now, schedule=BERLIN)
    assert bool(decisions) is suspended
    assert decided(session(idle_since=now - 9 * MINUTE), now=now, schedule=BERLIN) == []
    assert decided(session(idle_since=now - 600, executing=True), now=now, schedule=BERLIN) == []


@pytest.mark.parametrize(
    ("window", "moment", "empty"),
    [
        ("fri 20:00-6:00", "2026-11-27 23:00", True),
        ("fri 20:00-6:00", "2026-11-28 05:59", True),
        ("fri 20:00-6:00", "2026-11-28 06:00", False),
        ("fri 20:00-6:00", "2026-11-27 05:00", False),
        ("sat-mon 0:00-24:00", "2026-11-29 23:59", True),
        ("sat-mon 0:00-24:00", "2026-11-24 00:00", False),
        ("daily 22:00-0:00", "2026-11-24 23:59", True),
    ],
)
def test_a_node_is_emptied_by_its_schedule(window: str, moment: str, empty: bool) -> None:
    rules = {"nodes": {"he*": {"drain": [window]}}, "schedule": {"zone": "Europe/Berlin"}}
    decisions = decided(session(), now=at(moment), **rules)
    assert said(decisions) == ([("s", "move", "there")] if empty else [])


# ── leaving a node ───────────────────────────────────────────────────────────────────────────────────────────


def test_an_evicted_node_is_left_the_most_precious_first() -> None:
    crowd = [
        session("toy", precious=0.5),
        session("thesis", precious=3),
        session("large", memory_bytes=7 * GB),
        session("small"),
    ]
    decisions = decided(*crowd, places=(EVICTED, THERE))
    assert said(decisions) == [
        ("thesis", "move", "there"),
        ("small", "move", "there"),
        ("large", "suspend", None),  # 7 GB: there is no room left there
        ("toy", "move", "there"),
    ]
    assert all(one.urgent and one.rule == "spot" for one in decisions)
    assert decisions[0].why == "aws takes here away in 30 s; to there in 2.0 s"


def test_of_equals_the_one_with_most_to_lose_goes_first() -> None:
    decisions = decided(
        session("saved", saved_at=NOW - 60), session("old", saved_at=NOW - 600), session("never", born_at=NOW - 6000),
        places=(EVICTED, THERE),
    )  # fmt: skip
    assert [one.session for one in decisions] == ["never", "old", "saved"]


def test_where_saving_is_quicker_and_time_is_short_there_is_no_live_move() -> None:
    slow_link = replace(EVICTED, link_bytes_per_s=GB / 20, eviction=Eviction(at=NOW + 35, source="gcp"))
    decisions = decided(session("a"), session("b"), session("c"), places=(slow_link, THERE))
    assert said(decisions) == [("a", "move", "there"), ("b", "suspend", None), ("c", "suspend", None)]


def test_what_comes_too_late_is_tried_last_and_costs_nobody_the_time() -> None:
    decisions = decided(
        session("huge", precious=9, memory_bytes=100 * GB, can_move_to=("big",)), session("small"),
        places=(EVICTED, THERE, BIG),
    )  # fmt: skip
    assert said(decisions) == [("small", "move", "there"), ("huge", "suspend", None)]
    assert decisions[1].why.endswith("too late as it seems")


def test_a_session_that_can_not_be_helped_now_says_why() -> None:
    decisions = decided(
        session("filling", status=SessionStatus.FILLING, busy="it is on its way, for about 3 s more"),
        session("gpu", blocked="it holds a GPU"),
        places=(EVICTED, THERE),
    )
    assert [(one.kind, one.why.split("; ")[1]) for one in decisions] == [
        ("wait", "it is on its way, for about 3 s more"),
        ("wait", "it holds a GPU"),
    ]


def test_a_drained_node_is_emptied_and_what_fits_nowhere_is_suspended() -> None:
    drained = replace(HERE, draining="asked by ada")
    decisions = decided(session("a", executing=True), session("b", memory_bytes=9 * GB), places=(drained, THERE))
    assert said(decisions) == [("a", "move", "there"), ("b", "suspend", None)]
    assert not decisions[0].urgent
    assert "here is drained: asked by ada" in decisions[0].why


def test_the_forecast_is_printed_with_its_formula() -> None:
    spot = replace(HERE, spot=True)
    crowd = tuple(session(str(number), memory_bytes=3 * GB) for number in range(4))
    (forecast,) = forecasts(Facts((spot, THERE), crowd), Rules.NONE, NOW)
    assert forecast.makes_it
    formula = "16.0 s = 2 × 1 s + 6GB / 1GB/s (moved live) + 2 × 1 s + 6GB / 1GB/s (into the store)"
    assert forecast.said() == f"here: {formula}; 120 s are left: it makes it"
    short = would_make_it(Facts((spot, THERE), crowd), Rules.NONE, NOW, "here", notice_s=10)
    assert short.said().endswith("10 s are left: 2 of 4 come too late")


def test_a_node_that_has_measured_nothing_is_forecast_with_an_assumption_that_is_named() -> None:
    new = replace(HERE, spot=True, save_bytes_per_s=0.0, link_bytes_per_s=0.0)
    (forecast,) = forecasts(Facts((new,), (session(),)), Rules.read({"spot": {"bandwidth": "256M"}}), NOW)
    assert forecast.formula() == "5.0 s = 1 × 1 s + 1GB / 256MB/s (into the store, assumed)"


# ── checkpoints in the background ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("facts", "due"),
    [
        ({"saved_at": NOW - 11 * MINUTE}, True),
        ({"saved_at": NOW - 9 * MINUTE}, False),
        ({"born_at": NOW - 11 * MINUTE}, True),
        ({"born_at": NOW - 9 * MINUTE}, False),
        ({"saved_at": NOW - 11 * MINUTE, "idle_since": NOW - 12 * MINUTE}, False),  # nothing has happened since
        ({"saved_at": NOW - 11 * MINUTE, "idle_since": NOW - 12 * MINUTE, "executing": True}, True),
    ],
)
def test_on_a_spot_node_no_checkpoint_gets_older_than_allowed(facts: dict[str, Any], due: bool) -> None:
    rules = {"spot": {"checkpoint_every": "10m"}}
    spot = replace(HERE, spot=True)
    assert said(decided(session(**facts), places=(spot,), **rules)) == ([("s", "checkpoint", None)] if due else [])
    assert decided(session(**facts), places=(HERE,), **rules) == []


# ── the right size ───────────────────────────────────────────────────────────────────────────────────────────

GROWING = session(memory_bytes=6 * GB, limit_bytes=8 * GB, growth_bytes_per_s=GB / 20, can_move_to=("there", "big"))


def test_a_session_about_to_hit_its_limit_is_moved_to_where_it_may_have_more() -> None:
    (decision,) = decided(GROWING, places=(HERE, THERE, BIG), right_size={})
    assert (decision.kind, decision.target, decision.urgent) == ("move", "big", True)
    assert decision.memory_bytes == 16 * GB
    assert decision.why == "it reaches its limit of 8GB in 40 s; big has room for 16GB"


def test_another_node_of_the_same_machine_may_give_it_a_larger_limit() -> None:
    home, twin = replace(HERE, machine="m1"), replace(BIG, name="twin", machine="m1")
    growing = replace(GROWING, can_move_to=("twin",))
    assert said(decided(growing, places=(home, twin), right_size={})) == [("s", "move", "twin")]


def test_one_that_grows_slowly_is_left_alone() -> None:
    assert decided(replace(GROWING, growth_bytes_per_s=GB / 200), places=(HERE, BIG), right_size={}) == []


def test_one_that_is_still_on_its_way_up_is_left_alone() -> None:
    starting = replace(GROWING, memory_bytes=3 * GB, growth_bytes_per_s=GB / 4)  # 20 s, at this pace
    assert decided(starting, places=(HERE, BIG), right_size={}) == []


def test_the_slower_the_link_the_earlier_it_goes() -> None:
    slowly = replace(GROWING, growth_bytes_per_s=GB / 50)  # 100 s
    assert decided(slowly, places=(HERE, BIG), right_size={}) == []
    far = replace(HERE, link_bytes_per_s=GB / 6)  # 37 s, thrice
    assert said(decided(slowly, places=(far, BIG), right_size={})) == [("s", "move", "big")]


def test_waiting_for_memory_close_to_the_limit_counts_as_having_reached_it() -> None:
    stuck = replace(GROWING, growth_bytes_per_s=0.0, memory_bytes=int(7.5 * GB), pressure=0.5)
    assert said(decided(stuck, places=(HERE, BIG), right_size={})) == [("s", "move", "big")]
    assert decided(replace(stuck, pressure=0.1), places=(HERE, BIG), right_size={}) == []


def test_where_a_node_fills_up_the_one_that_grows_most_leaves_and_that_is_enough() -> None:
    full = replace(HERE, free_bytes=2 * GB, machine="m1")
    greedy = session("greedy", growth_bytes_per_s=GB / 20, can_move_to=("big", "twin"))
    modest = session("modest", growth_bytes_per_s=GB / 100, can_move_to=("big", "twin"))
    twin = replace(BIG, name="twin", machine="m1", free_bytes=250 * GB)  # the same machine has no other memory
    assert said(decided(modest, greedy, places=(full, BIG, twin), right_size={})) == [("greedy", "move", "big")]


def test_where_no_node_has_room_it_is_saved_as_it_is_once() -> None:
    (decision,) = decided(GROWING, places=(HERE, THERE), right_size={})
    assert (decision.kind, decision.rule) == ("checkpoint", "right_size")
    assert decided(replace(GROWING, saved_at=NOW - 30), places=(HERE, THERE), right_size={}) == []


SMALL = replace(HERE, name="small", memory_bytes=4 * GB, free_bytes=4 * GB, cores=2, price=0.1)
COSTLY = replace(BIG, price=2.0)
LITTLE = session(node="big", peak_bytes=GB, busiest_cores=0.5, watched_s=7 * 3600.0, can_move_to=("small",))


def test_long_little_use_is_proposed_a_cheaper_node() -> None:
    (decision,) = decided(LITTLE, places=(COSTLY, SMALL), right_size={})
    assert (decision.kind, decision.target) == ("propose", "small")
    assert decision.why == "for 7h it has used 1GB and 0.5 cores at most; small costs 0.1 an hour, big 2"
    (decision,) = decided(LITTLE, places=(COSTLY, SMALL), right_size={"act": True})
    assert decision.kind == "move"


@pytest.mark.parametrize(
    "otherwise",
    [{"watched_s": 5 * 3600.0}, {"peak_bytes": 3 * GB}, {"busiest_cores": 1.5}, {"can_move_to": ()}],
)
def test_a_doubt_is_enough_to_leave_it_where_it_is(otherwise: dict[str, Any]) -> None:
    assert decided(replace(LITTLE, **otherwise), places=(COSTLY, SMALL), right_size={}) == []


def test_neither_a_little_cheaper_nor_a_spot_node_is_proposed() -> None:
    for other in (replace(SMALL, price=1.5), replace(SMALL, spot=True)):
        assert decided(LITTLE, places=(COSTLY, other), right_size={}) == []


# ── together ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_more_urgent_comes_first_and_alone() -> None:
    everything = {"idle": {}, "right_size": {}, "spot": {"checkpoint_every": "1m"}}
    idle = replace(GROWING, idle_since=0.0)
    assert [one.rule for one in decided(idle, places=(EVICTED, BIG), **everything)] == ["spot"]
    assert [one.rule for one in decided(idle, places=(HERE, BIG), **everything)] == ["right_size"]


def test_a_dry_run_says_the_same_and_marks_it() -> None:
    wet = decided(session(), session("t"), places=(EVICTED, THERE))
    dry = decided(session(), session("t"), places=(EVICTED, THERE), dry_run=True)
    assert dry == [replace(one, dry_run=True) for one in wet]


def test_what_only_rehearses_never_keeps_another_rule_from_acting() -> None:
    rules = {"schedule": {"hours": ["mon 1:00-1:01"], "dry_run": True}, "idle": {"after": "30m"}}
    asleep, awake = session("long", idle_since=NOW - 3600), session("short", idle_since=NOW - 600)
    decisions = decided(asleep, awake, **rules)
    assert [(one.session, one.rule, one.dry_run) for one in decisions] == [
        ("long", "idle", False),
        ("short", "schedule", True),
    ]


def test_rules_of_users_and_sessions_come_before_everybodys() -> None:
    rules = {
        "idle": {"after": "30m"},
        "users": {"ada": {"idle": {"after": "2h"}}},
        "sessions": {"train*": {"idle": {"on": False}, "precious": 5}},
    }
    hour = NOW - 3600
    decisions = decided(
        session("hers", idle_since=hour),
        session("his", owner="bob", idle_since=hour),
        session("train-2", owner="bob", idle_since=0.0),
        session("later", idle_since=hour - 3600),
        **rules,
    )
    assert [one.session for one in decisions] == ["his", "later"]
    assert Rules.read(rules).of("bob", "train-2").precious == 5


# ── laws that hold whatever the facts are ────────────────────────────────────────────────────────────────────

EVERYTHING = {
    "idle": {"after": "5m"},
    "spot": {"checkpoint_every": "5m"},
    "right_size": {"act": True, "low_for": "1h"},
    "schedule": {"hours": ["mon-fri 8:00-19:00"]},
}
_sizes = st.integers(0, 40).map(lambda count: count * GB)
_nodes = st.lists(
    st.builds(
        NodeFacts,
        name=st.sampled_from(["here", "there", "big", "spot"]),
        memory_bytes=_sizes,
        free_bytes=_sizes,
        cores=st.sampled_from([1.0, 8.0]),
        online=st.booleans(),
        price=st.sampled_from([None, 0.1, 1.0]),
        spot=st.booleans(),
        eviction=st.none() | st.builds(Eviction, at=st.floats(NOW, NOW + 200), source=st.just("aws")),
        draining=st.sampled_from(["", "", "asked for"]),
        drain_by=st.none() | st.floats(NOW, NOW + 200),
        save_bytes_per_s=st.sampled_from([0.0, GB / 10, float(GB)]),
        link_bytes_per_s=st.sampled_from([0.0, GB / 10, float(GB)]),
    ),
    unique_by=lambda node: node.name,
).map(tuple)
_sessions = st.lists(
    st.builds(
        SessionFacts,
        id=st.integers(0, 30).map(str),
        node=st.sampled_from(["here", "there", "big", "spot"]),
        status=st.sampled_from([SessionStatus.RUNNING] * 4 + [SessionStatus.FILLING, SessionStatus.SUSPENDED]),
        busy=st.sampled_from(["", "", "it is being saved"]),
        precious=st.sampled_from([0.0, 1.0, 5.0]),
        memory_bytes=_sizes,
        needs_bytes=_sizes,
        limit_bytes=st.none() | _sizes,
        growth_bytes_per_s=st.sampled_from([-1.0, 0.0, GB / 10]),
        peak_bytes=_sizes,
        watched_s=st.sampled_from([0.0, 8000.0]),
        executing=st.sampled_from([None, False, True]),
        idle_since=st.none() | st.floats(NOW - 1000, NOW),
        saved_at=st.none() | st.floats(NOW - 1000, NOW),
        can_move_to=st.lists(st.sampled_from(["here", "there", "big", "spot"]), unique=True).map(tuple),
        blocked=st.sampled_from(["", "", "it holds a GPU"]),
    ),
    unique_by=lambda session: session.id,
).map(tuple)
_facts = st.builds(Facts, _nodes, _sessions)


@given(_facts, st.booleans())
def test_one_decision_for_a_session_and_only_for_one_at_rest(facts: Facts, dry: bool) -> None:
    decisions = decide(facts, Rules.read({**EVERYTHING, "dry_run": dry}), NOW)
    known = {session.id: session for session in facts.sessions}
    assert len({one.session for one in decisions}) == len(decisions)
    for one in decisions:
        assert one.node == known[one.session].node
        assert one.kind == "wait" or (known[one.session].at_rest and not known[one.session].blocked)


@given(_facts)
def test_nobody_is_suspended_in_a_cell_for_being_idle(facts: Facts) -> None:
    known = {session.id: session for session in facts.sessions}
    for one in decide(facts, Rules.read(EVERYTHING), NOW):
        if one.rule in ("idle", "schedule"):
            assert known[one.session].executing is False


@given(_facts)
def test_nobody_is_sent_where_there_is_no_room_or_no_future(facts: Facts) -> None:
    known = {session.id: session for session in facts.sessions}
    nodes = {node.name: node for node in facts.nodes}
    promised = dict.fromkeys(nodes, 0)
    for one in decide(facts, Rules.read(EVERYTHING), NOW):
        if one.kind == "move":
            assert one.target
            assert one.target != one.node
            assert one.target in known[one.session].can_move_to
            target = nodes[one.target]
            assert target.online
            assert not target.eviction
            assert not target.draining
            promised[one.target] += max(known[one.session].room_bytes, one.memory_bytes)
    assert all(promised[name] <= max(nodes[name].free_bytes, 0) for name in nodes)


@given(_facts)
def test_those_who_make_it_leave_in_the_order_of_their_weights(facts: Facts) -> None:
    known = {session.id: session for session in facts.sessions}
    for node in facts.nodes:
        leaving = [one for one in decide(facts, Rules.NONE, NOW) if one.node == node.name and one.kind != "wait"]
        weights = [known[one.session].precious for one in leaving if "too late" not in one.why]
        assert weights == sorted(weights, reverse=True)


@given(_facts, st.floats(1e6, 1e11), st.floats(1e6, 1e11), st.floats(1, 100), st.floats(1, 200))
def test_more_bandwidth_never_makes_it_later(
    facts: Facts, save: float, link: float, faster: float, notice: float
) -> None:
    def forecast(factor: float) -> bool:
        nodes = tuple(
            replace(one, save_bytes_per_s=save * factor, link_bytes_per_s=link * factor) for one in facts.nodes
        )
        slow = replace(facts, nodes=nodes)
        return all(would_make_it(slow, Rules.NONE, NOW, one.name, notice).makes_it for one in nodes)

    assert forecast(faster) or not forecast(1.0)
