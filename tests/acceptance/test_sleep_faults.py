"""A session that sleeps and wakes with parts of Sojourn killed under it: its state is always one that it had.

A model of one number: what the kernel counts to, what each checkpoint holds. Hypothesis chooses what happens next; each
step ends with the session at rest and its number looked at. `SOJOURN_STEPS=1000` makes a night of it.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from tests.acceptance.conftest import why_no_live_move

from sojourn.client import Client
from sojourn.errors import SojournError
from sojourn.model import SessionStatus, SessionView
from sojourn.settings import data_folder
from sojourn.testing import end_kernel, execute, session_of, start_kernel
from sojourn.testing.parts import Parts, parts, until
from sojourn.testing.remains import copies, remains, vigil

STEPS = int(os.environ.get("SOJOURN_STEPS", "20"))

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(120 + 20 * STEPS)]

AT_REST = (SessionStatus.RUNNING, SessionStatus.SUSPENDED)
nodes = st.sampled_from(["here", "there"])
parts_that_die = st.sampled_from(["here", "there", "controller"])
moments_ms = st.integers(0, 1200)


class Sleeper(RuleBasedStateMachine):
    """One kernel, on the parts of a whole Sojourn."""

    running: Parts

    def __init__(self) -> None:
        super().__init__()
        self.manager, self.kernel = start_kernel(needs="here")
        self.session = session_of(self.manager)
        execute(self.kernel, "number = 0; heap = bytearray(range(256)) * 200_000")
        self.number = 0
        self.saved: dict[str, int] = {}

    # ── what people do ──

    @rule()
    def work(self) -> None:
        """A cell runs: a session that sleeps wakes for it, and nobody has to ask for that."""
        heard = execute(self.kernel, "number += 1; print(number, heap == bytearray(range(256)) * 200_000)")
        self.number += 1
        # IPython may add that its history, which is in the user's home, knows a later one.
        assert heard.splitlines()[0] == f"{self.number} True"

    @rule()
    def suspend(self) -> None:
        with self.client() as client:
            if self.status() is SessionStatus.RUNNING:
                self.keep(str(client.suspend(self.session, force=True).checkpoint))
        until(lambda: copies(self.session) == {}, "nothing of it to be left on its node")

    @rule(node=nodes)
    def resume(self, node: str) -> None:
        with self.client() as client:
            client.resume(self.session, node, wait="filled")

    @rule(node=nodes)
    def move(self, node: str) -> None:
        if self.status() is SessionStatus.RUNNING:
            with self.client() as client:
                client.move(self.session, node, wait="filled")

    @precondition(lambda self: len(self.saved) < 8)
    @rule()
    def take_checkpoint(self) -> None:
        if self.status() is SessionStatus.RUNNING:
            with self.client() as client:
                self.keep(client.checkpoint(self.session, f"after-{time.time_ns()}").id)

    @precondition(lambda self: bool(self.saved))
    @rule(choice=st.randoms(use_true_random=False))
    def restore(self, choice: random.Random) -> None:
        with self.client() as client:
            there = {one.id for one in client.checkpoints(self.session) if not one.problem}
            identity = choice.choice(sorted(there & self.saved.keys()) or [""])
            if identity:
                client.restore(self.session, identity, wait="filled")
                self.number = self.saved[identity]

    # ── what befalls them ──

    @rule(part=parts_that_die, moment=moments_ms)
    def a_part_dies_during_a_suspend(self, part: str, moment: int) -> None:
        self.killed_amid(part, moment, lambda client: client.suspend(self.session, force=True, wait="accepted"))

    @rule(part=parts_that_die, moment=moments_ms, node=nodes)
    def a_part_dies_during_a_wake(self, part: str, moment: int, node: str) -> None:
        self.suspend()
        self.killed_amid(part, moment, lambda client: client.resume(self.session, node, wait="accepted"))

    @rule(part=parts_that_die, moment=moments_ms)
    def a_part_dies_during_a_checkpoint(self, part: str, moment: int) -> None:
        if self.status() is SessionStatus.RUNNING:
            self.killed_amid(part, moment, lambda client: client.checkpoint(self.session, wait="accepted"))

    @rule()
    def the_store_is_away(self) -> None:
        """A save that can't be written leaves the session running."""
        if self.status() is not SessionStatus.RUNNING:
            return
        with self.client() as client, self.without_store(), pytest.raises(SojournError):
            client.suspend(self.session, force=True)
        assert self.at_rest().status is SessionStatus.RUNNING

    @rule()
    def the_newest_checkpoint_is_damaged(self) -> None:
        """The session falls back to the one before, and says so."""
        self.suspend()
        with self.client() as client:
            newest = str(client.session(self.session).checkpoint)
            older = [one.id for one in client.checkpoints(self.session) if one.id != newest and not one.problem]
            if not set(older) & self.saved.keys():
                return
            for manifest in self.store().glob(f"owners/*/checkpoints/{newest}"):
                manifest.write_bytes(manifest.read_bytes()[:-1])
            with contextlib.suppress(SojournError):
                client.resume(self.session, wait="filled")
            view = self.at_rest()
            assert view.status is SessionStatus.SUSPENDED, view
            assert newest[:8] in view.reason or "amaged" in view.reason, view.reason
            self.saved.pop(newest, None)
            self.number = self.saved[str(view.checkpoint)]

    # ── after each step ──

    def killed_amid(self, part: str, moment: int, begin: Callable[[Client], Any]) -> None:
        with self.client() as client, vigil(self.session) as doubles:
            begin(client)
            time.sleep(moment / 1000)
            self.running.kill(part)
            self.running.start(part)
            self.running.await_nodes()
            self.at_rest()
            for one in client.checkpoints(self.session):
                self.saved.setdefault(one.id, self.number)
        assert doubles == []

    def at_rest(self) -> SessionView:
        def resting() -> SessionView | None:
            with self.client() as client:
                view = client.session(self.session)
            return view if view.status in AT_REST and not view.save else None

        return until(resting, f"session {self.session} to come to rest", 90)

    def keep(self, checkpoint: str) -> None:
        self.saved[checkpoint] = self.number

    def status(self) -> SessionStatus:
        return self.at_rest().status

    @contextlib.contextmanager
    def client(self) -> Iterator[Client]:
        with Client(self.running.controller.url, self.running.controller.token) as client:
            yield client

    def store(self) -> Path:
        return data_folder() / "store"

    @contextlib.contextmanager
    def without_store(self) -> Iterator[None]:
        away = self.store().with_name("store-away")
        self.store().rename(away)
        self.store().write_text("a file where the store should be")
        try:
            yield
        finally:
            self.store().unlink()
            away.rename(self.store())

    def teardown(self) -> None:
        try:
            self.work()
        finally:
            end_kernel(self.manager, self.kernel)
        until(lambda: not remains(self.running, self.session), "nothing to be left")


@pytest.fixture(scope="module")
def running() -> Iterator[Parts]:
    if reason := why_no_live_move():
        pytest.skip(reason)
    with parts(fence_s=12.0) as made:
        yield made
        shutil.rmtree(data_folder() / "store", ignore_errors=True)


def test_whatever_befalls_a_sleeper_its_state_is_one_it_had(running: Parts) -> None:
    Sleeper.running = running
    try:
        run_state_machine_as_test(
            Sleeper,
            settings=settings(
                max_examples=1 + max(1, STEPS // 10),  # the first one is short
                stateful_step_count=10,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                report_multiple_bugs=False,
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        print(running.log())
