"""A comparison as a page that stands alone, with its plots. Needs matplotlib (`pip install 'sojourn[plots]'`)."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Sequence
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sojourn.compare.report import Comparison
from sojourn.compare.survival import Verdict
from sojourn.compare.trials import Outcome
from sojourn.errors import Invalid

SAVE, TRANSFER, RESTORE, LATER = "#3b6ea5", "#d98e32", "#4f9d69", "#d7e6db"
FATES = {
    Verdict.KEPT: ("kept", "#4f9d69"),
    Verdict.UNEXAMINED: ("not examined", "#c9c9c9"),
    Verdict.TOLD: ("lost, told", "#e3b34f"),
    Verdict.CHANGED: ("changed, untold", "#d0743c"),
    Verdict.SILENT: ("lost in silence", "#b33a3a"),
}
"""In words, and the colour of each."""
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; }
td, th { padding: .25rem .8rem; text-align: left; vertical-align: top; }
th { border-bottom: 2px solid #888; } tr + tr td { border-top: 1px solid #ddd; }
svg { max-width: 100%; height: auto; } .bad { color: #b33a3a; font-weight: 600; }
"""
Cell = tuple[str, str]
"""Text, and its class."""


def writable(file: Path) -> None:
    """Before anything is run: raises Invalid where matplotlib is missing, or the file's folder is."""
    if find_spec("matplotlib") is None:
        raise Invalid("Plots need matplotlib, which is not installed.", "pip install 'sojourn[plots]'")
    if not file.absolute().parent.is_dir() or file.is_dir():
        raise Invalid(f"{file} can't be written.", "Choose a file in a folder that is there.")


def write(comparison: Comparison, head: str, rows: Sequence[Sequence[str]], notes: Iterable[str], file: Path) -> None:
    """`head`: what was compared, in a sentence; `rows`: the table, its columns first. Raises Invalid."""
    try:
        file.write_text(page(comparison, head, rows, notes), encoding="utf-8")
    except OSError as wrong:
        raise Invalid(f"{file} can't be written: {wrong.strerror}.", "Choose another file with --html.") from wrong


def page(comparison: Comparison, head: str, rows: Sequence[Sequence[str]], notes: Iterable[str]) -> str:
    title = f"{Path(comparison.notebook).name}: the ways to carry it"
    losses = [
        [(outcome.way, ""), (fate.name, ""), (fate.kind, ""), _fate(fate.verdict), (fate.why, "")]
        for outcome, fate in comparison.losses()
    ]
    lost = _table([("way", "name", "was", "fate", "why")], losses) if losses else "<p>Every name, by every way.</p>"
    return "\n".join(
        [
            f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title><style>{_STYLE}</style>",
            f"<h1>{escape(title)}</h1><p>{escape(head)}</p>",
            drawn(comparison),
            _table(rows[:1], [[(cell, "") for cell in row] for row in rows[1:]]),
            *(f"<p>{escape(note)}</p>" for note in notes),
            f"<h2>What did not come over as it was</h2>{lost}</html>",
        ]
    )


def _fate(verdict: Verdict) -> Cell:
    return FATES[verdict][0], "bad" if verdict in (Verdict.SILENT, Verdict.CHANGED) else ""


def _table(head: Iterable[Sequence[str]], rows: Iterable[Sequence[Cell]]) -> str:
    heads = "".join(f"<tr>{''.join(f'<th>{escape(cell.lower())}' for cell in row)}" for row in head)
    cells = "".join(f"<tr>{''.join(f'<td class={kind!r}>{escape(text)}' for text, kind in row)}" for row in rows)
    return f"<table>{heads}{cells}</table>"


def drawn(comparison: Comparison) -> str:
    """Times, bytes and fates of the ways that could be tried, as SVG."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    tried = [outcome for outcome in reversed(comparison.outcomes) if not outcome.untried]
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "sojourn", "font.family": "sans-serif"}):
        figure = Figure(figsize=(13, 1.6 + 0.5 * max(2, len(tried))), layout="constrained")
        times, sizes, fates = figure.subplots(1, 3, sharey=True, width_ratios=(3, 1.4, 2))
        _draw_times(times, tried)
        _draw_sizes(sizes, tried)
        _draw_fates(fates, tried)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    return re.sub(r"\A.*?(?=<svg)", "", file.getvalue(), count=1, flags=re.DOTALL)


def _draw_times(panel: Any, tried: Sequence[Outcome]) -> None:
    parts: dict[str, tuple[Callable[[Outcome], float], str]] = {
        "save": (lambda outcome: outcome.save_s, SAVE),
        "transfer": (lambda outcome: outcome.transfer_s, TRANSFER),
        "restore": (lambda outcome: outcome.restore_s, RESTORE),
        "runs, pages follow": (lambda outcome: outcome.all_there_s - outcome.stands_still_s, LATER),
    }
    _stack(panel, tried, {label: ([seconds(one) for one in tried], color) for label, (seconds, color) in parts.items()})
    for place, outcome in enumerate(tried):
        if not outcome.carried:
            panel.annotate(" nothing carried", (0, place), va="center", color="grey")
    _label(panel, "How long it takes", "seconds")


def _draw_sizes(panel: Any, tried: Sequence[Outcome]) -> None:
    panel.barh([outcome.way for outcome in tried], [outcome.bytes / 1e6 for outcome in tried], color=TRANSFER)
    _label(panel, "What travels", "MB")


def _draw_fates(panel: Any, tried: Sequence[Outcome]) -> None:
    parts = {
        label: ([float(outcome.count(verdict)) for outcome in tried], color)
        for verdict, (label, color) in FATES.items()
    }
    _stack(panel, tried, {label: part for label, part in parts.items() if any(part[0])})
    panel.xaxis.get_major_locator().set_params(integer=True)
    _label(panel, "What survives", "names")


def _stack(panel: Any, tried: Sequence[Outcome], parts: dict[str, tuple[list[float], str]]) -> None:
    left = [0.0] * len(tried)
    for label, (widths, color) in parts.items():
        panel.barh([outcome.way for outcome in tried], widths, left=left, color=color, label=label)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    panel.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=4, fontsize="small")


def _label(panel: Any, title: str, across: str) -> None:
    panel.set_title(title, loc="left", fontweight="bold")
    panel.set_xlabel(across, loc="right")
    panel.spines[["top", "right"]].set_visible(False)
