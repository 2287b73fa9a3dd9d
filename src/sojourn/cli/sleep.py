"""`sojourn suspend`, `resume`, `checkpoint`, `restore`, `fork`: sessions that sleep, go back, and branch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from sojourn.cli.arguments import AsJson, AtPlace, CheckpointName, SessionName
from sojourn.cli.connection import chosen, connect
from sojourn.cli.following import cost_of_saving, cost_of_waking, follow_save, follow_wake, waiting
from sojourn.cli.images import shipping

if TYPE_CHECKING:
    from sojourn.model import SessionView, WakeView


def add_to(app: typer.Typer) -> None:
    for command in (suspend, resume, checkpoint, restore, fork, attach):
        app.command()(command)


def suspend(
    session: SessionName,
    force: Annotated[
        bool, typer.Option("--force", help="Also in the middle of a cell, which goes on when it wakes.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Let a session sleep in the store; its clients stay connected.

    Nothing of it runs on its node any more. The next cell, or `sojourn resume`, wakes it.
    """
    from sojourn.cli.screen import print_json

    with connect() as client:
        view = client.suspend(session, force=force, wait="accepted")
        save = follow_save(client, view.id, view.save, show=not as_json) if view.save else None
        view = client.session(view.id)
    if as_json:
        print_json({"session": view, "save": save})
    elif save is None:
        print(f"{called(view)} sleeps already.")
    elif save.phase == "saving":
        print(f"{called(view)} is falling asleep.")
    else:
        print(f"{called(view)} sleeps: {cost_of_saving(save.report)}")


def resume(session: SessionName, node: AtPlace = None, as_json: AsJson = False) -> None:
    """Wake a session where it was, or at another place.

    Waits until every page of its memory has arrived.
    """
    from sojourn.cli.screen import print_json

    with connect() as client:
        before = client.session(session)
        with shipping(client, show=not as_json):
            view = client.resume(session, node, wait="accepted")
        asleep = before.status in ("suspending", "suspended", "waking")
        wake = follow_wake(client, view.id, None, show=not as_json) if asleep else None
        view = client.session(view.id)
    if as_json:
        print_json({"session": view, "wake": wake})
    else:
        print(_awake(view, wake) + _resets(wake) if wake else f"{called(view)} is awake on {view.node} already.")


def checkpoint(
    session: SessionName,
    name: Annotated[str, typer.Option("--name", help="What to call it; no two of a session are called the same.")] = "",
    as_json: AsJson = False,
) -> None:
    """Save a running session's state; it goes on.

    The checkpoint is kept until it is deleted: `sojourn checkpoints rm`.
    """
    from sojourn.cli.screen import print_json

    with connect() as client:
        begun = client.checkpoint(session, name, wait="accepted")
        save = follow_save(client, begun.session, begun.id, show=not as_json)
        if save is None or save.phase == "saving":
            return
        saved = client.checkpoint_view(begun.id)
    if as_json:
        print_json(saved)
    else:
        print(f"{saved.session_name or saved.session[:8]} goes on; checkpoint {saved.name or saved.id[:8]}: ", end="")
        print(cost_of_saving(saved.report))


def restore(checkpoint: CheckpointName, node: AtPlace = None, as_json: AsJson = False) -> None:
    """Take a session back to a checkpoint.

    What it did since is gone; requests without an answer get an error.
    """
    from sojourn.cli.screen import age, print_json

    with connect() as client:
        saved = client.checkpoint_view(checkpoint)
        view = client.restore(saved.session, saved.id, node, wait="accepted")
        wake = follow_wake(client, view.id, None, show=not as_json)
        view = client.session(view.id)
    if as_json:
        print_json({"session": view, "wake": wake, "checkpoint": saved})
    else:
        old = age(saved.created_at)
        saved_when = "saved just now" if old == "now" else f"saved {old} ago"
        back = f"{called(view)} is back at {saved.name or saved.id[:8]}, {saved_when}, on {view.node}"
        print(f"{back}: {cost_of_waking(wake)}{_resets(wake)}" if wake else f"{back}.")


def fork(
    session: SessionName,
    node: AtPlace = None,
    count: Annotated[int, typer.Option("--count", min=1, max=64, help="How many.")] = 1,
    checkpoint: Annotated[
        str | None, typer.Option("--checkpoint", help="Begin in this state instead of that of now.")
    ] = None,
    name: Annotated[str, typer.Option("--name", help="What to call it; several get a number.")] = "",
    as_json: AsJson = False,
) -> None:
    """Begin new sessions in the state of another.

    Each has files, addresses and clients of its own. What was in memory is the same in all, random state too.
    """
    from sojourn.cli.screen import print_json

    with connect() as client:
        with waiting("the state is being saved, and the branches begin", show=not as_json):
            forks = client.fork(session, node, count, name, checkpoint, wait="accepted")
        wakes = [follow_wake(client, one.id, None, show=not as_json) for one in forks]
        forks = [client.session(one.id) for one in forks]
        opened = [_open(one) for one in forks]
    if as_json:
        return print_json(
            [
                {"session": one, "wake": wake, "connection_file": path}
                for one, wake, path in zip(forks, wakes, opened, strict=True)
            ]
        )
    for one, wake, path in zip(forks, wakes, opened, strict=True):
        print(_awake(one, wake) if wake else f"{called(one)} is on {one.node}.")
        print(*([how_to_open(path)] if path else []), sep="\n", end="\n" if path else "")
    return None


def attach(session: SessionName, as_json: AsJson = False) -> None:
    """Let this machine's clients reach the kernel of a session.

    For a fork made from a notebook, or a kernel that another machine started.
    """
    from sojourn.cli.screen import print_json

    with connect() as client:
        path = adopt(client.session(session))
    if as_json:
        print_json({"connection_file": path})
    else:
        print(how_to_open(path))


def called(view: SessionView) -> str:
    return view.name or view.id[:8]


def how_to_open(path: str) -> str:
    return f"  jupyter console --existing {path}"


def adopt(view: SessionView) -> str:
    """Have this machine's front host the session's kernel; its connection file. Raises as the front does."""
    from sojourn.front.client import ensure
    from sojourn.jupyter.kernelspec import connections_folder

    controller = chosen()
    ensure(controller).adopt(view.id, controller)
    return str(connections_folder() / f"kernel-{view.id}.json")


def _open(view: SessionView) -> str | None:
    """A fork runs, whether its kernel can be opened from here or not."""
    from sojourn.cli.screen import print_error
    from sojourn.errors import SojournError

    try:
        return adopt(view)
    except SojournError as refused:
        print_error(f"{called(view)} can't be opened from here: {refused.message}", refused.hint)
        return None


def _awake(view: SessionView, wake: WakeView) -> str:
    return f"{called(view)} on {view.node}: {cost_of_waking(wake)}"


def _resets(wake: WakeView) -> str:
    return "" if wake.exact else "; its clients' streams begin anew, and requests without an answer got an error"
