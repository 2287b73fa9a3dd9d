"""As much of protobuf's wire format as CRIU's requests and images need (protobuf.dev/programming-guides/encoding)."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping

Value = int | bool | str | bytes
Message = Mapping[int, Value | Iterable[Value]]
"""Field number -> value, or several values of a repeated field. A nested message is the bytes `encode` gave."""


def encode(message: Message) -> bytes:
    """The bytes of a message; negative numbers as int32 and int64 write them."""
    return join(
        (number, one)
        for number, value in message.items()
        for one in ([value] if isinstance(value, (int, str, bytes)) else value)
    )


def decode(body: bytes) -> dict[int, int | bytes]:
    """Field number -> number or bytes; of a repeated field the last."""
    return dict(fields(body))


def join(parts: Iterable[tuple[int, Value]]) -> bytes:
    """The bytes of a message given as `fields` gives it."""
    return b"".join(_field(number, value) for number, value in parts)


def fields(body: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field number and value, one after the other, as they stand."""
    position = 0
    while position < len(body):
        key, position = _read_varint(body, position)
        kind = key & 7
        if kind == 0:
            value, position = _read_varint(body, position)
            yield key >> 3, value
            continue
        if kind == 2:
            length, position = _read_varint(body, position)
        else:
            length = {1: 8, 5: 4}[kind]
        chunk = body[position : position + length]
        position += length
        yield key >> 3, chunk if kind == 2 else struct.unpack("<Q" if kind == 1 else "<I", chunk)[0]


def _field(number: int, value: Value) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value & 0xFFFFFFFFFFFFFFFF)
    body = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(body)) + body


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(body: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = body[position]
        position += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, position
