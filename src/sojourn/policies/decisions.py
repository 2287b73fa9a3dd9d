"""What a policy wants done with a session."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["suspend", "move", "checkpoint", "propose", "wait"]
"""propose: a person may want to move it there. wait: something would be done, but can't be now; `why` says what."""


@dataclass(frozen=True, slots=True)
class Decision:
    kind: Kind
    session: str
    """Its id."""
    node: str
    """Where it is."""
    target: str | None
    """Where it is to go."""
    rule: str
    """As it is called in `[policies]`."""
    why: str
    urgent: bool = False
    """The node, or the memory, ends soon."""
    memory_bytes: int = 0
    """Of a move: what it may use from then on; 0: as before."""
    dry_run: bool = False
    """Only to be said."""
