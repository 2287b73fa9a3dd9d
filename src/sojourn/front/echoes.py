"""Finding out that a kernel has nothing more to say: it takes what it is asked in turn, so when it has answered a
question on each of its shells, and said on iopub that it is done with it, all from before is heard."""

from __future__ import annotations

from collections.abc import Callable

from sojourn.front.connection import Channel
from sojourn.front.messages import Message

FACT = "kernel_info_request"
"""Changes nothing, and every kernel answers it."""
SUBSHELLS = "list_subshell_request"

Ask = Callable[[Channel, str | None, str], str]


class Echoes:
    """`ask(channel, subshell, kind)` asks the kernel something and gives the question's id; `quiet()` is called when
    all is answered that `begin` has asked."""

    def __init__(self, ask: Ask, quiet: Callable[[], None]) -> None:
        self._ask, self._quiet = ask, quiet
        self._unanswered: set[str] = set()
        self._of_control = ""
        self._unended: set[str] = set()
        """Their last word on iopub has not come."""

    def begin(self) -> None:
        """Anew, if that is under way. Which subshells there are, control knows, where they may come and go as well."""
        self.forget()
        self._put("shell", None, FACT)
        self._of_control = self._put("control", None, FACT)

    def forget(self) -> None:
        """There is nobody any more who could answer."""
        self._unanswered.clear()
        self._unended.clear()

    def replied(self, message: Message) -> bool:
        """Whether this reply, on shell or on control, is for us."""
        if not self._unanswered:
            return False
        asked = str(message.parent.get("msg_id"))
        if asked not in self._unanswered:
            return False
        self._unanswered.discard(asked)
        self._follow(asked, message)
        self._look()
        return True

    def heard(self, message: Message) -> None:
        """On iopub."""
        if self._unended and b'"status"' in message.raw_header and message.content.get("execution_state") == "idle":
            asked = str(message.parent.get("msg_id"))
            if asked in self._unended:
                self._unended.discard(asked)
                self._look()

    def _put(self, channel: Channel, subshell: str | None, kind: str) -> str:
        asked = self._ask(channel, subshell, kind)
        self._unanswered.add(asked)
        self._unended.add(asked)
        return asked

    def _follow(self, asked: str, message: Message) -> None:
        """Ask on from what control has said."""
        content = message.content
        if message.parent.get("msg_type") == SUBSHELLS:
            for subshell in content.get("subshell_id", ()):
                self._put("shell", str(subshell), FACT)
        elif asked == self._of_control and "kernel subshells" in content.get("supported_features", ()):
            self._put("control", None, SUBSHELLS)

    def _look(self) -> None:
        if not self._unanswered and not self._unended:
            self._quiet()
