"""Sizes of open files in shared folders are left out of what CRIU checks."""

from __future__ import annotations

import struct
from pathlib import Path

from sojourn.movers.criu.shared_files import forget_sizes
from sojourn.movers.protobuf import decode, encode

MAGIC = b"\x01\x02\x03\x04\x05\x06\x07\x08"


def image(*entries: bytes) -> bytes:
    return MAGIC + b"".join(struct.pack("<I", len(entry)) + entry for entry in entries)


def regular(name: str, size: int) -> bytes:
    file = encode({1: 7, 2: 0o100002, 3: 12, 5: encode({1: 0}), 6: name, 7: 5, 8: size, 10: 0o100644, 11: [3, 4, 5]})
    return encode({1: 1, 2: 7, 3: file})


def test_only_files_below_a_shared_folder_lose_their_size(tmp_path: Path) -> None:
    own, shared, socket = regular("tmp/own", 10), regular("home/me/history.sqlite", 20), encode({1: 4, 2: 9, 4: b"x"})
    sibling = regular("home/merry/file", 30)
    (tmp_path / "files.img").write_bytes(image(own, shared, socket, sibling))
    forget_sizes(tmp_path, ["/home/me"])
    without = encode(
        {1: 1, 2: 7, 3: encode({1: 7, 2: 0o100002, 3: 12, 5: encode({1: 0}), 6: "home/me/history.sqlite", 7: 5,
                                10: 0o100644, 11: [3, 4, 5]})}
    )  # fmt: skip
    assert (tmp_path / "files.img").read_bytes() == image(own, without, socket, sibling)
    assert 8 not in decode(decode(without)[3])  # type: ignore[arg-type]


def test_without_shared_folders_nothing_is_touched(tmp_path: Path) -> None:
    forget_sizes(tmp_path, ["/home/me"])
    assert not list(tmp_path.iterdir())
