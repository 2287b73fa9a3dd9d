"""Arguments that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from sojourn.cli.connection import complete_nodes, complete_sessions

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SessionName = Annotated[
    str,
    typer.Argument(
        metavar="SESSION", help="A session's name, id, or the beginning of its id.", autocompletion=complete_sessions
    ),
]
PlaceName = Annotated[
    str,
    typer.Argument(
        metavar="PLACE",
        help="A node, a label, or needs such as 'mem>=64G cores>=8'.",
        autocompletion=complete_nodes,
    ),
]
