from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sojourn.agent.agent import outward_address
from sojourn.agent.capabilities import sandbox_kinds
from sojourn.agent.main import TOKEN_VARIABLE, parse
from sojourn.errors import DoesNotFit, Invalid

URL = ["--controller", "http://127.0.0.1:1"]


def test_what_the_arguments_say() -> None:
    words = ["--token", "t", "--name", "here", "--label", "gpu", "--label", "big", "--listen", "[::1]:7002"]
    settings = parse([*URL, *words, "--folder", "/f"])
    assert (settings.controller, settings.join_token, settings.name) == ("http://127.0.0.1:1", "t", "here")
    assert (settings.labels, settings.host, settings.port) == (("gpu", "big"), "::1", 7002)
    assert (settings.folder, settings.sandbox) == (Path("/f"), "auto")


def test_the_token_may_come_from_a_file_or_the_environment_which_is_emptied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("from a file\n")
    assert parse([*URL, "--token-file", str(tmp_path / "token")]).join_token == "from a file"
    monkeypatch.setenv(TOKEN_VARIABLE, "from the environment")
    assert parse(URL).join_token == "from the environment"
    assert parse(URL).join_token == ""


def test_it_need_not_listen() -> None:
    assert parse(URL).host == "127.0.0.1"
    assert parse([*URL, "--listen", "none"]).host == ""


@pytest.mark.parametrize("address", ["7002", "host:", "host:port", ":7002", "host:99999"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(Invalid, match="not an address"):
        parse([*URL, "--listen", address])


@pytest.mark.parametrize("url", ["ftp://host", "host:8571", ""])
def test_a_controller_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(Invalid, match="not the address of a controller"):
        parse(["--controller", url])


def test_who_gives_eviction_notices() -> None:
    assert parse(URL).eviction == "none"
    for source in ("aws", "gcp", "azure", "file:/run/evicted", "signal"):
        assert parse([*URL, "--eviction", source]).eviction == source
    assert parse([*URL, "--eviction", "aws", "--metadata-url", "http://h"]).metadata_url == "http://h"
    for source in ("file:", "file", "ibm", ""):
        with pytest.raises(Invalid, match="no eviction notices"):
            parse([*URL, "--eviction", source])


def test_a_token_file_that_is_not_there_is_refused() -> None:
    with pytest.raises(Invalid, match="join token"):
        parse([*URL, "--token-file", "/no/such/file"])


def test_the_kinds_of_sandbox_follow_what_is_there() -> None:
    assert sandbox_kinds("auto", {}) == ("runc", "process")
    assert sandbox_kinds("auto", {"runc": "no root"}) == ("process",)
    assert sandbox_kinds("process", {}) == ("process",)
    assert sandbox_kinds("runc", {}) == ("runc",)
    with pytest.raises(DoesNotFit, match="no root"):
        sandbox_kinds("runc", {"runc": "no root"})


def test_a_controller_may_have_several_addresses() -> None:
    settings = parse([*URL, "--controller", "http://127.0.0.1:2", "--token", "t"])
    assert (settings.controller, settings.elsewhere) == ("http://127.0.0.1:1", ("http://127.0.0.1:2",))


def test_the_address_on_the_way_to_the_controller() -> None:
    assert outward_address("http://127.0.0.1:8000") == "127.0.0.1"


def test_an_agent_starts_without_what_it_does_not_need_or_only_linux_has() -> None:
    unwanted = {
        "fastapi",
        "httpx",
        "sqlalchemy",
        "zmq",
        "rich",
        "pyroute2",
        "sojourn.sandbox.runc",
        "sojourn.movers.halves",
    }
    code = f"import sojourn.agent.main, sys; print({unwanted} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
