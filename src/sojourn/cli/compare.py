"""`sojourn compare`: a notebook's state carried by each way, and what became of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sojourn.cli.arguments import AsJson
from sojourn.cli.connection import chosen, complete_nodes

if TYPE_CHECKING:
    from sojourn.compare.report import Comparison
    from sojourn.compare.trials import Outcome, Say

COLUMNS = (
    "WAY", "SAVE", "TRANSFER", "RESTORE", "STANDS STILL", "ALL THERE", "BYTES", "KEPT", "TOLD", "CHANGED", "SILENT"
)  # fmt: skip
LOSS_COLUMNS = ("WAY", "NAME", "WAS", "FATE", "WHY")


def add_to(app: typer.Typer) -> None:
    app.command()(compare)


def compare(
    notebook: Annotated[Path, typer.Argument(metavar="NOTEBOOK", help="It is run, in its folder, once for each way.")],
    node: Annotated[
        str | None,
        typer.Option(
            metavar="NODE",
            help="A node that sessions move to. Else: between two nodes made for this on this machine.",
            autocompletion=complete_nodes,
        ),
    ] = None,
    link: Annotated[
        str | None,
        typer.Option(
            metavar="RATE[,ROUND TRIP]", help="A link such as 1gbit,20ms. With --node: what that one is like."
        ),
    ] = None,
    ways: Annotated[
        str | None,
        typer.Option(help="Some of criu-lazy, criu-copy, objects, cloudpickle, dill, kishu, with commas. Else: all."),
    ] = None,
    times: Annotated[int, typer.Option(min=1, help="Try each way so often; medians are shown.")] = 1,
    html: Annotated[Path | None, typer.Option(help="Write a page with plots.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare the ways to carry a notebook's state.

    Runs it in a fresh kernel for each way; saves, transfers and restores its state; and looks at every name on both
    sides: how long that took, how much travelled, what was lost.
    """
    from sojourn.cli.screen import print_json
    from sojourn.compare import page, report
    from sojourn.compare.kernels import spec_of
    from sojourn.compare.notebook import read_notebook
    from sojourn.compare.places import place
    from sojourn.compare.trials import Scene
    from sojourn.compare.wire import parse_shape

    names, shape = report.chosen(ways), parse_shape(link) if link else None
    read = read_notebook(notebook)
    spec = spec_of(read)
    if html:
        page.writable(html)
    with _progress() as say:
        say("the nodes start")
        with place(chosen() if node else None, node, shape) as where:
            compared = report.compare(Scene(read, spec, where, say), names, times)
    if html:
        page.write(compared, _head(compared), [COLUMNS, *_rows(compared)], _notes(compared), html)
    if as_json:
        print_json(compared.to_json())
    else:
        _print(compared)


@contextmanager
def _progress() -> Iterator[Say]:
    """A line on stderr, if somebody looks."""
    from sojourn.cli.screen import console

    screen = console(stderr=True)
    if not screen.is_terminal:
        yield lambda what: None
        return
    with screen.status("") as status:
        yield status.update


def _print(compared: Comparison) -> None:
    from sojourn.cli.screen import print_table
    from sojourn.compare.page import FATES

    print(_head(compared), end="\n\n")
    print_table(COLUMNS, _rows(compared), "")
    losses = [
        (outcome.way, fate.name, fate.kind, FATES[fate.verdict][0], fate.why) for outcome, fate in compared.losses()
    ]
    if losses:
        print()
        print_table(LOSS_COLUMNS, losses, "", prose=True)
    for note in _notes(compared):
        print(f"\n{note}")


def _head(compared: Comparison) -> str:
    path = f"{' → '.join(compared.nodes)}, " if compared.nodes else ""
    link = f"over a link of {compared.link}" if compared.link else "over no link"
    often = f", medians of {compared.times}" if compared.times > 1 else ""
    return f"{Path(compared.notebook).name}, {compared.cells} cells, kernel {compared.kernel}; {path}{link}{often}."


def _rows(compared: Comparison) -> list[tuple[str, ...]]:
    return [_row(outcome) for outcome in compared.outcomes]


def _row(outcome: Outcome) -> tuple[str, ...]:
    from sojourn.cli.screen import amount, duration
    from sojourn.compare.survival import Verdict

    fates = [Verdict.KEPT, Verdict.TOLD, Verdict.CHANGED, Verdict.SILENT]
    counts = [str(outcome.count(verdict)) for verdict in fates]
    if outcome.untried:
        return (outcome.way, *["–"] * (len(COLUMNS) - 1))
    if outcome.failure:
        return (outcome.way, *["–"] * (len(COLUMNS) - 1 - len(counts)), *counts)
    sent = {"none": "–", "measured": "", "reckoned": "≈ "}[outcome.transfer]
    return (
        outcome.way,
        duration(outcome.save_s),
        sent if outcome.transfer == "none" else sent + duration(outcome.transfer_s),
        duration(outcome.restore_s),
        duration(outcome.stands_still_s),
        duration(outcome.all_there_s),
        amount(outcome.bytes),
        *counts,
    )


def _notes(compared: Comparison) -> list[str]:
    """What the table leaves out: ways that could not be tried, or carried nothing, and how its figures were found."""
    notes = [f"{outcome.way} was not tried: {outcome.untried}" for outcome in compared.outcomes if outcome.untried]
    notes += [f"{outcome.way} carried nothing: {outcome.failure}" for outcome in compared.outcomes if outcome.failure]
    notes += [f"{outcome.way}: {note}" for outcome in compared.outcomes for note in outcome.notes]
    if unexamined := compared.unexamined():
        notes.append(f"Not examined: {', '.join(f'{name} ({why})' for name, why in unexamined.items())}.")
    if any(outcome.carried and outcome.transfer == "reckoned" for outcome in compared.outcomes):
        notes.append("≈: reckoned from the bytes and the link's figures, not measured.")
    return notes
