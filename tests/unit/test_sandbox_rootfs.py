"""Where a path of a sandbox lies on the node, and what a root is made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from sojourn.errors import Incompatible, SandboxFailed
from sojourn.sandbox import rootfs


def test_links_are_followed_as_they_would_be_inside(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "var").mkdir()
    (tmp_path / "var/run").symlink_to("/run")
    assert rootfs.resolve_inside(tmp_path, "/var/run/x/y") == tmp_path / "run/x/y"
    assert rootfs.resolve_inside(tmp_path, "/../../x") == tmp_path / "x"


def test_a_link_never_leads_out_of_the_root(tmp_path: Path) -> None:
    (tmp_path / "up").symlink_to("../../../..")
    (tmp_path / "away").symlink_to("/up/tmp")
    assert rootfs.resolve_inside(tmp_path, "/up/etc/passwd") == tmp_path / "etc/passwd"
    assert rootfs.resolve_inside(tmp_path, "/away/x") == tmp_path / "tmp/x"


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(SandboxFailed, match="round"):
        rootfs.resolve_inside(tmp_path, "/a/x")


def test_a_root_folder_that_is_missing_is_refused() -> None:
    assert rootfs.lower_of(None) == (["/"], "")
    with pytest.raises(Incompatible, match="/no/such/root"):
        rootfs.lower_of("/no/such/root")


def test_an_image_without_podman_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rootfs.shutil, "which", lambda name: None)
    with pytest.raises(Incompatible, match="podman"):
        rootfs.lower_of("docker.io/library/python:3.12")


def test_a_file_is_found_in_the_first_layer_that_has_it(tmp_path: Path) -> None:
    for name in ("upper/usr/bin", "lower/bin"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "lower/bin/python3").touch()
    layers = [str(tmp_path / "upper"), str(tmp_path / "lower")]
    assert rootfs.find_in(layers, ["/usr/bin/python3", "/bin/python3"]) == "/bin/python3"
    assert rootfs.find_in(layers, ["/usr/bin/python3"]) is None


def test_what_is_on_another_mount_is_not_in_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rootfs, "mounts_below", lambda folder: [Path("/"), Path("/usr")])
    assert rootfs.find_in(["/"], ["/usr/bin/env"]) is None


def test_folders_with_state_and_tokens_are_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOJOURN_HOME", str(tmp_path))
    hidden = rootfs.hidden_folders()
    assert {str(tmp_path / "config"), str(tmp_path / "data"), "/var/lib/sojourn"} <= set(hidden)
