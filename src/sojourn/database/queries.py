"""Every question to the database. Each takes a connection, so that several make one transaction."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, fields
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import Connection, Row, Table, and_, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from sojourn.database import tables
from sojourn.database.records import Checkpoint, Node, Token, Verb
from sojourn.errors import Unauthorized
from sojourn.lifecycle import ENDED, Move, Session
from sojourn.model import NodeStatus, NodeView, SessionStatus

_SESSION: TypeAdapter[Session] = TypeAdapter(Session)
_MOVE: TypeAdapter[Move] = TypeAdapter(Move)
_CHECKPOINT: TypeAdapter[Checkpoint] = TypeAdapter(Checkpoint)

# ── sessions and moves ───────────────────────────────────────────────────────────────────────────────────────


def save_session(connection: Connection, before: Session | None, now: Session) -> None:
    """Write what differs from `before` (None: everything, the session is new)."""
    if now.move and now.move != (before.move if before else None):
        _save_move(connection, now.id, before.move if before else None, now.move)
    changes = _changes(before, now, _session_row(now))
    if before is None:
        connection.execute(insert(tables.sessions).values(**changes))
    elif changes:
        connection.execute(update(tables.sessions).where(tables.sessions.c.id == now.id).values(**changes))


def living_sessions(connection: Connection) -> list[Session]:
    """Those that have not ended."""
    ended = [status.value for status in ENDED]
    return _sessions(connection, tables.sessions.c.status.not_in(ended))


def lost_sessions(connection: Connection) -> list[Session]:
    return _sessions(connection, tables.sessions.c.status == SessionStatus.LOST.value)


def all_sessions(connection: Connection) -> list[Session]:
    return _sessions(connection, tables.sessions.c.id.is_not(None))


def session(connection: Connection, identity: str) -> Session | None:
    found = _sessions(connection, tables.sessions.c.id == identity)
    return found[0] if found else None


def moves(connection: Connection, newest: int = 200) -> list[tuple[str, Move]]:
    """(session, move), the newest first."""
    rows = connection.execute(select(tables.moves).order_by(tables.moves.c.started_at.desc()).limit(newest))
    return [(row.session, _move(row._mapping)) for row in rows]


def move(connection: Connection, identity: str) -> tuple[str, Move] | None:
    row = connection.execute(select(tables.moves).where(tables.moves.c.id == identity)).first()
    return (row.session, _move(row._mapping)) if row else None


def prune(connection: Connection, before: float) -> None:
    """Forget what ended before that time. Lost sessions stay: their node may still come back with them; and those of
    which checkpoints are kept, so that they can still be branched from."""
    over = and_(
        tables.sessions.c.ended_at < before,
        tables.sessions.c.status != SessionStatus.LOST.value,
        tables.sessions.c.id.not_in(select(tables.checkpoints.c.session)),
    )
    forgotten = select(tables.sessions.c.id).where(over)
    for table in (tables.moves, tables.verbs):
        connection.execute(delete(table).where(table.c.session.in_(forgotten)))
    connection.execute(delete(tables.sessions).where(over))
    kept = select(tables.sessions.c.move).where(tables.sessions.c.move.is_not(None))
    old = and_(tables.moves.c.ended_at < before, tables.moves.c.id.not_in(kept))
    connection.execute(delete(tables.moves).where(old))
    connection.execute(delete(tables.verbs).where(tables.verbs.c.asked_at < before, tables.verbs.c.ok.is_not(None)))
    connection.execute(delete(tables.tokens).where(tables.tokens.c.expires_at < before))


# ── checkpoints, and what opens them ─────────────────────────────────────────────────────────────────────────


def add_checkpoint(connection: Connection, checkpoint: Checkpoint) -> None:
    connection.execute(insert(tables.checkpoints).values(**_CHECKPOINT.dump_python(checkpoint, mode="json")))


def checkpoints(connection: Connection, among: Collection[str] | None = None) -> list[Checkpoint]:
    """Those with these ids, or all; the newest first."""
    wanted = select(tables.checkpoints).order_by(tables.checkpoints.c.created_at.desc())
    if among is not None:
        wanted = wanted.where(tables.checkpoints.c.id.in_(among))
    return [_CHECKPOINT.validate_python(dict(row._mapping)) for row in connection.execute(wanted)]


def checkpoint_problems(connection: Connection) -> dict[str, str]:
    """All checkpoints -> what is wrong with each; the newest first. Much quicker than reading them."""
    columns = (tables.checkpoints.c.id, tables.checkpoints.c.problem)
    rows = connection.execute(select(*columns).order_by(tables.checkpoints.c.created_at.desc()))
    return {row.id: row.problem for row in rows}


def checkpoint(connection: Connection, identity: str) -> Checkpoint | None:
    row = connection.execute(select(tables.checkpoints).where(tables.checkpoints.c.id == identity)).first()
    return _CHECKPOINT.validate_python(dict(row._mapping)) if row else None


def mark_checkpoint(connection: Connection, identity: str, problem: str) -> None:
    """Empty: it is whole after all."""
    connection.execute(update(tables.checkpoints).where(tables.checkpoints.c.id == identity).values(problem=problem))


def drop_checkpoints(connection: Connection, identities: Collection[str]) -> None:
    connection.execute(delete(tables.checkpoints).where(tables.checkpoints.c.id.in_(identities)))


def owner_keys(connection: Connection) -> dict[str, str]:
    """Owner -> key, in hexadecimal."""
    return {row.owner: row.key for row in connection.execute(select(tables.owners))}


def add_owner(connection: Connection, owner: str, key: str) -> None:
    connection.execute(insert(tables.owners).values(owner=owner, key=key))


def stores(connection: Connection) -> dict[str, str]:
    """Identity -> where it was found last."""
    return {row.identity: row.url for row in connection.execute(select(tables.stores))}


def save_store(connection: Connection, identity: str, url: str) -> None:
    """An address leads to one store: whatever was found there before is forgotten."""
    others = and_(tables.stores.c.url == url, tables.stores.c.identity != identity)
    connection.execute(delete(tables.stores).where(others))
    _replace(connection, tables.stores, {"identity": identity, "url": url}, "identity")


def authority(connection: Connection) -> tuple[str, str] | None:
    """The certificate of the controller's own authority, and its key, both PEM; None: it has not been made yet."""
    newest = select(tables.authorities).order_by(tables.authorities.c.created_at.desc()).limit(1)
    row = connection.execute(newest).first()
    return (row.certificate, row.key) if row else None


def add_authority(connection: Connection, certificate: str, key: str, now: float) -> None:
    connection.execute(insert(tables.authorities).values(certificate=certificate, key=key, created_at=now))


# ── nodes ────────────────────────────────────────────────────────────────────────────────────────────────────


def save_node(connection: Connection, node: Node) -> None:
    row = {
        "name": node.name,
        "id": node.view.id,
        "token_hash": node.token_hash,
        "key": node.key,
        "view": node.view.model_copy(update={"status": NodeStatus.OFFLINE}).model_dump(mode="json"),
        "seen_at": node.view.seen_at,
    }
    _replace(connection, tables.nodes, row, "name")


def nodes(connection: Connection) -> list[Node]:
    rows = connection.execute(select(tables.nodes).order_by(tables.nodes.c.name))
    return [Node(NodeView.model_validate(row.view), row.token_hash, row.key) for row in rows]


def forget_node(connection: Connection, name: str) -> None:
    connection.execute(delete(tables.nodes).where(tables.nodes.c.name == name))


# ── tokens ───────────────────────────────────────────────────────────────────────────────────────────────────


def add_token(connection: Connection, token: Token) -> None:
    connection.execute(insert(tables.tokens).values(**asdict(token)))


def tokens(connection: Connection) -> list[Token]:
    rows = connection.execute(select(tables.tokens).order_by(tables.tokens.c.created_at))
    return [Token(**row._mapping) for row in rows]


def token_by_hash(connection: Connection, secret_hash: str) -> Token | None:
    row = connection.execute(select(tables.tokens).where(tables.tokens.c.secret_hash == secret_hash)).first()
    return Token(**row._mapping) if row else None


def spend_token(connection: Connection, token: Token) -> None:
    """One use less; raises Unauthorized when there is none left."""
    if token.uses_left is None:
        return
    table = tables.tokens
    spent = update(table).where(table.c.id == token.id, table.c.uses_left > 0).values(uses_left=table.c.uses_left - 1)
    if connection.execute(spent).rowcount == 0:
        raise Unauthorized("The join token is spent.", "Make a new one with `sojourn token create --kind join NAME`.")


def revoke_token(connection: Connection, identity: str) -> bool:
    return connection.execute(delete(tables.tokens).where(tables.tokens.c.id == identity)).rowcount > 0


# ── verbs ────────────────────────────────────────────────────────────────────────────────────────────────────


def add_verb(connection: Connection, verb: Verb) -> bool:
    """False if it was there already."""
    try:
        with connection.begin_nested():
            connection.execute(insert(tables.verbs).values(**asdict(verb)))
    except IntegrityError:
        return False
    return True


def verb(connection: Connection, session: str, identity: str) -> Verb | None:
    row = connection.execute(select(tables.verbs).where(_is(session, identity))).first()
    return Verb(**row._mapping) if row else None


def verbs(connection: Connection, session: str | None = None) -> list[Verb]:
    asked = select(tables.verbs).order_by(tables.verbs.c.asked_at)
    if session is not None:
        asked = asked.where(tables.verbs.c.session == session)
    return [Verb(**row._mapping) for row in connection.execute(asked)]


def update_verb(connection: Connection, verb: Verb, **changes: Any) -> None:
    connection.execute(update(tables.verbs).where(_is(verb.session, verb.verb)).values(**changes))


# ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────


def _is(session: str, verb: str) -> Any:
    return and_(tables.verbs.c.session == session, tables.verbs.c.verb == verb)


def _sessions(connection: Connection, condition: Any) -> list[Session]:
    rows = connection.execute(select(tables.sessions).where(condition).order_by(tables.sessions.c.created_at)).all()
    if not rows:
        return []
    wanted = [row.move for row in rows if row.move]
    found = connection.execute(select(tables.moves).where(tables.moves.c.id.in_(wanted))) if wanted else ()
    known = {row.id: _move(row._mapping) for row in found}
    return [_session(row, known) for row in rows]


def _session(row: Row[Any], known: dict[str, Move]) -> Session:
    body = {**row._mapping, "move": None}
    read = _SESSION.validate_python(body)
    return Session(**{**_shallow(read), "move": known.get(row.move)})


def _move(row: Any) -> Move:
    return _MOVE.validate_python({name: value for name, value in row.items() if name != "session"})


def _save_move(connection: Connection, session: str, before: Move | None, now: Move) -> None:
    row = {**_MOVE.dump_python(now, mode="json"), "session": session}
    if before is None or before.id != now.id:
        connection.execute(insert(tables.moves).values(**row))
        return
    changes = _changes(before, now, row)
    connection.execute(update(tables.moves).where(tables.moves.c.id == now.id).values(**changes))


def _session_row(session: Session) -> dict[str, Any]:
    row: dict[str, Any] = _SESSION.dump_python(session, mode="json", exclude={"move": True})
    return {**row, "move": session.move.id if session.move else None}


def _changes(before: object | None, now: object, row: dict[str, Any]) -> dict[str, Any]:
    """The columns of a row whose fields differ."""
    if before is None:
        return row
    return {name: value for name, value in row.items() if getattr(before, name, None) != getattr(now, name, None)}


def _shallow(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in fields(value)}


def _replace(connection: Connection, table: Table, row: dict[str, Any], key: str) -> None:
    changed = connection.execute(update(table).where(table.c[key] == row[key]).values(**row)).rowcount
    if not changed:
        connection.execute(insert(table).values(**row))
