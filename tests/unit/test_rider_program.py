from __future__ import annotations

import sys
import time

import pytest

from sojourn.errors import Invalid, SandboxFailed
from sojourn.rider.capture import Capture
from sojourn.rider.program import PlainProgram, Spec
from sojourn.transport.loop import Loop


class Watched:
    """A program by `subprocess`, as Windows has it; the other kind is tested with a whole rider around it."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.capture = Capture(None)
        self.told: list[object] = []
        self.program = PlainProgram(
            self.loop,
            self.capture,
            started=lambda pid: self.told.append("started"),
            exited=self.told.append,
            failed=self.told.append,
        )

    def wait_for(self, count: int) -> None:
        deadline = time.monotonic() + 20
        while len(self.told) < count:
            assert time.monotonic() < deadline
            self.loop.run_once(0.05)


def python(code: str) -> Spec:
    return Spec({"argv": [sys.executable, "-c", code]}, {})


def test_it_starts_and_exits_and_its_output_is_kept() -> None:
    watched = Watched()
    watched.program.start(python("print('hello'); raise SystemExit(3)"))
    watched.wait_for(2)
    assert watched.told == ["started", 3]
    while "hello" not in watched.capture.tail:
        watched.loop.run_once(0.05)
    assert not watched.program.running


def test_starting_again_kills_the_one_that_runs() -> None:
    watched = Watched()
    watched.program.start(python("import time; time.sleep(100)"))
    watched.program.start(python("pass"))
    watched.wait_for(4)
    assert watched.told[0::2] == ["started", "started"]
    assert watched.told[3] == 0


def test_a_program_that_cant_be_started_is_told_of() -> None:
    watched = Watched()
    watched.program.start(Spec({"argv": ["/no/such/thing"]}, {}))
    assert isinstance(watched.told[0], SandboxFailed)
    assert "/no/such/thing" in watched.told[0].message


@pytest.mark.parametrize(
    "body", [{}, {"argv": []}, {"argv": 5}, {"argv": ["x"], "uid": "root"}, {"argv": ["x"], "env": 1}]
)
def test_what_is_no_program_is_refused(body: dict[str, object]) -> None:
    with pytest.raises(Invalid):
        Spec(body, {})


def test_what_holds_a_session_to_its_baseline_is_in_whatever_environment() -> None:
    spec = Spec({"argv": ["kernel"], "env": {"CORE": "all", "HOME": "/root"}}, {}, {"CORE": "least"})
    assert spec.env == {"CORE": "least", "HOME": "/root"}


def test_private_files_are_named_where_they_really_lie() -> None:
    body = {"argv": ["kernel", "-f=/run/k.json"], "env": {"FILE": "/run/k.json"}}
    spec = Spec(body, {"/run/k.json": "/home/me/box/k.json"})
    assert (spec.argv[1], spec.env["FILE"]) == ("-f=/home/me/box/k.json", "/home/me/box/k.json")
