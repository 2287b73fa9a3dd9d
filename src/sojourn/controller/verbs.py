"""What a program in a session may ask through its rider: `nodes`, `where`, and to move itself; nothing else.

A verb may be asked again: the rider repeats it after each attach until it is answered. Looking may be done again too. A
move is written down first and done once, and its answer is kept for whoever asks again.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from dataclasses import replace
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Connection

from sojourn.client.words import MoveRequest
from sojourn.controller.moves import Clock, Moves
from sojourn.controller.reconciler import Reconciler
from sojourn.controller.roster import Roster
from sojourn.database import Database, Verb
from sojourn.database import queries as ask
from sojourn.errors import Invalid, SojournError
from sojourn.lifecycle import Move, Session
from sojourn.model import MovePlan
from sojourn.wire import AnswerVerb, VerbAsked

log = logging.getLogger(__name__)


class Verbs:
    def __init__(self, database: Database, reconciler: Reconciler, roster: Roster, moves: Moves, clock: Clock) -> None:
        self._database, self._reconciler, self._roster = database, reconciler, roster
        self._moves, self._clock = moves, clock
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}

    def start(self) -> None:
        """Go on with what was asked before this controller started."""
        with self._database.transaction() as connection:
            unanswered = [verb for verb in ask.verbs(connection) if verb.ok is None]
        for verb in unanswered:
            self._begin(verb)

    def asked(self, event: VerbAsked) -> None:
        """Answered, or written down, when this returns; the answer to a move follows."""
        verb = Verb(event.session, event.verb, event.name, dict(event.arguments), self._clock())
        if verb.name != "move":
            self._send(self._looked(verb))
            return
        with self._database.transaction() as connection:
            ask.add_verb(connection, verb)
            known = ask.verb(connection, event.session, event.verb)
        assert known
        if known.ok is None:
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
            ok, body = True, await self._move(verb, self._reconciler.get(verb.session))
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

    def _look(self, verb: Verb) -> dict[str, Any]:
        session = self._reconciler.get(verb.session)
        if verb.name == "nodes":
            nodes = [node.model_dump(mode="json") for node in self._roster.views()]
            return {"nodes": nodes, "here": session.node}
        if verb.name == "where":
            return {"session": session.view().model_dump(mode="json")}
        raise Invalid(f"A session can't ask for {verb.name[:64]!r}.", "It may ask for nodes, where, and move.")

    async def _move(self, verb: Verb, session: Session) -> dict[str, Any]:
        """Answered when the session has thawed at its new place, or has stayed."""
        identity, plan = _move_id(verb), None
        if not self._moves.known(identity):
            begun, plan = await self._moves.begin(session, _request(verb.arguments), identity)
            if begun is None:
                return self._moved(session.id, None, None if plan.source == plan.target else plan)
        return self._moved(session.id, await self._moves.until(session.id, identity, "thawed"), plan)

    def _moved(self, session: str, move: Move | None, plan: MovePlan | None) -> dict[str, Any]:
        return {
            "session": self._reconciler.get(session).view().model_dump(mode="json"),
            "move": move.view(session).model_dump(mode="json") if move else None,
            "plan": plan.model_dump(mode="json") if plan else None,
        }

    def _send(self, verb: Verb) -> None:
        session = self._reconciler.get(verb.session)
        answer = AnswerVerb(session=verb.session, verb=verb.verb, ok=bool(verb.ok), body=verb.body or {})
        self._roster.tell(session.node, answer)


def _move_id(verb: Verb) -> str:
    """The same each time, so that a controller that was killed in between finds the move it had begun."""
    return uuid.uuid5(uuid.NAMESPACE_OID, f"{verb.session}/{verb.verb}").hex


def _request(arguments: dict[str, Any]) -> MoveRequest:
    try:
        return MoveRequest.model_validate(arguments)
    except ValidationError as wrong:
        raise Invalid(
            f"That is not a move: {wrong.errors()[0]['msg']}.", "Say where to: `%sojourn move PLACE`."
        ) from wrong


def _newest(connection: Connection, sessions: set[str]) -> list[Verb]:
    return [verb for session in sessions for verb in ask.verbs(connection, session)[-4:]]
