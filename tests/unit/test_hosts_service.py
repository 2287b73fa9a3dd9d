"""An agent as a service: its command line, its token, the unit of systemd."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from sojourn.agent.main import parse
from sojourn.cli import main, parts
from sojourn.errors import Invalid
from sojourn.hosts import service
from sojourn.hosts.__main__ import main as hosts

ASKED = [
    "--controller",
    "http://one:1",
    "--controller",
    "http://two:2",
    "--name",
    "gpu1",
    "--label",
    "a b",
    "--label",
    "gpu",
]


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SOJOURN_HOME", str(tmp_path))
    monkeypatch.setattr(service, "fitting", service.Background)
    return tmp_path


@pytest.mark.parametrize("listen", ["none", "0.0.0.0:7002", "[::]:7002"])
def test_the_command_line_says_the_same_again(home, listen):
    settings = parse([*ASKED, "--listen", listen, "--token", "secret", "--eviction", "aws"])
    assert "secret" not in service.arguments(settings)
    assert parse([*service.arguments(settings), "--token", "secret"]) == settings


def test_a_unit_starts_the_agent_for_ever_and_spares_its_sessions(tmp_path):
    argv = ["/opt/so journ/python", "-m", "sojourn.agent", "--label", '50%"$x']
    text = service.unit("gpu1", argv, "multi-user.target", {"SOJOURN_HOME": "/a b"})
    assert 'ExecStart="/opt/so journ/python" -m sojourn.agent --label "50%%\\"$$x"\n' in text
    assert 'Environment="SOJOURN_HOME=/a b"\n' in text
    assert "Restart=always\n" in text
    assert "KillMode=process\n" in text


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_systemd_understands_the_unit(tmp_path):
    path = tmp_path / "sojourn-agent-gpu1.service"
    path.write_text(service.unit("gpu1", [sys.executable, "-c", "a b"], "default.target", {"SOJOURN_HOME": "/a b"}))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", path], capture_output=True, text=True)
    assert not [line for line in done.stderr.splitlines() if path.name in line]


def test_what_is_installed_is_kept_privately(home, monkeypatch):
    monkeypatch.setattr(service.Background, "start", lambda *_: "started")
    with pytest.raises(Invalid, match="can't be called"):
        service.install(parse([*ASKED, "--name", "../up", "--token", "t"]))
    assert service.install(parse([*ASKED, "--token", "secret"])) == "started"
    token = service.folder("gpu1") / "token"
    assert (token.read_text(), token.stat().st_mode & 0o777) == ("secret", 0o600)
    assert service._installed("gpu1")["argv"][-2:] == ["--token-file", str(token)]
    assert service.installed() == ["gpu1"]


def test_the_command_agent_knows_both_an_agent_and_its_service(monkeypatch):
    became: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(parts, "_become", lambda module, arguments: became.append((module, arguments)))
    for line in (["--controller", "http://one"], ["install", "--controller", "http://one"], ["uninstall", "gpu1"]):
        assert CliRunner().invoke(main.app, ["agent", *line]).exit_code == 0
    assert [module for module, _ in became] == ["sojourn.agent", "sojourn.hosts", "sojourn.hosts"]
    assert became[2][1] == ["uninstall", "gpu1"]


def test_a_line_that_means_nothing_says_how_it_is_written(capsys):
    assert (hosts([]), hosts(["install"]), hosts(["uninstall"])) == (0, 2, 2)
    assert "usage: sojourn agent install" in capsys.readouterr().out
