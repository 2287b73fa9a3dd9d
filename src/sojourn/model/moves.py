"""A move: one try to bring a session to another node."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from sojourn.model.base import Word
from sojourn.model.sessions import Folder

Strategy = Literal["lazy", "copy", "objects"]
"""The first two are CRIU's, which carries processes; "objects" carries a Python namespace into a new kernel."""
Carrier = Literal["criu", "objects"]
"""A mover, as people choose it."""

ObstacleKind = Literal["arch", "cpu", "registers", "criu", "live", "offline", "draining"]


class Obstacle(Word):
    """One reason why a session can't go from one node to another."""

    kind: ObstacleKind
    message: str
    hint: str = ""
    """What to do about it."""


class Way(Word):
    """From one node to another, for a session that is started on the source as any is: on its own root and CPU."""

    source: str
    target: str
    obstacles: tuple[Obstacle, ...] = ()
    """Every one that CRIU meets; empty: it can go as it is."""
    objects: bool = False
    """Whether a Python session can go as objects."""


class MovePhase(StrEnum):
    PREPARING = "preparing"
    """The target builds its sandbox; the session runs at the source."""
    DEPARTING = "departing"
    """What can go ahead does, then it is frozen; nothing runs at the target yet."""
    FILLING = "filling"
    """Thawed at the target; pages are on their way."""
    COMMITTING = "committing"
    """Every page has arrived; the source is being released."""
    DONE = "done"
    ROLLING_BACK = "rolling_back"
    FAILED = "failed"
    """The session is where it was."""


class Shipment(Word):
    """Something that the target lacked and was sent, while the session ran on: once for all sessions that need it."""

    what: Literal["environment", "image"]
    done_bytes: int = 0
    total_bytes: int = 0


class LostName(Word):
    """A name of a Python session that can't travel as an object."""

    name: str
    path: str
    """What in it can't, as Python would write it: "model.lock"; the name itself, if all of it."""
    why: str
    """As "a running generator, created in cell 7"."""
    given_up: bool = False
    """It was marked as recomputable, or asked to stay behind."""


class Luggage(Word):
    """What of a Python session would travel as objects, found out by capturing it, which changes nothing."""

    names: int
    """How many would arrive."""
    size_bytes: int
    lost: tuple[LostName, ...] = ()
    """What would stay behind."""
    notes: tuple[str, ...] = ()
    """What would arrive otherwise than it is."""
    python: str = ""
    """As "3.11": the byte code that the target has to understand."""
    seconds: float = 0.0
    """What capturing took."""


class MoveReport(Word):
    """What a move cost. Seconds and bytes; zero until known."""

    froze: bool = False
    """The source has stopped the session; until then it runs, however long what goes ahead takes."""
    frozen_s: float = 0.0
    filled_s: float = 0.0
    """From the thaw until every page was in."""
    image_bytes: int = 0
    page_bytes: int = 0
    link_bytes: int = 0
    """What of the pages went over the link between the nodes, packed where that was quicker; 0: they share a kernel."""
    layer_bytes: int = 0
    shipments: tuple[Shipment, ...] = ()
    connections_reset: tuple[str, ...] = ()
    may_lose: tuple[str, ...] = ()
    """Of a move by objects: the names that were given up when it was asked for; "*": any that can't travel."""
    lost: tuple[LostName, ...] = ()
    """Of a move by objects: what stayed behind, with consent."""
    notes: tuple[str, ...] = ()
    """Of a move by objects: what arrived otherwise than it was."""
    left: tuple[str, ...] = ()
    """Folders that stayed behind: from here on the session sees the new node's own, as "/data (empty there)"."""
    relayed: bool = False
    """The source could not dial the target, so that what travelled went through the controller."""
    timeline: dict[str, float] = {}
    """Step -> seconds since the freeze, for whoever asks where the time went."""


class MoveView(Word):
    id: str
    session: str
    source: str
    target: str
    strategy: Strategy
    phase: MovePhase
    done_bytes: int = 0
    total_bytes: int = 0
    report: MoveReport = MoveReport()
    error: dict[str, str] | None = None
    """As SojournError.to_wire()."""
    started_at: float
    ended_at: float | None = None

    @property
    def stands_still(self) -> bool:
        """Whether nothing of the session runs, at either end."""
        return self.phase is MovePhase.ROLLING_BACK or (self.phase is MovePhase.DEPARTING and self.report.froze)


class EnvironmentLayer(Word):
    """A part of what a session runs from, as a node with another root needs it."""

    id: str
    part: str
    """"system", or the path of a prefix."""
    size_bytes: int = 0


class MovePlan(Word):
    """What a move would do, found out before anything is touched. `source` = `target`: the session is there already."""

    session: str
    source: str
    target: str
    fits: bool = True
    refusals: tuple[str, ...] = ()
    """Why it can't be done; empty when it fits."""
    hint: str = ""
    """What to do next when it does not fit."""
    strategy: Strategy | None = None
    why: str = ""
    """Why this strategy."""
    connections_reset: tuple[str, ...] = ()
    """Connections to the outside, as "tcp 10.0.0.1:5432"; each gets a reset, none hangs."""
    no_network: str = ""
    """Why the session would have no network at the target; empty: it would have one."""
    luggage: Luggage | None = None
    """What would travel as objects, if that was asked for or looked into."""
    page_bytes: int = 0
    layer_bytes: int = 0
    folders: tuple[Folder, ...] = ()
    """The session's folders, and what becomes of each."""
    environment: tuple[EnvironmentLayer, ...] = ()
    """What the target lacks of the session's environment: it is brought there first, while the session runs. Files
    that it knows from other layers are not sent again."""
    image: str = ""
    """The session's image, if the target has not got it: it is brought there first, while the session runs."""
    image_bytes: int = 0
    frozen_s: float | None = None
    """The predicted pause; None where nothing is known."""
    filled_s: float | None = None
    """Predicted, from the thaw until every page is in."""
