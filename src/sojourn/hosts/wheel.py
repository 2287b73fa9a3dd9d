"""A wheel made again from what is installed here, so that a host gets this very Sojourn: no index has to have it, and
nothing is built. An editable checkout gives what lies in it now."""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution
from pathlib import Path

from sojourn.errors import SojournError

_OF_THE_INSTALLER = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_build.json", "uv_cache.json"}


def wheel(name: str, package: Path | None = None) -> tuple[str, bytes]:
    """The file name and the content of the wheel of a distribution that is installed here; made twice it is the same.

    `package`: the folder of its one package, for one that is installed as an editable checkout. Raises SojournError
    for one whose installer left no list of files.
    """
    found = Distribution.from_name(name)
    entries = dict(sorted(_entries(found, package)))
    info = next((path.split("/")[0] for path in entries if path.endswith(".dist-info/WHEEL")), None)
    if info is None:
        raise SojournError(f"The installed {name} can't be packed: it has no list of its files.", "Install it by pip.")
    entries[f"{info}/RECORD"] = _record(entries, f"{info}/RECORD")
    tags = [line.split()[1] for line in entries[f"{info}/WHEEL"].decode().splitlines() if line.startswith("Tag:")]
    return f"{info.removesuffix('.dist-info')}-{_compressed(tags)}.whl", _zipped(entries)


def _entries(found: Distribution, package: Path | None) -> Iterator[tuple[str, bytes]]:
    """Path in the wheel -> content."""
    data = f"{found.name.replace('-', '_')}-{found.version}.data/data"
    for path in found.files or ():
        parts = path.parts
        real = Path(str(found.locate_file(path)))
        if "__pycache__" in parts or ("bin" in parts[:-1] and ".." in parts) or not real.is_file():
            continue
        if ".." in parts:  # what goes below the environment itself, as kernelspecs
            yield f"{data}/{'/'.join(part for part in parts if part != '..')}", real.read_bytes()
        elif parts[-1] not in _OF_THE_INSTALLER and not (package and len(parts) == 1):
            yield path.as_posix(), real.read_bytes()
    if package:
        for real in sorted(package.rglob("*")):
            if real.is_file() and "__pycache__" not in real.parts:
                yield real.relative_to(package.parent).as_posix(), real.read_bytes()


def _compressed(tags: list[str]) -> str:
    """`cp311-cp311-manylinux1.manylinux2`: each of the three parts of the tags once."""
    columns = zip(*(tag.split("-") for tag in tags), strict=True)
    return "-".join(".".join(dict.fromkeys(column)) for column in columns)


def _record(entries: dict[str, bytes], itself: str) -> bytes:
    rows = []
    for path, content in entries.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        rows.append(
            f'"{path}",sha256={digest},{len(content)}\n' if "," in path else f"{path},sha256={digest},{len(content)}\n"
        )
    return "".join([*rows, f"{itself},,\n"]).encode()


def _zipped(entries: dict[str, bytes]) -> bytes:
    """With no times in it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path, content in entries.items():
            entry = zipfile.ZipInfo(path)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    return buffer.getvalue()
