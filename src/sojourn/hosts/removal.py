"""`sojourn remove`: a host is no node any more, and nothing of Sojourn's is left on it."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable

from sojourn.client import Client
from sojourn.errors import Busy, SojournError, Unknown
from sojourn.hosts import book, survey
from sojourn.hosts.addition import Voice
from sojourn.hosts.book import Host
from sojourn.hosts.emptying import Way, empty
from sojourn.hosts.ssh import Connection
from sojourn.settings import Controller

OFFLINE_SECONDS = 20.0

LEAVE = """
set -e
venv=%VENV%
[ -x "$venv/bin/python" ] || exit 0
agents() { "$venv/bin/python" -m sojourn.hosts "$@" </dev/null; }
if agents installed | grep -qxF -- %NAME%; then agents uninstall %NAME%; fi
if [ -z "$(agents installed)" ]; then
    rm -rf "$venv"
    rmdir "${venv%/*}" 2>/dev/null || true
fi
"""
"""The environment goes too, unless another node there lives in it."""


def remove(name: str, way: Way, controller: Controller, tie: Callable[[], None], voice: Voice) -> None:
    """End a node's agent, remove what was brought to its host, and have it forgotten; what becomes of its sessions
    before, `way` says. With `end` a host that can't be reached is only forgotten. Raises Busy while it has sessions,
    Unreachable, Unknown."""
    host = book.hosts().get(name)
    with Client(controller.url, controller.token) as client:
        if host is None and name not in {node.name for node in client.nodes()}:
            raise Unknown(f"There is no node {name!r}.", "`sojourn nodes` lists them.")
        empty(client, name, way, voice)
        if host:
            _leave(host, way == "end", voice)
        with voice.step("Forget the node"):
            _forget(client, name)
    book.forget(name)
    tie()


def _leave(host: Host, force: bool, voice: Voice) -> None:
    """Have nothing left there; with `force`, as far as it can be reached."""
    try:
        with Connection(host) as there, voice.step(f"Remove Sojourn from {host.destination}"):
            found = survey.read(there.ask(survey.SCRIPT))
            there.ask(LEAVE.replace("%VENV%", shlex.quote(found.venv)).replace("%NAME%", shlex.quote(host.name)))
    except SojournError as failed:
        if not force:
            hint = "--force forgets it nevertheless, and leaves there what is there."
            raise type(failed)(failed.message, hint) from failed
        voice.say(f"What was installed on {host.destination} is left there: {failed.message}")


def _forget(client: Client, name: str) -> None:
    """As soon as its agent has gone, which the controller hears at once when the agent ends by itself."""
    deadline = time.monotonic() + OFFLINE_SECONDS
    while True:
        try:
            return client.forget_node(name)
        except Unknown:  # it never came
            return None
        except Busy:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
