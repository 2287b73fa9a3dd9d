"""Jupyter's messages as they lie on the wire: reading what the switchboard must understand, and answering as a kernel.

A message is a list of frames: identities, the delimiter, the signature, then header, parent header, metadata and
content as JSON, then buffers (https://jupyter-client.readthedocs.io/en/stable/messaging.html#the-wire-protocol).
The kernel's own frames are passed on as they came; only what is made or changed here is signed here.
"""

from __future__ import annotations

import hmac
import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

import zmq

from sojourn.directive import blank_directive, find_directive
from sojourn.errors import Invalid
from sojourn.front.connection import Connection
from sojourn.switchboard_law import KINDS, Kind, Request

DELIMITER = b"<IDS|MSG>"
PROTOCOL = "5.4"

_SIGNATURE, _HEADER, _PARENT, _METADATA, _CONTENT, _BUFFERS = 1, 2, 3, 4, 5, 6  # counted from the delimiter

Frames = Sequence[bytes | zmq.Frame]
Json = dict[str, Any]

_TELLING: dict[str, tuple[bytes, Callable[[Json], object]]] = {
    "comm_open": (b"jupyter.widget.control", lambda content: content.get("target_name")),
    "comm_msg": (b"request_state", lambda content: (content.get("data") or {}).get("method")),
    "debug_request": (b"debugInfo", lambda content: content.get("command")),
}
"""Messages that are of another kind for a word of theirs: what must stand in them somewhere, and where the word is."""


@dataclass(slots=True, eq=False)
class Message:
    """Frames, and where the delimiter stands in them."""

    frames: list[bytes | zmq.Frame]
    start: int

    @classmethod
    def read(cls, frames: Frames) -> Message | None:
        """None when these frames are no Jupyter message."""
        for place, frame in enumerate(frames):
            if len(frame) == len(DELIMITER) and _raw(frame) == DELIMITER:
                return cls(list(frames), place) if len(frames) >= place + _BUFFERS else None
        return None

    @property
    def identities(self) -> list[bytes]:
        return [_raw(frame) for frame in self.frames[: self.start]]

    @property
    def raw_header(self) -> bytes:
        return _raw(self.frames[self.start + _HEADER])

    @property
    def header(self) -> Json:
        return _json(self.frames[self.start + _HEADER])

    @property
    def parent(self) -> Json:
        return _json(self.frames[self.start + _PARENT])

    @property
    def metadata(self) -> Json:
        return _json(self.frames[self.start + _METADATA])

    @property
    def content(self) -> Json:
        return _json(self.frames[self.start + _CONTENT])

    @property
    def signature(self) -> bytes:
        return _raw(self.frames[self.start + _SIGNATURE])

    @property
    def signed(self) -> list[bytes]:
        return [_raw(frame) for frame in self.frames[self.start + _HEADER : self.start + _BUFFERS]]

    @property
    def head(self) -> list[bytes]:
        """As much of a request as answering it takes: identities and header, unsigned."""
        return [*self.identities, DELIMITER, b"", self.raw_header, b"{}", b"{}", b"{}"]

    def mentions(self, word: bytes) -> bool:
        """Whether the metadata or the content may hold `word`: a look before the trouble of reading them."""
        return any(word in _raw(self.frames[self.start + part]) for part in (_METADATA, _CONTENT))


def _raw(frame: bytes | zmq.Frame) -> bytes:
    return frame if isinstance(frame, bytes) else frame.bytes


def _json(frame: bytes | zmq.Frame) -> Json:
    body = json.loads(_raw(frame))
    return body if isinstance(body, dict) else {}


class Signer:
    """Signs and checks with a connection's key; an empty key means unsigned, as Jupyter has it."""

    def __init__(self, key: bytes, scheme: str = "hmac-sha256") -> None:
        self._mac = hmac.new(key, digestmod=scheme.removeprefix("hmac-")) if key else None

    @classmethod
    def of(cls, connection: Connection) -> Signer:
        return cls(connection.key.encode(), connection.signature_scheme)

    def sign(self, parts: Sequence[bytes]) -> bytes:
        if self._mac is None:
            return b""
        mac = self._mac.copy()
        for part in parts:
            mac.update(part)
        return mac.hexdigest().encode()

    def accepts(self, message: Message) -> bool:
        return self._mac is None or hmac.compare_digest(self.sign(message.signed), message.signature)

    def seal(self, identities: Sequence[bytes], parts: Sequence[bytes]) -> list[bytes]:
        return [*identities, DELIMITER, self.sign(parts), *parts]

    def sign_anew(self, frames: Frames) -> list[bytes | zmq.Frame]:
        """The same message for somebody who has this key; what is no message stays as it is."""
        message = Message.read(frames)
        if message is None:
            return list(frames)
        message.frames[message.start + _SIGNATURE] = self.sign(message.signed)
        return message.frames


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────


def read_request(message: Message, language: str, signer: Signer) -> Request:
    """What the law must know of a client's request on shell; a directive is taken out of the message.

    Raises ValueError when its JSON is none.
    """
    plain = _read(message, "shell")
    return _read_execute(plain, language, signer) if plain.kind is Kind.EXECUTE else plain


def read_control(message: Message) -> Request:
    """The same on control, where nothing is executed."""
    return _read(message, "control")


def _read(message: Message, channel: Literal["shell", "control"]) -> Request:
    header = message.header
    return Request(
        id=str(header.get("msg_id")),
        client=b"".join(message.identities),
        subshell=header.get("subshell_id"),
        kind=_kind(message, str(header.get("msg_type"))),
        channel=channel,
        message=message,
    )


def _kind(message: Message, name: str) -> Kind:
    known = KINDS.get(name, Kind.ACT)
    if name not in _TELLING:
        return known
    mark, word = _TELLING[name]
    return KINDS.get(f"{name} {word(message.content)}", known) if message.mentions(mark) else known


def _read_execute(plain: Request, language: str, signer: Signer) -> Request:
    message: Message = plain.message
    content = message.content
    silent = content.get("silent") is True
    code = str(content.get("code", ""))
    if silent and not code.strip() and not content.get("user_expressions"):
        return replace(plain, kind=KINDS["silent execute_request of nothing"])
    execute = replace(plain, silent=silent, stops_on_error=content.get("stop_on_error", True) is True)
    if silent or not (message.mentions(b"%%on") or message.mentions(b"sojourn")):
        return execute
    try:
        directive = find_directive(code, message.metadata)
    except Invalid as fault:
        return replace(execute, fault=fault)
    if directive and (blanked := blank_directive(code, language)) != code:
        message = with_content(message, {**content, "code": blanked}, signer)
    return replace(execute, directive=directive, message=message)


def with_content(message: Message, content: Json, signer: Signer) -> Message:
    """The same message with another content, signed anew; identities and buffers stay."""
    header, parent, metadata, _ = message.signed
    sealed = signer.seal(message.identities, [header, parent, metadata, _pack(content)])
    return Message([*sealed, *message.frames[message.start + _BUFFERS :]], message.start)


def is_welcome(frames: Frames) -> bool:
    """Whether the kernel greets a new subscription to its iopub."""
    return (
        len(frames) >= _BUFFERS
        and len(frames[0]) == len(DELIMITER)
        and _raw(frames[0]) == DELIMITER
        and b'"iopub_welcome"' in _raw(frames[_HEADER])
    )


# ── answering ────────────────────────────────────────────────────────────────────────────────────────────────


def empty_answer(message: Message, executions: int = 0) -> Json:
    """What a kernel that knows nothing says to a question; complete_request gets its own cursor back."""
    kind = message.header.get("msg_type")
    if kind == "execute_request":
        return {"status": "ok", "execution_count": executions, "user_expressions": {}, "payload": []}
    if kind == "complete_request":
        cursor = message.content.get("cursor_pos", 0)
        return {"status": "ok", "matches": [], "cursor_start": cursor, "cursor_end": cursor, "metadata": {}}
    if kind == "inspect_request":
        return {"status": "ok", "found": False, "data": {}, "metadata": {}}
    if kind == "history_request":
        return {"status": "ok", "history": []}
    return {"status": "unknown"}


def error_content(name: str, text: str, hint: str) -> Json:
    """An exception as a kernel tells of one."""
    traceback = [f"\x1b[0;31m{name}\x1b[0m: {text}", *([hint] if hint else [])]
    return {"ename": name, "evalue": text, "traceback": traceback}


class Voice:
    """Speaks for others in signed messages: to clients as the kernel, to the kernel as a client."""

    def __init__(self, signer: Signer, session: str) -> None:
        self._signer = signer
        self._session = session
        self._topic = f"kernel.{session}."

    def reply(self, request: Message, content: Json, metadata: Json | None = None) -> list[bytes]:
        """The reply to `request`, addressed to who sent it."""
        kind = str(request.header.get("msg_type", "")).removesuffix("_request") + "_reply"
        parts = self._parts(kind, request.raw_header, content, metadata or {})
        return self._signer.seal(request.identities, parts)

    def ask(self, kind: str, identity: bytes, subshell: str | None) -> Message:
        """A request of our own to the kernel."""
        extra = {"subshell_id": subshell} if subshell else {}
        frames = self._signer.seal([identity], self._parts(kind, b"{}", {}, {}, **extra))
        return Message(list(frames), 1)

    def publish(self, kind: str, parent: bytes, content: Json) -> list[bytes]:
        """A message for iopub; `parent` is the raw header of the request that it speaks of."""
        return self._signer.seal([f"{self._topic}{kind}".encode()], self._parts(kind, parent, content, {}))

    def welcome(self, topic: bytes) -> list[bytes]:
        """As ipykernel greets a subscriber to `topic`."""
        content = {"subscription": topic.decode(errors="replace")}
        return self._signer.seal([topic] if topic else [], self._parts("iopub_welcome", b"{}", content, {}))

    def _parts(self, kind: str, parent: bytes, content: Json, metadata: Json, **extra: str) -> list[bytes]:
        header = {
            "msg_id": uuid.uuid4().hex,
            "msg_type": kind,
            "username": "sojourn",
            "session": self._session,
            "date": datetime.now(UTC).isoformat(),
            "version": PROTOCOL,
            **extra,
        }
        return [_pack(header), parent, _pack(metadata), _pack(content)]


def _pack(body: Json) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode(errors="surrogateescape")
