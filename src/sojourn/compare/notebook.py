"""The notebook: its code cells, and which kernel it is for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sojourn.directive import blank_directive
from sojourn.errors import Invalid

USUAL_KERNEL = "python3"
MAY_FAIL = "raises-exception"
"""The tag of cells that are to fail, as nbconvert has it."""


@dataclass(frozen=True)
class Cell:
    number: int
    """Among all cells of the notebook, from 1 on."""
    source: str
    may_fail: bool = False


@dataclass(frozen=True)
class Notebook:
    path: Path
    kernel: str
    """The name of its kernelspec."""
    cells: tuple[Cell, ...]
    """Its code cells that are not empty, without `%%on`: here they run where they are compared."""


def read_notebook(path: Path) -> Notebook:
    """Raises Invalid: there is none, it is none, it is one of another language, or there is nothing to run in it."""
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except OSError as wrong:
        raise Invalid(f"{path} can't be read: {wrong.strerror}.", "Name a notebook, as analysis.ipynb.") from wrong
    except ValueError as wrong:
        raise Invalid(f"{path} is no notebook: {wrong}", "Name a notebook, as analysis.ipynb.") from wrong
    if not isinstance(body, dict) or not isinstance(body.get("cells"), list):
        raise Invalid(f"{path} is no notebook of version 4.", "Open it in JupyterLab and save it.")
    cells = tuple(_cells(body["cells"]))
    if not cells:
        raise Invalid(f"{path} has no code to run.", "Its state would be empty.")
    spec = body.get("metadata", {}).get("kernelspec", {})
    if (language := spec.get("language", "python")) != "python":
        raise Invalid(f"{path} is written in {language}.", "The ways but CRIU know Python only.")
    return Notebook(path.absolute(), spec.get("name") or USUAL_KERNEL, cells)


def _cells(cells: list[Mapping[str, Any]]) -> list[Cell]:
    found = []
    for number, cell in enumerate(cells, 1):
        source = "".join(cell.get("source", ""))
        if cell.get("cell_type") == "code" and source.strip():
            may_fail = MAY_FAIL in cell.get("metadata", {}).get("tags", [])
            found.append(Cell(number, blank_directive(source, "python"), may_fail))
    return found
