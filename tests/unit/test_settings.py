"""Settings and what lies on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from sojourn import settings


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
