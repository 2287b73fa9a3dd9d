"""What clients ask of a kernel, as far as the law looks at it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Literal

from sojourn.directive import Directive
from sojourn.errors import SojournError


class Kind(Enum):
    EXECUTE = auto()
    """Wakes, unless it is silent: programs beside the notebook send those, people don't."""
    QUESTION = auto()
    """Has an empty answer. Asleep: gets it at once."""
    FACT = auto()
    """Changes nothing, and only the kernel can answer it. Asleep: answered as it was last known."""
    ACT = auto()
    """Does something in the kernel; the law does not look for a reply. Wakes."""
    FORMALITY = auto()
    """Of what notebooks send by themselves when they are opened or closed. Asleep: waits for whoever wakes it."""


KINDS = {
    "execute_request": Kind.EXECUTE,
    "silent execute_request of nothing": Kind.QUESTION,
    "complete_request": Kind.QUESTION,
    "inspect_request": Kind.QUESTION,
    "is_complete_request": Kind.QUESTION,
    "history_request": Kind.QUESTION,
    "kernel_info_request": Kind.FACT,
    "comm_info_request": Kind.FACT,
    "usage_request": Kind.FACT,
    "debug_request debugInfo": Kind.FACT,
    "debug_request": Kind.ACT,
    "comm_open": Kind.ACT,
    "comm_open jupyter.widget.control": Kind.FORMALITY,
    "comm_msg": Kind.ACT,
    "comm_msg request_state": Kind.FORMALITY,
    "comm_msg request_states": Kind.FORMALITY,
    "comm_close": Kind.FORMALITY,
    "create_subshell_request": Kind.FORMALITY,
    "delete_subshell_request": Kind.FORMALITY,
    "list_subshell_request": Kind.FORMALITY,
}
"""What each message is; for some, it depends on a word of its content. What is not in here is an ACT."""


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """A request on the shell channel, as much of it as the law needs."""

    id: str
    client: bytes
    subshell: str | None
    kind: Kind
    channel: Literal["shell", "control"] = "shell"
    silent: bool = False
    stops_on_error: bool = True
    directive: Directive | None = None
    fault: SojournError | None = None
    """What is wrong with its directive; told when its turn comes, as a kernel would."""
    message: Any = None
    """What the switchboard needs to forward or answer it; the law does not look."""

    @property
    def rouses(self) -> bool:
        """Whether it tells that a person is there: it wakes a session, and keeps it awake."""
        return self.kind is Kind.ACT or (self.kind is Kind.EXECUTE and not self.silent)
