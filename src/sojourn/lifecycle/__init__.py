"""The law of a session's life: `decide(session, event, now) -> (session, what to tell which node)`.

A session is alive in exactly one place. What keeps it so:

- Incarnations only grow and are given out here, each at most once. A move gives N+1 to the target; if the source
  has to go on instead, it goes on as N+2, and N+1 never counts again.
- Until the source says `SessionSent`, it alone decides: a failure means that it goes on as if nothing had happened.
- From then on only this law decides. The target's thaw makes the target the session's place. If the target fails
  before every page is in, it is told to abandon what arrived **first**; only when it has answered, or can't be
  reached for `Limits.fence_s`, is the source told to go on from the moment of the freeze.
- Streams go on (the epoch stays) when the target has told that it never thawed, for then nothing has happened;
  whenever clients may have met it, the source goes on in a new epoch: streams are reset and the user is told.
- A node that comes back says what it holds. What this law knows of is told again what it has to do; what it doesn't
  is told to go. So no debt has to be remembered, and each instruction may be lost or come twice.

```
 PENDING → STARTING → RUNNING ⇄ MOVING (preparing → departing) → FILLING → RUNNING (committing → done)
              │          ↑          │                               │
              ↓          └──────────┴── MOVING (rolling back) ──────┘
           FAILED                          any → STOPPING → STOPPED;  its node died: LOST
```
Nodes are spoken of by their names. Time is an argument; a deadline is a field of the session, and passes when `Tick`
says so. `wishes` are what people want, `ends` a session's start and end, `moving` a move, `nodes` who comes and goes.
"""

from __future__ import annotations

from sojourn.lifecycle import ends, moving, nodes, wishes
from sojourn.lifecycle.events import (
    ClockJumped,
    ControllerStarted,
    Decision,
    DepartTo,
    Event,
    MoveCancelled,
    MoveWanted,
    NodeDied,
    NodeLeft,
    NodeReturned,
    Reported,
    SessionWanted,
    StopWanted,
    Tell,
    Tick,
)
from sojourn.lifecycle.nodes import dismissals
from sojourn.lifecycle.state import ENDED, Berth, Limits, Move, Session, next_place, place
from sojourn.lifecycle.steps import Moment
from sojourn.lifecycle.wishes import raise_unless_movable

__all__ = [
    "ENDED",
    "Berth",
    "ClockJumped",
    "ControllerStarted",
    "Decision",
    "DepartTo",
    "Event",
    "Limits",
    "Move",
    "MoveCancelled",
    "MoveWanted",
    "NodeDied",
    "NodeLeft",
    "NodeReturned",
    "Reported",
    "Session",
    "SessionWanted",
    "StopWanted",
    "Tell",
    "Tick",
    "decide",
    "dismissals",
    "next_place",
    "place",
    "raise_unless_movable",
]

_EVENTS = {**wishes.EVENTS, **nodes.EVENTS}
_REPORTS = {**ends.REPORTS, **moving.REPORTS}


def decide(session: Session, event: Event, now: float, limits: Limits | None = None) -> Decision:
    """What becomes of the session, and what the nodes are to be told, in this order.

    Raises Busy, SessionLost or Refused for something wanted that can't be had now. Whatever an agent reports is
    answered, never raised at: what is out of date changes nothing.
    """
    at = Moment(now, limits or Limits())
    if isinstance(event, Reported):
        handler = _REPORTS.get(type(event.event))
        return handler(session, event.node, event.event, at) if handler else (session, [])
    return _EVENTS[type(event)](session, event, at)
