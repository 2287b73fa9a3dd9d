from __future__ import annotations

import platform
import sys

import pytest

from sojourn.agent import load, machine


def test_identities_are_stable_and_not_empty() -> None:
    assert machine.machine_id()
    assert machine.boot_id()
    assert machine.root_id() == machine.root_id()


@pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="reads /proc of an x86 Linux")
def test_the_processor_is_known() -> None:
    processor = machine.processor()
    assert {"sse2", "cx8"} <= set(processor.flags)
    assert list(processor.flags) == sorted(processor.flags)
    # The legacy area and the header alone are 576 bytes; AVX-512 and AMX stay below 16 KiB.
    assert 576 <= processor.xsave_bytes < 16384


def test_cpuinfo_of_the_first_processor_counts() -> None:
    text = "processor\t: 0\nmodel name\t: Some   CPU\nflags\t\t: b a\n\nprocessor\t: 1\nmodel name\t: Other\n"
    facts = machine._facts(text)
    assert (facts["model name"], facts["flags"]) == ("Some CPU", "b a")


def test_capacity_and_load_are_within_reason() -> None:
    has = load.capacity()
    is_ = load.Gauge(list, load.Pace()).read()
    assert has.cores >= 1
    assert 0 < is_.memory_free_bytes <= has.memory_bytes
    assert 0 <= is_.cpu_share <= 1
    assert (is_.sessions, is_.used, is_.eviction, is_.save_bytes_per_s) == (0, (), None, 0)
