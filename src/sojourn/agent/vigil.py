"""Notices that a sandbox has died, without polling where the kernel can tell (pidfd, Linux 5.3), and says why."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path

from sojourn.sandbox.base import Sandbox

_POLL_SECONDS = 1.0
_LAST_WORDS_BYTES = 500


async def until_ended(pid: int, alive: Callable[[], bool]) -> None:
    """Return when the process has ended. `alive` is asked once the watch stands, and where there is no pidfd."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except (AttributeError, OSError):
        await _poll(alive)
        return
    try:
        # The number could have been given to another process before the watch stood.
        if await asyncio.to_thread(alive):
            await _readable(descriptor)
    finally:
        os.close(descriptor)


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)


async def _poll(alive: Callable[[], bool]) -> None:
    while await asyncio.to_thread(alive):  # noqa: ASYNC110 - nothing tells us
        await asyncio.sleep(_POLL_SECONDS)


def last_words(sandbox: Sandbox) -> str:
    """Why a sandbox died, as far as it can be told from outside; asked before the sandbox is removed."""
    if killed := _oom_kills(sandbox):
        return f"the kernel killed {killed} of its processes because its memory was used up."
    lines = sandbox.log(_LAST_WORDS_BYTES).strip().splitlines()
    return "its first process ended" + (f"; the last it said: {lines[-1]}" if lines else " without a word.")


def _oom_kills(sandbox: Sandbox) -> int:
    """`memory.oom_control` of cgroup v1, `memory.events` of v2; both have a line `oom_kill N`."""
    if sys.platform != "linux":
        return 0
    from sojourn.sandbox.runc import RuncSandbox  # imports what only Linux has

    if not isinstance(sandbox, RuncSandbox):
        return 0
    files = (box / name for box in sandbox.cgroups.boxes().values() for name in ("memory.oom_control", "memory.events"))
    lines = (line.split() for file in files for line in _text(file).splitlines())
    return next((int(words[1]) for words in lines if words[:1] == ["oom_kill"]), 0)


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:  # another version's file, or its cgroup is gone already
        return ""
