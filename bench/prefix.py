"""A made-up conda-like prefix: many small files and some large ones, half of each file noise and half of it text."""

from __future__ import annotations

import os
import random
from pathlib import Path

_TEXT = b"def answer(question, *, patience=42):\n    return question.asked_by(patience) or None\n"
_LARGE_SHARE = 0.5
"""Of the bytes: shared libraries."""
_LARGE_BYTES = 4 << 20
_IN_A_FOLDER = 100


def make_prefix(folder: Path, megabytes: int, files: int) -> None:
    """So many bytes (10⁶) in about so many files, the same ones each time."""
    chance = random.Random(1)
    noise, text = os.urandom(1 << 20), _TEXT * (1 << 14)
    large = int(megabytes * 10**6 * _LARGE_SHARE) // _LARGE_BYTES
    small_bytes = megabytes * 10**6 * (1 - _LARGE_SHARE) / files
    (folder / "bin").mkdir(parents=True)
    (folder / "conda-meta").mkdir()
    for number in range(files):
        size = max(1, int(chance.expovariate(1 / small_bytes)))
        _write(folder / f"lib/package{number // _IN_A_FOLDER}/module{number}.py", size, noise, text, chance)
    for number in range(large):
        _write(folder / f"lib/libraries/lib{number}.so", _LARGE_BYTES, noise, text, chance)


def _write(path: Path, size: int, noise: bytes, text: bytes, chance: random.Random) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        while size > 0:
            half = min(size, 1 << 19) // 2 + 1
            at = chance.randrange(len(noise) - half)
            size -= file.write(noise[at : at + half] + text[:half])
