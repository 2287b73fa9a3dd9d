"""PyTorch's tensors: their storages out of band, each once, so that tensors which share one go on to share it."""

from __future__ import annotations

import pickle
import sys
from typing import Any

from .arrays import given
from .graph import PROTOCOL, CannotTravel, Grapher, Reduction, derives_from, family


@family(derives_from("torch.storage.TypedStorage"))
def reduce_typed_storage(graph: Grapher, storage: Any) -> Reduction:
    """Tensors make one of these whenever they are asked: told apart by where their memory is."""
    untyped = storage._untyped_storage
    first = graph.memory.storages.setdefault((untyped.data_ptr(), untyped.nbytes()), untyped)
    return make_typed_storage, (first, storage.dtype)


@family(derives_from("torch.storage.UntypedStorage"))
def reduce_storage(graph: Grapher, storage: Any) -> Reduction:
    torch = sys.modules["torch"]
    if storage.device.type not in ("cpu", "cuda") or not storage.nbytes():
        return NotImplemented
    data = torch.empty(0, dtype=torch.uint8).set_(storage.cpu()).numpy()
    return make_storage, (pickle.PickleBuffer(data), str(storage.device))


def make_typed_storage(untyped: Any, dtype: Any) -> Any:
    return sys.modules["torch"].storage.TypedStorage(wrap_storage=untyped, dtype=dtype, _internal=True)


def make_storage(data: Any, device: str) -> Any:
    """On the device it was on, or, where there is none like it, in memory."""
    torch = sys.modules["torch"]
    storage = torch.frombuffer(given(data), dtype=torch.uint8).untyped_storage()
    return storage.cuda() if device.startswith("cuda") and torch.cuda.is_available() else storage


@family(derives_from("torch.Tensor"))
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
