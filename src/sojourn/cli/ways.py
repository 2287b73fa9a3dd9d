"""Which node can move to which, as a person sees it: a table of letters, and below it every reason in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from sojourn.cli.screen import console, print_table
from sojourn.model import Obstacle, ObstacleKind, Way

LETTERS: dict[ObstacleKind, tuple[str, str]] = {
    "offline": ("O", "offline"),
    "draining": ("D", "being drained"),
    "live": ("L", "can't take live moves"),
    "arch": ("A", "another architecture"),
    "cpu": ("C", "a lesser CPU"),
    "registers": ("R", "other registers"),
    "criu": ("V", "an older CRIU"),
}
"""What stands in the table, and what it means."""
HELP: tuple[tuple[frozenset[ObstacleKind], str], ...] = (
    (frozenset({"cpu", "registers"}), "not for sessions that were started for the whole fleet (`cpu` = fleet)"),
)
CAN, SAME, OBJECTS = "✓", "·", "o"
_OF_ONE_NODE = frozenset({"offline", "draining", "live"})
"""Their messages name the node, and are the same whatever the other one is."""


def print_ways(ways: Sequence[Way]) -> None:
    """Rows are where a session is, columns where it would go."""
    nodes = sorted({name for way in ways for name in (way.source, way.target)})
    by_pair = {(way.source, way.target): way for way in ways}
    rows = [(source, *(_cell(by_pair.get((source, target))) for target in nodes)) for source in nodes]
    print_table(("FROM / TO", *nodes), rows, "There is no other node to move to. `sojourn agent` adds one.")
    for line in legend(ways):
        console().print(line, markup=False)


def legend(ways: Iterable[Way]) -> Iterator[str]:
    """The letters used, then every reason, and last what would help."""
    obstacles = [(way, obstacle) for way in ways for obstacle in way.obstacles]
    kinds = [kind for kind in LETTERS if any(obstacle.kind == kind for _, obstacle in obstacles)]
    if kinds:
        words = [f"{letter} {word}" for letter, word in map(LETTERS.__getitem__, kinds)]
        words += [f"{OBJECTS} Python sessions go as objects"] * any(way.objects for way, _ in obstacles)
        yield "\n" + "   ".join(words) + "\n"
    for kind in kinds:
        yield from _reasons([(way, obstacle) for way, obstacle in obstacles if obstacle.kind == kind])
    for among, exception in HELP:
        if letters := [LETTERS[kind][0] for kind in kinds if kind in among]:
            yield f"{', '.join(letters)}: {exception}."


def _reasons(found: Sequence[tuple[Way, Obstacle]]) -> Iterator[str]:
    """Each message once, with the pairs that it is true of."""
    for message in dict.fromkeys(obstacle.message for _, obstacle in found):
        letter = LETTERS[found[0][1].kind][0]
        pairs = [f"{way.source} → {way.target}" for way, obstacle in found if obstacle.message == message]
        where = "" if found[0][1].kind in _OF_ONE_NODE else f"{', '.join(pairs)}: "
        yield f"{letter}  {where}{message}"


def _cell(way: Way | None) -> str:
    if way is None:
        return SAME
    kinds = {obstacle.kind for obstacle in way.obstacles}
    letters = [letter for kind, (letter, _) in LETTERS.items() if kind in kinds]
    return " ".join([*letters, *([OBJECTS] if way.objects else [])]) if letters else CAN
