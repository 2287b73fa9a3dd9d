"""The commands of sleep against a made-up controller: what they ask of it, what they print, how they end."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.unit.test_cli import run

from sojourn.cli import checkpoints, connection, drain, lists, sleep
from sojourn.client import Collected, Decided, Verified, Watched
from sojourn.errors import Invalid, SaveFailed, Unreachable
from sojourn.model import CheckpointView, SavePhase, SaveReport, SaveView, SessionView, WakePhase, WakeView
from sojourn.model.sessions import SessionStatus

GB = 10**9
NOW = 1_700_000_000.0
COST = SaveReport(frozen_s=0.21, total_s=1.3, memory_bytes=GB, layer_bytes=52_000, stored_bytes=310_000_000)


def session(identity: str = "s123456789", name: str = "analysis", **more: Any) -> SessionView:
    known: dict[str, Any] = {"status": SessionStatus.RUNNING, "node": "here", "incarnation": 1, "epoch": 1}
    return SessionView(id=identity, name=name, owner="ada", created_at=NOW, **known | more)


def save(phase: SavePhase, **more: Any) -> SaveView:
    return SaveView(
        id="c123456789", session="s123456789", node="here", kind="suspend", phase=phase, started_at=NOW, **more
    )


def wake(phase: WakePhase, **more: Any) -> WakeView:
    known: dict[str, Any] = {"exact": True, "total_bytes": GB} | more
    return WakeView(
        id="w1", session="s123456789", node="there", checkpoint="c123456789", phase=phase, started_at=NOW, **known
    )


AWAKE = wake(WakePhase.DONE, thawed_at=NOW + 0.31, ended_at=NOW + 1.11)
CHECKPOINT = CheckpointView(
    id="c123456789",
    session="s123456789",
    session_name="analysis",
    owner="ada",
    kind="named",
    name="before",
    node="here",
    created_at=time.time() - 7200,
    report=COST,
)


class MadeUpClient:
    """A controller's client that remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.view = session()
        self.saves = [save(SavePhase.SAVING, done_bytes=1, total_bytes=2), save(SavePhase.DONE, report=COST)]
        self.wakes = [wake(WakePhase.WAKING), AWAKE]
        self.problems: tuple[str, ...] = ()
        self.collected = Collected(dropped=(), bytes=700_000, used_bytes=9_000_000, slack_bytes=0, busy=0)

    def __enter__(self) -> MadeUpClient:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def session(self, name: str) -> SessionView:
        return self.view.model_copy(update={"id": name if name.startswith("f") else self.view.id})

    def sessions(self) -> list[SessionView]:
        return [self.view]

    def watch(self, name: str) -> Iterator[Watched]:
        known = {"session": self.view, "place": None, "next_place": None, "move": None}
        steps = max(len(self.saves), len(self.wakes))
        for number in range(steps):
            yield Watched(
                save=self.saves[min(number, len(self.saves) - 1)],
                wake=self.wakes[min(number, len(self.wakes) - 1)] if self.wakes else None,
                **known,
            )

    def suspend(self, name: str, **options: Any) -> SessionView:
        self.asked.append(("suspend", name, options))
        return self.view.model_copy(update={"save": self.saves[0].id if self.saves else None})

    def resume(self, name: str, to: str | None, **options: Any) -> SessionView:
        self.asked.append(("resume", name, to, options))
        return self.view

    def checkpoint(self, name: str, called: str, **options: Any) -> SaveView:
        self.asked.append(("checkpoint", name, called, options))
        return self.saves[0]

    def restore(self, name: str, checkpoint: str, to: str | None, **options: Any) -> SessionView:
        self.asked.append(("restore", name, checkpoint, to))
        return self.view

    def fork(self, name: str, to: str | None, count: int, called: str, checkpoint: str | None, **_: Any) -> Any:
        self.asked.append(("fork", name, to, count, called, checkpoint))
        return [session(f"f{number}") for number in range(count)]

    def checkpoints(self, name: str | None = None) -> list[CheckpointView]:
        self.asked.append(("checkpoints", name))
        return [CHECKPOINT]

    def checkpoint_view(self, name: str) -> CheckpointView:
        return CHECKPOINT

    def drop_checkpoint(self, identity: str) -> None:
        self.asked.append(("drop", identity))

    def verify(self, identity: str, deep: bool) -> Verified:
        self.asked.append(("verify", identity, deep))
        return Verified(checkpoint=identity, problems=self.problems)

    def gc(self, dry_run: bool) -> Collected:
        self.asked.append(("gc", dry_run))
        return self.collected

    def drain(self, node: str, dry_run: bool, deadline_s: float | None, reason: str) -> tuple[Decided, ...]:
        self.asked.append(("drain", node, dry_run, deadline_s, reason))
        return (
            Decided(kind="move", session="s123456789", node=node, target="there", rule="drain", why="it is drained"),
        )

    def undrain(self, node: str) -> None:
        self.asked.append(("undrain", node))


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> MadeUpClient:
    made_up = MadeUpClient()
    for module in (sleep, checkpoints, drain, lists, connection):
        monkeypatch.setattr(module, "connect", lambda: made_up)
    monkeypatch.setattr(sleep, "adopt", lambda view: f"/connections/kernel-{view.id}.json")
    return made_up


SAVED = "frozen for 0.21 s, 1.0 GB of memory and 52 kB of files saved in 1.30 s, 310 MB of it new in the store"


def test_a_suspend_ends_with_one_line_of_truth(client: MadeUpClient) -> None:
    assert run("suspend", "analysis").stdout == f"analysis sleeps: {SAVED}\n"
    assert client.asked == [("suspend", "analysis", {"force": False, "wait": "accepted"})]


def test_one_that_sleeps_already(client: MadeUpClient) -> None:
    client.saves = []
    assert run("suspend", "analysis", "--force").stdout == "analysis sleeps already.\n"
    assert client.asked[0][2]["force"]


def test_a_save_that_failed_raises_its_error(client: MadeUpClient) -> None:
    client.saves = [save(SavePhase.SAVING), save(SavePhase.FAILED, error=SaveFailed("The disk is full.").to_wire())]
    failed = run("suspend", "analysis")
    assert isinstance(failed.exception, SaveFailed)
    assert failed.stdout == ""


def test_ctrl_c_ends_the_watching_not_the_save(client: MadeUpClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(name: str) -> Iterator[Watched]:
        yield Watched(session=client.view, place=None, next_place=None, move=None, save=client.saves[0])
        raise KeyboardInterrupt

    monkeypatch.setattr(client, "watch", interrupted)
    done = run("suspend", "analysis")
    assert done.stdout == "analysis is falling asleep.\n"
    assert "it goes on" in done.stderr


def test_a_resume_says_when_it_ran_again_and_when_its_pages_were_there(client: MadeUpClient) -> None:
    client.view = session(status=SessionStatus.SUSPENDED, node="there")
    told = "analysis on there: runs again after 0.31 s, every page (1.0 GB) there 0.80 s later"
    assert run("resume", "analysis", "--node", "gpu").stdout == f"{told}\n"
    assert client.asked == [("resume", "analysis", "gpu", {"wait": "accepted"})]
    client.wakes = [AWAKE.model_copy(update={"exact": False})]
    assert run("resume", "analysis").stdout.startswith(f"{told}; its clients' streams begin anew")


def test_a_resume_of_what_is_awake(client: MadeUpClient) -> None:
    assert run("resume", "analysis").stdout == "analysis is awake on here already.\n"


def test_a_checkpoint(client: MadeUpClient) -> None:
    assert run("checkpoint", "analysis", "--name", "before").stdout == f"analysis goes on; checkpoint before: {SAVED}\n"
    assert client.asked == [("checkpoint", "analysis", "before", {"wait": "accepted"})]
    assert json.loads(run("checkpoint", "analysis", "--json").stdout)["id"] == "c123456789"


def test_a_restore_is_of_the_session_that_was_saved(client: MadeUpClient) -> None:
    assert run("restore", "before").stdout.startswith("analysis is back at before, saved 2 h ago, on here: runs again")
    assert client.asked == [("restore", "s123456789", "c123456789", None)]


def test_forks_and_how_to_open_them(client: MadeUpClient, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run("fork", "analysis", "--count", "2", "--checkpoint", "before")
    assert client.asked == [("fork", "analysis", None, 2, "", "before")]
    assert done.stdout.splitlines()[1::2] == [
        "  jupyter console --existing /connections/kernel-f0.json",
        "  jupyter console --existing /connections/kernel-f1.json",
    ]
    rows = json.loads(run("fork", "analysis", "--json").stdout)
    assert [row["connection_file"] for row in rows] == ["/connections/kernel-f0.json"]

    def refuse(_: SessionView) -> str:
        raise Unreachable("The front does not answer.")

    monkeypatch.setattr(sleep, "adopt", refuse)
    alone = run("fork", "analysis")
    assert (alone.exit_code, "runs again" in alone.stdout) == (0, True)
    assert "can't be opened from here" in alone.stderr
    assert isinstance(run("attach", "analysis").exception, Unreachable)


# ── checkpoints ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("arguments", [[], ["analysis"], ["--json"], ["analysis", "--json"], ["--json", "analysis"]])
def test_checkpoints_are_listed_of_all_or_of_one_session(client: MadeUpClient, arguments: list[str]) -> None:
    done = run("checkpoints", *arguments)
    assert client.asked == [("checkpoints", "analysis" if "analysis" in arguments else None)]
    if "--json" in arguments:
        assert [CheckpointView.model_validate(row) for row in json.loads(done.stdout)] == [CHECKPOINT]
    else:
        line = ["c1234567", "before", "analysis", "named", "here", "1.0", "GB", "310", "MB", "0.21", "s", "2", "h"]
        assert done.stdout.splitlines()[1].split() == [*line, "whole"]


def test_verify_one_or_all(client: MadeUpClient) -> None:
    assert run("checkpoints", "verify").stdout == "before of analysis: whole\n"
    client.problems = ("chunk 1f is missing: memory of task 7",)
    damaged = run("checkpoints", "verify", "before", "--quick")
    assert damaged.exit_code == 1
    assert damaged.stdout.splitlines() == ["before of analysis: damaged", "  chunk 1f is missing: memory of task 7"]
    assert client.asked == [("checkpoints", None), ("verify", "c123456789", True), ("verify", "c123456789", False)]


def test_rm(client: MadeUpClient) -> None:
    assert run("checkpoints", "rm", "before").stdout.startswith("Deleted before;")
    assert client.asked == [("drop", "c123456789")]
    assert run("checkpoints", "rm").exit_code == 2


def test_gc(client: MadeUpClient) -> None:
    assert run("gc").stdout == "Removed 700 kB; 9.0 MB are in use.\n"
    client.collected = client.collected.model_copy(update={"dropped": ("a", "b"), "busy": 1})
    would = run("gc", "--dry-run").stdout
    assert would.startswith("Would remove 2 checkpoints and 700 kB")
    assert "next time" in would
    assert client.asked == [("gc", False), ("gc", True)]


def test_what_a_session_sleeps_in_is_shown(client: MadeUpClient, monkeypatch: pytest.MonkeyPatch) -> None:
    asleep = session(status=SessionStatus.SUSPENDED, checkpoint="c123456789")
    monkeypatch.setattr(client, "sessions", lambda everything: [asleep])
    assert "suspended  here" in (shown := run("sessions").stdout)
    assert "c1234567" in shown


def test_checkpoints_complete(client: MadeUpClient) -> None:
    assert connection.complete_checkpoints("be") == [("before", "of analysis")]


# ── drain ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_drain_says_what_becomes_of_each_session(client: MadeUpClient) -> None:
    done = run("drain", "here", "--deadline", "5min", "--reason", "new disks").stdout.splitlines()
    assert done[:2] == ["here is drained; sessions that leave it: 1.", "  analysis: move to there (it is drained)"]
    assert run("drain", "here", "--dry-run").stdout.startswith("here would be drained")
    assert run("undrain", "here").stdout == "here is open again.\n"
    assert client.asked == [
        ("drain", "here", False, 300.0, "new disks"),
        ("drain", "here", True, None, ""),
        ("undrain", "here"),
    ]


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("1.5m", 90), ("5min", 300), ("2 h", 7200)])
def test_times(text: str, seconds: float) -> None:
    assert drain.seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "5 days", "min"])
def test_times_that_mean_nothing(text: str) -> None:
    with pytest.raises(Invalid):
        drain.seconds(text)
