"""NumPy's arrays: large ones out of band, read straight into memory of their own; views of a shared one stay views.

Only if NumPy is loaded is anything of it looked at. The same goes for pandas, whose arrays are kept apart: it knows by
itself which of them share memory and copies before it writes, and would not know it of those over there.
"""

from __future__ import annotations

import array as array_module
import mmap
import pickle
import sys
from typing import Any

from .graph import OUT_OF_BAND_BYTES, CannotTravel, Grapher, Reduction, descent, family


def _is_numpy(name: str) -> Any:
    return lambda kind: kind.__module__ == "numpy" and kind.__qualname__ == name


@family(_is_numpy("ndarray"))
def reduce_array(graph: Grapher, array: Any) -> Reduction:
    if array.dtype.hasobject:
        return NotImplemented
    if id(array) not in graph.memory.apart:
        base = array if array.base is None else array.base
        if isinstance(base, memoryview):
            base = base.obj
        if isinstance(base, _EXPORTERS):
            return _over(array, base)
        if graph.memory.lies_in(array, base) and base is not array:
            return _view(array, base)
    whole = array.flags.c_contiguous or array.flags.f_contiguous
    if whole and array.nbytes >= OUT_OF_BAND_BYTES:
        return _beside(array)
    if not array.flags.writeable and not whole:
        return frozen, (array.copy(),)
    return array.__reduce__() if array.flags.writeable and array.dtype.isnative else NotImplemented


_EXPORTERS = (bytearray, array_module.array, mmap.mmap)


def _over(array: Any, exporter: Any) -> Reduction:
    """Numbers that somebody else, who is no array, sees as well."""
    numpy = sys.modules["numpy"]
    offset = _address(array) - _address(numpy.frombuffer(exporter, "u1"))
    return numpy.ndarray, (array.shape, array.dtype, exporter, offset, array.strides)


def frozen(array: Any) -> Any:
    array.flags.writeable = False
    return array


def _beside(array: Any) -> Reduction:
    if array.dtype.kind in "biufc" and array.dtype.isnative:
        return given, (pickle.PickleBuffer(array),)
    flat = array.reshape(-1, order="A").view("u1")
    order = "C" if array.flags.c_contiguous else "F"
    return shaped, (pickle.PickleBuffer(flat), array.dtype, array.shape, order)


def _view(array: Any, base: Any) -> Reduction:
    offset = _address(array) - _address(base)
    return view_of, (base, offset, array.shape, array.strides, array.dtype, array.flags.writeable)


def _address(array: Any) -> int:
    return int(array.__array_interface__["data"][0])


def given(array: Any) -> Any:
    """The buffer is the array itself; one that may not be written to comes wrapped."""
    if not isinstance(array, memoryview):
        return array
    return frozen(sys.modules["numpy"].asarray(array.obj))


def shaped(flat: Any, dtype: Any, shape: tuple[int, ...], order: Any) -> Any:
    return given(flat).view(dtype).reshape(shape, order=order)


def view_of(base: Any, offset: int, shape: Any, strides: Any, dtype: Any, writeable: bool) -> Any:
    numpy = sys.modules["numpy"]
    flat = base.reshape(-1, order="A").view("u1") if base.size else base
    view = numpy.ndarray(shape, dtype, flat, offset, strides)
    view.flags.writeable = writeable
    return view


def describe(exporter: object) -> list[Any] | None:
    """How memory for such an array is asked for: its type, shape and order; None for what is no array."""
    if not _is_numpy("ndarray")(type(exporter)):
        return None
    array: Any = exporter
    return [array.dtype.str, list(array.shape), "C" if array.flags.c_contiguous else "F"]


def room(description: list[Any] | None, size: int) -> tuple[Any, memoryview]:
    """What becomes the buffer, and its bytes. NumPy asks the kernel for huge pages, so it is five times as fast to
    fill as a bytearray; it is used where the graph needs it anyway."""
    if description is None:
        plain = bytearray(size)
        return plain, memoryview(plain)
    import numpy as np

    dtype, shape, order = description
    array = np.empty(tuple(shape), dtype, order)
    return array, memoryview(array.reshape(-1, order="A").view("u1"))


def again(view: memoryview) -> Any:
    """What becomes the buffer where its bytes lie here already: the very same array."""
    return view.obj if describe(view.obj) else view


@family(_is_numpy("memmap"))
def reduce_memory_map(graph: Grapher, array: Any) -> Reduction:
    raise CannotTravel(array, f"a memory map of {getattr(array, 'filename', None) or 'a file'}")


@family(lambda kind: _is_own_array(kind))
def reduce_own_array(graph: Grapher, array: Any) -> Reduction:
    """Of the user's own kind: NumPy would forget its attributes."""
    make, arguments, state = array.__reduce__()
    return make, arguments, (state, vars(array)), None, None, fill_own_array


def _is_own_array(kind: type) -> bool:
    ancestors = [base for base in kind.__mro__ if _is_numpy("ndarray")(base)]
    return bool(ancestors) and kind.__reduce__ is ancestors[0].__reduce__ and hasattr(kind, "__dict__")


def fill_own_array(array: Any, state: tuple[Any, dict[str, Any]]) -> None:
    array.__setstate__(state[0])
    vars(array).update(state[1])


@descent("pandas._libs.internals.Block", "pandas.core.indexes.base.Index", "pandas.core.arrays.base.ExtensionArray")
def reduce_of_pandas(graph: Grapher, value: Any) -> Reduction:
    held = (getattr(value, name, None) for name in ("values", "_data", "_ndarray", "_mask", "_codes"))
    graph.memory.apart.update(id(each) for each in held if each is not None)
    return NotImplemented
