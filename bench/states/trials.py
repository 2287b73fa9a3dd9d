"""Trials: one state carried by one way, in interpreters of their own, as between two machines.

The working folder goes along, whatever the way: a notebook's files are there on both sides, at the same path. Folders
for temporary files don't. The source has ended before the target begins.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from bench.states.stage import Found, Part
from bench.states.state import State
from bench.states.verdicts import Outcome, Verdict, differences, false_alarms, is_undrawn, judge
from sojourn.compare.inside.ways import Loss

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 120.0


class Trial(Protocol):
    """Carries a state and tells what became of it. `InterpreterTrial` is for ways that work inside interpreters; a way
    that takes whole processes runs the state's cells and probes (`stage.run`, `stage.examine`) in a session."""

    @property
    def way(self) -> str: ...

    def __call__(self, state: State, before: Found) -> Outcome:
        """`before` is what the state shows when nothing was carried (`reference`)."""


@dataclass(frozen=True)
class InterpreterTrial:
    """Save in one fresh interpreter, restore in another one."""

    way: str
    patience_s: float = PATIENCE_SECONDS

    def __call__(self, state: State, before: Found) -> Outcome:
        assert before.answers is not None
        with scene() as place:
            saved = place.play(Part(asdict(state), "save", self.way), self.patience_s)
            outcome = _saved(Outcome(state.name, self.way), saved, before, place.size_bytes())
            if outcome.failure:
                return replace(outcome, verdicts=dict.fromkeys(before.answers, Verdict.TOLD))
            place.leave()
            part = Part(asdict(state), "restore", self.way, names=tuple(before.names))
            restored = place.play(part, self.patience_s)
        return _restored(outcome, [*saved.losses, *restored.losses], restored, before)


def reference(state: State, patience_s: float = PATIENCE_SECONDS) -> Found:
    """What the state shows of itself when nothing is carried; `failure` says why that can't be known."""
    with scene() as place:
        found = place.play(Part(asdict(state), "run"), patience_s)
    undrawn = [f"{probe}: {answer[1]}" for probe, answer in (found.answers or {}).items() if is_undrawn(answer)]
    return replace(found, answers=None, failure=f"no portrait of {undrawn[0]}") if undrawn else found


@dataclass
class Scene:
    """The folders of one trial: where the notebook works, what was saved, and what is temporary."""

    root: Path

    def __post_init__(self) -> None:
        for folder in ("work", "tmp", "home"):
            (self.root / folder).mkdir()

    @property
    def saved(self) -> Path:
        return self.root / "saved"

    def leave(self) -> None:
        """From one machine to another: what was temporary, or at home, stays behind."""
        for folder in ("work", "tmp", "home"):
            shutil.rmtree(self.root / folder)
        (self.root / "left").rename(self.root / "work")
        (self.root / "tmp").mkdir()
        (self.root / "home").mkdir()

    def size_bytes(self) -> int:
        if self.saved.is_dir():
            return sum(file.stat().st_size for file in self.saved.rglob("*") if file.is_file())
        return self.saved.stat().st_size if self.saved.exists() else 0

    def play(self, part: Part, patience_s: float) -> Found:
        """Run the part in an interpreter of its own; a crash or a hang is what was found."""
        result = self.root / f"{part.act}.json"
        ended = self.run("bench.states.stage", asdict(replace(part, folder=str(self.root))), patience_s)
        if not result.exists():
            return Found(failure=f"{part.act}: {ended}")
        found = Found(**json.loads(result.read_text()))
        found.losses = [Loss(**loss) for loss in json.loads(result.read_text())["losses"]]
        found.failure = found.failure and f"{part.act}: {found.failure}"
        return found

    def run(self, program: str, asked: dict[str, Any], patience_s: float) -> str:
        """Run a module of ours in the working folder, with what is asked of it on stdin; how it ended, in words."""
        log_path = self.root / f"{asked['act']}.log"
        with log_path.open("wb") as log:
            player = subprocess.Popen(
                [sys.executable, "-m", program],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self.root / "work",
                env=self._environment(),
                start_new_session=True,
            )
            try:
                player.communicate(json.dumps(asked).encode(), timeout=patience_s)
            except subprocess.TimeoutExpired:
                return f"no end within {patience_s:.0f} s"
            finally:
                _end_group(player)
        last = log_path.read_text(errors="replace").strip().splitlines()[-1:]
        if player.returncode < 0:
            return f"killed by {signal.Signals(-player.returncode).name}"
        return last[0] if last else f"ended with {player.returncode}"

    def _environment(self) -> dict[str, str]:
        ours = {"TMPDIR": "tmp", "HOME": "home", "IPYTHONDIR": "home/ipython", "MPLCONFIGDIR": "home/matplotlib"}
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        folders = {name: str(self.root / folder) for name, folder in ours.items()}
        return os.environ | folders | {"PYTHONPATH": path, "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"}


@contextmanager
def scene(where: Path | None = None) -> Iterator[Scene]:
    with tempfile.TemporaryDirectory(prefix="state-", dir=where, ignore_cleanup_errors=True) as root:
        yield Scene(Path(root))


def _saved(outcome: Outcome, saved: Found, before: Found, size_bytes: int) -> Outcome:
    """With what the source's side has shown; that saving harmed the source shows in its probes."""
    assert before.answers is not None
    harmed = () if saved.answers is None else tuple(differences(before.answers, saved.answers))
    return replace(
        outcome,
        losses=tuple(saved.losses),
        failure=saved.failure,
        harmed=harmed,
        save_s=saved.seconds,
        size_bytes=size_bytes,
        save_extra_mb=saved.extra_mb,
    )


def _restored(outcome: Outcome, losses: list[Loss], restored: Found, before: Found) -> Outcome:
    """With what the target's side has shown."""
    assert before.answers is not None
    if restored.answers is None:
        told = dict.fromkeys(before.answers, Verdict.TOLD)
        return replace(outcome, failure=restored.failure or "restore: no answer", verdicts=told, losses=tuple(losses))
    verdicts = judge(before.answers, restored.answers, losses)
    return replace(
        outcome,
        verdicts=verdicts,
        differences=differences(before.answers, restored.answers),
        losses=tuple(losses),
        alarms=false_alarms(verdicts, losses),
        restore_cold_s=restored.seconds,
        restore_extra_mb=restored.extra_mb,
    )


def _end_group(player: subprocess.Popen[bytes]) -> None:
    """The interpreter, and what its notebook has started."""
    try:
        os.killpg(player.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        player.wait()
