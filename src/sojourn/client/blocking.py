"""The client for ordinary programs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar
from urllib.request import getproxies

from sojourn.client import calls
from sojourn.client.trust import no_word, sealing, trust_of
from sojourn.client.watching import read_watched, watch_request, websocket_url
from sojourn.client.words import (
    Collected,
    Decided,
    ImagesRemoved,
    ImageView,
    Moved,
    Policies,
    TokenKind,
    TokenRow,
    TokenShown,
    Transfer,
    Until,
    UntilDone,
    Verified,
    Version,
    Watched,
)
from sojourn.model import (
    Carrier,
    CheckpointView,
    Image,
    MoveView,
    Needs,
    NodeView,
    SaveView,
    SessionSpec,
    SessionView,
    Strategy,
    Way,
)
from sojourn.transport.keepalive import NOTICE_DEATH
from sojourn.transport.tls import pin_of

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")


class Client:
    """Talks to a controller over HTTP. Raises its errors (see `sojourn.errors`), and Unreachable when it is down.

    A session is named by its id, a unique beginning of the id, or its name.
    """

    def __init__(self, url: str, token: str, *, timeout_s: float | None = None) -> None:
        self.url, self._token, self._timeout_s = url.rstrip("/"), token, timeout_s
        self._http: httpx.Client | None = None
        """When it was first used. No cached_property: its lock, before Python 3.12, is one for all clients, and stays
        taken for ever in a process that is forked while another thread has it."""

    def _open(self) -> httpx.Client:
        """Raises Unauthorized, and Unreachable, when it is not known yet whom to trust, and can't be found out."""
        import httpx  # a tenth of a second that commands without a controller need not spend

        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        # A move answers when it has thawed, however long that takes: connecting shows whether anybody is there, and the
        # system notices when nobody is any more, as after a laptop has slept.
        patience = httpx.Timeout(self._timeout_s, connect=10.0)
        trusted = trust_of(self.url, self._token) or True
        direct = httpx.HTTPTransport(verify=trusted, socket_options=NOTICE_DEATH)
        return httpx.Client(
            base_url=self.url,
            headers=headers,
            timeout=patience,
            verify=trusted,
            transport=None if may_be_proxied(self.url) else direct,
            trust_env=elsewhere(self.url),
        )

    def version(self) -> Version:
        return self._do(calls.version())

    def nodes(self) -> list[NodeView]:
        return self._do(calls.nodes())

    def forget_node(self, node: str) -> None:
        """Of a machine that won't come back: what runs there is lost. Raises Busy while it is online."""
        self._do(calls.forget_node(node))

    def ways(self) -> list[Way]:
        """From each node to each other one: can sessions go, and if not, everything that keeps them from it."""
        return self._do(calls.ways())

    def images(self) -> list[ImageView]:
        """Those of the nodes that are online."""
        return self._do(calls.images())

    def transfers(self) -> list[Transfer]:
        """The images on their way to nodes, and how those of the last minutes ended."""
        return self._do(calls.transfers())

    def pull_image(
        self, reference: str, nodes: Sequence[str] | None = None, own: Image | None = None
    ) -> list[Transfer]:
        """Begin to bring an image to nodes (None: all that take sessions from images); `transfers` says how far."""
        return self._do(calls.pull_image(reference, nodes, own))

    def remove_image(self, reference: str, node: str | None = None) -> ImagesRemoved:
        """From a node, or from all; says of each why it keeps it, or None."""
        return self._do(calls.remove_image(reference, node))

    def sessions(self, everything: bool = False) -> list[SessionView]:
        """Those that have not ended; with `everything`, the ended ones that are still remembered too."""
        return self._do(calls.sessions(everything))

    def session(self, session: str) -> SessionView:
        return self._do(calls.session(session))

    def spec(self, session: str) -> SessionSpec:
        """What it was started as, with its private files."""
        return self._do(calls.spec(session))

    def start(self, spec: SessionSpec) -> SessionView:
        """Returns as soon as a node was chosen and told; `watch` or `session` say when it runs."""
        return self._do(calls.start(spec))

    def stop(self, session: str) -> SessionView:
        return self._do(calls.stop(session))

    def move(
        self,
        session: str,
        to: str | Needs,
        strategy: Strategy | Literal["auto"] = "auto",
        dry_run: bool = False,
        wait: Until = "thawed",
        carrier: Carrier | Literal["auto"] = "auto",
        may_lose: Sequence[str] = (),
    ) -> Moved:
        """Bring a session to a place ("there", "gpu", "mem>=64G"). Raises MoveFailed when it had to stay.

        `carrier`: "criu", "objects" (a new kernel with the Python names of this one), or "auto": CRIU where it can.
        `may_lose`: of a move by objects, names that may stay behind; "*": any that can't travel. Raises Incompatible,
        before anything is touched, when others would.
        """
        return self._do(calls.move(session, to, strategy, dry_run, wait, carrier, may_lose))

    def moves(self) -> list[MoveView]:
        """The newest first."""
        return self._do(calls.moves())

    def move_view(self, move: str) -> MoveView:
        return self._do(calls.one_move(move))

    def cancel_move(self, move: str) -> MoveView:
        """Before the session has left; raises Busy afterwards."""
        return self._do(calls.cancel_move(move))

    def suspend(self, session: str, force: bool = False, wait: UntilDone = "done") -> SessionView:
        """Save a session's state, then have it removed from its node; clients stay attached, and their next request
        wakes it. Answered when the state is safe, a moment before the node is done.

        Raises Busy in the middle of a cell, unless `force`, and SaveFailed when it had to stay awake.
        """
        return self._do(calls.suspend(session, wait, force))

    def resume(self, session: str, to: str | Needs | None = None, wait: Until = "thawed") -> SessionView:
        """Wake a session; one that is awake stays so. Raises WakeFailed when it sleeps on."""
        return self._do(calls.resume(session, to, wait))

    def checkpoint(self, session: str, name: str = "", wait: UntilDone = "done") -> CheckpointView | SaveView:
        """Save a session's state; it goes on. A SaveView if the answer is not waited for."""
        return self._do(calls.checkpoint(session, name, wait))

    def fork(
        self,
        session: str,
        to: str | Needs | None = None,
        count: int = 1,
        name: str = "",
        checkpoint: str | None = None,
        wait: Until = "thawed",
    ) -> list[SessionView]:
        """New sessions that begin in this one's state, or in that of a checkpoint of its."""
        return self._do(calls.fork(session, to, count, name, checkpoint, wait))

    def restore(
        self, session: str, checkpoint: str, to: str | Needs | None = None, wait: Until = "thawed"
    ) -> SessionView:
        """Take a session back to a checkpoint of its; what it did since is gone."""
        return self._do(calls.restore(session, checkpoint, to, wait))

    def checkpoints(self, session: str | None = None) -> list[CheckpointView]:
        """The newest first; of one session, or of all that are yours."""
        return self._do(calls.checkpoints(session))

    def checkpoint_view(self, checkpoint: str) -> CheckpointView:
        return self._do(calls.checkpoint_view(checkpoint))

    def drop_checkpoint(self, checkpoint: str) -> None:
        """Raises Busy while a session needs it."""
        self._do(calls.drop_checkpoint(checkpoint))

    def verify(self, checkpoint: str, deep: bool = True) -> Verified:
        """What is missing or damaged of a checkpoint."""
        return self._do(calls.verify(checkpoint, deep))

    def gc(self, dry_run: bool = False) -> Collected:
        """Remove from the store what no checkpoint uses."""
        return self._do(calls.gc(dry_run))

    def drain(
        self, node: str, dry_run: bool = False, deadline_s: float | None = None, reason: str = ""
    ) -> tuple[Decided, ...]:
        """Bring nothing to a node any more, and everything away from it; what is done with each session."""
        return self._do(calls.drain(node, dry_run, deadline_s, reason)).decisions

    def undrain(self, node: str) -> None:
        self._do(calls.undrain(node))

    def activity(self, session: str, executing: bool, at: float) -> None:
        """For fronts: whether the kernel executes, and when a person last did something (seconds since the epoch)."""
        self._do(calls.activity(session, executing, at))

    def policies(self) -> Policies:
        """The rules, what they would do now, and what they did last."""
        return self._do(calls.policies())

    def log(self, session: str) -> str:
        """The tail of what its program wrote to stdout and stderr."""
        return self._do(calls.log(session))

    def tokens(self) -> list[TokenRow]:
        return self._do(calls.tokens())

    def create_token(self, kind: TokenKind, name: str, **options: Any) -> TokenShown:
        """`options`: admin, expires_in_seconds, uses (see TokenRequest)."""
        return self._do(calls.create_token(kind, name, options))

    def revoke_token(self, identity: str) -> None:
        self._do(calls.revoke_token(identity))

    def watch(self, session: str, anchor: str | None = None) -> Iterator[Watched]:
        """The session now and after each change, until the caller stops. Places are told to anchors only."""
        from websockets.exceptions import WebSocketException
        from websockets.sync.client import connect

        headers = {"Authorization": f"Bearer {self._token}"}
        try:
            with connect(
                websocket_url(self.url),
                additional_headers=headers,
                compression=None,
                proxy=proxy_for(self.url),
                **sealing(trust_of(self.url, self._token)),
            ) as socket:
                socket.send(json.dumps(watch_request(session, anchor)))
                for text in socket:
                    yield read_watched(text)
        except (OSError, WebSocketException) as down:
            raise no_word(self.url, pin_of(self._token), down) from down

    def close(self) -> None:
        if self._http:
            self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def _do(self, call: calls.Call[T]) -> T:
        import httpx

        self._http = http = self._http or self._open()
        try:
            answer = http.request(call.method, call.path, json=call.body)
            body = answer.json() if answer.content else None
        except (httpx.HTTPError, ValueError) as down:
            raise no_word(self.url, pin_of(self._token), down) from down
        return calls.read(call, answer.status_code, body)


def proxy_for(url: str) -> Literal[True] | None:
    """True: as the environment says."""
    return True if elsewhere(url) else None


def may_be_proxied(url: str) -> bool:
    """Then httpx has to choose the way itself."""
    return elsewhere(url) and bool(getproxies())


def elsewhere(url: str) -> bool:
    """Whether a proxy from the environment may be meant for this address: never for this machine's own."""
    return not any(f"//{host}" in url for host in ("127.", "localhost", "[::1]"))
