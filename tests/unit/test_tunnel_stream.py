from __future__ import annotations

import pytest

from sojourn.errors import TunnelFailed
from sojourn.tunnel.stream import WINDOW_BYTES, Stream


@pytest.fixture
def stream() -> Stream:
    return Stream(1, "tcp:127.0.0.1:5000")


def test_sending_uses_up_the_window_until_more_is_granted(stream: Stream) -> None:
    stream.sent(WINDOW_BYTES)
    assert stream.may_send == 0
    stream.granted(10)
    assert stream.may_send == 10


def test_credit_is_granted_in_lumps_for_what_was_passed_on(stream: Stream) -> None:
    stream.received(WINDOW_BYTES)
    assert stream.passed_on(1) == 0
    assert stream.passed_on(WINDOW_BYTES // 2) == WINDOW_BYTES // 2 + 1
    assert stream.passed_on(1) == 0
    stream.received(WINDOW_BYTES // 2 + 1)


def test_more_than_the_window_is_refused(stream: Stream) -> None:
    stream.received(WINDOW_BYTES)
    with pytest.raises(TunnelFailed, match="more on stream 1"):
        stream.received(1)


def test_data_after_the_end_is_refused(stream: Stream) -> None:
    stream.ended_there = True
    with pytest.raises(TunnelFailed):
        stream.received(1)


def test_it_is_over_when_both_directions_have_ended(stream: Stream) -> None:
    stream.ended_here = True
    assert not stream.over
    stream.ended_there = True
    assert stream.over
