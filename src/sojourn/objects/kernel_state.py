"""What of an IPython kernel travels beside its namespace, so that its clients find the kernel that they know.

    session      the id in the headers of its messages        subshells    their ids: clients address them by these
    history      which session of IPython's history it is     breakpoints  those that the debugger was told
    gui          the event loop that `%gui` chose
    comms_closed ids of comms that stay behind: whoever serves the clients says to them that these are closed

All of it is plain JSON. It is taken and given in the kernel's main thread, between two cells, and given once the
namespace has been restored. ipykernel 6 and 7; nothing of it is imported, for the kernel is it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from . import widgets

State = dict[str, Any]
_PATIENCE_SECONDS = 10.0
"""For another thread of the kernel."""


@dataclass(frozen=True)
class Part:
    take: Callable[[Any], Any]
    """Of the kernel, plain JSON; None: nothing to carry."""
    give: Callable[[Any, Any], list[str]]
    """To a kernel, what was taken; notes of what is otherwise there."""


def take(kernel: Any) -> State:
    """What `give` needs, by the name of the part. What can't be taken is among its `notes`; nothing is changed."""
    state: State = {"notes": []}
    for name, part in _PARTS.items():
        try:
            found = part.take(kernel)
        except Exception as error:
            state["notes"].append(f"{name} of the kernel: {type(error).__name__}: {error}")
        else:
            state.update({} if found is None else {name: found})
    return state


def give(kernel: Any, state: State) -> list[str]:
    """Notes, for the user: what is otherwise than it was, or could not be had here. Raises nothing."""
    notes = list(state["notes"])
    for name, part in _PARTS.items():
        try:
            notes += part.give(kernel, state[name]) if name in state else []
        except Exception as error:
            notes.append(f"{name} of the kernel: {type(error).__name__}: {error}")
    return notes


# ── the session in headers ──


def _give_session(kernel: Any, session: str) -> list[str]:
    kernel.session.session = session
    return []


# ── IPython's history: a session of it in SQLite, and lines by their number ──


def _take_history(kernel: Any) -> Any:
    kept = kernel.shell.history_manager
    if not kept.enabled:
        return None
    kept.writeout_cache()
    return {"session": kept.session_number, "started": _started(kept, kept.session_number)}


def _started(kept: Any, session: int) -> str | None:
    row = kept.db.execute("SELECT CAST(start AS TEXT) FROM sessions WHERE session = ?", (session,)).fetchone()
    return row and str(row[0])


def _give_history(kernel: Any, state: dict[str, Any]) -> list[str]:
    """Go on with its session, where the file is the very same one, as in a home that nodes share. Elsewhere the lines
    so far become the beginning of a session there."""
    kept = kernel.shell.history_manager
    if not kept.enabled:
        return []
    if state["started"] and _started(kept, state["session"]) == state["started"]:
        own, kept.session_number = kept.session_number, state["session"]
        with kept.db:
            kept.db.execute("DELETE FROM sessions WHERE session = ?", (own,))
        return []
    lines = zip(kept.input_hist_parsed, kept.input_hist_raw, strict=True)
    with kept.db:
        kept.db.executemany(
            "INSERT OR REPLACE INTO history VALUES (?, ?, ?, ?)",
            [(kept.session_number, number, *sources) for number, sources in enumerate(lines) if number],
        )
    return []


# ── subshells (ipykernel 7) ──


def _take_subshells(kernel: Any) -> list[str] | None:
    thread = getattr(kernel, "shell_channel_thread", None)
    return (thread.manager.list_subshell() or None) if thread else None


def _give_subshells(kernel: Any, subshells: list[str]) -> list[str]:
    thread = getattr(kernel, "shell_channel_thread", None)
    if thread is None:
        return [f"subshell {each} was closed: this kernel knows none" for each in subshells]
    here = set(thread.manager.list_subshell())
    return [note for each in subshells if each not in here for note in _within(thread, _make_subshell, each)]


def _within(thread: Any, act: Callable[[Any, str], list[str]], subshell: str) -> list[str]:
    """Have a thread of the kernel do it, to whom its manager belongs."""
    outcome: Future[list[str]] = Future()

    def run() -> None:
        try:
            outcome.set_result(act(thread.manager, subshell))
        except Exception as error:
            outcome.set_result([f"subshell {subshell} was closed: {type(error).__name__}: {error}"])

    thread.io_loop.add_callback(run)
    return outcome.result(_PATIENCE_SECONDS)


def _make_subshell(manager: Any, wanted: str) -> list[str]:
    """Its module draws the id of a new subshell, in this thread only; so here it draws this one."""
    module: Any = sys.modules[type(manager).__module__]
    drawing, module.uuid = module.uuid, SimpleNamespace(uuid4=lambda: wanted)
    try:
        made = manager._create_subshell()
    finally:
        module.uuid = drawing
    if made == wanted:
        return []
    manager._delete_subshell(made)
    return [f"subshell {wanted} was closed: this kernel gives other ids"]


# ── the debugger ──


def _take_breakpoints(kernel: Any) -> Any:
    debugger = getattr(kernel, "debugger", None)
    if debugger is None or not (debugger.breakpoint_list or debugger.is_started):
        return None
    return {"files": debugger.breakpoint_list, "started": debugger.is_started, "cells": _cells_folder()}


def _give_breakpoints(kernel: Any, state: dict[str, Any]) -> list[str]:
    """The debugger is another process, which clients start through the kernel; it asks nobody for breakpoints. They are
    listed for clients who ask for them, as those do that have just started it."""
    count = sum(map(len, state["files"].values()))
    debugger = getattr(kernel, "debugger", None)
    if debugger is None:
        return [f"{count} breakpoints were dropped: there is no debugger here"]
    before, here = state["cells"], _cells_folder()
    for file, breakpoints in state["files"].items():
        debugger.breakpoint_list[here + file[len(before) :] if file.startswith(before) else file] = breakpoints
    return [f"the debugger was switched off, and with it {count} breakpoints: switch it on again"]


def _cells_folder() -> str:
    """Where the kernel writes cells for its debugger; a path with the process's number in it."""
    return str(sys.modules["ipykernel.compiler"].get_tmp_directory())


# ── the event loop of a GUI: `%gui` ──


def _give_gui(kernel: Any, name: str) -> list[str]:
    kernel.shell.enable_gui(name)
    return []


# ── comms ──


def _take_comms(kernel: Any) -> list[str] | None:
    manager = getattr(kernel, "comm_manager", None)
    if manager is None:
        return None
    staying = set(manager.comms) - widgets.comms(kernel.shell.user_ns)
    return sorted(staying) or None


def _give_comms(kernel: Any, closed: list[str]) -> list[str]:
    return [
        f"{len(closed)} comm{'s' * (len(closed) > 1)} to the browser closed: what spoke through them must do it anew"
    ]


_PARTS = {
    "session": Part(lambda kernel: kernel.session.session, _give_session),
    "history": Part(_take_history, _give_history),
    "subshells": Part(_take_subshells, _give_subshells),
    "breakpoints": Part(_take_breakpoints, _give_breakpoints),
    "gui": Part(lambda kernel: kernel.shell.active_eventloop, _give_gui),
    "comms_closed": Part(_take_comms, _give_comms),
}
