"""Modules that came as text: run in a kernel with `SOURCES`, their name -> [source, whether it is a package]."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType


class Carried(MetaPathFinder, Loader):
    """Finds these modules before any other, and leaves alone what has been imported already."""

    def __init__(self, sources: dict[str, tuple[str, bool]]) -> None:
        self._sources = sources

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in self._sources:
            return None
        return spec_from_loader(name, self, is_package=self._sources[name][1])

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self._sources[module.__name__][0], f"<{module.__name__}>", "exec"), module.__dict__)


def carry(sources: dict[str, tuple[str, bool]]) -> None:
    sys.meta_path.insert(0, Carried(sources))
