"""Starting and stopping the parts: everything on this machine, or one part at a time."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import quote

import typer

from sojourn.errors import Invalid, SojournError

if TYPE_CHECKING:
    from sojourn.settings import Controller

kernelspec = typer.Typer(name="kernelspec", help="The kernel “Python 3 (Sojourn)”.", no_args_is_help=True)
PASSED_ON = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}
"""For a command whose whole line is another program's."""
NAMES = ("here", "there")
"""The first nodes of one machine; further ones are called node3, node4, …"""
MEND_SECONDS = 3.0
"""How often `up` looks whether a part has died: well within the time that a node may be away while a session fills."""


def add_to(app: typer.Typer) -> None:
    app.command()(up)
    app.command()(down)
    app.command(context_settings=PASSED_ON)(controller)
    app.command(context_settings=PASSED_ON)(agent)
    app.add_typer(kernelspec)


def up(
    notebook: Annotated[
        Path | None, typer.Argument(help="A notebook to open in JupyterLab.", dir_okay=False, exists=True)
    ] = None,
    nodes: Annotated[
        int | None, typer.Option(min=1, max=16, help="How many nodes on this machine; 2 where sessions can move.")
    ] = None,
    lab: Annotated[bool, typer.Option("--lab/--no-lab", help="Open JupyterLab.")] = True,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a browser window.")] = True,
    port: Annotated[int, typer.Option(help="JupyterLab's port; the next free one if it is taken.")] = 8888,
    notebook_dir: Annotated[
        Path | None, typer.Option(help="The folder JupyterLab shows.", file_okay=False, exists=True)
    ] = None,
) -> None:
    """Start controller, nodes and JupyterLab on this machine.

    JupyterLab offers the kernel “Python 3 (Sojourn)” and stays in the foreground. Ctrl-C ends it and, as with any
    Jupyter, its kernels; the controller, the nodes and all other sessions go on until `sojourn down`.
    """
    from sojourn import embedded
    from sojourn.settings import configured_controller

    if elsewhere := configured_controller():
        raise SojournError(
            f"A controller is configured: {elsewhere.url}.",
            "Kernels run there already. `sojourn logout` (or unsetting SOJOURN_CONTROLLER) goes back to this machine.",
        )
    folder = lab_folder(notebook, notebook_dir)
    if lab:
        _require_lab()
        _offer_kernel()
    started = embedded.start(node_names(nodes) if nodes else None, say=print)
    _say_where(started)
    if lab:
        from sojourn.jupyter.kernelspec import connections_folder, offer_left_kernels

        offer_left_kernels(started)
        connections = connections_folder()
        sys.exit(_open_lab(lab_command(port, browser, folder, notebook and notebook.resolve(), connections)))


def down(
    keep: Annotated[bool, typer.Option("--keep-sessions", help="Leave the sessions to the next `sojourn up`.")] = False,
) -> None:
    """Stop what `sojourn up` started on this machine.

    Sessions end too, unless they are kept for the next `sojourn up`. Close JupyterLab first: one that is still open
    starts Sojourn again, for its kernels.
    """
    from sojourn import embedded

    if embedded.running() is None:
        print("Nothing of Sojourn's runs on this machine.")
    embedded.stop(keep_sessions=keep)  # in any case: an agent may live without its controller
    print("Stopped." if not keep else "Stopped; the sessions go on with the next `sojourn up`.")


def controller(context: typer.Context) -> None:
    """Run a controller here; its own --help has the options."""
    _become("sojourn.controller", context.args)


def agent(context: typer.Context) -> None:
    """Make this machine a node; its own --help has the options.

    `sojourn agent install` has it run as a service from now on, `sojourn agent uninstall` ends that.
    """
    as_service = context.args[:1] in (["install"], ["uninstall"])
    _become("sojourn.hosts" if as_service else "sojourn.agent", context.args)


@kernelspec.command("install")
def install_kernelspec(
    user: Annotated[bool, typer.Option("--user/--sys-prefix", help="For you, or for this Python environment.")] = True,
    cpu: Annotated[
        Literal["node", "fleet"],
        typer.Option(help="What its kernels use: their node's whole CPU, or what all nodes have, to go to each."),
    ] = "node",
    image: Annotated[
        str, typer.Option(metavar="REF", help="The image its kernels start from; without it, their node's own root.")
    ] = "",
    name: Annotated[str, typer.Option(help="What Jupyter calls it; without it, sojourn, or sojourn-IMAGE.")] = "",
) -> None:
    """Let every Jupyter of yours offer the kernel “Python 3 (Sojourn)”.

    With an image, another one beside it, “Python 3 (Sojourn, IMAGE)”.
    """
    from sojourn.jupyter.kernelspec import install

    print(f"Installed {install(user=user, cpu=cpu, image=image, name=name)}.")


def node_names(count: int) -> tuple[str, ...]:
    """`here`, `there`, `node3`, …"""
    return (*NAMES[:count], *(f"node{number}" for number in range(3, count + 1)))


def lab_command(port: int, browser: bool, folder: Path, notebook: Path | None, connections: Path) -> list[str]:
    """The command line of JupyterLab: our kernel first, and the kernels that VS Code or a console started shown too.

    `notebook` is below `folder`.
    """
    options = {
        "--ServerApp.port": str(port),
        "--ServerApp.root_dir": str(folder),
        "--MultiKernelManager.default_kernel_name": "sojourn",
        "--ServerApp.kernel_manager_class": "sojourn.jupyter.server_kernels.LastingKernels",
        "--ServerApp.allow_external_kernels": "True",
        "--ServerApp.external_connection_dir": str(connections),
    }
    if notebook:
        options["--LabApp.default_url"] = f"/lab/tree/{quote(notebook.relative_to(folder).as_posix())}"
    flags = [] if browser else ["--no-browser"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        flags.append("--allow-root")  # CRIU needs root, and JupyterLab listens on loopback with a token
    return [sys.executable, "-m", "jupyterlab", *flags, *(f"{name}={value}" for name, value in options.items())]


def lab_folder(notebook: Path | None, folder: Path | None) -> Path:
    """What JupyterLab shows: the folder asked for, else the notebook's, else this one. Raises Invalid when the notebook
    lies outside."""
    chosen = (folder or (notebook.parent if notebook else Path.cwd())).resolve()
    if notebook and not notebook.resolve().is_relative_to(chosen):
        raise Invalid(f"{notebook} does not lie in {chosen}.", "Leave out --notebook-dir, or name a folder above it.")
    return chosen


def _say_where(started: Controller) -> None:
    from sojourn.client import Client

    with Client(started.url, started.token) as client:
        names = ", ".join(node.name for node in client.nodes() if node.status == "online")
    print(f"Controller at {started.url}, nodes: {names}. `sojourn down` stops them.", flush=True)


def _open_lab(command: list[str]) -> int:
    """Run JupyterLab in the foreground until it ends, and start again what dies meanwhile of the parts; its exit code.
    Ctrl-C is JupyterLab's to answer."""
    lab = subprocess.Popen(command)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: lab.terminate())
    while (code := _wait(lab)) is None:
        _mend()
    print(_what_goes_on())
    return code


def _wait(lab: subprocess.Popen[bytes]) -> int | None:
    try:
        return lab.wait(MEND_SECONDS)
    except subprocess.TimeoutExpired:
        return None


def _mend() -> None:
    from sojourn import embedded

    try:
        embedded.mend()
    except SojournError as stuck:
        print(stuck, file=sys.stderr)


def _what_goes_on() -> str:
    """What still runs after JupyterLab has ended."""
    from sojourn.cli.connection import connect

    try:
        with connect() as client:
            alive = [view.name or view.id[:8] for view in client.sessions()]
    except SojournError:
        return "JupyterLab has stopped; the controller does not run any more either."
    kept = f"These sessions go on: {', '.join(alive)}." if alive else "No session goes on."
    return f"JupyterLab has stopped. {kept} `sojourn up` opens it again; `sojourn down` stops all the rest."


def _offer_kernel() -> None:
    """Make sure this JupyterLab finds the kernel, as this environment has it."""
    from sojourn.jupyter import kernelspec

    in_environment = sys.prefix != sys.base_prefix
    if in_environment or not kernelspec.installed():
        kernelspec.install(user=not in_environment)


def _require_lab() -> None:
    if importlib.util.find_spec("jupyterlab") is None:
        raise SojournError(
            "JupyterLab is not installed beside Sojourn.",
            "`pip install 'sojourn[lab]'` installs it; `sojourn up --no-lab` does without.",
        )


def _become(module: str, arguments: list[str]) -> None:
    """Go on as another program: signals and the exit code are its own."""
    argv = [sys.executable, "-m", module, *arguments]
    if sys.platform == "win32":
        sys.exit(subprocess.call(argv))
    sys.stdout.flush()
    os.execv(sys.executable, argv)
