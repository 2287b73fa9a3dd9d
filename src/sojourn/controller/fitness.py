"""Whether a session can be started on a node, travel there, or wake there, and how. What movers demand is in
`movers/fits.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from sojourn.baseline import of_fleet
from sojourn.database import Checkpoint
from sojourn.errors import Immovable, Incompatible, Refused, Unreachable
from sojourn.lifecycle import Session
from sojourn.model import Inspection, NodeStatus, NodeView, Obstacle, SessionSpec, Strategy, Way
from sojourn.movers.fits import LET_GO, choose_strategy, compatible, mismatches, possible, predict, wakeable

_FILL_S_PER_BYTE = 0.6 / 2**30
"""As measured between two nodes of one machine; a network between them takes its own time."""


Require = Callable[[Session, NodeView, NodeView], None]
"""Whether a session can go from its home to a node, by some way; raises why not."""


@dataclass(frozen=True)
class Outlook:
    """How a session would travel, or why it can't."""

    strategy: Strategy | None = None
    why: str = ""
    frozen_s: float | None = None
    filled_s: float | None = None
    refusal: Refused | None = None


def unstartable(spec: SessionSpec, node: NodeView, home: NodeView | None = None) -> str:
    """Why a session can't be started there; empty if it can. `home`: the node whose root it is to start on."""
    kinds = node.capabilities.sandboxes
    if home and home.capabilities.arch != node.capabilities.arch:
        return f"it is {node.capabilities.arch}, and the environment of {home.name} is {home.capabilities.arch}"
    if home and is_estranged(home, node) and "runc" not in kinds:
        return "it has no runc sandboxes, and the environment of another node needs one"
    if spec.sandbox and spec.sandbox not in kinds:
        return node.capabilities.refusals.get(spec.sandbox, f"it has no {spec.sandbox} sandboxes")
    if spec.image and "runc" not in kinds:
        return "it has no runc sandboxes, and an image needs one"
    return "" if kinds else "it can hold no sessions"


def is_estranged(home: NodeView, node: NodeView) -> bool:
    """Whether a node has another root than a session's home."""
    return home.capabilities.root_id != node.capabilities.root_id


def born(spec: SessionSpec, node: NodeView, nodes: Sequence[NodeView]) -> SessionSpec:
    """The spec of a session that starts on `node`, with the CPU it is started for."""
    known = [other.capabilities for other in nodes]
    baseline = of_fleet(node.capabilities, known, spec.program.env) if spec.cpu == "fleet" else None
    return spec.model_copy(update={"baseline": baseline})


def way(source: NodeView, target: NodeView) -> Way:
    """Whether sessions can go from one node to the other now; if not, everything that keeps them from it."""
    still = [obstacle for node in (source, target) for obstacle in _standing_still(node)]
    if target.draining:
        still.append(Obstacle(kind="draining", message=f"{target.name} is being drained ({target.draining})."))
    apart = mismatches(source.capabilities, target.capabilities)
    if any(obstacle.kind == "live" for obstacle in still):
        apart = (obstacle for obstacle in apart if obstacle.kind != "criu")  # said already, with the reason
    return Way(source=source.name, target=target.name, obstacles=(*still, *apart), objects=_objects_go(source, target))


def _objects_go(source: NodeView, target: NodeView) -> bool:
    online = all(node.status is NodeStatus.ONLINE and node.capabilities.sandboxes for node in (source, target))
    return online and not target.draining


def _standing_still(node: NodeView) -> Iterator[Obstacle]:
    """Why nothing comes or goes live at a node, wherever from or to."""
    if node.status is not NodeStatus.ONLINE:
        yield Obstacle(kind="offline", message=f"{node.name} is offline.", hint="Start its agent.")
    if "copy" not in node.capabilities.strategies or "runc" not in node.capabilities.sandboxes:
        refusals = node.capabilities.refusals
        reason = refusals.get("runc") or refusals.get("copy") or "it has no runc sandboxes"
        message = f"{node.name} can't take live moves: {reason.removesuffix('.')}."
        yield Obstacle(kind="live", message=message, hint="`sojourn doctor` there says what it lacks.")


def require_sandboxed(session: Session, home: NodeView) -> None:
    """Raises Immovable where CRIU has nothing to carry."""
    if session.sandbox == "process":
        raise Immovable(
            f"Session {session.name or session.id} is a plain process on {home.name}, and CRIU can't move those.",
            "It carries sessions in runc sandboxes; `sojourn doctor` says what that node lacks for them.",
        )


def require_fit(session: Session, home: NodeView, node: NodeView) -> None:
    """Whether CRIU can carry the session to that node. Raises Immovable, Unreachable or Incompatible."""
    require_sandboxed(session, home)
    _require_harbour(node)
    compatible(home.capabilities, node.capabilities, session.spec.image, session.spec.baseline)
    possible(home.capabilities, node.capabilities)


def unfit(session: Session, home: NodeView, node: NodeView, require: Require = require_fit) -> str:
    """Why the session can't travel to that node; empty if it can."""
    return _why_not(lambda: require(session, home, node))


def require_room_for_objects(session: Session, home: NodeView, node: NodeView) -> None:
    """Whether the session's program can be started anew on that node, to be given its objects. Raises Incompatible."""
    if reason := _homeless(session, home, node):
        name = session.name or session.id
        raise Incompatible(f"Node {node.name} can't hold session {name}: {reason}.", "Choose another node.")


def _homeless(session: Session, home: NodeView, node: NodeView) -> str:
    """The architecture matters only to what the session was born with: an image, or the root of another node."""
    spec, can = session.spec, node.capabilities
    if (spec.image or spec.ground) and home.capabilities.arch != can.arch:
        return f"it is {can.arch}, and what the session runs from is {home.capabilities.arch}"
    if spec.ground and spec.ground.root != can.root_id and "runc" not in can.sandboxes:
        return "it has no runc sandboxes, and the environment of another node needs one"
    return unstartable(spec, node)


def require_savable(session: Session, home: NodeView, inspection: Inspection) -> None:
    """Whether the session can be frozen and written into the store. Raises Immovable or Incompatible."""
    name = session.name or session.id
    if inspection.blockers:
        raise Immovable(f"Session {name} can't be saved: {'; '.join(inspection.blockers)}.", LET_GO)
    possible(home.capabilities, home.capabilities)


def require_wakeable(checkpoint: Checkpoint, node: NodeView) -> None:
    """Whether what was saved can wake on that node. Raises Unreachable or Incompatible."""
    _require_harbour(node)
    wakeable(checkpoint.facts, node.capabilities, checkpoint.spec.image, checkpoint.spec.baseline)


def unwakeable(checkpoint: Checkpoint, node: NodeView) -> str:
    """Why it can't wake there; empty if it can."""
    return _why_not(lambda: require_wakeable(checkpoint, node))


def _require_harbour(node: NodeView) -> None:
    if "runc" not in node.capabilities.sandboxes:
        reason = node.capabilities.refusals.get("runc", "runc is missing")
        raise Incompatible(f"Node {node.name} has no runc sandboxes: {reason}.", "Run `sojourn doctor` there.")


def _why_not(require: Callable[[], None]) -> str:
    try:
        require()
    except (Refused, Unreachable) as reason:
        return reason.message
    return ""


def outlook(home: NodeView, target: NodeView, inspection: Inspection, asked: Strategy | None) -> Outlook:
    """`asked` None: whatever gives the shorter pause."""
    try:
        strategy = choose_strategy(asked, inspection, home.capabilities, target.capabilities)
    except Refused as refusal:
        return Outlook(refusal=refusal)
    why = (
        "as asked" if asked else "shared memory of forks would multiply" if _forked(inspection) else "the shorter pause"
    )
    filled_s = 0.0 if strategy == "copy" else inspection.private_dirty_bytes * _FILL_S_PER_BYTE
    return Outlook(strategy, why, predict(inspection, strategy), filled_s)


def _forked(inspection: Inspection) -> bool:
    return inspection.forked_sharing_bytes > inspection.memory_bytes // 10
