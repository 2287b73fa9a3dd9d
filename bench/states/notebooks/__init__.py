"""The notebook states, by theme. A new state is an entry in one of these modules, and nothing else."""

from __future__ import annotations

from bench.states.notebooks import (
    around,
    arrays,
    classes,
    collections,
    files,
    frames,
    functions,
    large,
    learning,
    media,
    running,
    symbols,
)
from bench.states.state import State

THEMES: dict[str, tuple[State, ...]] = {
    "Values and how they hang together": collections.STATES,
    "Functions": functions.STATES,
    "Classes": classes.STATES,
    "Arrays": arrays.STATES,
    "Tables": frames.STATES,
    "Models": learning.STATES,
    "Pictures and documents": media.STATES,
    "Formulas and graphs": symbols.STATES,
    "Files and databases": files.STATES,
    "Things that run": running.STATES,
    "What surrounds the names": around.STATES,
    "Large": large.STATES,
}

STATES: dict[str, State] = {state.name: state for states in THEMES.values() for state in states}
