"""What every database of a controller must do: each question of `queries`, and the migrations.

class TestMine(DatabaseContract):
    @pytest.fixture
    def database(self):
        yield Database(…)
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from sojourn.database import Checkpoint, Database, Node, Token, Verb, tables
from sojourn.database import queries as ask
from sojourn.errors import Busy, SojournError, Unauthorized
from sojourn.lifecycle import Kept, Move, Save, Session, Wake
from sojourn.model import (
    Capabilities,
    Load,
    MovePhase,
    MoveReport,
    NodeStatus,
    NodeView,
    Program,
    Resources,
    SaveReport,
    SessionSpec,
    SessionStatus,
)

SPEC = SessionSpec(name="s", program=Program(argv=("python",), env={"A": "1"}), files={"/c.json": "{}"})
SESSION = Session("a" * 32, "s", "ada", SPEC, 1.5, "here")
MOVE = Move("m", "here", "there", "lazy", 1, 2, 2.5)
TOKEN = Token("t", "join", "nodes", "0" * 64, False, 1.0, uses_left=1)
SAVE = Save("c" * 32, "named", "before", "here", 1, keep=True, started_at=3.0, report=SaveReport(frozen_s=0.5))
WAKE = Wake("w" * 32, "c" * 32, "there", 2, True, 4.0, error={"code": "x"})
FACTS = Capabilities(os="linux", arch="x", kernel="6", python="3", sojourn="0", machine_id="m", root_id="r")


class DatabaseContract:
    """To be inherited, with a fixture `database`: an empty one."""

    def test_the_migrations_make_the_tables(self, database: Database) -> None:
        with database.transaction() as connection:
            assert compare_metadata(MigrationContext.configure(connection), tables.metadata) == []

    def test_a_session_comes_back_as_it_was_written(self, database: Database) -> None:
        with database.transaction(lasting=True) as connection:
            ask.save_session(connection, None, SESSION)
        with database.transaction() as connection:
            ask.save_session(connection, SESSION, moved())
            assert ask.session(connection, SESSION.id) == moved()
            assert ask.living_sessions(connection) == [moved()]
            assert ask.moves(connection) == [(SESSION.id, moved().move)]
            assert ask.move(connection, "m") == (SESSION.id, moved().move)
        again = replace(moved(), move=replace(MOVE, id="m2", phase=MovePhase.FILLING, sent=True))
        with database.transaction() as connection:
            ask.save_session(connection, moved(), again)
            assert ask.session(connection, SESSION.id) == again
            assert len(ask.moves(connection)) == 2

    def test_what_has_ended_is_forgotten_in_time_but_not_what_may_come_back(self, database: Database) -> None:
        ended = replace(SESSION, id="b" * 32, status=SessionStatus.STOPPED, ended_at=5.0)
        lost = replace(SESSION, id="c" * 32, status=SessionStatus.LOST, ended_at=5.0)
        with database.transaction() as connection:
            for session in (SESSION, ended, lost):
                ask.save_session(connection, None, session)
            assert ask.living_sessions(connection) == [SESSION]
            ask.prune(connection, before=4.0)
            assert len(ask.all_sessions(connection)) == 3
            ask.prune(connection, before=6.0)
            assert {session.id[0] for session in ask.all_sessions(connection)} == {"a", "c"}

    def test_a_transaction_that_fails_changes_nothing(self, database: Database) -> None:
        with suppress(ZeroDivisionError), database.transaction() as connection:
            ask.save_session(connection, None, SESSION)
            raise ZeroDivisionError
        with database.transaction() as connection:
            assert ask.all_sessions(connection) == []

    def test_nodes_are_offline_in_the_database(self, database: Database) -> None:
        view = NodeView(
            id="n",
            name="here",
            status=NodeStatus.ONLINE,
            capacity=Resources(cores=1, memory_bytes=1),
            capabilities=Capabilities(
                os="linux", arch="x", kernel="6", python="3", sojourn="0", machine_id="m", root_id="r"
            ),
            load=Load(),
            seen_at=1.0,
        )
        node = Node(view, "f" * 64, "0" * 64)
        with database.transaction() as connection:
            ask.save_node(connection, node)
            ask.save_node(connection, replace(node, key="1" * 64))
            (found,) = ask.nodes(connection)
        assert (found.key, found.view.status) == ("1" * 64, NodeStatus.OFFLINE)

    def test_a_join_token_is_spent_once(self, database: Database) -> None:
        with database.transaction() as connection:
            ask.add_token(connection, TOKEN)
            ask.spend_token(connection, TOKEN)
            with pytest.raises(Unauthorized):
                ask.spend_token(connection, TOKEN)
            assert not ask.token_by_hash(connection, "0" * 64).valid(2.0)  # type: ignore[union-attr]
            assert ask.revoke_token(connection, "t")
            assert not ask.revoke_token(connection, "t")

    def test_a_verb_is_written_down_once(self, database: Database) -> None:
        verb = Verb("s", "v", "move", {"to": "there"}, 1.0)
        with database.transaction() as connection:
            assert ask.add_verb(connection, verb)
            assert not ask.add_verb(connection, replace(verb, name="where"))
            ask.update_verb(connection, verb, ok=True, body={"node": "there"})
            assert ask.verb(connection, "s", "v") == replace(verb, ok=True, body={"node": "there"})

    def test_one_controller_at_a_time(self, database: Database) -> None:
        with pytest.raises(Busy, match="Another controller"):
            Database(database.url)

    def test_a_session_that_sleeps_comes_back_as_it_was_written(self, database: Database) -> None:
        asleep = replace(
            SESSION,
            status=SessionStatus.SUSPENDED,
            save=SAVE,
            wake=WAKE,
            checkpoint=SAVE.id,
            exact=True,
            checkpoints=(Kept(SAVE.id, 3.0), Kept("d" * 32, 2.0)),
            origin="o" * 32,
        )
        with database.transaction() as connection:
            ask.save_session(connection, None, SESSION)
            ask.save_session(connection, SESSION, asleep)
            assert ask.living_sessions(connection) == [asleep]
            awake = replace(asleep, status=SessionStatus.RUNNING, save=None, wake=None, checkpoint=None, checkpoints=())
            ask.save_session(connection, asleep, awake)
            assert ask.session(connection, SESSION.id) == awake

    def test_checkpoints_are_listed_newest_first_marked_and_dropped(self, database: Database) -> None:
        older = checkpoint("d" * 32, 2.0)
        with database.transaction() as connection:
            for one in (older, checkpoint()):
                ask.add_checkpoint(connection, one)
            assert ask.checkpoints(connection) == [checkpoint(), older]
            ask.mark_checkpoint(connection, older.id, "a chunk is missing")
            assert ask.checkpoint(connection, older.id) == replace(older, problem="a chunk is missing")
            ask.drop_checkpoints(connection, [older.id])
            assert ask.checkpoints(connection) == [checkpoint()]
            assert ask.checkpoint(connection, older.id) is None

    def test_a_session_of_which_checkpoints_are_kept_is_not_forgotten(self, database: Database) -> None:
        ended = replace(SESSION, status=SessionStatus.STOPPED, ended_at=5.0)
        with database.transaction() as connection:
            ask.save_session(connection, None, ended)
            ask.add_checkpoint(connection, checkpoint())
            ask.prune(connection, before=6.0)
            assert ask.all_sessions(connection) == [ended]
            ask.drop_checkpoints(connection, [checkpoint().id])
            ask.prune(connection, before=6.0)
            assert ask.all_sessions(connection) == []

    def test_an_address_leads_to_one_store(self, database: Database) -> None:
        with database.transaction() as connection:
            ask.save_store(connection, "one", "file:///a")
            ask.save_store(connection, "two", "file:///b")
            ask.save_store(connection, "one", "file:///c")
            ask.save_store(connection, "three", "file:///c")
            assert ask.stores(connection) == {"two": "file:///b", "three": "file:///c"}
            ask.add_owner(connection, "ada", "k" * 64)
            assert ask.owner_keys(connection) == {"ada": "k" * 64}

    def test_the_authority_is_found_again(self, database: Database) -> None:
        with database.transaction() as connection:
            assert ask.authority(connection) is None
            ask.add_authority(connection, "certificate", "key", 1.0)
            assert ask.authority(connection) == ("certificate", "key")

    def test_sessions_of_every_older_version_are_still_understood(self, database: Database) -> None:
        with database.transaction() as connection:
            ask.save_session(connection, None, moved())
        for revision in older_revisions():
            migrate(database, revision)
            migrate(database, "head")
            with database.transaction() as connection:
                assert ask.living_sessions(connection) == [moved()], revision
                assert compare_metadata(MigrationContext.configure(connection), tables.metadata) == []

    def test_a_database_of_a_newer_version_is_refused_in_words(self, database: Database) -> None:
        with database.transaction() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        database.close()
        with pytest.raises(SojournError, match="newer Sojourn"):
            Database(database.url)

    def test_any_text_is_taken_as_it_is(self, database: Database) -> None:
        """Programs write zeros and every letter there is; sessions bring files of megabytes."""
        spec = SPEC.model_copy(update={"files": {"/a": "é😀\0\n" * 400_000}})
        session = replace(SESSION, spec=spec, reason="CRIU said: é😀")
        with database.transaction() as connection:
            ask.save_session(connection, None, session)
            assert ask.session(connection, session.id) == session
            ask.save_session(connection, session, replace(session, reason="a\0b"))
            assert ask.session(connection, session.id) == replace(session, reason="a\ufffdb")

    def test_an_error_does_not_show_what_was_written(self, database: Database) -> None:
        key = "5ec2e7" * 10
        with database.transaction() as connection:
            ask.add_owner(connection, "ada", "another")
        with pytest.raises(IntegrityError) as failed, database.transaction() as connection:
            ask.add_owner(connection, "ada", key)
        assert key not in f"{failed.value} {failed.value!r}"

    def test_what_one_writes_the_next_one_reads(self, database: Database) -> None:
        assert database.answers()
        with database.transaction() as connection:
            ask.save_session(connection, None, SESSION)
        database.close()
        again = Database(database.url)
        with again.transaction() as connection:
            assert ask.living_sessions(connection) == [SESSION]
        again.close()


def moved() -> Session:
    return replace(
        SESSION,
        status=SessionStatus.MOVING,
        issued=2,
        deadline=9.0,
        away=frozenset({"here"}),
        stopping=frozenset({"there"}),
        move=replace(MOVE, report=MoveReport(frozen_s=0.5, connections_reset=("tcp x",)), error={"code": "x"}),
    )


def checkpoint(identity: str = "c" * 32, created_at: float = 3.0) -> Checkpoint:
    return Checkpoint(
        identity,
        SESSION.id,
        "s",
        "ada",
        "named",
        "before",
        "here",
        created_at,
        SAVE.report,
        SPEC,
        FACTS,
        "i" * 32,
        1,
        1,
    )


def migrate(database: Database, revision: str) -> None:
    config = _alembic()
    with database.transaction() as connection:
        config.attributes["connection"] = connection
        (command.upgrade if revision == "head" else command.downgrade)(config, revision)


def older_revisions() -> list[str]:
    """The newest first."""
    return [one.revision for one in ScriptDirectory.from_config(_alembic()).walk_revisions()][1:]


def _alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(tables.__file__).parent / "migrations"))
    return config
