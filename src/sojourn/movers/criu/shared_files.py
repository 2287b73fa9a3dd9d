"""Open files in shared folders may grow while a session moves: another kernel writes to the same history.

CRIU notes each file's size and refuses to restore when it has changed. That is right for the session's own files,
which travelled; a shared folder is the same folder on both sides, and what others write there is theirs to write.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

from sojourn.movers.protobuf import decode, fields, join

_HEAD_BYTES = 8
_REGULAR, _NAME, _SIZE = 3, 6, 8
"""Of `file_entry` and `reg_file_entry` (criu/images/fdinfo.proto, regfile.proto)."""


def forget_sizes(images: Path, shared: Iterable[str]) -> None:
    """Take the sizes of files below the shared mount points out of the image that lists the open files."""
    listed = images / "files.img"
    folders = tuple(folder.strip("/") + "/" for folder in shared)
    if folders and listed.exists():
        listed.write_bytes(without_sizes(listed.read_bytes(), folders))


def without_sizes(image: bytes, folders: tuple[str, ...]) -> bytes:
    """`folders` as CRIU writes paths: without the first slash, with the last."""
    out, position = [image[:_HEAD_BYTES]], _HEAD_BYTES
    while position < len(image):
        (length,) = struct.unpack_from("<I", image, position)
        entry = _entry(image[position + 4 : position + 4 + length], folders)
        out += [struct.pack("<I", len(entry)), entry]
        position += 4 + length
    return b"".join(out)


def _entry(entry: bytes, folders: tuple[str, ...]) -> bytes:
    regular = decode(entry).get(_REGULAR)
    if not isinstance(regular, bytes):
        return entry
    name = decode(regular)[_NAME]
    if not isinstance(name, bytes) or not name.decode(errors="replace").lstrip("/").startswith(folders):
        return entry
    kept = join((number, value) for number, value in fields(regular) if number != _SIZE)
    return join((number, kept if number == _REGULAR else value) for number, value in fields(entry))
