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
- A session that is to sleep does so when its node says `SessionSaved`; its frozen copy runs again only if the law rolls
  it back, under a new incarnation, and nothing was woken since. A wake takes N+1, and its streams go on only if clients
  have seen nothing since the state that is woken.
- A copy that is lost falls back to the nearest whole checkpoint; `LOST` is what has none.
- A node that comes back says what it holds. What this law knows of is told again what it has to do; what it doesn't
  is told to go. So no debt has to be remembered, and each instruction may be lost or come twice.

```
 PENDING → STARTING → RUNNING ⇄ MOVING (preparing → departing) → FILLING → RUNNING (committing → done)
              │          ↑          │                               │
              ↓          └──────────┴── MOVING (rolling back) ──────┘
           FAILED                          any → STOPPING → STOPPED;  its copy is gone: SUSPENDED, or LOST

 RUNNING → SUSPENDING (saving) → SUSPENDED (releasing → done) → WAKING → FILLING → RUNNING
    ↑          │                     ↑    ↑                       │         │
    └──────────┘ (rolling back)      │    └──── (abandoning) ─────┴─────────┘
    any copy is lost ────────────────┘
```
Nodes are spoken of by their names. Time is an argument; a deadline is a field of the session, and passes when `Tick`
says so. `wishes` are what people want, `ends` a session's start and end, `moving` a move, `sleeping` a save, `waking` a
wake, `checkpoints` what a session can go back to, `nodes` who comes and goes.
"""

from __future__ import annotations

from collections.abc import Callable

from sojourn import wire
from sojourn.lifecycle import checkpoints, ends, moving, nodes, sleeping, waking, wishes
from sojourn.lifecycle.events import (
    CheckpointDamaged,
    CheckpointFound,
    CheckpointsDropped,
    CheckpointWanted,
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
    RestoreWanted,
    ResumeWanted,
    SaveTo,
    SessionWanted,
    StopWanted,
    SuspendWanted,
    Tell,
    Tick,
    WakeFrom,
)
from sojourn.lifecycle.nodes import dismissals
from sojourn.lifecycle.state import ASLEEP, ENDED, Berth, Kept, Limits, Move, Save, Session, Wake, next_place, place
from sojourn.lifecycle.steps import Moment
from sojourn.lifecycle.wishes import raise_unless_at_rest, raise_unless_free, raise_unless_movable

__all__ = [
    "ASLEEP",
    "ENDED",
    "Berth",
    "CheckpointDamaged",
    "CheckpointFound",
    "CheckpointWanted",
    "CheckpointsDropped",
    "ClockJumped",
    "ControllerStarted",
    "Decision",
    "DepartTo",
    "Event",
    "Kept",
    "Limits",
    "Move",
    "MoveCancelled",
    "MoveWanted",
    "NodeDied",
    "NodeLeft",
    "NodeReturned",
    "Reported",
    "RestoreWanted",
    "ResumeWanted",
    "Save",
    "SaveTo",
    "Session",
    "SessionWanted",
    "StopWanted",
    "SuspendWanted",
    "Tell",
    "Tick",
    "Wake",
    "WakeFrom",
    "decide",
    "dismissals",
    "next_place",
    "place",
    "raise_unless_at_rest",
    "raise_unless_free",
    "raise_unless_movable",
]

_EVENTS = {**wishes.EVENTS, **nodes.EVENTS, **sleeping.EVENTS, **checkpoints.EVENTS}
_REPORTS = {**ends.REPORTS, **moving.REPORTS}


def decide(session: Session, event: Event, now: float, limits: Limits | None = None) -> Decision:
    """What becomes of the session, and what the nodes are to be told, in this order.

    Raises Busy, SessionLost or Refused for something wanted that can't be had now. Whatever an agent reports is
    answered, never raised at: what is out of date changes nothing.
    """
    at = Moment(now, limits or Limits())
    if isinstance(event, Reported):
        handler = _reports(session, event.event).get(type(event.event))
        return handler(session, event.node, event.event, at) if handler else (session, [])
    return _EVENTS[type(event)](session, event, at)


def _reports(session: Session, event: wire.Event) -> dict[type, Callable[..., Decision]]:
    """Halves of moves, saves and wakes report alike: whose this is, its id says."""
    of = getattr(event, "move", None) or getattr(event, "save", None)
    if session.save and of == session.save.id:
        return sleeping.REPORTS
    return waking.REPORTS if session.wake and of == session.wake.id else _REPORTS
