"""The doctor on this very machine, with the real runc and CRIU."""

from __future__ import annotations

from pathlib import Path

import pytest

from sojourn.doctor import Machine, State, examine, proof
from sojourn.doctor.findings import Finding
from sojourn.sandbox.mounts import mounts_below
from sojourn.sandbox.runc import runc_missing
from sojourn.settings import nodes_folder

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(runc_missing() is not None, reason=f"no runc sandboxes here: {runc_missing()}"),
]


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOJOURN_HOME", str(tmp_path))


@pytest.fixture(scope="module")
def lacking() -> list[Finding]:
    return [finding for finding in examine(Machine(), prove=False) if finding.state is State.MISSING]


@pytest.mark.parametrize("strategy", ["lazy", "copy"])
def test_a_counter_moves_counts_on_and_leaves_nothing_behind(strategy: str, lacking: list[Finding]) -> None:
    if lacking:
        pytest.skip(f"the doctor misses {', '.join(finding.name for finding in lacking)}")
    assert 0 < proof.move_a_counter(strategy) < proof.PATIENCE_SECONDS
    assert mounts_below(nodes_folder()) == []
    assert list(nodes_folder().iterdir()) == []
    assert not list(Path("/dev/shm").glob("sojourn-*/doctor-*"))


def test_a_move_that_fails_is_told_in_one_line_and_leaves_nothing_behind(
    lacking: list[Finding], monkeypatch: pytest.MonkeyPatch
) -> None:
    if lacking:
        pytest.skip(f"the doctor misses {', '.join(finding.name for finding in lacking)}")
    monkeypatch.setattr(proof, "COUNTER", "echo this never counts; exec sleep 60")
    monkeypatch.setattr(proof, "PATIENCE_SECONDS", 0.3)
    finding = proof.check_proof(Machine(), lacking=())
    assert finding.state is State.MISSING
    assert "it did not start to count" in finding.detail
    assert "\n" not in finding.detail
    assert mounts_below(nodes_folder()) == []
    assert list(nodes_folder().iterdir()) == []
