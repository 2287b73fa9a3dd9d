"""Programs that are started for a lesser fleet say themselves what they use: NumPy, its OpenBLAS, glibc, OpenSSL."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sojourn.agent.machine import processor
from sojourn.baseline import held_to, instructions

pytestmark = pytest.mark.integration

FLAGS = instructions(processor().flags)
LOADER = Path("/lib64/ld-linux-x86-64.so.2")
ABOVE_AVX2 = re.compile(r"avx512.*|gfni|vaes|vpclmulqdq|sha_ni|avx_.*|amx.*")
ABOVE_AVX = re.compile(rf"{ABOVE_AVX2.pattern}|avx2|fma|f16c|bmi.|movbe|abm")
ABOVE_SSE = re.compile(rf"{ABOVE_AVX.pattern}|avx|xsave.*|aes|pclmulqdq")
ASK = """
import ctypes, json, pathlib
import numpy
from numpy._core._multiarray_umath import __cpu_dispatch__ as known, __cpu_features__ as has

def core():
    libraries = pathlib.Path(numpy.__file__).parent.with_name("numpy.libs").glob("*openblas*")
    for library in map(ctypes.CDLL, map(str, libraries)):
        for name in ("scipy_openblas_get_corename64_", "openblas_get_corename64_", "openblas_get_corename"):
            if hasattr(library, name):
                ask = getattr(library, name)
                ask.restype = ctypes.c_char_p
                return ask().decode()

product = numpy.ones((64, 64)) @ numpy.ones((64, 64))
assert product.sum() == 64**3
print(json.dumps({"core": core(), "numpy": [name for name in known if has[name]]}))
"""

if not {"avx2", "fma", "sse4_2"} <= FLAGS:
    pytest.skip("this CPU is itself too little to be more than a fleet", allow_module_level=True)


def environment(above: re.Pattern[str]) -> dict[str, str]:
    """Of a program on this CPU that is held to what the fleet has; of ours nothing that would hold it as well."""
    ours = {name: value for name, value in os.environ.items() if not re.match(r"OPENBLAS_|NPY_|GLIBC_", name)}
    return ours | held_to("x86_64", frozenset(flag for flag in FLAGS if not above.fullmatch(flag)), ours)


def said(command: list[str], above: re.Pattern[str]) -> str:
    return subprocess.run(
        command, env=environment(above), capture_output=True, text=True, check=True, timeout=60
    ).stdout


@pytest.mark.parametrize(
    ("above", "core", "numpy"),
    [(ABOVE_AVX2, "Haswell", {"X86_V3", "AVX2"}), (ABOVE_AVX, "Sandybridge", {"AVX"}), (ABOVE_SSE, "Nehalem", set())],
    ids=["haswell", "sandybridge", "nehalem"],
)
def test_numpy_and_its_openblas_do_with_what_the_fleet_has(above: re.Pattern[str], core: str, numpy: set[str]) -> None:
    found = json.loads(said([sys.executable, "-c", ASK], above))
    assert found["core"] in (core, None)  # None: a NumPy that brings no OpenBLAS of its own
    assert not [name for name in found["numpy"] if "512" in name or name == "X86_V4"]
    assert not {"X86_V3", "AVX2", "FMA3"} & set(found["numpy"]) - numpy


@pytest.mark.skipif(not LOADER.exists(), reason="no glibc where it is looked for")
def test_glibc_takes_no_wide_string_functions_and_no_libraries_built_for_more() -> None:
    try:
        text = said([str(LOADER), "--list-diagnostics"], ABOVE_AVX)
    except subprocess.CalledProcessError:
        pytest.skip("this glibc (before 2.33) does not tell")
    leaf_7_ebx = re.search(r"features\[0x1\]\.active\[0x1\]=(0x[0-9a-f]+)", text)
    assert leaf_7_ebx
    active = int(leaf_7_ebx[1], 16)
    assert not active & (1 << 5 | 1 << 16 | 1 << 31), "AVX2, AVX512F, AVX512VL"
    subfolders = re.search(r"dl_hwcaps_subdirs_active=(0x[0-9a-f]+)", text)
    assert subfolders
    assert int(subfolders[1], 16) == 4, "x86-64-v2 and none above it"


@pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl command")
def test_openssl_which_signs_every_message_of_a_kernel_keeps_to_it_too() -> None:
    text = said(["openssl", "info", "-cpusettings"], ABOVE_AVX2)
    vector = re.search(r"OPENSSL_ia32cap=(0x[0-9a-f]+):(0x[0-9a-f]+)", text)
    assert vector
    leaf_7 = int(vector[2], 16)
    assert leaf_7 >> 5 & 1, "AVX2 stays"
    assert not leaf_7 & (1 << 16 | 1 << 29 | 1 << 30 | 1 << 31 | 1 << 41), "AVX512, SHA and VAES go"
