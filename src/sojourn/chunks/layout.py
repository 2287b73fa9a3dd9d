"""What lies where in a store, for one owner.

owners/OWNER/packs/1a2b…                 a pack of chunks
owners/OWNER/checkpoints/ID              a manifest; empty: its save was given up for dead, and can't be published
owners/OWNER/leases/ID.HOLDER            somebody writes for that checkpoint
owners/OWNER/sweeps/HOLDER               somebody sweeps
owners/OWNER/bad/1a2b….OFFSET            what lies there in that pack was found bad, and is not relied on any more
"""

from __future__ import annotations

from collections.abc import Iterator

from sojourn.chunks.backend import Backend
from sojourn.chunks.manifest import Spot
from sojourn.errors import Invalid

SHORT = 12
"""Digits of a chunk's id in a message."""


class Layout:
    """Keys. `owner`: the name of an owner's key."""

    def __init__(self, owner: str) -> None:
        self.root = f"owners/{owner}/"
        self.packs = f"{self.root}packs/"
        self.checkpoints = f"{self.root}checkpoints/"
        self.leases = f"{self.root}leases/"
        self.sweeps = f"{self.root}sweeps/"
        self._bad = f"{self.root}bad/"

    def bad(self, spot: Spot) -> str:
        return f"{self._bad}{spot.pack}.{spot.offset}"

    def found_bad(self, backend: Backend) -> dict[str, list[str]]:
        """Pack -> the keys of its marks."""
        found: dict[str, list[str]] = {}
        for entry in backend.keys(self._bad):
            found.setdefault(last(entry.key).partition(".")[0], []).append(entry.key)
        return found

    def checkpoint(self, id: str) -> str:  # noqa: A002
        """Raises Invalid for an id that is no plain word."""
        if not id.replace("-", "").replace("_", "").isalnum():
            raise Invalid(f"{id!r} can't be the id of a checkpoint.")
        return self.checkpoints + id

    def published(self, backend: Backend) -> Iterator[str]:
        """The ids of all whole checkpoints."""
        for entry in backend.keys(self.checkpoints):
            if entry.size:
                yield last(entry.key)


def last(key: str) -> str:
    return key.rpartition("/")[2]
