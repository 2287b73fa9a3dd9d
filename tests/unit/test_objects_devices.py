"""What lies on a GPU goes through memory. The GPUs of these tests are made up."""

from __future__ import annotations

import io
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from sojourn.objects import capture, carriers, restore, tensors


def travel(gpus: int = 1, /, **names: Any) -> tuple[dict[str, Any], list[str]]:
    """What arrives where there are so many GPUs, and what is said of it."""
    file, there = io.BytesIO(), dict[str, Any]()
    captured = capture(names)
    captured.write(file)
    file.seek(0)
    Runtime.count = gpus
    restored = restore(file, there)
    return there, [note for note in restored.notes if "CuPy" in note]


class Gpus:
    """A backend of torch."""

    def __init__(self, count: int) -> None:
        self.count = count

    def is_available(self) -> bool:
        return self.count > 0

    def device_count(self) -> int:
        return self.count


@pytest.mark.parametrize(
    ("device", "count", "place"),
    [("cuda:1", 2, "cuda:1"), ("cuda:1", 1, "cuda:0"), ("cuda", 1, "cuda:0"), ("cuda:0", 0, ""), ("xpu:0", 1, "")],
)
def test_the_nearest_device(monkeypatch: pytest.MonkeyPatch, device: str, count: int, place: str) -> None:
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=Gpus(count)))
    assert tensors.nearest(device) == place


def test_what_has_no_gpu_any_more_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=Gpus(0)))
    told = carriers.give({}, {"torch's GPUs": {"used": [0, 1], "random": []}}, early=False)
    assert told == [
        "torch's GPUs: what was on cuda:0, cuda:1 is in memory, and so are the computations: there is no GPU here"
    ]


class Runtime:
    count = 1

    @classmethod
    def getDeviceCount(cls) -> int:  # noqa: N802
        return cls.count


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A CuPy whose GPU is NumPy."""
    numpy = pytest.importorskip("numpy")

    class Array:
        def __init__(self, host: Any, base: Any = None) -> None:
            self.host, self.base, self.device = host, base, SimpleNamespace(id=0)

        def get(self) -> Any:
            return self.host

    Array.__module__, Array.__qualname__ = "cupy", "ndarray"
    module: Any = ModuleType("cupy")
    module.ndarray, module.asarray, module.zeros = Array, Array, lambda count: Array(numpy.zeros(count))
    pool = SimpleNamespace(used_bytes=lambda: 8 * Runtime.count)
    module.get_default_memory_pool = lambda: pool
    module.cuda = SimpleNamespace(runtime=Runtime, Device=lambda number: memoryview(b""))
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setattr(Runtime, "count", 1)
    return module


def test_arrays_of_cupy_return_to_a_gpu_or_become_numpys_and_that_is_told(
    cupy: Any,
) -> None:
    there, notes = travel(a=cupy.zeros(3))
    assert type(there["a"]) is cupy.ndarray
    assert notes == []
    there, notes = travel(0, a=cupy.zeros(3))
    assert type(there["a"]).__module__ == "numpy"
    assert notes == ["CuPy's GPUs: there is no GPU here: its arrays are NumPy's now"]


def test_a_view_of_cupys_is_told(cupy: Any) -> None:
    whole = cupy.zeros(3)
    _, notes = travel(view=cupy.ndarray(whole.host[1:], whole))
    assert notes == ["view: a view of an array of CuPy's becomes an array of its own"]
