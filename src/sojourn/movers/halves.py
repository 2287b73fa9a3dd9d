"""Making the halves of moves, saves and wakes for a sandbox, whatever it is made of."""

from __future__ import annotations

from sojourn.errors import Immovable
from sojourn.model import Strategy
from sojourn.model.checkpoints import StorePass
from sojourn.movers.base import Arrival, Departure, Facts, HangUp, Note, Tell
from sojourn.movers.criu.arrival import CriuArrival
from sojourn.movers.criu.departure import CriuDeparture
from sojourn.movers.criu.save import CriuSave, GoOn
from sojourn.movers.criu.wake import CriuWake
from sojourn.sandbox.base import Sandbox
from sojourn.sandbox.runc import RuncSandbox


def departure(sandbox: Sandbox, move: str, strategy: Strategy, *, tell: Tell, note: Note, hang_up: HangUp) -> Departure:
    """Called by the source's agent on `Depart`. Raises Immovable for a sandbox that can't be moved alive."""
    return CriuDeparture(movable(sandbox), move, strategy, tell=tell, note=note, hang_up=hang_up)


def recover_departure(
    sandbox: Sandbox, move: str, strategy: Strategy, facts: Facts, *, tell: Tell, note: Note, hang_up: HangUp
) -> Departure:
    """Called by the source's agent when it starts and finds half a move. When `resumed`, `roll_back` it; else wait for
    the controller's word."""
    return CriuDeparture.recover(movable(sandbox), move, strategy, facts, tell=tell, note=note, hang_up=hang_up)


def arrival(sandbox: Sandbox, move: str, strategy: Strategy, *, tell: Tell, note: Note) -> Arrival:
    """Called by the target's agent on `PrepareArrival`. Raises Immovable for a sandbox that can't be moved alive."""
    return CriuArrival(movable(sandbox), move, strategy, tell=tell, note=note)


def recover_arrival(
    sandbox: Sandbox, move: str, strategy: Strategy, facts: Facts, *, tell: Tell, note: Note
) -> Arrival:
    """Called by the target's agent when it starts and finds half a move. When `thawed`, `go_on`; else `abandon`."""
    return CriuArrival.recover(movable(sandbox), move, strategy, facts, tell=tell, note=note)


def save(
    sandbox: Sandbox, save: str, store: StorePass, *, keep: bool, tell: Tell, note: Note, hang_up: HangUp, go_on: GoOn
) -> Departure:
    """Called by the agent on `SaveSession`; `go_on()`: what is kept runs again. Raises Immovable for a sandbox that
    can't be saved alive."""
    return CriuSave(movable(sandbox), save, store, keep=keep, tell=tell, note=note, hang_up=hang_up, go_on=go_on)


def recover_save(
    sandbox: Sandbox,
    save: str,
    store: StorePass,
    facts: Facts,
    *,
    keep: bool,
    tell: Tell,
    note: Note,
    hang_up: HangUp,
    go_on: GoOn,
) -> Departure:
    """Called by the agent when it starts and finds half a save. When `resumed`, `roll_back` it; else the checkpoint is
    whole (its report is `facts["report"]`), and the session waits for the controller's word."""
    return CriuSave.recover(
        movable(sandbox), save, store, facts, keep=keep, tell=tell, note=note, hang_up=hang_up, go_on=go_on
    )


def wake(sandbox: Sandbox, wake: str, checkpoint: str, store: StorePass, *, tell: Tell, note: Note) -> Arrival:
    """Called by the agent on `WakeSession`. Raises Immovable for a sandbox that can't hold it."""
    return CriuWake(movable(sandbox), wake, checkpoint, store, tell=tell, note=note)


def recover_wake(
    sandbox: Sandbox, wake: str, checkpoint: str, store: StorePass, facts: Facts, *, tell: Tell, note: Note
) -> Arrival:
    """Called by the agent when it starts and finds half a wake. When `thawed`, `go_on`; else `abandon`."""
    return CriuWake.recover(movable(sandbox), wake, checkpoint, store, facts, tell=tell, note=note)


def movable(sandbox: Sandbox) -> RuncSandbox:
    if not isinstance(sandbox, RuncSandbox):
        raise Immovable(
            f"Session {sandbox.plan.session} runs as a plain process, which can't be moved alive.",
            "Start it on a node with runc and CRIU (`sojourn doctor` tells what is missing).",
        )
    return sandbox
