from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from sojourn.rider.build import build_rider


def test_the_same_rider_has_the_same_name_and_is_built_once(tmp_path: Path) -> None:
    first = build_rider(tmp_path)
    stamp = first.stat().st_mtime_ns
    assert build_rider(tmp_path) == first
    assert first.stat().st_mtime_ns == stamp
    assert build_rider(tmp_path / "elsewhere").read_bytes() == first.read_bytes()
    assert [path.name for path in tmp_path.glob("*.pyz")] == [first.name]


def test_it_holds_what_the_rider_imports_and_nothing_more(tmp_path: Path) -> None:
    names = {name.removesuffix("c") for name in zipfile.ZipFile(build_rider(tmp_path)).namelist()}
    folders = {str(Path(name).parent) for name in names}
    assert folders == {".", "sojourn", "sojourn/tunnel", "sojourn/transport", "sojourn/rider"}
    assert "sojourn/rider/build.py" not in names


def test_it_runs_without_site_packages_and_imports_the_standard_library_only(tmp_path: Path) -> None:
    code = f"""
import sys
sys.path.insert(0, {str(build_rider(tmp_path))!r})
import sojourn.rider.main
heavy = {{"asyncio", "subprocess", "threading", "pathlib", "dataclasses", "logging", "ssl", "hashlib", "random"}}
print(sorted(heavy & set(sys.modules)), sojourn.rider.main.__file__.endswith(".pyc"))
"""
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] True"
