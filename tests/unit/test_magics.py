"""The magic %sojourn, with a rider that is a socket in this test."""

import json
import os
import signal
import socket
import tempfile
import threading
from pathlib import Path

import pytest
from IPython.core.error import UsageError

from sojourn.jupyter import magics

NODE = {
    "name": "there",
    "status": "online",
    "capacity": {"cores": 2.0, "memory_bytes": 8 * 2**30, "gpus": 1},
    "load": {"memory_free_bytes": 6 * 2**30},
    "labels": ["gpu", "spot"],
}


class Rider:
    """Answers each line with the next answer, and keeps what was asked; None hangs up."""

    def __init__(self, path: str) -> None:
        self.asked: list[dict] = []
        self.answers: list[dict | None] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                line, _ = self._listener.accept()
            except OSError:
                return
            with line, line.makefile("rwb") as file:
                self.asked.append(json.loads(file.readline()))
                answer = self.answers.pop(0)
                if answer is not None:
                    file.write(json.dumps(answer).encode() + b"\n")

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def rider(monkeypatch):
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "verbs")
        monkeypatch.setenv("SOJOURN_SOCKET", path)
        rider = Rider(path)
        yield rider
        rider.close()


def test_nodes_are_a_table_with_a_mark_at_ours(rider):
    rider.answers = [{"ok": True, "body": {"nodes": [NODE, NODE | {"name": "here"}], "here": "here"}}]
    table = magics.sojourn("nodes")
    head, there, here = repr(table).splitlines()
    assert head.split() == ["node", "status", "cores", "memory", "GPUs", "labels"]
    assert there.split() == ["there", "online", "2", "6.0", "GB", "of", "8.0", "GB", "free", "1", "gpu", "spot"]
    assert here.startswith("*")
    assert "<td>gpu spot</td>" in table._repr_html_()


def test_where(rider):
    rider.answers = [{"ok": True, "body": {"session": {"name": "essay-1", "node": "here", "status": "running"}}}]
    assert repr(magics.sojourn("where")) == "essay-1 is on here (running)."


def test_where_there_is_no_network_it_says_so(rider):
    rider.answers = [{"ok": True, "body": {"session": SESSION, "no_network": "pasta is not installed"}}]
    assert repr(magics.sojourn("where")).endswith("\nIt has no network: pasta is not installed.")


def test_a_move_says_what_it_cost(rider):
    move = {"source": "here", "target": "there", "strategy": "lazy", "report": {"frozen_s": 0.1234}}
    session = {"name": "essay-1", "node": "there", "status": "filling"}
    rider.answers = [{"ok": True, "body": {"session": session, "plan": {}, "move": move}}]
    said = repr(magics.sojourn("move mem>=1G gpu --strategy lazy"))
    assert said == "essay-1 moved from here to there (lazy): frozen for 0.12 s."
    arguments = {"to": "mem>=1G gpu", "strategy": "lazy", "dry_run": False}
    assert rider.asked == [{"name": "move", "arguments": arguments}]


def test_a_move_by_objects_begins_when_the_cell_has_ended(rider):
    plan = {"target": "there", "why": "as asked, once this cell has ended"}
    rider.answers = [{"ok": True, "body": {"session": SESSION, "plan": plan, "move": None, "later": True}}]
    said = repr(magics.sojourn("move there --with objects --drop gen --drop conn"))
    assert said.startswith("essay-1 moves to there as objects when this cell has ended")
    known = {"carrier": "objects", "may_lose": ["gen", "conn"]}
    assert rider.asked[0]["arguments"].items() >= known.items()
    stayed = "As objects, session essay-1 would lose gen: a running generator."
    rider.answers = [{"ok": True, "body": {"session": SESSION, "stayed": stayed}}]
    assert repr(magics.sojourn("where")).endswith(f"\nIt asked to be moved, and stayed: {stayed}")


SESSION = {"id": "s" * 32, "name": "essay-1", "node": "here", "status": "running"}
CHECKPOINT = {
    "id": "c" * 32,
    "name": "before",
    "kind": "named",
    "created_at": 0.0,
    "problem": "",
    "report": {"memory_bytes": 44 * 2**20, "layer_bytes": 0, "frozen_s": 0.21},
}


def test_who_goes_to_sleep_is_told_before(rider):
    rider.answers = [{"ok": True, "body": {"session": SESSION}}]
    assert "when this cell has ended; any cell wakes it" in repr(magics.sojourn("suspend"))


@pytest.mark.parametrize(("back", "said"), [(False, "frozen for 0.21 s, 44 MB saved."), (True, "before again.")])
def test_a_checkpoint_is_asked_for_once_and_answered_in_each_life(rider, back, said):
    rider.answers = [{"ok": True, "body": {"session": SESSION, "checkpoint": CHECKPOINT, "back": back}}]
    assert repr(magics.sojourn("checkpoint before")).endswith(said)
    assert rider.asked == [{"name": "checkpoint", "arguments": {"name": "before"}}]


def test_checkpoints(rider):
    rider.answers = [{"ok": True, "body": {"checkpoints": [CHECKPOINT]}}, {"ok": True, "body": {"checkpoints": []}}]
    assert repr(magics.sojourn("checkpoints")).splitlines()[1].split()[:3] == ["cccccccc", "before", "named"]
    assert "makes one" in repr(magics.sojourn("checkpoints"))


def test_who_goes_back_says_so_before(rider, capsys):
    rider.answers = [None]
    with pytest.raises(UsageError, match="hung up"):
        magics.sojourn("restore before")
    assert capsys.readouterr().out.startswith("Going back to before:")
    assert rider.asked == [{"name": "restore", "arguments": {"checkpoint": "before"}}]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"forks": [SESSION | {"name": "twig-1"}], "back": False}, "sojourn attach twig-1"),
        ({"forks": [], "back": True}, "This is essay-1, which began here."),
    ],
)
def test_a_fork_answers_in_both(rider, body, said):
    rider.answers = [{"ok": True, "body": {"session": SESSION, **body}}]
    assert repr(magics.sojourn("fork twig --count 2 --node gpu")).endswith(said)
    assert rider.asked == [{"name": "fork", "arguments": {"name": "twig", "count": 2, "to": "gpu"}}]


PLAN = {"source": "here", "target": "there", "fits": True, "strategy": "lazy", "frozen_s": 0.151, "page_bytes": 2**30}
PLAN |= {"layer_bytes": 0, "connections_reset": ["tcp 10.0.0.1:5432"], "refusals": [], "hint": ""}
WORK = {"path": "/work", "mode": "carried", "size_bytes": 5 << 20}
RAW = {"path": "/raw", "mode": "left", "size_bytes": 0}
LOST = [{"name": "model", "path": "model.lock", "why": "a lock"}]
LUGGAGE = {"names": 12, "size_bytes": 40_000_000, "lost": LOST, "notes": ["f: its cache arrives empty"]}
NO_ROOM = {"fits": False, "refusals": ["It has 1 GB free, not 2 GB."], "hint": "Name another node."}


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (
            PLAN,
            "it would move from here to there (lazy), frozen for about 0.15 s, with 1.0 GB.\n"
            "These connections would be reset: tcp 10.0.0.1:5432.",
        ),
        (PLAN | {"no_network": "no pasta"}, "10.0.0.1:5432.\nIt would have no network there: no pasta."),
        (
            PLAN | {"folders": [{"path": "/home/ada", "mode": "shared", "size_bytes": 0}, WORK, RAW]},
            "/home/ada is the very same folder there.\nIt carries /work, 5 MB.\n"
            "It leaves /raw behind, and would see the folder of that path there, or an empty one.",
        ),
        (
            PLAN | {"strategy": "objects", "why": "as asked", "luggage": LUGGAGE},
            "it would move from here to there as objects (as asked): 12 names, 38 MB.\n"
            "model.lock would be lost: a lock.\nf: its cache arrives empty.",
        ),
        (PLAN | NO_ROOM, "it can't move to there.\nIt has 1 GB free, not 2 GB.\nName another node."),
        (None, "is on here already."),
    ],
)
def test_a_dry_run_says_what_would_happen(rider, plan, said):
    session = {"name": "essay-1", "node": "here", "status": "running"}
    rider.answers = [{"ok": True, "body": {"session": session, "plan": plan, "move": None}}]
    assert repr(magics.sojourn("move there --dry-run")).endswith(said)
    assert rider.asked[0]["arguments"]["dry_run"] is True


def test_a_refusal_is_a_usage_error_with_its_hint(rider):
    rider.answers = [
        {"ok": False, "body": {"code": "unknown", "message": "No node moon.", "hint": "Try %sojourn nodes."}}
    ]
    with pytest.raises(UsageError, match=r"No node moon\.\nTry %sojourn nodes\."):
        magics.sojourn("move moon")


def test_a_rider_that_hangs_up(rider):
    rider.answers = [None]
    with pytest.raises(UsageError, match="hung up"):
        magics.sojourn("where")


@pytest.mark.parametrize("line", ["", "fly", "move", "move there --strategy magic", "where now"])
def test_what_means_nothing_shows_the_usage(line):
    with pytest.raises(UsageError, match="%sojourn nodes"):
        magics.sojourn(line)


def test_outside_a_session(monkeypatch):
    monkeypatch.delenv("SOJOURN_SOCKET", raising=False)
    with pytest.raises(UsageError, match="Choose the kernel"):
        magics.sojourn("where")


def test_an_interrupt_ends_the_wait(monkeypatch):
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as silent:
        path = str(Path(folder) / "verbs")
        silent.bind(path)
        silent.listen()
        monkeypatch.setenv("SOJOURN_SOCKET", path)
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            with pytest.raises(KeyboardInterrupt):
                magics.sojourn("where")
        finally:
            signal.signal(signal.SIGINT, before)


def test_the_file_needs_only_the_standard_library_and_ipython():
    import ast
    import sys

    tree = ast.parse(Path(magics.__file__).read_text())
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert {name.partition(".")[0] for name in names} <= {*sys.stdlib_module_names, "IPython", "ipykernel"}


@pytest.fixture
def space(monkeypatch):
    from types import SimpleNamespace

    space = {"gen": 1, "pool": 2}
    monkeypatch.setattr(magics, "get_ipython", lambda: SimpleNamespace(user_ns=space))
    return space


def test_names_are_marked_as_recomputable_and_forgotten_again(space):
    from sojourn.objects import marks

    assert "nothing is marked" in repr(magics.sojourn("recomputable"))
    assert "gen, pool" in repr(magics.sojourn("recomputable pool gen"))
    assert marks(space) == ("gen", "pool")
    assert "pool" not in repr(magics.sojourn("recomputable --forget pool"))
    assert marks(space) == ("gen",)
    del space["gen"]
    assert marks(space) == ()


@pytest.mark.parametrize("line", ["recomputable gen nosuch", "recomputable --forget pool"])
def test_what_makes_no_sense_marks_nothing(space, line):
    before = dict(space)
    with pytest.raises(UsageError):
        magics.sojourn(line)
    assert space == before
