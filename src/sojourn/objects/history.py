"""The user's names among all those in a namespace, and IPython's history: `In`, `Out`, `_`, the execution count."""

from __future__ import annotations

import ast
import re
from types import CodeType
from typing import Any

from .reads import writes

_MODULES_OWN = {
    "__builtin__",
    "__builtins__",
    "__cached__",
    "__doc__",
    "__file__",
    "__loader__",
    "__name__",
    "__package__",
    "__spec__",
}
_SHELLS_OWN = {"In", "Out", "_ih", "_oh", "_dh", "get_ipython", "exit", "quit"}
_OUTPUT = re.compile(r"Out\[(\d+)\]")
_OUTPUTS = ("_", "__", "___")
_RECENT_INPUTS = ("_i", "_ii", "_iii")
INPUTS = "In"
_AWAIT_AT_TOP = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


def shell_of(namespace: dict[str, Any]) -> Any:
    """The IPython shell whose namespace this is, or None."""
    ask = namespace.get("get_ipython")
    return ask() if callable(ask) else None


def roots(namespace: dict[str, Any]) -> dict[str, Any]:
    """The user's names and what they refer to; each output as `Out[3]`, all inputs as `In`."""
    shell = shell_of(namespace)
    if shell is None:
        return {name: value for name, value in namespace.items() if name not in _MODULES_OWN}
    outputs = {f"Out[{number}]": value for number, value in namespace.get("Out", {}).items()}
    recent = {name: namespace[name] for name in (*_OUTPUTS, *_RECENT_INPUTS) if name in namespace}
    return {**_users(namespace, shell), **outputs, **recent, INPUTS: _inputs(shell)}


def _users(namespace: dict[str, Any], shell: Any) -> dict[str, Any]:
    """Without what IPython put there itself, unless the user has taken the name for something else."""
    hidden = shell.user_ns_hidden
    return {
        name: value
        for name, value in namespace.items()
        if name not in _MODULES_OWN | _SHELLS_OWN and not (name in hidden and hidden[name] is value)
    }


def _inputs(shell: Any) -> dict[str, Any]:
    kept = shell.history_manager
    return {"parsed": list(kept.input_hist_parsed), "raw": list(kept.input_hist_raw), "count": shell.execution_count}


def put(found: dict[str, Any], namespace: dict[str, Any]) -> None:
    """Put restored roots into the namespace, each in its place."""
    shell = shell_of(namespace)
    for name, value in found.items():
        output = _OUTPUT.fullmatch(name)
        if name == INPUTS and shell is not None:
            _put_inputs(shell, value)
        elif output and shell is not None:
            namespace["Out"][int(output[1])] = value
            _put_hidden(shell, f"_{output[1]}", value)
        elif name in (*_OUTPUTS, *_RECENT_INPUTS) and shell is not None:
            _put_hidden(shell, name, value)
            setattr(shell.displayhook if name in _OUTPUTS else shell.history_manager, name, value)
        elif name.isidentifier():
            namespace[name] = value


def _put_hidden(shell: Any, name: str, value: Any) -> None:
    """Like what IPython puts there itself: `%who` does not tell of it."""
    shell.user_ns[name] = shell.user_ns_hidden[name] = value


def take_away(gone: list[str], namespace: dict[str, Any]) -> None:
    """Forget roots that are no more."""
    for name in gone:
        output = _OUTPUT.fullmatch(name)
        if output:
            namespace.get("Out", {}).pop(int(output[1]), None)
        namespace.pop(name, None)


def _put_inputs(shell: Any, kept: dict[str, Any]) -> None:
    shell.history_manager.input_hist_parsed[:] = kept["parsed"]
    shell.history_manager.input_hist_raw[:] = kept["raw"]
    shell.execution_count = kept["count"]
    for number, source in enumerate(kept["raw"][1:], start=1):
        _put_hidden(shell, f"_i{number}", source)


def cells(namespace: dict[str, Any]) -> list[str]:
    """The sources of the cells that have run, by their numbers; the first is none."""
    found: Any = namespace.get("In")
    return found if isinstance(found, list) else []


def cell_of(namespace: dict[str, Any], name: str) -> int:
    """The last cell that assigned the name; 0 if none did, or nothing is known of cells."""
    sources = cells(namespace)
    word = re.compile(rf"\b{re.escape(name)}\b")
    for number in range(len(sources) - 1, 0, -1):
        if word.search(sources[number]) and name in _assigned(sources[number]):
            return number
    return 0


def cell_of_code(namespace: dict[str, Any], code: CodeType) -> int:
    """The cell in which a function was defined; 0 if that is not known. IPython keeps which file stands for which."""
    files = getattr(getattr(shell_of(namespace), "compile", None), "_filename_map", {})
    return int(files.get(code.co_filename, 0))


def _assigned(source: str) -> set[str]:
    try:
        return writes(compile(source, "cell", "exec", _AWAIT_AT_TOP))
    except SyntaxError:
        return set()
