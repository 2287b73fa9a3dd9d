"""The resumable sequence, sending side: every numbered frame stays here until the other end has acknowledged it."""

from __future__ import annotations

from collections import deque

from sojourn.errors import TunnelFailed


class _Frame:
    __slots__ = ("numbered", "pieces", "size")

    def __init__(self, pieces: tuple[bytes | memoryview, ...], numbered: bool) -> None:
        self.pieces = pieces
        self.size = sum(map(len, pieces))
        self.numbered = numbered


class Outbox:
    """Frames in the order of their sending.

    Positions count bytes of numbered frames and always lie between two frames: a frame that was cut by the loss of a
    connection is sent again as a whole.
    """

    __slots__ = ("_offset", "_sent", "_unsent", "end", "kept", "unsent_bytes")

    def __init__(self) -> None:
        self.kept = 0
        """Everything below this position is acknowledged and gone."""
        self.end = 0
        """The position after the last frame."""
        self.unsent_bytes = 0
        self._sent: deque[_Frame] = deque()
        self._unsent: deque[_Frame] = deque()
        self._offset = 0
        """Bytes of the first unsent frame that the connection has already taken."""

    @property
    def kept_bytes(self) -> int:
        """What is not acknowledged, sent or not."""
        return self.end - self.kept

    def put(self, *pieces: bytes | memoryview) -> None:
        """Number a frame and queue it. Its pieces are not copied, so they must never change."""
        frame = _Frame(pieces, True)
        self._unsent.append(frame)
        self.unsent_bytes += frame.size
        self.end += frame.size

    def interject(self, whole: bytes) -> None:
        """Queue an unnumbered frame before all numbered ones, but never into the middle of one."""
        frame = _Frame((whole,), False)
        at = 1 if self._offset else 0
        while at < len(self._unsent) and not self._unsent[at].numbered:
            at += 1
        self._unsent.insert(at, frame)
        self.unsent_bytes += frame.size

    @property
    def cut(self) -> bool:
        """Whether the connection has taken a part of a frame."""
        return self._offset > 0

    def pieces(self, limit: int, most: int, numbered: bool = True) -> list[memoryview]:
        """What to send next: about `limit` bytes in about `most` pieces, none of a numbered frame if so asked.

        Nothing is taken out: that is what `sent` does.
        """
        found: list[memoryview] = []
        skip = self._offset
        for frame in self._unsent:
            if frame.numbered and not numbered:
                break
            for piece in frame.pieces:
                view = memoryview(piece)
                if skip >= len(piece):
                    skip -= len(piece)
                    continue
                found.append(view[skip:] if skip else view)
                limit -= len(piece) - skip
                skip = 0
            if limit <= 0 or len(found) >= most:
                break
        return found

    def sent(self, count: int) -> None:
        """The connection has taken `count` more bytes."""
        self.unsent_bytes -= count
        self._offset += count
        while self._unsent and self._offset >= self._unsent[0].size:
            frame = self._unsent.popleft()
            self._offset -= frame.size
            if frame.numbered:
                self._sent.append(frame)

    def acknowledge(self, position: int) -> None:
        """The other end has everything up to `position`; raises TunnelFailed if that can't be."""
        while self._sent and self.kept < position:
            self.kept += self._sent.popleft().size
        if self.kept != position:
            raise TunnelFailed(f"The other end of the tunnel acknowledged position {position}, where no frame ends.")

    def rewind(self, position: int) -> None:
        """On a new connection: go on from `position`, sending again what the other end lacks.

        Raises TunnelFailed, with nothing changed, if no frame begins there.
        """
        self.disconnected()
        at, count = self.kept, 0
        while at < position and count < len(self._unsent):
            at += self._unsent[count].size
            count += 1
        if at != position:
            raise TunnelFailed(f"No frame begins at position {position}; {self.kept} to {self.end} are kept.")
        for _ in range(count):
            self.unsent_bytes -= self._unsent.popleft().size
        self.kept = position

    def disconnected(self) -> None:
        """Nothing is under way any more: all that is kept is unsent again, the unnumbered is forgotten."""
        self._sent.extend(frame for frame in self._unsent if frame.numbered)
        self._unsent, self._sent = self._sent, self._unsent
        self._sent.clear()
        self._offset = 0
        self.unsent_bytes = self.kept_bytes
