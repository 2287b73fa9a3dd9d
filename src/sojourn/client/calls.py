"""Each call of the controller's API as a value: what is asked and how the answer is read. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import quote

from pydantic import TypeAdapter, ValidationError

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
    TokenKind,
    TokenRow,
    TokenShown,
    Transfer,
    Until,
    UntilDone,
    Verified,
    VerifyRequest,
    Version,
)
from sojourn.errors import Invalid, SojournError, Unreachable, from_wire
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
from sojourn.model.base import Word

T = TypeVar("T")
Asked = TypeVar("Asked", bound=Word)


@dataclass(frozen=True)
class Call(Generic[T]):
    method: str
    path: str
    read: Callable[[Any], T]
    body: dict[str, Any] | None = None


def version() -> Call[Version]:
    return Call("GET", "/api/version", Version.model_validate)


def nodes() -> Call[list[NodeView]]:
    return Call("GET", "/api/nodes", TypeAdapter(list[NodeView]).validate_python)


def forget_node(node: str) -> Call[None]:
    return Call("DELETE", f"/api/nodes/{quote(node, safe='')}", lambda _: None)


def ways() -> Call[list[Way]]:
    return Call("GET", "/api/ways", TypeAdapter(list[Way]).validate_python)


def images() -> Call[list[ImageView]]:
    return Call("GET", "/api/images", TypeAdapter(list[ImageView]).validate_python)


def transfers() -> Call[list[Transfer]]:
    return Call("GET", "/api/images/transfers", TypeAdapter(list[Transfer]).validate_python)


def pull_image(reference: str, nodes: Sequence[str] | None, own: Image | None) -> Call[list[Transfer]]:
    wanted = _asked(PullRequest, reference=reference, nodes=nodes, own=own)
    return _post("/api/images/pull", wanted, TypeAdapter(list[Transfer]).validate_python)


def remove_image(reference: str, node: str | None) -> Call[ImagesRemoved]:
    where = f"?node={quote(node, safe='')}" if node else ""
    return Call("DELETE", f"/api/images/{quote(reference, safe='')}{where}", ImagesRemoved.model_validate)


def sessions(everything: bool) -> Call[list[SessionView]]:
    path = "/api/sessions?all=1" if everything else "/api/sessions"
    return Call("GET", path, TypeAdapter(list[SessionView]).validate_python)


def session(name: str) -> Call[SessionView]:
    return Call("GET", _of(name), SessionView.model_validate)


def spec(name: str) -> Call[SessionSpec]:
    return Call("GET", f"{_of(name)}/spec", SessionSpec.model_validate)


def start(spec: SessionSpec) -> Call[SessionView]:
    return Call("POST", "/api/sessions", SessionView.model_validate, StartRequest(spec=spec).model_dump(mode="json"))


def stop(name: str) -> Call[SessionView]:
    return Call("DELETE", _of(name), SessionView.model_validate)


def move(
    name: str,
    to: str | Needs,
    strategy: Strategy | Literal["auto"],
    dry_run: bool,
    wait: Until,
    carrier: Carrier | Literal["auto"],
    may_lose: Sequence[str],
) -> Call[Moved]:
    how = {"strategy": strategy, "carrier": carrier, "may_lose": tuple(may_lose)}
    wanted = _asked(MoveRequest, to=to, dry_run=dry_run, wait=wait, **how)
    return Call("POST", f"{_of(name)}/move", Moved.model_validate, wanted.model_dump(mode="json"))


def moves() -> Call[list[MoveView]]:
    return Call("GET", "/api/moves", TypeAdapter(list[MoveView]).validate_python)


def one_move(move: str) -> Call[MoveView]:
    return Call("GET", f"/api/moves/{quote(move, safe='')}", MoveView.model_validate)


def cancel_move(move: str) -> Call[MoveView]:
    return Call("DELETE", f"/api/moves/{quote(move, safe='')}", MoveView.model_validate)


def suspend(name: str, wait: UntilDone, force: bool) -> Call[SessionView]:
    return _post(f"{_of(name)}/suspend", _asked(SuspendRequest, wait=wait, force=force), SessionView.model_validate)


def resume(name: str, to: str | Needs | None, wait: Until) -> Call[SessionView]:
    return _post(f"{_of(name)}/resume", _asked(ResumeRequest, to=to, wait=wait), SessionView.model_validate)


def checkpoint(session: str, name: str, wait: UntilDone) -> Call[CheckpointView | SaveView]:
    read: TypeAdapter[CheckpointView | SaveView] = TypeAdapter(CheckpointView | SaveView)
    return _post(f"{_of(session)}/checkpoint", _asked(CheckpointRequest, name=name, wait=wait), read.validate_python)


def fork(
    session: str, to: str | Needs | None, count: int, name: str, checkpoint: str | None, wait: Until
) -> Call[list[SessionView]]:
    wanted = _asked(ForkRequest, to=to, count=count, name=name, checkpoint=checkpoint, wait=wait)
    return _post(f"{_of(session)}/fork", wanted, TypeAdapter(list[SessionView]).validate_python)


def restore(session: str, checkpoint: str, to: str | Needs | None, wait: Until) -> Call[SessionView]:
    wanted = _asked(RestoreRequest, checkpoint=checkpoint, to=to, wait=wait)
    return _post(f"{_of(session)}/restore", wanted, SessionView.model_validate)


def activity(session: str, executing: bool, at: float) -> Call[None]:
    return _post(f"{_of(session)}/activity", _asked(Activity, executing=executing, at=at), lambda _: None)


def checkpoints(session: str | None) -> Call[list[CheckpointView]]:
    path = "/api/checkpoints" + (f"?session={quote(session, safe='')}" if session else "")
    return Call("GET", path, TypeAdapter(list[CheckpointView]).validate_python)


def checkpoint_view(checkpoint: str) -> Call[CheckpointView]:
    return Call("GET", _checkpoint(checkpoint), CheckpointView.model_validate)


def drop_checkpoint(checkpoint: str) -> Call[None]:
    return Call("DELETE", _checkpoint(checkpoint), lambda _: None)


def verify(checkpoint: str, deep: bool) -> Call[Verified]:
    return _post(f"{_checkpoint(checkpoint)}/verify", _asked(VerifyRequest, deep=deep), Verified.model_validate)


def gc(dry_run: bool) -> Call[Collected]:
    return _post("/api/gc", _asked(GcRequest, dry_run=dry_run), Collected.model_validate)


def drain(node: str, dry_run: bool, deadline_s: float | None, reason: str) -> Call[Drained]:
    wanted = _asked(DrainRequest, dry_run=dry_run, deadline_s=deadline_s, reason=reason)
    return _post(f"/api/nodes/{quote(node, safe='')}/drain", wanted, Drained.model_validate)


def undrain(node: str) -> Call[None]:
    return Call("DELETE", f"/api/nodes/{quote(node, safe='')}/drain", lambda _: None)


def policies() -> Call[Policies]:
    return Call("GET", "/api/policies", Policies.model_validate)


def log(name: str) -> Call[str]:
    return Call("GET", f"{_of(name)}/log", lambda body: LogText.model_validate(body).text)


def tokens() -> Call[list[TokenRow]]:
    return Call("GET", "/api/tokens", TypeAdapter(list[TokenRow]).validate_python)


def create_token(kind: TokenKind, name: str, options: dict[str, Any]) -> Call[TokenShown]:
    body = {"kind": kind, "name": name, **options}
    return Call("POST", "/api/tokens", TypeAdapter(TokenShown).validate_python, body)


def revoke_token(identity: str) -> Call[None]:
    return Call("DELETE", f"/api/tokens/{quote(identity, safe='')}", lambda _: None)


def read(call: Call[T], status: int, body: Any) -> T:
    """The answer of a call; raises the error that the controller raised."""
    if status >= 400:
        raise from_wire(body) if isinstance(body, dict) and "code" in body else SojournError(f"{call.path}: {body}")
    return call.read(body)


def unreachable(url: str, why: Exception) -> Unreachable:
    return Unreachable(
        f"The controller at {url} does not answer: {why or type(why).__name__}",
        "Look whether it runs; `sojourn up` starts one on this machine.",
    )


def _asked(kind: type[Asked], **fields: Any) -> Asked:
    """The body of a request. Raises Invalid, as the controller would."""
    try:
        return kind(**fields)
    except ValidationError as wrong:
        first = wrong.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Invalid(f"{where}: {first['msg']}.", "The page /docs shows what is understood.") from wrong


def _post(path: str, body: Word, read: Callable[[Any], T]) -> Call[T]:
    return Call("POST", path, read, body.model_dump(mode="json"))


def _checkpoint(name: str) -> str:
    return f"/api/checkpoints/{quote(name, safe='')}"


def _of(name: str) -> str:
    return f"/api/sessions/{quote(name, safe='')}"
