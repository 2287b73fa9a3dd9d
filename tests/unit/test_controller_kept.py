"""Which checkpoints are listed, found, and kept: no store, no clock."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sojourn.controller import kept
from sojourn.database import Checkpoint
from sojourn.errors import Busy, Damaged, Invalid, Unknown
from sojourn.lifecycle import CheckpointDamaged, CheckpointsDropped, Kept, Save, Session, Tick, Wake
from sojourn.model import Capabilities, CheckpointKind, Program, SavePhase, SaveReport, SessionSpec, SessionStatus

SPEC = SessionSpec(program=Program(argv=("python",)))
FACTS = Capabilities(os="linux", arch="x", kernel="6", python="3", sojourn="0", machine_id="m", root_id="r")
SESSION = Session("s", "analysis", "ada", SPEC, 1.0, "here", status=SessionStatus.RUNNING, incarnation=3, epoch=2)


def checkpoint(identity: str, kind: CheckpointKind = "suspend", name: str = "") -> Checkpoint:
    return Checkpoint(
        identity, "s", "analysis", "ada", kind, name, "here", 1.0, SaveReport(), SPEC, FACTS, "store", 1, 1
    )


def listing(*identities: str, **changes: object) -> Session:
    return replace(SESSION, checkpoints=tuple(Kept(one, 1.0) for one in identities), **changes)


def test_a_save_that_is_whole_is_listed_once() -> None:
    save = Save("c", "named", "before", "there", 3, keep=True, started_at=5.0)
    before = replace(SESSION, save=save)
    report = SaveReport(frozen_s=0.2)
    after = replace(
        before, save=replace(save, phase=SavePhase.DONE, saved=True, report=report), checkpoints=(Kept("c", 5.0),)
    )
    found = kept.saved(before, after, FACTS, "store")
    assert found
    assert (found.id, found.kind, found.name, found.node) == ("c", "named", "before", "there")
    assert (found.created_at, found.report, found.incarnation, found.epoch) == (5.0, report, 3, 2)
    assert kept.saved(after, replace(after, reason="x"), FACTS, "store") is None
    assert kept.saved(SESSION, before, FACTS, "store") is None


def test_what_was_found_damaged_is_remembered_but_not_what_was_dropped() -> None:
    error = Damaged("Chunk 1f is missing.").to_wire()
    failed = replace(listing("a"), wake=Wake("w", "b", "here", 4, False, 1.0, error=error))
    assert kept.spoilt(listing("b", "a"), failed, Tick()) == {"b": "Chunk 1f is missing."}
    assert kept.spoilt(listing("b", "a"), listing("a"), CheckpointsDropped(("b",))) == {}
    assert kept.spoilt(listing("b", "a"), listing("a"), CheckpointDamaged("b", "gone")) == {"b": "gone"}


@pytest.mark.parametrize(
    ("living", "gone"),
    [
        ([], "abcde"),
        ([listing("n", "e", "d", "c")], "abc"),
        ([listing("a", "n", "e", "d")], "bcd"),
        ([listing("e", "d", "c"), listing("a")], "bc"),
        ([listing("b", "e", "d", status=SessionStatus.SUSPENDED, checkpoint="c")], "ad"),
        ([listing("e", "d", wake=Wake("w", "a", "here", 4, False, 1.0))], "bc"),
    ],
    ids=["ended", "newest two", "what it was taken back to", "a fork's", "slept in", "still filling from"],
)
def test_what_may_go(living: list[Session], gone: str) -> None:
    everything = [*map(checkpoint, "edcba"), checkpoint("n", "named", "precious")]
    assert sorted(kept.superfluous(everything, living)) == list(gone)


def test_what_is_needed_is_not_deleted() -> None:
    asleep = listing("a", status=SessionStatus.SUSPENDED, checkpoint="a")
    with pytest.raises(Busy, match="analysis sleeps in"):
        kept.require_unneeded(checkpoint("a"), [asleep])
    kept.require_unneeded(checkpoint("b"), [asleep])


def test_by_id_name_or_the_beginning_of_an_id() -> None:
    everything = [checkpoint("aaaa1"), checkpoint("aaaa2", "named", "x"), checkpoint("bbbbb", "named", "y")]
    assert kept.named(everything, "y").id == "bbbbb"
    assert kept.named(everything, "bbbb").id == "bbbbb"
    for unclear in ("aaaa", "x"):
        with pytest.raises(Invalid, match="may mean 2"):
            kept.named([*everything, checkpoint("ccccc", "named", "x")], unclear)
    for none in ("", "bbb", "z"):
        with pytest.raises(Unknown):
            kept.named(everything, none)
