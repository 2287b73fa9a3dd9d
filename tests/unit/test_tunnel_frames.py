from __future__ import annotations

import pytest

from sojourn.errors import TunnelFailed
from sojourn.tunnel import frames
from sojourn.tunnel.frames import Hello


def hello(**changes: object) -> Hello:
    fields = {
        "session": "s",
        "anchor": "a",
        "incarnation": 3,
        "epoch": 1,
        "birth": 9,
        "received": 7,
        "kept": 5,
        "end": 8,
    }
    return Hello(**{**fields, **changes})  # type: ignore[arg-type]


def payload_of(frame: bytes) -> memoryview:
    _kind, _stream, length = frames.decode_header(memoryview(frame), 0)
    assert length == len(frame) - frames.HEADER_BYTES
    return memoryview(frame)[frames.HEADER_BYTES :]


def test_a_header_says_kind_stream_and_length() -> None:
    frame = frames.encode(frames.DATA, 258, b"abc")
    assert frame == b"\x11\x00\x00\x01\x02\x00\x00\x00\x03abc"
    assert frames.decode_header(memoryview(frame), 0) == (frames.DATA, 258, 3)


def test_every_kind_has_a_name() -> None:
    kinds = {value for name, value in vars(frames).items() if name.isupper() and name in frames.NAMES.values()}
    assert kinds == set(frames.NAMES)


@pytest.mark.parametrize("header", [frames.header(99, 0, 0), frames.header(frames.DATA, 1, frames.MAX_PAYLOAD + 1)])
def test_what_is_no_frame_is_refused(header: bytes) -> None:
    with pytest.raises(TunnelFailed, match="no frame"):
        frames.decode_header(memoryview(header), 0)


def test_a_hello_survives_the_wire() -> None:
    said, heard = hello(), Hello.decode(payload_of(hello().encode()))
    assert [getattr(said, name) for name in Hello.__slots__] == [getattr(heard, name) for name in Hello.__slots__]
    assert heard.version == frames.VERSION


def test_a_hello_of_a_later_version_may_say_more() -> None:
    body = bytes(payload_of(hello(version=2).encode())).replace(b"{", b'{"news": 1, ', 1)
    assert Hello.decode(memoryview(body)).version == 2


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b"{}", b'{"version": 1}'])
def test_a_hello_that_cant_be_read_is_refused(body: bytes) -> None:
    with pytest.raises(TunnelFailed):
        Hello.decode(memoryview(body))


def test_a_hello_with_a_field_of_a_wrong_kind_is_refused() -> None:
    with pytest.raises(TunnelFailed, match="wrong kind"):
        Hello.decode(payload_of(hello(received="7").encode()))


def test_positions_and_credits_survive_the_wire() -> None:
    assert frames.decode_ack(payload_of(frames.encode_ack(1 << 40))) == 1 << 40
    assert frames.decode_window(payload_of(frames.encode_window(4, 70_000))) == 70_000


def test_a_number_of_a_wrong_size_is_refused() -> None:
    with pytest.raises(TunnelFailed):
        frames.decode_ack(memoryview(b"1234"))


def test_long_words_are_cut() -> None:
    assert len(payload_of(frames.encode_words(frames.RESET, 1, "ä" * 9000))) == 4096
