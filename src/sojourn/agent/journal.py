"""What must survive the agent: the lives it holds, the halves of moves, saves and wakes under way, and events not yet
acknowledged.

SQLite in WAL mode without a sync per transaction: the death of the agent loses nothing. A power loss may lose the
last transactions, but then every sandbox died too; only the numbers of events must not come twice, so the count
jumps ahead on each new boot.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from sojourn.model import SandboxKind, SessionSpec, StorePass, Strategy
from sojourn.model.base import Word
from sojourn.wire import Event, Held

LifeState = Literal["starting", "running", "arriving", "filling", "departing", "departed", "stopping"]
Side = Literal["source", "target"]
HalfKind = Literal["move", "save", "wake"]

_EVENT: TypeAdapter[Event] = TypeAdapter(Event)
_JUMP = 1_000_000
_UNHEARD_VERBS = """
SELECT json_extract(body, '$.verb') FROM events
WHERE json_extract(body, '$.event') = 'verb_asked'
AND json_extract(body, '$.session') = ? AND json_extract(body, '$.incarnation') = ?
"""
_UNHEARD_END = """
SELECT 1 FROM events
WHERE json_extract(body, '$.event') IN ('move_stumbled', 'session_saved', 'arrival_abandoned')
AND coalesce(json_extract(body, '$.move'), json_extract(body, '$.save')) = ? LIMIT 1
"""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS lives (session TEXT, born INTEGER, body TEXT NOT NULL, PRIMARY KEY (session, born));
CREATE TABLE IF NOT EXISTS halves (move TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS notes (id INTEGER PRIMARY KEY AUTOINCREMENT, move TEXT NOT NULL, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS events (number INTEGER PRIMARY KEY AUTOINCREMENT, body TEXT NOT NULL);
"""


class Life(Word):
    """One life of a session on this node."""

    session: str
    born: int
    """The incarnation its sandbox was made under; names its folder and cgroups for good."""
    incarnation: int
    """The one it lives under now: a rollback gives it a new one."""
    epoch: int
    state: LifeState
    sandbox: SandboxKind
    spec: SessionSpec
    move: str | None = None
    arrived_by: str | None = None
    """The move or wake that brought it here; None where it was started."""
    exit_code: int | None = None
    """Of the program, once that exit has been told to the controller."""

    def held(self) -> Held:
        return Held(session=self.session, incarnation=self.incarnation, state=self.state, move=self.move)

    def __str__(self) -> str:
        return f"{self.session[:12]}.{self.incarnation}"


class Half(Word):
    """This node's half of a move under way; or a save, which has a source only, or a wake, which has a target only."""

    move: str
    """The id of the move, save or wake."""
    side: Side
    session: str
    born: int
    kind: HalfKind = "move"
    strategy: Strategy = "lazy"
    """Of a move."""
    incarnation: int
    """The one the session has, or will have, at the target; of a save, the one that is saved."""
    target: str = ""
    address: str = ""
    """Source of a move only: the target's name and data port; its ticket."""
    ticket: str = ""
    may_lose: tuple[str, ...] = ()
    """Source of a move by objects only: names that may stay behind."""
    store: StorePass | None = None
    """Of saves and wakes."""
    checkpoint: str = ""
    """Of a wake."""
    keep: bool = False
    """Of a save: the session goes on while its chunks are written."""


class Journal:
    """Safe to use from any thread; each method is one transaction unless called inside `transaction()`."""

    def __init__(self, path: Path, boot_id: str) -> None:
        self._lock = threading.RLock()
        path.touch(mode=0o600)  # sessions' environments and tickets stand in it; its log takes over the mode
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._depth = 0
        self._has_news = False
        self.on_event: Callable[[], None] = lambda: None
        """Called, in any thread, when a new event is on disk."""
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=NORMAL")
        # It would sync in the middle of a move; `tidy` does it when nobody waits.
        self._database.execute("PRAGMA wal_autocheckpoint=0")
        self._database.executescript(_SCHEMA)
        self._count_on_from(boot_id)

    def close(self) -> None:
        with self._lock:
            self._database.close()

    def tidy(self) -> None:
        """Bring the log into the database, unless a move is under way. May take as long as the disk takes."""
        with self._lock:
            if not self.halves():
                self._database.execute("PRAGMA wal_checkpoint(PASSIVE)")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; may be nested, the outermost counts."""
        with self._lock:
            if self._depth == 0:
                self._database.execute("BEGIN IMMEDIATE")
            self._depth += 1
            try:
                yield
            except BaseException:
                self._depth -= 1
                if self._depth == 0:
                    self._database.execute("ROLLBACK")
                raise
            self._depth -= 1
            if self._depth == 0:
                self._database.execute("COMMIT")
        if self._depth == 0 and self._has_news:
            self._has_news = False
            self.on_event()

    # ── lives ────────────────────────────────────────────────────────────────────────────────────────────────

    def lives(self) -> list[Life]:
        rows = self._all("SELECT body FROM lives ORDER BY session, born")
        return [Life.model_validate_json(body) for (body,) in rows]

    def write_life(self, life: Life) -> None:
        row = (life.session, life.born, life.model_dump_json())
        self._do("INSERT OR REPLACE INTO lives VALUES (?, ?, ?)", *row)

    def forget_life(self, life: Life) -> None:
        self._do("DELETE FROM lives WHERE session = ? AND born = ?", life.session, life.born)

    # ── halves of moves, saves and wakes ────────────────────────────────────────────────────────────────────────────

    def halves(self) -> list[Half]:
        return [Half.model_validate_json(body) for (body,) in self._all("SELECT body FROM halves ORDER BY move")]

    def write_half(self, half: Half) -> None:
        self._do("INSERT OR REPLACE INTO halves VALUES (?, ?)", half.move, half.model_dump_json())

    def note(self, move: str, note: dict[str, Any]) -> None:
        """What a mover is about to do, or has made, in its own words."""
        self._do("INSERT INTO notes (move, body) VALUES (?, ?)", move, json.dumps(note))

    def notes(self, move: str) -> list[dict[str, Any]]:
        return [json.loads(body) for (body,) in self._all("SELECT body FROM notes WHERE move = ? ORDER BY id", move)]

    def forget_half(self, move: str) -> None:
        with self.transaction():
            self._do("DELETE FROM halves WHERE move = ?", move)
            self._do("DELETE FROM notes WHERE move = ?", move)

    # ── events ───────────────────────────────────────────────────────────────────────────────────────────────

    def write_event(self, event: Event) -> int:
        """Number an event and keep it until it is acknowledged."""
        with self.transaction():
            self._has_news = True
            return self._do("INSERT INTO events (body) VALUES (?)", event.model_dump_json())

    def events_after(self, number: int) -> list[tuple[int, Event]]:
        rows = self._all("SELECT number, body FROM events WHERE number > ? ORDER BY number", number)
        return [(found, _EVENT.validate_json(body)) for found, body in rows]

    def unheard_verbs(self, life: Life) -> set[str]:
        """What programs of the session asked in its present incarnation, and the controller has not acknowledged."""
        rows = self._all(_UNHEARD_VERBS, life.session, life.incarnation)
        return {verb for (verb,) in rows}

    def is_end_unheard(self, move: str) -> bool:
        """Whether this move, save or wake has ended here, and the controller, which has not acknowledged it, may ask
        for it again."""
        return bool(self._all(_UNHEARD_END, move))

    def acknowledge(self, number: int) -> None:
        """The controller has every event up to this one."""
        self._do("DELETE FROM events WHERE number <= ?", number)

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────

    def _count_on_from(self, boot_id: str) -> None:
        with self.transaction():
            known = self._all("SELECT value FROM facts WHERE name = 'boot'")
            if known == [(boot_id,)]:
                return
            if known:
                self._do("UPDATE sqlite_sequence SET seq = seq + ? WHERE name = 'events'", _JUMP)
            self._do("INSERT OR REPLACE INTO facts VALUES ('boot', ?)", boot_id)

    def _do(self, statement: str, *values: object) -> int:
        with self._lock:
            return self._database.execute(statement, values).lastrowid or 0

    def _all(self, statement: str, *values: object) -> list[Any]:
        with self._lock:
            return self._database.execute(statement, values).fetchall()
