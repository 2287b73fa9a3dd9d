"""What fronts know of kernels, kept in memory only: who was away for a while hears it again soon enough."""

from __future__ import annotations

from sojourn.client.words import Activity
from sojourn.errors import Busy
from sojourn.lifecycle import Session


class Activities:
    def __init__(self) -> None:
        self._of: dict[str, Activity] = {}

    def heard(self, session: str, activity: Activity) -> None:
        """A person's doings only get younger, however many fronts tell of them."""
        before = self._of.get(session)
        at = max(activity.at, before.at) if before else activity.at
        self._of[session] = activity.model_copy(update={"at": at})

    def of(self, session: str) -> Activity | None:
        """None while no front has said anything."""
        return self._of.get(session)

    def forget_all_but(self, sessions: set[str]) -> None:
        self._of = {session: activity for session, activity in self._of.items() if session in sessions}

    def require_idle(self, session: Session) -> None:
        """Raises Busy in the middle of a cell."""
        activity = self._of.get(session.id)
        if activity and activity.executing:
            raise Busy(
                f"Session {session.name or session.id} is in the middle of a cell.",
                "Wait for its end, or `sojourn suspend --force`: the cell then goes on when the session wakes.",
            )
