"""Settings and what lies on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from sojourn import settings
from sojourn.errors import Invalid


def test_a_log_stays_within_bounds_while_somebody_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "LOG_BYTES", 10)
    log = tmp_path / "here.log"
    settings.cap_log(log)
    with log.open("ab", buffering=0) as writer:
        writer.write(b"short")
        settings.cap_log(log)
        assert log.read_bytes() == b"short"
        writer.write(b" and long")
        settings.cap_log(log)
        writer.write(b"more")
    assert log.read_bytes() == b"more"
    assert (tmp_path / "here.log.1").read_bytes() == b"short and long"


def test_which_cpu_kernels_use_is_said_by_the_environment_or_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOJOURN_HOME", str(tmp_path))
    monkeypatch.delenv("SOJOURN_CPU", raising=False)
    assert settings.kernels_cpu() == "node"
    settings.config_folder().mkdir()
    (settings.config_folder() / "config.toml").write_text('[kernels]\ncpu = "fleet"\n')
    assert settings.kernels_cpu() == "fleet"
    monkeypatch.setenv("SOJOURN_CPU", "all")
    with pytest.raises(Invalid, match="'all'"):
        settings.kernels_cpu()


def test_what_is_said_of_folders_for_all_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOJOURN_HOME", str(tmp_path))
    assert settings.kernels_mounts() == ()
    file = settings.config_folder() / "config.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text('[[kernels.mounts]]\npath = "{cwd}"\nmode = "left"\n')
    assert settings.kernels_mounts() == ({"path": "{cwd}", "mode": "left"},)
    file.write_text('[kernels]\nmounts = "{cwd}"\n')
    with pytest.raises(Invalid, match="no list of folders"):
        settings.kernels_mounts()
