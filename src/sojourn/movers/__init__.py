"""Movers take a session's state from one place to another. What agents call is here.

The names are loaded when first used: the pager's processes import this package too and must start quickly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = [
    "arrival",
    "begin_on",
    "departure",
    "inspect",
    "needed_elsewhere",
    "probe",
    "recover_arrival",
    "recover_departure",
    "recover_save",
    "recover_wake",
    "save",
    "taken_along",
    "wake",
]

if TYPE_CHECKING:
    from sojourn.movers.abilities import probe
    from sojourn.movers.criu.ground import begin_on, needed_elsewhere, taken_along
    from sojourn.movers.halves import (
        arrival,
        departure,
        recover_arrival,
        recover_departure,
        recover_save,
        recover_wake,
        save,
        wake,
    )
    from sojourn.movers.inspection import inspect

_HOMES = {
    "probe": "abilities",
    "inspect": "inspection",
    "begin_on": "criu.ground",
    "taken_along": "criu.ground",
    "needed_elsewhere": "criu.ground",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'sojourn.movers' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"sojourn.movers.{_HOMES.get(name, 'halves')}"), name)
