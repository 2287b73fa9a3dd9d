"""Which checkpoints there are, and which of them are kept: decided from what is known, without touching the store.

Named ones are kept until somebody deletes them. Of the others each living session keeps what it needs, and the newest
two besides; what nobody lists any more goes, and so does all but what is named of a session that has ended.
"""

from __future__ import annotations

from collections.abc import Iterable

from sojourn.database import Checkpoint
from sojourn.errors import Busy, Invalid, Unknown
from sojourn.lifecycle import CheckpointDamaged, CheckpointsDropped, Event, Session
from sojourn.model import Capabilities

NEWEST = 2


def saved(before: Session, after: Session, facts: Capabilities, store: str) -> Checkpoint | None:
    """The checkpoint that has become whole by this step; `facts`: of the node it was taken on."""
    save, known = after.save, {one.id for one in before.checkpoints}
    kept = next((one for one in after.checkpoints if save and one.id == save.id and one.id not in known), None)
    if save is None or kept is None:
        return None
    return Checkpoint(
        id=save.id,
        session=after.id,
        session_name=after.name,
        owner=after.owner,
        kind=save.kind,
        name=save.name,
        node=save.node,
        created_at=kept.saved_at,
        report=save.report,
        spec=after.spec,
        facts=facts,
        store=store,
        incarnation=save.incarnation,
        epoch=before.epoch,
    )


def spoilt(before: Session, after: Session, event: Event) -> dict[str, str]:
    """Checkpoint -> what is wrong with it, for those that have turned out to be damaged by this step."""
    if isinstance(event, CheckpointsDropped):
        return {}
    if isinstance(event, CheckpointDamaged):
        return {event.checkpoint: event.problem}
    gone = {one.id for one in before.checkpoints} - {one.id for one in after.checkpoints}
    error = (after.wake.error if after.wake else None) or {}
    return dict.fromkeys(gone, error.get("message") or after.reason or "It could not be woken from.")


def needed(session: Session) -> set[str]:
    """What the session sleeps in, or is still being filled from."""
    return {one for one in (session.checkpoint, session.waking and session.waking.checkpoint) if one}


def superfluous(checkpoints: Iterable[Checkpoint], living: Iterable[Session]) -> list[str]:
    """Those that may go. `living`: all sessions that have not ended."""
    passing = [one.id for one in checkpoints if one.kind != "named"]
    keep: set[str] = set()
    for session in living:
        mine = [one.id for one in session.checkpoints if one.id in passing]
        keep |= needed(session) | set(mine[:NEWEST]) | {one.id for one in session.checkpoints[:1]}
    return [identity for identity in passing if identity not in keep]


def require_unneeded(checkpoint: Checkpoint, living: Iterable[Session]) -> None:
    """Raises Busy while a session sleeps in it, or wakes from it."""
    for session in living:
        if checkpoint.id in needed(session):
            doing = "sleeps in" if session.status == "suspended" else "is waking from"
            raise Busy(
                f"Session {session.name or session.id} {doing} checkpoint {checkpoint.name or checkpoint.id}.",
                "Wake the session first, or stop it.",
            )


def named(checkpoints: Iterable[Checkpoint], name: str) -> Checkpoint:
    """By id, name, or a unique beginning of the id. Raises Unknown and Invalid."""
    for fits in (_is, _starts):
        found = [one for one in checkpoints if fits(one, name)]
        if len(found) == 1:
            return found[0]
        if found:
            raise Invalid(f"{name!r} may mean {len(found)} checkpoints.", "Write more of the checkpoint's id.")
    raise Unknown(f"There is no checkpoint {name!r}.", "`sojourn checkpoints` shows those there are.")


def _is(checkpoint: Checkpoint, name: str) -> bool:
    return bool(name) and name in (checkpoint.id, checkpoint.name)


def _starts(checkpoint: Checkpoint, name: str) -> bool:
    return len(name) >= 4 and checkpoint.id.startswith(name)
