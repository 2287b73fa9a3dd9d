"""What one end knows the other to have, so that going back and forth sends only what has changed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from .stream import digest


@dataclass(frozen=True)
class Seen:
    """What both ends held when the last stream had been restored."""

    components: dict[tuple[str, ...], str] = field(default_factory=dict)
    """By their names, a digest of all that is in them."""
    buffers: dict[str, memoryview] = field(default_factory=dict)
    """By their digests. They are kept alive by this, so keep it only while nothing runs here."""


def key_of(graph: str, buffers: Iterable[str]) -> str:
    """One digest for a component: of its graph's and its buffers' digests, in hexadecimal."""
    return digest(" ".join((graph, *buffers)).encode()).hex()
