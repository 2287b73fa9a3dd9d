"""How long a client hears nothing while its kernel moves, and what else a move costs."""

from __future__ import annotations

import random
import statistics
import time
from typing import Any, Literal

from jupyter_client.manager import KernelManager

import sojourn
from bench.heap import prepare
from bench.listener import Listener
from bench.peers import PEERS
from sojourn.testing import OURS, end_kernel, execute, session_of, stack, start_kernel

SETTLE_SECONDS = 0.5
NODES = ("here", "there")


def measure(heap_gb: float, moves: int, strategy: Literal["lazy", "copy", "auto"], peers: bool) -> dict[str, Any]:
    """One JSON-ready object; see docs/measuring.md for what each figure means."""
    with stack() as sojourner:
        ours = _moves(sojourner, heap_gb, moves, strategy)
    result = {"bench": "move", "heap_gb": heap_gb, "strategy": strategy, "moves": moves, **ours}
    if peers:
        result |= {name: {"gap_s": round(_peer_gap(name, heap_gb), 4)} for name in PEERS}
    return result


def _moves(
    sojourner: sojourn.Client, heap_gb: float, moves: int, strategy: Literal["lazy", "copy", "auto"]
) -> dict[str, Any]:
    manager, client = start_kernel(OURS)
    try:
        session = session_of(manager)
        execute(client, prepare(heap_gb), timeout=600)
        listener = Listener(client, client.execute("count_aloud()"))
        time.sleep(1.0)
        baseline = [_quiet_gap(listener) for _ in range(moves)]
        rows = [_one_move(sojourner, session, listener, strategy) for _ in range(moves)]
        manager.interrupt_kernel()
        listener.ended.wait(10)
        wrong_pages = int(execute(client, "print(verify())", timeout=600))
        summing = [_move_while_summing(sojourner, manager, client, strategy) for _ in range(max(1, moves // 3))]
    finally:
        end_kernel(manager, client)
    return {
        "gap_s": _spread([row["gap_s"] for row in rows]),
        "baseline_gap_s": round(statistics.median(baseline), 4),
        **{key: _median(rows, key) for key in ("frozen_s", "filled_s", "image_bytes", "page_bytes")},
        "filled_s_per_gb": round(_median(rows, "filled_s") / heap_gb, 3),
        "filling_gap_s": _spread([row["gap_s"] for row in summing]),
        "wrong_pages": wrong_pages + sum(row["wrong_pages"] for row in summing),
        **listener.faults(),
    }


def _one_move(
    sojourner: sojourn.Client, session: str, listener: Listener, strategy: Literal["lazy", "copy", "auto"]
) -> dict[str, float]:
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
    sojourner: sojourn.Client, manager: KernelManager, client: Any, strategy: Literal["lazy", "copy", "auto"]
) -> dict[str, float]:
    """A move during which the kernel reads its whole heap: the silences after the thaw are those of missing pages."""
    session = session_of(manager)
    execute(client, "summing = Summing()")
    listener = Listener(client, client.execute("count_aloud()"))
    time.sleep(SETTLE_SECONDS)
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
        "gap_s": listener.longest_silence(thawed, filled),
        "wrong_pages": int(execute(client, "print(verify())", timeout=600)),
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
