"""Sojourn: Jupyter sessions that move between machines while their clients stay connected.

The names below are loaded when first used, because the rider imports this package inside every sandbox
and must stay small.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["AsyncClient", "Client", "SojournError", "__version__", "load_ipython_extension"]

if TYPE_CHECKING:
    from sojourn.client import AsyncClient, Client
    from sojourn.errors import SojournError
    from sojourn.jupyter.magics import load_ipython_extension

_HOMES = {
    "AsyncClient": "sojourn.client",
    "Client": "sojourn.client",
    "SojournError": "sojourn.errors",
    "load_ipython_extension": "sojourn.jupyter.magics",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sojourn' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
