"""Cells of which the kernel has more to tell. Where output is cut off, because more was printed than could be kept, the
end of each cell that ran meanwhile is lost with it, and whoever waits for that would wait for ever."""

from __future__ import annotations

from dataclasses import dataclass

from sojourn import switchboard_law as law
from sojourn.front.messages import Message
from sojourn.front.understudy import Understudy
from sojourn.transport.loop import Loop
from sojourn.transport.socket_pipe import TRUNCATED

NOTICE = "[output truncated here: more was printed than could be kept while the clients were away]\n"
LAGGED = "[output truncated here: more was printed than could be kept for clients that read slowly]\n"
MOST = 1000
"""Requests remembered of a kernel that never says when it is done."""
_SETTLE_SECONDS = 1.0
"""After a reply, for the kernel's own word on iopub, which may have escaped the cut."""


@dataclass(eq=False)
class _Tale:
    request: law.Request
    replied: bool = False
    cut: bool = False


class Unfinished:
    """By what passes between a kernel and its clients. Belongs to the thread of `loop`."""

    def __init__(self, loop: Loop, understudy: Understudy) -> None:
        self._loop, self._understudy = loop, understudy
        self._tales: dict[str, _Tale] = {}
        """By the request's id, in the order in which the kernel has them."""
        self._latest: law.Request | None = None
        """The last cell."""

    def forwarded(self, request: law.Request) -> None:
        if request.kind is law.Kind.EXECUTE:
            self._latest = request
        if request.channel == "shell":
            self._tales[request.id] = _Tale(request)
            if len(self._tales) > MOST:
                del self._tales[next(iter(self._tales))]

    def replied(self, identity: str) -> None:
        if tale := self._tales.get(identity):
            tale.replied = True
            self._look_soon(tale)

    def heard(self, message: Message) -> None:
        """On iopub."""
        if b'"status"' in message.raw_header and message.content.get("execution_state") == "idle":
            self._tales.pop(str(message.parent.get("msg_id")), None)

    def cut(self, reason: str) -> None:
        """The stream of iopub has ended before its time: what came after is lost, and nobody must think that there was
        nothing."""
        if reason != TRUNCATED:
            return
        cells = (tale.request for tale in self._tales.values() if tale.request.kind is law.Kind.EXECUTE)
        if first := next(cells, None):
            self._understudy.orders[law.Tell](law.Tell(first, NOTICE))
        for tale in self._tales.values():
            tale.cut = True
            self._look_soon(tale)

    def lagged(self) -> None:
        """More was published than could be kept for those who listen."""
        if self._latest:
            self._understudy.orders[law.Tell](law.Tell(self._latest, LAGGED))

    def forget(self) -> None:
        """The kernel is gone, or was set back: what it owed is answered otherwise."""
        self._tales.clear()

    def _look_soon(self, tale: _Tale) -> None:
        if tale.cut and tale.replied:
            self._loop.later(_SETTLE_SECONDS, lambda: self._finish(tale))

    def _finish(self, tale: _Tale) -> None:
        if self._tales.get(tale.request.id) is tale:
            del self._tales[tale.request.id]
            self._understudy.rest(tale.request.message)
