"""How soon a node that is about to be taken away holds no session that only it has."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from jupyter_client.manager import KernelManager

import sojourn
from bench.heap import prepare
from bench.links import Link, load_average, shaped
from sojourn.model import SessionStatus, SessionView
from sojourn.settings import config_folder
from sojourn.testing import OURS, end_kernel, execute, session_of, start_kernel
from sojourn.testing.parts import Parts, parts

HOME, HAVEN = "here", "there"
LOOK_SECONDS = 0.05
SETTLE_SECONDS = 6.0
"""Longer than a heartbeat: by then the controller knows what each session uses."""
Kernel = tuple[KernelManager, Any]


def measure(sessions: int, heap_gb: float, gbit_s: float, notice_s: float) -> dict[str, Any]:
    """One JSON-ready object; docs/measuring.md says what each figure means."""
    with shaped(gbit_s) as link, parts((HOME, HAVEN)) as nodes:
        _call_it_a_spot_node()
        controller = nodes.controller
        with sojourn.Client(controller.url, controller.token) as sojourner:
            kernels: list[Kernel] = []
            try:
                for _ in range(sessions):
                    kernels.append(start_kernel(OURS, needs=HOME))
                    execute(kernels[-1][1], prepare(heap_gb), timeout=600)
                _measure_link(sojourner, session_of(kernels[0][0]))
                time.sleep(SETTLE_SECONDS)
                left = _leave(nodes, sojourner, link, notice_s)
                wrong = [int(execute(client, "print(verify())", timeout=600)) for _, client in kernels]
            finally:
                for kernel in kernels:
                    end_kernel(*kernel)
    return {
        "bench": "spot",
        "sessions": sessions,
        "heap_gb": heap_gb,
        "notice_s": notice_s,
        **link.said(),
        **left,
        "wrong_pages": sum(wrong),
    }


def _call_it_a_spot_node() -> None:
    """So that the policy says beforehand whether it would make it."""
    settings = config_folder() / "config.toml"
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text(f"[policies.nodes.{HOME}]\nspot = true\n[policies.spot]\ncheckpoint_every = 'never'\n")


def _measure_link(sojourner: sojourn.Client, session: str) -> None:
    """A move away and back, from which the node knows its bandwidth; the controller looks now and then."""
    sojourner.move(session, HAVEN, wait="filled")
    time.sleep(SETTLE_SECONDS)
    sojourner.move(session, HOME, wait="filled")


def _leave(nodes: Parts, sojourner: sojourn.Client, link: Link, notice_s: float) -> dict[str, Any]:
    """Give notice, and wait until every session is safe or the time is over."""
    forecasts, load = sojourner.policies().forecasts, load_average()
    sent, since = link.sent_bytes, time.monotonic()
    nodes.evict(HOME, notice_s)
    safe_s: dict[str, float] = {}
    left = sojourner.sessions()
    while left and time.monotonic() - since < notice_s:
        time.sleep(LOOK_SECONDS)
        left = [one for one in sojourner.sessions() if one.id not in safe_s]
        safe_s |= {one.id: round(time.monotonic() - since, 2) for one in left if _is_safe(one)}
    return {
        "left_s": max(safe_s.values()) if not left else None,
        "safe_s": sorted(safe_s.values()),
        "forecast": "; ".join(forecasts),
        "ways": dict(Counter(one.kind for one in sojourner.policies().done if not one.error)),
        "sent_gb": round((link.sent_bytes - sent) / 2**30, 2),
        "load": load,
    }


def _is_safe(session: SessionView) -> bool:
    """Every page of it is elsewhere, or in the store."""
    status = session.status
    return status is SessionStatus.SUSPENDED or (status is SessionStatus.RUNNING and session.node != HOME)
