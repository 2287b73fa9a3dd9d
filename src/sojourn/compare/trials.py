"""One way tried: the notebook run in a fresh kernel, its state carried, and looked at on both sides."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from jupyter_client.kernelspec import KernelSpec

from sojourn.client import Client
from sojourn.compare.kernels import Kernel, KernelDied, kernel
from sojourn.compare.notebook import Notebook
from sojourn.compare.places import How, Place
from sojourn.compare.survival import Fate, Names, Said, Verdict, all_told, judge
from sojourn.errors import Refused, SandboxFailed, SojournError, Unreachable
from sojourn.model import MoveReport, Strategy

Say = Callable[[str], object]
"""Told what goes on, for whoever waits."""


@dataclass(frozen=True)
class Outcome:
    """What one way made of the state. Seconds; those of `transfer_s` are measured, reckoned or none, as `transfer`
    says. `stands_still_s`: for how long nobody could have gone on. `all_there_s`: until every byte had arrived."""

    way: str
    untried: str = ""
    """Why it could not be tried here."""
    failure: str = ""
    """Why nothing was carried."""
    python: str = ""
    save_s: float = 0.0
    transfer_s: float = 0.0
    transfer: How = "none"
    restore_s: float = 0.0
    stands_still_s: float = 0.0
    all_there_s: float = 0.0
    bytes: int = 0
    """What was saved, or what a move has sent."""
    fates: tuple[Fate, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def carried(self) -> bool:
        return not self.untried and not self.failure

    def count(self, verdict: Verdict) -> int:
        return sum(fate.verdict is verdict for fate in self.fates)


@dataclass(frozen=True)
class Scene:
    """What all ways have in common."""

    notebook: Notebook
    spec: KernelSpec
    place: Place
    say: Say = field(default=lambda what: None)

    @property
    def folder(self) -> Path:
        return self.notebook.path.parent

    def played(self, kernel: Kernel, way: str) -> Names:
        """Run the notebook, and look at what it has made."""
        count = len(self.notebook.cells)
        kernel.run(self.notebook, lambda ran: self.say(f"{way}: the notebook runs, {ran} of {count} cells"))
        self.say(f"{way}: its names are looked at")
        seen: Names = _found(kernel.ask("look"))["names"]
        return seen


class Trial(Protocol):
    """One way to carry a state."""

    @property
    def way(self) -> str: ...

    def __call__(self, scene: Scene) -> Outcome: ...


@dataclass(frozen=True)
class FileTrial:
    """The state is saved to files in one kernel, the files are sent, and another kernel restores them. `way`: as in
    `inside.ways`. `install`: the package to install for it."""

    way: str
    install: str = ""

    def __call__(self, scene: Scene) -> Outcome:
        with tempfile.TemporaryDirectory(prefix="sojourn-compare-") as folder:
            path = Path(folder, "saved")
            with kernel(scene.spec, scene.folder) as source:
                here = _found(source.ask("begin", way=self.way, path=str(path)))
                if missing := here.get("missing"):
                    return Outcome(self.way, untried=self._not_installed(missing, here["executable"]))
                before = scene.played(source, self.way)
                scene.say(f"{self.way}: its state is saved")
                outcome, said = self._saved(Outcome(self.way, python=here["python"]), source, path, before)
            if outcome.failure:
                return outcome
            scene.say(f"{self.way}: its state is sent")
            sent_s = scene.place.sent_s(path)
            return self._restored(
                replace(outcome, transfer_s=sent_s, transfer=scene.place.how), scene, path, before, said
            )

    def _not_installed(self, missing: str, python: str) -> str:
        return f"not installed. {python} -m pip install {self.install}" if self.install else missing

    def _saved(self, outcome: Outcome, source: Kernel, path: Path, before: Names) -> tuple[Outcome, Said]:
        saved = _asked(source, "save", way=self.way, path=str(path))
        if wrong := saved.get("error"):
            failure = f"nothing was saved: {wrong}"
            return replace(outcome, failure=failure, fates=tuple(all_told(before, failure))), []
        return replace(outcome, save_s=saved["seconds"], bytes=saved["bytes"]), saved["said"]

    def _restored(self, outcome: Outcome, scene: Scene, path: Path, before: Names, said: Said) -> Outcome:
        with kernel(scene.spec, scene.folder) as target:
            _found(target.ask("begin", way=self.way, path=str(path)))
            scene.say(f"{self.way}: its state is restored")
            restored = _asked(target, "restore", way=self.way, path=str(path))
            if wrong := restored.get("error"):
                failure = f"nothing was restored: {wrong}"
                return replace(outcome, failure=failure, fates=tuple(all_told(before, failure)))
            after: Names = _found(target.ask("look", names=list(before)))["names"]
        whole_s = outcome.save_s + outcome.transfer_s + restored["seconds"]
        return replace(
            outcome,
            restore_s=restored["seconds"],
            stands_still_s=whole_s,
            all_there_s=whole_s,
            fates=tuple(judge(before, after, [*said, *restored["said"]])),
        )


@dataclass(frozen=True)
class MoveTrial:
    """The kernel is a session, and moves from one node to another."""

    way: str
    strategy: Strategy

    def __call__(self, scene: Scene) -> Outcome:
        if scene.place.client is None:
            return Outcome(self.way, untried=scene.place.refusal)
        with ExitStack() as stack:
            try:
                session = stack.enter_context(kernel(scene.spec, scene.folder, session_on=scene.place.source))
            except (Refused, SandboxFailed, Unreachable) as refused:
                return Outcome(self.way, untried=refused.message)
            python = _found(session.ask("begin"))["python"]
            return replace(self._moved(scene, scene.place.client, session), python=python)

    def _moved(self, scene: Scene, client: Client, session: Kernel) -> Outcome:
        place, before = scene.place, scene.played(session, self.way)
        crossed = place.crossed_bytes
        scene.say(f"{self.way}: the kernel moves")
        try:
            moved = client.move(session.session, place.target, strategy=self.strategy, wait="filled").move
        except SojournError as refused:
            return Outcome(self.way, failure=refused.message, fates=tuple(all_told(before, refused.message)))
        assert moved
        crossed = place.crossed_bytes - crossed
        scene.say(f"{self.way}: its names are looked at")
        after: Names = _found(session.ask("look", names=list(before)))["names"]
        outcome = _timed(self.way, moved.report)
        return replace(outcome, bytes=crossed or outcome.bytes, fates=tuple(judge(before, after, [])))


def _timed(way: str, report: MoveReport) -> Outcome:
    """A move's times as they compare to saving, sending and restoring."""
    marks = report.timeline
    saved = marks.get("dumped", 0.0)
    sent = max(saved, marks.get("images received", saved), marks.get("layer sent", saved))
    sizes = report.link_bytes or report.page_bytes, report.image_bytes, report.layer_bytes
    return Outcome(
        way,
        save_s=saved,
        transfer_s=sent - saved,
        transfer="measured",
        restore_s=report.frozen_s - sent,
        stands_still_s=report.frozen_s,
        all_there_s=report.frozen_s + report.filled_s,
        bytes=sum(sizes),
        notes=tuple(f"connection reset: {one}" for one in report.connections_reset),
    )


def _asked(kernel: Kernel, act: str, **arguments: Any) -> dict[str, Any]:
    """An answer; that the kernel died is one, too."""
    with suppress(KernelDied):
        return kernel.ask(act, **arguments)
    return {"error": "the kernel died of it"}


def _found(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer to what can't fail but by a defect of ours. Raises RuntimeError."""
    if wrong := answer.get("error"):
        raise RuntimeError(wrong)
    return answer


TRIALS: dict[str, Trial] = {
    trial.way: trial
    for trial in (
        MoveTrial("criu-lazy", "lazy"),
        MoveTrial("criu-copy", "copy"),
        FileTrial("objects"),
        FileTrial("cloudpickle", "cloudpickle"),
        FileTrial("dill", "dill"),
        FileTrial("kishu", "kishu"),
    )
}
"""In the order in which they are shown."""
