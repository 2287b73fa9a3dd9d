"""Carriers: what modules keep for themselves and the user has set: print options, random states, levels, folders.

A carrier takes its state, anything a graph can hold, or None if there is nothing to carry; and gives it to the
interpreter it finds itself in. It is asked only where its module is loaded. To add one is to write these two functions.
"""

from __future__ import annotations

import gc
import importlib
import linecache
import locale
import os
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from .graph import importable
from .history import shell_of
from .refusals import Lost

Take = Callable[[], Any]
Give = Callable[[Any], object]


@dataclass(frozen=True)
class Carrier:
    name: str
    """As the user would call it, and nothing that could be a variable's: "numpy's print options"."""
    module: str
    take: Callable[[dict[str, Any]], Any]
    """Of the namespace, state; None: nothing to carry."""
    give: Callable[[dict[str, Any], Any], object]
    """To the namespace, the state that was taken. Raises what can't be had here, with a message for the user."""
    early: bool = False
    """Given before the graphs are built, which may need it to find their modules."""


carriers: dict[str, Carrier] = {}


def carry(name: str, module: str, take: Take, give: Give, early: bool = False) -> None:
    """Register a carrier that needs no namespace."""
    carriers[name] = Carrier(name, module, lambda _: take(), lambda _, state: give(state), early)


def take(namespace: dict[str, Any], early: bool) -> tuple[dict[str, Any], list[Lost]]:
    """The state of all that are early, or that are not, and whose modules are loaded, by carrier; and what can't be
    taken."""
    taken, lost = {}, []
    for each in list(carriers.values()):
        if each.early is not early or each.module not in sys.modules:
            continue
        try:
            taken[each.name] = each.take(namespace)
        except Exception as error:
            lost.append(Lost(each.name, each.name, f"{type(error).__name__}: {error}"))
    return {name: state for name, state in taken.items() if state is not None}, lost


def give(namespace: dict[str, Any], states: dict[str, Any], early: bool) -> list[str]:
    """Give what is early, or what is not; a note for each that could not be given."""
    notes = []
    for name, state in states.items():
        carrier = carriers.get(name)
        if carrier is None or carrier.early is not early:
            continue
        try:
            importlib.import_module(carrier.module)
            carrier.give(namespace, state)
        except Exception as error:
            notes.append(f"{name}: {error}")
    return notes


def _module(name: str) -> Any:
    return sys.modules[name]


# ── the process ──────────────────────────────────────────────────────────────────────────────────────────────


def _born_with() -> dict[str, str]:
    """The environment variables that the process began with (Linux), or had when Sojourn came into it."""
    try:
        entries = Path("/proc/self/environ").read_bytes().split(b"\0")
    except OSError:
        return dict(os.environ)
    pairs = (os.fsdecode(entry).partition("=") for entry in entries if b"=" in entry)
    return {name: value for name, _, value in pairs}


_BORN_WITH = _born_with()


def _take_variables() -> Any:
    changed = {name: value for name, value in os.environ.items() if _BORN_WITH.get(name) != value}
    gone = [name for name in _BORN_WITH if name not in os.environ]
    return (changed, gone) if changed or gone else None


def _give_variables(state: tuple[dict[str, str], list[str]]) -> None:
    os.environ.update(state[0])
    for name in state[1]:
        os.environ.pop(name, None)


def _give_folder(folder: str) -> None:
    try:
        os.chdir(folder)
    except OSError as error:
        raise OSError(f"{folder} can't be entered here ({error.strerror}); it is {Path.cwd()}") from error


def _take_path() -> Any:
    """What the user added: neither the interpreter's own folders nor those of its environment."""
    own = tuple({sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix})
    return [entry for entry in sys.path if entry and not entry.startswith(own)] or None


def _give_path(entries: list[str]) -> None:
    for entry in reversed([entry for entry in entries if entry not in sys.path]):
        sys.path.insert(0, entry)


def _take_interpreter() -> dict[str, Any]:
    digits = getattr(sys, "get_int_max_str_digits", lambda: 0)()
    return {"recursion": sys.getrecursionlimit(), "gc": (gc.isenabled(), gc.get_threshold()), "digits": digits}


def _give_interpreter(state: dict[str, Any]) -> None:
    sys.setrecursionlimit(state["recursion"])
    enabled, thresholds = state["gc"]
    (gc.enable if enabled else gc.disable)()
    gc.set_threshold(*thresholds)
    getattr(sys, "set_int_max_str_digits", lambda digits: None)(state["digits"])


def _take_mask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


carry("mask of new files", "os", _take_mask, os.umask)
carry("environment variables", "os", _take_variables, _give_variables, early=True)
carry("working folder", "os", os.getcwd, _give_folder, early=True)
carry("sys.path", "sys", _take_path, _give_path, early=True)
carry("limits of the interpreter", "sys", _take_interpreter, _give_interpreter)


def _take_locale() -> str:
    return locale.setlocale(locale.LC_ALL)


def _give_locale(name: str) -> None:
    locale.setlocale(locale.LC_ALL, name)


carry("the locale", "locale", _take_locale, _give_locale)


# ── the standard library ─────────────────────────────────────────────────────────────────────────────────────


def _give_filters(filters: list[Any]) -> None:
    warnings = _module("warnings")
    warnings.filters[:] = filters
    for name in ("_filters_mutated", "_filters_mutated_lock_held"):  # the latter from Python 3.14 on
        getattr(warnings, name, lambda: None)()


carry("warning filters", "warnings", lambda: list(_module("warnings").filters), _give_filters)


def _take_levels() -> dict[str, Any]:
    logging = _module("logging")
    known = {"": logging.root, **logging.root.manager.loggerDict}
    loggers = {name: each for name, each in known.items() if isinstance(each, logging.Logger)}
    levels = {name: (each.level, each.propagate, each.disabled) for name, each in loggers.items()}
    return {"levels": levels, "disable": logging.root.manager.disable, "names": logging._levelToName}


def _give_levels(state: dict[str, Any]) -> None:
    logging = _module("logging")
    for name, (level, propagate, disabled) in state["levels"].items():
        logger = logging.getLogger(name) if name else logging.root
        logger.setLevel(level)
        logger.propagate, logger.disabled = propagate, disabled
    logging.disable(state["disable"])
    for level, name in state["names"].items():
        logging.addLevelName(level, name)


def _take_handlers(namespace: dict[str, Any]) -> dict[str, list[Any]]:
    """Those of the root, and of loggers that the user has a name for."""
    logging = _module("logging")
    named = (each for each in list(namespace.values()) if isinstance(each, logging.Logger))
    return {logger.name: list(logger.handlers) for logger in (logging.root, *named) if logger.handlers}


def _give_handlers(namespace: dict[str, Any], handlers: dict[str, list[Any]]) -> None:
    logging = _module("logging")
    for name, each in handlers.items():
        logger = logging.root if name == logging.root.name else logging.getLogger(name)
        logger.handlers[:] = each


carry("logging levels", "logging", _take_levels, _give_levels)
carriers["log handlers"] = Carrier("log handlers", "logging", _take_handlers, _give_handlers)
carry("decimal context", "decimal", lambda: _module("decimal").getcontext(), lambda c: _module("decimal").setcontext(c))
carry(
    "sockets' default timeout",
    "socket",
    lambda: _module("socket").getdefaulttimeout(),
    lambda seconds: _module("socket").setdefaulttimeout(seconds),
)

_DIALECT = ("delimiter", "quotechar", "doublequote", "skipinitialspace", "lineterminator", "quoting", "escapechar")


def _take_csv() -> dict[str, Any]:
    csv = _module("csv")
    found = {name: csv.get_dialect(name) for name in csv.list_dialects()}
    dialects = {name: {each: getattr(dialect, each) for each in _DIALECT} for name, dialect in found.items()}
    return {"dialects": dialects, "limit": csv.field_size_limit()}


def _give_csv(state: dict[str, Any]) -> None:
    csv = _module("csv")
    for name, dialect in state["dialects"].items():
        csv.register_dialect(name, **dialect)
    csv.field_size_limit(state["limit"])


carry("csv's dialects and limit", "csv", _take_csv, _give_csv)


def _take_reducers(namespace: dict[str, Any]) -> Any:
    return _users_own(_module("copyreg").dispatch_table, namespace) or None


def _give_reducers(namespace: dict[str, Any], reducers: dict[type, Any]) -> None:
    _module("copyreg").dispatch_table.update(reducers)


carriers["ways to pickle"] = Carrier("ways to pickle", "copyreg", _take_reducers, _give_reducers)
carry("random state", "random", lambda: _module("random").getstate(), lambda state: _module("random").setstate(state))


def _take_signals(namespace: dict[str, Any]) -> Any:
    signal = _module("signal")
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    users = {int(n): h for n, h in handlers.items() if getattr(h, "__globals__", None) is namespace}
    return users or None


def _give_signals(namespace: dict[str, Any], handlers: dict[int, Any]) -> None:
    for number, handler in handlers.items():
        _module("signal").signal(number, handler)


carriers["signal handlers"] = Carrier("signal handlers", "signal", _take_signals, _give_signals)


# ── NumPy, pandas, Matplotlib, torch ─────────────────────────────────────────────────────────────────────────


def _numpy() -> Any:
    return _module("numpy")


carry("numpy's print options", "numpy", lambda: _numpy().get_printoptions(), lambda o: _numpy().set_printoptions(**o))
carry("numpy's error handling", "numpy", lambda: _numpy().geterr(), lambda state: _numpy().seterr(**state))
carry(
    "numpy's random state",
    "numpy.random",
    lambda: _numpy().random.get_state(legacy=False),
    lambda state: _numpy().random.set_state(state),
)


def _take_pandas() -> Any:
    config = importlib.import_module("pandas._config.config")
    options = {
        name: config.get_option(name) for name in set(config._registered_options) - set(config._deprecated_options)
    }
    changed = {n: value for n, value in options.items() if not _same(value, config._registered_options[n].defval)}
    return changed or None


def _same(one: object, other: object) -> bool:
    return type(one) is type(other) and bool(one == other)


def _give_pandas(options: dict[str, Any]) -> None:
    for name, value in options.items():
        _module("pandas").set_option(name, value)


carry("pandas' options", "pandas", _take_pandas, _give_pandas)


def _take_parameters() -> Any:
    matplotlib = _module("matplotlib")
    params, defaults = matplotlib.rcParams, matplotlib.rcParamsDefault
    changed = {name: dict.get(params, name) for name in params if dict.get(params, name) != defaults.get(name)}
    changed.pop("backend", None)
    return changed or None


def _give_parameters(changed: dict[str, Any]) -> None:
    _module("matplotlib").rcParams.update(changed)


carry("matplotlib's rcParams", "matplotlib", _take_parameters, _give_parameters)


def _take_torch() -> dict[str, Any]:
    torch = _module("torch")
    return {"state": torch.get_rng_state(), "dtype": torch.get_default_dtype(), "gradients": torch.is_grad_enabled()}


def _give_torch(state: dict[str, Any]) -> None:
    torch = _module("torch")
    torch.set_rng_state(state["state"])
    torch.set_default_dtype(state["dtype"])
    torch.set_grad_enabled(state["gradients"])


carry("torch's random state and defaults", "torch", _take_torch, _give_torch)


def _take_torch_printing() -> dict[str, Any]:
    return dict(vars(importlib.import_module("torch._tensor_str").PRINT_OPTS))


def _give_torch_printing(options: dict[str, Any]) -> None:
    vars(importlib.import_module("torch._tensor_str").PRINT_OPTS).update(options)


carry("torch's print options", "torch", _take_torch_printing, _give_torch_printing)
carry(
    "scikit-learn's settings",
    "sklearn",
    lambda: _module("sklearn").get_config(),
    lambda settings: _module("sklearn").set_config(**settings),
)
carry(
    "polars' settings",
    "polars",
    lambda: _module("polars").Config.save(),
    lambda settings: _module("polars").Config.load(settings),
)


# ── IPython ──────────────────────────────────────────────────────────────────────────────────────────────────


def _take_shell(namespace: dict[str, Any]) -> Any:
    shell = shell_of(namespace)
    if shell is None:
        return None
    printers = {kind: each.type_printers for kind, each in shell.display_formatter.formatters.items()}
    return {
        "extensions": sorted(shell.extension_manager.loaded),
        "aliases": list(shell.alias_manager.aliases),
        "interactivity": shell.ast_node_interactivity,
        "precision": shell.display_formatter.formatters["text/plain"].float_precision,
        "magics": {kind: _users_own(each, namespace) for kind, each in shell.magics_manager.magics.items()},
        "printers": {kind: _users_own(each, namespace) for kind, each in printers.items()},
        "callbacks": {event: _own(each, namespace) for event, each in shell.events.callbacks.items()},
    }


def _own(functions: Iterable[Any], namespace: dict[str, Any]) -> list[Any]:
    return [each for each in functions if getattr(each, "__globals__", None) is namespace]


def _users_own(held: dict[Any, Any], namespace: dict[str, Any]) -> dict[Any, Any]:
    return {name: each for name, each in held.items() if _own([each], namespace)}


def _give_shell(namespace: dict[str, Any], state: dict[str, Any]) -> None:
    shell = shell_of(namespace)
    if shell is None:
        return
    for extension in state["extensions"]:
        shell.extension_manager.load_extension(extension)
    for alias in state["aliases"]:
        shell.alias_manager.soft_define_alias(*alias)
    shell.ast_node_interactivity = state["interactivity"]
    formatters = shell.display_formatter.formatters
    formatters["text/plain"].float_precision = state["precision"]
    for kind, magics in state["magics"].items():
        shell.magics_manager.magics[kind].update(magics)
    for kind, printers in state["printers"].items():
        formatters[kind].type_printers.update(printers)
    for event, callbacks in state["callbacks"].items():
        shell.events.callbacks[event] += callbacks


carriers["settings of IPython"] = Carrier("settings of IPython", "IPython", _take_shell, _give_shell)


# ── what cells have done to modules ──────────────────────────────────────────────────────────────────────────

_IMPORT = re.compile(r"(?:^|;)\s*(?:import|from)\s+([\w., ]+)", re.MULTILINE)
_ASSIGNMENT = re.compile(r"(?:^|;)\s*([A-Za-z_][\w.]*)\.(\w+)\s*=[^=]", re.MULTILINE)


def _cells(namespace: dict[str, Any]) -> str:
    cells = namespace.get("In")
    return "\n".join(map(str, cells)) if isinstance(cells, list) else ""


def _take_imports(namespace: dict[str, Any]) -> Any:
    """Parts of packages: `import scipy.stats` makes `scipy.stats` be there for whoever has `scipy`."""
    return sorted(name for name in _imported(namespace) if "." in name) or None


def _imported(namespace: dict[str, Any]) -> set[str]:
    """The modules that cells have imported."""
    named = (each.strip() for group in _IMPORT.findall(_cells(namespace)) for each in group.split(","))
    return {name.split()[0] for name in named if name} & sys.modules.keys()


def _give_imports(namespace: dict[str, Any], names: list[str]) -> None:
    for name in names:
        importlib.import_module(name)


def _take_patches(namespace: dict[str, Any]) -> Any:
    """What cells have set in modules and in classes that are imported: `pd.DataFrame.total = total`."""
    patches = []
    for owner_path, name in dict.fromkeys(_ASSIGNMENT.findall(_cells(namespace))):
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
    here = Path.cwd()
    own = {name: sys.modules[name] for name in _imported(namespace) if _lies_below(sys.modules[name], here)}
    return {name: _data(module) for name, module in own.items()} or None


def _lies_below(module: Any, folder: Path) -> bool:
    file = Path(getattr(module, "__file__", None) or "/")
    return file.is_relative_to(folder) and not any(map(file.is_relative_to, (sys.prefix, sys.base_prefix)))


def _data(module: ModuleType) -> dict[str, Any]:
    code = (ModuleType, FunctionType, type)
    return {n: value for n, value in vars(module).items() if not (n.startswith("__") or isinstance(value, code))}


def _give_modules(namespace: dict[str, Any], states: dict[str, dict[str, Any]]) -> None:
    for name, state in states.items():
        vars(importlib.import_module(name)).update(state)


carriers["modules beside the notebook"] = Carrier("modules beside the notebook", "sys", _take_modules, _give_modules)


# ── the sources of cells, for tracebacks and `inspect.getsource` ─────────────────────────────────────────────

SOURCES = "sources of cells"


def sources(files: Iterable[str]) -> dict[str, Any]:
    """What `linecache` holds of those that are no files."""
    return {name: linecache.cache[name] for name in sorted(files) if len(linecache.cache.get(name, ())) == 4}


def _give_sources(namespace: dict[str, Any], entries: dict[str, Any]) -> None:
    linecache.cache.update(entries)


carriers[SOURCES] = Carrier(SOURCES, "linecache", lambda _: None, _give_sources)
