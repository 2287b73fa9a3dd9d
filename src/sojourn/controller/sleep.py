"""Putting sessions to sleep, waking them, and going back to, or branching from, what they were.

Everything that can be found out while a session runs is found out first; then the wish is the law's, and who asked may
wait for what comes of it.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from sojourn.client.words import (
    CheckpointRequest,
    ForkRequest,
    RestoreRequest,
    ResumeRequest,
    SuspendRequest,
    Until,
    UntilDone,
)
from sojourn.controller import kept
from sojourn.controller.activity import Activities
from sojourn.controller.checkpoints import Checkpoints
from sojourn.controller.fitness import require_savable, require_wakeable, unwakeable
from sojourn.controller.images import Clock, Images
from sojourn.controller.questions import Questions
from sojourn.controller.reconciler import Reconciler
from sojourn.controller.roster import Roster
from sojourn.controller.vaults import Vaults
from sojourn.database import Checkpoint
from sojourn.errors import Damaged, Immovable, Refused, SaveFailed, SessionLost, Unknown, WakeFailed, from_wire
from sojourn.lifecycle import (
    CheckpointWanted,
    Kept,
    RestoreWanted,
    ResumeWanted,
    Save,
    Session,
    SuspendWanted,
    Wake,
    raise_unless_at_rest,
    raise_unless_free,
)
from sojourn.model import CheckpointKind, Needs, NodeStatus, NodeView, SavePhase, SessionStatus, WakePhase
from sojourn.placement import choose, needs_of, why_not

_REACHED: dict[Until, Collection[WakePhase]] = {
    "accepted": set(WakePhase),
    "thawed": {WakePhase.FILLING, WakePhase.DONE, WakePhase.FAILED},
    "filled": {WakePhase.DONE, WakePhase.FAILED},
}


@dataclass
class Sleep:
    reconciler: Reconciler
    roster: Roster
    questions: Questions
    vaults: Vaults
    checkpoints: Checkpoints
    activities: Activities
    images: Images
    clock: Clock

    # ── saving ───────────────────────────────────────────────────────────────────────────────────────────────

    async def suspend(self, session: Session, asked: SuspendRequest, identity: str | None = None) -> Session:
        """Raises Busy in the middle of a cell (unless by force), Immovable, StoreFailed: then nothing was touched; and
        SaveFailed when the session had to stay awake. One that sleeps already sleeps on."""
        if session.status is SessionStatus.SUSPENDING and session.saving:
            return await self.saved(session.id, session.saving.id, asked.wait)
        if session.status is SessionStatus.SUSPENDED:
            return session
        if not asked.force:
            self.activities.require_idle(session)
        await self.require_savable(session, "suspended")
        save = identity or uuid.uuid4().hex
        self.reconciler.apply(session.id, SuspendWanted(save))
        return await self.saved(session.id, save, asked.wait)

    async def checkpoint(
        self,
        session: Session,
        asked: CheckpointRequest,
        kind: CheckpointKind = "named",
        identity: str | None = None,
    ) -> Session:
        """The session, which goes on, and whose `save` is the one asked for. Raises as `suspend`, and Refused when it
        has a checkpoint of that name."""
        self._require_new_name(session, asked.name)
        await self.require_savable(session, "saved")
        save = identity or uuid.uuid4().hex
        self.reconciler.apply(session.id, CheckpointWanted(save, kind, asked.name))
        return await self.saved(session.id, save, asked.wait)

    async def require_savable(self, session: Session, wanted: str) -> None:
        """Raises what a save would be refused with. `wanted`: a participle, "suspended"."""
        if session.sandbox == "process":
            raise Immovable(
                f"Session {session.name or session.id} is a plain process on {session.node}; those can't be {wanted}.",
                "Sessions in runc sandboxes can; `sojourn doctor` says what that node lacks for them.",
            )
        raise_unless_at_rest(session, self.clock(), wanted)
        inspection = await self.questions.inspect(session.node, session.id)
        require_savable(session, self.roster.view(session.node), inspection)
        await self.vaults.ready()

    async def saved(self, session: str, save: str, wait: UntilDone = "done") -> Session:
        """The session, once its checkpoint is whole. Raises what the save failed with."""

        def reached(now: Session) -> bool:
            if wait == "accepted" or now.ended or now.save is None or now.save.id != save:
                return True
            return now.save.over or (now.save.saved and now.status is not SessionStatus.SUSPENDING)

        now = await self.reconciler.until(session, reached)
        if now.save and now.save.id == save and now.save.phase is SavePhase.FAILED:
            raise _save_failure(now, now.save)
        return now

    # ── waking ───────────────────────────────────────────────────────────────────────────────────────────────

    async def resume(self, session: Session, asked: ResumeRequest, identity: str | None = None) -> Session:
        """One that is awake stays as it is; one that falls asleep is woken as soon as it does. Raises SessionLost,
        Refused, DoesNotFit, Incompatible, Unreachable before anything is touched, and WakeFailed when it sleeps on."""
        session = await self._fallen_asleep(session)
        if session.ended or session.status is SessionStatus.STOPPING:
            raise_unless_free(session, self.clock(), "resumed")
        if not session.asleep:
            return session
        if wake := session.waking:
            return await self._woken(session.id, wake.id, asked.wait)
        slept_in = self._slept_in(session)
        node = self._harbour(session, slept_in, asked.to)
        await self.images.bring_for(session, slept_in.spec, node.name)
        wake_id = identity or uuid.uuid4().hex
        self.reconciler.apply(session.id, ResumeWanted(wake_id, node.name))
        return await self._woken(session.id, wake_id, asked.wait)

    async def restore(self, session: Session, asked: RestoreRequest, identity: str | None = None) -> Session:
        """What the session did since that checkpoint is given up. Raises Unknown, Damaged, Busy, and as `resume`."""
        checkpoint = self.checkpoint_of(session, asked.checkpoint)
        if session.ended:
            raise Refused(
                f"Session {session.name or session.id} has ended.",
                "`sojourn fork SESSION --checkpoint …` begins a new one from that checkpoint.",
            )
        _require_whole(checkpoint)
        node = self._harbour(session, checkpoint, asked.to)
        await self.images.bring_for(session, checkpoint.spec, node.name)
        wake = identity or uuid.uuid4().hex
        self.reconciler.apply(session.id, RestoreWanted(checkpoint.id, wake, node.name))
        return await self._woken(session.id, wake, asked.wait)

    def checkpoint_of(self, session: Session, name: str) -> Checkpoint:
        """One that the session can be taken back to, by its name or id. Raises Unknown and Invalid."""
        return kept.named(self.checkpoints.of_session(session), name)

    async def _fallen_asleep(self, session: Session) -> Session:
        return await self.reconciler.until(session.id, lambda now: now.status is not SessionStatus.SUSPENDING)

    async def _woken(self, session: str, wake: str, wait: Until) -> Session:
        """The session, once its wake has got so far. Raises what that failed with."""

        def reached(now: Session) -> bool:
            return now.ended or now.wake is None or now.wake.id != wake or now.wake.phase in _REACHED[wait]

        now = await self.reconciler.until(session, reached)
        if now.status is SessionStatus.LOST:
            raise SessionLost(f"Session {now.name or now.id} is lost: {now.reason}", "Start a new one.")
        if now.wake and now.wake.id == wake and now.wake.phase is WakePhase.FAILED:
            raise _wake_failure(now, now.wake)
        return now

    def _slept_in(self, session: Session) -> Checkpoint:
        found = self.checkpoints.get(session.checkpoint) if session.checkpoint else None
        if found is None:
            raise Refused(
                f"Session {session.name or session.id} is {session.status} and has no checkpoint to wake from.",
                "Start a new one.",
            )
        return found

    # ── branching ────────────────────────────────────────────────────────────────────────────────────────────

    async def fork(self, session: Session, asked: ForkRequest, identity: str | None = None) -> list[Session]:
        """New sessions from the session's state of now, from what it sleeps in, or from a checkpoint of its. Raises as
        `checkpoint` and `resume`; what was begun then sleeps, and can be resumed or stopped."""
        identity = identity or uuid.uuid4().hex
        ids = [uuid.uuid5(uuid.UUID(identity), str(number)).hex for number in range(asked.count)]
        if not self._known(ids[0]):
            checkpoint = await self._trunk(session, asked.checkpoint, identity)
            self._branch(session, checkpoint, asked, ids)
        waking = [self.resume(self.reconciler.get(one), ResumeRequest(to=asked.to, wait=asked.wait)) for one in ids]
        return list(await asyncio.gather(*waking))

    async def _trunk(self, session: Session, name: str | None, identity: str) -> Checkpoint:
        """What is branched from; made first if the session is awake."""
        if name is not None:
            return self.checkpoint_of(session, name)
        if session.asleep:
            return self._slept_in(session)
        if session.save and session.save.id == identity:  # begun by a controller that was killed
            await self.saved(session.id, identity)
        elif not self.checkpoints.get(identity):
            await self.checkpoint(session, CheckpointRequest(), "background", identity)
        found = self.checkpoints.get(identity)
        assert found, "a save that is done is listed"
        return found

    def _branch(self, session: Session, checkpoint: Checkpoint, asked: ForkRequest, ids: list[str]) -> None:
        """Write the branches down, each asleep in the checkpoint, where it fits. Raises Damaged, DoesNotFit, …"""
        _require_whole(checkpoint)
        node = self._harbour(session, checkpoint, asked.to, sessions=asked.count)
        names = self._names(asked.name or f"{session.name[:200] or session.id[:8]}-fork", asked)
        forks = [
            Session(
                id=identity,
                name=name,
                owner=checkpoint.owner,
                spec=checkpoint.spec.model_copy(update={"name": name}),
                created_at=self.clock(),
                node=node.name,
                status=SessionStatus.SUSPENDED,
                incarnation=checkpoint.incarnation,
                issued=checkpoint.incarnation,
                epoch=checkpoint.epoch,
                sandbox="runc",
                checkpoint=checkpoint.id,
                checkpoints=(Kept(checkpoint.id, checkpoint.created_at),),
                origin=session.id,
            )
            for identity, name in zip(ids, names, strict=False)
        ]
        self.reconciler.add_asleep(forks)

    def _names(self, stem: str, asked: ForkRequest) -> Iterator[str]:
        """STEM-1, STEM-2, … that are free; a single name that was asked for as it is."""
        if asked.name and asked.count == 1:
            yield asked.name
            return
        taken = {one.name for one in self.reconciler.living()}
        number = 0
        while True:
            number += 1
            if (name := f"{stem}-{number}") not in taken:
                yield name

    def _known(self, session: str) -> bool:
        try:
            self.reconciler.get(session)
        except Unknown:
            return False
        return True

    # ── where ────────────────────────────────────────────────────────────────────────────────────────────────

    def _harbour(self, session: Session, checkpoint: Checkpoint, to: str | Needs | None, sessions: int = 1) -> NodeView:
        """Where to wake: where it was, if that will do, for its chunks are at hand there; else the best of the others.
        Raises DoesNotFit, Incompatible, Unreachable, Unknown."""
        nodes = self.roster.views()
        asked = session.spec.needs.model_copy(update={"node": None}) if to is None else needs_of(to, nodes)
        room = max(checkpoint.report.memory_bytes, asked.memory_bytes) * sessions
        needs = asked.model_copy(update={"memory_bytes": room})
        own = 0 if session.asleep or session.ended else checkpoint.report.memory_bytes
        for node in nodes:
            if node.name == needs.node and node.status is NodeStatus.ONLINE:
                require_wakeable(checkpoint, node)
            at_home = node.name == session.node and not node.draining
            if at_home and not why_not(node, needs, own_memory_bytes=own) and not unwakeable(checkpoint, node):
                return node
        return choose(needs, nodes, unfit=lambda node: unwakeable(checkpoint, node))

    def _require_new_name(self, session: Session, name: str) -> None:
        if not name:
            return
        if any(one.name == name for one in self.checkpoints.of_session(session)):
            raise Refused(
                f"Session {session.name or session.id} has a checkpoint named {name!r} already.",
                "Choose another name, or delete that one: `sojourn checkpoints rm`.",
            )


def _require_whole(checkpoint: Checkpoint) -> None:
    if checkpoint.problem:
        raise Damaged(
            f"Checkpoint {checkpoint.name or checkpoint.id} can't be used: {checkpoint.problem}",
            "`sojourn checkpoints` shows the others.",
        )


def _save_failure(session: Session, save: Save) -> SaveFailed:
    error = from_wire(save.error or {})
    return SaveFailed(
        f"Session {session.name or session.id} could not be saved on {save.node}: {error.message}",
        f"{error.hint} {'It goes on there.' if session.status is SessionStatus.RUNNING else ''}".strip(),
    )


def _wake_failure(session: Session, wake: Wake) -> WakeFailed:
    error = from_wire(wake.error or {})
    sleeps = f"It sleeps on in checkpoint {session.checkpoint}." if session.checkpoint else ""
    return WakeFailed(
        f"Session {session.name or session.id} could not be woken on {wake.node}: {error.message}",
        f"{error.hint} {sleeps}".strip(),
    )
