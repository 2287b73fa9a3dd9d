from __future__ import annotations

import pytest

from sojourn.errors import TunnelFailed
from sojourn.tunnel.outbox import Outbox


def take(outbox: Outbox, count: int) -> bytes:
    """What a connection gets that takes `count` bytes."""
    taken = b"".join(outbox.pieces(1 << 20, 1000))[:count]
    outbox.sent(len(taken))
    return taken


@pytest.fixture
def outbox() -> Outbox:
    outbox = Outbox()
    outbox.put(b"aaaa")
    outbox.put(b"bb", b"BB")
    outbox.put(b"cc")
    return outbox


def test_frames_go_out_in_order_wherever_the_connection_stops_taking(outbox: Outbox) -> None:
    assert [take(outbox, 5), take(outbox, 2), take(outbox, 99), take(outbox, 99)] == [b"aaaab", b"bB", b"Bcc", b""]
    assert (outbox.kept, outbox.end, outbox.unsent_bytes, outbox.kept_bytes) == (0, 10, 0, 10)


def test_what_is_acknowledged_is_gone(outbox: Outbox) -> None:
    take(outbox, 9)
    outbox.acknowledge(8)
    assert (outbox.kept, outbox.kept_bytes) == (8, 2)


@pytest.mark.parametrize("position", [3, 9, 10, 11])
def test_only_what_was_sent_as_a_whole_can_be_acknowledged(outbox: Outbox, position: int) -> None:
    take(outbox, 9)
    with pytest.raises(TunnelFailed):
        outbox.acknowledge(position)


def test_a_new_connection_gets_what_the_other_end_lacks(outbox: Outbox) -> None:
    take(outbox, 9)
    outbox.rewind(4)
    assert take(outbox, 99) == b"bbBBcc"
    assert outbox.kept == 4


def test_a_frame_cut_in_the_middle_is_sent_again_as_a_whole(outbox: Outbox) -> None:
    take(outbox, 6)
    outbox.disconnected()
    assert not outbox.cut
    assert take(outbox, 99) == b"aaaabbBBcc"


@pytest.mark.parametrize("position", [-1, 2, 5, 11])
def test_positions_where_no_frame_begins_change_nothing(outbox: Outbox, position: int) -> None:
    take(outbox, 4)
    outbox.acknowledge(4)
    with pytest.raises(TunnelFailed):
        outbox.rewind(position)
    assert take(outbox, 99) == b"bbBBcc"


def test_unnumbered_frames_go_first_but_never_into_a_frame(outbox: Outbox) -> None:
    outbox.interject(b"!!")
    assert take(outbox, 3) == b"!!a"
    outbox.interject(b"??")
    assert outbox.cut
    assert take(outbox, 99) == b"aaa??bbBBcc"
    assert outbox.kept_bytes == 10


def test_unnumbered_frames_keep_their_order(outbox: Outbox) -> None:
    take(outbox, 1)
    outbox.interject(b"1")
    outbox.interject(b"2")
    assert take(outbox, 99) == b"aaa12bbBBcc"


def test_unnumbered_frames_die_with_their_connection(outbox: Outbox) -> None:
    outbox.interject(b"!!")
    outbox.disconnected()
    assert take(outbox, 99) == b"aaaabbBBcc"


def test_numbered_frames_can_be_held_back(outbox: Outbox) -> None:
    outbox.interject(b"!!")
    assert b"".join(outbox.pieces(99, 99, numbered=False)) == b"!!"


def test_a_call_gets_about_as_much_as_it_asks_for(outbox: Outbox) -> None:
    assert list(map(bytes, outbox.pieces(1, 99))) == [b"aaaa"]
    assert list(map(bytes, outbox.pieces(99, 2))) == [b"aaaa", b"bb", b"BB"]
