"""The law of a tunnel's two ends, across any number of connections.

    AWAY ── connected() ──► GREETING ── HELLO ──► CARRYING
      ▲                        │                     │
      └──── disconnected() ◄───┴── Turned ◄──────────┘

The rider speaks first, the anchor decides: it goes on if both ends know the same birth and their positions fit, and
else draws a new birth, which makes both start from zero. So there is never a silent gap: bytes arrive once and in
order, or their stream is reset.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sojourn.errors import TunnelFailed
from sojourn.tunnel import frames
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
from sojourn.tunnel.frames import ACK, DATA, END, HEADER_BYTES, HELLO, MAX_PAYLOAD, OPEN, REFUSED, RESET, WINDOW, Hello
from sojourn.tunnel.outbox import Outbox
from sojourn.tunnel.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Callable

AWAY, GREETING, CARRYING = "away", "greeting", "carrying"

ALLOWED = {
    AWAY: frozenset[int](),
    GREETING: frozenset({HELLO, REFUSED}),
    CARRYING: frozenset({ACK, OPEN, DATA, WINDOW, END, RESET, REFUSED}),
}

OUTBOX_BYTES = 2 * 1024 * 1024
"""What an end keeps unacknowledged at most; beyond it, `room` is 0."""
UNSENT_BYTES = 512 * 1024
"""What may wait for a slow connection: all of it stands before the next key press."""
ACK_BYTES = 256 * 1024
STALLED_BYTES = OUTBOX_BYTES // 2
"""More than a connection that serves leaves unacknowledged because of a reader that is slow."""
BUFFER_BYTES = 2 * (HEADER_BYTES + MAX_PAYLOAD)
_JOIN_BYTES = 4096
"""Up to here copying a payload to its header costs less than a piece of its own."""


def _draw() -> int:
    return int.from_bytes(os.urandom(7), "big")


class TunnelEnd:
    """What both ends share. Bytes come in by `buffer` and `arrived`, go out by `outgoing` and `sent`."""

    def __init__(self, session: str, anchor: str, draw: Callable[[], int] = _draw) -> None:
        """`draw()` gives numbers that come up once only."""
        self.session = session
        self.anchor = anchor
        self.incarnation = 0
        self.epoch = -1
        self._draw = draw
        self.birth = draw()
        self.state = AWAY
        self.streams: dict[int, Stream] = {}
        self.outbox = Outbox()
        self.received = 0
        """The position up to which every numbered frame has come in."""
        self._acknowledged = 0
        self._last_stream = 0
        self._buffer: memoryview | None = None
        self._begin = self._fill = 0
        self._handlers: dict[int, Callable[[int, memoryview], Event | None]] = {
            ACK: self._on_ack,
            REFUSED: self._on_refused,
            OPEN: self._on_open,
            DATA: self._on_data,
            WINDOW: self._on_window,
            END: self._on_end,
            RESET: self._on_reset,
        }

    # ── the connection below ─────────────────────────────────────────────────────────────────────────────────

    def connected(self, incarnation: int, epoch: int) -> list[Event]:
        """A new connection, in the place of any older one, to a session in this incarnation and epoch.

        Raises TunnelFailed, with nothing changed, when a later incarnation or epoch is known.
        """
        if incarnation < self.incarnation or epoch < self.epoch:
            raise TunnelFailed(
                f"{self.session} is in incarnation {self.incarnation}, epoch {self.epoch}; "
                f"this connection is for {incarnation}, {epoch}.",
                "An older life of the session may still be running; it is not listened to.",
            )
        self.disconnected()
        events = self.begin_epoch(epoch)
        self.incarnation = incarnation
        self.state = GREETING
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        return events

    def begin_epoch(self, epoch: int) -> list[Event]:
        """Streams of an earlier epoch are gone, whatever the other end thinks. Before a connection's HELLO only."""
        if epoch <= self.epoch:
            return []
        known, self.epoch = self.epoch, epoch
        return self._start_from_zero(f"The session was set back (epoch {epoch}).") if known >= 0 else []

    def disconnected(self) -> None:
        """The connection is gone; what it carried in part is forgotten, for it will be sent again."""
        self.state = AWAY
        self._buffer = None
        self._begin = self._fill = 0
        self.outbox.disconnected()

    def buffer(self) -> memoryview:
        """Where to put what comes in; never empty while connected."""
        assert self._buffer is not None, "connected() comes first"
        held = self._fill - self._begin
        if not held or BUFFER_BYTES - self._fill < HEADER_BYTES + MAX_PAYLOAD:
            self._buffer[:held] = self._buffer[self._begin : self._fill]
            self._begin, self._fill = 0, held
        return self._buffer[self._fill :]

    def arrived(self, count: int) -> list[Event]:
        """`count` bytes were put into `buffer()`; what that means, in order.

        The last event is `Turned` when this connection can't go on.
        """
        assert self._buffer is not None, "connected() comes first"
        self._fill += count
        events: list[Event] = []
        try:
            while self._fill - self._begin >= HEADER_BYTES:
                kind, stream, length = frames.decode_header(self._buffer, self._begin)
                end = self._begin + HEADER_BYTES + length
                if end > self._fill:
                    break
                self._take(kind, stream, self._buffer[end - length : end], events)
                self._begin = end
                if events and isinstance(events[-1], Turned):
                    break
        except TunnelFailed as failure:
            events += self._fail(failure)
        return events

    def outgoing(self, limit: int = 1 << 20, most: int = 64) -> list[memoryview]:
        """What to send next, about `limit` bytes in about `most` pieces; say with `sent` how much of it went."""
        if self.state == AWAY:
            return []
        if self.state == CARRYING and self._ack_is_due():
            self._acknowledged = self.received
            self.outbox.interject(frames.encode_ack(self.received))
        return self.outbox.pieces(limit, most, numbered=self.state == CARRYING)

    def sent(self, count: int) -> None:
        self.outbox.sent(count)

    # ── streams ──────────────────────────────────────────────────────────────────────────────────────────────

    def room(self, number: int, urgent: bool = False) -> int:
        """How many bytes `send` takes on this stream now; `urgent` traffic need not wait for that of other streams."""
        stream = self.streams.get(number)
        if stream is None or stream.ended_here:
            return 0
        if urgent:
            return stream.may_send
        room = min(stream.may_send, OUTBOX_BYTES - self.outbox.kept_bytes)
        if self.state == CARRYING:
            room = min(room, UNSENT_BYTES - self.outbox.unsent_bytes)
        return max(0, room)

    @property
    def stalled(self) -> bool:
        """The other end leaves much unacknowledged: the way there is slow, or has ended without a word. That a stream
        has no room then says nothing about who reads it."""
        return self.outbox.kept_bytes > STALLED_BYTES

    def send(self, number: int, data: bytes) -> None:
        """Send `data`, at most the stream's window of it, on an open stream; it is kept, not copied."""
        self.streams[number].sent(len(data))
        if len(data) <= _JOIN_BYTES:
            self.outbox.put(frames.encode(DATA, number, data))
            return
        view = memoryview(data)
        for at in range(0, len(data), MAX_PAYLOAD):
            piece = view[at : at + MAX_PAYLOAD]
            self.outbox.put(frames.header(DATA, number, len(piece)), piece)

    def passed_on(self, number: int, count: int) -> None:
        """`count` received bytes of a stream have left this end: the other may send that much more."""
        stream = self.streams.get(number)
        if stream is not None and not stream.ended_there and (credit := stream.passed_on(count)):
            self.outbox.put(frames.encode_window(number, credit))

    def end(self, number: int) -> None:
        """Send no more on this stream; twice does no harm."""
        stream = self.streams.get(number)
        if stream is None or stream.ended_here:
            return
        stream.ended_here = True
        self.outbox.put(frames.encode(END, number))
        self._forget_if_over(stream)

    def reset(self, number: int, reason: str) -> None:
        """End a stream both ways at once; one that is gone already stays so."""
        if self.streams.pop(number, None):
            self.outbox.put(frames.encode_words(RESET, number, reason))

    # ── for the two kinds of end ─────────────────────────────────────────────────────────────────────────────

    def _greet(self) -> None:
        self.outbox.interject(
            Hello(
                session=self.session,
                anchor=self.anchor,
                incarnation=self.incarnation,
                epoch=self.epoch,
                birth=self.birth,
                received=self.received,
                kept=self.outbox.kept,
                end=self.outbox.end,
            ).encode()
        )

    def _answer(self, hello: Hello) -> list[Event]:
        raise NotImplementedError

    def _may_open(self, number: int) -> bool:
        return False

    def _start_from_zero(self, reason: str) -> list[Event]:
        had_streams = bool(self.streams)
        self.birth = self._draw()
        self.streams.clear()
        self.outbox = Outbox()
        self.received = self._acknowledged = self._last_stream = 0
        return [TunnelReset(reason)] if had_streams else []

    # ── frames ───────────────────────────────────────────────────────────────────────────────────────────────

    def _take(self, kind: int, stream: int, payload: memoryview, events: list[Event]) -> None:
        if kind not in ALLOWED[self.state]:
            raise TunnelFailed(f"The other end of the tunnel sent {frames.NAMES[kind]} while {self.state}.")
        if kind == HELLO:
            events += self._meet(payload)
            return
        if event := self._handlers[kind](stream, payload):
            events.append(event)
        if kind >= OPEN:
            self.received += HEADER_BYTES + len(payload)

    def _meet(self, payload: memoryview) -> list[Event]:
        try:
            hello = Hello.decode(payload)
            self._recognise(hello)
        except TunnelFailed as stranger:
            return self._turn_away(stranger.message)
        events = self._answer(hello)
        if not (events and isinstance(events[-1], Turned)):
            self.state = CARRYING
            self._acknowledged = self.received
            events.append(Agreed(self.incarnation, bool(self.streams)))
        return events

    def _recognise(self, hello: Hello) -> None:
        if hello.version != frames.VERSION:
            raise TunnelFailed(
                f"The other end speaks version {hello.version} of the tunnel, this one {frames.VERSION}."
            )
        if (hello.session, hello.anchor) != (self.session, self.anchor):
            raise TunnelFailed(f"A tunnel of {hello.session} to {hello.anchor} ended at {self.session}, {self.anchor}.")
        if hello.incarnation < self.incarnation or hello.epoch < self.epoch:
            raise TunnelFailed(
                f"The other end is in incarnation {hello.incarnation}, epoch {hello.epoch} of {self.session}; "
                f"{self.incarnation}, {self.epoch} is known here."
            )

    def _resume(self, hello: Hello) -> None:
        """Raises TunnelFailed, with nothing sent, when the two ends' positions don't fit."""
        if not hello.kept <= self.received <= hello.end:
            raise TunnelFailed(
                f"Position {self.received} was received here, the other end kept {hello.kept} to {hello.end}."
            )
        self.outbox.rewind(hello.received)

    def _turn_away(self, reason: str) -> list[Event]:
        self.outbox.interject(frames.encode_words(REFUSED, 0, reason))
        return [Turned(reason)]

    def _fail(self, failure: TunnelFailed) -> list[Event]:
        cut = self.outbox.cut
        events = self._start_from_zero(failure.message)
        self.state = GREETING
        # words put behind a cut frame would be taken for the rest of it
        return [*events, Turned(failure.message)] if cut else events + self._turn_away(failure.message)

    def _on_refused(self, _stream: int, payload: memoryview) -> Event:
        return Turned(frames.decode_words(payload))

    def _on_ack(self, _stream: int, payload: memoryview) -> Event:
        self.outbox.acknowledge(frames.decode_ack(payload))
        return RoomGrew(None)

    def _on_open(self, number: int, payload: memoryview) -> Event:
        if not self._may_open(number):
            raise TunnelFailed(f"The other end of the tunnel opened stream {number} out of turn.")
        self._last_stream = number
        stream = self.streams[number] = Stream(number, frames.decode_words(payload))
        return StreamOpened(number, stream.target)

    def _on_data(self, number: int, payload: memoryview) -> Event | None:
        stream = self.streams.get(number)
        if stream is None:
            return None  # it crossed our RESET
        stream.received(len(payload))
        return DataReceived(number, payload)

    def _on_window(self, number: int, payload: memoryview) -> Event | None:
        credit = frames.decode_window(payload)
        stream = self.streams.get(number)
        if stream is None:
            return None
        stream.granted(credit)
        return RoomGrew(number)

    def _on_end(self, number: int, _payload: memoryview) -> Event | None:
        stream = self.streams.get(number)
        if stream is None:
            return None
        stream.ended_there = True
        self._forget_if_over(stream)
        return StreamEnded(number)

    def _on_reset(self, number: int, payload: memoryview) -> Event | None:
        if self.streams.pop(number, None) is None:
            return None
        return StreamReset(number, frames.decode_words(payload))

    def _forget_if_over(self, stream: Stream) -> None:
        if stream.over:
            del self.streams[stream.number]

    def _ack_is_due(self) -> bool:
        late = self.received - self._acknowledged
        return late >= ACK_BYTES or bool(late and self.outbox.unsent_bytes)


class RiderEnd(TunnelEnd):
    """The far end: greets each connection, and follows the anchor."""

    def connected(self, incarnation: int, epoch: int) -> list[Event]:
        events = super().connected(incarnation, epoch)
        self._greet()
        return events

    def _answer(self, hello: Hello) -> list[Event]:
        if hello.birth == self.birth:
            self._resume(hello)
            return []
        if hello.received:
            raise TunnelFailed(f"The anchor has received {hello.received} bytes of a tunnel this rider never had.")
        events = self._start_from_zero("The anchor began the tunnel anew.")
        self.birth = hello.birth
        return events

    def _may_open(self, number: int) -> bool:
        return number > self._last_stream


class AnchorEnd(TunnelEnd):
    """The near end: opens streams, and decides whether they go on."""

    _offered_to: int | None = None
    """The birth of the rider that was offered this one's: it may have taken it up, and what was sent under it."""

    def open(self, target: str) -> int:
        """Open a stream to `target` inside the sandbox; returns its number."""
        self._last_stream += 1
        number = self._last_stream
        self.streams[number] = Stream(number, target)
        self.outbox.put(frames.encode_words(OPEN, number, target))
        return number

    def _answer(self, hello: Hello) -> list[Event]:
        self.incarnation = hello.incarnation
        events = self.begin_epoch(hello.epoch)
        if hello.birth == self.birth:
            try:
                self._resume(hello)
            except TunnelFailed as failure:
                events += self._start_from_zero(failure.message)
        elif self._offered_to not in (None, hello.birth):
            events += self._start_from_zero("The rider has lost its end of the tunnel.")
        self._offered_to = hello.birth
        self._greet()
        return events

    def _start_from_zero(self, reason: str) -> list[Event]:
        self._offered_to = None
        return super()._start_from_zero(reason)
