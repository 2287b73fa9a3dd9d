"""The ways to carry the state of an interpreter into another one, behind one small interface.

A `Way` works inside interpreters: `save` in the one that holds the state, `restore` in a fresh one. What can't be had
that way, because it takes the whole process (CRIU), is a `Trial` of its own in `trials.py`.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Loss:
    """What a way said that it does not carry: which name (of the notebook, or of what surrounds it), and why."""

    name: str
    why: str


class Shell(Protocol):
    """What ways see of IPython's shell."""

    user_ns: dict[str, Any]
    user_ns_hidden: Mapping[str, Any]


class Way(Protocol):
    """One way to carry a state. Losses are those that it says itself; what it raises says that nothing was carried."""

    name: str
    module: str  # must be importable, else the way is left out

    def watch(self, shell: Shell, path: Path) -> None:
        """Called before the first cell, and before a restore: import what is needed, begin to follow the notebook."""

    def save(self, shell: Shell, path: Path) -> list[Loss]:
        """Write the state of this interpreter to a file, or a folder, that is not there yet."""

    def restore(self, shell: Shell, path: Path) -> list[Loss]:
        """Bring the state to life in this interpreter, in which no cell has run."""


class Objects:
    """Ours. Its notes, of what arrives otherwise than it is, are said before anything is sent, as losses are."""

    name, module = "objects", "sojourn.objects"

    def watch(self, shell: Shell, path: Path) -> None:
        import_module(self.module)

    def save(self, shell: Shell, path: Path) -> list[Loss]:
        captured = import_module(self.module).capture(shell.user_ns)
        with path.open("wb") as file:
            captured.write(file)
        lost = [Loss(lost.name, f"{lost.path}: {lost.why}") for lost in captured.lost]
        return lost + [Loss(note.partition(":")[0], note) for note in captured.notes]

    def restore(self, shell: Shell, path: Path) -> list[Loss]:
        with path.open("rb") as file:
            import_module(self.module).restore(file, shell.user_ns)
        return []


class Cloudpickle:
    """The namespace as one dict: if one thing in it can't be pickled, nothing is."""

    name, module = "cloudpickle", "cloudpickle"

    def watch(self, shell: Shell, path: Path) -> None:
        import_module(self.module)

    def save(self, shell: Shell, path: Path) -> list[Loss]:
        self._dump(names_of_user(shell), path)
        return []

    def restore(self, shell: Shell, path: Path) -> list[Loss]:
        with path.open("rb") as file:
            shell.user_ns.update(pickle.load(file))
        return []

    def _dump(self, namespace: dict[str, Any], path: Path) -> None:
        with path.open("wb") as file:
            import_module(self.module).dump(namespace, file, protocol=pickle.HIGHEST_PROTOCOL)


class ForgivingCloudpickle(Cloudpickle):
    """The same; when that fails, each name is tried by itself, and those that fail are left out, and told."""

    name = "cloudpickle, forgiving"

    def save(self, shell: Shell, path: Path) -> list[Loss]:
        namespace = names_of_user(shell)
        try:
            self._dump(namespace, path)
        except Exception:  # whatever a class raises in its pickling
            losses = [loss for name, value in namespace.items() for loss in self._trouble(name, value)]
            self._dump({name: namespace[name] for name in namespace.keys() - {loss.name for loss in losses}}, path)
            return losses
        return []

    def _trouble(self, name: str, value: object) -> list[Loss]:
        try:
            import_module(self.module).dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
        except Exception as error:  # as above
            return [Loss(name, in_words(error))]
        return []


class Dill:
    """`dump_session` of `__main__`, now called `dump_module`."""

    name, module = "dill", "dill"

    def watch(self, shell: Shell, path: Path) -> None:
        import_module(self.module)

    def save(self, shell: Shell, path: Path) -> list[Loss]:
        import_module(self.module).dump_module(path)
        return []

    def restore(self, shell: Shell, path: Path) -> list[Loss]:
        import_module(self.module).load_module(path)
        return []


class Kishu:
    """A notebook whose cells are committed one by one: its last commit, checked out by another kernel."""

    name, module = "kishu", "kishu"

    def watch(self, shell: Shell, path: Path) -> None:
        path.mkdir(exist_ok=True)
        notebook = path / "notebook.ipynb"
        nbformat = import_module("nbformat")
        nbformat.write(nbformat.v4.new_notebook(), notebook)
        kishu = import_module("kishu.jupyterint")
        os.environ[kishu.KishuForJupyter.ENV_KISHU_TEST_MODE] = (
            "yes"  # there is no JupyterLab to be asked for the notebook
        )
        instrument = kishu.KishuForJupyter(import_module("kishu.notebook_id").NotebookId("k", notebook, "k"), ip=shell)
        instrument.install_kishu_hooks()

    def save(self, shell: Shell, path: Path) -> list[Loss]:
        (path / "commit").write_text(str(self._instrument(shell).commit()))
        return []

    def restore(self, shell: Shell, path: Path) -> list[Loss]:
        self._instrument(shell).checkout((path / "commit").read_text(), skip_notebook=True)
        return []

    def _instrument(self, shell: Shell) -> Any:
        return shell.user_ns[import_module("kishu.jupyterint").KISHU_INSTRUMENT]


_ALL: tuple[Way, ...] = (Objects(), Cloudpickle(), ForgivingCloudpickle(), Dill(), Kishu())
WAYS = {way.name: way for way in _ALL}


def installed() -> list[str]:
    """The names of the ways that can be tried here."""
    return [name for name, way in WAYS.items() if _importable(way.module)]


def names_of_user(shell: Shell) -> dict[str, Any]:
    """What the user's cells have made, without IPython's own names."""
    hidden = shell.user_ns_hidden
    return {name: value for name, value in shell.user_ns.items() if name not in hidden and not name.startswith("_")}


def in_words(error: BaseException) -> str:
    """The first line of an error, and of which kind it is."""
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _importable(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
