"""The target's half of a move by CRIU."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from sojourn.errors import MoveFailed, SojournError
from sojourn.model import Strategy
from sojourn.movers import environment
from sojourn.movers.abilities import has_userfaultfd
from sojourn.movers.base import Facts, Link, Note, Tell
from sojourn.movers.connections import Connection
from sojourn.movers.criu import ground, images
from sojourn.movers.criu.departure import PAGE_CONNECTIONS, meeting_place
from sojourn.movers.criu.draft import Draft
from sojourn.movers.criu.revival import CriuRevival
from sojourn.movers.criu.standstill import boot_id
from sojourn.movers.haste import hastened
from sojourn.movers.pager.lines import Lines
from sojourn.movers.pager.target import listen
from sojourn.movers.parcels import Parcels
from sojourn.sandbox import canary
from sojourn.sandbox.folders import own_of
from sojourn.sandbox.kept_layers import remember
from sojourn.sandbox.layer import Index, size_of
from sojourn.sandbox.runc import RuncSandbox

_MEETING_SECONDS = 10.0
_IS_IT_RUNNING = "Is its agent running?"


class CriuArrival(CriuRevival):
    """See `base.Arrival`."""

    def __init__(self, sandbox: RuncSandbox, move: str, strategy: Strategy, *, tell: Tell, note: Note) -> None:
        super().__init__(sandbox, move, strategy, tell=tell, note=note)
        self._same_kernel = False
        self._came: Index = {}
        """The layer as it came, for the day the session leaves again."""

    @classmethod
    def recover(
        cls, sandbox: RuncSandbox, move: str, strategy: Strategy, facts: Facts, *, tell: Tell, note: Note
    ) -> CriuArrival:
        """After a crash of the agent. When `thawed`, the caller has to `go_on`, else to `abandon`."""
        arrival = cls(sandbox, move, strategy, tell=tell, note=note)
        arrival._remember(facts)
        return arrival

    def prepare(self) -> None:
        self._make_folder()
        self._sandbox.create(mount=False)
        if has_userfaultfd():
            self._start_pager()
            self._attach()

    def receive(self, link: Link | None) -> None:
        if link is None:
            raise MoveFailed(f"Session {self._name} can't be taken in without a connection to its source.")
        try:
            self._receive(link)
        except (SojournError, KeyboardInterrupt):
            raise
        except BaseException as failed:
            raise MoveFailed(f"Taking in session {self._name} failed: {failed!r}") from failed

    # ── the move ──

    def _receive(self, link: Link) -> None:
        parcels = Parcels(link.socket)
        with contextlib.ExitStack() as stack:
            meeting = self._greet(parcels, link, stack)
            draft = None if meeting else Draft.receive(parcels)
            self._take_layer(parcels)
            stack.enter_context(hastened())
            criu = self._start_criu(stack)
            if meeting and self._paged:
                self._hand_on_memory(meeting)
            session = parcels.receive()
            zero = self._zero(session)
            number = self._take_images(session, parcels, meeting, draft)
            stack.callback(os.close, number)
            criu.places = replace(criu.places, images=Path(f"/proc/self/fd/{number}"))
            self._mark("images received", zero, session["marks"], image_bytes=sum(session["images"].values()))
            filling = self._follow_fill(criu, number) if self._paged else None
            outside = [Connection.from_wire(one) for one in session["outside"]]
            self._thaw(criu, outside, zero, filling)
        if filling:
            filling.result()
        remember(self._sandbox.folder, self._move, self._came)
        self._finish()

    def _greet(self, parcels: Parcels, link: Link, stack: contextlib.ExitStack) -> Lines | None:
        """Agree on the way the memory comes."""
        hello = parcels.receive()
        self._sandbox.inherit(hello["origin"])
        self._same_kernel = hello["boot"] == boot_id()
        path = meeting_place(self._move)
        listener = stack.enter_context(listen(path))
        self._report = self._report.model_copy(update={"left": own_of(self._sandbox.plan.spec.mounts)})
        at_home = ground.settle(self._sandbox, hello["origin"])
        kept = self._sandbox.take_layer(hello["came_by"])
        self._came = self._sandbox.layer.index() if kept else {}
        parcels.send(
            meet=str(path) if self._same_kernel else None,
            pager=self._pager is not None,
            node=self._sandbox.plan.node,
            shared=self._look_at_folders(),
            kept=size_of(self._came) if kept else None,
            free=shutil.disk_usage(self._sandbox.folder).free,
            stranger=not at_home,
        )
        if not at_home:
            self._take_environment(parcels)
        agreed = parcels.receive()
        self._paged = agreed["paged"]
        if agreed["direct"]:
            listener.settimeout(_MEETING_SECONDS)
            connection, _ = listener.accept()
            connection.settimeout(None)
            return Lines(stack.enter_context(connection))
        if self._paged:
            self._hand_on_connections([link.open() for _ in range(PAGE_CONNECTIONS)])
        return None

    def _take_environment(self, parcels: Parcels) -> None:
        layers = parcels.expect("ground")
        environment.receive(parcels, ground.depot_of(self._sandbox))
        ground.stand_on(self._sandbox, layers)

    def _look_at_folders(self) -> dict[str, Any]:
        """What is seen here of the folders that have to be the source's very own."""
        sandbox = self._sandbox
        seen = canary.look(sandbox.shared, sandbox.user, self._move)
        return {path: sight.model_dump(mode="json") for path, sight in seen.items()}

    def _hand_on_connections(self, connections: list[socket.socket]) -> None:
        numbers = [connection.fileno() for connection in connections]
        self._to_pager({"do": "connections", "count": len(numbers)}, numbers)
        for connection in connections:
            connection.close()

    def _hand_on_memory(self, meeting: Lines) -> None:
        while message := meeting.receive():
            if message["do"] == "begin":
                return
            numbers = meeting.take(len(message["tasks"]))
            self._to_pager(message, numbers)
            for number in numbers:
                os.close(number)
        raise MoveFailed("The source of the move is gone before it handed over the memory.", _IS_IT_RUNNING)

    def _take_layer(self, parcels: Parcels) -> None:
        """Until the last changes, made before the freeze, are in; then the root is put together."""
        written = 0
        while True:
            kind = parcels.expect("layer")
            stream = parcels.receive_stream()
            written += self._sandbox.layer.apply(stream, self._came)
            for _ in stream:
                raise MoveFailed("More of the writable layer came than it holds.")
            if kind == "last":
                break
            parcels.send(applied=written)
        self._sandbox.mount()
        self._report = self._report.model_copy(update={"layer_bytes": written})

    def _take_images(
        self, session: dict[str, Any], parcels: Parcels, meeting: Lines | None, draft: Draft | None
    ) -> int:
        """A descriptor of the folder of CRIU's images: on one machine the source's own, as nothing has to be copied."""
        if meeting is None:
            images.receive(self._folder, session["images"], parcels, draft or Draft())
            return os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        if not meeting.receive():
            raise MoveFailed("The source of the move is gone before it handed over the images.", _IS_IT_RUNNING)
        return meeting.take()[0]

    def _zero(self, session: dict[str, Any]) -> float:
        """The moment of the freeze on this machine's clock; between machines, without the time the news took."""
        if self._same_kernel:
            return float(session["frozen_at"])
        return time.monotonic() - float(session["frozen_for"])
