"""What clients see of a kernel that has come in the place of theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sojourn.front.messages import Message, Signer, Voice
from sojourn.front.recollection import Recollection
from sojourn.front.swap import Swap

KERNEL = Voice(Signer(b"key"), "kernel")


def said(kind: str, content: dict[str, Any]) -> Message:
    message = Message.read(KERNEL.publish(kind, b"{}", content))
    assert message
    return message


class Front:
    def __init__(self, folder: Path, *comms: str) -> None:
        self.asked: list[tuple[object, ...]] = []
        self.published: list[Message] = []
        self.recollection = Recollection(folder / "known", "python")
        for comm in comms:
            self.recollection.passed(said("comm_open", {"comm_id": comm, "target_name": "t"}))
        self.swap = Swap(self._ask, KERNEL, self.recollection, self._publish)

    def _ask(self, *question: object) -> str:
        self.asked.append(question)
        return "question"

    def _publish(self, frames: list[bytes]) -> None:
        message = Message.read(frames)
        assert message
        self.published.append(message)


def test_comms_that_it_does_not_have_are_closed_but_not_those_that_it_opens(tmp_path: Path) -> None:
    front = Front(tmp_path, "kept", "gone")
    front.swap.came()
    assert front.asked == [("shell", None, "comm_info_request")]
    front.recollection.passed(said("comm_open", {"comm_id": "new", "target_name": "t"}))
    reply = said("comm_info_reply", {"status": "ok", "comms": {"kept": {"target_name": "t"}}})
    assert not front.swap.replied("another", reply)
    assert front.swap.replied("question", reply)
    assert [one.content for one in front.published] == [{"comm_id": "gone", "data": {}}]
    assert front.recollection.comms == ("kept", "new")


def test_an_answer_that_tells_nothing_closes_nothing(tmp_path: Path) -> None:
    front = Front(tmp_path, "kept")
    front.swap.came()
    assert front.swap.replied("question", said("comm_info_reply", {"status": "aborted"}))
    assert front.published == []


def test_that_it_starts_is_hidden_unless_somebody_has_started_it(tmp_path: Path) -> None:
    starting, busy = (said("status", {"execution_state": state}) for state in ("starting", "busy"))
    front = Front(tmp_path)
    assert not front.swap.hides(starting)
    front.swap.came()
    assert front.asked == [], "no comm is known"
    assert front.swap.hides(starting)
    assert not front.swap.hides(busy)
    front.swap.began()
    assert not front.swap.hides(starting)
