"""The law of places: which node offers what a session or a cell asks for, and for each of the others why not.

What is there already stays. Else the node with the most free memory is taken, so that equals fill up evenly.
A bare word in the expression of a place is a node if there is one of that name, else a label.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sojourn.directive import parse_place
from sojourn.errors import DoesNotFit, Invalid, Unknown, Unreachable
from sojourn.model import Needs, NodeStatus, NodeView

Unfit = Callable[[NodeView], str]
"""Why a node won't do for a reason the law of places does not know; empty if it will."""


def needs_of(place: str | Needs, nodes: Sequence[NodeView]) -> Needs:
    """What a place must offer; bare words are looked up among the nodes.

    Raises Invalid (not an expression, two nodes at once) and Unknown (a word that is neither node nor label).
    """
    if isinstance(place, Needs):
        if place.node is not None:
            _require_known(place.node, nodes, labels_too=False)
        return place
    expression = parse_place(place)
    names = {node.name for node in nodes}
    wanted = [word for word in expression.words if word in names]
    labels = tuple(word for word in expression.words if word not in names)
    for label in labels:
        _require_known(label, nodes)
    if len(set(wanted)) > 1:
        raise Invalid(f"{place!r} names {len(wanted)} nodes.", "A session is at one place: name one of them.")
    return expression.needs.model_copy(update={"node": wanted[0] if wanted else None, "labels": labels})


def offers(node: NodeView, needs: Needs, *, own_memory_bytes: int = 0) -> bool:
    """Whether a session on this node, which takes `own_memory_bytes` there already, has what it needs."""
    return not why_not(node, needs, own_memory_bytes=own_memory_bytes)


def choose(needs: Needs, nodes: Sequence[NodeView], *, memory_bytes: int = 0, unfit: Unfit = lambda _: "") -> NodeView:
    """The best of the nodes for something new that takes `memory_bytes`.

    Raises Unreachable when the one node asked for is offline, DoesNotFit with the reason of each node otherwise.
    """
    if memory_bytes > needs.memory_bytes:
        needs = needs.model_copy(update={"memory_bytes": memory_bytes})
    reasons = {node.name: why_not(node, needs) or _closed(node) or unfit(node) for node in nodes}
    fitting = [node for node in nodes if not reasons[node.name]]
    if fitting:
        return max(fitting, key=lambda node: (free_memory(node), -node.load.sessions, node.name))
    raise _refusal(needs, nodes, reasons)


def why_not(node: NodeView, needs: Needs, *, own_memory_bytes: int = 0) -> str:
    """Why a node does not offer that, in a few words; empty if it does."""
    if needs.node is not None and needs.node != node.name:
        return "another node was asked for"
    if node.status is not NodeStatus.ONLINE:
        return "it is offline"
    missing = [label for label in needs.labels if label not in node.labels]
    if missing:
        return f"it is not labelled {' '.join(missing)}"
    if needs.cores > node.capacity.cores:
        return f"it has {node.capacity.cores:g} cores, not {needs.cores:g}"
    if needs.gpus > node.capacity.gpus:
        return f"it has {node.capacity.gpus} GPUs, not {needs.gpus}"
    free = free_memory(node) + own_memory_bytes
    if needs.memory_bytes > free:
        return f"it has {_gigabytes(free)} of memory free, not {_gigabytes(needs.memory_bytes)}"
    return ""


def _closed(node: NodeView) -> str:
    """What is there already may stay, as far as this law goes; nothing is brought there."""
    return f"it is being drained ({node.draining})" if node.draining else ""


def free_memory(node: NodeView) -> int:
    """Bytes; until the first heartbeat all of it."""
    return node.load.memory_free_bytes or node.capacity.memory_bytes


def _require_known(word: str, nodes: Sequence[NodeView], labels_too: bool = True) -> None:
    names = sorted(node.name for node in nodes)
    labels = sorted({label for node in nodes for label in node.labels}) if labels_too else []
    if word in names or word in labels:
        return
    known = f"Nodes: {', '.join(names) or 'none'}."
    if labels:
        known += f" Labels: {', '.join(labels)}."
    raise Unknown(f"There is no node{' or label' if labels_too else ''} {word!r}.", known)


def _refusal(needs: Needs, nodes: Sequence[NodeView], reasons: dict[str, str]) -> DoesNotFit | Unreachable:
    if not nodes:
        return DoesNotFit("There are no nodes.", "`sojourn agent --controller URL --token T` adds one.")
    if needs.node is not None:
        reason = reasons.get(needs.node, "there is no such node")
        if any(node.name == needs.node and node.status is not NodeStatus.ONLINE for node in nodes):
            return Unreachable(f"Node {needs.node} is offline.", "Start its agent, or choose another node.")
        return DoesNotFit(f"Node {needs.node} won't do: {reason}.", "Choose another node, or ask for less.")
    each = "; ".join(f"{name}: {reason}" for name, reason in sorted(reasons.items()))
    return DoesNotFit(f"No node offers that. {each}.", "Ask for less, or add a node that has it.")


def _gigabytes(count: int) -> str:
    return f"{count / 2**30:.1f} GB"
