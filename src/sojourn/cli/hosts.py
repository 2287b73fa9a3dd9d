"""`sojourn add`: make a machine a node over SSH, and `sojourn remove`: make it none any more."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sojourn.cli.connection import chosen, complete_nodes
from sojourn.errors import Invalid, Refused, SojournError

if TYPE_CHECKING:
    from sojourn.model import NodeView


def add_to(app: typer.Typer) -> None:
    app.command()(add)
    app.command()(remove)


def add(
    destination: Annotated[
        str, typer.Argument(metavar="USER@HOST", help="As ssh understands it; a name of ~/.ssh/config, too.")
    ],
    label: Annotated[list[str] | None, typer.Option(help="A word sessions can ask for; may be repeated.")] = None,
    name: Annotated[str, typer.Option(help="The node's name; the host's, without it.")] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Install what is missing there without asking.")] = False,
    sudo: Annotated[bool, typer.Option("--sudo", help="Do everything there as root, by sudo.")] = False,
    direct: Annotated[
        bool, typer.Option("--direct", help="The host dials the controller itself, not through ssh.")
    ] = False,
    wheelhouse: Annotated[
        Path | None,
        typer.Option(help="A folder of wheels to bring along, for a host without an index.", exists=True),
    ] = None,
    ssh_option: Annotated[
        list[str] | None, typer.Option("--ssh-option", "-o", metavar="OPTION", help="As ssh's own -o; may be repeated.")
    ] = None,
) -> None:
    """Make a machine a node, over SSH: all it takes is that `ssh USER@HOST` works.

    Installs there what is missing, after asking, and has the agent run as a service. Done again, it mends the node, or
    brings it up to date.
    """
    from sojourn import embedded
    from sojourn.hosts.addition import Wish, add
    from sojourn.settings import configured_controller

    own = configured_controller() is None
    controller = embedded.ensure(say=print)
    wish = Wish(destination, name, tuple(label or ()), tuple(ssh_option or ()), sudo, direct, wheelhouse)
    node = add(wish, controller, own, embedded.tie, Talk(yes))
    print(ability(node, "directly" if direct else "through ssh"))
    if node.capabilities.strategies and (advice := about_folders(node)):
        print(advice)


def remove(
    node: Annotated[str, typer.Argument(metavar="NODE", help="A node's name.", autocompletion=complete_nodes)],
    drain: Annotated[
        bool, typer.Option("--drain", help="Bring its sessions to other nodes first, without asking.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="End its sessions; forget a host that can't be reached, too.")
    ] = False,
) -> None:
    """End a node that `sojourn add` made, and leave nothing of it on its host but what the doctor installed.

    Asks what becomes of its sessions, if it holds any. Of a node that was begun by hand, the agent has to be stopped
    there first.
    """
    from sojourn import embedded
    from sojourn.hosts.emptying import Way
    from sojourn.hosts.removal import remove

    if drain and force:
        raise Invalid("Sessions can't both leave and end.", "Say --drain or --force.")
    way: Way = "drain" if drain else "end" if force else "ask"
    hint = "--drain brings them away without asking, --force ends them."
    remove(node, way, chosen(), embedded.tie, Talk(yes=drain, hint=hint))
    print(f"{node} is no node any more.")


class Talk:
    """Says what is done as it is done, and asks."""

    def __init__(self, yes: bool, hint: str = "`--yes` answers all questions.") -> None:
        from sojourn.cli.screen import console

        self._yes, self._hint, self._screen = yes, hint, console()

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        from rich.text import Text

        try:
            with self._screen.status(Text(f"{title} …")):
                yield
        except SojournError:
            self._screen.print(Text(f"✗ {title}", style="red"))
            raise
        self._screen.print(Text.assemble(("✓ ", "green"), title))

    def ask(self, what: str, lines: Sequence[str]) -> None:
        self.say(what)
        for line in lines:
            self.say(f"    {line}")
        if self._yes:
            return
        if not sys.stdin.isatty():
            raise Invalid("Nobody is there to be asked.", self._hint)
        if not typer.confirm("Go on?", default=True):
            raise Refused("Nothing was done.")

    def say(self, sentence: str) -> None:
        from rich.text import Text

        self._screen.print(Text(sentence), soft_wrap=True)


def about_folders(node: NodeView) -> str:
    """What has to be said of a person's folders, so that kernels can go to a machine where they are others; empty when
    something was said."""
    from sojourn.settings import config_folder, kernels_mounts

    if kernels_mounts():
        return ""
    return (
        "Kernels share your home and the notebook's folder with their node, and so go only where these are the same. "
        f"If {node.name} has others, say in {config_folder() / 'config.toml'} what becomes of them:\n\n{FOLDERS}"
    )


FOLDERS = """\
    [[kernels.mounts]]
    path = "{home}"
    mode = "left"       # each node's own; the environment that a kernel runs from goes along

    [[kernels.mounts]]
    path = "{cwd}"
    mode = "carried"    # a copy of its own, which goes along
"""


def ability(node: NodeView, way: str) -> str:
    """What a new node can do, in a line."""
    from sojourn.cli.screen import amount

    can = node.capabilities
    lacking = next((can.refusals[what] for what in ("runc", "lazy", "copy") if what in can.refusals), "runc needs root")
    moves = f"sessions move live ({', '.join(can.strategies)})" if can.strategies else f"no live moves: {lacking}"
    size = f"{node.capacity.cores:g} cores, {amount(node.capacity.memory_bytes)}"
    return f"{node.name} is a node: {size}; {moves}; relayed {way}."
