"""Sessions as plain processes: for any OS, without root."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from sojourn.errors import Incompatible, SandboxFailed, Unreachable
from sojourn.model import Program, SessionSpec
from sojourn.rider.build import build_rider
from sojourn.sandbox import process as process_module
from sojourn.sandbox.base import Sandbox, SandboxPlan, make_sandbox, open_sandbox
from sojourn.sandbox.process import ProcessSandbox

pytestmark = pytest.mark.integration

SLEEP = (sys.executable, "-c", "import time; time.sleep(1000)")


@pytest.fixture(scope="module")
def rider(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_rider(tmp_path_factory.mktemp("rider"))


@pytest.fixture
def failing_rider(tmp_path: Path) -> Path:
    with zipfile.ZipFile(tmp_path / "failing.pyz", "w") as file:
        file.writestr("__main__.py", "raise SystemExit('it can not go on')")
    return tmp_path / "failing.pyz"


def greeting(sandbox: Sandbox) -> dict[str, Any]:
    """The rider's answer to an agent."""
    with sandbox.connect() as connection:
        line = {"attach": "control", "incarnation": sandbox.plan.incarnation, "epoch": 1, "secret": sandbox.secret}
        connection.sendall(json.dumps(line).encode() + b"\n")
        with connection.makefile() as lines:
            answer: dict[str, Any] = json.loads(lines.readline())
            return answer


Make = Callable[..., ProcessSandbox]


@pytest.fixture
def make(rider: Path, tmp_path: Path) -> Iterator[Make]:
    made: list[ProcessSandbox] = []

    def make(*argv: str, **more: Any) -> ProcessSandbox:
        program = Program(argv=argv or SLEEP, env=more.pop("env", {}), uid=os.getuid(), gid=os.getgid())
        zipapp = str(more.pop("rider", rider))
        spec = SessionSpec(program=program, **more)
        plan = SandboxPlan(kind="process", node="here", session="s", incarnation=1, spec=spec, rider=zipapp)
        sandbox = make_sandbox(tmp_path / "sandboxes" / "s.1", plan)
        assert isinstance(sandbox, ProcessSandbox)
        made.append(sandbox)
        return sandbox

    yield make
    for sandbox in made:
        sandbox.remove()


def started(sandbox: ProcessSandbox) -> ProcessSandbox:
    sandbox.create()
    sandbox.start()
    return sandbox


def eventually(question: Callable[[], Any], seconds: float = 10) -> Any:
    deadline = time.monotonic() + seconds
    while not (answer := question()):
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)
    return answer


def test_it_starts_listens_and_is_found_again(make: Make) -> None:
    sandbox = started(make())
    assert greeting(sandbox)["ok"]
    again = open_sandbox(sandbox.folder)
    assert again.alive()
    assert again.secret == sandbox.secret
    assert greeting(again)["ok"]
    assert len(eventually(lambda: len(again.pids()) == 2 and again.pids())) == 2


def test_it_listens_on_loopback_where_the_folder_is_too_deep_for_a_socket(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "_LONGEST_SOCKET_PATH", 0)
    sandbox = started(make())
    assert not sandbox.passes_descriptors
    assert greeting(sandbox)["ok"]


def test_it_outlives_the_agent_that_made_it(make: Make) -> None:
    sandbox = make()
    plan = sandbox.plan.model_dump_json()
    script = (
        "import sys; from pathlib import Path; from sojourn.sandbox.base import SandboxPlan, make_sandbox;"
        "sandbox = make_sandbox(Path(sys.argv[1]), SandboxPlan.model_validate_json(sys.argv[2]));"
        "sandbox.create(); sandbox.start()"
    )
    subprocess.run([sys.executable, "-c", script, str(sandbox.folder), plan], check=True)
    again = open_sandbox(sandbox.folder)
    assert again.alive()
    assert greeting(again)["ok"]


def test_a_private_file_is_found_where_the_program_is_told(make: Make) -> None:
    told = "import os, sys; print(open(sys.argv[1].split('=')[1]).read(), open(os.environ['FILE']).read(), 'END')"
    sandbox = make(
        sys.executable,
        "-c",
        told,
        "--file=/run/kernel.json",
        env={"FILE": "/run/kernel.json"},
        files={"/run/kernel.json": "me"},
    )
    started(sandbox)
    assert eventually(lambda: "END" in (text := sandbox.log(1000)) and text).startswith("me me")
    (private,) = (sandbox.folder / "files").rglob("kernel.json")
    assert private.stat().st_mode & 0o777 == 0o600
    assert sandbox.folder.stat().st_mode & 0o777 == 0o700


def test_nothing_of_the_agents_environment_leaks_in(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOJOURN_TOKEN", "secret")
    sandbox = started(make(sys.executable, "-c", "import os; print(sorted(os.environ), 'END')"))
    text = eventually(lambda: "END" in (text := sandbox.log(1000)) and text)
    assert "SOJOURN_TOKEN" not in text
    assert b"SOJOURN_TOKEN" not in Path(f"/proc/{sandbox.root_pid()}/environ").read_bytes()


def test_frozen_it_stands_still(make: Make) -> None:
    sandbox = started(make())
    sandbox.freeze()
    assert {psutil.Process(pid).status() for pid in sandbox.pids()} == {psutil.STATUS_STOPPED}
    sandbox.thaw()
    assert psutil.STATUS_STOPPED not in {psutil.Process(pid).status() for pid in sandbox.pids()}


def test_killing_reaches_what_has_left_the_tree(make: Make) -> None:
    daemon = (
        "import os, time\nif os.fork(): os._exit(0)\nos.setsid()\nif os.fork(): os._exit(0)\n"
        "print(os.getpid(), flush=True)\ntime.sleep(1000)"
    )
    sandbox = started(make(sys.executable, "-c", daemon))
    pid = int(eventually(lambda: sandbox.log(100).strip()))
    sandbox.freeze()
    open_sandbox(sandbox.folder).kill()
    assert not sandbox.alive()
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_removing_leaves_nothing_and_may_be_repeated(make: Make) -> None:
    sandbox = started(make())
    pids = sandbox.pids()
    sandbox.remove()
    assert not sandbox.folder.exists()
    assert [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"] == []
    sandbox.remove()
    with pytest.raises(Unreachable):
        sandbox.connect()


def test_another_process_with_the_riders_number_is_not_the_rider(make: Make) -> None:
    sandbox = make()
    sandbox.create()
    sandbox.facts |= {"root_pid": os.getpid(), "root_started": 1.0}
    sandbox.record()
    assert not open_sandbox(sandbox.folder).alive()
    open_sandbox(sandbox.folder).kill()


def test_a_rider_that_fails_is_quoted(make: Make, failing_rider: Path) -> None:
    sandbox = make(rider=failing_rider)
    sandbox.create()
    with pytest.raises(SandboxFailed, match="it can not go on"):
        sandbox.start()


def test_another_user_is_refused(make: Make) -> None:
    sandbox = make()
    program = sandbox.plan.spec.program.model_copy(update={"uid": os.getuid() + 1})
    spec = sandbox.plan.spec.model_copy(update={"program": program})
    other = make_sandbox(sandbox.folder, sandbox.plan.model_copy(update={"spec": spec}))
    with pytest.raises(Incompatible, match="another user"):
        other.create()
    assert not sandbox.folder.exists()


def test_it_can_not_move(make: Make) -> None:
    sandbox = make()
    with pytest.raises(Incompatible):
        sandbox.create(mount=False)
    with pytest.raises(Incompatible):
        _ = sandbox.layer
