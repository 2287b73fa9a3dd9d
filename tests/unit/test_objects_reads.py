"""What a cell reads and writes, through the functions it calls."""

from __future__ import annotations

from typing import Any

import pytest

from sojourn.objects.reads import reads, writes

CELLS = """
import math
data, scale, other = [1, 2], 3, 4
def scaled(): return [x * scale for x in data]
def outer():
    def inner(): return scaled()
    return inner
class Model:
    def fit(self): return scaled()
    @property
    def size(self): return len(data)
model = Model()
table = {"run": outer}
cached = __import__("functools").lru_cache(lambda: other)
def countdown(n): return n and countdown(n - 1)
def setter():
    global total
    total = 1
"""


@pytest.fixture(scope="module")
def namespace() -> dict[str, Any]:
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(CELLS, space)
    return space


@pytest.mark.parametrize(
    ("cell", "names"),
    [
        ("y = scale + 1", {"scale"}),
        ("scaled()", {"scaled", "scale", "data"}),
        ("outer()()", {"outer", "scaled", "scale", "data"}),
        ("model.fit()", {"model", "scaled", "scale", "data"}),
        ("table['run']", {"table", "scaled", "scale", "data"}),
        ("cached()", {"cached", "other"}),
        ("countdown(3)", {"countdown"}),
        ("[math.pi for _ in range(3)]", {"math"}),
        ("f'{other}'", {"other"}),
        ("def later(): return other", {"other"}),
        ("undefined", set()),
    ],
)
def test_reads(cell: str, names: set[str], namespace: dict[str, Any]) -> None:
    assert reads(compile(cell, "cell", "exec"), namespace) == names


def test_who_looks_at_everything_reads_everything(namespace: dict[str, Any]) -> None:
    assert reads(compile("eval('sca' + 'le')", "cell", "exec"), namespace) == set(namespace)


@pytest.mark.parametrize(
    ("cell", "names"),
    [
        ("a = 1; b.c = 2; d[0] = 3", {"a"}),
        ("for i in []: pass", {"i"}),
        ("import os.path as p, sys", {"p", "sys"}),
        ("def f():\n    global g\n    x = g = 1", {"f", "g"}),
        ("del a", {"a"}),
        ("[x for x in ()]; (y := 1)", {"y"}),
    ],
)
def test_writes(cell: str, names: set[str]) -> None:
    assert writes(compile(cell, "cell", "exec")) == names
