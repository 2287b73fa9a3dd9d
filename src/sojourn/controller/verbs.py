"""What a program in a session may ask through its rider: to look around, and to do something with itself; nothing else.

A verb may be asked again: the rider repeats it after each attach until it is answered. Looking may be done again too. A
deed is written down first and done once, and its answer is kept for whoever asks again.

Who asks for a checkpoint or a fork is saved while asking, so each life that begins in that state asks again: it is
told that it is back, or that it is the branch. Who wants to sleep is answered before, so that its cell can end; who
wants to be taken back can't be answered at all.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar

from pydantic import ValidationError
from sqlalchemy import Connection

from sojourn.client.words import CheckpointRequest, ForkRequest, MoveRequest, RestoreRequest, SuspendRequest
from sojourn.controller.images import Clock
from sojourn.controller.moves import Moves
from sojourn.controller.reconciler import Reconciler
from sojourn.controller.roster import Roster
from sojourn.controller.sleep import Sleep
from sojourn.database import Checkpoint, Database, Verb
from sojourn.database import queries as ask
from sojourn.errors import Busy, Invalid, SojournError, from_wire
from sojourn.lifecycle import Move, Session
from sojourn.model import MovePlan
from sojourn.model.base import Word
from sojourn.wire import AnswerVerb, VerbAsked

log = logging.getLogger(__name__)

SETTLE_SECONDS = 1.0
"""Between an answer and the freeze: what the cell has said until then, and its end, reach who waits for them."""

CELL_SECONDS = 600.0
"""How long the cell may go on that has asked for a move by objects."""

Body = dict[str, Any]
Asked = TypeVar("Asked", bound=Word)


class Verbs:
    def __init__(
        self, database: Database, reconciler: Reconciler, roster: Roster, moves: Moves, sleep: Sleep, clock: Clock
    ) -> None:
        self._database, self._reconciler, self._roster = database, reconciler, roster
        self._moves, self._sleep, self._clock = moves, sleep, clock
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._looks: dict[str, Callable[[Session], Body]] = {
            "nodes": self._nodes,
            "where": self._where,
            "checkpoints": self._checkpoints,
        }
        self._deeds: dict[str, Callable[[Verb, Session], Awaitable[Body]]] = {
            "move": self._move,
            "suspend": self._suspend,
            "checkpoint": self._checkpoint,
            "restore": self._restore,
            "fork": self._fork,
        }

    def start(self) -> None:
        """Go on with what was asked before this controller started."""
        with self._database.transaction() as connection:
            unanswered = [verb for verb in ask.verbs(connection) if verb.ok is None]
        for verb in unanswered:
            self._begin(verb)

    def asked(self, event: VerbAsked) -> None:
        """Answered, or written down, when this returns; the answer to a deed follows."""
        verb = Verb(event.session, event.verb, event.name, dict(event.arguments), self._clock())
        if verb.name not in self._deeds:
            self._send(self._looked(verb))
            return
        with self._database.transaction() as connection:
            ask.add_verb(connection, verb)
            known = ask.verb(connection, event.session, event.verb)
        assert known
        if known.ok is None or (known.ok and known.name in ("checkpoint", "fork")):
            self._begin(known)
        else:
            self._send(known)

    def node_returned(self, node: str) -> None:
        """Answers that could not be delivered are sent again; riders ignore what they have."""
        here = {session.id for session in self._reconciler.living() if session.node == node}
        with self._database.transaction() as connection:
            answered = [verb for verb in _newest(connection, here) if verb.ok is not None]
        for verb in answered:
            self._send(verb)

    async def stop(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, verb: Verb) -> None:
        key = (verb.session, verb.verb)
        if key not in self._tasks:
            task = self._tasks[key] = asyncio.create_task(self._carry_out(verb))
            task.add_done_callback(lambda _: self._tasks.pop(key, None))

    async def _carry_out(self, verb: Verb) -> None:
        try:
            ok, body = True, await self._deeds[verb.name](verb, self._reconciler.get(verb.session))
        except SojournError as refused:
            ok, body = False, dict(refused.to_wire())
        except Exception as defect:
            log.exception("a defect in the controller")
            ok, body = False, dict(SojournError(f"The controller failed: {defect!r}", "See its log.").to_wire())
        with self._database.transaction() as connection:
            ask.update_verb(connection, verb, ok=ok, body=body)
            answered = ask.verb(connection, verb.session, verb.verb)
        if answered:
            self._send(answered)

    def _looked(self, verb: Verb) -> Verb:
        try:
            return replace(verb, ok=True, body=self._look(verb))
        except SojournError as refused:
            return replace(verb, ok=False, body=dict(refused.to_wire()))

    # ── looking ──────────────────────────────────────────────────────────────────────────────────────────────

    def _look(self, verb: Verb) -> Body:
        if verb.name in self._looks:
            return self._looks[verb.name](self._reconciler.get(verb.session))
        may = ", ".join([*self._looks, *self._deeds])
        raise Invalid(f"A session can't ask for {verb.name[:64]!r}.", f"It may ask for {may}.")

    def _nodes(self, session: Session) -> Body:
        of_others = {"load": {"used"}}
        nodes = [node.model_dump(mode="json", exclude=of_others) for node in self._roster.views()]
        return {"nodes": nodes, "here": session.node}

    def _where(self, session: Session) -> Body:
        view = session.view().model_dump(mode="json")
        return {"session": view, "no_network": self._no_network(session), "stayed": self._stayed(session)}

    def _stayed(self, session: Session) -> str:
        """Why nothing came of the move that it asked for last; empty: it came, or there was none. Who has to end their
        cell before a move can't be told of it there."""
        with self._database.transaction() as connection:
            asked = [verb for verb in ask.verbs(connection, session.id) if verb.name == "move"]
        if not asked or asked[-1].ok is not False or (session.move and session.move.started_at > asked[-1].asked_at):
            return ""
        return str(from_wire(asked[-1].body or {}))

    def _no_network(self, session: Session) -> str:
        """Why it can't reach the outside: as its node says of it, or, until then, of all its sessions."""
        if session.sandbox != "runc":  # which uses its node's own network
            return ""
        node = self._roster.view(session.node)
        told = next((load.no_network for load in node.load.used if load.session == session.id), "")
        return told or node.capabilities.refusals.get("network", "")

    def _checkpoints(self, session: Session) -> Body:
        found = self._sleep.checkpoints.of_session(session)
        return {"checkpoints": [one.view().model_dump(mode="json") for one in found]}

    # ── doing ────────────────────────────────────────────────────────────────────────────────────────────────

    async def _move(self, verb: Verb, session: Session) -> Body:
        """Answered when the session has thawed at its new place, or has stayed. By objects it goes between two cells,
        so that who asks is answered before."""
        identity, plan = _move_id(verb), None
        if not self._moves.known(identity):
            asked = _request(MoveRequest, verb)
            begun, plan = await self._moves.begin(session, asked, identity, in_cell=True)
            if begun is None and plan.strategy == "objects" and not asked.dry_run:
                return await self._move_after_cell(verb, asked, plan)
            if begun is None:
                return self._moved(session.id, None, None if plan.source == plan.target else plan)
        return self._moved(session.id, await self._moves.until(session.id, identity, "thawed"), plan)

    async def _move_after_cell(self, verb: Verb, asked: MoveRequest, plan: MovePlan) -> Body:
        body = {**self._moved(verb.session, None, plan), "later": True}
        self._send(replace(verb, ok=True, body=body))
        asked = asked.model_copy(update={"carrier": "objects", "strategy": "objects"})
        if begun := await self._begun_after_cell(verb, asked):
            await self._moves.until(verb.session, begun.id, "thawed")
        return body

    async def _begun_after_cell(self, verb: Verb, asked: MoveRequest) -> Move | None:
        """None: it is there already. Raises Busy when the cell goes on for too long."""
        latest = self._clock() + CELL_SECONDS
        while True:
            await asyncio.sleep(SETTLE_SECONDS)
            try:
                return (await self._moves.begin(self._reconciler.get(verb.session), asked, _move_id(verb)))[0]
            except Busy:
                if self._clock() > latest:
                    raise

    def _moved(self, session: str, move: Move | None, plan: MovePlan | None) -> Body:
        return {
            "session": self._reconciler.get(session).view().model_dump(mode="json"),
            "move": move.view(session).model_dump(mode="json") if move else None,
            "plan": plan.model_dump(mode="json") if plan else None,
        }

    async def _suspend(self, verb: Verb, session: Session) -> Body:
        identity, body = _move_id(verb), self._where(session)
        if session.save and session.save.id == identity:
            return body
        await self._sleep.require_savable(session, "suspended")
        self._send(replace(verb, ok=True, body=body))
        await asyncio.sleep(SETTLE_SECONDS)
        asked = SuspendRequest(wait="accepted", force=True)
        return self._where(await self._sleep.suspend(self._reconciler.get(session.id), asked, identity))

    async def _checkpoint(self, verb: Verb, session: Session) -> Body:
        """Answered when the checkpoint is whole; in a life that begins there, at once."""
        identity = _trunk_id(verb)
        if self._saved(identity, session) is None:
            if session.save is None or session.save.id != identity:
                await self._sleep.checkpoint(session, _request(CheckpointRequest, verb), identity=identity)
            await self._sleep.saved(session.id, identity)
        saved = self._saved(identity, session)
        assert saved, "a save that is done is listed"
        session = self._reconciler.get(session.id)
        view = saved.view().model_dump(mode="json")
        return {**self._where(session), "checkpoint": view, "back": _is_back(session, saved)}

    async def _restore(self, verb: Verb, session: Session) -> Body:
        identity, asked = _move_id(verb), _request(RestoreRequest, verb)
        if session.wake is None or session.wake.id != identity:
            self._sleep.checkpoint_of(session, asked.checkpoint)
            await asyncio.sleep(SETTLE_SECONDS)
            asked = asked.model_copy(update={"wait": "accepted"})
            await self._sleep.restore(self._reconciler.get(session.id), asked, identity)
        return self._where(self._reconciler.get(session.id))

    async def _fork(self, verb: Verb, session: Session) -> Body:
        """Answered when the branches run, in all of them and here."""
        identity = _trunk_id(verb)
        saved = self._saved(identity, session)
        if saved and _is_back(session, saved):
            return {**self._where(session), "forks": [], "back": True}
        forks = await self._sleep.fork(session, _request(ForkRequest, verb), identity)
        views = [fork.view().model_dump(mode="json") for fork in forks]
        return {**self._where(self._reconciler.get(session.id)), "forks": views, "back": False}

    def _saved(self, identity: str, session: Session) -> Checkpoint | None:
        found = self._sleep.checkpoints.get(identity)
        return found if found and found.owner == session.owner else None

    def _send(self, verb: Verb) -> None:
        session = self._reconciler.get(verb.session)
        answer = AnswerVerb(session=verb.session, verb=verb.verb, ok=bool(verb.ok), body=verb.body or {})
        self._roster.tell(session.node, answer)


def _move_id(verb: Verb) -> str:
    """The same each time, so that a controller that was killed in between finds the move it had begun."""
    return uuid.uuid5(uuid.NAMESPACE_OID, f"{verb.session}/{verb.verb}").hex


def _trunk_id(verb: Verb) -> str:
    """The checkpoint that holds the asking program: the same for every session that begins in it."""
    return uuid.uuid5(uuid.NAMESPACE_OID, f"checkpoint/{verb.verb}").hex


def _is_back(session: Session, saved: Checkpoint) -> bool:
    """Whether this is not the life that the checkpoint was taken of, but one that began in it."""
    return session.id != saved.session or session.epoch != saved.epoch


def _request(kind: type[Asked], verb: Verb) -> Asked:
    try:
        return kind.model_validate(verb.arguments)
    except ValidationError as wrong:
        first = wrong.errors()[0]
        raise Invalid(
            f"That is not a {verb.name}: {'.'.join(map(str, first['loc']))}: {first['msg']}.",
            "`%sojourn` alone shows what is understood.",
        ) from wrong


def _newest(connection: Connection, sessions: set[str]) -> list[Verb]:
    return [verb for session in sessions for verb in ask.verbs(connection, session)[-4:]]
