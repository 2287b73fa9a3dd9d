"""The rider as one file that any Python can run: `python -I -S rider-….pyz CONFIG`."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import marshal
import os
import zipfile
from pathlib import Path

import sojourn

_PARTS = ("__init__.py", "errors.py", "tunnel", "transport", "rider")
_NOT_INSIDE = ("build.py",)
_MAIN = b"from sojourn.rider.main import main\nmain()\n"
_LONG_AGO = (1980, 1, 1, 0, 0, 0)


def build_rider(folder: Path) -> Path:
    """The zipapp of this version's rider in `folder`, built if it is not there; its name tells its content.

    It holds sources, and byte code for the Python that builds it, which others pass over. Raises OSError.
    """
    body = _pack()
    path = folder / f"rider-{hashlib.sha256(body).hexdigest()[:16]}.pyz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        draft.write_bytes(body)
        draft.chmod(0o644)
        draft.replace(path)
    return path


def _pack() -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        _add(archive, "__main__.py", _MAIN)
        for source in _sources():
            _add(archive, f"sojourn/{source.relative_to(_root()).as_posix()}", source.read_bytes())
    return memory.getvalue()


def _root() -> Path:
    return Path(str(sojourn.__file__)).parent


def _sources() -> list[Path]:
    found: list[Path] = []
    for part in _PARTS:
        path = _root() / part
        found += path.rglob("*.py") if path.is_dir() else [path]
    return sorted(path for path in found if path.name not in _NOT_INSIDE)


def _add(archive: zipfile.ZipFile, name: str, source: bytes) -> None:
    archive.writestr(zipfile.ZipInfo(name, _LONG_AGO), source)
    archive.writestr(zipfile.ZipInfo(f"{name}c", _LONG_AGO), _byte_code(name, source))


def _byte_code(name: str, source: bytes) -> bytes:
    """A .pyc that is not checked against its source (PEP 552): magic number, flags 1, hash, code."""
    code = compile(source, name, "exec", dont_inherit=True, optimize=0)
    return (
        importlib.util.MAGIC_NUMBER
        + (1).to_bytes(4, "little")
        + importlib.util.source_hash(source)
        + marshal.dumps(code)
    )
