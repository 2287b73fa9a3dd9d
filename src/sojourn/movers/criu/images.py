"""CRIU's images as they travel, and where they lie: a folder in memory per half of a move."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from sojourn.errors import MoveFailed
from sojourn.movers.criu.draft import Draft, Exactly
from sojourn.movers.parcels import Parcels


def remove(folder: Path) -> None:
    """A folder of images; nothing is ever mounted in one."""
    shutil.rmtree(folder, ignore_errors=True)


def image_sizes(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_size for file in sorted(folder.glob("*.img"))}


def contents(folder: Path, sizes: dict[str, int], draft: Draft) -> Iterator[bytes]:
    """All of them, one after the other, in chunks, shortened by what the other side knows from the draft."""
    for name, size in sizes.items():
        yield from draft.shortened(_chunks(folder / name, size))


def _chunks(path: Path, size: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        while size > 0:
            chunk = file.read(min(size, 1 << 20))
            if not chunk:
                raise MoveFailed(f"CRIU's image {path.name} ended early.")
            size -= len(chunk)
            yield chunk


def receive(folder: Path, sizes: dict[str, int], parcels: Parcels, draft: Draft) -> int:
    """Write what `contents` gave; returns the bytes. Raises MoveFailed when it does not come out even."""
    shortened = Exactly(parcels.receive_stream())
    for name, size in sizes.items():
        with (folder / Path(name).name).open("wb") as file:
            file.writelines(draft.restored(size, shortened))
    if not shortened.is_over:
        raise MoveFailed("More of CRIU's images came than was announced.")
    return sum(sizes.values())
