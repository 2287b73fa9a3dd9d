"""Which CRIU is taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from sojourn.errors import Incompatible
from sojourn.sandbox import criu_path


def criu(folder: Path, says: str) -> Path:
    path = folder / "criu"
    folder.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


@pytest.fixture(autouse=True)
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOJOURN_CRIU", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(criu_path, "PRIVATE", tmp_path / "private/criu")
    monkeypatch.setattr(criu_path, "OLDEST", (4, 1))
    monkeypatch.setattr(criu_path, "OLDEST", (4, 1))


@pytest.mark.parametrize(
    ("kernel", "oldest"),
    [("6.1.0-37-amd64", (4, 1)), ("6.15.9", (4, 1)), ("6.16.0-rc1", (4, 2)), ("6.18.44", (4, 2)), ("7.0", (4, 2))],
)
def test_a_new_kernel_needs_a_newer_criu(kernel: str, oldest: tuple[int, int]) -> None:
    assert criu_path.oldest_for(kernel) == oldest


def test_the_users_choice_then_the_private_one_then_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_path = criu(tmp_path / "bin", "Version: 4.2")
    assert criu_path.find_criu() == (str(on_path), (4, 2))
    private = criu(tmp_path / "private", "Version: 4.2.1")
    assert criu_path.find_criu() == (str(private), (4, 2, 1))
    chosen = criu(tmp_path / "chosen", "Version: 4.1\nGitID: v4.1-9")
    monkeypatch.setenv("SOJOURN_CRIU", str(chosen))
    assert criu_path.find_criu() == (str(chosen), (4, 1))


def test_none_or_an_old_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Incompatible, match="not installed"):
        criu_path.find_criu()
    criu(tmp_path / "bin", "Version: 3.17.1")
    with pytest.raises(Incompatible, match=r"3\.17\.1"):
        criu_path.find_criu()


def test_how_new_it_must_be_depends_on_the_kernel() -> None:
    assert criu_path.oldest_for("6.1.0-18-amd64") == (4, 1)
    assert criu_path.oldest_for("6.18.3") == (4, 2)
