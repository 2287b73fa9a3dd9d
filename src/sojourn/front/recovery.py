"""After a crash of the front: seeing to what the last one owed."""

from __future__ import annotations

from collections.abc import Callable

from sojourn import switchboard_law as law
from sojourn.errors import Unreachable
from sojourn.front.ledger import Debt
from sojourn.front.messages import Message


class Recovery:
    """After an earlier front, and of what it owed. The kernel is not heard until the clients are back, for a ROUTER
    drops what it can't deliver, and so does a publisher; then the kernel is asked something on each subshell where
    answers were owed: once it answers that, it answers nothing from before.

    `read(message)` is the request; `handle(event)` the law; `ask(subshell)` asks, and gives the question's id;
    `fail(order)` answers a request that never went out.
    """

    def __init__(
        self,
        debts: list[Debt],
        awaits_clients: bool,
        read: Callable[[Message], law.Request],
        handle: Callable[[law.Event], None],
        ask: Callable[[str | None], str],
        fail: Callable[[law.Fail], None],
    ) -> None:
        self.awaits_clients = awaits_clients
        self._debts, self._read, self._handle, self._ask, self._fail = debts, read, handle, ask, fail
        self._probes: dict[str, tuple[law.Request, ...]] = {}
        self._deaf = awaits_clients
        """The kernel's publisher, which drops what it says to nobody, does not know yet that we listen."""
        self._held: list[law.Forward] = []

    def begin(self, hear: Callable[[], None]) -> None:
        """The clients are back; `hear()` lets the kernel be heard again."""
        self.awaits_clients = False
        debts, self._debts = self._debts, []
        hear()
        owed = [self._read(debt.message) for debt in debts if debt.forwarded]
        self._handle(law.DebtsFound(tuple(owed)))
        for subshell in {request.subshell for request in owed}:
            self._probes[self._ask(subshell)] = tuple(one for one in owed if one.subshell == subshell)
        for debt in debts:
            if not debt.forwarded:
                request = self._read(debt.message)
                self._fail(law.Fail(request, "Unreachable", "Sojourn's front was restarted.", "The cell did not run."))

    def hold(self, order: law.Forward) -> bool:
        """Whether what goes to the kernel is kept, until it is heard."""
        if self._deaf:
            self._held.append(order)
        return self._deaf

    def heard(self) -> list[law.Forward]:
        """The kernel was, or won't be: what may go to it now."""
        self._deaf, held, self._held = False, self._held, []
        return held

    def replied(self, asked: str) -> bool:
        """Whether this reply on shell is for us."""
        if asked not in self._probes:
            return False
        self._handle(law.AnswersLost(_NO_REPLY, self._probes.pop(asked)))
        return True

    def forget(self) -> None:
        """The program has ended, or its streams: what was kept has been answered."""
        self._probes.clear()
        self._held.clear()


_NO_REPLY = Unreachable(
    "Sojourn's front was restarted while the cell ran; its reply, and output of that time, are lost.",
    "The kernel has run the cell and goes on: look at its state before you run the cell again.",
)
