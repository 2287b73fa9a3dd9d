"""A save by CRIU: a departure whose other side is the store.

What is kept stands still only until its memory has been copied aside; its chunks are written while it runs on. What
sleeps stands still until the checkpoint is whole.

    phase noted     a crash of the agent then means
    writing ahead   the session runs
    freezing        it goes on, nothing of the checkpoint is visible
    kept            the same; the session runs, or only the hold keeps it from running
    publishing      the same; a manifest that became visible is dropped
    saved           the checkpoint is whole, and the session waits for the verdict (of what is kept: as before)
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psutil

from sojourn.errors import SaveFailed, SojournError, from_wire
from sojourn.model.checkpoints import SaveReport, StorePass
from sojourn.movers.abilities import has_userfaultfd
from sojourn.movers.base import Facts, HangUp, Link, Note, Tell
from sojourn.movers.clocks import monotonic_in
from sojourn.movers.connections import Connection
from sojourn.movers.criu.standstill import CriuStandstill, boot_id, opened_folder
from sojourn.movers.inspection import inspect, shares_memory
from sojourn.movers.pager.lines import Lines
from sojourn.movers.processes import start_module
from sojourn.movers.saving.memory import room_aside
from sojourn.movers.store import open_vault
from sojourn.sandbox import canary
from sojourn.sandbox.criu_path import find_criu
from sojourn.sandbox.runc import RuncSandbox
from sojourn.wire import FillProgressed, SessionSaved

GoOn = Callable[[], None]

_NO_ROOM = "no room for a copy: written while frozen"


class CriuSave(CriuStandstill):
    """See `base.Departure`; `move` is the save."""

    failure = SaveFailed
    verb = "Saving"

    def __init__(
        self,
        sandbox: RuncSandbox,
        save: str,
        store: StorePass,
        *,
        keep: bool,
        tell: Tell,
        note: Note,
        hang_up: HangUp,
        go_on: GoOn,
    ) -> None:
        super().__init__(sandbox, save, tell=tell, note=note, hang_up=hang_up)
        self._store, self._keep, self._go_on = store, keep, go_on
        self._began_at = time.monotonic()
        self._frozen_s = 0.0
        self._phase = ""
        self._clock = 0.0
        """Where the session's monotonic clock stood."""
        self._stopped = False
        self._shared: canary.Sights = {}
        """What the folders it shares are known by."""

    @classmethod
    def recover(
        cls,
        sandbox: RuncSandbox,
        save: str,
        store: StorePass,
        facts: Facts,
        *,
        keep: bool,
        tell: Tell,
        note: Note,
        hang_up: HangUp,
        go_on: GoOn,
    ) -> CriuSave:
        """After a crash of the agent. When `resumed`, the caller has to `roll_back`; else the checkpoint is whole."""
        saved = cls(sandbox, save, store, keep=keep, tell=tell, note=note, hang_up=hang_up, go_on=go_on)
        saved._remember(facts)
        saved._phase = facts.get("phase", "")
        saved.resumed = keep or saved._phase != "saved"
        return saved

    def stop(self) -> None:
        self._stopped = True
        if self._page_source:
            self._page_source.kill()

    # ── the save ──

    def _go(self, link: Link | None) -> None:
        self._began_at = time.monotonic()
        found, sandbox = inspect(self._sandbox), self._sandbox
        self._shared = canary.named(sandbox.shared, sandbox.user)
        self._paged = has_userfaultfd() and not shares_memory(found)
        with contextlib.ExitStack() as stack:
            writer = self._start_writer(stack, found.memory_bytes if self._paged else 0)
            self._await_writer(writer)
            with self._standing_still(lambda: self._hand_over_state(writer)) as outside:
                heard = self._have_written(writer)
                if self._keep:
                    self._note_phase("kept")
                else:
                    self._publish(writer, heard, outside)
            if self._keep:
                self._let_it_go_on()
                self._publish(writer, self._hear(writer, "written") if heard["event"] == "copied" else heard, outside)
                self._drop()

    def _await_writer(self, writer: Lines) -> None:
        """A store that can't be had is to be known before the freeze. What is to sleep need not run on while the writer
        gets ready: a store in a folder is looked at from here."""
        if self._keep or not self._store.url.startswith("file:"):
            self._hear(writer, "ahead")
        else:
            open_vault(**self._store.model_dump()).backend.close()

    def _start_writer(self, stack: contextlib.ExitStack, expected: int) -> Lines:
        """It writes the layer at once, and gets the rest when the session stands still: about so much memory."""
        ours, theirs = socket.socketpair()
        writer = Lines(stack.enter_context(ours))
        with theirs:
            number = theirs.fileno()
            self._page_source = start_module("sojourn.movers.saving.writer", [str(number)], [number], self._folder)
        self._note_phase("writing ahead")
        opened = {"save": self._move, "layer": str(self._sandbox.layer.folder), **self._store.model_dump()}
        room = room_aside(expected, psutil.virtual_memory().available) if self._keep else 0
        self._say(writer, {"do": "open", "expected": expected, "room": room, **opened})
        return writer

    def _hand_over_state(self, writer: Lines) -> None:
        self._clock = monotonic_in(self._sandbox.root_pid() or 0)
        always = sorted(self._sandbox.restless_files())
        self._say(writer, {"do": "last", "always": always})
        if self._paged:
            with self._noticing_its_end():
                self._hand_over(writer)

    def _have_written(self, writer: Lines) -> dict[str, Any]:
        """Returns when the memory is not needed any more: what the writer said."""
        with opened_folder(self._folder) as number:
            self._say(writer, {"do": "begin", "paged": self._paged}, [number])
        heard = self._hear(writer, "copied", "written")
        self._mark(heard["event"])
        if self._keep and heard["event"] == "written":
            self._mark(_NO_ROOM)
        return heard

    def _let_it_go_on(self) -> None:
        """CRIU has let go of it; nothing but the hold keeps it from running."""
        self._thaw()
        self._frozen_s = time.monotonic() - (self._frozen_at or 0)
        self._mark("goes on")
        self._go_on()

    def _publish(self, writer: Lines, written: dict[str, Any], outside: list[Connection]) -> None:
        self._note_phase("publishing")
        report = self._report(written)
        self._say(writer, {"do": "publish", "manifest": self._manifest(report, outside)})
        self._hear(writer, "published")
        self._mark("published")
        report = self._report(written)
        self._note({"phase": "saved", "report": report.model_dump(mode="json")})
        self._phase = "saved"
        self.resumed = self._keep
        plan = self._sandbox.plan
        self._tell(SessionSaved(save=self._move, session=plan.session, incarnation=plan.incarnation, report=report))
        self._phase = "told"

    def _report(self, written: dict[str, Any]) -> SaveReport:
        now = time.monotonic()
        counted = {name: value for name, value in written.items() if name != "event"}
        return SaveReport(
            frozen_s=self._frozen_s or now - (self._frozen_at or now),
            total_s=now - self._began_at,
            timeline=self._marks,
            **counted,
        )

    def _manifest(self, report: SaveReport, outside: list[Connection]) -> dict[str, Any]:
        """What only the agent knows of it."""
        plan = self._sandbox.plan
        _, version = find_criu()
        return {
            "id": self._move,
            "session": plan.session,
            "created_at": time.time(),
            "boot": boot_id(),
            "node": plan.node,
            "criu": ".".join(map(str, version)),
            "spec": plan.spec.model_dump(mode="json"),
            "incarnation": plan.incarnation,
            "epoch": 0,
            "origin": self._sandbox.origin,
            "strategy_facts": {
                "paged": self._paged,
                "outside": [connection.to_wire() for connection in outside],
                "monotonic": self._clock,
                "shared": {path: sight.model_dump(mode="json") for path, sight in self._shared.items()},
            },
            "report": report.model_dump(mode="json"),
        }

    # ── ends ──

    def _end(self) -> None:
        if self._keep and self._phase in {"kept", "publishing", "saved", "told"}:
            self._drop()
            self._thaw()
        else:
            super()._end()
        if self._phase == "publishing" or (self._keep and self._phase == "saved"):
            self._withdraw()

    def _withdraw(self) -> None:
        """Nobody was told of the checkpoint. One that can't be reached now is dropped by whoever clears up."""
        with contextlib.suppress(SojournError):
            open_vault(**self._store.model_dump()).drop(self._move)

    # ── the writer ──

    def _say(self, writer: Lines, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        with self._noticing_its_end():
            writer.send(message, descriptors)

    @contextlib.contextmanager
    def _noticing_its_end(self) -> Iterator[None]:
        try:
            yield
        except ConnectionError as broken:
            raise self._writer_is_gone() from broken

    def _hear(self, writer: Lines, *wanted: str) -> dict[str, Any]:
        """What the writer says when it has come so far. Raises what it failed with, SaveFailed when it is gone."""
        while message := writer.receive():
            if message["event"] in wanted:
                return message
            if message["event"] == "failed":
                raise from_wire(message["error"])
            if message["event"] == "progress":
                self._tell_progress(message)
        raise self._writer_is_gone()

    def _tell_progress(self, message: dict[str, Any]) -> None:
        done = {"done_bytes": message["done"], "total_bytes": message["total"]}
        self._tell(FillProgressed(move=self._move, session=self._sandbox.plan.session, **done))

    def _writer_is_gone(self) -> SaveFailed:
        if self._stopped:
            return SaveFailed(f"Saving session {self._name} was called off.")
        return SaveFailed(
            f"The writer of session {self._name} ended before its checkpoint was whole.", "Save it again."
        )

    def _note_phase(self, phase: str) -> None:
        super()._note_phase(phase)
        self._phase = phase
