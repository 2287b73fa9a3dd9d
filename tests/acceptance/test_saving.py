"""Real sandboxes, CRIU and a real store: sessions are saved and woken, and what is killed or altered on the way."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import struct
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.acceptance.heap_session import MANY_PAGES, PAGES, RIGHT, Ground, ask, in_order, lines, memory_of, runs

from sojourn.chunks import Manifest, Vault, open_store
from sojourn.errors import CriuFailed, Damaged, SaveFailed, SojournError, StoreFailed
from sojourn.model.checkpoints import StorePass
from sojourn.movers import probe, recover_save, recover_wake, save, wake
from sojourn.movers.criu import save as module
from sojourn.movers.criu.save import CriuSave
from sojourn.movers.criu.service import memory_folder
from sojourn.movers.criu.wake import CriuWake
from sojourn.movers.processes import Lasting
from sojourn.sandbox.runc import RuncSandbox
from sojourn.wire import FillProgressed, SessionFilled, SessionFrozen, SessionSaved, SessionThawed

pytestmark = pytest.mark.acceptance


class Store:
    """A local store, and its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        url = f"file://{folder}"
        self.opened = StorePass(url=url, identity=open_store(url).identity(), key=secrets.token_hex(32))
        self.vault = Vault(open_store(url), bytes.fromhex(self.opened.key))

    def spoil(self, checkpoint: str, chunk: str) -> None:
        """Alter the last byte of it."""
        spot = self.vault.manifest(checkpoint).spots[chunk]
        (pack,) = self.folder.glob(f"owners/*/packs/{spot.pack}")
        with pack.open("r+b") as file:
            file.seek(spot.offset + spot.length - 1)
            last = file.read(1)[0]
            file.seek(spot.offset + spot.length - 1)
            file.write(bytes([last ^ 1]))

    def lose(self, checkpoint: str, chunk: str) -> None:
        """The pack that it is in is gone."""
        (pack,) = self.folder.glob(f"owners/*/packs/{self.vault.manifest(checkpoint).spots[chunk].pack}")
        pack.unlink()

    def bytes(self) -> int:
        return sum(path.stat().st_size for path in self.folder.glob("owners/*/packs/*"))


class Save:
    """One save, driven as an agent does."""

    def __init__(
        self,
        sandbox: RuncSandbox,
        store: Store,
        keep: bool = False,
        at: dict[type, Callable[[Save], None]] | None = None,
    ) -> None:
        self.id, self.sandbox, self.store, self.keep, self.at = uuid.uuid4().hex, sandbox, store, keep, at or {}
        self.events: list[Any] = []
        self.facts: dict[str, Any] = {}
        self.noted: Callable[[dict[str, Any]], None] = lambda facts: None
        self.went_on = 0
        self.mover = save(sandbox, self.id, store.opened, keep=keep, **self._callables())
        assert isinstance(self.mover, CriuSave)

    def _callables(self) -> dict[str, Any]:
        return {"tell": self._tell, "note": self._note, "hang_up": int, "go_on": self._go_on}

    def run(self) -> None:
        self.mover.run(None)

    def recovered(self) -> CriuSave:
        """The mover of the next agent."""
        made = recover_save(
            self.sandbox, self.id, self.store.opened, dict(self.facts), keep=self.keep, **self._callables()
        )
        assert isinstance(made, CriuSave)
        return made

    @property
    def report(self) -> Any:
        return next(event.report for event in self.events if isinstance(event, SessionSaved))

    @property
    def visible(self) -> bool:
        return self.id in self.store.vault.checkpoints()

    def _tell(self, event: Any) -> None:
        self.events.append(event)
        if act := self.at.get(type(event)):
            act(self)

    def _note(self, facts: dict[str, Any]) -> None:
        self.facts |= facts
        self.noted(facts)

    def _go_on(self) -> None:
        self.went_on += 1


class Wake:
    """One wake, driven as an agent does."""

    def __init__(self, sandbox: RuncSandbox, store: Store, checkpoint: str) -> None:
        self.id, self.sandbox, self.store, self.checkpoint = uuid.uuid4().hex, sandbox, store, checkpoint
        self.events: list[Any] = []
        self.facts: dict[str, Any] = {}
        self.at: dict[type, Callable[[Wake], None]] = {}
        self.mover = wake(sandbox, self.id, checkpoint, store.opened, tell=self._tell, note=self.facts.update)
        assert isinstance(self.mover, CriuWake)

    def run(self) -> None:
        self.mover.prepare()
        self.mover.receive(None)

    def recovered(self) -> CriuWake:
        made = recover_wake(
            self.sandbox,
            self.id,
            self.checkpoint,
            self.store.opened,
            dict(self.facts),
            tell=self._tell,
            note=self.facts.update,
        )
        assert isinstance(made, CriuWake)
        return made

    @property
    def told(self) -> list[type]:
        return [type(event) for event in self.events if not isinstance(event, FillProgressed)]

    def _tell(self, event: Any) -> None:
        self.events.append(event)
        if act := self.at.get(type(event)):
            act(self)


@pytest.fixture(scope="module", autouse=True)
def _possible() -> None:
    strategies, refusals = probe()
    if "lazy" not in strategies:
        pytest.skip(f"no lazy saves here: {refusals.get('lazy')}")


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    with Ground(tmp_path) as made:
        yield made


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def slept(ground: Ground, store: Store, **kind: Any) -> tuple[Save, int]:
    """A session that sleeps: its save, and how many lines it had written."""
    here = ground.running(**kind)
    made = Save(here, store)
    made.run()
    assert not made.mover.resumed
    assert not runs(here)
    written = lines(here)
    made.mover.commit()
    here.remove()
    return made, written


def nothing_left_in_memory(*halves: Save | Wake) -> bool:
    return not [path for half in halves for path in memory_folder().glob(f"{half.id}*")]


def test_sleeps_and_wakes_on_either_node_and_sleeps_again(ground: Ground, store: Store) -> None:
    made, written = slept(ground, store)
    assert [type(event) for event in made.events if not isinstance(event, FillProgressed)] == [
        SessionFrozen,
        SessionSaved,
    ]
    assert made.report.memory_bytes >= PAGES * 3 // 4 * 4096
    assert made.report.new_chunks == made.report.chunks > 0
    for node in ("here", "there"):
        sandbox = ground.sandbox(node)
        woken = Wake(sandbox, store, made.id)
        woken.run()
        assert woken.told == [SessionThawed, SessionFilled]
        assert memory_of(sandbox) == RIGHT
        assert in_order(sandbox)
        assert lines(sandbox) > written
        again = Save(sandbox, store)
        again.run()
        again.mover.commit()
        sandbox.remove()
        written, made = lines(sandbox), again
        assert nothing_left_in_memory(again, woken)


def test_a_checkpoint_wakes_twice_as_it_was_while_its_session_runs_on(ground: Ground, store: Store) -> None:
    here = ground.running()
    made = Save(here, store, keep=True, at={SessionFrozen: lambda save: counts.append(lines(here))})
    counts: list[int] = []
    made.run()
    assert made.mover.resumed
    assert made.went_on == 1
    assert "copied" in made.report.timeline
    assert runs(here)
    assert memory_of(here) == RIGHT
    branches = [ground.sandbox("here"), ground.sandbox("there")]
    for branch in branches:
        woken = Wake(branch, store, made.id)
        woken.at[SessionThawed] = lambda wake: counts.append(lines(wake.sandbox))
        woken.run()
        assert memory_of(branch) == RIGHT
        assert in_order(branch)
    assert counts[0] <= counts[1] < counts[0] + 50  # it began where it was saved, not where it is now
    assert all(runs(each) for each in (here, *branches))
    assert in_order(here)
    assert nothing_left_in_memory(made)


def test_a_second_checkpoint_writes_what_has_changed(ground: Ground, store: Store) -> None:
    here = ground.running(pages=MANY_PAGES)
    Save(here, store, keep=True).run()
    before = store.bytes()
    second = Save(here, store, keep=True)
    second.run()
    assert second.report.new_chunks < second.report.chunks // 20
    assert store.bytes() - before == second.report.stored_bytes


def test_where_a_copy_finds_no_room_the_session_stands_still_until_all_is_written(
    ground: Ground, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "room_aside", lambda expected, free: 0)
    here = ground.running()
    made = Save(here, store, keep=True)
    made.run()
    assert "no room for a copy: written while frozen" in made.report.timeline
    assert made.went_on == 1
    assert memory_of(here) == RIGHT
    sandbox = ground.sandbox("there")
    Wake(sandbox, store, made.id).run()
    assert memory_of(sandbox) == RIGHT


def test_forks_keep_what_they_share(ground: Ground, store: Store) -> None:
    made, _ = slept(ground, store, children=3)
    assert not store.vault.manifest(made.id).memory  # in CRIU's own images
    sandbox = ground.sandbox("there")
    woken = Wake(sandbox, store, made.id)
    woken.run()
    assert woken.told == [SessionThawed, SessionFilled]
    shares = [int(line.split()[1]) for pid in sandbox.pids() for line in smaps(pid) if line.startswith("Pss:")]
    assert sum(shares) * 1024 < 1.7 * PAGES * 4096
    assert memory_of(sandbox) == RIGHT


def smaps(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()


# ── what goes wrong while saving ──


def kill_writer(made: Save) -> None:
    assert isinstance(made.mover, CriuSave)
    assert made.mover._page_source
    os.kill(made.mover._page_source.pid, signal.SIGKILL)


def stop(made: Save) -> None:
    made.mover.stop()


def test_a_checkpoint_that_was_told_of_is_never_taken_back(ground: Ground, store: Store) -> None:
    here = ground.running()
    made = Save(here, store, keep=True)
    made.run()
    made.mover.roll_back()  # it was asked for while the last words were said
    assert runs(here)
    assert made.visible


@pytest.mark.parametrize("keep", [False, True], ids=["suspend", "keep"])
@pytest.mark.parametrize("act", [kill_writer, stop], ids=["kill", "stop"])
def test_the_end_of_the_writer_leaves_the_session_running(
    ground: Ground, store: Store, act: Callable[[Save], None], keep: bool
) -> None:
    here = ground.running()
    made = Save(here, store, keep, at={SessionFrozen: act})
    with pytest.raises(SaveFailed, match="called off" if act is stop else "writer .* ended"):
        made.run()
    still_there_and_unseen(made)


@pytest.mark.parametrize("keep", [False, True], ids=["suspend", "keep"])
def test_a_store_that_can_not_be_written_leaves_the_session_running(ground: Ground, store: Store, keep: bool) -> None:
    here = ground.running()
    made = Save(here, store, keep, at={SessionFrozen: lambda save: block(store)})
    with pytest.raises(StoreFailed):
        made.run()
    unblock(store)
    still_there_and_unseen(made)


def block(store: Store) -> None:
    """A file where the packs' folder is, or is to be: not even root can write below it."""
    while not (found := list(store.folder.glob("owners/*"))):
        time.sleep(0.005)
    for owner in found:
        with contextlib.suppress(FileNotFoundError):
            (owner / "packs").rename(owner / "packs.aside")
        (owner / "packs").touch()


def unblock(store: Store) -> None:
    for owner in store.folder.glob("owners/*"):
        (owner / "packs").unlink()
        with contextlib.suppress(FileNotFoundError):
            (owner / "packs.aside").rename(owner / "packs")


def test_another_store_at_the_same_address_is_refused_before_the_freeze(ground: Ground, store: Store) -> None:
    here = ground.running()
    store.opened = store.opened.model_copy(update={"identity": "another"})
    made = Save(here, store)
    with pytest.raises(StoreFailed, match="is another store"):
        made.run()
    assert made.events == []
    still_there_and_unseen(made)


def test_the_death_of_criu_while_dumping_leaves_the_session_running(ground: Ground, store: Store) -> None:
    def kill_criu(made: Save) -> None:
        assert isinstance(made.mover, CriuSave)
        assert made.mover._criu
        os.kill(made.mover._criu.pid, signal.SIGKILL)

    here = ground.running()
    made = Save(here, store, at={SessionFrozen: kill_criu})
    with pytest.raises(CriuFailed):
        made.run()
    still_there_and_unseen(made)


def still_there_and_unseen(made: Save) -> None:
    assert runs(made.sandbox)
    assert memory_of(made.sandbox) == RIGHT
    assert in_order(made.sandbox)
    assert not made.visible
    assert nothing_left_in_memory(made)
    assert not any(note and Lasting(*note).alive() for note in (made.facts.get("criu"), made.facts.get("page_source")))


class Crash(BaseException):
    """The agent ends here."""


@pytest.mark.parametrize(
    ("phase", "keep"),
    [
        ("writing ahead", False),
        ("freezing", False),
        ("publishing", False),
        ("saved", False),
        ("freezing", True),
        ("kept", True),
        ("publishing", True),
        ("saved", True),
    ],
)
def test_a_crash_of_the_agent_ends_in_one_state_only(
    ground: Ground, store: Store, phase: str, keep: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CriuSave, "_end", lambda self: None)  # a killed agent cleans nothing up
    monkeypatch.setattr(CriuSave, "_drop", lambda self: None)

    def crash(facts: dict[str, Any]) -> None:
        if facts.get("phase") == phase:
            raise Crash

    here = ground.running()
    made = Save(here, store, keep)
    made.noted = crash
    with pytest.raises((Crash, SojournError)):
        made.run()
    monkeypatch.undo()
    made.noted = lambda facts: None
    successor = made.recovered()
    if phase == "saved" and not keep:
        assert not successor.resumed
        assert made.facts["report"]["chunks"] > 0
        assert made.visible
        assert not runs(here)
        successor.roll_back()
        assert runs(here)
        assert made.visible  # what becomes of it is for the controller to say
        return
    assert successor.resumed
    successor.roll_back()
    assert successor.resumed
    successor.roll_back()
    still_there_and_unseen(made)


# ── what goes wrong while waking ──


def memory_chunks(store: Store, checkpoint: str) -> list[str]:
    """The chunks of the largest run of memory."""
    run = max(
        (run for runs in store.vault.manifest(checkpoint).memory.values() for run in runs), key=lambda run: run.size
    )
    return [chunk for chunk in run.chunks if chunk]


def test_a_missing_pack_is_noticed_before_the_thaw(ground: Ground, store: Store) -> None:
    made, _ = slept(ground, store)
    chunk = memory_chunks(store, made.id)[-1]
    store.lose(made.id, chunk)
    sandbox = ground.sandbox("here")
    woken = Wake(sandbox, store, made.id)
    with pytest.raises(Damaged, match="is missing"):
        woken.run()
    assert woken.told == []
    woken.mover.abandon()
    assert sandbox.pids() == []
    assert nothing_left_in_memory(woken)


def test_an_altered_chunk_ends_the_fill_and_nobody_reads_it(ground: Ground, store: Store) -> None:
    made, _ = slept(ground, store, pages=MANY_PAGES)
    chunk = memory_chunks(store, made.id)[-1]
    store.spoil(made.id, chunk)
    sandbox = ground.sandbox("here")
    woken = Wake(sandbox, store, made.id)
    with pytest.raises(Damaged, match=chunk[:12]):
        woken.run()
    assert woken.told == [SessionThawed]
    answer = ask(sandbox)
    time.sleep(0.3)
    assert not answer.exists()  # it waits at the page that can't be had
    woken.mover.abandon()
    woken.mover.abandon()
    assert sandbox.pids() == []
    assert nothing_left_in_memory(woken)


@pytest.mark.parametrize("part", ["layer", "image"])
def test_a_damaged_layer_or_image_is_noticed_before_the_thaw(ground: Ground, store: Store, part: str) -> None:
    made, _ = slept(ground, store)
    manifest = store.vault.manifest(made.id)
    body = manifest.layer if part == "layer" else manifest.images["pstree.img"]
    store.spoil(made.id, body.chunks[0])
    woken = Wake(ground.sandbox("here"), store, made.id)
    with pytest.raises(Damaged, match=body.chunks[0][:12]):
        woken.run()
    assert woken.told == []
    woken.mover.abandon()
    assert nothing_left_in_memory(woken)


def test_a_checkpoint_that_is_not_there_can_not_wake(ground: Ground, store: Store) -> None:
    woken = Wake(ground.sandbox("here"), store, "0" * 32)
    with pytest.raises(Damaged):
        woken.run()
    woken.mover.abandon()
    assert nothing_left_in_memory(woken)


def test_the_death_of_the_pager_ends_a_wake_and_the_checkpoint_stays(ground: Ground, store: Store) -> None:
    made, _ = slept(ground, store, pages=MANY_PAGES)

    def kill_pager(woken: Wake) -> None:
        assert isinstance(woken.mover, CriuWake)
        assert woken.mover._pager
        os.kill(woken.mover._pager.pid, signal.SIGKILL)

    sandbox = ground.sandbox("here")
    woken = Wake(sandbox, store, made.id)
    woken.at[SessionThawed] = kill_pager
    with pytest.raises(SojournError, match="pager"):
        woken.run()
    woken.mover.abandon()
    sandbox.remove()
    again = ground.sandbox("there")
    Wake(again, store, made.id).run()
    assert memory_of(again) == RIGHT.replace(str(PAGES), str(MANY_PAGES))


def test_a_new_agent_goes_on_with_the_fill(ground: Ground, store: Store) -> None:
    made, _ = slept(ground, store, pages=MANY_PAGES)

    def crash(woken: Wake) -> None:
        raise Crash

    sandbox = ground.sandbox("here")
    woken = Wake(sandbox, store, made.id)
    woken.at[SessionThawed] = crash
    with pytest.raises((Crash, SojournError)):
        woken.run()
    assert isinstance(woken.mover, CriuWake)
    woken.mover._close_descriptors()  # as the kernel does
    woken.at.clear()
    successor = woken.recovered()
    assert successor.thawed
    successor.go_on()
    assert woken.told[-1] is SessionFilled
    assert memory_of(sandbox) == RIGHT.replace(str(PAGES), str(MANY_PAGES))


# ── clocks ──


def test_monotonic_time_goes_on_where_it_stood_whatever_the_clock_of_the_machine(ground: Ground, store: Store) -> None:
    """As if the machine had been restarted meanwhile: the checkpoint is of a boot that was ten days older."""
    made, _ = slept(ground, store)
    older = as_of_an_older_boot(store, store.vault.manifest(made.id), days=10)
    sandbox = ground.sandbox("here")
    Wake(sandbox, store, older).run()
    assert memory_of(sandbox) == RIGHT  # "clock well": it has never seen time go back
    offsets = Path(f"/proc/{sandbox.root_pid()}/timens_offsets").read_text().split()
    assert abs(int(offsets[1]) - 10 * 86_400) < 120


def as_of_an_older_boot(store: Store, manifest: Manifest, days: int) -> str:
    """A checkpoint like this one, whose clocks stood higher: its id."""
    from sojourn.movers.protobuf import decode, encode

    image = b"".join(store.vault.read_body(manifest, manifest.images["timens-0.img"]))
    (length,) = struct.unpack_from("<I", image, 8)
    clocks = {
        kind: decode(value) for kind, value in decode(image[12 : 12 + length]).items() if isinstance(value, bytes)
    }
    later = encode({kind: encode({1: int(clock[1]) + days * 86_400, 2: clock[2]}) for kind, clock in clocks.items()})
    with store.vault.writing(older := uuid.uuid4().hex):
        body = store.vault.write_body([image[:8] + struct.pack("<I", len(later)) + later])
        store.vault.publish(replace(manifest, id=older, images={**manifest.images, "timens-0.img": body}))
    return older
