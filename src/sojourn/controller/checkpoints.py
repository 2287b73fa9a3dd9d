"""The whole checkpoints: found, looked after, dropped. Which of them are kept is decided in `kept`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable
from dataclasses import replace
from functools import partial

from sojourn.chunks import Swept, Vault
from sojourn.client.words import Collected, Verified
from sojourn.controller import kept
from sojourn.controller.images import Clock
from sojourn.controller.reconciler import Reconciler
from sojourn.controller.tokens import Person
from sojourn.controller.vaults import Vaults
from sojourn.database import Checkpoint, Database
from sojourn.database import queries as ask
from sojourn.errors import Damaged, SojournError, StoreFailed
from sojourn.lifecycle import CheckpointDamaged, CheckpointFound, CheckpointsDropped, Session
from sojourn.model import SessionStatus

log = logging.getLogger(__name__)

TIDY_SECONDS = 60.0
LOOK_SECONDS = 3600.0
"""Between two looks at the whole store."""
ABANDONED_SECONDS = 3600.0
"""A manifest that nobody knows of may be removed when it is so old."""


class Checkpoints:
    def __init__(self, database: Database, reconciler: Reconciler, vaults: Vaults, clock: Clock) -> None:
        self._database, self._reconciler, self._vaults, self._clock = database, reconciler, vaults, clock
        self._sweeping = asyncio.Lock()
        self._sought: set[str] = set()
        self._known: dict[str, Checkpoint] = {}
        """As they were read last: of what is written only the problem ever changes."""
        self.all()  # while nobody waits: a thousand take a quarter of a second

    async def run(self) -> None:
        """Look after them, until cancelled."""
        looked_at = self._clock()
        while True:
            await asyncio.sleep(TIDY_SECONDS)
            due = abs(self._clock() - looked_at) >= LOOK_SECONDS
            try:
                await (self._look() if due else self.tidy())
            except SojournError as away:
                log.warning("checkpoints could not be looked after: %s", away.message)
            except Exception:
                log.exception("a defect in the controller")
            if due:
                looked_at = self._clock()

    # ── finding ──────────────────────────────────────────────────────────────────────────────────────────────

    def all(self) -> list[Checkpoint]:
        """The newest first."""
        with self._database.transaction() as connection:
            problems = ask.checkpoint_problems(connection)
            unknown = problems.keys() - self._known.keys()
            if unknown:
                found = ask.checkpoints(connection, unknown if self._known else None)
                self._known |= {one.id: one for one in found}
        self._known = {name: _with_problem(self._known[name], problem) for name, problem in problems.items()}
        return list(self._known.values())

    def of(self, person: Person) -> list[Checkpoint]:
        return [one for one in self.all() if person.admin or one.owner == person.name]

    def find(self, name: str, person: Person) -> Checkpoint:
        """By id, name, or a unique beginning of the id. Raises Unknown and Invalid."""
        return kept.named(self.of(person), name)

    def of_session(self, session: Session) -> list[Checkpoint]:
        """Those it was saved as, and those it can be taken back to."""
        listed = {one.id for one in session.checkpoints}
        return [one for one in self.all() if one.session == session.id or one.id in listed]

    def get(self, identity: str) -> Checkpoint | None:
        with self._database.transaction() as connection:
            return ask.checkpoint(connection, identity)

    # ── dropping ─────────────────────────────────────────────────────────────────────────────────────────────

    async def drop(self, checkpoint: Checkpoint) -> None:
        """Raises Busy while a session needs it. Its chunks go with the next sweep."""
        kept.require_unneeded(checkpoint, self._reconciler.living())
        await self._drop([checkpoint])

    async def tidy(self) -> list[str]:
        """Find what was saved at the last moment, tell each session which of its checkpoints are damaged, and drop what
        nothing will be woken from any more; those are given."""
        await self._find_last_words()
        self._tell_damaged(self.all())
        superfluous = self._superfluous()
        await self._drop(superfluous)
        return [one.id for one in superfluous]

    def _superfluous(self) -> list[Checkpoint]:
        everything = self.all()
        gone = set(kept.superfluous(everything, self._reconciler.living()))
        return [one for one in everything if one.id in gone]

    async def _drop(self, checkpoints: Collection[Checkpoint]) -> None:
        """First from the lists, then from the store: what is found there without being listed is removed later."""
        gone = tuple(one.id for one in checkpoints)
        for session in self._listing(gone):
            self._reconciler.apply(session.id, CheckpointsDropped(gone))
        with self._database.transaction() as connection:
            ask.drop_checkpoints(connection, gone)
        for one in checkpoints:
            try:
                await self._vaults.within(one.owner, one.store, partial(_drop, identity=one.id))
            except StoreFailed as away:
                log.warning("checkpoint %s stays in the store for now: %s", one.id, away.message)

    async def _find_last_words(self) -> None:
        """A node may have died between publishing a checkpoint and saying so: the store is asked once, and whenever
        it is swept."""
        for save, session in self._given_up().items():
            if save not in self._sought:
                found = await self._vaults.within(session.owner, self._vaults.here(), Vault.checkpoints)
                self._tell_found(found)
                self._sought.add(save)

    def _tell_found(self, whole: Collection[str]) -> None:
        for save, session in self._given_up().items():
            if save in whole:
                self._reconciler.apply(session.id, CheckpointFound(save))

    def _given_up(self) -> dict[str, Session]:
        """Save -> the session that was given up with the node which was at it."""
        asleep = [one for one in self._reconciler.living() if one.status is SessionStatus.SUSPENDED]
        sessions = [*asleep, *self._reconciler.lost()]
        return {one.save.id: one for one in sessions if one.save and one.save.over and not one.save.saved}

    def _tell_damaged(self, checkpoints: Iterable[Checkpoint]) -> None:
        """A fork may list what was found damaged when another session was woken from it."""
        for one in checkpoints:
            for session in self._listing((one.id,)) if one.problem else ():
                self._reconciler.apply(session.id, CheckpointDamaged(one.id, one.problem))

    def _listing(self, checkpoints: Collection[str]) -> list[Session]:
        living = self._reconciler.living()
        return [session for session in living if any(one.id in checkpoints for one in session.checkpoints)]

    # ── looking ──────────────────────────────────────────────────────────────────────────────────────────────

    async def verify(self, checkpoint: Checkpoint, deep: bool = True) -> Verified:
        """Look for every chunk (`deep`: read it), and remember what is wrong. Raises StoreFailed when the store can't
        be asked: that is no damage."""
        problems = await self._vaults.within(
            checkpoint.owner, checkpoint.store, partial(_problems, identity=checkpoint.id, deep=deep)
        )
        found = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
        if found != checkpoint.problem and (found or deep):
            with self._database.transaction() as connection:
                ask.mark_checkpoint(connection, checkpoint.id, found)
        self._tell_damaged([replace(checkpoint, problem=found)])
        return Verified(checkpoint=checkpoint.id, problems=tuple(problems))

    async def gc(self, dry_run: bool = False) -> Collected:
        """Remove from every vault what no checkpoint uses. Raises StoreFailed at the end if a store did not answer."""
        async with self._sweeping:
            dropped = [one.id for one in self._superfluous()] if dry_run else await self.tidy()
            swept: list[Swept] = []
            failures: list[StoreFailed] = []
            for owner, store in self._vaults.all():
                try:
                    dropped += await self._drop_unknown(owner, store, dry_run)
                    swept.append(await self._vaults.within(owner, store, partial(_sweep, dry_run=dry_run)))
                except StoreFailed as away:
                    failures.append(away)
        if failures:
            raise failures[0]
        return _collected(dropped, swept)

    async def _look(self) -> None:
        """Every vault is swept, and every checkpoint is looked for; a store that is away must not stop that."""
        try:
            await self.gc()
        except StoreFailed as away:
            log.warning("not every store could be swept: %s", away.message)
        silent: set[str] = set()
        for one in self.all():
            if one.store not in silent:
                try:
                    await self._look_for(one)
                except StoreFailed as away:
                    silent.add(one.store)
                    log.warning("checkpoints were not looked for: %s", away.message)

    async def _look_for(self, checkpoint: Checkpoint) -> None:
        if problems := (await self.verify(checkpoint, deep=False)).problems:
            name = checkpoint.session_name or checkpoint.session
            log.error("checkpoint %s of %s is damaged: %s", checkpoint.id, name, problems[0])

    async def _drop_unknown(self, owner: str, store: str, dry_run: bool) -> list[str]:
        """Manifests that no list names: their save is over and was not wanted, or they are old. One whose save is
        under way may be about to be listed."""
        found = await self._vaults.within(owner, store, Vault.checkpoints)
        if not dry_run:
            self._tell_found(found)
        listed = {one.id for one in self.all()}
        # What was saved by a node that was given up may be all that its session is to be woken from.
        under_way = {one.saving.id for one in self._reconciler.living() if one.saving} | self._given_up().keys()
        over = {one.save.id for one in self._reconciler.living() if one.save and one.save.over}
        unknown = [one for one in found if one not in listed | under_way]
        before = self._clock() - ABANDONED_SECONDS

        def drop(vault: Vault) -> list[str]:
            gone = [one for one in unknown if one in over or _created_at(vault, one) < before]
            for one in gone if not dry_run else ():
                vault.drop(one)
            return gone

        return await self._vaults.within(owner, store, drop)


def _with_problem(one: Checkpoint, problem: str) -> Checkpoint:
    return one if one.problem == problem else replace(one, problem=problem)


def _drop(vault: Vault, identity: str) -> None:
    vault.drop(identity)


def _problems(vault: Vault, identity: str, deep: bool) -> list[str]:
    return vault.verify(identity, deep=deep)


def _sweep(vault: Vault, dry_run: bool) -> Swept:
    return vault.sweep(dry_run=dry_run)


def _created_at(vault: Vault, identity: str) -> float:
    try:
        return vault.manifest(identity).created_at
    except Damaged:
        return 0.0


def _collected(dropped: Iterable[str], swept: Collection[Swept]) -> Collected:
    return Collected(
        dropped=tuple(dropped),
        bytes=sum(one.bytes for one in swept),
        used_bytes=sum(one.used_bytes for one in swept),
        slack_bytes=sum(one.slack_bytes for one in swept),
        busy=sum(one.busy > 0 for one in swept),
    )
