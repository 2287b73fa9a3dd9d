"""What a node has, and what a session or a cell asks for."""

from __future__ import annotations

from sojourn.model.base import Word


class Resources(Word):
    cores: float
    memory_bytes: int
    gpus: int = 0


class Needs(Word):
    """What a place must offer. Empty means: anywhere."""

    node: str | None = None
    labels: tuple[str, ...] = ()
    cores: float = 0
    memory_bytes: int = 0
    gpus: int = 0
