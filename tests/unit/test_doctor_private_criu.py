"""What surrounds the download: the mirror, apt's private options, the wrapper, and leaving alone what works."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from sojourn.doctor import private_criu
from sojourn.doctor.private_criu import Mirror, NotInstalled


def unpacked(root: Path, version: str = "9.1.1") -> Path:
    """A folder as the packages leave it, with a linker that is a script."""
    for name in ("usr/lib64", "usr/lib/x86_64-linux-gnu", "usr/sbin"):
        (root / name).mkdir(parents=True)
    linker = root / "usr/lib64/ld-linux-x86-64.so.2"
    linker.write_text(f'#!/bin/sh\necho "Version: {version}" "$@"\n')
    linker.chmod(0o755)
    (root / "usr/sbin/criu").write_text("")
    return root


def test_the_source_names_the_machines_own_mirror() -> None:
    source = Mirror("http://mirror.test/debian/", "/keys.gpg").source("trixie", "main")
    assert "URIs: http://mirror.test/debian/\nSuites: trixie\nComponents: main\nSigned-By: /keys.gpg\n" in source
    assert "Signed-By" not in Mirror("http://mirror.test/debian/", "").source("trixie", "main")


def test_the_mirror_is_the_archive_not_its_security_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = "Debian\thttp://m.test/debian-security/\nOther\thttp://o.test/\nDebian\thttp://m.test/debian/\n"
    monkeypatch.setattr(private_criu, "_run", lambda *argv, cwd=None: rows)
    assert private_criu.own_mirror("debian").uri == "http://m.test/debian/"
    with pytest.raises(NotInstalled, match="apt-get update"):
        private_criu.own_mirror("ubuntu")


def test_the_wrapper_starts_criu_by_its_own_linker_wherever_the_folder_lies(tmp_path: Path) -> None:
    home = unpacked(tmp_path / "a folder")
    private_criu.write_wrapper(home, home)
    said = subprocess.run([home / "criu", "check", "two words"], capture_output=True, text=True, check=True).stdout
    assert "--library-path" in said
    assert said.rstrip().endswith("usr/sbin/criu check two words")
    assert private_criu.version_of(home) == (9, 1, 1)


def test_packages_without_criu_are_refused(tmp_path: Path) -> None:
    (tmp_path / "usr/lib64").mkdir(parents=True)
    with pytest.raises(NotInstalled, match="ld-linux"):
        private_criu.write_wrapper(tmp_path, tmp_path)


def test_a_criu_that_is_too_old_is_refused(tmp_path: Path) -> None:
    home = unpacked(tmp_path / "x", version="3.19")
    private_criu.write_wrapper(home, home)
    with pytest.raises(NotInstalled, match=r"bookworm has criu 3\.19"):
        private_criu._prove(home, "bookworm")


def test_suites_are_tried_in_turn_and_a_failure_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(suite: str, source: str, folder: Path) -> Path:
        raise subprocess.CalledProcessError(100, ["apt-get"], "", f"E: no {suite} here\n")

    monkeypatch.setattr(private_criu, "own_mirror", lambda distribution: Mirror("http://m.test/", ""))
    monkeypatch.setattr(private_criu, "_install_from", refuse)
    monkeypatch.setattr(private_criu, "read_distribution", lambda text: private_criu_debian())
    folder = tmp_path / "criu"
    folder.mkdir()
    (folder / "criu").write_text("what works")
    assert private_criu.main(["", str(folder)]) == 1
    assert (folder / "criu").read_text() == "what works"
    said = capsys.readouterr()
    assert [f"Trying criu from {suite} …" for suite in private_criu.SUITES["debian"]] == said.out.splitlines()
    assert "sid: apt-get: E: no sid here" in said.err


def private_criu_debian() -> object:
    from sojourn.doctor.machine import Distribution

    return Distribution("debian", "12", "", "debian")


def test_replacing_takes_the_old_folder_away(tmp_path: Path) -> None:
    folder, draft = tmp_path / "criu", tmp_path / ".criu.draft"
    for path, text in ((folder, "old"), (draft, "new")):
        path.mkdir()
        (path / "criu").write_text(text)
    private_criu._replace(folder, draft)
    assert (folder / "criu").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".criu.draft", "criu"]
