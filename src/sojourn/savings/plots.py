"""Pictures of a comparison. Needs matplotlib (`pip install 'sojourn[plots]'`)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sojourn.errors import Invalid
from sojourn.savings.replay import Setting
from sojourn.savings.report import Comparison, Sensitivity

COMPUTE, STORAGE, SPOT = "#3b6ea5", "#d98e32", "#4f9d69"
SHADES = ("#a8cfb4", SPOT, "#23523a")


def draw(comparison: Comparison, sensitivity: Sensitivity, setting: Setting, file: Path) -> None:
    """Costs, and what they and the waiting depend on, as .svg, .png or .pdf.

    Raises Invalid for another ending, for a file that can't be written, and where matplotlib is missing.
    """
    if file.suffix not in (".svg", ".png", ".pdf"):
        raise Invalid(f"{file} is no picture.", "End its name with .svg, .png or .pdf.")
    try:
        from matplotlib.figure import Figure
    except ImportError as missing:
        raise Invalid("Plots need matplotlib, which is not installed.", "pip install 'sojourn[plots]'") from missing
    figure = Figure(figsize=(11, 8), layout="constrained")
    panels = figure.subplots(2, 2).flat
    _draw_costs(next(panels), comparison, setting)
    _draw_idle(next(panels), sensitivity)
    _draw_spot(next(panels), sensitivity, setting)
    _draw_wakes(next(panels), sensitivity)
    try:
        figure.savefig(file, dpi=130)
    except OSError as wrong:
        raise Invalid(f"{file} can't be written: {wrong}", "Choose another file.") from wrong


def _draw_costs(panel: Any, comparison: Comparison, setting: Setting) -> None:
    outcomes = comparison.outcomes
    names = [outcome.regime for outcome in outcomes]
    panel.bar(names, [outcome.compute for outcome in outcomes], color=COMPUTE, label="nodes")
    bottoms = [outcome.compute for outcome in outcomes]
    panel.bar(names, [outcome.storage for outcome in outcomes], bottom=bottoms, color=STORAGE, label="storage")
    for place, outcome in enumerate(outcomes):
        text = f"{outcome.cost:.0f}\n{comparison.factor(outcome):.1f}×"
        panel.annotate(text, (place, outcome.cost), ha="center", va="bottom", xytext=(0, 3), textcoords="offset points")
    panel.set_ylim(0, 1.2 * max(outcome.cost for outcome in outcomes))
    _label(panel, "What it costs", "", f"{setting.prices.currency}, {setting.kind.name}")


def _draw_idle(panel: Any, sensitivity: Sensitivity) -> None:
    full, spot = zip(*sensitivity.idle.values(), strict=True)
    panel.plot(sensitivity.idle.keys(), spot, "o-", color=SPOT, label="suspend, spot")
    panel.plot(sensitivity.idle.keys(), full, "o-", color=COMPUTE, label="suspend")
    _logarithmic(panel, sensitivity.idle)
    panel.set_ylim(bottom=0)
    _label(panel, "How soon idle sessions are suspended", "minutes idle", "times cheaper than always on")


def _draw_spot(panel: Any, sensitivity: Sensitivity, setting: Setting) -> None:
    for (rate, factors), color in zip(sensitivity.spot.items(), SHADES, strict=True):
        lost = sensitivity.eviction_rerun_hours[rate]
        label = f"{rate:g} evictions a day, {lost:.1f} h lost"
        panel.plot([100 * discount for discount in factors], factors.values(), "o-", color=color, label=label)
    now = 100 * (1 - setting.kind.spot / setting.kind.on_demand)
    panel.axvline(now, color="grey", linestyle=":", label=f"{setting.kind.name}: {now:.0f} %")
    panel.set_ylim(bottom=0)
    _label(panel, "Spot nodes", "discount, %", "times cheaper than always on")


def _draw_wakes(panel: Any, sensitivity: Sensitivity) -> None:
    with_room, without = zip(*sensitivity.wake.values(), strict=True)
    panel.plot(sensitivity.wake.keys(), without, "o-", color=STORAGE, label="without room to spare")
    panel.plot(sensitivity.wake.keys(), with_room, "o-", color=COMPUTE, label="with")
    panel.axhline(1.0, color="grey", linestyle=":", label="1 s")
    _logarithmic(panel, sensitivity.wake)
    panel.set_yscale("log")
    panel.yaxis.set_major_formatter("{x:g}")
    _label(panel, "How long people wait", "seconds of a wake, median", "seconds, 99th percentile")


def _logarithmic(panel: Any, marks: Iterable[float]) -> None:
    panel.set_xscale("log")
    panel.set_xticks(list(marks), [f"{mark:g}" for mark in marks])
    panel.minorticks_off()


def _label(panel: Any, title: str, across: str, up: str) -> None:
    panel.set_title(title, loc="left", fontweight="bold")
    panel.set_xlabel(across)
    panel.set_ylabel(up)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False)
