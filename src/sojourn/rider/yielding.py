"""Whether clients have yielded: they ask nothing of the program, and all that it has said is with them (contracts, "A
move by objects")."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sojourn.errors import Busy, Invalid, TunnelFailed
from sojourn.rider.reach import Reach

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from sojourn.transport.lines import LinePipe
    from sojourn.transport.pump import Pump

_YIELDED = {"event": "yielded"}


class Yielding:
    """From `begin` until `end`; `fronts` are the control streams of all anchors, as the rider keeps them. Who asked for
    it waits no longer than it likes to: `end` may come at any time.

    An agent that loses its line ends nothing: it may be back, and is told again what it asked for.
    """

    def __init__(self, fronts: list[LinePipe], tell_agents: Callable[[dict[str, Any]], None]) -> None:
        self._fronts, self._tell_agents = fronts, tell_agents
        self._asked: set[LinePipe] = set()
        self._answered: set[LinePipe] = set()
        self._under_way = False
        self.complete = False

    def begin(self, pumps: Iterable[Pump]) -> None:
        """Ask all who are there, and say "yielded" when they have; said again where that is so. Raises Busy, with
        nothing changed, when there is output for an anchor that is away: no other kernel could tell it."""
        if self.complete:
            self._tell_agents(_YIELDED)
        elif not self._under_way:
            if any(_unheard(pump) for pump in pumps):
                raise Busy(
                    "Output of this session has not been heard yet: a client of it is away.", "Move when it is back."
                )
            self._under_way = True
            for front in self._fronts:
                self.came(front)
            self._look()

    def end(self) -> None:
        """Clients go on: this very program is theirs again."""
        asked, self._asked = self._asked, set()
        self._forget()
        for front in asked:
            front.say({"event": "go_on"})

    def cease(self) -> None:
        """A new epoch: the streams are reset, which tells everybody."""
        self._asked.clear()
        self._forget()

    def may_attach(self, known: Pump | None) -> None:
        """Raises TunnelFailed for an anchor that has not yielded when all others have: what it brings would go to a
        program that is about to be left."""
        if self.complete and not any(front.pump is known for front in self._answered):
            raise TunnelFailed("The session is about to have another program; until then nobody else is let in.")

    def came(self, front: LinePipe) -> None:
        """It has opened its control stream, or is connected again. One that is away has nothing to say meanwhile."""
        if self._under_way and front not in self._asked and front.pump.connected:
            self._asked.add(front)
            front.say({"event": "yield"})

    def connected(self, pump: Pump) -> None:
        for front in self._fronts:
            if front.pump is pump:
                self.came(front)

    def answered(self, front: object) -> None:
        """Raises Invalid where that was not asked."""
        known = next((asked for asked in self._asked if asked is front), None)
        if known is None:
            raise Invalid("Nobody was asked to yield there.", "See the contracts, A move by objects.")
        self._answered.add(known)
        self._look()

    def left(self, front: LinePipe) -> None:
        """Its stream is gone, for good."""
        self._asked.discard(front)
        self._answered.discard(front)
        self._look()

    def _look(self) -> None:
        if self._under_way and not self.complete and self._asked == self._answered:
            self.complete = True
            self._tell_agents(_YIELDED)

    def tell(self, agent: Callable[[dict[str, Any]], None]) -> None:
        """Who has just attached may have asked for it over an earlier line."""
        if self.complete:
            agent(_YIELDED)

    def _forget(self) -> None:
        self._answered.clear()
        self._under_way = self.complete = False


def _unheard(pump: Pump) -> bool:
    """Whether an anchor without a connection has streams of the program, and not all that these brought."""
    streams = [pipe for pipe in pump.pipes.values() if isinstance(pipe, Reach)]
    waits = pump.end.outbox.kept_bytes > 0 or any(len(stream.backlog) for stream in streams)
    return bool(streams) and not pump.connected and waits
