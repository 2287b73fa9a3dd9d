"""The HTTP API and the watchers' WebSocket: thin; what they do stands in `controller.py` and `moves.py`."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, WebSocket
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.websockets import WebSocketDisconnect

from sojourn import __version__
from sojourn.client.words import (
    LogText,
    Moved,
    MoveRequest,
    StartRequest,
    TokenRequest,
    TokenRow,
    TokenShown,
    Version,
)
from sojourn.controller.agents import attend, bearer
from sojourn.controller.controller import Controller
from sojourn.controller.tokens import Person, row
from sojourn.controller.watching import Watcher
from sojourn.errors import Invalid, Refused, SojournError, Unauthorized
from sojourn.model import MoveView, NodeView, SessionView
from sojourn.wire import PROTOCOL

router = APIRouter(prefix="/api")


def controller_of(request: Request) -> Controller:
    found: Controller = request.app.state.controller
    return found


_scheme = HTTPBearer(auto_error=False, description="An api token, as `sojourn token create` prints it.")


def person_of(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_scheme)]
) -> Person:
    controller = controller_of(request)
    if credentials is None:
        raise Unauthorized("No token was shown.", "Send `Authorization: Bearer TOKEN`; `sojourn login URL` keeps one.")
    return controller.gate.person(credentials.credentials, controller.clock())


At = Annotated[Controller, Depends(controller_of)]
By = Annotated[Person, Depends(person_of)]

# ── nodes ────────────────────────────────────────────────────────────────────────────────────────────────────


@router.get("/version", tags=["controller"])
async def version() -> Version:
    """Which Sojourn this is. Needs no token."""
    return Version(version=__version__, protocol=PROTOCOL)


@router.get("/nodes", tags=["nodes"])
async def nodes(controller: At, person: By) -> list[NodeView]:
    """Every node that has joined, whether its agent can be reached now or not."""
    return controller.roster.views()


@router.delete("/nodes/{node}", tags=["nodes"])
async def forget_node(node: str, controller: At, person: By) -> None:
    """Forget a machine that won't come back. Its token is worthless from now on, and what ran there is lost."""
    person.require_admin("have nodes forgotten")
    controller.forget_node(node)


# ── sessions ─────────────────────────────────────────────────────────────────────────────────────────────────


@router.get("/sessions", tags=["sessions"])
async def sessions(controller: At, person: By, all: bool = False) -> list[SessionView]:  # noqa: A002
    """Your sessions that have not ended; with `all=1`, also the ended ones that are still remembered."""
    return [session.view() for session in controller.sessions(person, all)]


@router.get("/sessions/{session}", tags=["sessions"])
async def one_session(session: str, controller: At, person: By) -> SessionView:
    """One session, by its id, a unique beginning of the id (four characters or more), or its name."""
    return controller.find(session, person).view()


@router.post("/sessions", tags=["sessions"], status_code=201)
async def start_session(asked: StartRequest, controller: At, person: By) -> SessionView:
    """Start a session on the node that fits best. The answer comes before it runs: watch it, or ask again."""
    return controller.start_session(asked.spec, person).view()


@router.delete("/sessions/{session}", tags=["sessions"])
async def stop_session(session: str, controller: At, person: By) -> SessionView:
    """Stop a session in whatever state it is, also in the middle of a move. Done twice it is done once."""
    return controller.stop_session(controller.find(session, person)).view()


@router.get("/sessions/{session}/log", tags=["sessions"])
async def log(session: str, controller: At, person: By) -> LogText:
    """The tail of what the session's program wrote to stdout and stderr, and its rider's own notes."""
    found = controller.find(session, person)
    if found.ended:
        raise Refused(f"Session {session} has ended ({found.status}), and its log with it.", found.reason)
    return LogText(text=await controller.questions.log(found.node, found.id))


@router.post("/sessions/{session}/move", tags=["moves"])
async def move(session: str, asked: MoveRequest, controller: At, person: By) -> Moved:
    """Bring a running session to another node while its clients stay connected.

    Everything that can be refused is refused before the session is frozen. With `dry_run` only the plan comes back:
    does it fit, what is reset, how long would it take. `wait` says when to answer: when the move is *accepted*, when
    the session has *thawed* at the target, or when it is *filled*, that is, when its last page has arrived. If the
    session had to stay where it was, the answer is the error `move_failed`.
    """
    return await controller.moves.move(controller.find(session, person), asked)


# ── moves ────────────────────────────────────────────────────────────────────────────────────────────────────


@router.get("/moves", tags=["moves"])
async def moves(controller: At, person: By) -> list[MoveView]:
    """The last moves of your sessions, the newest first, and what each cost."""
    mine = {session.id for session in controller.sessions(person, everything=True)}
    return [move.view(session) for session, move in controller.reconciler.moves() if session in mine]


@router.get("/moves/{move}", tags=["moves"])
async def one_move(move: str, controller: At, person: By) -> MoveView:
    """One move, with its progress."""
    session, found = controller.reconciler.move(move)
    controller.find(session, person)
    return found.view(session)


@router.delete("/moves/{move}", tags=["moves"])
async def cancel_move(move: str, controller: At, person: By) -> MoveView:
    """Call a move off. Possible until the source has let go of the session; `busy` afterwards."""
    session, _ = controller.reconciler.move(move)
    controller.find(session, person)
    return controller.moves.cancel(move).view(session)


# ── tokens ───────────────────────────────────────────────────────────────────────────────────────────────────


@router.post("/tokens", tags=["tokens"], status_code=201)
async def create_token(asked: TokenRequest, controller: At, person: By) -> TokenShown:
    """Make a token: *join* for agents, *api* for people. Its secret is in this answer and nowhere else."""
    person.require_admin("make tokens")
    token, secret = controller.gate.create(asked, controller.clock())
    return {**row(token), "token": secret}


@router.get("/tokens", tags=["tokens"])
async def tokens(controller: At, person: By) -> list[TokenRow]:
    """The tokens there are, without their secrets."""
    person.require_admin("see tokens")
    return [row(token) for token in controller.gate.all()]


@router.delete("/tokens/{token}", tags=["tokens"])
async def revoke_token(token: str, controller: At, person: By) -> None:
    """Make a token worthless. Nodes that joined with it keep their own."""
    person.require_admin("revoke tokens")
    controller.gate.revoke(token)


# ── WebSockets ───────────────────────────────────────────────────────────────────────────────────────────────


@router.websocket("/agent")
async def agent(socket: WebSocket) -> None:
    """Agents: hello, reports and heartbeats in, instructions out (see `sojourn.wire`)."""
    await attend(socket.app.state.controller, socket)


@router.websocket("/watch")
async def watch(socket: WebSocket) -> None:
    """Fronts and progress bars send `{"watch": session, "anchor": id or null}` or `{"unwatch": session}`."""
    controller: Controller = socket.app.state.controller
    try:
        person = controller.gate.person(bearer(socket.headers.get("authorization")), controller.clock())
    except Unauthorized:
        await socket.close(4401)
        return
    await socket.accept()
    watcher = Watcher()
    telling = asyncio.create_task(_tell(controller, socket, watcher))
    try:
        while True:
            await _hear(controller, socket, watcher, person)
    except WebSocketDisconnect:
        pass
    finally:
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)
        controller.watchers.leave(watcher)


async def _hear(controller: Controller, socket: WebSocket, watcher: Watcher, person: Person) -> None:
    text = await socket.receive_text()
    try:
        asked = _asked(text)
        name = asked.get("watch", asked.get("unwatch"))
        session = controller.find(str(name), person)
    except SojournError as refused:
        await socket.send_json({"error": refused.to_wire(), "asked": text})
        return
    if "watch" in asked:
        controller.watchers.watch(watcher, session, asked.get("anchor"))
    else:
        controller.watchers.unwatch(watcher, session.id)


def _asked(text: str) -> dict[str, Any]:
    try:
        asked = json.loads(text)
    except ValueError:
        asked = None
    if not isinstance(asked, dict) or not {"watch", "unwatch"} & asked.keys():
        raise Invalid("That is no wish to watch.", 'Send {"watch": SESSION, "anchor": ID or null}.')
    return asked


async def _tell(controller: Controller, socket: WebSocket, watcher: Watcher) -> None:
    while True:
        session = await watcher.next()
        if session.id in watcher.wanted:
            sight = controller.watchers.sight(session, watcher.wanted[session.id])
            await socket.send_text(sight.model_dump_json())
