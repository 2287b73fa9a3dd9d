"""Two ends of a tunnel and the wire between them, which may be cut at any byte."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sojourn.errors import TunnelFailed
from sojourn.tunnel import connection as law
from sojourn.tunnel import frames
from sojourn.tunnel import stream as stream_law
from sojourn.tunnel.connection import AWAY, CARRYING, AnchorEnd, RiderEnd, TunnelEnd
from sojourn.tunnel.events import (
    Agreed,
    DataReceived,
    Event,
    RoomGrew,
    StreamEnded,
    StreamOpened,
    StreamReset,
    TunnelReset,
    Turned,
)

TARGET = "tcp:127.0.0.1:5000"


class Wire:
    """Carries bytes between an anchor's and a rider's end, as many as it is told to."""

    def __init__(self, anchor: TunnelEnd | None = None, rider: TunnelEnd | None = None) -> None:
        numbers = iter(range(1, 10**6))
        self.anchor = anchor or AnchorEnd("s", "a", draw=lambda: next(numbers))
        self.rider = rider or RiderEnd("s", "a")
        self.heard: dict[str, list[Event]] = {"anchor": [], "rider": []}
        self.data: dict[str, dict[int, bytes]] = {"anchor": defaultdict(bytes), "rider": defaultdict(bytes)}
        self.taken: dict[str, dict[tuple[int, int], bytes]] = {
            "anchor": defaultdict(bytes),
            "rider": defaultdict(bytes),
        }
        """The same, each start from zero by itself."""
        self.flying = {"anchor": b"", "rider": b""}
        """Bytes on their way to each end."""
        self.holding = False
        """Whether what arrives stays in the end's hands instead of being passed on."""
        self.held: list[tuple[str, int, int]] = []

    def end(self, name: str) -> TunnelEnd:
        return self.anchor if name == "anchor" else self.rider

    def connect(self, incarnation: int = 1, epoch: int = 0, rider_epoch: int | None = None) -> None:
        self.flying = {"anchor": b"", "rider": b""}
        self.hear("rider", self.rider.connected(incarnation, epoch if rider_epoch is None else rider_epoch))
        self.hear("anchor", self.anchor.connected(incarnation, epoch))

    def cut(self) -> None:
        self.anchor.disconnected()
        self.rider.disconnected()
        self.flying = {"anchor": b"", "rider": b""}

    def carry(self, to: str, count: int = 1 << 30) -> None:
        """Let `count` bytes leave the other end, and arrive."""
        source, target = self.end("rider" if to == "anchor" else "anchor"), self.end(to)
        if target.state == AWAY:
            return
        while len(self.flying[to]) < count and (pieces := source.outgoing()):
            taken = b"".join(pieces)[: count - len(self.flying[to])]
            source.sent(len(taken))
            self.flying[to] += taken
        while count > 0 and self.flying[to] and target.state != AWAY:
            buffer = target.buffer()
            now = self.flying[to][: min(count, len(buffer))]
            self.flying[to] = self.flying[to][len(now) :]
            count -= len(now)
            buffer[: len(now)] = now
            self.hear(to, target.arrived(len(now)))

    def settle(self) -> None:
        for _ in range(20):
            self.carry("anchor")
            self.carry("rider")

    def hear(self, name: str, events: list[Event]) -> None:
        for event in events:
            self.heard[name].append(event)
            if isinstance(event, DataReceived):
                self.data[name][event.stream] += bytes(event.data)
                self.taken[name][self.end(name).birth, event.stream] += bytes(event.data)
                self.held.append((name, event.stream, len(event.data)))
                if not self.holding:
                    self.pass_on()
            elif isinstance(event, TunnelReset):
                self.data[name].clear()
                self.held = [held for held in self.held if held[0] != name]
            elif isinstance(event, Turned):
                self.end(name).disconnected()

    def pass_on(self) -> None:
        held, self.held = self.held, []
        for name, stream, count in held:
            self.end(name).passed_on(stream, count)

    def kinds(self, name: str) -> list[type[Event]]:
        return [type(event) for event in self.heard[name] if not isinstance(event, RoomGrew)]

    def last(self, name: str, kind: type[Any]) -> Any:
        return [event for event in self.heard[name] if isinstance(event, kind)][-1]


@pytest.fixture
def wire() -> Wire:
    wire = Wire()
    wire.connect()
    wire.settle()
    return wire


def open_stream(wire: Wire) -> int:
    assert isinstance(wire.anchor, AnchorEnd)
    return wire.anchor.open(TARGET)


# ── a tunnel's life ──────────────────────────────────────────────────────────────────────────────────────────


def test_both_ends_agree_and_a_stream_carries_both_ways(wire: Wire) -> None:
    number = open_stream(wire)
    wire.anchor.send(number, b"question")
    wire.settle()
    assert wire.kinds("rider") == [Agreed, StreamOpened, DataReceived]
    assert wire.last("rider", StreamOpened).target == TARGET
    wire.rider.send(number, b"answer")
    wire.settle()
    assert wire.data == {"rider": {1: b"question"}, "anchor": {1: b"answer"}}


def test_nothing_but_the_greeting_goes_out_before_the_rider_has_spoken() -> None:
    wire = Wire()
    open_stream(wire)
    wire.connect()
    assert wire.anchor.outgoing() == []
    wire.settle()
    assert wire.kinds("rider") == [Agreed, StreamOpened]


def test_what_was_under_way_arrives_after_a_cut_once(wire: Wire) -> None:
    number = open_stream(wire)
    wire.anchor.send(number, b"one ")
    wire.settle()
    wire.anchor.send(number, b"two ")
    wire.carry("rider", 11)  # a header and two bytes
    wire.cut()
    wire.anchor.send(number, b"three")
    wire.connect()
    wire.settle()
    assert wire.data["rider"][number] == b"one two three"
    assert wire.last("rider", Agreed).resumed


def test_what_had_arrived_is_not_sent_again_though_no_acknowledgement_came(wire: Wire) -> None:
    number = open_stream(wire)
    wire.anchor.send(number, b"once")
    wire.carry("rider")
    assert wire.anchor.outbox.kept_bytes > 0
    wire.cut()
    wire.connect()
    wire.settle()
    assert wire.data["rider"][number] == b"once"
    assert wire.anchor.outbox.kept_bytes == 0


def test_a_stream_ends_one_way_and_then_the_other(wire: Wire) -> None:
    number = open_stream(wire)
    wire.anchor.end(number)
    wire.anchor.end(number)
    wire.settle()
    assert wire.kinds("rider")[-1] is StreamEnded
    assert wire.anchor.room(number) == 0
    wire.rider.send(number, b"still here")
    wire.rider.end(number)
    wire.settle()
    assert wire.data["anchor"][number] == b"still here"
    assert wire.anchor.streams == wire.rider.streams == {}


def test_a_reset_stream_is_gone_at_both_ends_and_late_data_is_passed_over(wire: Wire) -> None:
    number = open_stream(wire)
    wire.settle()
    wire.rider.send(number, b"crossing the reset")
    wire.anchor.reset(number, "enough")
    wire.settle()
    assert wire.last("rider", StreamReset).reason == "enough"
    assert wire.data["anchor"] == {}
    other = open_stream(wire)
    wire.anchor.send(other, b"goes on")
    wire.settle()
    assert wire.data["rider"][other] == b"goes on"


def test_large_data_is_cut_into_frames(wire: Wire) -> None:
    number = open_stream(wire)
    data = random.Random(1).randbytes(3 * frames.MAX_PAYLOAD + 7)
    wire.anchor.send(number, data)
    wire.settle()
    assert wire.data["rider"][number] == data


def test_a_slow_stream_stops_at_its_window_and_others_go_on(wire: Wire) -> None:
    slow, quick = open_stream(wire), open_stream(wire)
    wire.settle()
    wire.rider.streams[slow].may_send = 0
    assert wire.rider.room(slow) == wire.rider.room(slow, urgent=True) == 0
    assert wire.rider.room(quick) > 0


def test_a_slow_connection_leaves_room_for_urgent_words_only(wire: Wire) -> None:
    number = open_stream(wire)
    wire.anchor.send(number, bytes(law.UNSENT_BYTES))
    assert wire.anchor.room(number) == 0
    assert wire.anchor.room(number, urgent=True) > 0
    wire.settle()
    assert wire.anchor.room(number) > 0


def test_while_away_an_end_keeps_a_bounded_amount(wire: Wire) -> None:
    first, second = open_stream(wire), open_stream(wire)
    wire.settle()
    wire.cut()
    while room := wire.rider.room(first) or wire.rider.room(second):
        number = first if wire.rider.room(first) else second
        wire.rider.send(number, bytes(min(room, 100_000)))
    assert wire.rider.outbox.kept_bytes <= law.OUTBOX_BYTES + 4096


def test_room_grows_again_with_acknowledgements(wire: Wire) -> None:
    number = open_stream(wire)
    wire.settle()
    wire.heard["rider"].clear()
    wire.rider.send(number, bytes(law.ACK_BYTES))
    wire.settle()
    assert any(isinstance(event, RoomGrew) and event.stream is None for event in wire.heard["rider"])
    assert wire.rider.outbox.kept_bytes < law.ACK_BYTES


# ── moves, older lives, and being set back ───────────────────────────────────────────────────────────────────


def test_a_live_move_continues_the_streams_under_the_next_incarnation(wire: Wire) -> None:
    number = open_stream(wire)
    wire.settle()
    wire.rider.send(number, b"before, ")
    wire.cut()
    wire.rider.send(number, b"after")
    wire.connect(incarnation=2)
    wire.settle()
    assert wire.data["anchor"][number] == b"before, after"
    assert wire.last("anchor", Agreed).incarnation == 2


@pytest.mark.parametrize("life", [(1, 1), (2, 0)])
def test_an_older_incarnation_or_epoch_is_refused_and_nothing_changes(wire: Wire, life: tuple[int, int]) -> None:
    wire.connect(2, 1)
    wire.settle()
    for end in (wire.anchor, wire.rider):
        with pytest.raises(TunnelFailed, match="older life"):
            end.connected(*life)
        assert end.state == CARRYING


def test_a_rider_of_an_older_incarnation_is_turned_away_with_the_reason() -> None:
    wire = Wire()
    wire.rider.connected(1, 0)
    wire.anchor.connected(2, 0)
    wire.settle()
    assert "incarnation 1" in wire.last("anchor", Turned).reason
    wire.carry("rider")
    assert wire.rider.state != CARRYING


def test_the_one_turned_away_hears_why() -> None:
    wire = Wire(rider=RiderEnd("another session", "a"))
    wire.connect()
    wire.carry("anchor")
    wire.anchor.state = law.GREETING  # before it is disconnected, its last words go out
    wire.anchor.outbox.interject(frames.encode_words(frames.REFUSED, 0, wire.last("anchor", Turned).reason))
    wire.carry("rider")
    assert "another session" in wire.last("rider", Turned).reason


def test_another_version_is_turned_away(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    wire.cut()
    wire.connect()
    monkeypatch.setattr(frames, "VERSION", 2)
    wire.settle()
    assert "version" in wire.last("anchor", Turned).reason


def test_a_greater_epoch_resets_both_ends(wire: Wire) -> None:
    number = open_stream(wire)
    wire.anchor.send(number, b"lost with the epoch")
    wire.carry("rider", 30)
    wire.connect(incarnation=2, epoch=1)
    assert wire.kinds("anchor")[-1] is wire.kinds("rider")[-1] is TunnelReset
    wire.settle()
    assert wire.anchor.streams == wire.rider.streams == {}
    again = open_stream(wire)
    wire.anchor.send(again, b"anew")
    wire.settle()
    assert wire.data["rider"] == {again: b"anew"}


def test_an_anchor_that_has_not_heard_of_the_epoch_follows_the_rider(wire: Wire) -> None:
    open_stream(wire)
    wire.settle()
    wire.connect(incarnation=2, epoch=0, rider_epoch=1)
    wire.settle()
    assert TunnelReset in wire.kinds("anchor")
    assert wire.anchor.epoch == 1
    assert wire.anchor.state == wire.rider.state == CARRYING


def test_a_rider_that_lost_its_end_resets_the_streams(wire: Wire) -> None:
    open_stream(wire)
    wire.settle()
    wire.cut()
    wire.rider = RiderEnd("s", "a")
    wire.connect()
    wire.settle()
    assert "lost its end" in wire.last("anchor", TunnelReset).reason
    assert wire.anchor.state == wire.rider.state == CARRYING


def test_a_new_anchor_takes_over_from_one_that_died(wire: Wire) -> None:
    open_stream(wire)
    wire.settle()
    wire.cut()
    wire.anchor = AnchorEnd("s", "a", draw=lambda: 777)
    wire.data["anchor"].clear()
    number = open_stream(wire)
    wire.connect()
    wire.settle()
    assert TunnelReset in wire.kinds("rider")
    assert TunnelReset not in wire.kinds("anchor"), "what it has not sent yet is not lost"
    wire.anchor.send(number, b"hello")
    wire.settle()
    assert wire.data["rider"] == {number: b"hello"}


def test_positions_that_dont_fit_reset_the_streams_instead_of_leaving_a_gap(wire: Wire) -> None:
    number = open_stream(wire)
    wire.anchor.send(number, b"acknowledged, then forgotten by a rider that was set back")
    wire.settle()
    wire.anchor.outbox.acknowledge(wire.rider.received)
    wire.cut()
    wire.rider.received = 0
    wire.connect()
    wire.settle()
    assert TunnelReset in wire.kinds("anchor")
    assert TunnelReset in wire.kinds("rider")
    assert wire.anchor.state == wire.rider.state == CARRYING


def test_a_rider_ahead_of_what_the_anchor_sent_resets_the_streams(wire: Wire) -> None:
    open_stream(wire)
    wire.settle()
    wire.cut()
    wire.anchor.received += 1
    wire.connect()
    wire.settle()
    assert "Position" in wire.last("anchor", TunnelReset).reason


# ── nonsense ─────────────────────────────────────────────────────────────────────────────────────────────────

NONSENSE = {
    "no frame": b"GET / HTTP/1.1\r\n",
    "a second greeting": frames.encode(frames.HELLO, 0, b"{}"),
    "an acknowledgement of nothing": frames.encode_ack(1),
    "a stream opened by the rider": frames.encode_words(frames.OPEN, 5, TARGET),
    "data after its end": frames.encode(frames.END, 1) + frames.encode(frames.DATA, 1, b"more"),
}


@pytest.mark.parametrize("nonsense", NONSENSE)
def test_nonsense_resets_the_tunnel_and_the_next_connection_begins_anew(wire: Wire, nonsense: str) -> None:
    open_stream(wire)
    wire.settle()
    wire.flying["anchor"] = NONSENSE[nonsense]
    wire.carry("anchor")
    assert wire.kinds("anchor")[-2:] == [TunnelReset, Turned]
    wire.connect()
    wire.settle()
    assert TunnelReset in wire.kinds("rider")
    number = open_stream(wire)
    wire.anchor.send(number, b"fine")
    wire.settle()
    assert wire.data["rider"][number] == b"fine"


def test_a_stream_opened_twice_is_nonsense_to_the_rider(wire: Wire) -> None:
    number = open_stream(wire)
    wire.settle()
    wire.flying["rider"] = frames.encode_words(frames.OPEN, number, TARGET)
    wire.carry("rider")
    assert wire.kinds("rider")[-1] is Turned


def test_last_words_are_not_put_into_the_middle_of_a_frame(wire: Wire) -> None:
    number = open_stream(wire)
    wire.anchor.send(number, bytes(1000))
    wire.anchor.sent(len(wire.anchor.outgoing()[0]))
    wire.anchor.sent(5)
    wire.flying["anchor"] = NONSENSE["no frame"]
    buffer = wire.anchor.buffer()
    buffer[:16] = NONSENSE["no frame"]
    assert isinstance(wire.anchor.arrived(16)[-1], Turned)
    assert wire.anchor.outgoing() == []


# ── anything may happen ──────────────────────────────────────────────────────────────────────────────────────

SMALL = {
    law: {"OUTBOX_BYTES": 400, "UNSENT_BYTES": 120, "ACK_BYTES": 60},
    stream_law: {"WINDOW_BYTES": 80, "_GRANT_BYTES": 20},
}

STEPS = (
    ["carry"] * 40
    + ["send"] * 30
    + ["open"] * 4
    + ["connect"] * 6
    + ["one_end_notices_a_cut_first"] * 4
    + ["take_slowly", "take_quickly", "reset", "move"]
)
SETBACKS = ["set_back", "rider_starts_anew", "anchor_starts_anew"]
"""What may cost streams; the plan decides whether such things happen at all."""


class Story:
    """What one end takes from a stream is what the other end put into it, from the first byte on, and all of it once
    the connection holds. Streams are told apart by birth and number."""

    def __init__(self) -> None:
        self.wire = Wire()
        self.life = [1, 0]
        self.put: dict[str, dict[tuple[int, int], bytes]] = {"anchor": defaultdict(bytes), "rider": defaultdict(bytes)}
        self.given_up: set[tuple[int, int]] = set()

    def step(self, name: str, to: str, size: int) -> None:
        getattr(self, name)(to, size)
        for end, streams in self.wire.taken.items():
            for stream, data in streams.items():
                assert self.put[end][stream].startswith(data)
        for events in self.wire.heard.values():
            assert not [event for event in events if isinstance(event, Turned)], "nothing fails by itself"

    def end_well(self) -> None:
        self.wire.holding = False
        self.wire.pass_on()
        self.connect("", 0)
        self.wire.settle()
        for end, streams in self.put.items():
            for stream, data in streams.items():
                if stream[0] == self.wire.anchor.birth and stream not in self.given_up:
                    assert self.wire.taken[end][stream] == data

    def carry(self, to: str, size: int) -> None:
        self.wire.carry(to, size)

    def send(self, to: str, size: int) -> None:
        source = self.wire.end("rider" if to == "anchor" else "anchor")
        if not source.streams:
            return
        number = sorted(source.streams)[size % len(source.streams)]
        size = min(size, source.room(number))
        if size:
            key = (source.birth, number)
            start = len(self.put[to][key])
            self.put[to][key] += bytes((start + at + source.birth) % 251 for at in range(size))
            source.send(number, self.put[to][key][start:])

    def open(self, _to: str, _size: int) -> None:
        open_stream(self.wire)

    def connect(self, _to: str, size: int) -> None:
        self.wire.connect(*self.life)
        if size % 3:
            self.wire.carry("anchor", 200)
            self.wire.carry("rider", 200)

    def one_end_notices_a_cut_first(self, to: str, _size: int) -> None:
        self.wire.end(to).disconnected()
        self.wire.flying[to] = b""

    def take_slowly(self, _to: str, _size: int) -> None:
        self.wire.holding = True

    def take_quickly(self, _to: str, _size: int) -> None:
        self.wire.holding = False
        self.wire.pass_on()

    def reset(self, _to: str, size: int) -> None:
        if numbers := sorted(self.wire.anchor.streams):
            number = numbers[size % len(numbers)]
            self.wire.anchor.reset(number, "changed my mind")
            self.given_up.add((self.wire.anchor.birth, number))

    def move(self, to: str, size: int) -> None:
        self.life[0] += 1
        self.connect(to, size)

    def set_back(self, to: str, size: int) -> None:
        self.life[1] += 1
        self.move(to, size)

    def rider_starts_anew(self, _to: str, _size: int) -> None:
        self.wire.cut()
        self.wire.rider = RiderEnd("s", "a")

    def anchor_starts_anew(self, _to: str, _size: int) -> None:
        self.wire.cut()
        births = iter(range(self.wire.anchor.birth + 1000, 1 << 30))
        self.wire.anchor = AnchorEnd("s", "a", draw=births.__next__)


Plan = list[tuple[str, str, int]]


def steps(names: list[str]) -> st.SearchStrategy[Plan]:
    one = st.tuples(st.sampled_from(names), st.sampled_from(["anchor", "rider"]), st.integers(1, 100))
    return st.lists(one, min_size=50, max_size=300)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, changes in SMALL.items():
        for name, value in changes.items():
            monkeypatch.setattr(module, name, value)


EACH = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def tell(plan: Plan) -> Story:
    story = Story()
    story.wire.connect()
    story.wire.settle()
    story.open("", 0)
    for name, to, size in plan:
        story.step(name, to, size)
    story.end_well()
    return story


@EACH
@given(plan=steps(STEPS))
def test_connections_cut_at_any_byte_lose_double_and_reorder_nothing(small: None, plan: Plan) -> None:
    story = tell(plan)
    for end in ("anchor", "rider"):
        assert TunnelReset not in story.wire.kinds(end)


@EACH
@given(plan=steps(STEPS + SETBACKS))
def test_setbacks_reset_streams_but_never_mix_or_double_them(small: None, plan: Plan) -> None:
    tell(plan)
