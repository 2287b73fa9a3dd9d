"""The ways beside each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

from sojourn.compare.places import Place
from sojourn.compare.survival import Fate, Verdict
from sojourn.compare.trials import TRIALS, Outcome, Scene
from sojourn.compare.wire import Shape
from sojourn.errors import Invalid

_SECONDS = ("save_s", "transfer_s", "restore_s", "stands_still_s", "all_there_s")
_LOSSES = (Verdict.SILENT, Verdict.CHANGED, Verdict.TOLD)
"""From the worst on."""


@dataclass(frozen=True)
class Comparison:
    """What became of one notebook's state by each way, each tried `times` times. Figures are medians; of the fates,
    those of the worst try are shown."""

    notebook: str
    kernel: str
    cells: int
    times: int
    link: Shape | None
    nodes: tuple[str, ...]
    outcomes: tuple[Outcome, ...]

    def losses(self) -> Iterator[tuple[Outcome, Fate]]:
        """Every name that did not come over as it was, by ways that carried anything."""
        for outcome in self.outcomes:
            fates = [fate for fate in outcome.fates if outcome.carried and fate.verdict in _LOSSES]
            yield from ((outcome, fate) for fate in sorted(fates, key=lambda fate: _LOSSES.index(fate.verdict)))

    def unexamined(self) -> dict[str, str]:
        """Names that can't be compared, whatever the way -> why."""
        found = [fate for outcome in self.outcomes for fate in outcome.fates if fate.verdict is Verdict.UNEXAMINED]
        return {fate.name: fate.why for fate in found}

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "outcomes": [_row(outcome) for outcome in self.outcomes]}


def chosen(ways: str | None) -> list[str]:
    """`criu-lazy,objects` as names of ways, else all of them. Raises Invalid."""
    names = [name.strip() for name in ways.split(",")] if ways else list(TRIALS)
    if unknown := [name for name in names if name not in TRIALS]:
        raise Invalid(f"There is no way {unknown[0]!r}.", f"The ways: {', '.join(TRIALS)}.")
    return names


def compare(scene: Scene, ways: Sequence[str], times: int = 1) -> Comparison:
    """Try each way so often, each time with the notebook run anew. Raises Invalid where the notebook does not run."""
    tried: dict[str, list[Outcome]] = {way: [] for way in ways}
    for _ in range(times):
        for way in ways:
            if not any(outcome.untried for outcome in tried[way]):
                tried[way].append(TRIALS[way](scene))
    return Comparison(
        notebook=str(scene.notebook.path),
        kernel=scene.notebook.kernel,
        cells=len(scene.notebook.cells),
        times=times,
        link=scene.place.link,
        nodes=_nodes(scene.place),
        outcomes=tuple(map(middle, tried.values())),
    )


def middle(outcomes: Sequence[Outcome]) -> Outcome:
    """The medians of those that carried anything, and the fates of the worst."""
    worst = max(outcomes, key=_badness)
    carried = [outcome for outcome in outcomes if outcome.carried]
    if not worst.carried:
        return worst
    seconds = {name: median(getattr(outcome, name) for outcome in carried) for name in _SECONDS}
    return replace(worst, bytes=round(median(outcome.bytes for outcome in carried)), **seconds)


def _badness(outcome: Outcome) -> tuple[bool, list[int]]:
    return not outcome.carried, [outcome.count(verdict) for verdict in _LOSSES]


def _nodes(place: Place) -> tuple[str, ...]:
    return (place.source, place.target) if place.client else ()


def _row(outcome: Outcome) -> dict[str, Any]:
    row = asdict(outcome) | {name: round(getattr(outcome, name), 4) for name in _SECONDS}
    return {**row, "names": {verdict.value: outcome.count(verdict) for verdict in Verdict}}
