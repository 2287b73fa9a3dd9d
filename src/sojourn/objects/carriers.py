"""Carriers: what modules keep for themselves and the user has set: print options, random states, levels, folders.

A carrier takes its state, anything a graph can hold, or None if there is nothing to carry; and gives it to the
interpreter it finds itself in. It is asked only where its module is loaded. To add one is to write these two functions.
"""

from __future__ import annotations

import functools
import gc
import importlib
import io
import linecache
import locale
import os
import pickle
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any

from .beside import handlers, travels
from .graph import PROTOCOL, importable
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
    always: bool = False
    """Given also where all stands so already: then it looks what is otherwise here, and tells."""


carriers: dict[str, Carrier] = {}


def carry(name: str, module: str, take: Take, give: Give, early: bool = False, always: bool = False) -> None:
    """Register a carrier that needs no namespace."""
    carriers[name] = Carrier(name, module, lambda _: take(), lambda _, state: give(state), early, always)


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
            if carrier.always or not _stands_so(carrier, namespace, state):
                carrier.give(namespace, state)
        except Exception as error:
            notes.append(f"{name}: {error}")
    return notes


def _stands_so(carrier: Carrier, namespace: dict[str, Any], state: Any) -> bool:
    """Whether all is here already as it is to be: most that can be set nobody has set, and to look is quicker."""
    try:
        return _exactly(state) == _exactly(carrier.take(namespace))
    except Exception:  # what is not plain is given anew, and so is what can't be taken here
        return False


class _Plain(pickle.Pickler):
    """Writes what is equal, types and all, as equal bytes; raises TypeError on more than atoms and containers."""

    def reducer_override(self, value: Any) -> Any:
        raise TypeError(f"{type(value)} is not plain")


def _exactly(state: Any) -> bytes:
    written = io.BytesIO()
    plain = _Plain(written, PROTOCOL)
    plain.fast = True
    plain.dump(state)
    return written.getvalue()


_FUNCTIONS = (FunctionType, MethodType)
"""What else there is is not even touched: IPython's magics that nobody has used yet would be loaded by it."""


def users_own(held: dict[Any, Any], namespace: dict[str, Any]) -> dict[Any, Any]:
    """Those functions among what is held that cells have defined."""
    return {name: each for name, each in held.items() if type(each) in _FUNCTIONS and each.__globals__ is namespace}


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
_UNCHANGED = {os.fsencode(name): os.fsencode(value) for name, value in _BORN_WITH.items()}


def _take_variables() -> Any:
    if getattr(os.environ, "_data", None) == _UNCHANGED:  # as the operating system has them: one comparison
        return None
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


def _take_filters() -> list[Any]:
    """With what identifies expressions and categories that can be imported, so as to be compared."""
    return [
        (action, _in_text(message), _by_name(category), _in_text(module), line)
        for action, message, category, module, line in _module("warnings").filters
    ]


def _in_text(expression: Any) -> Any:
    return (expression.pattern, expression.flags) if isinstance(expression, re.Pattern) else expression


def _by_name(category: type) -> Any:
    return (category.__module__, category.__qualname__) if importable(category) else category


def _give_filters(filters: list[Any]) -> None:
    warnings = _module("warnings")
    warnings.filters[:] = [
        (action, _compiled(message), _found(category), _compiled(module), line)
        for action, message, category, module, line in filters
    ]
    for name in ("_filters_mutated", "_filters_mutated_lock_held"):  # the latter from Python 3.14 on
        getattr(warnings, name, lambda: None)()


def _compiled(text: Any) -> Any:
    return re.compile(*text) if isinstance(text, tuple) else text


def _found(category: Any) -> Any:
    """The class that has this name; a class of the user's is itself."""
    if not isinstance(category, tuple):
        return category
    return functools.reduce(getattr, category[1].split("."), importlib.import_module(category[0]))


carry("warning filters", "warnings", _take_filters, _give_filters)

_AS_MADE = (0, True, False)
"""A logger's level, whether it hands on, whether it is disabled: as nobody has set them."""


def _take_levels() -> dict[str, Any]:
    logging = _module("logging")
    set_, plain = {"": _levels(logging.root)}, []
    for name, each in list(logging.root.manager.loggerDict.items()):
        if isinstance(each, logging.Logger):
            levels = _levels(each)
            if levels == _AS_MADE:
                plain.append(name)
            else:
                set_[name] = levels
    names = dict(logging._levelToName)
    return {"set": set_, "plain": plain, "disable": logging.root.manager.disable, "names": names}


def _levels(logger: Any) -> tuple[int, bool, bool]:
    return logger.level, logger.propagate, logger.disabled


def _give_levels(state: dict[str, Any]) -> None:
    logging = _module("logging")
    for name, levels in state["set"].items():
        _set_levels(logging.getLogger(name) if name else logging.root, levels)
    for name in state["plain"]:  # those that are not there yet will be so
        logger = logging.root.manager.loggerDict.get(name)
        if isinstance(logger, logging.Logger):
            _set_levels(logger, _AS_MADE)
    if logging.root.manager.disable != state["disable"]:
        logging.disable(state["disable"])
    for level, name in state["names"].items() - logging._levelToName.items():
        logging.addLevelName(level, name)


def _set_levels(logger: Any, levels: tuple[int, bool, bool]) -> None:
    if _levels(logger) != levels:
        logger.setLevel(levels[0])
        logger.propagate, logger.disabled = levels[1:]


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


def _take_context() -> dict[str, Any]:
    context = _module("decimal").getcontext()
    state = {name: getattr(context, name) for name in _CONTEXT}
    signals = {name: [each.__name__ for each, on in getattr(context, name).items() if on] for name in _SIGNALS}
    return {**state, **signals}


def _give_context(state: dict[str, Any]) -> None:
    decimal = _module("decimal")
    signals = {name: [getattr(decimal, each) for each in state[name]] for name in _SIGNALS}
    decimal.setcontext(decimal.Context(**{name: state[name] for name in _CONTEXT}, **signals))


_CONTEXT = ("prec", "rounding", "Emin", "Emax", "capitals", "clamp")
_SIGNALS = ("flags", "traps")
carry("decimal context", "decimal", _take_context, _give_context)
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
    return users_own(_module("copyreg").dispatch_table, namespace) or None


def _give_reducers(namespace: dict[str, Any], reducers: dict[type, Any]) -> None:
    _module("copyreg").dispatch_table.update(reducers)


carriers["ways to pickle"] = Carrier("ways to pickle", "copyreg", _take_reducers, _give_reducers)
carry("random state", "random", lambda: _module("random").getstate(), lambda state: _module("random").setstate(state))


def _take_signals(namespace: dict[str, Any]) -> Any:
    return {number: each for number, each in handlers().items() if travels(each, namespace)} or None


def _give_signals(namespace: dict[str, Any], found: dict[int, Any]) -> None:
    for number, handler in found.items():
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
    known, deprecated = config._registered_options, config._deprecated_options
    options = _flat(config._global_config)
    changed = {n: v for n, v in options if n not in deprecated and n in known and not _same(v, known[n].defval)}
    return changed or None


def _flat(options: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested dictionaries: `display.precision` and 6."""
    for name, value in options.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{path}{name}.")
        else:
            yield path + name, value


def _same(one: object, other: object) -> bool:
    return type(one) is type(other) and bool(one == other)


def _give_pandas(options: dict[str, Any]) -> None:
    for name, value in options.items():
        _module("pandas").set_option(name, value)


carry("pandas' options", "pandas", _take_pandas, _give_pandas)


def _take_parameters() -> Any:
    matplotlib = _module("matplotlib")
    params, defaults = matplotlib.rcParams, matplotlib.rcParamsDefault
    changed = {name: value for name, value in dict.items(params) if value != dict.get(defaults, name)}
    changed.pop("backend", None)
    return changed or None


def _give_parameters(changed: dict[str, Any]) -> None:
    _module("matplotlib").rcParams.update(changed)


carry("matplotlib's rcParams", "matplotlib", _take_parameters, _give_parameters)


def _take_backend() -> Any:
    """Once there is one: until then, whoever makes the first figure chooses."""
    return _module("matplotlib").get_backend() if getattr(_module("matplotlib.pyplot"), "_backend_mod", None) else None


def _give_backend(name: str) -> None:
    _module("matplotlib.pyplot").switch_backend(name)


carry("matplotlib's backend", "matplotlib.pyplot", _take_backend, _give_backend)


def _take_torch() -> dict[str, Any]:
    torch = _module("torch")
    numbers = torch.get_rng_state().numpy().tobytes()
    return {"state": numbers, "dtype": str(torch.get_default_dtype()), "gradients": torch.is_grad_enabled()}


def _give_torch(state: dict[str, Any]) -> None:
    torch = _module("torch")
    torch.set_rng_state(torch.frombuffer(bytearray(state["state"]), dtype=torch.uint8))
    torch.set_default_dtype(getattr(torch, state["dtype"].partition(".")[2]))
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


# ── the sources of cells, for tracebacks and `inspect.getsource` ─────────────────────────────────────────────

SOURCES = "sources of cells"


def sources(files: Iterable[str]) -> dict[str, Any]:
    """What `linecache` holds of those that are no files."""
    return {name: linecache.cache[name] for name in sorted(files) if len(linecache.cache.get(name, ())) == 4}


def _give_sources(namespace: dict[str, Any], entries: dict[str, Any]) -> None:
    linecache.cache.update(entries)


carriers[SOURCES] = Carrier(SOURCES, "linecache", lambda _: None, _give_sources)
