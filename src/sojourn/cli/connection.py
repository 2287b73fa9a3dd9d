"""Which controller a command talks to, and what a shell may complete from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sojourn.errors import SojournError, Unreachable

if TYPE_CHECKING:
    from sojourn.client import Client
    from sojourn.settings import Controller


def connect() -> Client:
    """A client of the chosen controller. Raises Unreachable when there is none."""
    from sojourn.client import Client

    controller = chosen()
    return Client(controller.url, controller.token)


def chosen() -> Controller:
    """The configured controller, else the embedded one if it runs; no command but `up` starts one."""
    from sojourn import embedded
    from sojourn.settings import configured_controller

    controller = configured_controller() or embedded.running()
    if controller is None:
        raise Unreachable(
            "No controller is configured, and none runs on this machine.",
            "`sojourn up` starts one here; `sojourn login URL` chooses one elsewhere.",
        )
    return controller


def complete_sessions(incomplete: str) -> list[tuple[str, str]]:
    """For the shell: names (or ids) of sessions, each with its status and node."""

    def found() -> list[tuple[str, str]]:
        with connect() as client:
            return [(view.name or view.id[:8], f"{view.status} on {view.node}") for view in client.sessions()]

    return _quietly(found, incomplete)


def complete_nodes(incomplete: str) -> list[tuple[str, str]]:
    """For the shell: names of nodes and their labels."""

    def found() -> list[tuple[str, str]]:
        with connect() as client:
            nodes = client.nodes()
        labels = sorted({label for node in nodes for label in node.labels})
        return [(node.name, f"node, {node.status}") for node in nodes] + [(label, "label") for label in labels]

    return _quietly(found, incomplete)


def complete_checkpoints(incomplete: str) -> list[tuple[str, str]]:
    """For the shell: names (or ids) of checkpoints, each with its session."""

    def found() -> list[tuple[str, str]]:
        with connect() as client:
            views = client.checkpoints()
        return [(view.name or view.id[:8], f"of {view.session_name or view.session[:8]}") for view in views]

    return _quietly(found, incomplete)


def complete_images(incomplete: str) -> list[tuple[str, str]]:
    """For the shell: names of images, each with its nodes."""

    def found() -> list[tuple[str, str]]:
        with connect() as client:
            return [(name, f"on {', '.join(view.nodes)}") for view in client.images() for name in view.image.names]

    return _quietly(found, incomplete)


def _quietly(find: Callable[[], list[tuple[str, str]]], incomplete: str) -> list[tuple[str, str]]:
    """A shell that completes must never see an error."""
    try:
        return [choice for choice in find() if choice[0].startswith(incomplete)]
    except (SojournError, OSError):
        return []
