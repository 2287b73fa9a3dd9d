"""A layer's tree, made from a stream of files and from what other layers have already.

The contents were checked when they were decoded, and the folder is new and private: each name is made, never followed,
in a folder that was made here. So nothing can be written elsewhere.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path

from blake3 import blake3

from sojourn.environment.contents import FILE, FOLDER, ID_BYTES, Contents, Entry
from sojourn.environment.reading import DATA, SMALL, Reader
from sojourn.errors import Incompatible

_MAKE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
Sources = dict[bytes, list[tuple[str, Entry]]]
"""Digest -> the paths of files with that content, and what they are like."""


class Building:
    """One tree. `sources`: what other layers have."""

    def __init__(self, contents: Contents, root: Path, sources: Sources) -> None:
        self._contents, self._root, self._sources = contents, str(root), sources
        self._uid, self._gid = os.geteuid(), os.getegid()
        self._folders: list[Entry] = []

    def build(self, stream: Iterable[bytes]) -> None:
        """Raises Incompatible for a stream that is not what the contents say."""
        reader = Reader(stream)
        Path(self._root).mkdir()
        for folder in self._contents.folders:
            self._folder(folder, reader)
        reader.end()
        self._dress_folders()

    def _folder(self, folder: str, reader: Reader) -> None:
        path = f"{self._root}/{folder}"
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            for entry in self._contents.entries_of(folder):
                name = entry.path[len(folder) + 1 :] if folder else entry.path
                if entry.kind == FILE:
                    self._file(descriptor, name, entry, reader)
                elif entry.kind == FOLDER:
                    os.mkdir(name, 0o700, dir_fd=descriptor)
                    self._folders.append(entry)
                else:
                    os.symlink(entry.rest, os.fsencode(name), dir_fd=descriptor)
                    if (entry.uid, entry.gid) != (self._uid, self._gid):
                        os.chown(name, entry.uid, entry.gid, dir_fd=descriptor, follow_symlinks=False)
        finally:
            os.close(descriptor)

    def _file(self, folder: int, name: str, entry: Entry, reader: Reader) -> None:
        known = self._sources.get(entry.digest) if entry.size else None
        if known and self._linked(folder, name, entry, known):
            return
        file = os.open(name, _MAKE, entry.mode, dir_fd=folder)
        try:
            if known:
                _copy(known[0][0], file)
            elif entry.size:
                _write(file, entry, reader)
            self._dress(file, entry)
        finally:
            os.close(file)
        if entry.size and not known:
            self._sources[entry.digest] = [(f"{self._root}/{entry.path}", entry)]
        elif known:
            known.append((f"{self._root}/{entry.path}", entry))

    def _linked(self, folder: int, name: str, entry: Entry, known: list[tuple[str, Entry]]) -> bool:
        """Where a file with the same owner, mode, time and attributes is, too, it is that file."""
        for path, there in known:
            if entry[2:] == there[2:]:
                try:
                    os.link(path, name, dst_dir_fd=folder, follow_symlinks=False)
                except OSError as refused:
                    if refused.errno not in {errno.EMLINK, errno.ENOENT}:
                        raise
                else:
                    return True
        return False

    def _dress(self, file: int, entry: Entry) -> None:
        if (entry.uid, entry.gid) != (self._uid, self._gid):
            os.fchown(file, entry.uid, entry.gid)
        os.fchmod(file, entry.mode)
        for name, value in entry.attributes.items():
            os.setxattr(file, name, value)
        os.utime(file, ns=(entry.mtime_ns, entry.mtime_ns))

    def _dress_folders(self) -> None:
        """Last, and the deepest first: making what is in a folder changes its time, and needs a right to it."""
        for entry in reversed(self._folders):
            path = f"{self._root}/{entry.path}"
            os.chown(path, entry.uid, entry.gid)
            os.chmod(path, entry.mode)  # noqa: PTH101
            os.utime(path, ns=(0, 0))
        os.chmod(self._root, 0o755)  # noqa: PTH101
        os.utime(self._root, ns=(0, 0))


def _write(file: int, entry: Entry, reader: Reader) -> None:
    if entry.size <= SMALL:
        body = reader.take(entry.size)
        digest = blake3(body).digest(ID_BYTES)
        _put(file, body, 0)
    else:
        digest = _write_pieces(file, entry.size, reader)
    if digest != entry.digest:
        raise Incompatible(f"What came as /{entry.path} is another file.", "Try again.")


def _write_pieces(file: int, size: int, reader: Reader) -> bytes:
    hashing, at = blake3(), 0
    while at < size:
        length = min(SMALL, size - at)
        if bytes(reader.take(1)) == DATA:
            piece = reader.take(length)
            _put(file, piece, at)
        else:
            piece = bytes(length)
        hashing.update(piece)
        at += length
    os.ftruncate(file, size)
    return hashing.digest(ID_BYTES)


def _put(file: int, body: bytes | memoryview, at: int) -> None:
    """All of it: a disk that becomes full takes a part without a word, and refuses the rest."""
    done = os.pwrite(file, body, at)
    while done < len(body):
        done += os.pwrite(file, memoryview(body)[done:], at + done)


def _copy(path: str, file: int) -> None:
    source = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        while os.copy_file_range(source, file, 1 << 30):
            pass
    finally:
        os.close(source)
