"""Another kernel has come behind the same clients: what they must see of that, and what not."""

from __future__ import annotations

from collections.abc import Callable

from sojourn.front.echoes import Ask
from sojourn.front.messages import Message, Voice
from sojourn.front.recollection import Recollection

KIND = "comm_info_request"
Publish = Callable[[list[bytes]], None]


class Swap:
    """From a reset of the streams on. It may be the very same kernel; then there is nothing to be seen."""

    def __init__(self, ask: Ask, voice: Voice, recollection: Recollection, publish: Publish) -> None:
        """`publish(frames)` brings a message to all who listen to iopub."""
        self._ask, self._voice, self._recollection, self._publish = ask, voice, recollection, publish
        self._asked: str | None = None
        self._known: tuple[str, ...] = ()
        self._fresh = False

    def came(self) -> None:
        """Find out which comms it has. Those that are opened from now on are its own."""
        self._fresh = True
        self._known = self._recollection.comms
        self._asked = self._ask("shell", None, KIND) if self._known else None

    def began(self) -> None:
        """The program was started anew, which clients are to see as always."""
        self._fresh, self._asked = False, None

    def hides(self, message: Message) -> bool:
        """Whether clients, who know this kernel for long, must not hear that it starts."""
        return (
            self._fresh and b'"status"' in message.raw_header and message.content.get("execution_state") == "starting"
        )

    def replied(self, asked: str, message: Message) -> bool:
        """Whether this reply on shell is for us; comms that the kernel does not have are closed."""
        if asked != self._asked:
            return False
        self._asked = None
        content = message.content
        if content.get("status") == "ok":
            for comm in sorted(set(self._known) - set(content.get("comms", {}))):
                self._close(comm)
        return True

    def _close(self, comm: str) -> None:
        self._recollection.closed(comm)
        self._publish(self._voice.publish("comm_close", b"{}", {"comm_id": comm, "data": {}}))
