"""What the controller asks an agent and waits for: inspections, logs, images."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from typing import Literal

from sojourn.controller.roster import Roster
from sojourn.errors import Unreachable, from_wire
from sojourn.lifecycle import Session
from sojourn.model import EnvironmentLayer, Ground, Image, Inspection, Luggage, Sight
from sojourn.wire import (
    EnvironmentSeen,
    EnvironmentSent,
    FoldersSeen,
    ImageRemoved,
    ImagesFound,
    InspectSession,
    LogSent,
    LookAtEnvironment,
    LookAtFolders,
    LookAtLuggage,
    LookForImages,
    LuggageSeen,
    RemoveImage,
    SendEnvironment,
    SendLog,
    SessionInspected,
)

Question = (
    SendEnvironment
    | InspectSession
    | SendLog
    | LookAtFolders
    | LookAtEnvironment
    | LookAtLuggage
    | LookForImages
    | RemoveImage
)
Answer = (
    EnvironmentSent
    | SessionInspected
    | LogSent
    | FoldersSeen
    | EnvironmentSeen
    | LuggageSeen
    | ImagesFound
    | ImageRemoved
)


_READING_S = 600.0
"""Every file of an environment is read when it is looked at for the first time."""


_SHIPPING_S = 3600.0
"""A whole system, over a slow line."""
_CAPTURING_S = 120.0
"""Every object of a session is looked at."""
PODMAN_SECONDS = 60.0
"""podman answers nothing while it puts a layer away."""


class Questions:
    def __init__(self, roster: Roster, patience_s: float = 15.0) -> None:
        self._roster, self._patience_s = roster, patience_s
        self._open: dict[str, asyncio.Future[Answer]] = {}
        self._asked: dict[str, str] = {}
        """Request -> whom."""

    async def inspect(self, node: str, session: str) -> Inspection:
        """Raises what the node answers with, or Unreachable."""
        request = uuid.uuid4().hex
        answer = await self._ask(node, InspectSession(request=request, session=session))
        assert isinstance(answer, SessionInspected)
        if answer.inspection is None:
            raise from_wire(answer.error or {})
        return answer.inspection

    async def luggage(self, node: str, session: str) -> Luggage:
        """What of a session would travel as objects. Raises what the node answers with (Busy, in a cell), or
        Unreachable."""
        answer = await self._ask(node, LookAtLuggage(request=uuid.uuid4().hex, session=session), _CAPTURING_S)
        assert isinstance(answer, LuggageSeen)
        if answer.luggage is None:
            raise from_wire(answer.error or {})
        return answer.luggage

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

    async def environment(
        self, node: str, session: str, layers: Sequence[EnvironmentLayer] = ()
    ) -> tuple[EnvironmentLayer, ...]:
        """The layers of a session's environment, from its node; from another one those of `layers` that it lacks.
        Raises what the node answers with, or Unreachable."""
        asked = LookAtEnvironment(request=uuid.uuid4().hex, session=session, layers=tuple(layers))
        answer = await self._ask(node, asked, _READING_S)
        assert isinstance(answer, EnvironmentSeen)
        if answer.error:
            raise from_wire(answer.error)
        return answer.layers

    async def bring_environment(self, home: str, wanted: SendEnvironment) -> Ground:
        """Have a node bring what a session needs of its root to another one; returns when it is there. Raises what
        either node answers with, or Unreachable."""
        answer = await self._ask(home, wanted, _SHIPPING_S)
        assert isinstance(answer, EnvironmentSent)
        if answer.ground is None:
            raise from_wire(answer.error or {})
        return answer.ground

    async def log(self, node: str, session: str) -> str:
        request = uuid.uuid4().hex
        answer = await self._ask(node, SendLog(request=request, session=session))
        assert isinstance(answer, LogSent)
        return answer.text

    async def images(self, node: str, reference: str = "") -> tuple[Image, ...]:
        """Those of a node, or the one of that name or id. Raises what it answers with, or Unreachable."""
        answer = await self._ask(node, LookForImages(request=uuid.uuid4().hex, reference=reference), PODMAN_SECONDS)
        assert isinstance(answer, ImagesFound)
        if answer.error:
            raise from_wire(answer.error)
        return answer.images

    async def remove_image(self, node: str, reference: str) -> None:
        """Raises what the node answers with, or Unreachable."""
        answer = await self._ask(node, RemoveImage(request=uuid.uuid4().hex, reference=reference), PODMAN_SECONDS)
        assert isinstance(answer, ImageRemoved)
        if answer.error:
            raise from_wire(answer.error)

    def answered(self, answer: Answer) -> None:
        """What nobody waits for any more is dropped."""
        waiting = self._open.get(answer.request)
        if waiting and not waiting.done():
            waiting.set_result(answer)

    def node_left(self, node: str) -> None:
        """Answers are told once: what a node says while its line is down is lost."""
        for request in [request for request, asked in self._asked.items() if asked == node]:
            if not self._open[request].done():
                gone = Unreachable(f"Node {node} has left before it answered.", "Try again when it is back.")
                self._open[request].set_exception(gone)

    async def _ask(self, node: str, question: Question, patience_s: float | None = None) -> Answer:
        self._roster.require_online(node)
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._open[question.request], self._asked[question.request] = answer, node
        try:
            self._roster.tell(node, question)
            return await asyncio.wait_for(answer, patience_s or self._patience_s)
        except TimeoutError:
            raise Unreachable(f"Node {node} did not answer in time.", "Look at its agent's log.") from None
        finally:
            del self._open[question.request], self._asked[question.request]
