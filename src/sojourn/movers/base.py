"""The two halves of a move, as their agents drive them; a save is a departure and a wake an arrival without the other.

The agent of the source runs a `Departure`, the agent of the target an `Arrival`; between them is a `Link`. Both block
and are run in threads. What happens is told through three callables that the agent gives:

- `note(facts)`: before each risky step, what a successor needs to know after a crash of the agent. Must be on disk (or
  at least out of this process) when it returns. `recover` gets all facts noted so far, merged in order.
- `tell(event)`: an event of `wire` for the controller.
- `hang_up()` (source only): ask the rider to close what leads outside; returns when it has.

    source                                         target
    Departure(…)                                   Arrival(…)
                                                   .prepare()                    the sandbox, the pager
    .run(link)                                     .receive(link)
      layer, while the session runs          ──►     applied
      hang_up, freeze                tell: SessionFrozen
      last changes of the layer              ──►     applied, mounted, CRIU started
      dump, hold                     tell: SessionSent
      images                                 ──►     restore                     tell: SessionThawed
      (pages are served by a process of its own)     fill                        tell: SessionFilled
    .commit() or .roll_back()

    save                                           wake
    Departure(…)                                   Arrival(…)
    .run(None)                                     .prepare()                    the sandbox, the layer, the images
      layer, while the session runs                .receive(None)
      hang_up, freeze, dump, hold                    restore                     tell: SessionThawed
      memory (kept: copied aside, let go)            fill                        tell: SessionFilled
      publish                        tell: SessionSaved
    .commit() or .roll_back()
"""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from pydantic import BaseModel

Tell = Callable[[BaseModel], None]
Note = Callable[[dict[str, Any]], None]
HangUp = Callable[[], None]
Facts = Mapping[str, Any]
Connection = socket.socket


class Link(Protocol):
    """An authenticated connection between the two agents of a move; its sockets block.

    The source dials. `open()` gives one more connection under the same ticket: at the source it dials again, at the
    target it waits for the source to do so, in the order in which they arrive. Raises Unreachable.
    """

    @property
    def socket(self) -> Connection: ...

    def open(self) -> Connection: ...

    def close(self) -> None:
        """Close `socket`, and at the target stop waiting. What `open` gave belongs to the mover."""
        ...


class Departure(ABC):
    """The source's half. Raises MoveFailed or CriuFailed; what was not sent by then runs on here as if nothing had
    happened (`resumed`)."""

    resumed: bool = True
    """After a failed `run`: whether the session runs here again under its old incarnation. False once the target may
    have all it needs: then only `commit` or `roll_back` end the move."""
    scathed: bool = False
    """After a failed `run`, or a `roll_back`; `resumed` is false then. The session runs here and is whole, but ran for
    a moment with connections, inside the sandbox, that carry nothing: what was said then is lost, and its clients have
    to be told. Nobody is to be let in before that."""

    @abstractmethod
    def run(self, link: Link | None) -> None:
        """Called on `Depart`. Returns when everything is sent; tells SessionFrozen and SessionSent. A save needs no
        link; it tells SessionFrozen, FillProgressed and SessionSaved."""

    def stop(self) -> None:  # noqa: B027 (a move ends with its link)
        """Called when a save is to end early: a `run` in another thread fails soon. Right at any time, any number of
        times."""

    @abstractmethod
    def commit(self) -> None:
        """Called on `CommitMove`: kill the frozen session and drop what the move made. The sandbox itself is left for
        its owner to `remove()`. Right any number of times."""

    @abstractmethod
    def roll_back(self) -> None:
        """Called on `RollBackMove`, when the target is known to be dead: the session goes on here from the moment of
        the freeze. Right any number of times."""


class Arrival(ABC):
    """The target's half."""

    thawed: bool = False
    """Whether the session runs here; only then may a recovered arrival `go_on`."""

    @abstractmethod
    def prepare(self) -> None:
        """Called on `PrepareArrival`: make everything that can be made while the session still runs at the source."""

    @abstractmethod
    def receive(self, link: Link | None) -> None:
        """Called when the source dials; of a wake at once. Returns when every page is in; tells SessionThawed,
        FillProgressed and SessionFilled. Raises MoveFailed or CriuFailed: then `abandon` is all that is left."""

    @abstractmethod
    def go_on(self) -> None:
        """The rest of `receive` after a crash of the agent, when the session had been thawed."""

    @abstractmethod
    def halt(self) -> None:
        """Called when `receive` or `go_on` has raised. What was thawed lacks pages that won't come, so the law gives it
        up; but whoever says so may not reach this node for long, and lets the session go on elsewhere meanwhile."""

    @abstractmethod
    def abandon(self) -> None:
        """Called on `AbandonArrival`: kill what arrived, and only then let go of its pages. The sandbox is left for its
        owner to `remove()`. Right at any time, any number of times, while `receive` runs in another thread too."""
