"""Tensors, in an interpreter of their own: whoever loads PyTorch carries its state from then on."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed"),
]

BEGIN = """
import io, sys, torch
from sojourn.objects import capture, restore
def travel(**names):
    file, there = io.BytesIO(), {}
    capture(names).write(file)
    file.seek(0)
    restored = restore(file, there)
    return there, restored.notes
"""
MEMORY = """
shape, kept = torch.empty(3, 4, device="meta"), torch.arange(100_000.0)
there, notes = travel(shape=shape, kept=kept, view=kept[10:])
assert (there["shape"].device.type, there["shape"].shape) == ("meta", (3, 4))
there["kept"][10] = -1
assert there["view"][0] == -1
assert kept[10] == 10
assert not notes, notes
"""
GPU = """
if not torch.cuda.is_available():
    sys.exit(77)
there, notes = travel(x=torch.arange(100_000.0, device="cuda"))
assert there["x"].device.type == "cuda"
assert there["x"].sum().item() == 4999950000.0
assert not notes, notes
torch.cuda.is_available = lambda: False
there, notes = travel(x=torch.arange(100_000.0, device="cuda"))
assert there["x"].device.type == "cpu"
assert any("there is no GPU here" in note for note in notes), notes
"""


def run(code: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + code], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode in (0, 77), done.stderr
    return done.returncode


def test_tensors_in_memory_and_in_none() -> None:
    run(MEMORY)


def test_tensors_on_a_gpu_return_to_it_or_to_memory() -> None:
    if run(GPU):
        pytest.skip("there is no GPU that PyTorch could use")
