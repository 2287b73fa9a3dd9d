"""Jupyter's messages on the wire, checked against jupyter_client's own."""

from __future__ import annotations

from typing import Any

import pytest
from jupyter_client.session import Session

from sojourn.directive import Directive
from sojourn.front.messages import Message, Signer, Voice, empty_answer, is_welcome, read_control, read_request
from sojourn.switchboard_law import Kind

KEY = b"secret"


@pytest.fixture
def client() -> Session:
    return Session(key=KEY, session="alice")


@pytest.fixture
def signer() -> Signer:
    return Signer(KEY)


def wire(client: Session, kind: str, content: dict[str, Any], **how: Any) -> Message:
    """A request as it arrives at a ROUTER."""
    message = client.msg(kind, content, **how)
    read = Message.read([b"alice", *client.serialize(message), b"buffer"])
    assert read is not None
    return read


def heard(client: Session, frames: list[bytes]) -> dict[str, Any]:
    """As a client reads it: raises when the signature is wrong."""
    _, rest = client.feed_identities(frames)
    return dict(client.deserialize(rest))


def test_signatures_are_those_of_jupyter(client: Session, signer: Signer) -> None:
    message = wire(client, "execute_request", {"code": "1"})
    assert signer.accepts(message)
    assert not Signer(b"other").accepts(message)
    assert Signer(b"").accepts(message)


@pytest.mark.parametrize("frames", [[], [b"x"], [b"<IDS|MSG>", b""], [b"x"] * 9])
def test_other_frames_are_no_message(frames: list[bytes]) -> None:
    assert Message.read(frames) is None


def test_a_plain_execute_is_not_touched(client: Session, signer: Signer) -> None:
    message = wire(client, "execute_request", {"code": "1", "silent": False, "stop_on_error": False})
    request = read_request(message, "python", signer)
    assert request.message is message
    assert (request.kind, request.client, request.silent, request.stops_on_error) == (
        Kind.EXECUTE,
        b"alice",
        False,
        False,
    )


def test_a_directive_is_taken_out_and_the_request_signed_again(client: Session, signer: Signer) -> None:
    message = wire(client, "execute_request", {"code": "%%on there\nx", "store_history": True})
    request = read_request(message, "python", signer)
    assert request.directive == Directive("there")
    assert request.id == message.header["msg_id"]
    read = heard(client, request.message.frames)
    assert read["content"] == {"code": "# %%on there\nx", "store_history": True}
    assert bytes(read["buffers"][0]) == b"buffer"


def test_metadata_moves_a_cell_whose_code_stays(client: Session, signer: Signer) -> None:
    message = wire(client, "execute_request", {"code": "x"}, metadata={"sojourn": {"node": "there"}})
    request = read_request(message, "python", signer)
    assert request.directive == Directive("there")
    assert request.message is message


def test_a_silent_request_has_no_directive(client: Session, signer: Signer) -> None:
    message = wire(client, "execute_request", {"code": "%%on there", "silent": True})
    assert read_request(message, "python", signer).directive is None


def test_a_directive_that_means_nothing_is_a_fault(client: Session, signer: Signer) -> None:
    request = read_request(wire(client, "execute_request", {"code": "%%on ?"}), "python", signer)
    assert request.fault is not None


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("complete_request", {}, Kind.QUESTION),
        ("kernel_info_request", {}, Kind.FACT),
        ("comm_msg", {}, Kind.ACT),
        ("comm_msg", {"data": {"method": "update", "state": {"value": "request_state"}}}, Kind.ACT),
        ("comm_msg", {"data": {"method": "request_states"}}, Kind.FORMALITY),
        ("comm_open", {"target_name": "jupyter.widget"}, Kind.ACT),
        ("comm_open", {"target_name": "jupyter.widget.control"}, Kind.FORMALITY),
        ("comm_close", {}, Kind.FORMALITY),
        ("execute_request", {"code": " ", "silent": True}, Kind.QUESTION),
        ("execute_request", {"code": "", "silent": True, "user_expressions": {"x": "1"}}, Kind.EXECUTE),
        ("execute_request", {"code": "", "silent": False}, Kind.EXECUTE),
        ("of_tomorrow_request", {}, Kind.ACT),
    ],
)
def test_kinds(client: Session, signer: Signer, name: str, content: dict[str, Any], kind: Kind) -> None:
    assert read_request(wire(client, name, content), "python", signer).kind is kind


@pytest.mark.parametrize(("command", "kind"), [("debugInfo", Kind.FACT), ("attach", Kind.ACT)])
def test_kinds_on_control(client: Session, command: str, kind: Kind) -> None:
    request = read_control(wire(client, "debug_request", {"command": command, "seq": 1}))
    assert (request.kind, request.channel) == (kind, "control")


def test_a_message_is_signed_anew_for_another_key(client: Session, signer: Signer) -> None:
    message = wire(client, "execute_request", {"code": "1"})
    other = Signer(b"another")
    again = Message.read(other.sign_anew(message.frames))
    assert again is not None
    assert (other.accepts(again), signer.accepts(again)) == (True, False)
    assert again.content == {"code": "1"}
    assert again.identities == [b"alice"]


def test_subshells_are_told_apart(client: Session, signer: Signer) -> None:
    message = client.msg("execute_request", {"code": "1"})
    message["header"]["subshell_id"] = "s"
    read = Message.read([b"alice", *client.serialize(message)])
    assert read is not None
    assert read_request(read, "python", signer).subshell == "s"


def test_answers_are_heard_by_the_client_that_asked(client: Session, signer: Signer) -> None:
    message = wire(client, "complete_request", {"code": "pri", "cursor_pos": 3})
    frames = Voice(signer, "s1").reply(message, empty_answer(message))
    assert frames[0] == b"alice"
    read = heard(client, frames)
    assert read["msg_type"] == "complete_reply"
    assert read["parent_header"]["msg_id"] == message.header["msg_id"]
    assert read["content"]["cursor_start"] == 3


@pytest.mark.parametrize("topic", [b"", b"kernel.x"])
def test_a_welcome_is_known_as_one(client: Session, signer: Signer, topic: bytes) -> None:
    frames = Voice(signer, "s1").welcome(topic)
    read = heard(client, frames)
    assert (read["msg_type"], read["content"]) == ("iopub_welcome", {"subscription": topic.decode()})
    assert is_welcome(frames) is (topic == b"")
    assert not is_welcome(Voice(signer, "s1").publish("status", b"{}", {}))
