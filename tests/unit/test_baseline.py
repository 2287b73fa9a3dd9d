"""What a fleet's CPUs have in common, and how programs are kept to it."""

from __future__ import annotations

from typing import Any

import pytest

from sojourn import baseline
from sojourn.model import Baseline, Capabilities

V2 = ["cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3", "sse", "sse2"]
V3 = [*V2, "abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"]
V4 = [*V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"]
FLEETS = {"nehalem": V2, "sandybridge": [*V2, "avx"], "haswell": V3, "skylake": V4}


def node(flags: list[str] | tuple[str, ...], **changes: Any) -> Capabilities:
    facts = {
        "os": "linux",
        "arch": "x86_64",
        "kernel": "6.1",
        "python": "3.11",
        "sojourn": "0.1.0",
        "machine_id": "m",
        "root_id": "r",
        "cpu_flags": tuple(flags),
        "strategies": ("lazy", "copy"),
    }
    return Capabilities.model_validate({**facts, **changes})


def test_the_flags_are_those_that_all_have_and_programs_can_use() -> None:
    laptop, server = node([*V3, "sha_ni", "hypervisor"]), node([*V4, "pti", "constant_tsc"])
    assert baseline.of_fleet(server, [laptop, server]).flags == tuple(sorted(V3))


def test_nodes_without_live_moves_and_of_another_architecture_take_nothing_away() -> None:
    server = node(V4)
    process, arm = node(V2, strategies=()), node(["asimd"], arch="aarch64")
    assert baseline.of_fleet(server, [server, process, arm]).flags == tuple(sorted(V4))
    assert baseline.of_fleet(process, [server, process, arm]).flags == tuple(sorted(V2)), "it may use only what it has"


@pytest.mark.parametrize(
    ("fleet", "core", "mkl", "torch"),
    [
        ("nehalem", "Nehalem", "SSE4_2", "default"),
        ("sandybridge", "Sandybridge", "SSE4_2", "default"),
        ("haswell", "Haswell", "AVX2", "avx2"),
        ("skylake", "SkylakeX", "AVX512", "avx512"),
    ],
)
def test_each_library_is_told_in_its_own_words(fleet: str, core: str, mkl: str, torch: str) -> None:
    env = baseline.of_fleet(node(V4), [node(FLEETS[fleet])]).env
    assert (env["OPENBLAS_CORETYPE"], env["MKL_ENABLE_INSTRUCTIONS"], env["ATEN_CPU_CAPABILITY"]) == (core, mkl, torch)


def test_numpy_is_told_every_level_above_the_common_one_but_nothing_below() -> None:
    without = set(baseline.of_fleet(node(V4), [node(V3)]).env["NPY_DISABLE_CPU_FEATURES"].split())
    assert {"X86_V4", "AVX512_ICL", "AVX512_SPR", "AVX512F", "AVX512_SKX"} <= without
    assert not without & {"X86_V3", "AVX2", "FMA3", "X86_V2", "SSE42"}


def test_openssl_loses_the_bits_of_what_is_not_common() -> None:
    leaf_1, leaf_7, _ = baseline.of_fleet(node(V4), [node(V3)]).env["OPENSSL_ia32cap"].replace("~", "").split(":")
    assert int(leaf_7, 16) >> 16 & 1, "AVX512F goes"
    assert not int(leaf_7, 16) >> 5 & 1, "AVX2 stays"
    assert int(leaf_1, 16) >> 57 & 1, "AES goes: no node of this fleet has it"


def test_what_is_withheld_does_not_depend_on_where_a_session_begins() -> None:
    """It starts programs wherever it goes, and takes them along."""
    lesser, greater = node(V3), node(V4)
    assert baseline.of_fleet(lesser, [greater]) == baseline.of_fleet(greater, [lesser])


def test_the_users_own_variables_are_kept_where_they_can_be() -> None:
    theirs = {
        "GLIBC_TUNABLES": "glibc.malloc.arena_max=2:glibc.cpu.hwcaps=AVX512F",
        "NPY_DISABLE_CPU_FEATURES": "AVX2",
        "NPY_ENABLE_CPU_FEATURES": "X86_V4",
        "OPENBLAS_CORETYPE": "SkylakeX",
    }
    env = baseline.of_fleet(node(V4), [node(V3)], theirs).env
    assert env["GLIBC_TUNABLES"].startswith("glibc.malloc.arena_max=2:glibc.cpu.hwcaps=-")
    assert env["GLIBC_TUNABLES"].count("hwcaps") == 1
    assert env["NPY_DISABLE_CPU_FEATURES"].startswith("AVX2 AVX512F")
    assert (env["NPY_ENABLE_CPU_FEATURES"], env["OPENBLAS_CORETYPE"]) == ("", "Haswell")


def test_a_node_that_joins_later_with_less_is_named_for_what_it_lacks() -> None:
    born = baseline.of_fleet(node(V4), [node(V3)])
    assert baseline.lacking(born, node(V3)) == []
    assert baseline.lacking(born, node([*V2, "avx"]))[:3] == ["abm", "avx2", "bmi1"]


def test_what_no_variable_withholds_on_arm_is_demanded_of_both_ends() -> None:
    graviton = node(["asimd", "aes", "atomics", "sve"], arch="aarch64")
    raspberry = node(["asimd", "aes"], arch="aarch64")
    assert baseline.of_fleet(graviton, [raspberry]).flags == ("aes", "asimd", "atomics", "sve")
    born = baseline.of_fleet(raspberry, [graviton])
    assert (born.flags, born.env["OPENBLAS_CORETYPE"]) == (("aes", "asimd"), "ARMV8")
    assert baseline.beyond_holding(born, graviton) == ["atomics", "sve"]
    assert baseline.beyond_holding(Baseline(flags=()), node(V4)) == []
