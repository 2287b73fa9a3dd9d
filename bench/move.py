"""How long a client hears nothing while its kernel moves, and what else a move costs."""

from __future__ import annotations

import random
import statistics
import time
from dataclasses import dataclass
from typing import Any, Literal

from jupyter_client.manager import KernelManager

import sojourn
from bench.heap import prepare
from bench.listener import Listener
from bench.peers import PEERS
from sojourn.testing import OURS, end_kernel, execute, session_of, stack, start_kernel

SETTLE_SECONDS = 0.5
NODES = ("here", "there")
PEER_TURNS = 3
Wish = Literal["lazy", "copy", "auto"]


def measure(heap_gb: float, moves: int, strategy: Wish, peers: bool) -> dict[str, Any]:
    """One JSON-ready object; docs/measuring.md says what each figure means. With peers, theirs and ours take turns."""
    turns = PEER_TURNS if peers else 1
    batches: list[Batch] = []
    peer_gaps: dict[str, list[float]] = {name: [] for name in (PEERS if peers else ())}
    with stack() as sojourner:
        kernel = start_kernel(OURS)
        try:
            execute(kernel[1], prepare(heap_gb), timeout=600)
            for _ in range(turns):
                batches.append(_batch(sojourner, *kernel, strategy, -(-moves // turns)))
                for name, gaps in peer_gaps.items():
                    gaps.append(_peer_gap(name, heap_gb))
            summing = [_move_while_summing(sojourner, *kernel, strategy) for _ in range(max(1, moves // 3))]
        finally:
            end_kernel(*kernel)
    return {
        "bench": "move",
        "heap_gb": heap_gb,
        "strategy": strategy,
        **_summary([row for batch in batches for row in batch.moves], heap_gb),
        "baseline_gap_s": round(statistics.median(gap for batch in batches for gap in batch.quiet_gaps_s), 4),
        "filling_gap_s": _spread([row["filling_gap_s"] for row in summing]),
        "baseline_filling_gap_s": _spread([row["baseline_filling_gap_s"] for row in summing]),
        "summing_gap_s": _spread([row["gap_s"] for row in summing]),
        "wrong_pages": sum(batch.wrong_pages for batch in batches) + sum(row["wrong_pages"] for row in summing),
        **{fault: sum(batch.faults[fault] for batch in batches) for fault in batches[0].faults},
        **{name: {"gap_s": round(statistics.median(gaps), 4)} for name, gaps in peer_gaps.items()},
    }


@dataclass(frozen=True)
class Batch:
    """Some moves of a kernel that counts aloud all the while."""

    moves: list[dict[str, float]]
    quiet_gaps_s: list[float]
    wrong_pages: int
    faults: dict[str, int]


def _batch(sojourner: sojourn.Client, manager: KernelManager, client: Any, strategy: Wish, moves: int) -> Batch:
    session = session_of(manager)
    listener = Listener(client, client.execute("count_aloud()"))
    time.sleep(2 * SETTLE_SECONDS)
    quiet_gaps_s = [_quiet_gap(listener) for _ in range(moves)]
    rows = [_one_move(sojourner, session, listener, strategy) for _ in range(moves)]
    manager.interrupt_kernel()
    listener.ended.wait(10)
    return Batch(rows, quiet_gaps_s, _wrong_pages(client), listener.faults())


def _wrong_pages(client: Any) -> int:
    return int(execute(client, "print(verify())", timeout=600))


def _summary(rows: list[dict[str, float]], heap_gb: float) -> dict[str, Any]:
    return {
        "moves": len(rows),
        "gap_s": _spread([row["gap_s"] for row in rows]),
        **{key: _median(rows, key) for key in ("frozen_s", "filled_s", "image_bytes", "page_bytes")},
        "filled_s_per_gb": round(_median(rows, "filled_s") / heap_gb, 3),
    }


def _one_move(sojourner: sojourn.Client, session: str, listener: Listener, strategy: Wish) -> dict[str, float]:
    """Move to the other node and wait until every page is in; the gap is heard by the client."""
    time.sleep(random.uniform(0.0, SETTLE_SECONDS))
    here = sojourner.session(session).node
    there = next(node for node in NODES if node != here)
    since = time.monotonic()
    outcome = sojourner.move(session, there, strategy=strategy, wait="filled")
    assert outcome.move is not None
    report = outcome.move.report
    time.sleep(SETTLE_SECONDS)
    return {
        "gap_s": listener.longest_silence(since, time.monotonic() - SETTLE_SECONDS / 2),
        "frozen_s": report.frozen_s,
        "filled_s": report.filled_s,
        "image_bytes": report.image_bytes,
        "page_bytes": report.page_bytes,
    }


def _move_while_summing(
    sojourner: sojourn.Client, manager: KernelManager, client: Any, strategy: Wish
) -> dict[str, float]:
    """A move during which the kernel reads its whole heap. The silence of the move itself ends with the first line
    after the thaw; those that begin later are of missing pages, or of the kernel's own two threads in each other's
    way, which the baseline, taken before the move, has too."""
    session = session_of(manager)
    execute(client, "summing = Summing()")
    listener = Listener(client, client.execute("count_aloud()"))
    time.sleep(SETTLE_SECONDS)
    quiet_since = time.monotonic()
    time.sleep(2 * SETTLE_SECONDS)
    moved = time.monotonic()
    here = sojourner.session(session).node
    there = next(node for node in NODES if node != here)
    outcome = sojourner.move(session, there, strategy=strategy, wait="thawed")
    thawed = time.monotonic()
    assert outcome.move is not None
    while sojourner.session(session).status == "filling":
        time.sleep(0.05)
    filled = time.monotonic()
    time.sleep(SETTLE_SECONDS)
    manager.interrupt_kernel()
    listener.ended.wait(10)
    execute(client, "summing.go_on = False; summing.join()")
    return {
        "gap_s": listener.longest_silence(moved, thawed),
        "filling_gap_s": max(listener.silences_within(thawed, filled), default=0.0),
        "baseline_filling_gap_s": max(listener.silences_within(quiet_since, moved), default=0.0),
        "wrong_pages": _wrong_pages(client),
    }


def _peer_gap(name: str, heap_gb: float) -> float:
    with PEERS[name](heap_gb) as peer:
        return peer.gap_s()


def _quiet_gap(listener: Listener) -> float:
    since = time.monotonic()
    time.sleep(SETTLE_SECONDS)
    return listener.longest_silence(since, time.monotonic())


def _median(rows: list[dict[str, float]], key: str) -> float:
    return round(statistics.median(row[key] for row in rows), 4)


def _spread(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    p95 = ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]
    return {"median": round(statistics.median(ordered), 4), "p95": round(p95, 4)}
