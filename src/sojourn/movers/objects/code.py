"""The code that kernels run to carry their namespaces: brought to them, so that both ends of a move run the same.

It goes by a name of its own, because a kernel may have a Sojourn of another version installed, and use it.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from functools import cache
from pathlib import Path

import sojourn

_OWN_NAME = b"_sojourn"
_PARTS = ("errors.py", "objects/*.py")
_LONG_AGO = (1980, 1, 1, 0, 0, 0)


@cache
def packed() -> tuple[str, bytes]:
    """Its digest, in hexadecimal, and the code: a zip of sources."""
    memory = io.BytesIO()
    root = Path(str(sojourn.__file__)).parent
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        _add(archive, "__init__.py", b"")
        for source in sorted(path for part in _PARTS for path in root.glob(part)):
            _add(archive, source.relative_to(root).as_posix(), source.read_bytes())
    body = memory.getvalue()
    return hashlib.sha256(body).hexdigest(), body


def _add(archive: zipfile.ZipFile, path: str, source: bytes) -> None:
    renamed = source.replace(b"from sojourn.", b"from " + _OWN_NAME + b".")
    archive.writestr(
        zipfile.ZipInfo(f"{_OWN_NAME.decode()}/{path}", _LONG_AGO), renamed, compress_type=zipfile.ZIP_DEFLATED
    )
