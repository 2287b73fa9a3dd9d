"""A node that is to be removed gives up its sessions first: they move to other nodes, or end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Literal

from sojourn.client import Client, Decided
from sojourn.errors import Busy, SojournError
from sojourn.hosts.addition import Voice
from sojourn.model import NodeStatus, SessionStatus, SessionView

STOP_SECONDS = 30.0
LOOK_SECONDS = 0.3
PATIENCE_SECONDS = 20.0
"""When none of those that are left has begun to leave for so long, they are not waited for any more."""
REASON = "it is to be removed"

Way = Literal["ask", "drain", "end"]
"""What becomes of the sessions of a node: they move away, once somebody has said yes or at once, or they end."""


def empty(client: Client, name: str, way: Way, voice: Voice) -> None:
    """Returns when no session is at the node, nor asleep so that it alone could wake it; with `end` sleeping ones are
    left to their fate. Raises Busy, naming those that stay and why; the node is as open as it was, then."""
    here = _awake(client, name)
    if way == "end":
        return _end_all(client, name, here, voice)
    if here:
        _bring_away(client, name, here, way, voice)
    _require_no_captives(client, name)
    return None


def _awake(client: Client, name: str) -> list[SessionView]:
    asleep = (SessionStatus.SUSPENDED,)
    return [view for view in client.sessions() if view.node == name and view.status not in asleep]


def _is_online(client: Client, name: str) -> bool:
    return any(node.name == name and node.status is NodeStatus.ONLINE for node in client.nodes())


# ── they move away ──


def _bring_away(client: Client, name: str, here: Sequence[SessionView], way: Way, voice: Voice) -> None:
    names = _names(here)
    if not _is_online(client, name):
        raise Busy(f"{name} is offline and holds sessions: {names}.", "--force gives them up.")
    planned = {one.session: one for one in client.drain(name, dry_run=True) if one.node == name}
    if way == "ask":
        plans = [f"{_name(view)}: {_plan(planned.get(view.id))}" for view in here]
        voice.ask(f"{name} holds sessions, which are brought away first:", plans)
    was_draining = any(node.name == name and node.draining for node in client.nodes())
    try:
        with voice.step("Bring its sessions away"):
            client.drain(name, reason=REASON)
            _await_departures(client, name)
    except BaseException:
        if not was_draining:
            client.undrain(name)
        raise


def _await_departures(client: Client, name: str) -> None:
    left, still_since = 0, time.monotonic()
    while here := _awake(client, name):
        if len(here) != left or any(view.status is not SessionStatus.RUNNING for view in here):
            left, still_since = len(here), time.monotonic()
        if time.monotonic() - still_since > PATIENCE_SECONDS:
            hint = "Stop them, or --force ends them with the node."
            raise Busy(f"{name} can't be emptied: {'; '.join(_reasons(client, here))}.", hint)
        time.sleep(LOOK_SECONDS)


def _reasons(client: Client, here: Sequence[SessionView]) -> Iterator[str]:
    """Why each of them is still there: what its last move failed with, or what it waits for."""
    policies = client.policies()
    failed = {one.session: one.error["message"] for one in reversed(policies.done) if one.error}
    waits = {one.session: one.why for one in policies.decisions if one.kind == "wait"}
    for view in here:
        why = failed.get(view.id) or waits.get(view.id) or view.reason or "it does not leave"
        yield f"{_name(view)}: {why.rstrip('.')}"


def _plan(planned: Decided | None) -> str:
    if planned is None:
        return "as soon as it can"
    return f"{planned.kind} to {planned.target}" if planned.target else f"{planned.kind} ({planned.why})"


def _require_no_captives(client: Client, name: str) -> None:
    """Sessions that sleep in what is left of their node's own root wake nowhere else. Raises Busy."""
    roots = {node.name: node.capabilities.root_id for node in client.nodes()}
    if [*roots.values()].count(roots.get(name, "")) > 1:  # another node shows them the very same root
        return
    asleep = [view for view in client.sessions() if view.node == name and view.status is SessionStatus.SUSPENDED]
    if captives := [view for view in asleep if _needs_own_root(client, view)]:
        raise Busy(
            f"{name} alone can wake these sessions: {_names(captives)}.",
            "Wake them, and move them to another node; --force removes it nevertheless.",
        )


def _needs_own_root(client: Client, view: SessionView) -> bool:
    try:
        return client.spec(view.id).image is None
    except SojournError:  # somebody else's: not to be known
        return True


# ── they end ──


def _end_all(client: Client, name: str, here: Sequence[SessionView], voice: Voice) -> None:
    if here and _is_online(client, name):
        with voice.step("End its sessions"):
            _end({view.id for view in here}, client)


def _end(sessions: set[str], client: Client) -> None:
    deadline = time.monotonic() + STOP_SECONDS
    for session in sessions:
        client.stop(session)
    while left := sessions & {view.id for view in client.sessions()}:
        if time.monotonic() > deadline:
            raise Busy(f"Sessions do not end: {', '.join(one[:8] for one in left)}.", "Look at `sojourn sessions`.")
        time.sleep(0.1)


def _name(view: SessionView) -> str:
    return view.name or view.id[:8]


def _names(views: Sequence[SessionView]) -> str:
    return ", ".join(map(_name, views))
