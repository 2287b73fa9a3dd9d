"""`sojourn forward`: reach a port that a session's programs listen at."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from sojourn.cli.arguments import SessionName
from sojourn.cli.connection import chosen, connect
from sojourn.errors import Invalid, SessionLost

if TYPE_CHECKING:
    from sojourn.front.forwarding import Forwarding, Passage


def add_to(app: typer.Typer) -> None:
    app.command()(forward)


def forward(
    session: SessionName,
    ports: Annotated[
        list[str],
        typer.Argument(metavar="[LOCAL:]PORT...", help="A port inside; before the colon, one here. :PORT takes any."),
    ],
    host: Annotated[
        str, typer.Option("--address", help="Where to listen; 0.0.0.0 lets other machines in.")
    ] = "127.0.0.1",
    wake: Annotated[bool, typer.Option("--wake/--no-wake", help="Whether a connection wakes a sleeping one.")] = True,
) -> None:
    """Reach ports inside a session from here, as of a dashboard.

    Until Ctrl-C. Connections live on when the session moves.
    """
    from sojourn.front.client import front_folder
    from sojourn.front.correspondent import forwarding
    from sojourn.front.words import ControllerAddress
    from sojourn.lifecycle import ENDED

    passages = [read_passage(text) for text in ports]
    with connect() as client:
        view = client.session(session)
    if view.status in ENDED:
        raise SessionLost(f"{view.name or view.id[:8]} has ended.", "`sojourn sessions` lists those that live.")
    controller = chosen()
    where = ControllerAddress(url=controller.url, token=controller.token)
    with forwarding(where, view, front_folder(), wakes=wake, say=_say) as running:
        for passage in passages:
            print(f"http://{running.open(host, passage)} -> {running.name}:{passage.inside}", flush=True)
        _stop_on_signals(running)
        if reason := running.run():
            raise SessionLost(
                f"{running.name} has ended: {reason.rstrip('.')}.", "`sojourn sessions --all` shows what became of it."
            )


def read_passage(text: str) -> Passage:
    """`8787`, `8080:5000`, `:5000`. Raises Invalid."""
    from sojourn.front.forwarding import Passage

    local, colon, inside = text.rpartition(":")
    numbers = [port or "0" for port in (local if colon else inside, inside)]
    if not all(port.isascii() and port.isdigit() and int(port) < 65536 for port in numbers) or not int(numbers[1]):
        raise Invalid(f"{text!r} names no port.", "Write 8787, 8080:5000 (local:inside), or :5000 for any local port.")
    return Passage(int(numbers[0]), int(numbers[1]))


def _stop_on_signals(running: Forwarding) -> None:
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: running.stop())


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
