"""A wheel is packed again from what is installed, an editable checkout too."""

from __future__ import annotations

import io
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

import sojourn
from sojourn.errors import SojournError
from sojourn.hosts import delivery, wheel


def entries(content: bytes) -> dict[str, bytes]:
    archive = zipfile.ZipFile(io.BytesIO(content))
    return {name: archive.read(name) for name in archive.namelist()}


def test_the_running_sojourn_is_packed_whole_and_always_alike():
    parcel = delivery.pack()
    found = entries(parcel.wheel)
    assert parcel.file == f"sojourn-{version('sojourn')}-py3-none-any.whl"
    assert found["sojourn/errors.py"] == (Path(sojourn.__file__).parent / "errors.py").read_bytes()
    assert any(name.endswith("seccomp.json") for name in found)
    assert any(name.endswith(".data/data/share/jupyter/kernels/sojourn/kernel.json") for name in found)
    assert b"sojourn.cli.main:main" in found[f"sojourn-{version('sojourn')}.dist-info/entry_points.txt"]
    assert not [name for name in found if name.endswith((".pyc", ".pth", "direct_url.json")) or ".." in name]
    assert parcel == delivery.pack()


def test_what_was_built_for_a_machine_says_so():
    file, content = wheel.wheel("pyzmq")
    assert file.startswith(f"pyzmq-{version('pyzmq')}-cp")
    found = entries(content)
    listed = {line.split(",")[0] for line in found[f"pyzmq-{version('pyzmq')}.dist-info/RECORD"].decode().splitlines()}
    assert listed == set(found)


def test_tags_are_compressed_as_in_file_names():
    assert wheel._compressed(["cp311-cp311-manylinux1_x", "cp311-cp311-manylinux2_x"]) == (
        "cp311-cp311-manylinux1_x.manylinux2_x"
    )


def test_a_distribution_without_a_list_of_files_is_refused(monkeypatch, tmp_path):
    info = tmp_path / "bare-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bare\nVersion: 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(SojournError, match="bare can't be packed"):
        wheel.wheel("bare")
