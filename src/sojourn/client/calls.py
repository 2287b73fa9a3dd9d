"""Each call of the controller's API as a value: what is asked and how the answer is read. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import quote

from pydantic import TypeAdapter

from sojourn.client.words import (
    LogText,
    Moved,
    MoveRequest,
    StartRequest,
    TokenKind,
    TokenRow,
    TokenShown,
    Until,
    Version,
)
from sojourn.errors import SojournError, Unreachable, from_wire
from sojourn.model import MoveView, Needs, NodeView, SessionSpec, SessionView, Strategy

T = TypeVar("T")


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


def sessions(everything: bool) -> Call[list[SessionView]]:
    path = "/api/sessions?all=1" if everything else "/api/sessions"
    return Call("GET", path, TypeAdapter(list[SessionView]).validate_python)


def session(name: str) -> Call[SessionView]:
    return Call("GET", _of(name), SessionView.model_validate)


def start(spec: SessionSpec) -> Call[SessionView]:
    return Call("POST", "/api/sessions", SessionView.model_validate, StartRequest(spec=spec).model_dump(mode="json"))


def stop(name: str) -> Call[SessionView]:
    return Call("DELETE", _of(name), SessionView.model_validate)


def move(name: str, to: str | Needs, strategy: Strategy | Literal["auto"], dry_run: bool, wait: Until) -> Call[Moved]:
    wanted = MoveRequest(to=to, strategy=strategy, dry_run=dry_run, wait=wait)
    return Call("POST", f"{_of(name)}/move", Moved.model_validate, wanted.model_dump(mode="json"))


def moves() -> Call[list[MoveView]]:
    return Call("GET", "/api/moves", TypeAdapter(list[MoveView]).validate_python)


def one_move(move: str) -> Call[MoveView]:
    return Call("GET", f"/api/moves/{quote(move, safe='')}", MoveView.model_validate)


def cancel_move(move: str) -> Call[MoveView]:
    return Call("DELETE", f"/api/moves/{quote(move, safe='')}", MoveView.model_validate)


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


def _of(name: str) -> str:
    return f"/api/sessions/{quote(name, safe='')}"
