"""The entry point: the commands put together, and errors shown as a line a person can act on."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from sojourn.cli import (
    account,
    checkpoints,
    compare,
    doctor,
    drain,
    forward,
    hosts,
    images,
    lists,
    move,
    parts,
    policies,
    savings,
    sleep,
)
from sojourn.errors import SojournError

app = typer.Typer(
    name="sojourn",
    help="Jupyter sessions that move between machines while the tab stays connected.",
    no_args_is_help=True,
    rich_markup_mode=None,  # importing rich's help costs 0.2 s at every start and completion
    pretty_exceptions_enable=False,
)
for module in (parts, hosts, images, lists, move, forward, sleep, checkpoints):
    module.add_to(app)
for module in (drain, policies, savings, compare, account, doctor):
    module.add_to(app)


shows_tracebacks = False


@app.callback()
def everywhere(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    global shows_tracebacks
    shows_tracebacks = debug


@app.command()
def version(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Print the version, and that of the parts' protocol."""
    from sojourn import __version__
    from sojourn.cli.screen import print_json
    from sojourn.wire import PROTOCOL

    if as_json:
        print_json({"version": __version__, "protocol": PROTOCOL})
    else:
        print(f"sojourn {__version__}, protocol {PROTOCOL}")


def main() -> None:
    """Run a command; 0 is success, 1 an error, 2 a command line that means nothing."""
    try:
        app()
    except SojournError as error:
        _show(error.message, error.hint, error)
    except BrokenPipeError:
        sys.stderr.close()  # the reader (head, less) has seen enough; Python would complain once more at exit
        sys.exit(1)
    except Exception as error:
        _show(f"{type(error).__name__}: {error}", "This is a fault in Sojourn. `sojourn --debug …` shows where.", error)


def _show(message: str, hint: str, error: Exception) -> None:
    if shows_tracebacks:
        raise error
    from sojourn.cli.screen import print_error

    print_error(message, hint)
    sys.exit(1)


if __name__ == "__main__":
    main()
