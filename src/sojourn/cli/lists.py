"""What there is: nodes, sessions, moves, a session's log; and the end of a session."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from sojourn.cli.arguments import AsJson, SessionName
from sojourn.cli.connection import connect

if TYPE_CHECKING:
    from sojourn.model import MoveView, NodeView, SessionView

LOG_SECONDS = 0.5
"""Between two looks at a log that is followed."""


def add_to(app: typer.Typer) -> None:
    for command in (nodes, sessions, moves, logs, stop):
        app.command()(command)


def nodes(
    as_json: AsJson = False,
    moves: Annotated[bool, typer.Option("--moves", help="Which node can move to which, and why not.")] = False,
) -> None:
    """List the nodes and what they can do."""
    from sojourn.cli.screen import print_json, print_table

    if moves:
        return _ways(as_json)
    with connect() as client:
        found = client.nodes()
    if as_json:
        return print_json(found)
    columns = ("NODE", "STATUS", "CORES", "MEMORY FREE", "OF", "SESSIONS", "MOVES", "LABELS", "SEEN")
    print_table(columns, map(_node_row, found), "No nodes. `sojourn agent` adds one.")
    if unsealed := [node.name for node in found if node.traffic == "open"]:
        print(f"Not encrypted between machines: {', '.join(unsealed)}. A controller without --plain changes that.")
    return None


def _ways(as_json: bool) -> None:
    from sojourn.cli.screen import print_json
    from sojourn.cli.ways import print_ways

    with connect() as client:
        found = client.ways()
    return print_json(found) if as_json else print_ways(found)


def sessions(
    as_json: AsJson = False,
    everything: Annotated[bool, typer.Option("--all", "-a", help="Those that have ended, too.")] = False,
) -> None:
    """List the sessions and where they run."""
    from sojourn.cli.screen import print_json, print_table

    with connect() as client:
        found = client.sessions(everything)
    if as_json:
        return print_json(found)
    columns = ("SESSION", "NAME", "STATUS", "NODE", "SANDBOX", "AGE", "SLEEPS IN", "REASON")
    return print_table(columns, map(_session_row, found), "No sessions. A kernel Python 3 (Sojourn) makes one.")


def moves(as_json: AsJson = False) -> None:
    """List the moves and what they cost, newest first."""
    from sojourn.cli.screen import print_json, print_table

    with connect() as client:
        found = client.moves()
    if as_json:
        return print_json(found)
    columns = ("MOVE", "SESSION", "FROM", "TO", "STRATEGY", "PHASE", "FROZEN", "FILLED", "PAGES", "AGE")
    return print_table(columns, map(_move_row, found), "No moves yet. `sojourn move SESSION PLACE` makes one.")


def logs(
    session: SessionName,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as more is written.")] = False,
) -> None:
    """Print what a session wrote to stdout and stderr.

    The rider's own notes stand between.
    """
    with connect() as client, suppress(KeyboardInterrupt):
        text = client.log(session)
        print(text, end="", flush=True)
        while follow:
            time.sleep(LOG_SECONDS)
            text, before = client.log(session), text
            print(news(before, text), end="", flush=True)


def stop(session: SessionName) -> None:
    """End a session and remove what was made for it."""
    with connect() as client:
        view = client.stop(session)
    print(f"Stopping {view.name or view.id[:8]}.")


def news(before: str, now: str) -> str:
    """What a log's tail has gained since `before`, though its head may have been cut off meanwhile."""
    if now.startswith(before):
        return now[len(before) :]
    for kept in range(min(len(before), len(now)), 0, -1):
        if now.startswith(before[-kept:]):
            return now[kept:]
    return now


def _node_row(node: NodeView) -> tuple[str, ...]:
    from sojourn.cli.screen import age, amount

    return (
        node.name,
        "draining" if node.draining and node.status == "online" else node.status.value,
        f"{node.capacity.cores:g}",
        amount(node.load.memory_free_bytes),
        amount(node.capacity.memory_bytes),
        str(node.load.sessions),
        " ".join(node.capabilities.strategies) or "can't take live moves",
        " ".join(node.labels),
        age(node.seen_at),
    )


def _session_row(view: SessionView) -> tuple[str, ...]:
    from sojourn.cli.screen import age

    return (
        view.id[:8],
        view.name,
        view.status.value,
        view.node or "–",
        view.sandbox or "–",
        age(view.created_at),
        (view.checkpoint or "")[:8] if view.status in ("suspended", "waking") else "",
        view.reason,
    )


def _move_row(move: MoveView) -> tuple[str, ...]:
    from sojourn.cli.screen import age, amount, duration

    return (
        move.id[:8],
        move.session[:8],
        move.source,
        move.target,
        move.strategy,
        move.phase.value,
        duration(move.report.frozen_s),
        duration(move.report.filled_s),
        amount(move.report.page_bytes),
        age(move.started_at),
    )
