"""The HTTP API and the watchers' WebSocket: thin; what they do stands in `controller.py` and `moves.py`."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, WebSocket
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.responses import PlainTextResponse
from starlette.websockets import WebSocketDisconnect

from sojourn import __version__
from sojourn.client.words import (
    Activity,
    CheckpointRequest,
    Collected,
    Drained,
    DrainRequest,
    ForkRequest,
    GcRequest,
    ImagesRemoved,
    ImageView,
    LogText,
    Moved,
    MoveRequest,
    Policies,
    PullRequest,
    RestoreRequest,
    ResumeRequest,
    StartRequest,
    SuspendRequest,
    TokenRequest,
    TokenRow,
    TokenShown,
    Transfer,
    Verified,
    VerifyRequest,
    Version,
)
from sojourn.controller.agents import attend, bearer
from sojourn.controller.controller import Controller
from sojourn.controller.policing import decided
from sojourn.controller.tokens import Person, row
from sojourn.controller.watching import Watcher
from sojourn.errors import Invalid, Refused, SojournError, Unauthorized, Unknown
from sojourn.model import CheckpointView, MoveView, NodeView, SaveView, SessionSpec, SessionView, Way
from sojourn.wire import PROTOCOL

router = APIRouter(prefix="/api")


# FastAPI would run what is not `async` in a thread, and the database is the event loop's alone.
async def controller_of(request: Request) -> Controller:
    found: Controller = request.app.state.controller
    return found


_scheme = HTTPBearer(auto_error=False, description="An api token, as `sojourn token create` prints it.")


async def person_of(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_scheme)]
) -> Person:
    controller = await controller_of(request)
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


@router.get("/authority", tags=["controller"], response_class=PlainTextResponse)
async def authority(controller: At) -> str:
    """The certificate (PEM) of the authority that vouches for this controller and its nodes; its fingerprint is what
    stands behind the dot of each token. Needs no token."""
    if controller.authority is None:
        raise Unknown(
            "This controller speaks plain: it has no authority.",
            "Without --plain it has, unless it listens on this machine alone.",
        )
    return controller.authority.certificate


@router.get("/nodes", tags=["nodes"])
async def nodes(controller: At, person: By) -> list[NodeView]:
    """Every node that has joined, whether its agent can be reached now or not."""
    return [controller.shown(node, person) for node in controller.roster.views()]


@router.get("/ways", tags=["nodes"])
async def ways(controller: At, person: By) -> list[Way]:
    """From each node to each other one: whether sessions can go that way, and everything that keeps them from it."""
    return controller.ways()


@router.delete("/nodes/{node}", tags=["nodes"])
async def forget_node(node: str, controller: At, person: By) -> None:
    """Forget a machine that won't come back. Its token is worthless from now on, and what ran there is lost."""
    person.require_admin("have nodes forgotten")
    controller.forget_node(node)


@router.post("/nodes/{node}/drain", tags=["policies"])
async def drain(node: str, asked: DrainRequest, controller: At, person: By) -> Drained:
    """Bring nothing to a node any more, and its sessions away: to other nodes where there is room, else into the store.
    The answer says what is done with each, or with `dry_run` would be."""
    person.require_admin("drain nodes")
    decisions = controller.policing.drain(
        node, by=person.name, deadline_s=asked.deadline_s, dry_run=asked.dry_run, reason=asked.reason
    )
    return Drained(decisions=tuple(map(decided, decisions)))


@router.delete("/nodes/{node}/drain", tags=["policies"])
async def undrain(node: str, controller: At, person: By) -> None:
    """Open a node again. What has left it does not come back by itself."""
    person.require_admin("drain nodes")
    controller.policing.undrain(node)


@router.get("/policies", tags=["policies"])
async def policies(controller: At, person: By) -> Policies:
    """The rules in force, what each would do now, and what was done lately."""
    person.require_admin("see what policies do with everybody's sessions")
    return controller.policing.state()


# ── images ───────────────────────────────────────────────────────────────────────────────────────────────────


@router.get("/images", tags=["images"])
async def images(controller: At, person: By) -> list[ImageView]:
    """The images of the nodes that are online, and which of your sessions are from each."""
    return await controller.images.overview(controller.sessions(person, everything=False))


@router.get("/images/transfers", tags=["images"])
async def transfers(controller: At, person: By) -> list[Transfer]:
    """The images that are on their way to nodes, and how those of the last minutes ended."""
    return controller.images.transfers()


@router.post("/images/pull", tags=["images"])
async def pull_image(asked: PullRequest, controller: At, person: By) -> list[Transfer]:
    """Begin to bring an image to nodes: from its registry, from a node that has it, or from whoever asks."""
    return await controller.images.pull(asked.reference, asked.nodes, asked.own)


@router.delete("/images/{reference:path}", tags=["images"])
async def remove_image(reference: str, controller: At, person: By, node: str | None = None) -> ImagesRemoved:
    """Remove an image from a node, or from all; a node where a session runs from it keeps it, and says so."""
    person.require_admin("remove images")
    return ImagesRemoved(nodes=await controller.images.remove(reference, (node,) if node else None))


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
    return (await controller.start_session(asked.spec, person)).view()


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
    if found.asleep:
        raise Refused(f"Session {session} is {found.status}, and its log with it.", "`sojourn resume` wakes it.")
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


@router.get("/sessions/{session}/spec", tags=["sessions"])
async def spec(session: str, controller: At, person: By) -> SessionSpec:
    """What a session was started as, its private files too: for the front that is to host its kernel."""
    return controller.find(session, person).spec


# ── sleep ────────────────────────────────────────────────────────────────────────────────────────────────────


@router.post("/sessions/{session}/suspend", tags=["sleep"])
async def suspend(session: str, asked: SuspendRequest, controller: At, person: By) -> SessionView:
    """Save a running session's state and remove it from its node; its clients stay attached.

    Refused in the middle of a cell, unless by `force`: that cell then goes on at the wake. `wait` says when to answer:
    when the wish is *accepted*, or when it is *done*. If the session had to stay awake, the answer is the error
    `save_failed`.
    """
    return (await controller.sleep.suspend(controller.find(session, person), asked)).view()


@router.post("/sessions/{session}/resume", tags=["sleep"])
async def resume(session: str, asked: ResumeRequest, controller: At, person: By) -> SessionView:
    """Wake a session from the state it sleeps in, at a place (`to`) or where it was. One that is awake stays so; asked
    twice, it is woken once. If it sleeps on, the answer is the error `wake_failed`."""
    return (await controller.sleep.resume(controller.find(session, person), asked)).view()


@router.post("/sessions/{session}/checkpoint", tags=["sleep"])
async def checkpoint(session: str, asked: CheckpointRequest, controller: At, person: By) -> CheckpointView | SaveView:
    """Save a running session's state; it stands still for a moment, then goes on. It is kept until it is deleted. The
    answer is the checkpoint if it is waited for, else the save that has begun."""
    after = await controller.sleep.checkpoint(controller.find(session, person), asked)
    assert after.save
    found = controller.checkpoints.get(after.save.id)
    return found.view() if found else after.save.view(after.id)


@router.post("/sessions/{session}/fork", tags=["sleep"])
async def fork(session: str, asked: ForkRequest, controller: At, person: By) -> list[SessionView]:
    """Begin new sessions (`count`) in the state of this one, or of a checkpoint of its. Each has files, addresses and
    clients of its own; what was in memory, random state and tokens too, is the same in all."""
    forks = await controller.sleep.fork(controller.find(session, person), asked)
    return [one.view() for one in forks]


@router.post("/sessions/{session}/restore", tags=["sleep"])
async def restore(session: str, asked: RestoreRequest, controller: At, person: By) -> SessionView:
    """Take a session back to a checkpoint of its. What it did since is given up: the life it leads now is ended first,
    its clients' streams are reset, and requests without an answer yet get an error."""
    return (await controller.sleep.restore(controller.find(session, person), asked)).view()


@router.post("/sessions/{session}/activity", tags=["sleep"])
async def activity(session: str, said: Activity, controller: At, person: By) -> None:
    """For fronts: whether the kernel executes, and when a person last did something. Policies go by it."""
    controller.activities.heard(controller.find(session, person).id, said)


@router.get("/checkpoints", tags=["checkpoints"])
async def checkpoints(controller: At, person: By, session: str | None = None) -> list[CheckpointView]:
    """Your checkpoints, the newest first; with `session`, those that it can be taken back to."""
    if session is not None:
        return [one.view() for one in controller.checkpoints.of_session(controller.find(session, person))]
    return [one.view() for one in controller.checkpoints.of(person)]


@router.get("/checkpoints/{checkpoint}", tags=["checkpoints"])
async def one_checkpoint(checkpoint: str, controller: At, person: By) -> CheckpointView:
    """One checkpoint, by its id, a unique beginning of the id (four characters or more), or its name."""
    return controller.checkpoints.find(checkpoint, person).view()


@router.delete("/checkpoints/{checkpoint}", tags=["checkpoints"])
async def drop_checkpoint(checkpoint: str, controller: At, person: By) -> None:
    """Delete a checkpoint; `busy` while a session sleeps in it. What no other uses of it goes with the next `gc`."""
    await controller.checkpoints.drop(controller.checkpoints.find(checkpoint, person))


@router.post("/checkpoints/{checkpoint}/verify", tags=["checkpoints"])
async def verify(checkpoint: str, asked: VerifyRequest, controller: At, person: By) -> Verified:
    """Look for every chunk of a checkpoint; `deep` reads each and checks its seal. What is wrong is remembered, and no
    session wakes from it any more."""
    return await controller.checkpoints.verify(controller.checkpoints.find(checkpoint, person), asked.deep)


@router.post("/gc", tags=["checkpoints"])
async def gc(asked: GcRequest, controller: At, person: By) -> Collected:
    """Remove from the store what no checkpoint uses; done every hour by itself. Safe while checkpoints are written."""
    person.require_admin("clean the store")
    return await controller.checkpoints.gc(asked.dry_run)


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
    return {**row(token), "token": controller.authority.pinned(secret) if controller.authority else secret}


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
