"""Whether the objects of a Python session may be carried, and whether they are there sooner than its processes: pure
decisions on what its kernel, and CRIU's plan, say of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sojourn.errors import Incompatible
from sojourn.model import Capabilities, LostName, Luggage, MovePlan

ANY = "*"
"""In `may_lose`: any name that can't travel."""
QUICK_S = 2.0
"""A move by CRIU that takes no longer is not worth a question to the kernel."""
WORTH = 2.0
"""CRIU loses nothing and waits for no cell, so objects have to be so many times as fast."""
_START_S = 0.7
"""A kernel, until it can take objects."""
_HANDOVER_S = 0.03
"""Holding both kernels, and hearing that everything has arrived: what no session goes below."""
_CARRY_S_PER_GB = 3.2
"""Between two interpreters of one machine, both ends reading along for the digests (SHA-256). What a graph of small
objects costs beside that, once at each end, is known from capturing it."""
_MEMORY_S_PER_GB = 0.6
"""Pages between two nodes of one machine."""
ASSUMED_LINK = 125_000_000
"""Bytes per second between two machines of which nothing is known: 1 Gbit/s."""
_GB = 1 << 30


@dataclass(frozen=True)
class Link:
    """What lies between two nodes."""

    bytes_per_s: float | None
    """None: they are one machine."""

    @classmethod
    def between(cls, source: Capabilities, target: Capabilities, measured: float = 0.0) -> Link:
        """`measured`: bytes per second at which the source has lately sent sessions; 0: nothing is known."""
        return cls(None if source.machine_id == target.machine_id else measured or ASSUMED_LINK)

    def seconds(self, size_bytes: float, s_per_gb: float) -> float:
        """Sending and handling go on at once: the slower of the two counts."""
        handling = size_bytes * s_per_gb / _GB
        return max(handling, size_bytes / self.bytes_per_s) if self.bytes_per_s else handling


def seconds_by_criu(plan: MovePlan, link: Link) -> float:
    """Until the session runs there with all its memory and files."""
    filled_s = plan.filled_s or 0.0
    pages_s = link.seconds(plan.page_bytes, _MEMORY_S_PER_GB) if link.bytes_per_s else filled_s
    return (plan.frozen_s or 0.0) + max(pages_s, filled_s) + link.seconds(plan.layer_bytes, _MEMORY_S_PER_GB)


def pause_by_objects(luggage: Luggage, link: Link) -> float:
    """For how long nothing runs: the objects are captured, carried and restored."""
    return _HANDOVER_S + 2 * luggage.seconds + link.seconds(luggage.size_bytes, _CARRY_S_PER_GB)


def seconds_by_objects(luggage: Luggage, link: Link) -> float:
    """Until the session runs there with all its objects."""
    return _START_S + pause_by_objects(luggage, link)


def at_stake(luggage: Luggage, may_lose: Sequence[str]) -> tuple[LostName, ...]:
    """What would be lost without anybody's consent."""
    if ANY in may_lose:
        return ()
    return tuple(lost for lost in luggage.lost if not lost.given_up and lost.name not in may_lose)


def require_consent(session: str, luggage: Luggage, may_lose: Sequence[str]) -> None:
    """Raises Incompatible, which names all that would be lost without consent, and why. `session`: what to call it."""
    if lost := at_stake(luggage, may_lose):
        names = names_of(lost)
        drops = [f"--drop {name}" for name in names] if all(map(str.isidentifier, names)) else []
        raise Incompatible(
            f"As objects, session {session} would lose {told(lost)}.",
            f"Close or delete {'it' if len(names) == 1 else 'them'}, or give up what can't travel: "
            f"{' or '.join([*([' '.join(drops)] if drops else []), '--drop-all'])}.",
        )


def told(lost: Iterable[LostName]) -> str:
    """As "gen: a running generator, created in cell 7; model (model.lock): a lock"."""
    return "; ".join(f"{called(one)}: {one.why}" for one in lost)


def called(lost: LostName) -> str:
    return lost.name if lost.path in ("", lost.name) else f"{lost.name} ({lost.path})"


def names_of(lost: Iterable[LostName]) -> list[str]:
    return list(dict.fromkeys(one.name for one in lost))


def preference(by_criu: MovePlan, luggage: Luggage, link: Link) -> tuple[bool, str]:
    """Whether objects are the better way of the two, and why, with the figures. What CRIU would carry whole is not
    given up for speed, whatever may be lost."""
    criu_s, objects_s = seconds_by_criu(by_criu, link), seconds_by_objects(luggage, link)
    figures = f"there whole in about {objects_s:.1f} s as objects, in {criu_s:.1f} s by CRIU"
    if luggage.lost:
        return False, f"CRIU carries everything; as objects {', '.join(names_of(luggage.lost))} would be lost"
    if luggage.notes:
        return False, f"CRIU carries everything as it is; as objects not: {luggage.notes[0]}"
    if objects_s * WORTH <= criu_s:
        return True, figures
    return False, f"CRIU loses nothing, and is given up only for half its time: {figures}"
