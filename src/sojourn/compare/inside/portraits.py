"""Portraits: what can be told of a value in one process so that another process can compare it with a value of its own.

A portrait is JSON: lists, strings, numbers. Two values with equal portraits are equal bit for bit as far as their kind
allows: arrays by their bytes, frames by axes, types and columns, figures by their rendered pixels, iterators by what
they yield next (which uses it up), modules and classes by name. Anything else is drawn by its type and by what its
`__dict__`, its slots or its pickle's state hold. Painters are chosen by the name of a type, so that nothing is imported
here that the value did not bring along.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import re
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

Portrait = Any
"""JSON-ready."""
Painter = Callable[[Any, "Draw"], Portrait]
Draw = Callable[[Any], Portrait]
"""Draws a part of a value."""

YIELDS_LOOKED_AT = 5
LONGEST_TEXT = 200
MOST_CELLS = 20_000
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_painters: dict[str, Painter] = {}


def portrait(value: object, *, use_up: bool = True) -> Portrait:
    """Draw the value; a part that is met again, in a cycle or as an alias, is `["as", number of the first]`.

    `use_up`: draw iterators by what they yield next. Else they stay as they are, and are drawn by where they stand."""
    met: dict[int, int] = {}
    alive: list[object] = []  # an id must not be given to a second object meanwhile

    def draw(part: Any) -> Portrait:
        if isinstance(part, (str, bytes, int, float, complex, types.NoneType)) and type(part) in _ATOMS:
            return _ATOMS[type(part)](part)
        painter = _painter_for(part)
        if painter is _iterator and not use_up:
            painter = _half_way
        if painter not in _OF_VALUES:  # whether two of those are one object makes no difference to anybody
            if id(part) in met:
                return ["as", met[id(part)]]
            met[id(part)] = len(met)
            alive.append(part)
        return [_name_of(type(part)), painter(part, draw)]

    return draw(value)


def in_brief(drawn: Portrait, longest: int = 120) -> str:
    """A portrait for people."""
    text = str(drawn)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def paints(*names: str) -> Callable[[Painter], Painter]:
    """Register a painter for the types of these qualified names, and for those that inherit from them."""

    def register(painter: Painter) -> Painter:
        _painters.update(dict.fromkeys(names, painter))
        return painter

    return register


def _name_of(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")


def _painter_for(value: object) -> Painter:
    for kind in type(value).__mro__[:-1]:
        if painter := _painters.get(_name_of(kind)):
            return painter
    return _iterator if isinstance(value, Iterator) else _anything


def _digest(data: Any) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _text(value: Any) -> Portrait:
    """A long text, and one with half a character, by its digest."""
    data = value.encode("utf-8", "surrogatepass")
    half = any("\ud800" <= sign <= "\udfff" for sign in value[:LONGEST_TEXT])
    return [len(value), _digest(data)] if half or len(value) > LONGEST_TEXT else value


def _bytes(value: Any) -> Portrait:
    return ["bytes", value.hex() if len(value) <= LONGEST_TEXT else [len(value), _digest(value)]]


_ATOMS: dict[type, Callable[[Any], Portrait]] = {
    str: _text,
    bytes: _bytes,
    int: lambda value: value if abs(value) < 2**53 else ["int", hex(value)],
    bool: lambda value: ["bool", value],  # for True == 1
    float: lambda value: ["float", value.hex()],
    complex: lambda value: ["complex", value.real.hex(), value.imag.hex()],
    types.NoneType: lambda value: value,
}


@paints("str", "int", "float", "complex")
def _subclass_of_atom(value: Any, draw: Draw) -> Portrait:
    atom = next(kind for kind in (str, int, float, complex) if isinstance(value, kind))
    return [draw(atom(value)), _state(value, draw)]


@paints("list", "tuple", "collections.deque")
def _sequence(value: Any, draw: Draw) -> Portrait:
    if len(value) > MOST_CELLS and all(type(item) in (int, float, str, bool) for item in value):
        return [len(value), _digest(repr(list(value)).encode("utf-8", "surrogatepass")), getattr(value, "maxlen", None)]
    return [*map(draw, value), getattr(value, "maxlen", None)]


@paints("dict", "mappingproxy")
def _mapping(value: Any, draw: Draw) -> Portrait:
    if len(value) > MOST_CELLS and all(type(part) in (int, float, str) for item in value.items() for part in item):
        return [len(value), _digest(repr(value).encode("utf-8", "surrogatepass"))]
    return [[draw(key), draw(item)] for key, item in value.items()] + [_state(value, draw)]


@paints("set", "frozenset")
def _set(value: Any, draw: Draw) -> Portrait:
    return sorted((draw(item) for item in value), key=str)


@paints("bytearray", "memoryview", "array.array", "mmap.mmap")
def _buffer(value: Any, draw: Draw) -> Portrait:
    return [
        getattr(value, "format", None) or getattr(value, "typecode", None),
        _bytes(bytes(memoryview(value).cast("B"))),
    ]


@paints("range", "slice", "ellipsis", "NotImplementedType", "decimal.Decimal", "fractions.Fraction", "uuid.UUID")
def _by_repr(value: Any, draw: Draw) -> Portrait:
    return repr(value)


paints("datetime.date", "datetime.time", "datetime.timedelta", "datetime.tzinfo", "pathlib.PurePath", "re.Pattern")(
    _by_repr
)
paints("decimal.Context", "types.GenericAlias", "types.UnionType", "typing._Final", "time.struct_time")(_by_repr)
paints("pandas.DatetimeTZDtype", "numpy.dtype", "pandas.api.extensions.ExtensionDtype", "random.SystemRandom")(_by_repr)
paints("torch.device", "torch.dtype", "torch.Size", "pyarrow.lib.DataType", "pyarrow.lib.Schema", "polars.Expr")(
    _by_repr
)


@paints("enum.Enum")
def _member(value: Any, draw: Draw) -> Portrait:
    return [value.name, draw(value.value)]


@paints("module")
def _module(value: Any, draw: Draw) -> Portrait:
    return [value.__name__, str(getattr(value, "__version__", ""))]


@paints("type")
def _class(value: Any, draw: Draw) -> Portrait:
    return _name_of(value)


@paints("function", "builtin_function_or_method", "classmethod_descriptor", "method_descriptor", "wrapper_descriptor")
def _function(value: Any, draw: Draw) -> Portrait:
    return [value.__qualname__, value.__doc__ and _text(value.__doc__), draw(getattr(value, "__defaults__", None))]


@paints("method")
def _method(value: Any, draw: Draw) -> Portrait:
    return [value.__func__.__qualname__, draw(value.__self__)]


@paints("property")
def _property(value: Any, draw: Draw) -> Portrait:
    return [draw(part) for part in (value.fget, value.fset, value.fdel)]


@paints("functools._lru_cache_wrapper")
def _cached(value: Any, draw: Draw) -> Portrait:
    return [value.__qualname__, list(value.cache_parameters().values()), list(value.cache_info())]


@paints("functools.partial", "functools.partialmethod")
def _partial(value: Any, draw: Draw) -> Portrait:
    return [draw(value.func), draw(value.args), draw(value.keywords)]


@paints("BaseException")
def _exception(value: Any, draw: Draw) -> Portrait:
    return [draw(value.args), draw(value.__cause__), draw(getattr(value, "__notes__", None)), _state(value, draw)]


@paints("code")
def _code(value: Any, draw: Draw) -> Portrait:
    return [value.co_qualname if hasattr(value, "co_qualname") else value.co_name, value.co_code.hex()]


@paints("_io._IOBase", "_io._TextIOBase", "tempfile._TemporaryFileWrapper")
def _file(value: Any, draw: Draw) -> Portrait:
    return ["closed"] if value.closed else [getattr(value, "mode", None), value.tell()]


@paints("_io.StringIO", "_io.BytesIO")
def _file_in_memory(value: Any, draw: Draw) -> Portrait:
    return ["closed"] if value.closed else [value.tell(), draw(value.getvalue())]


@paints("_thread.lock", "_thread.RLock", "threading.Semaphore", "multiprocessing.synchronize.SemLock")
def _lock(value: Any, draw: Draw) -> Portrait:
    if not hasattr(value, "locked"):
        return "free" if value.acquire(blocking=False) and value.release() is None else "held"
    return "held" if value.locked() else "free"


@paints("threading.Thread")
def _thread(value: Any, draw: Draw) -> Portrait:
    return [value.name, value.daemon, value.is_alive()]


@paints("threading.Event")
def _event(value: Any, draw: Draw) -> Portrait:
    return value.is_set()


@paints("queue.Queue")
def _queue(value: Any, draw: Draw) -> Portrait:
    return [value.maxsize, draw(value.queue)]


@paints("weakref.ReferenceType", "weakref")
def _weak(value: Any, draw: Draw) -> Portrait:
    return draw(value())


@paints("weakref.WeakValueDictionary", "weakref.WeakKeyDictionary")
def _weak_mapping(value: Any, draw: Draw) -> Portrait:
    return sorted(([draw(key), draw(item)] for key, item in value.items()), key=str)


@paints("weakref.WeakSet", "_weakrefset.WeakSet")
def _weak_set(value: Any, draw: Draw) -> Portrait:
    return sorted((draw(item) for item in value), key=str)


@paints("_contextvars.ContextVar")
def _context_variable(value: Any, draw: Draw) -> Portrait:
    return [value.name, draw(value.get("unset"))]


@paints("numpy.ndarray")
def _array(value: Any, draw: Draw) -> Portrait:
    kind = [str(value.dtype), list(value.shape), value.flags.f_contiguous and not value.flags.c_contiguous]
    if value.dtype.hasobject:
        return [*kind, [draw(item) for item in value.ravel()]]
    return [*kind, bool(value.flags.writeable), _digest(value.tobytes()), _state(value, draw)]


@paints("numpy.generic")
def _scalar(value: Any, draw: Draw) -> Portrait:
    return draw(value.item()) if value.dtype.hasobject else [str(value.dtype), value.tobytes().hex()]


@paints("scipy.sparse._base._spbase")
def _sparse(value: Any, draw: Draw) -> Portrait:
    grid = value.tocoo()
    return [value.format, list(value.shape), *(draw(part) for part in (grid.row, grid.col, grid.data))]


@paints("pandas.DataFrame", "pandas.core.frame.DataFrame")
def _frame(value: Any, draw: Draw) -> Portrait:
    columns = [_column(value.iloc[:, at], draw) for at in range(value.shape[1])]
    return [draw(value.columns), draw(value.index), columns, draw(value.attrs), value.flags.allows_duplicate_labels]


@paints("pandas.Series", "pandas.core.series.Series")
def _series(value: Any, draw: Draw) -> Portrait:
    return [draw(value.name), draw(value.index), _column(value, draw), draw(value.attrs)]


@paints("pandas.Index", "pandas.core.indexes.base.Index")
def _index(value: Any, draw: Draw) -> Portrait:
    return [[draw(name) for name in value.names], str(getattr(value, "freq", None)), *_column(value, draw)]


def _column(value: Any, draw: Draw) -> Portrait:
    """The type of a column and its cells: by their bytes where it has bytes of its own."""
    categories = [draw(value.dtype.categories), value.dtype.ordered] if value.dtype.name == "category" else []
    array = value.to_numpy()
    cells = _cells(list(array), draw) if array.dtype.hasobject else _digest(array.tobytes())
    return [str(value.dtype), *categories, cells]


@paints("pandas.Categorical", "pandas.api.extensions.ExtensionArray")
def _column_alone(value: Any, draw: Draw) -> Portrait:
    return _column(value, draw)


def _cells(cells: list[Any], draw: Draw) -> Portrait:
    if len(cells) > MOST_CELLS:
        return _digest("\0".join(map(repr, cells)).encode("utf-8", "surrogatepass"))
    return [draw(cell) for cell in cells]


@paints("polars.dataframe.frame.DataFrame")
def _polars_frame(value: Any, draw: Draw) -> Portrait:
    return [[name, str(kind)] for name, kind in value.schema.items()] + [_polars_cells(value, draw)]


def _polars_cells(value: Any, draw: Draw) -> Portrait:
    if value.height * max(1, value.width) > MOST_CELLS:
        return _digest(value.hash_rows(seed=1).to_numpy().tobytes())
    return draw(value.rows())


@paints("polars.series.series.Series")
def _polars_series(value: Any, draw: Draw) -> Portrait:
    return [value.name, _polars_frame(value.to_frame(), draw)]


@paints("polars.lazyframe.frame.LazyFrame")
def _lazy_frame(value: Any, draw: Draw) -> Portrait:
    return [value.explain(), _polars_frame(value.collect(), draw)]


@paints("pyarrow.lib._Tabular", "pyarrow.lib.Array", "pyarrow.lib.ChunkedArray")
def _arrow(value: Any, draw: Draw) -> Portrait:
    return [str(getattr(value, "schema", None) or value.type), draw(value.to_pylist())]


@paints("pyarrow.lib.Buffer")
def _arrow_buffer(value: Any, draw: Draw) -> Portrait:
    return _bytes(value.to_pybytes())


@paints("torch.Tensor")
def _tensor(value: Any, draw: Draw) -> Portrait:
    plain = value.detach().cpu().contiguous()
    data = plain.reshape(-1).view(sys.modules["torch"].uint8) if plain.numel() else plain
    kind = [str(value.dtype), list(value.shape), str(value.device), value.requires_grad, list(value.stride())]
    return [*kind, _digest(data.numpy().tobytes()), draw(value.grad if value.is_leaf else None)]


@paints("torch.nn.modules.module.Module")
def _network(value: Any, draw: Draw) -> Portrait:
    return [
        repr(value),
        value.training,
        [[name, draw(part)] for name, part in value.state_dict(keep_vars=True).items()],
    ]


@paints("torch.optim.optimizer.Optimizer")
def _optimizer(value: Any, draw: Draw) -> Portrait:
    return draw(value.state_dict())


@paints("torch._C.Generator")
def _torch_generator(value: Any, draw: Draw) -> Portrait:
    return draw(value.get_state())


@paints("PIL.Image.Image")
def _picture(value: Any, draw: Draw) -> Portrait:
    return [value.mode, list(value.size), _digest(value.tobytes()), draw(value.info)]


@paints("matplotlib.figure.Figure")
def _figure(value: Any, draw: Draw) -> Portrait:
    pixels = io.BytesIO()
    value.savefig(pixels, format="rgba", dpi=60)
    return [list(value.get_size_inches()), len(value.axes), _digest(pixels.getvalue())]


@paints("matplotlib.artist.Artist")
def _artist(value: Any, draw: Draw) -> Portrait:
    figure = value.get_figure()
    return [type(value).__name__, draw(figure) if figure is not None else None]


@paints("lxml.etree._Element")
def _element(value: Any, draw: Draw) -> Portrait:
    return _text(sys.modules["lxml.etree"].tostring(value).decode())


@paints("lxml.etree._ElementTree")
def _document(value: Any, draw: Draw) -> Portrait:
    return draw(value.getroot())


@paints("networkx.classes.graph.Graph")
def _graph(value: Any, draw: Draw) -> Portrait:
    return [draw(value.graph), draw(list(value.nodes(data=True))), draw(list(value.edges(data=True)))]


@paints("sympy.core.basic.Basic", "sympy.matrices.matrixbase.MatrixBase")
def _formula(value: Any, draw: Draw) -> Portrait:
    return _text(sys.modules["sympy"].srepr(value))


@paints("ipywidgets.widgets.widget.Widget")
def _widget(value: Any, draw: Draw) -> Portrait:
    state = value.get_state()
    return [
        [name, _text(ADDRESS.sub("", repr(state[name])))] for name in sorted(state) if name not in _LINKS_OF_WIDGETS
    ]


_OF_VALUES = {_by_repr, _scalar, _formula, _class, _module, _weak}
_LINKS_OF_WIDGETS = {"layout", "style", "children", "source", "target"}
"""Their repr shows a model's number, which is a widget's own."""


@paints("h5py._hl.base.HLObject")
def _h5_object(value: Any, draw: Draw) -> Portrait:
    return [value.name, value.file.mode] if value.id.valid else "closed"


@paints("random.Random", "numpy.random._generator.Generator", "numpy.random.mtrand.RandomState")
def _random(value: Any, draw: Draw) -> Portrait:
    state = value.getstate() if hasattr(value, "getstate") else getattr(value, "bit_generator", value)
    return draw(state.state if hasattr(state, "state") else state if isinstance(state, tuple) else value.get_state())


@paints("sklearn.base.BaseEstimator")
def _estimator(value: Any, draw: Draw) -> Portrait:
    return [[name, draw(part)] for name, part in sorted(vars(value).items())]


def _iterator(value: Any, draw: Draw) -> Portrait:
    return [draw(item) for item in itertools.islice(value, YIELDS_LOOKED_AT)]


def _half_way(value: Any, draw: Draw) -> Portrait:
    """A generator by its line and its variables; what C iterators hold is in their pickle's state."""
    if not isinstance(value, types.GeneratorType):
        return _anything(value, draw)
    frame = value.gi_frame
    return [value.__qualname__, *([frame.f_lineno, draw(dict(frame.f_locals))] if frame else ["ended"])]


def _anything(value: Any, draw: Draw) -> Portrait:
    """By its attributes; where it has none, by what a pickle of it would hold; else by its repr without addresses."""
    if hasattr(value, "__dict__") or any(_slots(type(value))):
        return _state(value, draw)
    try:
        parts = value.__reduce_ex__(4)
    except Exception:  # anything may be raised there, and means that it can't be reduced
        return ADDRESS.sub("", repr(value))
    return parts if isinstance(parts, str) else [draw(part) for part in parts[1:3]]


def _state(value: Any, draw: Draw) -> Portrait:
    """Its attributes by name: those in its `__dict__`, in the order they were set, and those in slots."""
    held = dict(getattr(value, "__dict__", {}))
    held |= {name: getattr(value, name) for name in _slots(type(value)) if hasattr(value, name)}
    return [[name, draw(part)] for name, part in held.items() if name not in {"__weakref__", "__dict__"}]


def _slots(kind: type) -> Iterable[str]:
    for base in kind.__mro__:
        slots = base.__dict__.get("__slots__", ())
        yield from (slots,) if isinstance(slots, str) else slots
