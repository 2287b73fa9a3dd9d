"""What the way through switchboard, tunnel and rider costs, beside the local provisioner in the same run."""

from __future__ import annotations

import statistics
import time
from typing import Any

import psutil

import sojourn
from sojourn.testing import LOCAL, OURS, end_kernel, stack, start_kernel

WARM_UP = 20
FLOOD = """
from IPython.display import display
block = {{"application/octet-stream": "x" * {size}}}
for _ in range({count}):
    display(block, raw=True)
"""
MEBI = 2**20


def measure(rounds: int, sessions: int) -> dict[str, Any]:
    with stack() as sojourner:
        ours, local = start_kernel(OURS), start_kernel(LOCAL)
        try:
            pairs = [(round_trip_ms(ours[1]), round_trip_ms(local[1])) for _ in range(WARM_UP + rounds)][WARM_UP:]
            floods = [(_iopub_mb_s(ours[1]), _iopub_mb_s(local[1])) for _ in range(5)]
        finally:
            end_kernel(*ours)
            end_kernel(*local)
        sizes = _resident_mb(sojourner, sessions)
    return {
        "bench": "roundtrip",
        "extra_ms": {"median": round(statistics.median(mine - theirs for mine, theirs in pairs), 3)},
        "round_trip_ms": round(statistics.median(mine for mine, _ in pairs), 3),
        "local_round_trip_ms": round(statistics.median(theirs for _, theirs in pairs), 3),
        "iopub_mb_s": round(statistics.median(mine for mine, _ in floods), 1),
        "local_iopub_mb_s": round(statistics.median(theirs for _, theirs in floods), 1),
        **sizes,
    }


def round_trip_ms(client: Any) -> float:
    """From sending an execute request until its reply and its idle have both come."""
    since = time.perf_counter()
    request = client.execute("1")
    client.get_shell_msg(timeout=30)
    while True:
        message = client.get_iopub_msg(timeout=30)
        if message["parent_header"].get("msg_id") == request and message["content"].get("execution_state") == "idle":
            return (time.perf_counter() - since) * 1000


def _iopub_mb_s(client: Any, size: int = 4 * MEBI, count: int = 40) -> float:
    """Megabytes of display data a second that reach the client."""
    request = client.execute(FLOOD.format(size=size, count=count))
    first, bytes_heard = 0.0, 0
    while True:
        message = client.get_iopub_msg(timeout=60)
        if message["parent_header"].get("msg_id") != request:
            continue
        if message["msg_type"] == "display_data":
            bytes_heard += size if first else 0
            first = first or time.perf_counter()
            last = time.perf_counter()
        elif message["content"].get("execution_state") == "idle":
            client.get_shell_msg(timeout=30)
            return bytes_heard / 1e6 / (last - first)


def _resident_mb(sojourner: sojourn.Client, sessions: int) -> dict[str, float]:
    """The largest rider and the largest agent while `sessions` kernels run."""
    kernels = [start_kernel(OURS) for _ in range(sessions)]
    try:
        return {"sessions": sessions, "rider_mb": _largest("rider", ".pyz"), "agent_mb": _largest("sojourn.agent")}
    finally:
        for kernel in kernels:
            end_kernel(*kernel)


def _largest(*words: str) -> float:
    sizes = [
        process.info["memory_info"].rss
        for process in psutil.process_iter(["cmdline", "memory_info"])
        if all(word in " ".join(process.info["cmdline"] or []) for word in words)
    ]
    return round(max(sizes, default=0) / MEBI, 1)
