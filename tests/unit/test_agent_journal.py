from __future__ import annotations

from pathlib import Path

import pytest

from sojourn.agent.journal import Half, Journal, Life
from sojourn.errors import Busy
from sojourn.model import Program, SaveReport, SessionSpec
from sojourn.wire import ArrivalAbandoned, MoveCommitted, MoveStumbled, SandboxStopped, SessionSaved

SPEC = SessionSpec(program=Program(argv=("true",)))


def life(session: str = "s", born: int = 1, **changes: object) -> Life:
    fields = {"incarnation": born, "epoch": 1, "state": "running", "sandbox": "process", "spec": SPEC}
    return Life.model_validate({"session": session, "born": born, **fields, **changes})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


def test_a_life_is_there_after_reopening(path: Path) -> None:
    journal = Journal(path, "boot")
    journal.write_life(life())
    journal.write_life(life(state="departing", move="m"))
    journal.close()
    assert Journal(path, "boot").lives() == [life(state="departing", move="m")]


def test_two_lives_of_one_session_are_kept_apart(path: Path) -> None:
    journal = Journal(path, "boot")
    journal.write_life(life(born=1))
    journal.write_life(life(born=3))
    journal.forget_life(life(born=1))
    assert [found.born for found in journal.lives()] == [3]


def test_a_rolled_back_life_keeps_its_birth(path: Path) -> None:
    journal = Journal(path, "boot")
    journal.write_life(life(born=1))
    journal.write_life(life(born=1, incarnation=3))
    assert [found.held().incarnation for found in journal.lives()] == [3]


def test_events_are_numbered_and_stay_until_acknowledged(path: Path) -> None:
    journal = Journal(path, "boot")
    numbers = [journal.write_event(SandboxStopped(session=f"s{n}", incarnation=n)) for n in range(3)]
    journal.acknowledge(numbers[1])
    assert [(number, event.session) for number, event in journal.events_after(0)] == [(numbers[2], "s2")]
    assert numbers == sorted(set(numbers))


def test_a_number_is_never_given_twice_even_when_all_are_acknowledged(path: Path) -> None:
    journal = Journal(path, "boot")
    first = journal.write_event(MoveCommitted(move="m", session="s"))
    journal.acknowledge(first)
    journal.close()
    assert Journal(path, "boot").write_event(MoveCommitted(move="m", session="s")) == first + 1


def test_numbers_jump_ahead_after_a_reboot(path: Path) -> None:
    journal = Journal(path, "boot 1")
    last = journal.write_event(MoveCommitted(move="m", session="s"))
    journal.close()
    assert Journal(path, "boot 2").write_event(MoveCommitted(move="m", session="s")) > last + 1000


def test_a_transaction_is_all_or_nothing(path: Path) -> None:
    journal = Journal(path, "boot")

    def half_way() -> None:
        with journal.transaction():
            journal.write_life(life())
            journal.write_event(SandboxStopped(session="s", incarnation=1))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half_way()
    assert journal.lives() == []
    assert journal.events_after(0) == []


def test_notes_of_a_move_go_with_its_half(path: Path) -> None:
    journal = Journal(path, "boot")
    half = Half(move="m", side="target", session="s", born=2, strategy="lazy", incarnation=2)
    journal.write_half(half)
    journal.note("m", {"made": "images"})
    journal.note("m", {"made": "pager", "pid": 7})
    journal.note("other", {"made": "nothing"})
    assert journal.halves() == [half]
    assert journal.notes("m") == [{"made": "images"}, {"made": "pager", "pid": 7}]
    journal.forget_half("m")
    assert (journal.halves(), journal.notes("m"), len(journal.notes("other"))) == ([], [], 1)


def test_an_end_is_unheard_until_it_is_acknowledged(path: Path) -> None:
    journal = Journal(path, "boot")
    ends = [
        MoveStumbled(move="a", session="s", side="source", resumed=True, error=Busy("later").to_wire()),
        SessionSaved(save="b", session="s", incarnation=1, report=SaveReport()),
        ArrivalAbandoned(move="c", session="s"),
    ]
    numbers = [journal.write_event(end) for end in ends]
    journal.write_event(MoveCommitted(move="d", session="s"))
    assert [move for move in "abcde" if journal.is_end_unheard(move)] == ["a", "b", "c"]
    journal.acknowledge(numbers[1])
    assert [move for move in "abcde" if journal.is_end_unheard(move)] == ["c"]


def test_tidying_shortens_the_log_and_loses_nothing(path: Path) -> None:
    journal = Journal(path, "boot")
    journal.write_life(life())
    journal.tidy()
    assert Journal(path, "boot").lives() == [life()]
    journal.write_half(Half(move="m", side="source", session="s", born=1, strategy="copy", incarnation=2))
    journal.tidy()  # not during a move
    assert journal.lives() == [life()]


def test_what_stands_in_it_is_this_users_alone(path: Path) -> None:
    journal = Journal(path, "boot")
    journal.write_life(life())
    assert [file.stat().st_mode & 0o077 for file in path.parent.iterdir()] == [0] * 3
    journal.close()
