"""Adding and removing a host step by step, against a made-up host and controller: what is refused, and what a failed
step leaves behind."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from tests.unit.test_cli import node, session
from tests.unit.test_hosts_survey import SAID

from sojourn.cli.hosts import Talk, ability
from sojourn.errors import Invalid, Refused, SojournError, Unknown, Unreachable
from sojourn.hosts import addition, book, delivery, removal, ssh
from sojourn.hosts.addition import Addition, Wish
from sojourn.hosts.book import Host
from sojourn.settings import Controller

OURS = Controller("http://127.0.0.1:40000", "api")
ROOT = SAID.replace("uid=1000", "uid=0").replace("delivered=0.1.0+abc", f"delivered={delivery.pack().fingerprint}")
CURES = """[{"state": "missing", "cure": "apt-get install runc", "automatic": true},
{"state": "missing", "cure": "another kernel", "automatic": false},
{"state": "ok", "cure": null, "automatic": false}]"""


class MadeUpHost:
    """Answers scripts by the first word of `answers` that stands in them, nothing by default."""

    host = Host("far", "ada@far")

    def __init__(self, **answers: str | SojournError) -> None:
        self.answers: dict[str, str | SojournError] = {"df -Pk": ROOT, "doctor": CURES, **answers}
        self.asked: list[str] = []

    def ask(self, script: str) -> str:
        self.asked.append(script)
        answer = next((answer for word, answer in self.answers.items() if word in script), "")
        if isinstance(answer, SojournError):
            raise answer
        return answer


class MadeUpController:
    def __init__(self) -> None:
        self.names, self.alive, self.tokens, self.done = ["here"], [], {"1": "secret"}, []

    def nodes(self) -> list[Any]:
        return [node(name) for name in self.names]

    def sessions(self) -> list[Any]:
        return self.alive

    def create_token(self, kind: str, name: str, **options: Any) -> dict[str, str]:
        assert (kind, options["uses"]) == ("join", 1)
        return {"id": "1", "token": "secret"}

    def revoke_token(self, identity: str) -> None:
        del self.tokens[identity]

    def stop(self, name: str) -> None:
        self.done.append(f"stop {name}")
        self.alive = []

    def forget_node(self, name: str) -> None:
        self.done.append(f"forget {name}")
        if name not in self.names:
            raise Unknown(name)

    def __enter__(self) -> MadeUpController:
        return self

    def __exit__(self, *_: object) -> None: ...


class Voice:
    def __init__(self) -> None:
        self.heard: list[str] = []

    @contextmanager
    def step(self, title: str):
        self.heard.append(title)
        yield

    def ask(self, what: str, lines) -> None:
        self.heard += lines

    def say(self, sentence: str) -> None:
        self.heard.append(sentence)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SOJOURN_HOME", str(tmp_path))
    monkeypatch.setattr(addition, "_require_no_questions", lambda host: None)


def run(there: MadeUpHost, controller: MadeUpController, wish: Wish | None = None) -> list[str]:
    voice = Voice()
    with ExitStack() as undo:
        adding = Addition(wish or Wish("ada@far", labels=("gpu",)), OURS, controller, there, voice, undo)  # type: ignore[arg-type]
        adding.run(Host("far", "ada@far"), lambda: controller.done.append("tie"))
        undo.pop_all()
    return voice.heard


def test_a_host_becomes_a_node():
    there, controller = MadeUpHost(), MadeUpController()
    install = "-m sojourn.hosts install --controller http://127.0.0.1:8572 --name far --label gpu --listen none"
    there.answers[install] = "systemd starts it"
    controller.nodes = lambda: [node("far")] if "install" in there.asked[-1] else []  # type: ignore[method-assign]
    heard = run(there, controller)
    assert "This very Sojourn is in /opt/sojourn/venv already." in heard
    assert "apt-get install runc" in heard
    assert "another kernel" not in heard
    assert heard[-1] == "Systemd starts it."
    assert book.hosts()["far"].port == 8572, "8571 is taken there"
    assert controller.tokens == {}
    assert sum("--fix" in script for script in there.asked) == 1


def test_a_host_that_does_not_reach_the_controller_is_not_kept():
    there, controller = MadeUpHost(urllib=SojournError("refused")), MadeUpController()
    with pytest.raises(Unreachable, match="does not reach the controller: refused"):
        run(there, controller)
    assert book.hosts() == {}
    assert not any("hosts install" in script for script in there.asked)


def test_an_agent_that_does_not_come_is_quoted_and_removed_again(monkeypatch):
    monkeypatch.setattr(addition, "ONLINE_SECONDS", 0.0)
    there, controller = MadeUpHost(**{"hosts log": "no space left"}), MadeUpController()
    with pytest.raises(Unreachable, match="no space left"):
        run(there, controller)
    assert "hosts uninstall far" in there.asked[-1]
    assert book.hosts() == {}
    assert controller.tokens == {}


def test_names_are_what_ssh_calls_a_host_and_nobody_elses():
    taken = MadeUpController().nodes()
    assert addition._host(Wish("ssh://ada@far:2222"), taken, "").name == "far"
    assert addition._host(Wish("box", name="gpu1"), taken, "").name == "gpu1"
    for wish, why in ((Wish("ada@here"), "a node here already"), (Wish("ada@other", name="far"), "ada@far already")):
        book.keep(Host("far", "ada@far"))
        with pytest.raises(Refused, match=why):
            addition._host(wish, taken, "")
    for nothing in ("-oProxyCommand=x", "", "ada@", "a b", "ada@::1"):
        with pytest.raises(Invalid):
            addition._host(Wish(nothing), taken, "")
    with pytest.raises(Invalid, match="can't be called"):
        addition._host(Wish("ada@far", name="../../up"), taken, "")


def test_what_is_not_said_again_stays():
    book.keep(known := Host("far", "ada@far", ("Port=2",), port=8573))
    assert addition._host(Wish("ada@far"), [node("far")], "") == known
    assert addition._as_before(Wish("ada@far"), [node("far", "gpu")], "far") == Wish("ada@far", labels=("gpu",))
    book.keep(Host("far", "ada@far"))
    assert addition._as_before(Wish("ada@far", labels=("a",)), [], "far") == Wish("ada@far", labels=("a",), direct=True)
    assert not addition._as_before(Wish("ada@new"), [], "new").direct


def test_a_way_that_can_not_work_is_refused():
    far = Host("far", "ada@far")
    with pytest.raises(Invalid, match="listens on this machine alone"):
        addition._require_way(Wish("ada@far", direct=True), OURS, far)
    with pytest.raises(Invalid, match="certificate"):
        addition._require_way(Wish("ada@far"), Controller("https://lab", ""), far)
    addition._require_way(Wish("ada@far"), OURS, far)
    addition._require_way(Wish("ada@far"), Controller("https://lab", "secret.f00d"), far)  # known by its fingerprint
    addition._require_way(Wish("ada@far", direct=True), Controller("https://lab", ""), far)


def test_with_sudo_root_does_it_and_without_a_script_in_the_command_line(monkeypatch):
    shell = ssh.Connection(Host("far", "ada@far", sudo=True)).shell
    assert shell("-s") == ["sudo", "-n", "-H", "sh", "-s"]


@pytest.fixture
def controller(monkeypatch):
    made = MadeUpController()
    made.names.append("far")
    monkeypatch.setattr(removal, "Client", lambda *_: made)
    return made


def test_sessions_end_only_by_force(controller):
    controller.alive = [session(place="far")]
    removal.remove("far", "end", OURS, lambda: None, Voice())
    assert controller.done == ["stop s123456789", "forget far"]


def test_a_host_that_can_not_be_reached_is_forgotten_by_force_only(controller, monkeypatch):
    def unreachable(host):
        raise Unreachable("no route to host")

    monkeypatch.setattr(removal, "Connection", unreachable)
    book.keep(Host("far", "ada@far", port=8571))
    with pytest.raises(Unreachable, match="no route"):
        removal.remove("far", "ask", OURS, lambda: None, Voice())
    assert "far" in book.hosts()
    voice = Voice()
    removal.remove("far", "end", OURS, lambda: None, voice)
    assert "What was installed on ada@far is left there: no route to host" in voice.heard
    assert book.hosts() == {}
    with pytest.raises(Unknown):
        removal.remove("nobody", "ask", OURS, lambda: None, Voice())


def test_a_line_says_what_a_new_node_can_do():
    able = node("far")
    assert ability(able, "through ssh").endswith("sessions move live (lazy, copy); relayed through ssh.")
    lacking = able.capabilities.model_copy(update={"strategies": (), "refusals": {"runc": "runc sandboxes need root"}})
    said = ability(able.model_copy(update={"capabilities": lacking}), "through ssh")
    assert "no live moves: runc sandboxes need root" in said


def test_nobody_to_ask_is_no_consent(monkeypatch):
    with pytest.raises(Invalid, match="Nobody is there"):
        Talk(yes=False).ask("Install?", ["this"])
    Talk(yes=True).ask("Install?", ["this"])
