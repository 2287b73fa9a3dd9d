"""Whether, how, and how fast a session can move: pure decisions on what two nodes say of themselves."""

from __future__ import annotations

from collections.abc import Iterator

from sojourn.baseline import beyond_holding, instructions, lacking
from sojourn.errors import Immovable, Incompatible
from sojourn.model import Baseline, Capabilities, Inspection, Obstacle, Strategy

_FREEZE_S = 0.095
"""Freeze, dump without pages, restore, thaw: what no session goes below."""
_PER_PROCESS_S = 0.008
_SCAN_S_PER_GB = 0.07
"""CRIU looks at every page's entry while the session stands still."""
_COPY_S_PER_GB = 0.5
_CLOSE = 1.2
"""`copy` is preferred when its pause is at most this much longer: its session is never in two places."""
_GB = 1 << 30
LET_GO = "Close it there, or end that process; then move."


def compatible(
    source: Capabilities, target: Capabilities, image: str | None = None, baseline: Baseline | None = None
) -> None:
    """Whether what was frozen at the source can run at the target. Raises Incompatible, naming the first thing that
    differs; `image` and `baseline`: as in the session's spec (None: the node's own root, the node's own CPU)."""
    for obstacle in mismatches(source, target, image, baseline):
        raise Incompatible(obstacle.message, obstacle.hint)


def mismatches(
    source: Capabilities, target: Capabilities, image: str | None = None, baseline: Baseline | None = None
) -> Iterator[Obstacle]:
    """Everything that differs, and keeps what was frozen at the source from running at the target."""
    if source.arch != target.arch:
        yield Obstacle(
            kind="arch", message=f"The target is {target.arch}, the session runs on {source.arch}.", hint=_SAME_ARCH
        )
    elif baseline:
        yield from _beside_baseline(baseline, target)
    else:
        yield from _lesser_cpu(source, target)
    if _version(source.criu)[:2] > _version(target.criu)[:2]:
        yield Obstacle(
            kind="criu",
            message=f"CRIU {target.criu or 'is missing'} at the target can't read images of CRIU {source.criu}.",
            hint="Update CRIU there; `sojourn doctor` names the command.",
        )


def _beside_baseline(baseline: Baseline, target: Capabilities) -> Iterator[Obstacle]:
    """How many registers the target saves is no matter: those that the session may use come with what is demanded."""
    if missing := lacking(baseline, target):
        yield Obstacle(
            kind="cpu",
            message=f"The target's CPU lacks {_few(missing)}, which the fleet had when the session was started.",
            hint="Choose another node, or start a new session: it is born for the fleet as it is now.",
        )
    if beyond := beyond_holding(baseline, target):
        yield Obstacle(
            kind="cpu",
            message=f"The target's CPU has {_few(beyond)}, which the session would use there and not find elsewhere.",
            hint="Choose a node without, or start the session on one that has it.",
        )


def _lesser_cpu(source: Capabilities, target: Capabilities) -> Iterator[Obstacle]:
    if missing := sorted(instructions(source.cpu_flags) - set(target.cpu_flags)):
        yield Obstacle(
            kind="cpu", message=f"The target's CPU lacks {_few(missing)}, which the session may use.", hint=_FOR_FLEET
        )
    if target.xsave_bytes < source.xsave_bytes:
        yield Obstacle(
            kind="registers",
            message=f"The target's CPU saves {target.xsave_bytes} bytes of registers, the source's "
            f"{source.xsave_bytes}: what the session holds in them might be lost.",
            hint=_FOR_FLEET,
        )
    if 0 < source.xsave_bytes < target.xsave_bytes and "xsavec" not in source.cpu_flags:
        yield Obstacle(  # glibc binds functions late with room on the stack that it measured once, with the plain xsave
            kind="registers",
            message=f"The target's CPU saves {target.xsave_bytes} bytes of registers, and the session has set aside "
            f"{source.xsave_bytes}.",
            hint=_FOR_FLEET,
        )


def _few(flags: list[str]) -> str:
    more = len(flags) - _NAMED
    return ", ".join(flags[:_NAMED]) + (f" and {more} more" if more > 0 else "")


_NAMED = 5
"""So many flags stand in a sentence: the newer ones of a CPU come in dozens."""
_SAME_ARCH = "Choose a node of the same architecture."
_FOR_FLEET = 'Choose another node, or start sessions for the whole fleet (`cpu` = "fleet").'


def wakeable(
    taken_on: Capabilities, target: Capabilities, image: str | None = None, baseline: Baseline | None = None
) -> None:
    """Whether a checkpoint can wake at the target. Raises Incompatible, naming the first thing that differs.

    `taken_on`: what the checkpoint's node said of itself when it was saved; `image` and `baseline`: as in the session's
    spec.
    """
    compatible(taken_on, target, image, baseline)
    if image is None and taken_on.root_id != target.root_id:
        raise Incompatible(
            "The checkpoint was saved on a node with another root file system, which is not kept with it.",
            "Wake it where it was saved, and move it then; or start sessions from an image.",
        )
    way = "lazy" if "lazy" in taken_on.strategies else "copy"  # without userfaultfd pages are saved as CRIU's images
    if way not in target.strategies:
        reason = target.refusals.get(way) or target.refusals.get("runc") or "it has no runc sandboxes"
        raise Incompatible(f"The checkpoint can't wake there: {reason}.", "Run `sojourn doctor` there.")


def possible(source: Capabilities, target: Capabilities) -> tuple[Strategy, ...]:
    """The strategies that both nodes can take part in. Raises Incompatible, with a node's own reason, without any."""
    both: list[Strategy] = [way for way in ("lazy", "copy") if way in source.strategies and way in target.strategies]
    if not both:
        lacking = source if "copy" not in source.strategies else target
        reason = lacking.refusals.get("copy") or lacking.refusals.get("runc") or "it has no runc sandboxes"
        raise Incompatible(f"One of the nodes can't move live sessions: {reason}.", "Run `sojourn doctor` there.")
    return tuple(both)


def predict(inspection: Inspection, strategy: Strategy) -> float:
    """The pause in seconds that a client will see."""
    gigabytes = inspection.memory_bytes / _GB
    per_gigabyte = _SCAN_S_PER_GB if strategy == "lazy" else _COPY_S_PER_GB
    return _FREEZE_S + _PER_PROCESS_S * inspection.processes + gigabytes * per_gigabyte


def choose_strategy(
    asked: Strategy | None, inspection: Inspection, source: Capabilities, target: Capabilities
) -> Strategy:
    """What was asked for, or (None: auto) what gives the shorter pause. Raises Immovable when the session holds
    something that can't travel, Incompatible when the nodes can't do what was asked."""
    if inspection.blockers:
        raise Immovable(f"The session can't be moved: {'; '.join(inspection.blockers)}.", LET_GO)
    ways = possible(source, target)
    if asked:
        if asked not in ways:
            reason = source.refusals.get(asked) or target.refusals.get(asked) or "not supported"
            raise Incompatible(f"{asked} is not possible between these nodes: {reason}.", "Move with --strategy copy.")
        return asked
    if "lazy" not in ways or inspection.forked_sharing_bytes > inspection.memory_bytes // 10:
        return "copy"
    return "copy" if predict(inspection, "copy") <= _CLOSE * predict(inspection, "lazy") else "lazy"


def _version(text: str | None) -> tuple[int, ...]:
    return tuple(int(part) for part in (text or "0").split(".") if part.isdigit())
