"""What the next cell is told, on stderr, of what became of its session since the one before."""

from __future__ import annotations

import time

from sojourn.model import MovePhase, MoveView

_REWOUND = "[this session goes on from {moment}: what it did after that is undone, but for files it shares. {reason}"
_LEFT = "[this session is on {node} now, and left behind: {folders}. What it sees there is that node's own]\n"
_ARRIVED = frozenset({MovePhase.FILLING, MovePhase.COMMITTING, MovePhase.DONE})


def rewound(saved_at: float | None, reason: str) -> str:
    """It goes on from an older state. `saved_at`: of when, in seconds since 1970, where that is known."""
    moment = "an earlier state"
    if saved_at is not None:
        moment = time.strftime("its state of %Y-%m-%d %H:%M:%S", time.localtime(saved_at))
    return _REWOUND.format(moment=moment, reason=reason).rstrip() + "]\n"


class LeftBehind:
    """Tells of each move once what stayed where it was, and what arrived otherwise than it had been."""

    def __init__(self) -> None:
        self._told: str | None = None
        self._looks_on = False

    def tell(self, move: MoveView | None) -> str:
        """Of the session's last move, whenever there is news. One that was over when the first news came was told of by
        whoever looked on before."""
        arrived = move if move and move.phase in _ARRIVED else None
        looked_on, self._looks_on = self._looks_on, True
        if arrived is None or arrived.id == self._told:
            return ""
        self._told = arrived.id
        return tidings(arrived) if looked_on else ""


def tidings(move: MoveView) -> str:
    """A line for each matter; "" where all came along."""
    report, lines = move.report, []
    if report.left:
        lines.append(_LEFT.format(node=move.target, folders=", ".join(report.left)))
    for lost in report.lost:
        part = "" if lost.path == lost.name else f"{lost.path}: "
        lines.append(f"Left behind on {move.source}: {lost.name} ({part}{lost.why}).\n")
    lines += [f"{note[:1].upper()}{note[1:].rstrip('.')}.\n" for note in report.notes]
    return "".join(lines)
