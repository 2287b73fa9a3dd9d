"""This node's images: told of, fetched from a registry, brought to other nodes and taken in from them.

An image comes by a connection to the data port, with a ticket that says which image it will be: packed (zstd) as
podman saves it. The frame's end is the end of it; the answer is one line.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import zstandard

from sojourn.agent.data_port import Claims
from sojourn.agent.departures import in_own_thread
from sojourn.agent.links import AnsweredLink, DialledLink
from sojourn.agent.runner import Runner
from sojourn.errors import Busy, SandboxFailed, SojournError, Unknown, Unreachable, from_wire
from sojourn.model import Image
from sojourn.sandbox import images
from sojourn.sandbox.rootfs import require_room
from sojourn.transport.lines import decode_line, encode_line
from sojourn.transport.routes import Routes
from sojourn.wire import (
    ImageFetched,
    ImageProgressed,
    ImageRemoved,
    ImagesFound,
    LookForImages,
    PullImage,
    RemoveImage,
    SendImage,
)

log = logging.getLogger(__name__)

BEAT_SECONDS = 0.5
"""Between two words on how far it is."""
SILENCE_SECONDS = 60.0
"""After so long without a byte the other end is gone."""
_UNPACKING_SECONDS = 900.0
"""For podman to put away what has come."""
_PIECE = 1 << 20
_LEVEL = 1
"""zstd's: quicker than podman reads and writes, and most of what there is to gain."""


@dataclass
class Tally:
    """How far an image is."""

    total_bytes: int = 0
    done_bytes: int = 0
    step: str = ""


class NodeImages:
    """All methods run in the event loop; podman works in threads."""

    def __init__(self, runner: Runner, relay: Callable[[], str] = lambda: "") -> None:
        """`relay()`: host:port of the controller's, by which nodes are reached that can't be dialled themselves."""
        self._runner, self._relay = runner, relay
        runner.carry(LookForImages, self._look)
        runner.carry(PullImage, self._pull)
        runner.carry(SendImage, self._send)
        runner.carry(RemoveImage, self._remove)

    # ── instructions ─────────────────────────────────────────────────────────────────────────────────────────

    async def _look(self, asked: LookForImages) -> None:
        found: tuple[Image, ...] = ()
        error = None
        try:
            found = await in_own_thread("images", partial(_found, asked.reference))
        except Exception as failed:
            error = _as_error(failed).to_wire()
        self._runner.tell(ImagesFound(request=asked.request, images=found, error=error))

    async def _pull(self, asked: PullImage) -> None:
        tally = Tally()

        def said(line: str) -> None:
            tally.step = line[:200]

        await self._fetch(asked.request, tally, lambda: images.pull(asked.reference, said))

    async def _send(self, asked: SendImage) -> None:
        def work() -> None:
            routes = Routes(asked.target, asked.address, self._relay(), asked.authority)
            send(asked.image, routes, asked.ticket, lambda _: None)

        try:
            await in_own_thread(f"send {asked.image[:8]}", work)
        except Exception as failed:
            error = _as_error(failed)
            log.warning("image %s could not be sent to %s: %s", asked.image[:12], asked.target, error.message)
            self._runner.tell(ImageFetched(request=asked.request, error=error.to_wire()))

    async def _remove(self, asked: RemoveImage) -> None:
        error = None
        try:
            await in_own_thread("images", partial(self._remove_unused, asked.reference))
        except Exception as failed:
            error = _as_error(failed).to_wire()
        self._runner.tell(ImageRemoved(request=asked.request, error=error))

    def _remove_unused(self, reference: str) -> None:
        """podman does not know who has its layers below an overlay. Raises Busy, Refused."""
        image = images.find(reference)
        for attendance in list(self._runner.attended.values()):
            if attendance.sandbox.facts.get("image") == image.id:
                raise Busy(
                    f"Session {attendance.life.session[:12]} runs from image {reference} on {self._runner.node.name}.",
                    "End or move it first.",
                )
        images.remove(reference)

    # ── what comes ───────────────────────────────────────────────────────────────────────────────────────────

    async def admit(self, connection: socket.socket, claims: Claims) -> None:
        """Somebody with the ticket of an image is at the data port."""
        link = AnsweredLink(connection, claims["relayed"])
        tally = Tally(claims["size_bytes"], step="on its way")

        def work() -> Image:
            return receive(link.socket, claims["image"], claims["name"], tally)

        self._runner.spawn(self._fetch(claims["request"], tally, work))

    async def _fetch(self, request: str, tally: Tally, work: Callable[[], Image]) -> None:
        """Tell how far it is until it is there, or can't be; and then that."""
        beating = asyncio.create_task(self._beat(request, tally))
        try:
            told = ImageFetched(request=request, image=await in_own_thread(f"image {request[:8]}", work))
        except Exception as failed:
            error = _as_error(failed)
            log.warning("an image could not be fetched: %s", error.message)
            told = ImageFetched(request=request, error=error.to_wire())
        finally:
            beating.cancel()
        self._runner.tell(told)

    async def _beat(self, request: str, tally: Tally) -> None:
        while True:
            self._runner.tell(
                ImageProgressed(
                    request=request, done_bytes=tally.done_bytes, total_bytes=tally.total_bytes, step=tally.step
                )
            )
            await asyncio.sleep(BEAT_SECONDS)


# ── the two ends of a connection, each in a thread ───────────────────────────────────────────────────────────


def send(image: str, routes: Routes, ticket: str, sent: Callable[[int], None]) -> None:
    """Bring an image of this machine to a node. `sent(bytes)`: of it, so far. Raises Unreachable, SandboxFailed, and
    what the node answers with."""
    link = DialledLink(routes, ticket)
    try:
        link.socket.settimeout(SILENCE_SECONDS)
        with suppress(OSError):  # whoever hangs up has said why
            _pour(image, link.socket, sent)
        link.socket.settimeout(_UNPACKING_SECONDS)
        answer = decode_line(_line(link.socket))
    except OSError as cut:
        raise Unreachable(f"The connection ended before the image was there: {cut}.", "Try again.") from cut
    finally:
        link.close()
    if not answer.get("ok"):
        raise from_wire(answer.get("error", {}))


def receive(connection: socket.socket, image: str, name: str, tally: Tally) -> Image:
    """Take in what `send` brings. Raises DoesNotFit, SandboxFailed, Unreachable; whoever sends is told as well."""
    try:
        connection.settimeout(SILENCE_SECONDS)
        # podman puts an archive into a file before it reads it.
        require_room(images.free_bytes(), 2 * tally.total_bytes, f"image {name}", "Free some there.")
        found = images.load(_unpacked(connection, tally), image, name)
    except Exception as failed:
        _answer(connection, {"ok": False, "error": _as_error(failed).to_wire()})
        raise
    _answer(connection, {"ok": True})
    return found


def _pour(image: str, connection: socket.socket, sent: Callable[[int], None]) -> None:
    packer = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).compressobj()
    total = 0
    with images.saved(image) as stream:
        while piece := stream.read(_PIECE):
            connection.sendall(packer.compress(piece))
            sent(total := total + len(piece))
    connection.sendall(packer.flush())  # not before podman has said that this was all


def _unpacked(connection: socket.socket, tally: Tally) -> Iterator[bytes]:
    unpacker = zstandard.ZstdDecompressor().decompressobj()
    while not unpacker.eof:
        packed = connection.recv(_PIECE)
        if not packed:
            raise Unreachable("The image did not come whole: its sender has hung up.", "Try again.")
        piece = unpacker.decompress(packed)
        tally.done_bytes += len(piece)
        yield piece
    tally.step = "podman puts it away"


def _answer(connection: socket.socket, message: dict[str, object]) -> None:
    """And close, once what still comes has been read: bytes unread would reset the connection, the answer with it."""
    with connection, suppress(OSError):
        connection.sendall(encode_line(message))
        connection.settimeout(BEAT_SECONDS)
        while connection.recv(_PIECE):
            pass


def _line(connection: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        more = connection.recv(65536)
        if not more:
            raise ConnectionResetError("hung up")
        line += more
    return line


def _found(reference: str) -> tuple[Image, ...]:
    if not reference:
        return tuple(images.images())
    try:
        return (images.find(reference),)
    except Unknown:
        return ()


def _as_error(failed: BaseException) -> SojournError:
    if isinstance(failed, SojournError):
        return failed
    if not isinstance(failed, OSError):
        log.error("a defect in the agent, at an image", exc_info=failed)
    return SandboxFailed(f"{type(failed).__name__}: {failed}.", "The agent's log has the details.")
