"""`sojourn add`: from a name for ssh to a node that is online, step by step. Each step may be done again; what was
begun is undone when a later one fails, except for programs that were installed."""

from __future__ import annotations

import json
import shlex
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from sojourn.client import Client
from sojourn.errors import Invalid, Refused, SojournError, Unreachable
from sojourn.hosts import book, delivery, survey
from sojourn.hosts.book import Host
from sojourn.hosts.ssh import Connection, command, host_of
from sojourn.hosts.survey import Survey
from sojourn.model import NodeStatus, NodeView
from sojourn.settings import Controller
from sojourn.transport.routes import is_loopback
from sojourn.transport.tls import pin_of

FIRST_PORT = 8571
"""From here on a port is sought on the host's loopback, where its agent finds the controller."""
REACH_SECONDS = 20
ONLINE_SECONDS = 60.0
TOKEN_SECONDS = 900.0
LOG_LINES = 8

REACH = f"""
import ssl, sys, time, urllib.request as web
until = time.monotonic() + {REACH_SECONDS}
anybody = web.HTTPSHandler(context=ssl._create_unverified_context())
while True:
    try:
        proxies = [web.ProxyHandler({{}})] if "//127." in sys.argv[1] else []
        web.build_opener(anybody, *proxies).open(sys.argv[1], timeout=5)
        break
    except OSError as wrong:
        if time.monotonic() > until:
            sys.exit(str(wrong))
        time.sleep(0.2)
"""
"""Waits until a URL answers, whoever it is, for nothing is said to them; what is wrong with it is the last word on
stderr. Whom to trust, the agent looks at."""


class Voice(Protocol):
    """How the person who adds a host is talked to."""

    def step(self, title: str) -> AbstractContextManager[None]:
        """What is being done; an error within ends it."""

    def ask(self, what: str, lines: Sequence[str]) -> None:
        """Raises Refused unless the answer is yes."""

    def say(self, sentence: str) -> None: ...


@dataclass(frozen=True)
class Wish:
    destination: str
    name: str = ""
    """Empty: as ssh calls the host."""
    labels: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    sudo: bool = False
    direct: bool = False
    """The host dials the controller itself."""
    wheelhouse: Path | None = None


def add(wish: Wish, controller: Controller, embedded: bool, tie: Callable[[], None], voice: Voice) -> NodeView:
    """Make a host a node of a controller; mend it, or bring it up to date, if it is one. `embedded`: it is this
    machine's own. `tie()` has the lines to the hosts in the book kept up. Raises the error of the step that failed."""
    with Client(controller.url, controller.token) as client:
        host = _host(wish, client.nodes(), "" if embedded else controller.url)
        wish = _as_before(wish, client.nodes(), host.name)
        _require_way(wish, controller, host)
        if wish.direct and controller.url.startswith("http:"):
            voice.say("What the host says to the controller is not encrypted: use a network that you trust.")
        with Connection(host) as there, ExitStack() as undo:
            view = Addition(wish, controller, client, there, voice, undo).run(host, tie)
            undo.pop_all()
    return view


class Addition:
    """One run of `add`. What is to be undone when it fails goes to `undo`."""

    def __init__(
        self, wish: Wish, controller: Controller, client: Client, there: Connection, voice: Voice, undo: ExitStack
    ) -> None:
        self._wish, self._controller, self._client = wish, controller, client
        self._there, self._voice, self._undo = there, voice, undo

    def run(self, host: Host, tie: Callable[[], None]) -> NodeView:
        """The node, online."""
        with self._voice.step("Look at the host"):
            found = self._survey()
        self._deliver(found)
        if found.is_root:
            self._equip(found)
        host = replace(host, port=0 if self._wish.direct else host.port or found.free_port(FIRST_PORT))
        scheme = self._controller.url.partition(":")[0]
        url = self._controller.url if self._wish.direct else f"{scheme}://127.0.0.1:{host.port}"
        with self._voice.step(f"Lead {host.name} to the controller" + (" through ssh" if host.port else "")):
            self._lead(host, found, url, tie)
        with self._voice.step("Start its agent"):
            return self._start_agent(host, found, url)

    def _survey(self) -> Survey:
        if not self._wish.direct:
            _require_no_questions(self._there.host)
        return survey.read(self._there.ask(survey.SCRIPT))

    def _deliver(self, found: Survey) -> None:
        parcel = delivery.pack()
        if found.delivered == parcel.fingerprint:
            return self._voice.say(f"This very Sojourn is in {found.venv} already.")
        chosen = delivery.plan(found, delivery.our_uv(found))
        there = "There is another Sojourn there." if found.delivered else "There is no Sojourn there yet."
        self._voice.ask(there, [chosen.sentence(found)])
        with self._voice.step("Install Sojourn"):
            delivery.deliver(self._there, found, chosen, parcel, self._wish.wheelhouse)
        return None

    def _equip(self, found: Survey) -> None:
        """What moves need besides, as far as it cures itself; without it, the node says what it can't do."""
        doctor = f"{shlex.quote(found.venv)}/bin/sojourn doctor --node --json"
        with self._voice.step("Look for what moves need"):
            cures = _cures(self._there.ask(f"{doctor} </dev/null || true"))
        if cures:
            self._voice.ask("For sessions that move, this is run there:", cures)
            with self._voice.step("Install what moves need"):
                self._there.ask(f"{doctor} --fix </dev/null || true")

    def _lead(self, host: Host, found: Survey, url: str, tie: Callable[[], None]) -> None:
        """Have the host reach its controller. The book has it from now on, or has it no more if this fails."""
        known = host.name in book.hosts()
        book.keep(host)
        if not known:
            self._undo.callback(tie)
            self._undo.callback(book.forget, host.name)
        tie()
        try:
            self._there.ask(f"{shlex.quote(found.python)} -c {shlex.quote(REACH)} {url}/api/version </dev/null")
        except SojournError as failed:
            said = _tail(host.name)
            what = f"{host.destination} does not reach the controller: {said or failed.message}"
            raise Unreachable(what, _hint(host)) from failed

    def _start_agent(self, host: Host, found: Survey, url: str) -> NodeView:
        token = self._client.create_token("join", f"add-{host.name}", uses=1, expires_in_seconds=TOKEN_SECONDS)
        labels = [word for label in self._wish.labels for word in ("--label", label)]
        options = ["--controller", url, "--name", host.name, *labels, "--listen", "none"]
        module = f"{shlex.quote(found.python)} -m sojourn.hosts"
        new = host.name not in {node.name for node in self._client.nodes()}
        try:
            if new:
                self._undo.callback(_quietly(self._there), f"{module} uninstall {host.name} </dev/null")
            how = self._there.ask(
                f"SOJOURN_JOIN_TOKEN={token['token']} {module} install {shlex.join(options)} </dev/null"
            )
            view = self._online(host, module)
        finally:
            with suppress(SojournError):
                self._client.revoke_token(token["id"])
        self._voice.say(how.strip()[:1].upper() + how.strip()[1:] + ".")
        return view

    def _online(self, host: Host, module: str) -> NodeView:
        deadline = time.monotonic() + ONLINE_SECONDS
        while time.monotonic() < deadline:
            for node in self._client.nodes():
                if node.name == host.name and node.status is NodeStatus.ONLINE:
                    return node
            time.sleep(0.2)
        said = self._there.ask(f"{module} log {host.name} </dev/null").strip()
        raise Unreachable(f"The agent on {host.name} does not come: {said}", "Mend that there, then do the same again.")


def _host(wish: Wish, nodes: Sequence[NodeView], controller: str) -> Host:
    """The host as it is known, or a new one. Raises Refused when another node has its name."""
    name = wish.name or host_of(wish.destination)  # as ssh calls the host
    book.require_name(name)
    known = book.hosts().get(name)
    if known and (known.destination, known.controller) != (wish.destination, controller):
        raise Refused(f"{name} is {known.destination} already.", "Take another --name, or `sojourn remove` it first.")
    if not known and name in {node.name for node in nodes}:
        raise Refused(f"There is a node {name} already.", "Take another --name, or `sojourn remove` it first.")
    new = Host(name, wish.destination, wish.options, wish.sudo, controller)
    return replace(known, options=wish.options or known.options, sudo=wish.sudo or known.sudo) if known else new


def _as_before(wish: Wish, nodes: Sequence[NodeView], name: str) -> Wish:
    """What is not said this time is as it was said before."""
    known = book.hosts().get(name)
    labels = next((node.labels for node in nodes if node.name == name), ())
    return replace(wish, labels=wish.labels or labels, direct=wish.direct or (known is not None and not known.port))


def _require_way(wish: Wish, controller: Controller, host: Host) -> None:
    """Raises Invalid where neither way to the controller can work."""
    if wish.direct and is_loopback(urlsplit(controller.url).netloc):
        raise Invalid(
            f"{host.name} can't reach {controller.url} itself: the controller listens on this machine alone.",
            "Leave out --direct, then it is led through ssh.",
        )
    if not wish.direct and controller.url.startswith("https:") and not pin_of(controller.token):
        raise Invalid(
            f"{controller.url} can't be led through ssh: its certificate is not for the host's own address.",
            "With --direct the host dials it itself.",
        )


def _require_no_questions(host: Host) -> None:
    """The line is kept up when nobody is there to type. Raises Refused."""
    line = command(host, "BatchMode=yes", "ControlMaster=no", "ControlPath=none", "ClearAllForwardings=yes")
    done = subprocess.run([*line, "true"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise Refused(
            f"ssh can't get to {host.destination} again without asking: {said[-1] if said else 'no answer'}",
            f"The line is kept up by ssh with a key: `ssh-copy-id {host.destination}`.",
        )


def _cures(doctors: str) -> list[str]:
    """The commands that the doctor would run; pure."""
    try:
        findings: list[dict[str, Any]] = json.loads(doctors)
    except ValueError:
        raise SojournError(f"The doctor there says: {doctors.strip()[-500:]}") from None
    return list(dict.fromkeys(one["cure"] for one in findings if one["state"] != "ok" and one["automatic"]))


def _quietly(there: Connection) -> Callable[[str], None]:
    def ask(script: str) -> None:
        with suppress(SojournError):
            there.ask(script)

    return ask


def _tail(name: str) -> str:
    with suppress(OSError):
        said = book.log_of(name).read_text(errors="replace").splitlines()[-LOG_LINES:]
        return "\n".join(dict.fromkeys(said))  # each attempt says the same
    return ""


def _hint(host: Host) -> str:
    if host.port:
        return "Its sshd must allow forwarding (AllowTcpForwarding)."
    return "Without --direct it is led through ssh."
