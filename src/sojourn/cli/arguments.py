"""Arguments that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from sojourn.cli.connection import complete_checkpoints, complete_nodes, complete_sessions

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
AtPlace = Annotated[
    str | None,
    typer.Option(
        "--node",
        metavar="PLACE",
        help="Where: a node, a label, or needs. Without it, where it was if there is room.",
        autocompletion=complete_nodes,
    ),
]
CheckpointName = Annotated[
    str,
    typer.Argument(
        metavar="CHECKPOINT",
        help="A checkpoint's name, id, or the beginning of its id.",
        autocompletion=complete_checkpoints,
    ),
]
