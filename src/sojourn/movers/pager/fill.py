"""The filling of address spaces: which page goes where, and when all are in.

One thread does everything here, so between looking what happened in an address space and putting a page into it
nothing can come between: the kernel refuses to copy while something stands unread (EAGAIN), and no other thread reads.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from sojourn.errors import MoveFailed, SojournError
from sojourn.movers.pager.frames import runs
from sojourn.movers.pager.pieces import PAGE, Piece, Pieces
from sojourn.movers.pager.supply import Buffer, Order, Supply
from sojourn.movers.pager.userfault import Dropped, Fault, Forked, Happening, Moved, Userfault

AROUND = 16 * PAGE
"""A fault brings this much from its address on: programs mostly go upwards. What comes next is the bulk's affair."""
STRIDE = 1 << 20
"""What is filled between two looks at the faults: a third of a millisecond."""
SMALL = 8 << 20
"""What lies in one piece up to this size is not a heap of data but what the program itself is made of."""
BULK_ORDERS = 8
URGENT_BUFFERS = 64


@dataclass(eq=False)
class Space:
    """One address space: a task's, or a fork's."""

    userfault: Userfault
    task: int
    """The task at the source that has its pages, as the sandbox numbers it."""
    pending: Pieces
    """Not ordered yet."""
    ordered: list[Landing] = field(default_factory=list)

    def cut(self, start: int, end: int) -> int:
        """The program gave a range back; returns how many bytes are not wanted any more."""
        found = [self.pending.cut(start, end), *(landing.pieces.cut(start, end) for landing in self.ordered)]
        return sum(piece.end - piece.start for pieces in found for piece in pieces)

    def move(self, moved: Moved) -> None:
        for pieces in (self.pending, *(landing.pieces for landing in self.ordered)):
            pieces.move(moved.start, moved.length, moved.to)

    def unfilled(self) -> Pieces:
        """What a fork of it misses too."""
        together = Pieces(self.pending)
        for landing in self.ordered:
            together.add(landing.pieces)
        return together

    def awaits(self, address: int) -> bool:
        return any(landing.pieces.at(address) for landing in self.ordered)


@dataclass(eq=False)
class Landing:
    """An order and where its bytes are to go, which may change while they are on their way."""

    space: Space
    order: Order
    pieces: Pieces
    urgent: bool


class Fill:
    """Fills address spaces from two supplies: `urgent` for faults, `bulk` for the rest."""

    def __init__(self, urgent: Supply, bulk: Supply, on_fork: Callable[[Space], None]) -> None:
        self.total_bytes = 0
        self.filled_bytes = 0
        self.dropped_bytes = 0
        """Given back by the program before its pages came."""
        self.faults = 0
        self.restored = False
        """CRIU is done: every range is registered, so all can be filled."""
        self.only_small = False
        """What is big waits, but for faults."""
        self.spaces: dict[int, Space] = {}
        """By the number of their descriptor."""
        self._supplies = {True: urgent, False: bulk}
        self._free = {
            True: [Buffer(AROUND) for _ in range(URGENT_BUFFERS)],
            False: [Buffer(STRIDE) for _ in range(BULK_ORDERS)],
        }
        self._landings: dict[Order, Landing] = {}
        self._arrived: dict[bool, deque[Landing]] = {True: deque(), False: deque()}
        self._unheeded: deque[tuple[Space, int]] = deque()
        """Faults that came while all buffers were on their way: a program of a hundred threads has as many at once."""
        self._cursor: tuple[Space, int] | None = None
        self._small: deque[tuple[Space, int, int]] | None = None
        self._on_fork = on_fork

    @property
    def done(self) -> bool:
        """Every page is in, or was given back."""
        return self.restored and self.filled_bytes + self.dropped_bytes == self.total_bytes

    @property
    def received_bytes(self) -> int:
        return sum(supply.received_bytes for supply in self._supplies.values())

    @property
    def has_work(self) -> bool:
        """Something can be done without waiting."""
        return any(self._arrived.values()) or any(supply.tray for supply in self._supplies.values())

    def add(self, descriptor: int, task: int, pieces: Iterable[Piece]) -> Space:
        """Fill one more address space, whose userfaultfd this is."""
        space = Space(Userfault(descriptor), task, Pieces(pieces))
        self.spaces[descriptor] = space
        self.total_bytes += space.pending.bytes
        return space

    def look(self, space: Space) -> None:
        """Read and carry out what happened in an address space."""
        for happening in space.userfault.read():
            self._happened(space, happening)

    def step(self) -> None:
        """Put in what was asked for by faults and at most one stride more, and keep the supplies busy."""
        if not self.restored:
            self._require_supplies()
        for urgent, supply in self._supplies.items():
            while supply.tray:
                self._accept(supply.tray.popleft(), urgent)
        self._land_some(self._arrived[True], URGENT_BUFFERS * AROUND)
        while self._unheeded and self._free[True]:
            self._fault(*self._unheeded.popleft())
        if self.restored:
            self._land_some(self._arrived[False], STRIDE)
            self._order_more()

    def _require_supplies(self) -> None:
        """What came ahead may do for a thaw, but a session that can't be filled afterwards had better not be thawed."""
        if broken := next((supply.broken for supply in self._supplies.values() if supply.broken), None):
            raise MoveFailed(f"The pages can't be had any more: {broken}.", "The session goes back to its source.")

    def close(self) -> None:
        """Let go of the address spaces: what misses a page from here on gets zeros."""
        for space in self.spaces.values():
            space.userfault.close()
        self.spaces.clear()

    # ── what happens in an address space ──

    def _happened(self, space: Space, happening: Happening) -> None:
        match happening:
            case Fault(address):
                self.faults += 1
                self._fault(space, address)
            case Dropped(start, end):
                self.dropped_bytes += space.cut(start, end)
            case Moved():
                space.move(happening)
            case Forked(descriptor):
                self._on_fork(self.add(descriptor, space.task, space.unfilled()))

    def _fault(self, space: Space, address: int) -> None:
        piece = space.pending.at(address)
        if piece is None:
            if not space.awaits(address):
                self._zero(space, address)
        elif self._free[True]:
            end = min(piece.end, address + AROUND)
            self._order(space, piece.part(address, end), urgent=True)
            self._cursor = (space, end)
        else:
            self._unheeded.append((space, address))

    def _zero(self, space: Space, address: int) -> None:
        """No image has this page: it is as fresh as the program's memory was."""
        _, failed = space.userfault.zero(address, PAGE)
        if failed == errno.EEXIST:
            space.userfault.wake(address, PAGE)
        elif failed == errno.EAGAIN:
            self.look(space)
            self._fault(space, address)

    # ── ordering ──

    def _order(self, space: Space, piece: Piece, urgent: bool) -> None:
        taken = space.pending.cut(piece.start, piece.end)
        order = Order(space.task, piece.origin, piece.end - piece.start, self._free[urgent].pop())
        landing = Landing(space, order, Pieces(taken), urgent)
        self._landings[order] = landing
        space.ordered.append(landing)
        self._supplies[urgent].order(order)

    def _order_more(self) -> None:
        while self._free[False] and (found := self._next_piece()):
            space, piece = found
            end = min(piece.end, piece.start + STRIDE)
            self._order(space, piece.part(piece.start, end), urgent=False)
            self._cursor = (space, end)

    def _next_piece(self) -> tuple[Space, Piece] | None:
        """What is small first, then from where the last fault was upwards: there the program will come next."""
        small = self._next_small()
        if small or self.only_small:
            return small
        if self._cursor:
            space, address = self._cursor
            if piece := space.pending.after(address):
                return space, piece.part(max(piece.start, address), piece.end)
        for space in self.spaces.values():
            if piece := space.pending.after(0):
                return space, piece
        return None

    def _next_small(self) -> tuple[Space, Piece] | None:
        """Nothing goes on for long without the program's own pages, the rider's before all: no client hears anything
        until they are in."""
        if self._small is None:
            self._small = deque(small_extents(self.spaces.values()))
        while self._small:
            space, start, end = self._small[0]
            piece = space.pending.after(start)
            if piece and piece.start < end:
                return space, piece.part(max(piece.start, start), min(piece.end, end))
            self._small.popleft()
        return None

    # ── landing ──

    def _accept(self, order: Order, urgent: bool) -> None:
        if isinstance(order.failure, SojournError):
            raise order.failure
        if order.failure:
            raise MoveFailed(
                f"The pages of task {order.task} can't be had any more: {order.failure.strerror or order.failure}.",
                "The session goes back to its source.",
            )
        self._arrived[urgent].append(self._landings.pop(order))

    def _land_some(self, arrived: deque[Landing], most_bytes: int) -> None:
        while arrived and most_bytes >= arrived[0].order.length:
            most_bytes -= arrived[0].order.length
            if not self._land(arrived):
                return

    def _land(self, arrived: deque[Landing]) -> bool:
        """False when something happened in the address space: look first."""
        landing = arrived[0]
        for piece in list(landing.pieces):
            if not self._put(landing, piece):
                return False
        arrived.popleft()
        landing.space.ordered.remove(landing)
        self._free[landing.urgent].append(landing.order.buffer)
        return True

    def _put(self, landing: Landing, piece: Piece) -> bool:
        """Fill one piece; False when the rest has to wait for a look at what happened."""
        start = piece.origin - landing.order.address
        for low, high, present in runs(landing.order.blocks, landing.order.length):
            low, high = max(low, start), min(high, start + piece.end - piece.start)
            if low < high and not self._put_run(landing, piece.start + low - start, low, high - low, present):
                return False
        return True

    def _put_run(self, landing: Landing, address: int, offset: int, length: int, present: bool) -> bool:
        userfault, shift = landing.space.userfault, landing.order.buffer.address + offset - address
        end, step = address + length, length
        while address < end:
            step = min(step, end - address)
            done, failed = userfault.copy(address, address + shift, step) if present else userfault.zero(address, step)
            if failed == errno.EEXIST and not done:
                userfault.wake(address, PAGE)
                done, failed = PAGE, 0
            if done:
                self.filled_bytes += done
                landing.pieces.cut(address, address + done)
                address += done
            if failed == errno.ENOENT and step > PAGE:
                step = max(step // 2 // PAGE, 1) * PAGE  # it spans two mappings: go up to the border
            elif failed and not self._forgo(landing, address, failed):
                return False
            elif failed:
                address += PAGE
            else:
                step *= 2
        return True

    def _forgo(self, landing: Landing, address: int, failed: int) -> bool:
        """A page could not be put in. True: go on with the next page; False: look what happened first."""
        space = landing.space
        if failed == errno.EAGAIN:
            return False
        if failed == errno.ENOENT and not self.restored:
            space.pending.add(landing.pieces.cut(address, address + PAGE))  # its mapping is still to come
            return True
        if failed == errno.ENOENT:
            self.dropped_bytes += space.cut(address, address + PAGE)
            return True
        if failed == errno.ESRCH:
            self.dropped_bytes += space.cut(0, 1 << 64)  # the task is gone, and its memory with it
            return False
        raise MoveFailed(
            f"The page at {address:#x} can't be filled in: {os.strerror(failed)}.",
            "The session goes back to its source.",
        )


def small_extents(spaces: Iterable[Space]) -> Iterator[tuple[Space, int, int]]:
    """(space, start, end) of what is small; the smallest space first."""
    for space in sorted(spaces, key=lambda space: space.pending.bytes):
        for start, end in space.pending.extents():
            if end - start <= SMALL:
                yield space, start, end
