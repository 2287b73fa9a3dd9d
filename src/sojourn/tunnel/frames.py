"""Version 1 of the tunnel's frames.

    kind (1 byte) | stream (4) | length of the payload (4) | payload          big-endian

Numbered frames make up the resumable sequence: each counts with all its bytes, header included, toward the position
of the end that sends it, and is sent again after a loss. The others belong to the one connection they cross.

| kind    | stream | payload                             | numbered |
| ------- | ------ | ----------------------------------- | -------- |
| HELLO   | 0      | JSON, see `Hello`                   | no       |
| ACK     | 0      | bytes received so far (8)           | no       |
| REFUSED | 0      | why, in words                       | no       |
| OPEN    | any    | target, as `tcp:127.0.0.1:5000`     | yes      |
| DATA    | any    | bytes                               | yes      |
| WINDOW  | any    | bytes that may be sent on top (4)   | yes      |
| END     | any    | nothing: no more data this way      | yes      |
| RESET   | any    | why, in words: no more data at all  | yes      |
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING

from sojourn.errors import TunnelFailed

if TYPE_CHECKING:
    from typing import Any

VERSION = 1

HELLO, ACK, REFUSED = 1, 2, 3
OPEN, DATA, WINDOW, END, RESET = 16, 17, 18, 19, 20
NAMES = {
    HELLO: "HELLO",
    ACK: "ACK",
    REFUSED: "REFUSED",
    OPEN: "OPEN",
    DATA: "DATA",
    WINDOW: "WINDOW",
    END: "END",
    RESET: "RESET",
}

MAX_PAYLOAD = 128 * 1024
"""Large enough that the cost per frame vanishes, small enough that a key press waits for no more than this."""

_HEADER = struct.Struct("!BII")
HEADER_BYTES = _HEADER.size
_POSITION = struct.Struct("!Q")
_CREDIT = struct.Struct("!I")


class Hello:
    """The first frame of each end on each connection; the rider speaks first, the anchor decides.

    `birth` numbers one start from zero: the anchor draws it, the rider repeats what it last heard, or says a number of
    its own while it has heard none since its start or its last reset. `received`: the position up to which this end has
    everything. `kept`, `end`: the range of positions from which it can go on sending.
    """

    __slots__ = ("anchor", "birth", "end", "epoch", "incarnation", "kept", "received", "session", "version")

    def __init__(
        self,
        *,
        session: str,
        anchor: str,
        incarnation: int,
        epoch: int,
        birth: int,
        received: int,
        kept: int,
        end: int,
        version: int = VERSION,
    ) -> None:
        self.version = version
        self.session = session
        self.anchor = anchor
        self.incarnation = incarnation
        self.epoch = epoch
        self.birth = birth
        self.received = received
        self.kept = kept
        self.end = end

    def encode(self) -> bytes:
        body = json.dumps({name: getattr(self, name) for name in self.__slots__})
        return encode(HELLO, 0, body.encode())

    @classmethod
    def decode(cls, payload: memoryview) -> Hello:
        """Raises TunnelFailed. Unknown fields are passed over: a later version may say more."""
        try:
            body: dict[str, Any] = json.loads(bytes(payload))
            hello = cls(**{name: body[name] for name in cls.__slots__})
        except (ValueError, KeyError, TypeError) as wrong:
            raise TunnelFailed("The other end of the tunnel sent a HELLO that can't be read.") from wrong
        if not all(isinstance(getattr(hello, name), kind) for name, kind in _KINDS):
            raise TunnelFailed("The other end of the tunnel sent a HELLO with a field of a wrong kind.")
        return hello


_KINDS = [(name, str if name in ("session", "anchor") else int) for name in Hello.__slots__]


def header(kind: int, stream: int, length: int) -> bytes:
    return _HEADER.pack(kind, stream, length)


def encode(kind: int, stream: int = 0, payload: bytes = b"") -> bytes:
    """A whole frame in one piece."""
    return _HEADER.pack(kind, stream, len(payload)) + payload


def decode_header(buffer: memoryview | bytearray, at: int) -> tuple[int, int, int]:
    """`(kind, stream, length of the payload)`; raises TunnelFailed for what no end of ours sends."""
    kind, stream, length = _HEADER.unpack_from(buffer, at)
    if kind not in NAMES or length > MAX_PAYLOAD:
        raise TunnelFailed(f"The other end of the tunnel sent what is no frame (kind {kind}, {length} bytes).")
    return kind, stream, length


def encode_ack(position: int) -> bytes:
    return encode(ACK, 0, _POSITION.pack(position))


def decode_ack(payload: memoryview) -> int:
    return _unpack(_POSITION, payload)


def encode_window(stream: int, credit: int) -> bytes:
    return encode(WINDOW, stream, _CREDIT.pack(credit))


def decode_window(payload: memoryview) -> int:
    return _unpack(_CREDIT, payload)


def encode_words(kind: int, stream: int, words: str) -> bytes:
    """A frame whose payload is text; a long text is cut."""
    return encode(kind, stream, words.encode()[:4096])


def decode_words(payload: memoryview) -> str:
    return bytes(payload).decode(errors="replace")


def _unpack(form: struct.Struct, payload: memoryview) -> int:
    if len(payload) != form.size:
        raise TunnelFailed(f"The other end of the tunnel sent a number of {len(payload)} bytes.")
    number: int = form.unpack(payload)[0]
    return number
