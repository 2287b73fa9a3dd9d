"""How soon a session sleeps, how soon a cell of a sleeping one answers, and what its checkpoints weigh."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from typing import Any

from jupyter_client.manager import KernelManager

import sojourn
from bench.heap import prepare
from bench.listener import Listener
from bench.peers import PEERS
from sojourn.model import CheckpointView
from sojourn.testing import OURS, end_kernel, execute, session_of, stack, start_kernel

NODES = ("here", "there")
SETTLE_SECONDS = 0.5
ASLEEP_SECONDS = 2.0
"""A suspend answers when the state is safe; the node then gives the memory back, 0.1 s for each GiB, and a wake there
waits for that. Who sleeps at all sleeps longer, so it is measured by itself."""
REPLY_SECONDS = 120
STIR = """
_chance = np.random.default_rng()
def stir(pages):
    "Numbers that no store has seen yet, in half of each of these pages; what verify() looks at stays."
    chosen = np.arange(len(_words))[pages]
    for start in range(0, len(chosen), 16384):
        rows = chosen[start : start + 16384]
        _words[rows, 18:274] = _chance.integers(2**63, size=(len(rows), 256), dtype=np.uint64)

stir(slice(None))
"""
RUN_OF_PAGES = "stir(slice(0, max(1, len(_words) // 100)))"
SCATTERED_PAGES = "stir(_chance.choice(len(_words), max(1, len(_words) // 100), replace=False))"


class Sleeper:
    """A kernel with a heap, which is put to sleep and woken again and again; what that took, in seconds."""

    def __init__(self, sojourner: sojourn.Client, heap_gb: float) -> None:
        self.heap_gb, self.sojourner = heap_gb, sojourner
        self.manager: KernelManager
        self.manager, self.client = start_kernel(OURS)
        self.session = session_of(self.manager)
        execute(self.client, prepare(heap_gb) + STIR, timeout=600)
        self.suspend_s: list[float] = []
        self.wake_s: list[float] = []
        self.at_once_s: list[float] = []
        self.elsewhere_s: list[float] = []
        self.wrong_pages = 0

    def sleep_and_wake(self) -> None:
        """On the node where it is, at once and after a while, and from there on the other one."""
        for asleep_s, answers_s in ((0.0, self.at_once_s), (ASLEEP_SECONDS, self.wake_s)):
            self._sleep()
            time.sleep(asleep_s)
            answers_s.append(self._answer_s(to=None))
            self._settle()
        self.wake_elsewhere()

    def wake_elsewhere(self) -> None:
        """On another node than the one where it falls asleep."""
        here = self._sleep()
        there = next(node for node in NODES if node != here)
        time.sleep(ASLEEP_SECONDS)
        self.elsewhere_s.append(self._answer_s(to=there))
        self._settle()

    def checkpoint(self, code: str = "") -> CheckpointView:
        """Run the code, then save the session, which goes on."""
        execute(self.client, code, timeout=600)
        view = self.sojourner.checkpoint(self.session, wait="done")
        assert isinstance(view, CheckpointView)
        return view

    def checkpoint_while_counting(self) -> tuple[float, float]:
        """For how long a checkpoint froze a kernel that counts aloud, and the longest silence that its client heard."""
        execute(self.client, "stir(slice(None))", timeout=600)
        listener = Listener(self.client, self.client.execute("count_aloud()"))
        time.sleep(2 * SETTLE_SECONDS)
        since = time.monotonic()
        view = self.sojourner.checkpoint(self.session, wait="done")
        assert isinstance(view, CheckpointView)
        time.sleep(SETTLE_SECONDS)
        gap_s = listener.longest_silence(since, time.monotonic() - SETTLE_SECONDS / 2)
        self.manager.interrupt_kernel()
        listener.ended.wait(10)
        return view.report.frozen_s, gap_s

    def end(self) -> None:
        end_kernel(self.manager, self.client)

    def _sleep(self) -> str:
        """Its node. Everything has to be written: nothing of the heap is as any checkpoint has it."""
        execute(self.client, "stir(slice(None))", timeout=600)
        since = time.monotonic()
        view = self.sojourner.suspend(
            self.session, force=True
        )  # the front may not have told yet that the cell has ended
        self.suspend_s.append(time.monotonic() - since)
        assert view.status == "suspended"
        assert view.node
        return view.node

    def _answer_s(self, to: str | None) -> float:
        """As a user sees it: from sending a cell to the sleeping kernel until its reply."""
        since = time.monotonic()
        if to:
            self.sojourner.resume(self.session, to, wait="accepted")
        request = self.client.execute("len(_words)")
        while self.client.get_shell_msg(timeout=REPLY_SECONDS)["parent_header"].get("msg_id") != request:
            pass
        return time.monotonic() - since

    def _settle(self) -> None:
        """Until every page is in and right."""
        while self.sojourner.session(self.session).status != "running":
            time.sleep(0.05)
        self.wrong_pages += int(execute(self.client, "print(verify())", timeout=600))


def measure(heaps_gb: list[float], times: int, peers: bool) -> dict[str, Any]:
    """One JSON-ready object; docs/measuring.md says what each figure means. Sizes, and peers, take turns."""
    peer_s: dict[str, list[float]] = {name: [] for name in (PEERS if peers else ())}
    with stack(NODES) as sojourner:
        sleepers: list[Sleeper] = []
        try:
            for heap_gb in heaps_gb:
                sleepers.append(Sleeper(sojourner, heap_gb))
            for _ in range(times):
                for sleeper in sleepers:
                    sleeper.sleep_and_wake()
                for name, gaps in peer_s.items():
                    gaps.append(_peer_s(name, 1.0))
            middle = min(sleepers, key=lambda sleeper: abs(sleeper.heap_gb - 1.0))
            pauses = [middle.checkpoint_while_counting() for _ in range(times)]
            shares = _second_bytes(middle)
        finally:
            for sleeper in sleepers:
                sleeper.end()
    return {
        "bench": "suspend",
        "times": times,
        "suspend_s_per_gb": round(statistics.median(_median(one.suspend_s) / one.heap_gb for one in sleepers), 4),
        "suspend_s": {f"{one.heap_gb:g}": _median(one.suspend_s) for one in sleepers},
        "wake_s": _wakes(sleepers),
        "checkpoint_heap_gb": middle.heap_gb,
        "frozen_s": _median(frozen_s for frozen_s, _ in pauses),
        "checkpoint_gap_s": _median(gap_s for _, gap_s in pauses),
        **shares,
        "wrong_pages": sum(one.wrong_pages for one in sleepers),
        **{name: {"out_and_back_s": _median(gaps)} for name, gaps in peer_s.items()},
    }


def _wakes(sleepers: list[Sleeper]) -> dict[str, Any]:
    by_gb = {f"{one.heap_gb:g}": _median(one.wake_s) for one in sleepers}
    ordered = sorted(seconds for one in sleepers for seconds in one.wake_s)
    return {
        "median": _median(ordered),
        "p95": round(ordered[round(0.95 * (len(ordered) - 1))], 4),
        "by_gb": by_gb,
        "at_once_by_gb": {f"{one.heap_gb:g}": _median(one.at_once_s) for one in sleepers},
        "ratio": round(max(by_gb.values()) / min(by_gb.values()), 3),
        "elsewhere": _median(seconds for one in sleepers for seconds in one.elsewhere_s),
        "elsewhere_by_gb": {f"{one.heap_gb:g}": _median(one.elsewhere_s) for one in sleepers},
    }


def _second_bytes(sleeper: Sleeper) -> dict[str, float]:
    """What later checkpoints write, over what the first did, after 1 % of the pages changed: a run of them, or any."""
    first = sleeper.checkpoint("stir(slice(None))").report.stored_bytes
    second = sleeper.checkpoint(RUN_OF_PAGES).report.stored_bytes
    scattered = sleeper.checkpoint(SCATTERED_PAGES).report.stored_bytes
    return {"second_bytes_share": round(second / first, 4), "scattered_bytes_share": round(scattered / first, 4)}


def _peer_s(name: str, heap_gb: float) -> float:
    with PEERS[name](heap_gb) as peer:
        return peer.gap_s()


def _median(values: Iterable[float]) -> float:
    return round(statistics.median(values), 4)
