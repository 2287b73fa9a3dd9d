"""What a kernel last said of itself, and who remembers it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from jupyter_client.session import Session

from sojourn.front.messages import Message
from sojourn.front.recollection import Recollection

KERNEL = Session(key=b"k")


def message(kind: str, content: dict[str, Any]) -> Message:
    read = Message.read([b"alice", *KERNEL.serialize(KERNEL.msg(kind, content))])
    assert read is not None
    return read


def answer(recollection: Recollection, kind: str, **content: Any) -> dict[str, Any]:
    return recollection.answer(message(kind, content))


@pytest.fixture
def known(tmp_path: Path) -> Recollection:
    return Recollection(tmp_path / "known", "python")


def test_a_kernel_that_was_never_asked_has_a_language(known: Recollection) -> None:
    assert answer(known, "kernel_info_request")["language_info"]["name"] == "python"
    assert answer(known, "comm_info_request") == {"status": "ok", "comms": {}}
    assert answer(known, "debug_request", seq=4, command="debugInfo")["body"]["isStarted"] is False
    assert answer(known, "usage_request") == {}


def test_the_last_answer_counts(known: Recollection) -> None:
    for pid in (1, 2):
        known.replied(message("usage_reply", {"pid": pid}))
    known.replied(message("debug_reply", {"command": "debugInfo", "request_seq": 3, "body": {"isStarted": True}}))
    known.replied(message("debug_reply", {"command": "attach", "body": {}}))
    assert answer(known, "usage_request") == {"pid": 2}
    debug = answer(known, "debug_request", seq=9, command="debugInfo")
    assert (debug["request_seq"], debug["body"]) == (9, {"isStarted": True})


def test_comms_are_counted_as_they_open_and_close(known: Recollection) -> None:
    known.passed(message("comm_open", {"comm_id": "a", "target_name": "t"}))
    known.passed(message("comm_open", {"comm_id": "b", "target_name": "u"}))
    known.replied(message("comm_info_reply", {"comms": {"c": {"target_name": "t"}}}))
    known.passed(message("comm_msg", {"comm_id": "a"}))
    known.passed(message("comm_close", {"comm_id": "b"}))
    assert set(answer(known, "comm_info_request")["comms"]) == {"a", "c"}
    assert answer(known, "comm_info_request", target_name="u")["comms"] == {}
    known.forget_program()
    assert answer(known, "comm_info_request")["comms"] == {}


def test_the_next_front_knows_it(known: Recollection, tmp_path: Path) -> None:
    info = {"status": "ok", "implementation": "ipython"}
    known.replied(message("kernel_info_reply", info))
    assert answer(Recollection(tmp_path / "known", "python"), "kernel_info_request") == info, "without being told to"
    known.passed(message("comm_open", {"comm_id": "a", "target_name": "t"}))
    known.executions, known.epoch = 7, 2
    known.save()
    again = Recollection(tmp_path / "known", "python")
    assert (again.executions, again.epoch) == (7, 2)
    assert set(answer(again, "comm_info_request")["comms"]) == {"a"}


def test_what_is_no_memory_is_none(tmp_path: Path) -> None:
    (tmp_path / "known").write_text("[")
    assert answer(Recollection(tmp_path / "known", "R"), "kernel_info_request")["language_info"]["name"] == "R"
