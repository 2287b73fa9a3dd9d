"""What is read of a notebook."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sojourn.compare.notebook import Cell, read_notebook
from sojourn.errors import Invalid


def code(source: str | list[str], *tags: str) -> dict[str, Any]:
    return {"cell_type": "code", "source": source, "metadata": {"tags": list(tags)}}


def written(folder: Path, *cells: dict[str, Any], **spec: str) -> Path:
    path = folder / "trial.ipynb"
    path.write_text(json.dumps({"nbformat": 4, "metadata": {"kernelspec": spec}, "cells": list(cells)}))
    return path


def test_code_cells_keep_their_number_among_all_cells(tmp_path: Path) -> None:
    prose = {"cell_type": "markdown", "source": "# Prose"}
    read = read_notebook(
        written(tmp_path, prose, code(["x = 1\n", "y = 2"]), code(" \n"), code("1 / 0", "raises-exception"))
    )
    assert read.cells == (Cell(2, "x = 1\ny = 2"), Cell(4, "1 / 0", may_fail=True))
    assert read.kernel == "python3"


def test_a_cell_that_would_move_the_session_stays(tmp_path: Path) -> None:
    read = read_notebook(written(tmp_path, code("%%on there\nx = 1"), name="sojourn"))
    assert read.cells == (Cell(1, "# %%on there\nx = 1"),)
    assert read.kernel == "sojourn"


def test_what_can_not_be_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"missing\.ipynb can't be read"):
        read_notebook(tmp_path / "missing.ipynb")
    with pytest.raises(Invalid, match="has no code to run"):
        read_notebook(written(tmp_path, {"cell_type": "markdown", "source": "only prose"}))
    with pytest.raises(Invalid, match="is written in julia"):
        read_notebook(written(tmp_path, code("1"), language="julia"))
    (tmp_path / "trial.ipynb").write_text("# not JSON")
    with pytest.raises(Invalid, match="is no notebook"):
        read_notebook(tmp_path / "trial.ipynb")
