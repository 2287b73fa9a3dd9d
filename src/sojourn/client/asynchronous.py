"""The same client for asyncio."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from sojourn.client import calls
from sojourn.client.blocking import elsewhere, may_be_proxied, proxy_for
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


class AsyncClient:
    """Each method as in `Client`."""

    def __init__(self, url: str, token: str, *, timeout_s: float | None = None) -> None:
        self.url, self._token, self._timeout_s = url.rstrip("/"), token, timeout_s
        self._http: httpx.AsyncClient | None = None
        """When it was first used."""

    def _open(self) -> httpx.AsyncClient:
        """The first time ever it may have to ask who is to be trusted, and so to wait."""
        import httpx

        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        patience = httpx.Timeout(self._timeout_s, connect=10.0)
        trusted = trust_of(self.url, self._token) or True
        direct = httpx.AsyncHTTPTransport(verify=trusted, socket_options=NOTICE_DEATH)
        return httpx.AsyncClient(
            base_url=self.url,
            headers=headers,
            timeout=patience,
            verify=trusted,
            transport=None if may_be_proxied(self.url) else direct,
            trust_env=elsewhere(self.url),
        )

    async def version(self) -> Version:
        return await self._do(calls.version())

    async def nodes(self) -> list[NodeView]:
        return await self._do(calls.nodes())

    async def forget_node(self, node: str) -> None:
        await self._do(calls.forget_node(node))

    async def ways(self) -> list[Way]:
        return await self._do(calls.ways())

    async def images(self) -> list[ImageView]:
        return await self._do(calls.images())

    async def transfers(self) -> list[Transfer]:
        return await self._do(calls.transfers())

    async def pull_image(
        self, reference: str, nodes: Sequence[str] | None = None, own: Image | None = None
    ) -> list[Transfer]:
        return await self._do(calls.pull_image(reference, nodes, own))

    async def remove_image(self, reference: str, node: str | None = None) -> ImagesRemoved:
        return await self._do(calls.remove_image(reference, node))

    async def sessions(self, everything: bool = False) -> list[SessionView]:
        return await self._do(calls.sessions(everything))

    async def session(self, session: str) -> SessionView:
        return await self._do(calls.session(session))

    async def spec(self, session: str) -> SessionSpec:
        return await self._do(calls.spec(session))

    async def start(self, spec: SessionSpec) -> SessionView:
        return await self._do(calls.start(spec))

    async def stop(self, session: str) -> SessionView:
        return await self._do(calls.stop(session))

    async def move(
        self,
        session: str,
        to: str | Needs,
        strategy: Strategy | Literal["auto"] = "auto",
        dry_run: bool = False,
        wait: Until = "thawed",
        carrier: Carrier | Literal["auto"] = "auto",
        may_lose: Sequence[str] = (),
    ) -> Moved:
        return await self._do(calls.move(session, to, strategy, dry_run, wait, carrier, may_lose))

    async def moves(self) -> list[MoveView]:
        return await self._do(calls.moves())

    async def move_view(self, move: str) -> MoveView:
        return await self._do(calls.one_move(move))

    async def cancel_move(self, move: str) -> MoveView:
        return await self._do(calls.cancel_move(move))

    async def suspend(self, session: str, force: bool = False, wait: UntilDone = "done") -> SessionView:
        return await self._do(calls.suspend(session, wait, force))

    async def resume(self, session: str, to: str | Needs | None = None, wait: Until = "thawed") -> SessionView:
        return await self._do(calls.resume(session, to, wait))

    async def checkpoint(self, session: str, name: str = "", wait: UntilDone = "done") -> CheckpointView | SaveView:
        return await self._do(calls.checkpoint(session, name, wait))

    async def fork(
        self,
        session: str,
        to: str | Needs | None = None,
        count: int = 1,
        name: str = "",
        checkpoint: str | None = None,
        wait: Until = "thawed",
    ) -> list[SessionView]:
        return await self._do(calls.fork(session, to, count, name, checkpoint, wait))

    async def restore(
        self, session: str, checkpoint: str, to: str | Needs | None = None, wait: Until = "thawed"
    ) -> SessionView:
        return await self._do(calls.restore(session, checkpoint, to, wait))

    async def checkpoints(self, session: str | None = None) -> list[CheckpointView]:
        return await self._do(calls.checkpoints(session))

    async def checkpoint_view(self, checkpoint: str) -> CheckpointView:
        return await self._do(calls.checkpoint_view(checkpoint))

    async def drop_checkpoint(self, checkpoint: str) -> None:
        await self._do(calls.drop_checkpoint(checkpoint))

    async def verify(self, checkpoint: str, deep: bool = True) -> Verified:
        return await self._do(calls.verify(checkpoint, deep))

    async def gc(self, dry_run: bool = False) -> Collected:
        return await self._do(calls.gc(dry_run))

    async def drain(
        self, node: str, dry_run: bool = False, deadline_s: float | None = None, reason: str = ""
    ) -> tuple[Decided, ...]:
        drained = await self._do(calls.drain(node, dry_run, deadline_s, reason))
        return drained.decisions

    async def undrain(self, node: str) -> None:
        await self._do(calls.undrain(node))

    async def activity(self, session: str, executing: bool, at: float) -> None:
        await self._do(calls.activity(session, executing, at))

    async def policies(self) -> Policies:
        return await self._do(calls.policies())

    async def log(self, session: str) -> str:
        return await self._do(calls.log(session))

    async def tokens(self) -> list[TokenRow]:
        return await self._do(calls.tokens())

    async def create_token(self, kind: TokenKind, name: str, **options: Any) -> TokenShown:
        return await self._do(calls.create_token(kind, name, options))

    async def revoke_token(self, identity: str) -> None:
        await self._do(calls.revoke_token(identity))

    async def watch(self, session: str, anchor: str | None = None) -> AsyncIterator[Watched]:
        from websockets.asyncio.client import connect
        from websockets.exceptions import WebSocketException

        headers = {"Authorization": f"Bearer {self._token}"}
        sealed = await self.sealing()
        try:
            async with connect(
                websocket_url(self.url),
                additional_headers=headers,
                compression=None,
                proxy=proxy_for(self.url),
                **sealed,
            ) as socket:
                await socket.send(json.dumps(watch_request(session, anchor)))
                async for text in socket:
                    yield read_watched(text)
        except (OSError, WebSocketException) as down:
            raise await asyncio.to_thread(no_word, self.url, pin_of(self._token), down) from down

    async def sealing(self) -> dict[str, Any]:
        """How a WebSocket to this controller is sealed, as `websockets` wants it. Raises Unauthorized, Unreachable."""
        return sealing(await asyncio.to_thread(trust_of, self.url, self._token))

    def go_to(self, url: str, token: str = "") -> None:
        """The controller has moved: from now on it is asked there. `token`: the same one, if it names an authority
        now."""
        url, token = url.rstrip("/"), token or self._token
        if (url.partition(":")[0], token) != (self.url.partition(":")[0], self._token):
            self._http = None  # another one is to be trusted
        self.url, self._token = url, token
        if self._http:
            self._http.base_url = self.url

    async def close(self) -> None:
        if self._http:
            await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _do(self, call: calls.Call[T]) -> T:
        import httpx

        if self._http is None:
            opened = await asyncio.to_thread(self._open)
            self._http = self._http or opened  # somebody else may have been quicker
        try:
            answer = await self._http.request(call.method, call.path, json=call.body)
            body = answer.json() if answer.content else None
        except (httpx.HTTPError, ValueError) as down:
            raise await asyncio.to_thread(no_word, self.url, pin_of(self._token), down) from down
        return calls.read(call, answer.status_code, body)
