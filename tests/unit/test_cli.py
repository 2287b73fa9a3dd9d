"""The commands against a made-up controller: what they ask of it, what they print, how they end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sojourn.cli import account, connection, lists, main, move, parts, screen
from sojourn.client import Client, Moved, Watched
from sojourn.errors import Invalid, MoveFailed, Unauthorized, Unknown, Unreachable
from sojourn.model import (
    Capabilities,
    Folder,
    Load,
    LostName,
    Luggage,
    MovePhase,
    MovePlan,
    MoveReport,
    MoveView,
    NodeView,
    SessionView,
)
from sojourn.model.nodes import NodeStatus
from sojourn.model.resources import Resources
from sojourn.model.sessions import SessionStatus
from sojourn.wire import PROTOCOL

GB = 10**9


def node(name: str, *labels: str) -> NodeView:
    can = Capabilities(
        os="linux", arch="x86_64", kernel="6", python="3.11", sojourn="0", machine_id="m", root_id="r",
        strategies=("lazy", "copy"),
    )  # fmt: skip
    return NodeView(
        id=f"id-{name}", name=name, status=NodeStatus.ONLINE, labels=labels,
        capacity=Resources(cores=2, memory_bytes=8 * GB),
        capabilities=can, load=Load(memory_free_bytes=3 * GB, sessions=1), seen_at=time.time(),
    )  # fmt: skip


def session(name: str = "analysis", place: str = "here") -> SessionView:
    return SessionView(
        id="s123456789", name=name, owner="ada", status=SessionStatus.RUNNING, node=place, incarnation=1, epoch=1,
        sandbox="runc", created_at=time.time() - 300,
    )  # fmt: skip


def view(phase: MovePhase, **more: Any) -> MoveView:
    return MoveView(
        id="m1", session="s123456789", source="here", target="there", strategy="lazy", phase=phase,
        started_at=time.time(), **more,
    )  # fmt: skip


PLAN = MovePlan(
    session="s123456789",
    source="here",
    target="there",
    strategy="lazy",
    page_bytes=2 * GB,
    layer_bytes=4096,
    frozen_s=0.15,
)
DONE = view(
    MovePhase.DONE, report=MoveReport(frozen_s=0.143, filled_s=0.81, page_bytes=1_073_741_824, layer_bytes=52_000)
)


class MadeUpClient:
    """A controller's client that remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.course = [view(MovePhase.PREPARING), view(MovePhase.FILLING, done_bytes=GB, total_bytes=2 * GB), DONE]
        self.plan = PLAN
        self.log_texts = iter(["one\n"])

    def __enter__(self) -> MadeUpClient:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def nodes(self) -> list[NodeView]:
        return [node("here"), node("there", "gpu")]

    def sessions(self, everything: bool = False) -> list[SessionView]:
        self.asked.append(("sessions", everything))
        return [session()]

    def session(self, name: str) -> SessionView:
        return session(name)

    def moves(self) -> list[MoveView]:
        return [DONE]

    def move(self, name: str, to: str, **options: Any) -> Moved:
        self.asked.append(("move", name, to, options))
        if name == "nobody":
            raise Unknown("There is no session nobody.", "`sojourn sessions` lists them.")
        started = None if options["dry_run"] or to == "here" else self.course[0]
        return Moved(session=session(), move=started, plan=self.plan)

    def watch(self, name: str) -> Iterator[Watched]:
        for step in self.course:
            yield Watched(session=session(), place=None, next_place=None, move=step)

    def log(self, name: str) -> str:
        text = next(self.log_texts, None)
        if text is None:
            raise KeyboardInterrupt
        return text

    def stop(self, name: str) -> SessionView:
        self.asked.append(("stop", name))
        return session(name)

    def tokens(self) -> list[dict[str, Any]]:
        return [{"id": "t1", "kind": "api", "name": "ada", "admin": False, "created_at": time.time()}]

    def create_token(self, kind: str, name: str) -> dict[str, Any]:
        return {"token": f"{kind}-secret-of-{name}"}

    def revoke_token(self, identity: str) -> None:
        self.asked.append(("revoke", identity))


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> MadeUpClient:
    made_up = MadeUpClient()
    for module in (lists, move, account, connection):
        monkeypatch.setattr(module, "connect", lambda: made_up)
    return made_up


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SOJOURN_HOME", str(tmp_path))
    monkeypatch.delenv("SOJOURN_CONTROLLER", raising=False)
    monkeypatch.delenv("SOJOURN_TOKEN", raising=False)
    return tmp_path


def run(*arguments: str, stdin: str | None = None) -> Any:
    return CliRunner().invoke(main.app, arguments, input=stdin, catch_exceptions=True)


# ── lists ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_nodes(client: MadeUpClient) -> None:
    lines = run("nodes").stdout.splitlines()
    assert lines[0].split()[:3] == ["NODE", "STATUS", "CORES"]
    assert lines[2].split() == ["there", "online", "2", "3.0", "GB", "8.0", "GB", "1", "lazy", "copy", "gpu", "now"]


def test_sessions_and_those_that_have_ended(client: MadeUpClient) -> None:
    assert "s1234567  analysis  running  here  runc     5 min" in run("sessions").stdout
    run("sessions", "--all")
    assert client.asked == [("sessions", False), ("sessions", True)]


def test_moves(client: MadeUpClient) -> None:
    line = run("moves").stdout.splitlines()[1]
    assert line.split()[:6] == ["m1", "s1234567", "here", "there", "lazy", "done"]
    assert "0.14 s" in line


@pytest.mark.parametrize("command", ["nodes", "sessions", "moves"])
def test_lists_as_json_hold_what_the_api_says(client: MadeUpClient, command: str) -> None:
    rows = json.loads(run(command, "--json").stdout)
    model, first = {"nodes": (NodeView, "id-here"), "sessions": (SessionView, "s123456789"), "moves": (MoveView, "m1")}[
        command
    ]
    assert next(model.model_validate(row).id for row in rows) == first


def test_an_empty_list_says_what_fills_it(client: MadeUpClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "nodes", list)
    assert "sojourn agent" in run("nodes").stdout
    assert json.loads(run("nodes", "--json").stdout) == []


def test_a_log_that_is_followed_prints_each_line_once(client: MadeUpClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "LOG_SECONDS", 0)
    client.log_texts = iter(["one\n", "one\n", "one\ntwo\n", "two\nthree\n"])
    assert run("logs", "analysis", "--follow").stdout == "one\ntwo\nthree\n"


@pytest.mark.parametrize(
    ("before", "now", "news"),
    [("", "a", "a"), ("ab", "abc", "c"), ("abc", "bcd", "d"), ("abc", "xyz", "xyz"), ("abc", "abc", "")],
)
def test_news_of_a_log(before: str, now: str, news: str) -> None:
    assert lists.news(before, now) == news


def test_stop(client: MadeUpClient) -> None:
    assert run("stop", "analysis").stdout == "Stopping analysis.\n"
    assert client.asked == [("stop", "analysis")]


# ── move ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_move_ends_with_one_line_of_truth(client: MadeUpClient) -> None:
    done = run("move", "analysis", "there", "--strategy", "lazy")
    assert done.stdout == (
        "here → there (lazy): frozen for 0.14 s, 1.1 GB of pages and 52 kB of files, every page there 0.81 s later\n"
    )
    options = {"strategy": "lazy", "carrier": "auto", "may_lose": (), "dry_run": False, "wait": "accepted"}
    assert client.asked == [("move", "analysis", "there", options)]


def test_a_move_watched_to_the_end_of_ctrl_c_goes_on(client: MadeUpClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(name: str) -> Iterator[Watched]:
        yield from [Watched(session=session(), place=None, next_place=None, move=client.course[1])]
        raise KeyboardInterrupt

    monkeypatch.setattr(client, "watch", interrupted)
    done = run("move", "analysis", "there")
    assert "1.0 GB of pages still filling" in done.stdout
    assert "the move goes on" in done.stderr


def test_resets_are_named() -> None:
    report = MoveReport(frozen_s=0.1, connections_reset=("tcp 10.0.0.1:5432",))
    assert move.truth(view(MovePhase.DONE, report=report)).endswith("; connections reset: tcp 10.0.0.1:5432")
    relayed = report.model_copy(update={"relayed": True})
    assert "(lazy, relayed by the controller): frozen for" in move.truth(view(MovePhase.DONE, report=relayed))


def test_a_move_that_failed_raises_its_error(client: MadeUpClient) -> None:
    error = MoveFailed("The target died.", "Try again.").to_wire()
    client.course = [view(MovePhase.PREPARING), view(MovePhase.FAILED, error=error)]
    done = run("move", "analysis", "there")
    assert isinstance(done.exception, MoveFailed)
    assert done.exception.hint == "Try again."
    assert done.stdout == ""


def test_another_sessions_last_move_is_not_taken_for_ours(client: MadeUpClient) -> None:
    client.course = [view(MovePhase.PREPARING), DONE.model_copy(update={"id": "m0"}), DONE]
    assert "0.14 s" in run("move", "analysis", "there").stdout


def test_a_session_that_is_there_already_stays(client: MadeUpClient) -> None:
    assert run("move", "analysis", "here").stdout == "It is on here already; nothing was done.\n"


def test_a_dry_run_says_what_would_happen(client: MadeUpClient) -> None:
    done = run("move", "analysis", "there", "--dry-run")
    assert done.exit_code == 0
    assert "here → there: it fits." in done.stdout
    assert "2.0 GB of pages" in done.stdout
    assert "stands still about 0.15 s" in done.stdout
    assert "all there:   after a time not yet known" in done.stdout


def test_a_dry_run_says_what_becomes_of_each_folder(client: MadeUpClient) -> None:
    folders = (Folder(path="/home/ada", mode="shared"), Folder(path="/raw", mode="left"))
    client.plan = PLAN.model_copy(
        update={"folders": (*folders, Folder(path="/work", mode="carried", size_bytes=5 * GB))}
    )
    said = run("move", "analysis", "there", "--dry-run").stdout
    assert "shared:      /home/ada: the very same one there" in said
    assert "left:        /raw: stays behind" in said
    assert "carried:     /work, 5.0 GB" in said


def test_the_last_line_names_what_stayed_behind() -> None:
    report = DONE.report.model_copy(update={"left": ("/raw (empty there)",)})
    assert move.truth(DONE.model_copy(update={"report": report})).endswith("; left behind: /raw (empty there)")


def test_a_dry_run_that_does_not_fit_ends_with_1(client: MadeUpClient) -> None:
    client.plan = PLAN.model_copy(update={"fits": False, "refusals": ("other CPU",), "hint": "Choose another node."})
    done = run("move", "analysis", "there", "--dry-run")
    assert done.exit_code == 1
    assert done.stdout.splitlines() == [
        "here → there: it can't move.",
        "  because: other CPU",
        "  Choose another node.",
    ]


LUGGAGE = Luggage(
    names=12,
    size_bytes=40_000_000,
    lost=(LostName(name="model", path="model.lock", why="a lock"),),
    notes=("cached: its cache arrives empty",),
)
BY_OBJECTS = PLAN.model_copy(update={"strategy": "objects", "luggage": LUGGAGE, "why": "CRIU can't: no runc"})


def test_a_dry_run_by_objects_says_what_travels_and_what_would_be_lost(client: MadeUpClient) -> None:
    client.plan = BY_OBJECTS
    said = run("move", "analysis", "there", "--dry-run", "--with", "objects", "--drop", "model", "--drop", "gen").stdout
    assert client.asked[-1][3]["may_lose"] == ("model", "gen")
    assert "strategy:    objects (CRIU can't: no runc)" in said
    assert "travels:     12 names, 40 MB, into a new kernel there" in said
    assert ["model", "model.lock", "a", "lock"] in [line.split() for line in said.splitlines()]
    assert "note: cached: its cache arrives empty" in said
    client.plan = BY_OBJECTS.model_copy(update={"fits": False, "refusals": ("It would lose model.",), "hint": "Drop."})
    assert "model.lock" in run("move", "analysis", "there", "--dry-run", "--drop-all").stdout
    assert client.asked[-1][3]["may_lose"] == ("*",)


def test_a_move_by_objects_ends_with_what_was_lost(client: MadeUpClient) -> None:
    report = MoveReport(frozen_s=0.3, page_bytes=40_000_000, lost=LUGGAGE.lost, notes=LUGGAGE.notes)
    client.course = [DONE.model_copy(update={"strategy": "objects", "report": report})]
    first, *losses = run("move", "analysis", "there", "--with", "objects").stdout.splitlines()
    assert first == "here → there (objects): frozen for 0.30 s, 40 MB, in a new kernel"
    assert [line.split()[0] for line in losses] == ["LOST", "model", "note:"]


def test_a_move_as_json(client: MadeUpClient) -> None:
    body = json.loads(run("move", "analysis", "there", "--json").stdout)
    assert body["move"]["report"]["frozen_s"] == 0.143
    assert body["plan"]["target"] == "there"


def test_an_unknown_strategy_is_a_usage_error(client: MadeUpClient) -> None:
    assert run("move", "analysis", "there", "--strategy", "quick").exit_code == 2
    assert client.asked == []


# ── completion ───────────────────────────────────────────────────────────────────────────────────────────────


def test_sessions_nodes_and_labels_complete(client: MadeUpClient) -> None:
    assert connection.complete_sessions("ana") == [("analysis", "running on here")]
    assert [name for name, _ in connection.complete_nodes("")] == ["here", "there", "gpu"]
    assert connection.complete_nodes("x") == []


def test_completion_is_silent_without_a_controller(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise Unreachable("down")

    monkeypatch.setattr(connection, "connect", refuse)
    assert connection.complete_nodes("") == []


# ── login and tokens ─────────────────────────────────────────────────────────────────────────────────────────


def test_login_tries_the_token_and_writes_it_for_this_user_alone(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sojourn import client as client_module
    from sojourn.settings import Controller, configured_controller

    opened: list[tuple[str, str]] = []

    def open_client(url: str, token: str) -> MadeUpClient:
        opened.append((url, token))
        return MadeUpClient()

    monkeypatch.setattr(client_module, "Client", open_client)
    done = run("login", "https://lab.example:8700/", stdin='secret"with\\quotes\n')
    assert done.exit_code == 0, done.output
    assert opened == [("https://lab.example:8700", 'secret"with\\quotes')]
    assert configured_controller() == Controller(*opened[0])
    path = own_home / "config/config.toml"
    assert path.stat().st_mode & 0o777 == 0o600
    assert run("logout").exit_code == 0
    assert configured_controller() is None


def test_a_controller_that_has_moved_keeps_its_token(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sojourn import client as client_module
    from sojourn.settings import Controller, configured_controller

    monkeypatch.setattr(client_module, "Client", lambda url, token: MadeUpClient())
    assert isinstance(run("login", "there.example", "--moved").exception, Invalid)
    account.write_settings("http://here.example", "secret")
    assert run("login", "there.example", "--moved").exit_code == 0
    assert configured_controller() == Controller("http://there.example", "secret")


def test_a_token_that_is_refused_is_not_written(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sojourn import client as client_module

    def refuse(url: str, token: str) -> None:
        raise Unreachable("down")

    monkeypatch.setattr(client_module, "Client", refuse)
    assert isinstance(run("login", "lab.example", "--token", "t").exception, Unreachable)
    assert not (own_home / "config").exists()


def test_login_keeps_the_rest_of_the_settings(own_home: Path) -> None:
    path = own_home / "config/config.toml"
    path.parent.mkdir()
    path.write_text('# mine\n[other]\nkey = "x"\n\n[controller]\nurl = "http://old"\n\n[more]\nn = 1\n')
    account.write_settings("https://new", "t")
    text = path.read_text()
    assert "# mine" in text
    assert 'key = "x"' in text
    assert "n = 1" in text
    assert "old" not in text
    assert text.endswith('[controller]\nurl = "https://new"\ntoken = "t"\n')


@pytest.mark.parametrize(
    ("given", "url"),
    [("lab:8700", "http://lab:8700"), ("https://lab/", "https://lab"), ("http://[::1]:80", "http://[::1]:80")],
)
def test_addresses_of_controllers(given: str, url: str) -> None:
    assert account.normal_url(given) == url


def test_a_token_that_names_an_authority_is_for_https_except_on_this_machine() -> None:
    assert account.normal_url("lab:8571", "secret.f00d") == "https://lab:8571"
    assert account.normal_url("127.0.0.1:8571", "secret.f00d") == "http://127.0.0.1:8571"
    assert account.normal_url("http://lab:8571", "secret.f00d") == "http://lab:8571"  # refused when it is dialled
    with Client("http://lab:8571", "secret.f00d") as dialled, pytest.raises(Unauthorized, match="not encrypted"):
        dialled.nodes()


def test_nodes_whose_traffic_can_be_read_on_the_way_are_named(client: MadeUpClient, monkeypatch) -> None:
    assert "encrypted" not in run("nodes").stdout
    open_one = node("far").model_copy(update={"traffic": "open"})
    monkeypatch.setattr(client, "nodes", lambda: [node("here"), open_one])
    assert "Not encrypted between machines: far." in run("nodes").stdout


@pytest.mark.parametrize("given", ["ftp://lab", "http://", "https://lab/user/ada", ""])
def test_addresses_that_mean_nothing(given: str) -> None:
    with pytest.raises(Invalid):
        account.normal_url(given)


def test_tokens(client: MadeUpClient) -> None:
    assert run("token", "create", "ada").stdout == "api-secret-of-ada\n"
    assert run("token", "create", "rack", "--kind", "join").stdout == "join-secret-of-rack\n"
    assert "t1  api   ada" in run("token", "list").stdout
    run("token", "revoke", "t1")
    assert client.asked == [("revoke", "t1")]


# ── up ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_names_of_nodes() -> None:
    assert parts.node_names(1) == ("here",)
    assert parts.node_names(4) == ("here", "there", "node3", "node4")


def test_jupyterlab_is_told_our_kernel_and_the_fronts_connections(tmp_path: Path) -> None:
    notebook = tmp_path / "a folder" / "first.ipynb"
    command = parts.lab_command(8890, browser=False, folder=tmp_path, notebook=notebook, connections=Path("/c"))
    assert command[:3] == [sys.executable, "-m", "jupyterlab"]
    assert "--no-browser" in command
    assert "--ServerApp.external_connection_dir=/c" in command
    assert f"--ServerApp.root_dir={tmp_path}" in command
    assert "--LabApp.default_url=/lab/tree/a%20folder/first.ipynb" in command
    assert "--MultiKernelManager.default_kernel_name=sojourn" in command


def test_the_folder_of_jupyterlab(tmp_path: Path) -> None:
    notebook = tmp_path / "work" / "first.ipynb"
    assert parts.lab_folder(None, None) == Path.cwd()
    assert parts.lab_folder(notebook, None) == tmp_path / "work"
    assert parts.lab_folder(notebook, tmp_path) == tmp_path
    with pytest.raises(Invalid, match="does not lie in"):
        parts.lab_folder(notebook, tmp_path / "elsewhere")


def test_up_refuses_beside_a_configured_controller(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOJOURN_CONTROLLER", "http://elsewhere")
    error = run("up", "--no-lab").exception
    assert "http://elsewhere" in str(error)
    assert "sojourn logout" in str(error)


def test_up_wants_at_least_one_node() -> None:
    assert run("up", "--nodes", "0").exit_code == 2


# ── the screen ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (3400, "3.4 kB"), (52_000, "52 kB"), (999_600, "1.0 MB"), (5e15, "5000 TB")],
)
def test_amounts(size: float, text: str) -> None:
    assert screen.amount(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.143, "0.14 s"), (12.3, "12 s"), (300, "5 min"), (7200, "2 h"), (172800, "2 d")]
)
def test_durations(seconds: float, text: str) -> None:
    assert screen.duration(seconds) == text


def test_what_a_pipe_gets_is_not_cut(client: MadeUpClient, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "a-name-that-is-longer-than-any-screen-would-show-" * 2
    monkeypatch.setattr(client, "sessions", lambda everything: [session(name)])
    assert name in run("sessions").stdout


# ── the command as a person runs it ──────────────────────────────────────────────────────────────────────────


def sojourn(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SOJOURN_")}
    return subprocess.run(
        [sys.executable, "-m", "sojourn.cli.main", *arguments],
        env=environment | {"SOJOURN_HOME": str(home)}, capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def test_an_error_is_one_line_and_a_hint_and_ends_with_1(tmp_path: Path) -> None:
    done = sojourn("nodes", home=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    first, second = done.stderr.splitlines()
    assert first.startswith("Error: No controller")
    assert second.startswith("Hint: `sojourn up`")


def test_debug_shows_where(tmp_path: Path) -> None:
    done = sojourn("--debug", "nodes", home=tmp_path)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "sojourn/cli/connection.py" in done.stderr


def test_usage_errors_end_with_2(tmp_path: Path) -> None:
    done = sojourn("move", home=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_starting_imports_nothing_slow() -> None:
    """`sojourn --help` and completion come quickly because none of these is needed to know the commands."""
    slow = ("httpx", "pydantic", "rich.table", "sqlalchemy", "fastapi", "jupyter_client", "psutil")
    code = f"import sys, sojourn.cli.main; sys.exit(', '.join(m for m in {slow!r} if m in sys.modules) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_version(tmp_path: Path) -> None:
    assert sojourn("version", home=tmp_path).stdout.startswith("sojourn 0.")
    assert json.loads(sojourn("version", "--json", home=tmp_path).stdout)["protocol"] == PROTOCOL
