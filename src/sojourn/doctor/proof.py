"""The proof: a tiny session is moved for real, between two sandboxes of this machine, by the movers themselves."""

from __future__ import annotations

import queue
import secrets
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sojourn.doctor.findings import Finding, degraded, missing, ok
from sojourn.doctor.machine import Machine
from sojourn.errors import SandboxFailed, SojournError

if TYPE_CHECKING:
    from sojourn.model import Strategy
    from sojourn.sandbox.base import Sandbox

COUNTER = 'i=0; while :; do echo "$i"; i=$((i+1)); sleep 0.01; done'
"""Its state is a shell's variable; a number that is missing or comes twice would show in what it writes."""
PATIENCE_SECONDS = 20.0
NAME = "lazy move"


def check_proof(machine: Machine, lacking: Sequence[str]) -> Finding:
    """Move a counter lazily; where that fails, by copy, which is slower but moves all the same."""
    if lacking:
        return missing(NAME, f"not tried; first: {', '.join(lacking)}")
    if not machine.is_root:
        return degraded(NAME, "not tried: only root can")
    failures: dict[str, str] = {}
    both: tuple[Strategy, ...] = ("lazy", "copy")
    for strategy in both:
        try:
            frozen_s = move_a_counter(strategy)
        except (SojournError, OSError) as failure:
            failures[strategy] = str(failure).splitlines()[0]
            continue
        if failures:
            return degraded(NAME, f"lazy failed, whole copies work ({failures['lazy']})")
        return ok(NAME, f"a tiny session moved, frozen for {frozen_s:.2f} s, and counted on")
    return missing(NAME, f"a tiny session could not move ({failures['lazy']}; copy: {failures['copy']})")


def move_a_counter(strategy: Strategy) -> float:
    """Move a session that counts; the seconds it stood still. Raises SojournError when it did not count on rightly."""
    from sojourn import movers
    from sojourn.wire import SessionFilled

    told: list[Any] = []
    half = {"tell": told.append, "note": lambda facts: None}
    with _two_sandboxes() as (source, target), _link() as (near, far), ExitStack() as ends:
        source.create()
        source.start()
        _until(lambda: len(_numbers(source)) > 3, "it did not start to count")
        name = f"doctor-{secrets.token_hex(4)}"
        # Nothing is attached to its rider, so there is nothing to hang up.
        departure = movers.departure(source, name, strategy, **half, hang_up=lambda: None)
        arrival = movers.arrival(target, name, strategy, **half)
        ends.callback(departure.commit)
        ends.callback(arrival.abandon)
        arrival.prepare()
        _both(lambda: departure.run(near), lambda: arrival.receive(far))
        departure.commit()
        before = len(_numbers(target))
        _until(lambda: len(_numbers(target)) > before + 3, "it did not count on after the move")
        if (numbers := _numbers(target)) != list(range(len(numbers))):
            raise SandboxFailed("The session that was moved lost count.")
    filled = next(event for event in told if isinstance(event, SessionFilled))
    return filled.report.frozen_s


@contextmanager
def _two_sandboxes() -> Iterator[tuple[Sandbox, Sandbox]]:
    """Two sandboxes for one counter, before `create`; removed with all they made."""
    from sojourn.sandbox.mounts import remove_tree
    from sojourn.settings import nodes_folder

    nodes_folder().mkdir(parents=True, exist_ok=True, mode=0o700)
    folder = Path(tempfile.mkdtemp(prefix=".doctor-", dir=nodes_folder()))
    sandboxes = [_sandbox(folder, incarnation) for incarnation in (1, 2)]
    try:
        yield sandboxes[0], sandboxes[1]
    finally:
        for sandbox in sandboxes:
            sandbox.remove()
        remove_tree(folder)


def _sandbox(folder: Path, incarnation: int) -> Sandbox:
    from sojourn.model import Program, SessionSpec
    from sojourn.rider.build import build_rider
    from sojourn.sandbox.base import SandboxPlan, make_sandbox

    program = Program(argv=("/bin/sh", "-c", COUNTER), env={"PATH": "/usr/bin:/bin"})
    plan = SandboxPlan(
        kind="runc",
        node=folder.name.lstrip("."),
        session="counter",
        incarnation=incarnation,
        spec=SessionSpec(name="counter", program=program),
        rider=str(build_rider(folder)),
        hidden=(str(folder),),
        depot=str(folder / "environments"),
    )
    return make_sandbox(folder / f"counter.{incarnation}", plan)


class _End:
    """One end of a link between the two halves of a move, in one process."""

    def __init__(self, own: socket.socket, waiting: queue.Queue[socket.socket], dials: bool) -> None:
        self.socket, self._waiting, self._dials = own, waiting, dials

    def open(self) -> socket.socket:
        if not self._dials:
            return self._waiting.get(timeout=PATIENCE_SECONDS)
        ours, theirs = socket.socketpair()
        self._waiting.put(theirs)
        return ours

    def close(self) -> None:
        self.socket.close()


@contextmanager
def _link() -> Iterator[tuple[_End, _End]]:
    waiting: queue.Queue[socket.socket] = queue.Queue()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield _End(ours, waiting, dials=True), _End(theirs, waiting, dials=False)


def _both(*halves: Callable[[], None]) -> None:
    """Run both halves of the move at once; raises what one of them raised."""
    failed: list[BaseException] = []

    def run(half: Callable[[], None]) -> None:
        try:
            half()
        except BaseException as failure:
            failed.append(failure)

    threads = [threading.Thread(target=run, args=(half,), daemon=True) for half in halves]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while any(thread.is_alive() for thread in threads) and not failed:
        if time.monotonic() > deadline:
            raise SandboxFailed(f"The move was not over after {PATIENCE_SECONDS:.0f} s.")
        time.sleep(0.01)
    if failed:
        raise failed[0]


def _numbers(sandbox: Sandbox) -> list[int]:
    """What the counter has written."""
    with suppress(OSError):
        return [int(line) for line in sandbox.log(1 << 16).splitlines() if line.isdigit()]
    return []


def _until(holds: Callable[[], bool], failure: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            raise SandboxFailed(f"The session is of no use: {failure}.")
        time.sleep(0.01)
