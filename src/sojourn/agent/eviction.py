"""Notices that the node is about to be taken away, as `--eviction` names who gives them.

    aws, gcp, azure   the metadata service of a spot machine, see `metadata`
    file:PATH         a file appears; its text is the end: seconds since the epoch or ISO 8601 (empty: in two minutes)
    signal            SIGUSR1: in two minutes
    none

A notice that is taken back (the file is removed, the event is no longer listed) is told too.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path

from sojourn.errors import Invalid
from sojourn.model import Eviction

log = logging.getLogger(__name__)

NOTICE_SECONDS = 120.0
"""Between a notice that names no end, and the end: what AWS gives."""
_FILE_PAUSE_SECONDS = 1.0
_CLOUDS = ("aws", "gcp", "azure")

Look = Callable[[], Awaitable[float | None]]
Tell = Callable[[Eviction | None], None]


def check(source: str) -> None:
    """Raise Invalid unless `source` is a word of this module's table that this machine can do."""
    known = source in ("none", "signal", *_CLOUDS) or (source.startswith("file:") and len(source) > len("file:"))
    if not known:
        raise Invalid(
            f"{source!r} gives no eviction notices.", "Name one of aws, gcp, azure, file:PATH, signal and none."
        )
    if source == "signal" and not hasattr(signal, "SIGUSR1"):
        raise Invalid("This system has no SIGUSR1.", "Use file:PATH.")


async def watch(source: str, metadata_url: str, tell: Tell) -> None:
    """Tell each notice, and each one taken back, for ever. `metadata_url` stands in for the cloud's own address."""
    kind, _, path = source.partition(":")
    if kind in _CLOUDS:
        await _watch_cloud(kind, metadata_url, tell)
    elif kind == "file":
        await _poll(kind, lambda: asyncio.to_thread(_look_at, Path(path)), _FILE_PAUSE_SECONDS, tell)
    elif kind == "signal":
        await _await_signal(tell)


async def _watch_cloud(kind: str, metadata_url: str, tell: Tell) -> None:
    from sojourn.agent.metadata import SERVICES  # an HTTP client takes a tenth of a second to load

    service = SERVICES[kind](metadata_url)
    try:
        await _poll(kind, service.look, service.pause_seconds, tell)
    finally:
        await service.close()


async def _poll(kind: str, look: Look, pause_seconds: float, tell: Tell) -> None:
    known: float | None = None
    complaint = ""
    while True:
        try:
            found, problem = await look(), ""
        except Exception as silent:  # it may say anything, and the node must not lose its agent for that
            found, problem = known, f"{type(silent).__name__}: {silent}"
        if problem != complaint:
            log.warning("eviction notices of %s: %s", kind, problem or "heard again")
        if found != known:
            tell(None if found is None else Eviction(at=found, source=kind))
        known, complaint = found, problem
        await asyncio.sleep(pause_seconds)


def _look_at(path: Path) -> float | None:
    try:
        text, appeared = path.read_text().strip(), path.stat().st_mtime
    except FileNotFoundError:
        return None
    return _moment(text) or appeared + NOTICE_SECONDS


def _moment(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


async def _await_signal(tell: Tell) -> None:
    loop, given = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, given.set)
    try:
        await given.wait()
        tell(Eviction(at=time.time() + NOTICE_SECONDS, source="signal"))
        await asyncio.Event().wait()  # the handler has to stay: without one the signal would end the agent
    finally:
        loop.remove_signal_handler(signal.SIGUSR1)
