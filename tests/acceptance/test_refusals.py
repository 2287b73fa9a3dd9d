"""Bad wishes: refused before anything is frozen, with a message that says what to do."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import sojourn
from sojourn.errors import DoesNotFit, Immovable, Invalid, SojournError, Unauthorized, Unknown
from sojourn.testing import execute, session_of, start_kernel

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(120)]

GPU = "gpu = open('/dev/nvidia0', 'w')"
"""A file of that name in the sandbox's own /dev: what `/proc/PID/fd` shows of a card in use."""


@dataclasses.dataclass(frozen=True)
class Wish:
    place: str
    error: type[SojournError]
    says: str
    """In the message."""
    advises: str
    """In the hint."""
    before: str = "pass"
    """Run in the kernel first."""


WISHES = {
    "unknown node": Wish("nowhere", Unknown, "'nowhere'", "Nodes: here, there"),
    "no room": Wish("mem>=9000G", DoesNotFit, "9000.0 GB", "Ask for less"),
    "no such GPU": Wish("gpu>=8", DoesNotFit, "not 8", "Ask for less"),
    "two nodes": Wish("here there", Invalid, "2 nodes", "name one"),
    "nonsense": Wish("mem=>64G", Invalid, "mem=>64G", "mem>=64G"),
    "nothing": Wish("", Invalid, "No place", "Write a node"),
    "a GPU in use": Wish("OTHER", Immovable, "(python", "Close it", GPU),
}


@pytest.mark.parametrize("name", WISHES)
def test_a_move_that_can_not_be(sojourner: sojourn.Client, kernel: tuple[Any, Any], name: str) -> None:
    wish, (manager, client) = WISHES[name], kernel
    session = session_of(manager)
    execute(client, wish.before)
    before = sojourner.session(session)
    place = wish.place.replace("OTHER", "there" if before.node == "here" else "here")
    with pytest.raises(wish.error) as refused:
        sojourner.move(session, place)
    assert wish.says in refused.value.message
    assert wish.advises in refused.value.hint
    assert sojourner.session(session) == before  # nor has it a move that failed: nothing was begun
    assert execute(client, "6 * 7") == "42"


def test_a_wish_in_a_cell_is_refused_in_the_cell(sojourner: sojourn.Client, kernel: tuple[Any, Any]) -> None:
    manager, client = kernel
    before = sojourner.session(session_of(manager))
    with pytest.raises(RuntimeError, match=r"9000\.0 GB[\s\S]*Ask for less[\s\S]*The cell did not run"):
        execute(client, "%%on mem>=9000G\nran = True")
    assert execute(client, "'ran' in globals()") == "False"
    assert sojourner.session(session_of(manager)) == before


def test_a_plan_says_what_would_be_refused_or_reset(
    sojourner: sojourn.Client, kernel: tuple[Any, Any], greeter: tuple[str, int]
) -> None:
    manager, client = kernel
    session = session_of(manager)
    other = "there" if sojourner.session(session).node == "here" else "here"
    execute(client, f"import socket; line = socket.create_connection({greeter}, 5); line.recv(5)")
    plan = sojourner.move(session, other, dry_run=True).plan
    assert plan.fits
    assert plan.connections_reset == (f"tcp {greeter[0]}:{greeter[1]}",)
    assert plan.page_bytes > 1 << 20
    assert plan.frozen_s
    execute(client, GPU)
    plan = sojourner.move(session, other, dry_run=True).plan
    assert not plan.fits
    assert "/dev/nvidia0" in plan.refusals[0]


def test_a_connection_to_the_outside_ends_at_once_and_is_named(
    sojourner: sojourn.Client, kernel: tuple[Any, Any], greeter: tuple[str, int]
) -> None:
    manager, client = kernel
    session = session_of(manager)
    other = "there" if sojourner.session(session).node == "here" else "here"
    execute(
        client, f"import socket; line = socket.create_connection({greeter}, 5); line.settimeout(None); line.recv(5)"
    )
    waiting = client.execute("try:\n    line.recv(1)\nexcept OSError as error:\n    ended = type(error).__name__")
    move = sojourner.move(session, other, wait="filled").move
    assert move.report.connections_reset == (f"tcp {greeter[0]}:{greeter[1]}",)
    while client.get_shell_msg(timeout=10)["parent_header"]["msg_id"] != waiting:
        pass
    assert "Connection" in execute(client, "ended")
    # A new one can be made from there.
    assert execute(client, f"socket.create_connection({greeter}, 5).recv(5)") == "b'hello'"


def test_a_wrong_token(sojourner: sojourn.Client) -> None:
    with sojourn.Client(sojourner.url, "wrong") as stranger, pytest.raises(Unauthorized) as refused:
        stranger.nodes()
    assert "sojourn login" in refused.value.hint


@pytest.mark.parametrize(
    ("config", "advice"),
    [
        ({"image": "localhost/no-such-image:1"}, "sojourn image pull localhost/no-such-image:1"),
        ({"carried": ["/proc"]}, "Name the folder"),
        ({"needs": "mem>=9000G"}, "Ask for less"),
        ({"needs": "nowhere"}, "Nodes: here, there"),
    ],
)
def test_a_kernel_that_can_not_be_started(sojourner: sojourn.Client, config: dict[str, Any], advice: str) -> None:
    before = sojourner.sessions()
    with pytest.raises(SojournError, match=advice):
        start_kernel(**config)
    assert sojourner.sessions() == before


@pytest.fixture
def greeter() -> Iterator[tuple[str, int]]:
    """A server on this machine, at an address that sandboxes reach: it says hello and then nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        try:
            handle.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no network")
        host = handle.getsockname()[0]
    guests = []

    def greet() -> None:
        with contextlib.suppress(OSError):
            while True:
                guests.append(server.accept()[0])
                guests[-1].sendall(b"hello")

    with socket.create_server((host, 0)) as server:
        thread = threading.Thread(target=greet, daemon=True)
        thread.start()
        yield host, server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    thread.join(5)
    for guest in guests:
        guest.close()
