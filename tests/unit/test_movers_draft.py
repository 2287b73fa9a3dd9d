"""CRIU's images, shortened by the pages that went ahead, come out as they were."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from sojourn.errors import MoveFailed
from sojourn.movers.criu import images
from sojourn.movers.criu.draft import Draft, Exactly
from sojourn.movers.pager.pieces import PAGE
from sojourn.movers.parcels import Parcels


def pages(count: int) -> list[bytes]:
    return [os.urandom(PAGE) for _ in range(count)]


def shortened(draft: Draft, body: bytes) -> bytes:
    return b"".join(draft.shortened([body]))


def restored(draft: Draft, body: bytes, size: int) -> bytes:
    stream = Exactly(iter([body[:5], body[5:]]))
    found = b"".join(draft.restored(size, stream))
    assert stream.is_over
    return found


@pytest.mark.parametrize("rest", [b"", b"the end"])
def test_pages_of_the_draft_are_pointed_to_and_the_others_follow(rest: bytes) -> None:
    known = pages(600)
    body = b"".join([*known[:300], *pages(3), *reversed(known)]) + rest
    short = shortened(Draft(known), body)
    assert len(short) < 3 * PAGE + 4 * 904 + len(rest) + 8
    assert restored(Draft(known), short, len(body)) == body


def test_without_a_draft_an_image_goes_as_it_is() -> None:
    body = b"".join(pages(300)) + b"x"
    assert shortened(Draft(), body) == body
    assert restored(Draft(), body, len(body)) == body


def test_a_draft_of_a_running_task_has_the_pages_that_it_has_written_to() -> None:
    draft = Draft.of([os.getpid(), 2**22 + 1])
    assert draft.pages
    assert {len(page) for page in draft.pages} == {PAGE}


def test_what_makes_no_sense_is_refused() -> None:
    draft = Draft(pages(2))
    with pytest.raises(MoveFailed, match="page 2 of a draft of 2"):
        restored(draft, (2).to_bytes(4, "big"), PAGE)
    with pytest.raises(MoveFailed, match="did not come whole"):
        restored(draft, b"\0\0", PAGE)


def test_images_arrive_as_they_were_written(tmp_path: Path) -> None:
    for name in ("out", "in"):
        (tmp_path / name).mkdir()
    known = pages(20)
    bodies = {"core-1.img": b"core", "empty.img": b"", "pages-1.img": b"".join([*known, *pages(400)])}
    for name, body in bodies.items():
        (tmp_path / "out" / name).write_bytes(body)
    ours, theirs = socket.socketpair()
    sizes = images.image_sizes(tmp_path / "out")

    def send() -> None:
        parcels, draft = Parcels(ours), Draft(known)
        draft.send(parcels)
        parcels.send_stream(images.contents(tmp_path / "out", sizes, draft))

    sending = threading.Thread(target=send)
    sending.start()
    with ours, theirs:
        parcels = Parcels(theirs)
        assert images.receive(tmp_path / "in", sizes, parcels, Draft.receive(parcels)) == sum(sizes.values())
        sending.join()
    assert {name: (tmp_path / "in" / name).read_bytes() for name in bodies} == bodies
