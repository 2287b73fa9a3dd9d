"""Cells that visit, between two interpreters with IPython's shell in each."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

pytestmark = pytest.mark.integration

SOURCE = Path(__file__).resolve().parents[2] / "src"

PROGRAM = """
import contextlib, io, json, sys
asked, told = sys.stdin, sys.stdout
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance(colors="NoColor")
shell.user_ns.pop("asked", None)
from sojourn.objects.visit import Home
from sojourn.objects.companion import Away
home, away = Home(shell.user_ns), Away(shell.user_ns)

def run(cell):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        shell.run_cell(cell, store_history=True)
    return printed.getvalue()

def pack(cell):
    with open("out", "wb") as file: return home.pack(cell).write(file)

def visited(cell):
    with open("out", "rb") as file: away.take(file)
    printed = run(cell)
    with open("back", "wb") as file: away.pack_back().write(file)
    return printed

def merge():
    with open("back", "rb") as file: return list(home.merge(file).names)

for line in asked:
    verb, *arguments = json.loads(line)
    print(json.dumps(globals()[verb](*arguments)), file=told, flush=True)
"""


class End:
    """One interpreter, asked line by line."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={"PYTHONPATH": str(SOURCE), "HOME": str(folder), "IPYTHONDIR": str(folder / str(id(self)))},
        )

    def ask(self, *words: str) -> Any:
        self._pipe("stdin").write(json.dumps(words) + "\n")
        self._pipe("stdin").flush()
        return json.loads(self._pipe("stdout").readline())

    def end(self) -> None:
        self._pipe("stdin").close()
        self._pipe("stdout").close()
        self._process.wait(10)

    def _pipe(self, name: str) -> IO[str]:
        pipe: IO[str] = getattr(self._process, name)
        return pipe


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[tuple[End, End]]:
    pair = End(tmp_path), End(tmp_path)
    yield pair
    for each in pair:
        each.end()


def visit(ends: tuple[End, End], cell: str) -> str:
    """What the cell has printed there."""
    here, there = ends
    here.ask("pack", cell)
    printed: str = there.ask("visited", cell)
    here.ask("merge")
    return printed


def test_a_visit_is_a_cell_of_this_notebook(ends: tuple[End, End]) -> None:
    here, _ = ends
    here.ask(
        "run",
        "import dataclasses, random\n"
        "@dataclasses.dataclass\nclass Fit:\n    steps: list\n    def step(self): self.steps.append(len(self.steps))\n"
        "fit = Fit([]); steps = fit.steps; secret = (n for n in [1])",
    )
    assert "Out[2]: [0]" in visit(ends, "fit.step()\nfit.steps")
    here.ask("run", "steps.append('here')")
    visit(ends, "fit.step(); made = [_ is steps, _]")
    told = here.ask("run", "print(steps, Out[2] is steps is fit.steps, made[0], len(In), In[2], type(fit) is Fit)")
    assert told == "[0, 'here', 2] True True 6 fit.step()\nfit.steps True\n"


def test_an_error_there_shows_the_lines_it_came_through_and_so_does_one_here(ends: tuple[End, End]) -> None:
    here, _ = ends
    here.ask("run", "def fails(n):\n    return 1 / n")
    printed = re.sub(
        r"\x1b\[[0-9;]*m", "", visit(ends, "def outer():\n    done.append(1); fails(0)\ndone = []\nouter()")
    )
    assert "ZeroDivisionError" in printed
    assert "----> 2     return 1 / n" in printed
    assert here.ask("run", "print(done)") == "[1]\n"
    assert "done.append(1); fails(0)" in here.ask("run", "outer()")
