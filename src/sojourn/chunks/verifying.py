"""Whether all that a checkpoint needs is in the store, and is what it was."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor

from sojourn.chunks.layout import SHORT
from sojourn.chunks.manifest import Manifest

Needed = tuple[str, int]
"""A chunk's id, and how many bytes it must hold."""
Progress = Callable[[int, int], None]
"""(chunks done, chunks in all)"""
_THREADS = 4
_MOST_USES = 3


def needed(manifest: Manifest) -> set[Needed]:
    return {(chunk, size) for _, chunk, size in manifest.uses()}


def flaws(chunks: Collection[Needed], flaw: Callable[[Needed], str], progress: Progress | None) -> dict[Needed, str]:
    """What is wrong with each bad one. `flaw` (empty: nothing) is asked in several threads."""
    found = {}
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="verify") as threads:
        for done, (one, wrong) in enumerate(zip(chunks, threads.map(flaw, chunks), strict=True), start=1):
            if wrong:
                found[one] = wrong
            if progress:
                progress(done, len(chunks))
    return found


def problems(manifest: Manifest, found: Mapping[Needed, str]) -> list[str]:
    """One line for each bad chunk, in the manifest's order."""
    uses: dict[Needed, list[str]] = defaultdict(list)
    for where, chunk, size in manifest.uses() if found else ():
        if (chunk, size) in found:
            uses[chunk, size].append(where)
    return [
        f"Chunk {chunk[:SHORT]} is {found[chunk, size]}; it is used by {_listed(where)}."
        for (chunk, size), where in uses.items()
    ]


def _listed(uses: list[str]) -> str:
    more = len(uses) - _MOST_USES
    return ", ".join(uses[:_MOST_USES]) + (f" and {more} more" if more > 0 else "")
