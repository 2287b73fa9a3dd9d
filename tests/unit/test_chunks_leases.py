"""Writers and sweeps beside each other, step by step, in every order hypothesis can think of.

Each actor runs in a thread of its own, but takes its next step at the store only when the stage says so; between two
steps, after each of which no visible checkpoint may lack a chunk, actors may stand still for any time, or be killed.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as some

from sojourn.chunks import Entry, Vault, leases
from sojourn.chunks.backend import Bytes
from sojourn.chunks.layout import Layout
from sojourn.chunks.leases import Lease, Times, Watch, wait_for_sweeps
from sojourn.chunks.memory import MemoryBackend
from sojourn.chunks.sealing import Seal
from sojourn.errors import StoreFailed
from sojourn.testing.store_contract import KEY, save

TIMES = Times(refresh_s=10_000, poll_s=40)
"""Nobody refreshes by itself here: whoever takes long is silent, which is the hard case."""
LAYOUT = Layout(Seal(KEY).owner)
OLD, ORPHAN, SHARED = (word.encode() * 2000 for word in ("old", "orphan", "shared"))


ACTORS = ["writer", "sweep", "second", "drop"]
FATES = ["go on", "stand still", "clock jumps", "kill"]
Burst = tuple[str, int | str, str]
"""Who goes on; for how many steps, or until what it is to do next; and what happens to it first."""


class Killed(BaseException):
    """What a killed actor meets at each further step: it leaves everything as it lies."""


class Stage:
    """Lets one actor at a time take one step. Time passes only when one sleeps, or all stand still."""

    def __init__(self, bursts: list[Burst]) -> None:
        self.now = self._jumped = 0.0
        self.store = MemoryBackend(clock=lambda: self.now + self._jumped)
        self._choices = self._following(bursts)
        self._changed = threading.Condition()
        self._waiting: dict[str, tuple[str, float]] = {}
        self._turn = ""
        self._killed: set[str] = set()
        self._acting: set[str] = set()
        self.outcomes: dict[str, object] = {}

    def step(self, name: str, act: str, seconds: float = 0) -> None:
        """Called by an actor before it does something: returns when it is its turn."""
        with self._changed:
            if name in self._killed:
                raise Killed
            self._waiting[name] = act, seconds
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._turn == name)
            self._turn = ""
            if name in self._killed:
                raise Killed

    def play(self, actors: dict[str, Callable[[Vault], object]]) -> None:
        threads = [threading.Thread(target=self._act, args=actor, daemon=True) for actor in actors.items()]
        self._acting = set(actors)
        for thread in threads:
            thread.start()
        while self._direct():
            self._no_visible_checkpoint_lacks_a_pack()
        for thread in threads:
            thread.join()

    def _act(self, name: str, act: Callable[[Vault], object]) -> None:
        vault = Vault(Actor(self, name), KEY, times=TIMES, watch=ActorsWatch(self, name))
        try:
            self.outcomes[name] = act(vault)
        except (StoreFailed, Killed) as ended:
            self.outcomes[name] = ended
        with self._changed:
            self._acting.discard(name)
            self._changed.notify_all()

    def _following(self, bursts: list[Burst]) -> Iterator[tuple[str, str]]:
        """Who takes the next step, and its fate. After the bursts, all in turn."""
        for name, until, fate in bursts:
            for number in itertools.count():
                if name not in self._waiting or until in (number, self._waiting[name][0]):
                    break
                yield name, "go on" if number else fate
        while True:
            yield from [(name, "go on") for name in ACTORS if name in self._waiting]

    def _direct(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: not self._turn and self._acting == set(self._waiting))
            if not self._waiting:
                return False
            name, fate = next(self._choices)
            while name not in self._waiting:
                name, fate = next(self._choices)
            if self._waiting[name][0] == "sleep" or fate == "stand still":
                # the one thing that is asked of the world: a call to delete takes less than the grace
                name = next((one for one, (act, _) in self._waiting.items() if act == "delete"), name)
            act, seconds = self._waiting.pop(name)
            self.now += seconds + (200 if fate == "stand still" and act != "delete" else 0)
            self._jumped += 200 if fate == "clock jumps" else 0
            if fate == "kill" and act != "sleep":
                self._killed.add(name)
            self._turn = name
            self._changed.notify_all()
            return True

    def _no_visible_checkpoint_lacks_a_pack(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._turn and self._acting == set(self._waiting))
        reader = Vault(self.store, KEY)
        for checkpoint in reader.checkpoints():
            assert reader.verify(checkpoint, deep=False) == []


class Actor(MemoryBackend):
    """One actor's handle on the stage's store."""

    def __init__(self, stage: Stage, name: str) -> None:
        super().__init__(name)
        self._stage = stage

    def _step(self, act: str) -> MemoryBackend:
        self._stage.step(self.name, act)
        return self._stage.store

    def put(self, key: str, body: Bytes) -> None:
        self._step("put").put(key, body)

    def create(self, key: str, body: Bytes) -> bool:
        return self._step("create").create(key, body)

    def touch(self, key: str) -> None:
        self._step("touch").touch(key)

    def get(self, key: str) -> bytes:
        return self._step("get").get(key)

    def part(self, key: str, offset: int, length: int) -> bytes:
        return self._step("part").part(key, offset, length)

    def has(self, key: str) -> bool:
        return self._step("has").has(key)

    def keys(self, prefix: str) -> Iterator[Entry]:
        return iter(list(self._step("keys").keys(prefix)))

    def delete(self, *keys: str) -> None:
        if keys:
            self._step("delete").delete(*keys)


class ActorsWatch(Watch):
    def __init__(self, stage: Stage, name: str) -> None:
        self._stage, self._name = stage, name

    def now(self) -> float:
        return self._stage.now

    def sleep(self, seconds: float) -> None:
        self._stage.step(self._name, "sleep", seconds)


def write(checkpoint: str) -> Callable[[Vault], object]:
    """Saves a checkpoint of content that a whole one names, and of content that nobody names."""

    def act(vault: Vault) -> object:
        manifest = save(vault, checkpoint, SHARED, ORPHAN)
        return manifest.chunks()

    return act


def sweep(vault: Vault) -> object:
    return vault.sweep()


def drop(vault: Vault) -> object:
    return vault.drop("old")


def staged(bursts: list[Burst]) -> Stage:
    stage = Stage(bursts)
    quick = Vault(stage.store, KEY, times=TIMES)
    save(quick, "old", SHARED, OLD)
    stage.store.put(f"{LAYOUT.packs}broken-off", ORPHAN)
    return stage


@settings(max_examples=150, deadline=None)
@given(
    some.lists(some.tuples(some.sampled_from(ACTORS), some.integers(1, 25), some.sampled_from(FATES)), max_size=8),
    some.booleans(),
)
def test_no_checkpoint_ever_lacks_a_chunk(bursts: list[Burst], two: bool) -> None:
    stage = staged(bursts)
    second = write("newer") if two else sweep
    stage.play({"writer": write("new"), "sweep": sweep, "drop": drop, "second": second})
    reader = Vault(stage.store, KEY)
    for name, checkpoint in (("writer", "new"), ("second", "newer")):
        if isinstance(stage.outcomes.get(name), set):
            assert checkpoint in reader.checkpoints()
    event(f"writer: {type(stage.outcomes['writer']).__name__}, sweep: {type(stage.outcomes['sweep']).__name__}")


@pytest.mark.parametrize("fate", FATES[:3])
@pytest.mark.parametrize("first", ["writer", "sweep"])
def test_whoever_is_overtaken_at_any_step_does_no_harm(first: str, fate: str) -> None:
    other = "sweep" if first == "writer" else "writer"
    for steps in range(30):
        stage = staged([(first, steps, "go on"), (other, 100, fate)])
        stage.play({"writer": write("new"), "sweep": sweep})


@pytest.mark.parametrize("until", ["sleep", "delete", "put"])
def test_a_sweep_taken_for_dead_while_it_removes_chunks_does_no_harm(until: str) -> None:
    """The store's clock has jumped, so that a writer gives it up; another writer comes just then."""
    for steps in range(1, 4):
        overtaken: list[Burst] = [("sweep", "delete", "go on"), ("writer", 5, "clock jumps")]
        stage = staged([*overtaken, *[("writer", until, "go on")] * steps, ("second", 100, "go on")])
        stage.play({"writer": write("new"), "sweep": sweep, "second": write("newer")})


def test_left_alone_both_come_to_their_end() -> None:
    stage = staged([])
    stage.play({"writer": write("new"), "sweep": sweep})
    assert not [name for name, outcome in stage.outcomes.items() if isinstance(outcome, BaseException)]
    assert Vault(stage.store, KEY).checkpoints() == ["new", "old"]


# ── one at a time ──


class TestWatch(Watch):
    """Time that passes only when somebody waits."""

    __test__ = False

    def __init__(self) -> None:
        self.at = 1000.0

    def now(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.at += seconds


@pytest.fixture
def watch() -> TestWatch:
    return TestWatch()


@pytest.fixture
def store(watch: TestWatch) -> MemoryBackend:
    return MemoryBackend(clock=lambda: watch.at + 5e8)


@pytest.fixture
def vault(store: MemoryBackend, watch: TestWatch) -> Vault:
    return Vault(store, KEY, times=TIMES, watch=watch)


def from_elsewhere(store: MemoryBackend, key: str) -> None:
    """A lease or mark whose holder is not of this machine."""
    store.put(key, b'{"machine": ["elsewhere", "", ""], "pid": 1, "started": "1"}')


def test_a_writer_that_was_silent_for_too_long_does_not_publish(vault: Vault, watch: TestWatch) -> None:
    manifest = replace(save(vault, "whole", OLD, b""), id="one")
    with vault.writing("one"):
        vault.write(OLD)
        watch.at += 200
        with pytest.raises(StoreFailed, match="did not hear of this writer"):
            vault.write(SHARED)
        with pytest.raises(StoreFailed, match="did not hear of this writer"):
            vault.publish(manifest)
    assert vault.checkpoints() == ["whole"]


def test_a_writer_given_up_by_a_sweep_can_never_publish(
    vault: Vault, store: MemoryBackend, watch: TestWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Vault(store, KEY, times=TIMES, watch=watch)
    create, settle = store.create, store.settle

    def create_late(key: str, body: Bytes) -> bool:
        monkeypatch.setattr(store, "create", create)
        watch.at += 200  # it has looked at everything; now it stands still, and meanwhile is swept
        assert other.sweep().packs == 1
        return create(key, body)

    def settle_then_be_late() -> None:
        settle()
        monkeypatch.setattr(store, "create", create_late)

    with monkeypatch.context() as patched:
        patched.setattr(store, "settle", settle_then_be_late)
        with pytest.raises(StoreFailed, match="given up for dead"):
            save(vault, "one", OLD, SHARED)
    assert vault.checkpoints() == []
    save(vault, "again", OLD, SHARED)
    assert vault.verify("again") == []


def test_a_dead_writers_chunks_are_swept_and_its_lease_goes(
    vault: Vault, store: MemoryBackend, watch: TestWatch
) -> None:
    from_elsewhere(store, f"{LAYOUT.leases}one.1")
    store.put(f"{LAYOUT.packs}abandoned", b"x")
    assert vault.sweep().busy == 1
    watch.at += 181
    assert vault.sweep().packs == 1
    assert not list(store.keys(LAYOUT.leases))
    assert vault.checkpoints() == []


def test_a_holder_whose_process_is_gone_is_dead_at_once(
    vault: Vault, store: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(leases, "_started", lambda _: "when another process had this number")
        for key in (f"{LAYOUT.leases}one.1", f"{LAYOUT.sweeps}1"):
            Lease(store, key, TIMES, Watch())._ended.set()
    before = leases._started(os.getpid())
    assert before is not None
    assert vault.sweep().busy == 0
    with vault.writing("two"):
        assert not list(store.keys(LAYOUT.sweeps))


def test_a_silent_sweep_is_given_up_only_after_the_grace(vault: Vault, store: MemoryBackend, watch: TestWatch) -> None:
    mark = f"{LAYOUT.sweeps}1"
    from_elsewhere(store, mark)
    began = watch.at
    with vault.writing("one"):
        assert watch.at - began > TIMES.dead_s + TIMES.grace_s
        assert not list(store.keys(LAYOUT.sweeps))


def test_what_a_writer_left_that_died_in_the_grace_holds_the_next_one_too(
    vault: Vault, store: MemoryBackend, watch: TestWatch
) -> None:
    from_elsewhere(store, f"{LAYOUT.sweeps}1")
    watch.at += 181

    class Died(Exception):
        pass

    def die(_: float) -> None:
        raise Died

    lease = Lease(store, f"{LAYOUT.leases}x.1", TIMES, watch)
    sleeping, watch.sleep = watch.sleep, die  # type: ignore[method-assign]
    with pytest.raises(Died):
        wait_for_sweeps(store, LAYOUT, lease, TIMES, watch)
    lease.let_go()
    watch.sleep = sleeping  # type: ignore[method-assign]
    began = watch.at
    with vault.writing("one"):
        assert watch.at - began > TIMES.grace_s


def test_a_lease_is_refreshed_while_it_is_held(store: MemoryBackend) -> None:
    touched = threading.Event()
    touch = store.touch
    store.touch = lambda key: (touch(key), touched.set())[0]  # type: ignore[method-assign]
    lease = Lease(store, f"{LAYOUT.leases}one.1", Times(refresh_s=0.01), Watch())
    assert touched.wait(10)
    lease.let_go()
    assert not list(store.keys(LAYOUT.leases))


def test_a_store_that_fails_for_a_moment_costs_no_lease(store: MemoryBackend, watch: TestWatch) -> None:
    lease = Lease(store, f"{LAYOUT.leases}one.1", TIMES, watch)
    touch = store.touch

    def fail(key: str) -> None:
        raise StoreFailed("no answer")

    store.touch = fail  # type: ignore[method-assign]
    with pytest.raises(StoreFailed, match="no answer"):
        lease.touch()
    store.touch = touch  # type: ignore[method-assign]
    lease.touch()
    lease.require(1)
    lease.let_go()
