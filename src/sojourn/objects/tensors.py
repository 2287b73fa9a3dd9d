"""PyTorch's tensors: their storages out of band, each once, so that tensors which share one go on to share it. What is
on a GPU, also as an array of CuPy's, goes through memory.
"""

from __future__ import annotations

import importlib
import pickle
import sys
from typing import Any

from .arrays import given
from .carriers import carry
from .graph import PROTOCOL, CannotTravel, Grapher, Reduction, descent


@descent("torch.storage.TypedStorage")
def reduce_typed_storage(graph: Grapher, storage: Any) -> Reduction:
    """Tensors make one of these whenever they are asked: told apart by where their memory is."""
    untyped = storage._untyped_storage
    first = graph.memory.storages.setdefault((untyped.data_ptr(), untyped.nbytes()), untyped)
    return make_typed_storage, (first, storage.dtype)


@descent("torch.storage.UntypedStorage")
def reduce_storage(graph: Grapher, storage: Any) -> Reduction:
    torch = sys.modules["torch"]
    if storage.device.type == "meta" or not storage.nbytes():
        return NotImplemented
    data = torch.empty(0, dtype=torch.uint8).set_(storage.cpu()).numpy()
    return make_storage, (pickle.PickleBuffer(data), str(storage.device))


def make_typed_storage(untyped: Any, dtype: Any) -> Any:
    return sys.modules["torch"].storage.TypedStorage(wrap_storage=untyped, dtype=dtype, _internal=True)


def make_storage(data: Any, device: str) -> Any:
    """On the device it was on, or another one of its kind; where there is none, in memory."""
    torch = sys.modules["torch"]
    storage = torch.frombuffer(given(data), dtype=torch.uint8).untyped_storage()
    place = None if device == "cpu" else nearest(device)
    return storage.to(device=torch.device(place)) if place else storage


def nearest(device: str) -> str:
    """What there is here that is like "cuda:1"; "" where there is nothing."""
    kind, _, number = device.partition(":")
    count = devices_here(kind)
    return f"{kind}:{number if number and int(number) < count else 0}" if count else ""


def devices_here(kind: str) -> int:
    backend = getattr(sys.modules["torch"], kind, None)
    return int(backend.device_count()) if backend is not None and backend.is_available() else 0


@descent("torch.Tensor")
def reduce_tensor(graph: Grapher, tensor: Any) -> Reduction:
    """With its gradient, which PyTorch would leave behind without a word."""
    if tensor.grad_fn is not None:
        raise CannotTravel(tensor, "a tensor that remembers how it was computed; `.detach()` does not")
    if tensor.grad is None:
        return NotImplemented
    make, arguments, *more = tensor.__reduce_ex__(PROTOCOL)
    return make, arguments, (more[0] if more else None, tensor.grad), None, None, fill_tensor


def fill_tensor(tensor: Any, state: tuple[Any, Any]) -> None:
    if state[0] is not None:
        tensor.__setstate__(state[0])
    tensor.grad = state[1]


def _take_devices() -> Any:
    """The GPUs of CUDA that something lies on, and their random states."""
    cuda = sys.modules["torch"].cuda
    if not cuda.is_initialized():
        return None
    used = [number for number in range(cuda.device_count()) if cuda.memory_allocated(number)]
    return {"used": used, "random": [state.numpy() for state in cuda.get_rng_state_all()]}


def _give_devices(state: dict[str, Any]) -> None:
    torch, count = sys.modules["torch"], devices_here("cuda")
    for number, random in enumerate(state["random"][:count]):
        torch.cuda.set_rng_state(torch.from_numpy(random), number)
    missing = [f"cuda:{number}" for number in state["used"] if number >= count]
    if missing:
        place = "on cuda:0" if count else "in memory, and so are the computations: there is no GPU here"
        raise OSError(f"what was on {', '.join(missing)} is {place}")


carry("torch's GPUs", "torch", _take_devices, _give_devices)


# ── CuPy ─────────────────────────────────────────────────────────────────────────────────────────────────────


@descent("cupy.ndarray")
def reduce_cupy(graph: Grapher, array: Any) -> Reduction:
    if array.base is not None:
        graph.notes.append(f"{graph.at}: a view of an array of CuPy's becomes an array of its own")
    return make_cupy, (array.get(), array.device.id)


def make_cupy(host: Any, number: int) -> Any:
    """On the GPU that it was on, or the first one; where there is none, an array of NumPy's."""
    count = gpus_of_cupy()
    if not count:
        return host
    cupy = sys.modules["cupy"]
    with cupy.cuda.Device(number if number < count else 0):
        return cupy.asarray(host)


def gpus_of_cupy() -> int:
    """How many there are; 0 also without CuPy, or a driver."""
    try:
        return int(importlib.import_module("cupy").cuda.runtime.getDeviceCount())
    except Exception:  # the runtime has errors of its own kind
        return 0


def _take_gpus() -> Any:
    used = sys.modules["cupy"].get_default_memory_pool().used_bytes()
    return used or None


def _give_gpus(used: int) -> None:
    if not gpus_of_cupy():
        raise OSError("there is no GPU here: its arrays are NumPy's now")


carry("CuPy's GPUs", "cupy", _take_gpus, _give_gpus, always=True)
