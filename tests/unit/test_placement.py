from __future__ import annotations

from typing import Any

import pytest

from sojourn.errors import DoesNotFit, Invalid, Unknown, Unreachable
from sojourn.model import Capabilities, Load, Needs, NodeStatus, NodeView, Resources
from sojourn.placement import choose, needs_of, offers, why_not

GB = 2**30
CAPABILITIES = Capabilities(
    os="linux", arch="x86_64", kernel="6.1", python="3.11", sojourn="0.1", machine_id="m", root_id="r"
)


def node(name: str, *, free: float = 8, cores: float = 4, gpus: int = 0, sessions: int = 0, **changes: Any) -> NodeView:
    known: dict[str, Any] = {
        "id": name,
        "name": name,
        "status": NodeStatus.ONLINE,
        "capacity": Resources(cores=cores, memory_bytes=16 * GB, gpus=gpus),
        "capabilities": CAPABILITIES,
        "load": Load(memory_free_bytes=int(free * GB), sessions=sessions),
        "address": "127.0.0.1:1",
        "seen_at": 0.0,
    }
    return NodeView(**{**known, **changes})


HERE = node("here")
THERE = node("there", labels=("gpu", "big"), gpus=1, free=12)
GPU = node("gpu", cores=64)
NODES = [HERE, THERE]


def test_a_bare_word_is_a_node_first_and_else_a_label() -> None:
    assert needs_of("there", NODES) == Needs(node="there")
    assert needs_of("gpu", NODES) == Needs(labels=("gpu",))
    assert needs_of("gpu", [*NODES, GPU]) == Needs(node="gpu")


def test_terms_come_together() -> None:
    wanted = Needs(node="there", labels=("big",), memory_bytes=2 * GB, cores=2)
    assert needs_of("there big mem>=2G cores>=2", NODES) == wanted


def test_an_unknown_word_names_the_known_ones() -> None:
    with pytest.raises(Unknown) as unknown:
        needs_of("nowhere", NODES)
    assert unknown.value.hint == "Nodes: here, there. Labels: big, gpu."
    with pytest.raises(Unknown):
        needs_of(Needs(node="gpu"), NODES)


def test_two_nodes_at_once_mean_nothing() -> None:
    with pytest.raises(Invalid, match="2 nodes"):
        needs_of("here there", NODES)


def test_a_session_that_is_there_already_counts_its_own_memory() -> None:
    needs = Needs(memory_bytes=10 * GB)
    assert not offers(HERE, needs)
    assert offers(HERE, needs, own_memory_bytes=2 * GB)


@pytest.mark.parametrize(
    ("needs", "reason"),
    [
        (Needs(node="there"), "another node"),
        (Needs(labels=("gpu", "fast")), "gpu fast"),
        (Needs(cores=8), "4 cores, not 8"),
        (Needs(gpus=1), "0 GPUs, not 1"),
        (Needs(memory_bytes=9 * GB), "8.0 GB of memory free, not 9.0 GB"),
        (Needs(), ""),
    ],
)
def test_a_node_says_why_not(needs: Needs, reason: str) -> None:
    found = why_not(HERE, needs)
    assert reason in found
    assert bool(found) == bool(reason)


def test_the_most_free_memory_wins_and_among_equals_the_fewest_sessions() -> None:
    assert choose(Needs(), NODES).name == "there"
    assert choose(Needs(), [node("a", sessions=2), node("b", sessions=1)]).name == "b"


def test_a_node_not_heard_of_yet_counts_as_free() -> None:
    assert choose(Needs(memory_bytes=15 * GB), [HERE, node("new", load=Load())]).name == "new"


def test_nothing_fits_and_each_node_says_why() -> None:
    with pytest.raises(DoesNotFit) as nowhere:
        choose(Needs(cores=32), NODES, unfit=lambda _: "never asked")
    assert nowhere.value.message.count("it has 4 cores, not 32") == 2
    with pytest.raises(DoesNotFit, match="here: too old; there: too old"):
        choose(Needs(), NODES, unfit=lambda _: "too old")
    with pytest.raises(DoesNotFit, match="no nodes"):
        choose(Needs(), [])


def test_the_node_that_was_named() -> None:
    with pytest.raises(DoesNotFit, match=r"here won't do: .*memory"):
        choose(Needs(node="here"), NODES, memory_bytes=9 * GB)
    gone = node("gone", status=NodeStatus.OFFLINE)
    with pytest.raises(Unreachable, match="gone is offline"):
        choose(Needs(node="gone"), [*NODES, gone])
    assert choose(Needs(), [HERE, gone]).name == "here"
