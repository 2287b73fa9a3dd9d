"""Notebooks as they come, run by the programs that run notebooks, with a cell on the other node."""

import json
import sys
from pathlib import Path

import nbformat
import papermill
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert.filters import strip_ansi

from sojourn.jupyter import kernelspec

pytestmark = pytest.mark.acceptance

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(autouse=True)
def kernel_installed(tmp_path, monkeypatch, sojourner):
    """The kernelspec "sojourn", where only this test's Jupyter finds it."""
    kernelspec.install(prefix=str(tmp_path))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share" / "jupyter"))


def notebook_of(*cells: str) -> nbformat.NotebookNode:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    notebook.metadata["kernelspec"] = {"name": "sojourn", "display_name": "x", "language": "python"}
    return notebook


def run(*cells: str, **options) -> list[str]:
    """What each cell printed."""
    done = NotebookClient(notebook_of(*cells), timeout=120, **options).execute()
    return [printed(cell) for cell in done.cells]


def printed(cell: nbformat.NotebookNode) -> str:
    texts = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs]
    return "".join(texts).strip()


WHERE = "%sojourn where"


def test_here_there_and_back():
    cells = ("x = iter(range(9)); next(x)", "%%on there\nnext(x)", WHERE, "%%on here\nnext(x)", WHERE)
    first, second, there, third, here = run(*cells)
    assert (first, second, third) == ("0", "1", "2")
    assert "is on there" in there
    assert "is on here" in here


def test_an_error_on_the_other_node_is_an_error_with_the_right_line():
    with pytest.raises(CellExecutionError) as failure:
        run("a = 0", "%%on there\n# a comment\n1 / a")
    text = strip_ansi(str(failure.value))
    assert "ZeroDivisionError" in text
    assert "----> 3 1 / a" in text


def test_a_place_that_is_not_there_fails_the_cell_and_says_what_to_do():
    with pytest.raises(CellExecutionError, match="nowhere"):
        run("%%on nowhere\n1")


def test_the_cell_moves_itself_in_the_middle():
    texts = run("print('before')\n%sojourn move there\nprint('after')", WHERE)
    assert texts[0].startswith("before")
    assert "after" in texts[0]
    assert "is on there" in texts[1]


def test_await_and_cell_magics_below_the_directive():
    sleep = "%%on there\nimport asyncio\nawait asyncio.sleep(0.01)\nprint('awaited')"
    texts = run(sleep, "%%on here\n%%time\nprint('timed')")
    assert texts[0] == "awaited"
    assert texts[1].startswith("timed")
    assert "Wall time" in texts[1]


def test_papermill_with_parameters(tmp_path):
    source, target = tmp_path / "in.ipynb", tmp_path / "out.ipynb"
    notebook = notebook_of("n = 1", "%%on there\nprint(n * 2)", WHERE)
    notebook.cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(notebook, source)
    papermill.execute_notebook(str(source), str(target), parameters={"n": 21}, progress_bar=False)
    cells = json.loads(target.read_text())["cells"]
    texts = ["".join("".join(output.get("text", "")) for output in cell["outputs"]) for cell in cells]
    assert "42\n" in texts


def test_the_example_that_moves_itself(tmp_path):
    for path in EXAMPLES.glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()


def test_this_file_runs_the_interpreter_under_test():
    assert run("import sys; print(sys.prefix)") == [sys.prefix]
