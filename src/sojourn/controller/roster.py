"""The nodes: who has joined, who can be reached now, and how to speak to them."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from sojourn import __version__
from sojourn.controller.authority import Authority
from sojourn.controller.tokens import fingerprint, holder, mint
from sojourn.database import Database, Node, Token
from sojourn.database import queries as ask
from sojourn.errors import Busy, Incompatible, Refused, Unknown, Unreachable
from sojourn.model import Capabilities, Load, NodeStatus, NodeView, Traffic
from sojourn.transport.routes import is_loopback
from sojourn.wire import PROTOCOL, Called, FromController, Hello, Instruct, Instruction, Welcome

HEARTBEAT_SECONDS = 2.0
"""Short, because a session's growth is known by its heartbeats, and may reach its limit within seconds."""
SILENT_HEARTBEATS = 10
"""After so many without a word a line counts as down."""


class Line(Protocol):
    """A connection to an agent."""

    heard_at: float
    """By a clock that is never set, and stands still while the machine sleeps."""

    def send(self, message: FromController) -> None: ...

    def close(self) -> None: ...


class Roster:
    def __init__(self, database: Database, now: float, authority: Authority | None = None) -> None:
        """`authority` vouches for nodes; None: nothing between machines is sealed."""
        self._database, self._authority = database, authority
        with database.transaction() as connection:
            self._nodes = {node.name: node for node in ask.nodes(connection)}
        self._forgotten: dict[str, Capabilities] = {}
        """A checkpoint that such a node saved may be found only now."""
        self._lines: dict[str, Line] = {}
        self.left_at = dict.fromkeys(self._nodes, now)
        """Since when each node has been away, for this controller."""
        self.on_left: Callable[[str], None] = lambda name: None
        """Called when a node's line has ended, also where another one has taken its place."""

    def views(self) -> list[NodeView]:
        return [self.view(name) for name in sorted(self._nodes)]

    def view(self, name: str) -> NodeView:
        status = NodeStatus.ONLINE if name in self._lines else NodeStatus.OFFLINE
        return self.node(name).view.model_copy(update={"status": status})

    def node(self, name: str) -> Node:
        if name not in self._nodes:
            raise Unknown(f"There is no node {name!r}.", f"Nodes: {', '.join(sorted(self._nodes)) or 'none'}.")
        return self._nodes[name]

    def get(self, name: str) -> Node | None:
        return self._nodes.get(name)

    def facts(self, name: str) -> Capabilities | None:
        """What a node said of itself, also one that was forgotten lately."""
        return self._nodes[name].view.capabilities if name in self._nodes else self._forgotten.get(name)

    @property
    def authority(self) -> str:
        """The certificate of who vouches for nodes; empty: nobody does."""
        return self._authority.certificate if self._authority else ""

    def online(self, name: str) -> bool:
        return name in self._lines

    def holder(self, secret: str) -> Node | None:
        return holder(secret, list(self._nodes.values()))

    # ── speaking ─────────────────────────────────────────────────────────────────────────────────────────────

    def tell(self, name: str, instruction: Instruction) -> bool:
        """False if the node can't be reached: it will be told again when it returns."""
        line = self._lines.get(name)
        if line:
            line.send(Instruct(instruction=instruction))
        return line is not None

    def call(self, name: str, call: str) -> None:
        """Tell a node that somebody waits for it at the relay. Raises Unknown, Unreachable."""
        self.node(name)
        self.require_online(name)
        self._lines[name].send(Called(call=call))

    def require_online(self, name: str) -> None:
        if not self.online(name):
            raise Unreachable(f"Node {name} is offline.", "Start its agent, then try again.")

    # ── coming and going ─────────────────────────────────────────────────────────────────────────────────────

    def admit(self, hello: Hello, secret: str, credential: Token | Node, now: float, is_local: bool = True) -> Welcome:
        """Write down who comes. `is_local`: by this machine's own loopback. Raises what the agent is turned away with;
        then nothing has changed."""
        require_understood(hello)
        certificate = self._certify(hello, now)
        if isinstance(credential, Node):
            if credential.name != hello.name:
                raise Refused(
                    f"This token belongs to node {credential.name}, not to {hello.name}.",
                    "Give each node a folder of its own.",
                )
            token, node = secret, replace(credential, view=_view(hello, credential.view.id, now, credential.view))
        else:
            token, node = mint("node"), self._joining(hello, now)
            node = replace(node, token_hash=fingerprint(token))
        traffic = _traffic(hello, bool(certificate), is_local)
        node = replace(node, view=node.view.model_copy(update={"traffic": traffic}))
        with self._database.transaction(lasting=isinstance(credential, Token)) as connection:
            if isinstance(credential, Token):
                ask.spend_token(connection, credential)
            ask.save_node(connection, node)
        self._nodes[node.name] = node
        return Welcome(
            node=node.name,
            token=token,
            key=node.key,
            heartbeat_seconds=HEARTBEAT_SECONDS,
            certificate=certificate,
            authority=self.authority,
        )

    def arrived(self, name: str, line: Line) -> None:
        if older := self._lines.get(name):
            older.close()
            self.on_left(name)
        self._lines[name] = line
        self.left_at.pop(name, None)

    def left(self, name: str, line: Line, now: float) -> bool:
        """False if another line has taken its place already."""
        if self._lines.get(name) is not line:
            return False
        del self._lines[name]
        self.left_at[name] = now
        self.on_left(name)
        with self._database.transaction() as connection:
            ask.save_node(connection, self._nodes[name])
        return True

    def beat(self, name: str, load: Load, now: float) -> None:
        node = self._nodes[name]
        self._nodes[name] = replace(node, view=node.view.model_copy(update={"load": load, "seen_at": now}))

    def drain(self, name: str, reason: str) -> NodeView:
        """Bring nothing there any more, until `reason` is empty; kept over restarts of both. Raises Unknown."""
        node = self.node(name)
        drained = replace(node, view=node.view.model_copy(update={"draining": reason}))
        with self._database.transaction(lasting=True) as connection:
            ask.save_node(connection, drained)
        self._nodes[name] = drained
        return self.view(name)

    def forget(self, name: str) -> None:
        """Raises Busy while it is online."""
        self.node(name)
        if self.online(name):
            raise Busy(f"Node {name} is online.", "Stop its agent first.")
        with self._database.transaction(lasting=True) as connection:
            ask.forget_node(connection, name)
        self._forgotten[name] = self._nodes.pop(name).view.capabilities
        self.left_at.pop(name, None)

    def hang_up_on_the_silent(self, now: float) -> None:
        """`now` by the clock of `Line.heard_at`."""
        for line in list(self._lines.values()):
            if now - line.heard_at > SILENT_HEARTBEATS * HEARTBEAT_SECONDS:
                line.close()

    def _certify(self, hello: Hello, now: float) -> str:
        if self._authority is None or not hello.request:
            return ""
        return self._authority.certify(hello.request, hello.name, now)

    def _joining(self, hello: Hello, now: float) -> Node:
        known = self._nodes.get(hello.name)
        if known is None:
            return Node(_view(hello, uuid.uuid4().hex, now), "", secrets.token_hex(32))
        same_machine = known.view.capabilities.machine_id == hello.capabilities.machine_id
        if self.online(hello.name) or not same_machine:
            raise Refused(
                f"There is a node named {hello.name} already.",
                "Give this one another --name, or have the other one forgotten.",
            )
        return replace(known, view=_view(hello, known.view.id, now, known.view))


def require_understood(hello: Hello) -> None:
    if hello.protocol != PROTOCOL:
        raise Incompatible(
            f"Node {hello.name} speaks protocol {hello.protocol} (Sojourn {hello.version}), "
            f"this controller {PROTOCOL} (Sojourn {__version__}).",
            "Install the same version of Sojourn on both.",
        )


def _traffic(hello: Hello, certified: bool, is_local: bool) -> Traffic:
    if certified:
        return "sealed"
    return "local" if is_local and (hello.address is None or is_loopback(hello.address)) else "open"


def _view(hello: Hello, identity: str, now: float, before: NodeView | None = None) -> NodeView:
    return NodeView(
        id=identity,
        name=hello.name,
        status=NodeStatus.OFFLINE,
        labels=hello.labels,
        capacity=hello.capacity,
        capabilities=hello.capabilities,
        load=Load(),
        draining=before.draining if before else "",
        address=hello.address,
        seen_at=now,
    )
