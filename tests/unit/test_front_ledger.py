"""What a front owes survives it."""

from __future__ import annotations

from pathlib import Path

import pytest
from jupyter_client.session import Session

from sojourn.front.ledger import Debt, Ledger
from sojourn.front.messages import Message


@pytest.fixture
def message() -> Message:
    client = Session(key=b"k")
    read = Message.read([b"alice", *client.serialize(client.msg("execute_request", {"code": "1"}))])
    assert read is not None
    return read


def _taken_up(path: Path) -> list[tuple[str, bool]]:
    return [(debt.id, debt.forwarded) for debt in Ledger(path).take_up()]


def test_what_is_owed_is_found_by_the_next_in_order(tmp_path: Path, message: Message) -> None:
    ledger = Ledger(tmp_path / "owed")
    for name in ("1", "2", "3"):
        ledger.owe(name, message)
    ledger.forwarded("2")
    ledger.settle("1")
    assert _taken_up(tmp_path / "owed") == [("2", True), ("3", False)]
    assert _taken_up(tmp_path / "owed") == [("2", True), ("3", False)], "until it is settled"


def test_a_debt_says_whom_to_answer(tmp_path: Path, message: Message) -> None:
    Ledger(tmp_path / "owed").owe("1", message)
    (debt,) = Ledger(tmp_path / "owed").take_up()
    assert isinstance(debt, Debt)
    assert debt.message.identities == [b"alice"]
    assert debt.message.raw_header == message.raw_header


def test_the_file_is_empty_when_nothing_is_owed(tmp_path: Path, message: Message) -> None:
    ledger = Ledger(tmp_path / "owed")
    ledger.owe("1", message)
    ledger.owe("2", message)
    ledger.settle("1")
    ledger.settle("unknown")
    ledger.settle("2")
    assert (tmp_path / "owed").read_bytes() == b""
    ledger.owe("3", message)
    ledger.clear()
    assert _taken_up(tmp_path / "owed") == []


def test_half_a_line_is_the_end(tmp_path: Path, message: Message) -> None:
    ledger = Ledger(tmp_path / "owed")
    ledger.owe("1", message)
    with (tmp_path / "owed").open("a") as file:
        file.write('{"owe": "2", "fra')
    assert _taken_up(tmp_path / "owed") == [("1", False)]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_costs_the_ledger_not_the_cell(tmp_path: Path, message: Message) -> None:
    (tmp_path / "owed").symlink_to("/dev/full")
    ledger = Ledger(tmp_path / "owed")
    ledger.owe("1", message)
    ledger.forwarded("1")
    ledger.close()
