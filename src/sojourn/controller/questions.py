"""What the controller asks an agent and waits for: inspections and logs."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from typing import Literal

from sojourn.controller.roster import Roster
from sojourn.errors import Unreachable, from_wire
from sojourn.lifecycle import Session
from sojourn.model import Inspection, Sight
from sojourn.wire import FoldersSeen, InspectSession, LogSent, LookAtFolders, SendLog, SessionInspected

Answer = SessionInspected | LogSent | FoldersSeen


class Questions:
    def __init__(self, roster: Roster, patience_s: float = 15.0) -> None:
        self._roster, self._patience_s = roster, patience_s
        self._open: dict[str, asyncio.Future[Answer]] = {}

    async def inspect(self, node: str, session: str) -> Inspection:
        """Raises what the node answers with, or Unreachable."""
        request = uuid.uuid4().hex
        answer = await self._ask(node, InspectSession(request=request, session=session))
        assert isinstance(answer, SessionInspected)
        if answer.inspection is None:
            raise from_wire(answer.error or {})
        return answer.inspection

    async def look(
        self, node: str, session: Session, folders: Sequence[str], of: str, act: Literal["put", "look", "forget"]
    ) -> dict[str, Sight]:
        """What a node sees of the folders that a session shares. Raises what it answers with, or Unreachable."""
        user = {"uid": session.spec.program.uid, "gid": session.spec.program.gid}
        asked = LookAtFolders(
            request=uuid.uuid4().hex, session=session.id, folders=tuple(folders), of=of, act=act, **user
        )
        answer = await self._ask(node, asked)
        assert isinstance(answer, FoldersSeen)
        if answer.error:
            raise from_wire(answer.error)
        return answer.seen

    async def log(self, node: str, session: str) -> str:
        request = uuid.uuid4().hex
        answer = await self._ask(node, SendLog(request=request, session=session))
        assert isinstance(answer, LogSent)
        return answer.text

    def answered(self, answer: Answer) -> None:
        """What nobody waits for any more is dropped."""
        waiting = self._open.get(answer.request)
        if waiting and not waiting.done():
            waiting.set_result(answer)

    async def _ask(self, node: str, question: InspectSession | SendLog | LookAtFolders) -> Answer:
        self._roster.require_online(node)
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._open[question.request] = answer
        try:
            self._roster.tell(node, question)
            return await asyncio.wait_for(answer, self._patience_s)
        except TimeoutError:
            raise Unreachable(f"Node {node} did not answer in time.", "Look at its agent's log.") from None
        finally:
            del self._open[question.request]
