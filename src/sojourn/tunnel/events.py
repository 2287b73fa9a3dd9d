"""What a tunnel's end tells its owner, in order. All are in the past tense: they have happened."""

from __future__ import annotations


class Event:
    __slots__: tuple[str, ...] = ()

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__)
        return f"{type(self).__name__}({fields})"


class Agreed(Event):
    """Both ends go on; `resumed` when streams may be open."""

    __slots__ = ("incarnation", "resumed")

    def __init__(self, incarnation: int, resumed: bool) -> None:
        self.incarnation = incarnation
        self.resumed = resumed


class Turned(Event):
    """This connection is of no use; close it. The tunnel is as it was, another connection may do better."""

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason


class TunnelReset(Event):
    """Every stream is gone, without a StreamReset of its own; the tunnel starts from zero."""

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason


class StreamOpened(Event):
    """The other end opened a stream."""

    __slots__ = ("stream", "target")

    def __init__(self, stream: int, target: str) -> None:
        self.stream = stream
        self.target = target


class DataReceived(Event):
    """`data` lies in the tunnel's buffer: use it or copy it before the next call to the tunnel's end."""

    __slots__ = ("data", "stream")

    def __init__(self, stream: int, data: memoryview) -> None:
        self.stream = stream
        self.data = data


class StreamEnded(Event):
    """The other end sends no more on this stream; this end still may."""

    __slots__ = ("stream",)

    def __init__(self, stream: int) -> None:
        self.stream = stream


class StreamReset(Event):
    """The stream is gone."""

    __slots__ = ("reason", "stream")

    def __init__(self, stream: int, reason: str) -> None:
        self.stream = stream
        self.reason = reason


class RoomGrew(Event):
    """More may be sent: on this stream, or (None) on any."""

    __slots__ = ("stream",)

    def __init__(self, stream: int | None) -> None:
        self.stream = stream
