"""What cells have done to the shell in which they ran, and to modules that others have, too: carriers of both."""

from __future__ import annotations

import functools
import importlib
import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from .carriers import Carrier, carriers, users_own
from .graph import importable
from .history import cells, shell_of

# ── IPython ──────────────────────────────────────────────────────────────────────────────────────────────────


_SETTINGS = ("ast_node_interactivity", "automagic", "autocall", "autoawait", "call_pdb")
_TRANSFORMERS = ("input_transformers_cleanup", "input_transformers_post", "ast_transformers")


def _take_shell(namespace: dict[str, Any]) -> Any:
    shell = shell_of(namespace)
    if shell is None:
        return None
    aliases = shell.alias_manager
    as_made = {*map(tuple, aliases.default_aliases), *map(tuple, aliases.user_aliases)}
    formatters = _formatters(shell)
    printers = {kind: users_own(each.type_printers, namespace) for kind, each in formatters.items()}
    magics = {kind: users_own(each, namespace) for kind, each in shell.magics_manager.magics.items()}
    callbacks = {event: _own(each, namespace) for event, each in shell.events.callbacks.items()}
    return {
        "extensions": sorted(shell.extension_manager.loaded),
        "aliases": [alias for alias in map(tuple, aliases.aliases) if alias not in as_made],
        "settings": {name: getattr(shell, name) for name in _SETTINGS},
        "tracebacks": shell.InteractiveTB.mode,
        "exceptions": (shell.custom_exceptions, shell.CustomTB) if shell.custom_exceptions else None,
        "folders": [str(each) for each in namespace.get("_dh", ())],
        "precision": formatters["text/plain"].float_precision if formatters else "",
        "magics": _filled(magics),
        "printers": _filled(printers),
        "callbacks": _filled(callbacks),
        "transformers": _filled({name: _own(getattr(shell, name), namespace) for name in _TRANSFORMERS}),
    }


def _formatters(shell: Any) -> dict[str, Any]:
    """Those by which outputs are shown; IPython makes them when there is the first one."""
    display: Any = shell.display_formatter
    return dict(display.formatters) if display is not None and display.trait_has_value("formatters") else {}


def _filled(several: dict[str, Any]) -> dict[str, Any]:
    return {name: each for name, each in several.items() if each}


def _own(called: Iterable[Any], namespace: dict[str, Any]) -> list[Any]:
    """Functions of cells, their methods, parts of these, and objects of a class that a cell has defined."""
    bare = ((each, getattr(each, "func", each)) for each in called)
    return [
        each
        for each, function in bare
        if getattr(function, "__globals__", None) is namespace or type(function).__module__ == "__main__"
    ]


def _give_shell(namespace: dict[str, Any], state: dict[str, Any]) -> None:
    shell = shell_of(namespace)
    if shell is None:
        return
    for extension in state["extensions"]:
        shell.extension_manager.load_extension(extension)
    for alias in state["aliases"]:
        shell.alias_manager.soft_define_alias(*alias)
    for name, value in state["settings"].items():
        setattr(shell, name, value)
    shell.InteractiveTB.set_mode(mode=state["tracebacks"])
    if state["exceptions"]:
        shell.custom_exceptions, shell.CustomTB = state["exceptions"]
    namespace.setdefault("_dh", [])[:] = map(Path, state["folders"])
    for kind, magics in state["magics"].items():
        shell.magics_manager.magics[kind].update(magics)
    for event, callbacks in state["callbacks"].items():
        shell.events.callbacks[event] += callbacks
    for name, transformers in state["transformers"].items():
        getattr(shell, name).extend(transformers)
    _give_printing(shell, state)


def _give_printing(shell: Any, state: dict[str, Any]) -> None:
    formatters = _formatters(shell)
    if state["precision"] or state["printers"]:
        formatters = shell.display_formatter.formatters
    if formatters:
        formatters["text/plain"].float_precision = state["precision"]
    for kind, printers in state["printers"].items():
        formatters[kind].type_printers.update(printers)


carriers["settings of IPython"] = Carrier("settings of IPython", "IPython", _take_shell, _give_shell)


def _take_inline(namespace: dict[str, Any]) -> Any:
    """`%config InlineBackend…`"""
    shell = shell_of(namespace)
    own = (each for each in getattr(shell, "configurables", ()) if type(each).__name__ == "InlineBackend")
    return {name: getattr(each, name) for each in own for name in each.traits(config=True)} or None


def _give_inline(namespace: dict[str, Any], settings: dict[str, Any]) -> None:
    shell = shell_of(namespace)
    inline = sys.modules["matplotlib_inline.config"].InlineBackend.instance(parent=shell)
    inline.shell = shell
    if inline not in shell.configurables:
        shell.configurables.append(inline)
    for name, value in settings.items():
        setattr(inline, name, value)


carriers["figures in a notebook"] = Carrier(
    "figures in a notebook", "matplotlib_inline.config", _take_inline, _give_inline
)


# ── what cells have done to modules ──────────────────────────────────────────────────────────────────────────

_IMPORT = re.compile(r"(?:^|;)\s*(?:import|from)\s+([\w., ]+)", re.MULTILINE)
_ASSIGNMENT = re.compile(r"(?:^|;)\s*([A-Za-z_][\w.]*)\.(\w+)\s*=[^=]", re.MULTILINE)


@functools.lru_cache(8192)
def _said(cell: str) -> tuple[frozenset[str], tuple[tuple[str, str], ...]]:
    """What a cell imports, and what it assigns in something else: `("pd.DataFrame", "total")`."""
    named = (each.strip() for group in _IMPORT.findall(cell) for each in group.split(","))
    return frozenset(name.split()[0] for name in named if name), tuple(_ASSIGNMENT.findall(cell))


def _cells(namespace: dict[str, Any]) -> Iterator[tuple[frozenset[str], tuple[tuple[str, str], ...]]]:
    return (_said(str(cell)) for cell in cells(namespace))


def _take_imports(namespace: dict[str, Any]) -> Any:
    """Parts of packages: `import scipy.stats` makes `scipy.stats` be there for whoever has `scipy`."""
    return sorted(name for name in _imported(namespace) if "." in name) or None


def _imported(namespace: dict[str, Any]) -> set[str]:
    """The modules that cells have imported."""
    return {name for imports, _ in _cells(namespace) for name in imports if name in sys.modules}


def _give_imports(namespace: dict[str, Any], names: list[str]) -> None:
    for name in names:
        importlib.import_module(name)


def _take_patches(namespace: dict[str, Any]) -> Any:
    """What cells have set in modules and in classes that are imported: `pd.DataFrame.total = total`."""
    patches = []
    for owner_path, name in dict.fromkeys(each for _, assigned in _cells(namespace) for each in assigned):
        owner = _resolve(owner_path.split("."), namespace)
        if isinstance(owner, ModuleType) or (isinstance(owner, type) and importable(owner)):
            patches += [(owner, name, vars(owner)[name])] if name in vars(owner) else []
    return patches or None


def _resolve(path: list[str], namespace: dict[str, Any]) -> Any:
    found = namespace.get(path[0])
    for name in path[1:]:
        found = vars(found).get(name) if isinstance(found, ModuleType | type) else None
    return found


def _give_patches(namespace: dict[str, Any], patches: list[tuple[Any, str, Any]]) -> None:
    for owner, name, value in patches:
        setattr(owner, name, value)


carriers["imported parts of packages"] = Carrier("imported parts of packages", "sys", _take_imports, _give_imports)
carriers["changes to modules"] = Carrier("changes to modules", "sys", _take_patches, _give_patches)


def _take_modules(namespace: dict[str, Any]) -> Any:
    """What modules that lie beside the notebook hold: they are the user's own, and cells change them."""
    here = f"{Path.cwd()}{os.sep}"
    own = {name: sys.modules[name] for name in _imported(namespace) if _lies_below(sys.modules[name], here)}
    return {name: _data(module) for name, module in own.items()} or None


def _lies_below(module: Any, folder: str) -> bool:
    file = getattr(module, "__file__", None) or ""
    environments = (sys.prefix + os.sep, sys.base_prefix + os.sep)
    return file.startswith(folder) and not file.startswith(environments)


def _data(module: ModuleType) -> dict[str, Any]:
    code = (ModuleType, FunctionType, type)
    return {n: value for n, value in vars(module).items() if not (n.startswith("__") or isinstance(value, code))}


def _give_modules(namespace: dict[str, Any], states: dict[str, dict[str, Any]]) -> None:
    for name, state in states.items():
        vars(importlib.import_module(name)).update(state)


carriers["modules beside the notebook"] = Carrier("modules beside the notebook", "sys", _take_modules, _give_modules)
