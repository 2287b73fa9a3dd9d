"""May it move, how, and how long will it take?"""

from __future__ import annotations

from typing import Any

import pytest

from sojourn.errors import Immovable, Incompatible
from sojourn.model import Baseline, Capabilities, Inspection
from sojourn.movers.fits import choose_strategy, compatible, mismatches, predict, wakeable

GB = 1 << 30


def node(**changes: Any) -> Capabilities:
    facts = {
        "os": "linux",
        "arch": "x86_64",
        "kernel": "6.1",
        "python": "3.11",
        "sojourn": "0.1.0",
        "machine_id": "m",
        "root_id": "r",
        "cpu_flags": ("avx", "sse", "xsavec"),
        "xsave_bytes": 832,
        "criu": "4.2.1",
        "strategies": ("lazy", "copy"),
    }
    return Capabilities.model_validate({**facts, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arch": "aarch64"}, "aarch64"),
        ({"cpu_flags": ("sse", "xsavec")}, "lacks avx"),
        ({"xsave_bytes": 512}, "512 bytes of registers"),
        ({"criu": "4.1"}, "can't read images"),
        ({"criu": None}, "is missing"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(Incompatible, match=words):
        compatible(node(), node(**changes))


def test_every_mismatch_is_told_and_the_first_is_raised() -> None:
    other = node(arch="aarch64", criu=None)
    assert [obstacle.kind for obstacle in mismatches(node(), other)] == ["arch", "criu"]
    lesser = node(cpu_flags=("sse", "xsavec"), xsave_bytes=512)
    assert [obstacle.kind for obstacle in mismatches(node(), lesser)] == ["cpu", "registers"]
    with pytest.raises(Incompatible, match="aarch64"):
        compatible(node(), other)


def test_what_only_a_kernel_uses_is_demanded_of_nobody() -> None:
    compatible(node(cpu_flags=("avx", "sse", "xsavec", "pti", "svm", "tsc_known_freq")), node())


def test_a_session_of_the_whole_fleet_goes_where_its_baseline_is() -> None:
    greater = node(cpu_flags=("avx", "avx512f", "sse", "xsavec"), xsave_bytes=2696)
    born = Baseline(flags=("avx", "sse"))
    compatible(greater, node(), baseline=born)
    wakeable(greater, node(), baseline=born)
    with pytest.raises(Incompatible, match="lacks avx, which the fleet had when"):
        compatible(greater, node(cpu_flags=("sse", "xsavec")), baseline=born)
    with pytest.raises(Incompatible, match="lacks avx512f"):
        compatible(greater, node())


def test_registers_are_saved_into_the_room_that_was_measured_at_the_start() -> None:
    old = node(cpu_flags=("avx", "sse"))
    with pytest.raises(Incompatible, match="set aside 832"):
        compatible(old, node(xsave_bytes=2696))
    compatible(old, node(xsave_bytes=2696), baseline=Baseline(flags=("avx", "sse")))


def test_more_than_needed_fits_and_a_session_brings_its_own_root() -> None:
    compatible(node(), node(cpu_flags=("avx", "avx512f", "sse", "xsavec"), xsave_bytes=2696, criu="4.3"))
    compatible(node(), node(root_id="other"))
    compatible(node(), node(root_id="other"), image="python:3.12")


def test_a_checkpoint_does_not() -> None:
    with pytest.raises(Incompatible, match="saved on a node with another root file system"):
        wakeable(node(), node(root_id="other"))
    wakeable(node(), node(root_id="other"), image="python:3.12")


def test_a_checkpoint_wakes_where_its_session_could_move_to_and_pages_can_be_filled_in() -> None:
    wakeable(node(), node())
    wakeable(node(strategies=("copy",)), node(strategies=("copy",)))  # its pages are images
    with pytest.raises(Incompatible, match="lacks avx"):
        wakeable(node(), node(cpu_flags=("sse", "xsavec")))
    with pytest.raises(Incompatible, match="can't wake there: no userfaultfd"):
        wakeable(node(), node(strategies=("copy",), refusals={"lazy": "no userfaultfd"}))


def session(gigabytes: float, **more: Any) -> Inspection:
    return Inspection(memory_bytes=int(gigabytes * GB), processes=2, **more)


def test_auto_takes_the_shorter_pause() -> None:
    assert choose_strategy(None, session(4), node(), node()) == "lazy"
    assert choose_strategy(None, session(0.01), node(), node()) == "copy"


def test_forks_that_share_memory_are_copied() -> None:
    assert choose_strategy(None, session(4, forked_sharing_bytes=GB), node(), node()) == "copy"


def test_what_was_asked_is_done_or_refused_with_the_nodes_reason() -> None:
    lesser = node(strategies=("copy",), refusals={"lazy": "the kernel has no userfaultfd"})
    assert choose_strategy("lazy", session(0.01), node(), node()) == "lazy"
    assert choose_strategy(None, session(4), node(), lesser) == "copy"
    with pytest.raises(Incompatible, match="no userfaultfd"):
        choose_strategy("lazy", session(4), node(), lesser)
    with pytest.raises(Incompatible, match="runc is not installed"):
        choose_strategy(None, session(4), node(), node(strategies=(), refusals={"copy": "runc is not installed"}))


def test_what_can_not_travel_is_said_before_anything_is_frozen() -> None:
    with pytest.raises(Immovable, match="GPU"):
        choose_strategy(
            "copy", session(1, blockers=("a GPU is in use: process 7 has /dev/nvidia0 open",)), node(), node()
        )


def test_predictions_grow_with_memory() -> None:
    assert predict(session(4), "lazy") < predict(session(4), "copy")
    assert predict(session(1), "lazy") < predict(session(4), "lazy")
