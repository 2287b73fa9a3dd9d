"""Movers take a session's state from one place to another. What agents call is here.

The names are loaded when first used: the pager's processes import this package too and must start quickly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = [
    "arrival",
    "departure",
    "inspect",
    "probe",
    "recover_arrival",
    "recover_departure",
    "recover_save",
    "recover_wake",
    "save",
    "wake",
]

if TYPE_CHECKING:
    from sojourn.movers.abilities import probe
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

_HOMES = {"probe": "abilities", "inspect": "inspection"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'sojourn.movers' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"sojourn.movers.{_HOMES.get(name, 'halves')}"), name)
