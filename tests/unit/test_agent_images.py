"""An image from one machine to another: what comes whole is there, what does not is not."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.unit.podman_stand_in import Podman

from sojourn.agent import images
from sojourn.agent.images import Tally, receive, send
from sojourn.errors import DoesNotFit, SandboxFailed, SojournError, Unreachable
from sojourn.transport.lines import encode_line
from sojourn.transport.routes import Routes


@pytest.fixture
def podman(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Podman:
    made = Podman(tmp_path)
    monkeypatch.setenv("PATH", str(made.bin), prepend=":")
    return made


@pytest.fixture
def port() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def answering(port: socket.socket, work: Callable[[socket.socket], object]) -> threading.Thread:
    """A data port that lets one caller in."""

    def serve() -> None:
        connection, _ = port.accept()
        line = b""
        while not line.endswith(b"\n"):
            line += connection.recv(1)
        connection.sendall(encode_line({"ok": True}))
        work(connection)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def bring(port: socket.socket, image: str, sent: Callable[[int], None] = lambda _: None) -> None:
    send(image, Routes("there", f"127.0.0.1:{port.getsockname()[1]}", ""), "ticket", sent)


def test_what_is_sent_is_taken_in(podman: Podman, port: socket.socket) -> None:
    image = podman.has("ab", "mine")
    size, tally, counted = (podman.store / image).stat().st_size, Tally(1000), list[int]()
    serving = answering(port, lambda connection: receive(connection, image, "theirs", tally))
    bring(port, image, counted.append)
    serving.join()
    assert counted[-1] == tally.done_bytes == size
    assert images.images.find("theirs").id == image


def test_who_receives_says_why_it_can_not(podman: Podman, port: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sojourn.sandbox.images.free_bytes", lambda: 1000)
    raised: list[SojournError] = []

    def work(connection: socket.socket) -> None:
        try:
            receive(connection, "ab" * 32, "mine", Tally(10**9))
        except SojournError as error:
            raised.append(error)

    image = podman.has("ab", "mine")
    serving = answering(port, work)
    with pytest.raises(DoesNotFit, match="no room for image mine"):
        bring(port, image)
    serving.join()
    assert isinstance(raised[0], DoesNotFit)


def test_an_image_that_is_cut_off_is_not_there(podman: Podman) -> None:
    near, far = socket.socketpair()
    near.sendall(images.zstandard.ZstdCompressor(level=1).compress(b"half of it" * 1000)[:20])
    near.shutdown(socket.SHUT_WR)
    with pytest.raises(Unreachable, match="did not come whole"):
        receive(far, "ab" * 32, "mine", Tally(1000))
    assert b'"unreachable"' in near.recv(65536)
    near.close()
    assert not list(podman.store.iterdir())


def test_what_podman_can_not_save_is_not_taken_for_an_empty_image(podman: Podman, port: socket.socket) -> None:
    seen: list[bytes] = []

    def work(connection: socket.socket) -> None:
        with connection:
            while piece := connection.recv(65536):
                seen.append(piece)

    serving = answering(port, work)
    with pytest.raises(SandboxFailed, match="image not known"):
        bring(port, "nothing")
    serving.join()
    assert b"".join(seen) == b""


def test_a_receiver_that_hangs_up_is_noticed(podman: Podman, port: socket.socket) -> None:
    image = podman.has("ab", "mine")
    serving = answering(port, lambda connection: connection.close())
    with pytest.raises(Unreachable, match="ended before the image was there"):
        bring(port, image)
    serving.join()
