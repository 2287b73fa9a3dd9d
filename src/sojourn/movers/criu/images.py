"""CRIU's images as they travel, and where they lie: a folder in memory per half of a move."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from sojourn.errors import MoveFailed
from sojourn.movers.parcels import Parcels


def remove(folder: Path) -> None:
    """A folder of images; nothing is ever mounted in one."""
    shutil.rmtree(folder, ignore_errors=True)


def image_sizes(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_size for file in sorted(folder.glob("*.img"))}


def contents(folder: Path, sizes: dict[str, int]) -> Iterator[bytes]:
    """All of them, one after the other, in chunks."""
    for name, size in sizes.items():
        with (folder / name).open("rb", buffering=0) as file:
            while size > 0:
                chunk = file.read(min(size, 1 << 20))
                if not chunk:
                    raise MoveFailed(f"CRIU's image {name} ended early.")
                size -= len(chunk)
                yield chunk


def receive(folder: Path, sizes: dict[str, int], parcels: Parcels) -> int:
    """Write what `contents` gave; returns the bytes. Raises MoveFailed when it does not come out even."""
    stream = parcels.receive_stream()
    left = b""
    for name, size in sizes.items():
        with (folder / Path(name).name).open("wb", buffering=0) as file:
            while size:
                if not left:
                    left = next(stream, b"")
                    if not left:
                        raise MoveFailed(f"CRIU's image {name} did not come whole.")
                part, left = left[:size], left[size:]
                size -= file.write(part)
    if left or next(stream, None):
        raise MoveFailed("More of CRIU's images came than was announced.")
    return sum(sizes.values())
