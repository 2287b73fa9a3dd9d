"""The page of the documentation that shows what survives: state by way."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

from bench.states.state import State
from bench.states.survey import OURS, Row
from bench.states.verdicts import Outcome, Verdict

BEGINNING = """# What survives

Moved by CRIU, a session is the very same process. Carried as *objects*, it is made anew from its namespace, and the
question is what comes out the same. This page answers it by trying: {states} notebooks, each run in an interpreter of
its own, saved, and brought to life in another one, with its working folder, without its temporary files, by each way.
Then {probes} probes are compared with what they showed before: every name by its value; besides, aliases, what calls
return, what iterators yield next, and the settings of modules. What no probe looks at is not examined.

Moves by objects are not to be had yet: their core (`sojourn.objects`) is being built, and this is how far it has come.

This page is made by `python -m bench objects --table docs/survival.md`; [Measuring](measuring.md) says how.

| | |
| --- | --- |
| ✓ | every probe shows what it showed before |
| ◐ 2 | two probes don't, and the way had said so |
| ○ | nothing was carried, with an error |
| ✗ 2 | **two probes show something else, or nothing, and nobody had said so** |
"""
SCENE = re.compile(r"/[\w./-]*/state-\w+/")
"""The folder of a trial, which has another name in each."""
LABELS = {
    OURS: "objects",
    "cloudpickle": "cloudpickle",
    "cloudpickle, forgiving": "cloudpickle, name by name",
    "dill": "dill",
    "kishu": "Kishu",
}
EXPLAINED = {
    OURS: "Sojourn's",
    "cloudpickle": "`cloudpickle.dump` of the namespace as one dict",
    "cloudpickle, forgiving": "the same, without the names that can't be pickled by themselves, which are told",
    "dill": "`dill.dump_module`, once `dump_session`",
    "kishu": "a commit after the last cell, checked out in a new kernel",
}


def page(themes: Mapping[str, Sequence[State]], rows: Iterable[Row]) -> str:
    """The whole page, in Markdown."""
    by_name = {row.state.name: row for row in rows}
    tried = [row for row in by_name.values() if not row.skipped]
    ways = list(dict.fromkeys(way for row in tried for way in row.outcomes))
    probes = sum(len(row.before.answers or ()) for row in tried)
    parts = [BEGINNING.format(states=len(tried), probes=f"{probes:,}"), *_ways(ways, tried)]
    for theme, states in themes.items():
        shown = [by_name[state.name] for state in states if state.name in by_name]
        parts += _theme(theme, shown, ways) if shown else []
    parts += _said(tried)
    parts += _silent(tried, ways)
    return "\n".join(parts).rstrip() + "\n"


def mark(outcome: Outcome | None) -> str:
    """One cell of the table."""
    if outcome is None:
        return ""
    if outcome.failure:
        return "○"
    if outcome.silent:
        return f"✗ {len(outcome.silent)}"
    told = sum(verdict is Verdict.TOLD for verdict in outcome.verdicts.values())
    return f"◐ {told}" if told else "✓"


def _ways(ways: Sequence[str], rows: Sequence[Row]) -> Iterator[str]:
    yield "| way | what it is | ✓ | ◐ | ○ | ✗ |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for way in ways:
        marks = [mark(row.outcomes.get(way))[:1] for row in rows]
        counts = " | ".join(str(marks.count(sign)) for sign in "✓◐○✗")
        yield f"| {LABELS.get(way, way)}{_version(way)} | {EXPLAINED.get(way, '')} | {counts} |"
    yield ""


def _theme(theme: str, rows: Sequence[Row], ways: Sequence[str]) -> Iterator[str]:
    yield f"## {theme}\n"
    yield f"| a notebook with | {' | '.join(LABELS.get(way, way) for way in ways)} |"
    yield f"| --- |{' --- |' * len(ways)}"
    for row in rows:
        marks = [f"*{_cell(row.skipped)}*"] if row.skipped else [mark(row.outcomes.get(way)) for way in ways]
        yield f"| {row.state.name} | {' | '.join(marks)} |"
    yield ""


def _said(rows: Sequence[Row]) -> Iterator[str]:
    yield "## What ours says\n"
    yield "Before a move by objects these notebooks are told:\n"
    for row in rows:
        outcome = row.outcomes.get(OURS)
        if outcome is None or not (outcome.losses or outcome.failure):
            continue
        yield f"- {row.state.name}"
        reasons = [outcome.failure] if outcome.failure else [loss.why for loss in outcome.losses]
        yield from (f"  - {_code(reason)}" for reason in dict.fromkeys(reasons))
    yield ""


def _silent(rows: Sequence[Row], ways: Sequence[str]) -> Iterator[str]:
    yield "## What is lost in silence\n"
    yield "The probes that show something else than before, or fail, without a word having been said:\n"
    for row in rows:
        silent = {way: row.outcomes[way].silent for way in ways if way in row.outcomes and row.outcomes[way].silent}
        if silent:
            yield f"- {row.state.name}"
        for probes in dict.fromkeys(tuple(probes) for probes in silent.values()):
            who = ", ".join(LABELS.get(way, way) for way in silent if tuple(silent[way]) == probes)
            yield f"  - {who}: {', '.join(map(_code, probes))}"
    yield ""


def _code(text: str) -> str:
    """As code, on one line; a text with a backtick wants two around it."""
    line = SCENE.sub("…/", " ".join(text.split()))
    return f"`` {line} ``" if "`" in line else f"`{line}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _version(way: str) -> str:
    """Of the package that gave the way its name, if one did."""
    try:
        return f" {version(way)}"
    except PackageNotFoundError:
        return ""
