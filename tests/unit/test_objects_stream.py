"""A stream that was cut off or altered, anywhere, leaves the namespace as it was."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sojourn.errors import Damaged, Incompatible, MoveFailed
from sojourn.objects import capture, restore, stream


def written() -> bytes:
    file = io.BytesIO()
    capture({"numbers": list(range(1000)), "array": np.arange(10_000)}).write(file)
    return file.getvalue()


STREAM = written()


class Pipe(io.RawIOBase):
    """Gives little at a time and does not go back, as a socket does."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, room: Any) -> int:
        return self._data.readinto(memoryview(room)[:1000])


def refused(data: bytes) -> None:
    namespace = {"numbers": "mine"}
    with pytest.raises(Damaged):
        restore(io.BytesIO(data), namespace)
    assert namespace == {"numbers": "mine"}


@settings(deadline=None)
@given(st.integers(0, len(STREAM) - 1))
def test_cut_off_anywhere(length: int) -> None:
    refused(STREAM[:length])


@settings(deadline=None)
@given(st.integers(0, len(STREAM) - 1), st.integers(1, 255))
def test_altered_anywhere(where: int, by: int) -> None:
    altered = bytearray(STREAM)
    altered[where] ^= by
    refused(bytes(altered))


def test_from_a_socket_it_is_the_same() -> None:
    namespace: dict[str, Any] = {}
    restore(Pipe(STREAM), namespace)  # type: ignore[arg-type]
    assert namespace["numbers"] == list(range(1000))
    assert namespace["array"].sum() == sum(range(10_000))


def test_what_does_not_fit_into_memory_is_spooled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_IN_MEMORY_BYTES", 1000)
    namespace: dict[str, Any] = {}
    restore(io.BytesIO(written()), namespace)
    assert namespace["numbers"] == list(range(1000))


def test_a_package_that_is_missing_is_named_before_anything_is_built() -> None:
    captured = capture({"n": 1})
    captured.modules["nosuchpackage"] = "1.0"
    file = io.BytesIO()
    captured.write(file)
    file.seek(0)
    namespace: dict[str, Any] = {}
    with pytest.raises(Incompatible, match="nosuchpackage"):
        restore(file, namespace)
    assert namespace == {}


class Stubborn:
    def __setstate__(self, state: object) -> None:
        raise RuntimeError("not here")


def test_what_can_not_be_built_is_named_and_nothing_is_put_in() -> None:
    stubborn = Stubborn()
    stubborn.x = 1  # type: ignore[attr-defined]
    file = io.BytesIO()
    capture({"first": 1, "stubborn": stubborn}).write(file)
    file.seek(0)
    namespace: dict[str, Any] = {}
    with pytest.raises(MoveFailed, match="stubborn can't be built here: RuntimeError: not here"):
        restore(file, namespace)
    assert namespace == {}
