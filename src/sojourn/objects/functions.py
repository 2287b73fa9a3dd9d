"""Functions, and what stands around them: code, cells, modules, methods, properties.

A function that can be imported travels by name. Any other travels by value: its code, its closure's cells (shared ones
stay shared), and its globals by reference, be they the namespace or an importable module's.
"""

from __future__ import annotations

import builtins
import collections
import functools
import gc
import importlib
import marshal
import sys
import types
import typing
from types import CellType, CodeType, FunctionType, MappingProxyType, MethodType, ModuleType
from typing import Any

from .graph import CannotTravel, Grapher, Reduction, importable, way

_ATTRIBUTES = ("__qualname__", "__module__", "__doc__", "__defaults__", "__kwdefaults__")


@way(FunctionType)
def reduce_function(graph: Grapher, function: FunctionType) -> Reduction:
    if importable(function):
        graph.modules.add(function.__module__)
        return NotImplemented
    arguments = (function.__code__, _globals(graph, function), function.__name__, function.__closure__)
    state = {name: getattr(function, name) for name in _ATTRIBUTES}
    state["__annotations__"] = _annotations(function)
    if getattr(function, "__type_params__", ()):
        state["__type_params__"] = function.__type_params__  # type: ignore[attr-defined]
    return make_function, arguments, (state, vars(function)), None, None, fill_function


def _annotations(function: FunctionType) -> dict[str, Any]:
    """Those that were never evaluated (from Python 3.14 on they wait) may name what is not there yet."""
    try:
        return function.__annotations__
    except NameError:
        return {}


def _globals(graph: Grapher, function: FunctionType) -> Any:
    space = function.__globals__
    module = sys.modules.get(space.get("__name__", ""))
    if space is graph.home:
        return space
    if module is not None and vars(module) is space:
        graph.modules.add(module.__name__)
        return ModuleGlobals(module)
    owner = graph.memory.owner_of(space)
    return space if owner is None else ModuleGlobals(owner)


class ModuleGlobals:
    """Stands for a module's dictionary: it is that of the module there, not a copy."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module

    def __reduce__(self) -> Reduction:
        return vars, (self.module,)


def make_function(code: CodeType, space: dict[str, Any], name: str, closure: tuple[CellType, ...]) -> FunctionType:
    return FunctionType(code, space, name, None, closure)


def fill_function(function: FunctionType, state: tuple[dict[str, Any], dict[str, Any]]) -> None:
    attributes, rest = state
    for name, value in attributes.items():
        setattr(function, name, value)
    vars(function).update(rest)


@way(CodeType)
def reduce_code(graph: Grapher, code: CodeType) -> Reduction:
    """Version 2 of marshal: later ones write the same code differently from one time to the next."""
    graph.code_files.add(code.co_filename)
    return marshal.loads, (marshal.dumps(code, 2),)


@way(CellType)
def reduce_cell(graph: Grapher, cell: CellType) -> Reduction:
    try:
        return make_cell, (), (cell.cell_contents,), None, None, fill_cell
    except ValueError:
        return make_cell, ()


def make_cell() -> CellType:
    return CellType()


def fill_cell(cell: CellType, contents: tuple[Any]) -> None:
    cell.cell_contents = contents[0]


@way(MethodType)
def reduce_method(graph: Grapher, method: MethodType) -> Reduction:
    return MethodType, (method.__func__, method.__self__)


@way(property)
def reduce_property(graph: Grapher, found: property) -> Reduction:
    return property, (found.fget, found.fset, found.fdel, found.__doc__)


@way(classmethod, staticmethod)
def reduce_wrapped(graph: Grapher, wrapper: Any) -> Reduction:
    return type(wrapper), (wrapper.__func__,)


@way(functools._lru_cache_wrapper)
def reduce_lru_cache(graph: Grapher, cached: Any) -> Reduction:
    """The function and the cache's size; what the cache holds can't be read."""
    if importable(cached):
        graph.modules.add(cached.__module__)
        return NotImplemented
    if cached.cache_info().currsize:
        graph.notes.append(f"{cached.__qualname__}: its cache arrives empty")
    settings = cached.cache_parameters()
    arguments = (cached.__wrapped__, settings["maxsize"], settings["typed"])
    rest = {name: value for name, value in vars(cached).items() if name not in ("__wrapped__", "cache_parameters")}
    return make_lru_cache, arguments, rest


def make_lru_cache(function: Any, maxsize: int | None, typed: bool) -> Any:
    return functools.lru_cache(maxsize, typed)(function)


@way(MappingProxyType)
def reduce_mapping_proxy(graph: Grapher, proxy: MappingProxyType[Any, Any]) -> Reduction:
    return MappingProxyType, (gc.get_referents(proxy)[0],)


@way(
    *(type(getattr(kind(), view)()) for kind in (dict, collections.OrderedDict) for view in ("keys", "values", "items"))
)
def reduce_view(graph: Grapher, view: Any) -> Reduction:
    """A view of a dictionary sees it change: it goes on to look at the very same one."""
    ordered, _, name = type(view).__name__.rpartition("_")
    kind = collections.OrderedDict if ordered == "odict" else dict
    return getattr(kind, name), (gc.get_referents(view)[0],)


@way(ModuleType)
def reduce_module(graph: Grapher, module: ModuleType) -> Reduction:
    name = module.__name__
    if sys.modules.get(name) is module and name != "__main__":
        graph.modules.add(name)
        return importlib.import_module, (name,)
    return ModuleType, (name,), dict(vars(module))


@way(typing.TypeVar, typing.ParamSpec, *filter(None, [getattr(typing, "TypeVarTuple", None)]))
def reduce_type_variable(graph: Grapher, variable: Any) -> Reduction:
    if importable(variable, variable.__name__):
        return NotImplemented
    options = {
        name: getattr(variable, f"__{name}__")
        for name in ("bound", "covariant", "contravariant")
        if getattr(variable, f"__{name}__", None)
    }
    state = variable.__name__, getattr(variable, "__constraints__", ()), options, variable.__module__
    return make_type_variable, (type(variable), *state)


def make_type_variable(kind: Any, name: str, constraints: Any, options: dict[str, Any], module: str) -> Any:
    variable = kind(name, *constraints, **options)
    variable.__module__ = module
    return variable


@way(typing.NewType)
def reduce_new_type(graph: Grapher, found: Any) -> Reduction:
    if importable(found):
        return NotImplemented
    return make_new_type, (found.__qualname__, found.__supertype__, found.__module__)


def make_new_type(name: str, supertype: Any, module: str) -> Any:
    made: Any = typing.__dict__["NewType"](name, supertype)
    made.__module__ = module
    return made


@way(types.BuiltinFunctionType)
def reduce_builtin(graph: Grapher, function: Any) -> Reduction:
    """A method of an object (`items.append`) holds on to it; a function of a module goes by name."""
    holder = function.__self__
    if holder is None or isinstance(holder, ModuleType | type):
        return NotImplemented
    if holder is builtins:
        raise CannotTravel(function, "a built-in function without a name")
    return getattr, (holder, function.__name__)


@way(types.GetSetDescriptorType, types.MemberDescriptorType)
def reduce_descriptor(graph: Grapher, found: Any) -> Reduction:
    return getattr, (found.__objclass__, found.__name__)
