# ruff: noqa: ASYNC110 (what is looked for is on the other side of a made-up controller)
"""Policies carried out, against a made-up controller: what is begun, how much at a time, what a failure leads to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from sojourn.client.words import Activity, CheckpointRequest, MoveRequest, SuspendRequest
from sojourn.controller import policing as module
from sojourn.controller.activity import Activities
from sojourn.controller.controller import Controller
from sojourn.controller.policing import AT_ONCE, Policing
from sojourn.errors import Busy, DoesNotFit, Immovable, SaveFailed, SojournError, Unknown
from sojourn.lifecycle import Kept, Move, Session
from sojourn.model import (
    Capabilities,
    Load,
    MovePhase,
    MoveReport,
    Needs,
    NodeStatus,
    NodeView,
    Program,
    Resources,
    SessionSpec,
    SessionStatus,
)
from sojourn.model.nodes import Eviction, SessionLoad

GB = 2**30
NOW = 1_800_000_000.0
CAN = Capabilities(
    os="linux", arch="x86_64", kernel="6.1", python="3.11", sojourn="0", machine_id="m", root_id="r",
    sandboxes=("runc",), strategies=("lazy", "copy"), criu="4.2", runc="1.1",
)  # fmt: skip


def node(name: str, **changes: Any) -> NodeView:
    load = Load(memory_free_bytes=8 * GB, save_bytes_per_s=float(GB))
    known: dict[str, Any] = {
        "id": name, "name": name, "status": NodeStatus.ONLINE, "capacity": Resources(cores=4, memory_bytes=16 * GB),
        "capabilities": CAN, "load": load, "address": "127.0.0.1:1", "seen_at": NOW,
    }  # fmt: skip
    return NodeView(**{**known, **changes})


def session(name: str, **changes: Any) -> Session:
    known: dict[str, Any] = {
        "id": name, "name": name, "owner": "ada", "spec": SessionSpec(name=name, program=Program(argv=("python",))),
        "created_at": NOW - 3600, "node": "here", "status": SessionStatus.RUNNING, "sandbox": "runc",
    }  # fmt: skip
    return Session(**{**known, **changes})


@dataclass
class MadeUpController:
    """Does what it is asked at once, or fails as it is told; `held` keeps it from ending anything."""

    nodes: dict[str, NodeView] = field(default_factory=dict)
    sessions: dict[str, Session] = field(default_factory=dict)
    did: list[tuple[str, ...]] = field(default_factory=list)
    fails: dict[str, SojournError] = field(default_factory=dict)
    held: asyncio.Event | None = None
    now: float = NOW
    activities: Activities = field(default_factory=Activities)

    def __post_init__(self) -> None:
        self.roster = self.reconciler = self.moves = self.sleep = self

    def clock(self) -> float:
        return self.now

    # the roster's
    def views(self) -> list[NodeView]:
        return list(self.nodes.values())

    def view(self, name: str) -> NodeView:
        return self.nodes[name]

    def node(self, name: str) -> NodeView:
        if name not in self.nodes:
            raise Unknown(f"There is no node {name!r}.")
        return self.nodes[name]

    def drain(self, name: str, reason: str) -> None:
        self.nodes[name] = self.node(name).model_copy(update={"draining": reason})

    # the reconciler's
    def living(self) -> list[Session]:
        return list(self.sessions.values())

    def get(self, identity: str) -> Session:
        return self.sessions[identity]

    # what is asked of it
    async def move(self, found: Session, asked: MoveRequest) -> None:
        assert isinstance(asked.to, Needs)
        await self._do("move", found, str(asked.to.node))
        self.sessions[found.id] = replace(found, node=str(asked.to.node))

    async def suspend(self, found: Session, asked: SuspendRequest) -> None:
        await self._do("suspend", found, "by force" if asked.force else "")
        self.sessions[found.id] = replace(found, status=SessionStatus.SUSPENDED)

    async def checkpoint(self, found: Session, asked: CheckpointRequest, kind: str) -> None:
        await self._do("checkpoint", found, kind)
        self.sessions[found.id] = replace(found, checkpoints=(Kept("c", self.now),))

    async def _do(self, what: str, found: Session, how: str) -> None:
        self.did.append((what, found.id, how))
        if self.held:
            await self.held.wait()
        if what in self.fails:
            raise self.fails[what]


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    monkeypatch.setenv("SOJOURN_HOME", str(tmp_path))
    (tmp_path / "config").mkdir()
    stamps = iter(range(1, 100))
    monkeypatch.setattr(module, "_settings_changed_at", lambda: stamp[0])
    stamp = [next(stamps)]

    def write(text: str) -> None:
        (tmp_path / "config" / "config.toml").write_text(text)
        stamp[0] = next(stamps)

    return write


def controller(*sessions: Session, nodes: tuple[NodeView, ...] = (node("here"), node("there"))) -> MadeUpController:
    return MadeUpController({one.name: one for one in nodes}, {one.id: one for one in sessions})


def policing(made_up: MadeUpController) -> Policing:
    return Policing(cast(Controller, made_up))


async def round_of(found: Policing) -> None:
    found._act()
    for _ in range(10):
        await asyncio.sleep(0)


@asynccontextmanager
async def ended(found: Policing) -> AsyncIterator[Policing]:
    try:
        yield found
    finally:
        await found.stop()


def using(**changes: Any) -> Load:
    return Load(memory_free_bytes=8 * GB, save_bytes_per_s=float(GB), **changes)


# ── doing ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_idle_session_is_suspended_and_a_busy_one_is_not(config: Callable[[str], None]) -> None:
    config("[policies.idle]\nafter = '30m'")
    made_up = controller(session("quiet"), session("busy"), session("unheard"))
    made_up.now = NOW - 3600
    found = policing(made_up)
    made_up.now = NOW
    made_up.activities.heard("quiet", Activity(executing=False, at=NOW - 1900))
    made_up.activities.heard("busy", Activity(executing=True, at=NOW - 1900))
    await round_of(found)
    assert made_up.did == [("suspend", "quiet", "")]
    (done,) = found.state().done
    assert (done.session, done.rule, done.ended_at, done.error) == ("quiet", "idle", NOW, None)


async def test_nothing_counts_as_idle_since_before_this_controller_began(config: Callable[[str], None]) -> None:
    config("[policies.idle]\nafter = '30m'")
    made_up = controller(session("quiet"))
    found = policing(made_up)
    made_up.activities.heard("quiet", Activity(executing=False, at=0.0))
    made_up.now = NOW + 1700
    await round_of(found)
    assert made_up.did == []
    made_up.now = NOW + 1800
    await round_of(found)
    assert made_up.did == [("suspend", "quiet", "")]


async def test_work_without_a_cell_and_the_end_of_a_cell_count(config: Callable[[str], None]) -> None:
    config("[policies.idle]\nafter = '30m'")
    made_up = controller(session("threads"), session("cell"))
    found = policing(made_up)
    made_up.activities.heard("threads", Activity(executing=False, at=NOW))
    made_up.activities.heard("cell", Activity(executing=True, at=NOW))
    for step in range(400):  # 2000 s
        made_up.now = NOW + 5 * step
        used = (SessionLoad(session="threads", cpu_seconds=5.0 * step),)
        made_up.nodes["here"] = node("here", load=using(used=used), seen_at=made_up.now)
        found._act()
    made_up.activities.heard("cell", Activity(executing=False, at=NOW))
    made_up.now += 1000
    await round_of(found)
    assert made_up.did == []
    made_up.now += 900
    await round_of(found)
    assert sorted(made_up.did) == [("suspend", "cell", ""), ("suspend", "threads", "")]


async def test_an_evicted_node_is_closed_and_left_a_few_at_a_time() -> None:
    crowd = [session(f"s{number}") for number in range(5)]
    evicted = node("here", load=using(eviction=Eviction(at=NOW + 60, source="aws")))
    made_up = controller(*crowd, nodes=(evicted, node("there")))
    made_up.held = asyncio.Event()
    async with ended(policing(made_up)) as found:
        await round_of(found)
        await round_of(found)
        assert made_up.did == [("move", "s0", "there"), ("move", "s1", "there")][:AT_ONCE]
        assert made_up.nodes["here"].draining == "aws takes it away"
        made_up.held.set()
        for _ in range(4):
            await round_of(found)
        assert {one.node for one in made_up.sessions.values()} == {"there"}
        made_up.nodes["here"] = made_up.nodes["here"].model_copy(update={"load": using()})
        await round_of(found)
        assert made_up.nodes["here"].draining == "", "the provider has thought better of it"


async def test_a_notice_is_acted_upon_without_waiting_for_the_next_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 3600.0)
    monkeypatch.setattr(module, "GLANCE_SECONDS", 0.001)
    made_up = controller(session("s"))
    async with ended(policing(made_up)) as found:
        found.start()
        await asyncio.sleep(0.05)
        assert made_up.did == []
        made_up.nodes["here"] = node("here", load=using(eviction=Eviction(at=NOW + 60, source="file")))
        async with asyncio.timeout(5):
            while not made_up.did:
                await asyncio.sleep(0.001)
        assert made_up.did == [("move", "s", "there")]


async def test_as_soon_as_a_hand_is_free_the_next_one_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 3600.0)
    monkeypatch.setattr(module, "GLANCE_SECONDS", 3600.0)
    crowd = [session(f"s{number}") for number in range(3 * AT_ONCE)]
    made_up = controller(*crowd, nodes=(node("here", draining="asked by ada"), node("there")))
    async with ended(policing(made_up)) as found:
        found.start()
        async with asyncio.timeout(5):
            while {one.node for one in made_up.sessions.values()} != {"there"}:
                await asyncio.sleep(0.001)


async def test_where_a_move_fails_for_lack_of_room_it_is_suspended_instead() -> None:
    evicted = node("here", load=using(eviction=Eviction(at=NOW + 60, source="aws")))
    made_up = controller(session("s"), nodes=(evicted, node("there")))
    made_up.fails = {"move": DoesNotFit("Node there won't do.")}
    found = policing(made_up)
    await round_of(found)
    await round_of(found)
    assert made_up.did == [("move", "s", "there"), ("suspend", "s", "by force")]
    assert [one.error and one.error["code"] for one in found.state().done] == [None, "does_not_fit"]


async def test_a_failure_is_tried_again_ever_more_seldom(config: Callable[[str], None]) -> None:
    config("[policies.spot]\ncheckpoint_every = '1m'")
    made_up = controller(session("s"), nodes=(node("here", labels=("spot",)),))
    made_up.fails = {"checkpoint": SaveFailed("The store is full.")}
    found = policing(made_up)
    tried: list[float] = []
    for second in range(0, 600, 10):
        made_up.now = NOW + second
        before = len(made_up.did)
        await round_of(found)
        tried += [second] if len(made_up.did) > before else []
    assert tried == [0, 60, 180, 420]


async def test_what_can_not_be_frozen_is_said_and_not_tried_all_the_time() -> None:
    evicted = node("here", load=using(eviction=Eviction(at=NOW + 60, source="aws")))
    made_up = controller(session("gpu"), session("plain", sandbox="process"), nodes=(evicted,))
    made_up.fails = {"suspend": Immovable("The session holds /dev/nvidia0.")}
    found = policing(made_up)
    await round_of(found)
    await round_of(found)
    assert made_up.did == [("suspend", "gpu", "by force")]
    waiting = {one.session: one.why for one in found.state().decisions if one.kind == "wait"}
    assert waiting["gpu"].endswith("The session holds /dev/nvidia0.")
    assert "plain process" in waiting["plain"]


async def test_a_session_that_has_just_become_busy_is_asked_again_soon(config: Callable[[str], None]) -> None:
    config("[policies.idle]\nafter = '1m'")
    made_up = controller(session("s"))
    found = policing(made_up)
    made_up.activities.heard("s", Activity(executing=False, at=0.0))
    made_up.now = NOW + 60
    made_up.fails = {"suspend": Busy("It is in the middle of a cell.")}
    await round_of(found)
    made_up.fails = {}
    await round_of(found)
    made_up.now += 6
    await round_of(found)
    assert [what for what, *_ in made_up.did] == ["suspend", "suspend"]


# ── draining ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_dry_drain_says_and_a_real_one_does() -> None:
    made_up = controller(session("s"), session("elsewhere", node="there"))
    found = policing(made_up)
    (would,) = found.drain("here", by="ada", dry_run=True)
    assert (would.kind, would.session, would.target) == ("move", "s", "there")
    assert made_up.nodes["here"].draining == ""
    assert found.drain("here", by="ada") == [would]
    await round_of(found)
    assert made_up.did == [("move", "s", "there")]
    assert made_up.nodes["here"].draining == "asked by ada"
    found.undrain("here")
    assert made_up.nodes["here"].draining == ""
    with pytest.raises(Unknown):
        found.drain("nowhere", dry_run=True)


async def test_with_a_deadline_what_is_quicker_is_done() -> None:
    slow = Move("m", "here", "there", "lazy", 1, 2, NOW, MovePhase.DONE, report=MoveReport(page_bytes=GB, filled_s=20))
    made_up = controller(session("s", move=slow), nodes=(node("here", load=using(used=(
        SessionLoad(session="s", memory_bytes=4 * GB),))), node("there")))  # fmt: skip
    found = policing(made_up)
    assert [one.kind for one in found.drain("here", deadline_s=300, dry_run=True)] == ["move"]
    assert [one.kind for one in found.drain("here", deadline_s=20, dry_run=True)] == ["suspend"]


async def test_a_schedule_closes_a_node_and_opens_it_but_not_one_a_person_drains(
    config: Callable[[str], None],
) -> None:
    config("[policies.nodes.here]\ndrain = 'daily 0:00-24:00'\n[policies.nodes.there]\ndrain = 'daily 0:00-24:00'")
    made_up = controller(nodes=(node("here"), node("there", draining="asked by ada")))
    found = policing(made_up)
    await round_of(found)
    assert made_up.nodes["here"].draining == "scheduled to be empty daily 0:00-24:00"
    config("")
    await round_of(found)
    assert {name: view.draining for name, view in made_up.nodes.items()} == {"here": "", "there": "asked by ada"}


# ── saying ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_dry_run_records_once_and_does_nothing(config: Callable[[str], None]) -> None:
    config("[policies.idle]\nafter = '1m'\ndry_run = true")
    made_up = controller(session("s"))
    found = policing(made_up)
    made_up.activities.heard("s", Activity(executing=False, at=0.0))
    made_up.now = NOW + 100
    for _ in range(3):
        await round_of(found)
    state = found.state()
    assert made_up.did == []
    assert [(one.kind, one.dry_run) for one in state.done] == [("suspend", True)]
    assert [one.why for one in state.decisions] == ["idle for 1m40s"]


async def test_settings_that_mean_nothing_leave_the_rules_and_are_told(config: Callable[[str], None]) -> None:
    config("[policies.idle]\nafter = '1m'")
    found = policing(controller())
    config("[policies.idle]\nafter = 'soon'")
    found.reread()
    assert found.rules.everybody.idle.after == 60
    assert "policies.idle.after = 'soon'" in found.state().problem
    config("[policies.idle]\nafter = '2m'")
    found.reread()
    assert (found.rules.everybody.idle.after, found.problem) == (120, "")


# ── facts ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_room_that_a_session_on_its_way_will_take_is_not_free() -> None:
    coming = Move("m", "here", "there", "lazy", 1, 2, NOW, MovePhase.FILLING, done_bytes=GB, total_bytes=3 * GB)
    made_up = controller(session("s", node="there", status=SessionStatus.FILLING, move=coming))
    facts = policing(made_up)._look()
    assert {one.name: one.free_bytes for one in facts.nodes} == {"here": 8 * GB, "there": 6 * GB}
    assert facts.sessions[0].busy.startswith("it is on its way from here to there")


async def test_where_a_session_could_go_is_where_it_has_what_it_needs() -> None:
    spec = SessionSpec(name="s", program=Program(argv=("python",)), needs=Needs(labels=("gpu",), node="here"))
    others = (
        node("gpu", labels=("gpu",)), node("plain"), node("away", labels=("gpu",), status=NodeStatus.OFFLINE),
        node("arm", labels=("gpu",), capabilities=CAN.model_copy(update={"arch": "aarch64"})),
    )  # fmt: skip
    made_up = controller(session("s", spec=spec), nodes=(node("here"), *others))
    assert policing(made_up)._look().sessions[0].can_move_to == ("gpu",)


async def test_samples_become_growth_and_the_newest_checkpoint_its_age() -> None:
    made_up = controller(session("s", checkpoints=(Kept("old", NOW - 50), Kept("new", NOW - 20))))
    found = policing(made_up)
    for step in range(4):
        used = (SessionLoad(session="s", memory_bytes=GB + 50 * step, memory_limit_bytes=2 * GB),)
        made_up.nodes["here"] = node("here", load=using(used=used), seen_at=NOW + 5 * step)
        facts = found._look()
    (seen,) = facts.sessions
    assert (seen.growth_bytes_per_s, seen.limit_bytes, seen.saved_at) == (10.0, 2 * GB, NOW - 20)
    assert seen.watched_s == 15
