"""The source's half of a move by CRIU."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sojourn.errors import MoveFailed
from sojourn.model import Shipment, Sight, Strategy
from sojourn.movers import environment
from sojourn.movers.base import Facts, HangUp, Link, Note, Tell
from sojourn.movers.connections import Connection
from sojourn.movers.criu import ground, images
from sojourn.movers.criu.draft import Draft
from sojourn.movers.criu.service import memory_folder
from sojourn.movers.criu.standstill import CriuStandstill, boot_id, opened_folder
from sojourn.movers.inspection import inspect, shares_memory
from sojourn.movers.pager.ahead import Ranges, small_memory
from sojourn.movers.pager.lines import Lines
from sojourn.movers.parcels import Parcels
from sojourn.movers.processes import start_module
from sojourn.sandbox import canary
from sojourn.sandbox.kept_layers import remembered
from sojourn.sandbox.layer import Index
from sojourn.sandbox.rootfs import require_room
from sojourn.sandbox.runc import RuncSandbox
from sojourn.wire import SessionSent, ShipmentProgressed

PAGE_CONNECTIONS = 3
"""One for faults, two for the bulk."""
_FAR_SECONDS = 0.002
"""A round trip from which on a fault takes longer than it takes a core to compare what would spare it."""
_LONG_SEND_SECONDS = 1.0
"""A layer that took longer to send ahead is sent ahead again: what changed meanwhile should not wait for the freeze."""
_MOST_SENDS_AHEAD = 4


class CriuDeparture(CriuStandstill):
    """See `base.Departure`."""

    direct = True
    """Where both agents share a kernel, memory is handed over instead of sent."""

    def __init__(
        self, sandbox: RuncSandbox, move: str, strategy: Strategy, *, tell: Tell, note: Note, hang_up: HangUp
    ) -> None:
        super().__init__(sandbox, move, tell=tell, note=note, hang_up=hang_up)
        self._strategy = strategy
        self._target_is_far = False
        self._draft = Draft()

    @classmethod
    def recover(
        cls,
        sandbox: RuncSandbox,
        move: str,
        strategy: Strategy,
        facts: Facts,
        *,
        tell: Tell,
        note: Note,
        hang_up: HangUp,
    ) -> CriuDeparture:
        """After a crash of the agent. When `resumed` is still true, the caller has to `roll_back`."""
        departure = cls(sandbox, move, strategy, tell=tell, note=note, hang_up=hang_up)
        departure._remember(facts)
        departure.resumed = facts.get("phase") != "sent"
        canary.forget(sandbox.shared, move, sandbox.user)
        return departure

    def _go(self, link: Link | None) -> None:
        if link is None:
            raise MoveFailed(f"Session {self._name} can't be moved without a connection to its target.")
        parcels = Parcels(link.socket)
        with contextlib.ExitStack() as stack:
            meeting, sent = self._greet(parcels, stack)
            source = None if meeting else self._start_page_source(link, stack)
            if not meeting:
                self._draft = Draft.of(self._sandbox.pids() if self._paged else ())
                self._draft.send(parcels)
            with self._memory_going_ahead(source):
                sent = self._send_layer_ahead(parcels, sent)

            def beside() -> None:
                self._send_beside_dump(parcels, sent, meeting or source)

            with self._standing_still(beside) as outside:
                self._send_session(parcels, meeting, outside)

    def _greet(self, parcels: Parcels, stack: contextlib.ExitStack) -> tuple[Lines | None, Index]:
        """Agree on the way the memory goes: over a Unix socket when both are on one machine, else None; and on what of
        the layer need not be sent. Raises Incompatible when a folder that the session shares is another one there, and
        DoesNotFit."""
        sandbox, (came_by, came), meeting = self._sandbox, remembered(self._sandbox.folder), None
        with canary.canaries(sandbox.shared, self._move, sandbox.user) as seen:
            parcels.send(
                move=self._move, strategy=self._strategy, boot=boot_id(), origin=sandbox.origin, came_by=came_by
            )
            answer = parcels.receive()
        there = {path: Sight(**sight) for path, sight in answer["shared"].items()}
        canary.require_same(seen, f"node {sandbox.plan.node}", there, f"node {answer['node']}")
        sent = self._require_room(answer, came)
        if answer["stranger"]:
            self._send_environment(parcels)
        self._paged = self._strategy == "lazy" or (bool(answer["pager"]) and not shares_memory(inspect(self._sandbox)))
        # The target may be lying about the kernel it shares; a path of its choice would lead to other people's sockets.
        if answer["meet"] == str(meeting_place(self._move)) and self.direct:
            with contextlib.suppress(OSError):
                connection = stack.enter_context(socket.socket(socket.AF_UNIX))
                connection.connect(answer["meet"])
                meeting = Lines(connection)
        parcels.send(direct=meeting is not None, paged=self._paged)
        return meeting, sent

    def _send_environment(self, parcels: Parcels) -> None:
        """What the session stands on here, to a node with another root; while it runs."""
        found = ground.environment_of(self._sandbox)
        ground.require_complete(self._sandbox, found)
        parcels.send(ground=ground.named(found))
        environment.send(parcels, ground.depot_of(self._sandbox), found, self._shipped)

    def _shipped(self, done_bytes: int, total_bytes: int) -> None:
        shipment = Shipment(what="environment", done_bytes=done_bytes, total_bytes=total_bytes)
        session = self._sandbox.plan.session
        self._tell(ShipmentProgressed(move=self._move, session=session, shipment=shipment))

    def _require_room(self, answer: dict[str, Any], came: Index) -> Index:
        """What of the layer is there already. Raises DoesNotFit when there is no room for the rest."""
        kept = answer["kept"]
        size = self._sandbox.layer.size_bytes() - (kept or 0)
        require_room(answer["free"], size, f"the files of session {self._name} on node {answer['node']}")
        return came if kept is not None else {}

    def commit(self) -> None:
        super().commit()
        if not self.resumed:
            self._sandbox.keep_layer(self._move)

    def _start_page_source(self, link: Link, stack: contextlib.ExitStack) -> Lines | None:
        """It gets its connections now, and will get its tasks when they stand still."""
        if not self._paged:
            return None
        pages = [stack.enter_context(link.open()) for _ in range(PAGE_CONNECTIONS)]
        ours, theirs = socket.socketpair()
        numbers = [theirs.fileno(), *(connection.fileno() for connection in pages)]
        with theirs:
            self._page_source = start_module(
                "sojourn.movers.pager.source", [str(number) for number in numbers], numbers, self._folder
            )
        return Lines(stack.enter_context(ours))

    @contextlib.contextmanager
    def _memory_going_ahead(self, source: Lines | None) -> Iterator[None]:
        """While the session runs; again, if it took long. Not to a near target, from which a page comes so quickly that
        comparing would cost more."""
        with ThreadPoolExecutor(1) as beside:
            going = beside.submit(self._send_memory_ahead, source) if source else None
            try:
                yield
            except BaseException:
                if self._page_source:
                    self._page_source.kill()
                raise
            if going:
                going.result()

    def _send_memory_ahead(self, source: Lines) -> None:
        self._target_is_far = min(self._ahead_s(source, {}) for _ in range(3)) > _FAR_SECONDS
        for _ in range(_MOST_SENDS_AHEAD if self._target_is_far else 0):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a task ended: what is there is enough
                if self._ahead_s(source, small_memory(self._hand_over(source))) < _LONG_SEND_SECONDS:
                    return

    def _ahead_s(self, source: Lines, ranges: Ranges) -> float:
        """Have these ranges go ahead; how many seconds it took until they were there."""
        began = time.monotonic()
        source.send({"do": "ahead", "ranges": ranges})
        if not source.receive():
            raise MoveFailed("The page source ended before the session was frozen.", "Is the target's agent running?")
        return time.monotonic() - began

    def _send_layer_ahead(self, parcels: Parcels, sent: Index) -> Index:
        """While the session runs; `sent` is there already. Returns the index of what then is."""
        layer = self._sandbox.layer
        for _ in range(_MOST_SENDS_AHEAD):
            began, now = time.monotonic(), layer.index()
            parcels.send(layer="ahead")
            parcels.send_stream(layer.delta(sent, now))
            parcels.expect("applied")
            sent = now
            if time.monotonic() - began < _LONG_SEND_SECONDS:
                break
        return sent

    def _send_beside_dump(self, parcels: Parcels, sent: Index, memory: Lines | None) -> None:
        """What the tasks left in files, and access to their memory: both are settled once they stand still."""
        sandbox = self._sandbox
        parcels.send(layer="last")
        parcels.send_stream(sandbox.layer.delta(sent, always=sandbox.restless_files()))
        self._mark("layer sent")
        if memory and self._paged:
            tasks = self._hand_over(memory)
            memory.send({"do": "begin", "ranges": small_memory(tasks) if self._target_is_far else {}})

    def _send_session(self, parcels: Parcels, meeting: Lines | None, outside: list[Connection]) -> None:
        sandbox, sizes = self._sandbox, images.image_sizes(self._folder)
        self._note_phase("sent")
        self.resumed = False
        parcels.send(
            images=sizes,
            frozen_at=self._frozen_at,
            frozen_for=time.monotonic() - (self._frozen_at or 0),
            marks=self._marks,
            outside=[connection.to_wire() for connection in outside],
        )
        if meeting:
            with opened_folder(self._folder) as number:
                meeting.send({"do": "images"}, [number])
        else:
            parcels.send_stream(images.contents(self._folder, sizes, self._draft))
        self._tell(SessionSent(move=self._move, session=sandbox.plan.session))


def meeting_place(move: str) -> Path:
    """Where the target listens for a source on its own machine; in a folder of this user alone."""
    return memory_folder() / f"{move}.in" / "meeting.socket"
