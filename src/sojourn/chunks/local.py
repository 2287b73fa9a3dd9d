"""A store in a folder.

An object is written as a draft beside its place and renamed into it, so it is visible whole or not at all. What is
large goes straight to the disk, past the page cache: to copy it there first costs more of a core than compressing and
sealing it does, and what sleeps should not drive out what others work with. Nothing is synced one by one: `settle`
waits for the whole file system. Only what decides (`create`) is synced by itself, file and folder.
"""

# Paths are strings here: there are hundreds of files a second.
# ruff: noqa: PTH102, PTH105, PTH108, PTH112, PTH113, PTH120

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from sojourn.chunks.backend import IDENTITY, Backend, Bytes, Entry
from sojourn.errors import StoreFailed

_DRAFT = ".draft-"
_DRAFT_SECONDS = 24 * 3600
"""A draft that has not been touched for so long belongs to nobody any more."""
_PAGE = 4096
_LARGE = 256 * 1024
"""Bytes from which on a body is written straight to the disk."""
_STRAIGHT = getattr(os, "O_DIRECT", 0)
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_RIGHT = {errno.EACCES, errno.EPERM, errno.EROFS}
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}

_libc = ctypes.CDLL(None, use_errno=True)
_syncfs = getattr(_libc, "syncfs", None)


class LocalBackend(Backend):
    """`root` is made when it is first written to. Folders and files are this user's alone."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root.absolute()
        self.name = f"file://{self.root}"
        self._base = f"{self.root}/"
        self._mine = secrets.token_hex(6)
        self._numbers = itertools.count()

    def put(self, key: str, body: Bytes) -> None:
        with self._told("write"):
            draft = self._draft(key, body)
            with self._undone(draft):
                os.replace(draft, self._base + key)

    def create(self, key: str, body: Bytes) -> bool:
        path = self._base + key
        with self._told("write"):
            draft = self._draft(key, body, lasting=True)
            try:
                os.link(draft, path)
            except FileExistsError:
                return False
            except OSError as wrong:
                raise self._linkless(wrong) from wrong
            finally:
                os.unlink(draft)
            _sync(os.path.dirname(path))
        return True

    def touch(self, key: str) -> None:
        """Not by writing it anew: a listing may miss a file that is replaced meanwhile."""
        with self._told("write"), _keyed(key):
            os.utime(self._base + key)

    def get(self, key: str) -> bytes:
        with self._opened(key) as file:
            return os.read(file, os.fstat(file).st_size)

    def part(self, key: str, offset: int, length: int) -> bytes:
        with self._opened(key) as file:
            return os.pread(file, length, offset)

    def has(self, key: str) -> bool:
        return os.path.isfile(self._base + key)

    def keys(self, prefix: str) -> Iterator[Entry]:
        folder = prefix.rpartition("/")[0]
        with self._told("read"):
            for key, there in self._files(f"{folder}/" if folder else ""):
                if key.startswith(prefix):
                    yield Entry(key, there.st_size, there.st_mtime)

    def absent(self, prefix: str, keys: Iterable[str]) -> set[str]:
        """Each is looked for: a folder of all chunks may be far longer than what one checkpoint needs."""
        return {key for key in keys if not self.has(key)}

    def delete(self, *keys: str) -> None:
        with self._told("write"):
            for key in keys:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._base + key)

    def settle(self) -> None:
        """Every file's data and name: syncfs of the file system that the root is on."""
        if not _syncfs:
            os.sync()
            return
        with self._told("write"):
            folder = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
            try:
                if _syncfs(folder):
                    raise OSError(ctypes.get_errno(), "syncfs")
            finally:
                os.close(folder)

    def tidy(self) -> None:
        with self._told("write"):
            for path in self.root.rglob(f"{_DRAFT}*"):
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - path.stat().st_mtime > _DRAFT_SECONDS:
                        path.unlink()

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────

    @contextlib.contextmanager
    def _opened(self, key: str) -> Iterator[int]:
        with self._told("read"), _keyed(key):
            descriptor = os.open(self._base + key, os.O_RDONLY | os.O_CLOEXEC)
            try:
                yield descriptor
            finally:
                os.close(descriptor)

    def _draft(self, key: str, body: Bytes, lasting: bool = False) -> str:
        folder = self._base + key.rpartition("/")[0]
        draft = f"{folder}/{_DRAFT}{self._mine}-{next(self._numbers)}"
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:  # the first of its folder: this is how folders are made, without looking each time
            self._make(folder, first=key == IDENTITY)
            if lasting:
                _sync(os.path.dirname(folder))
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with self._undone(draft):
            try:
                _write_all(descriptor, memoryview(body))
                if lasting:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
        return draft

    def _make(self, folder: str, first: bool) -> None:
        """A store that has vanished below us (unmounted, removed) must not be begun anew in its mount point."""
        if not first:
            self.identity()
            if not self.has(IDENTITY):
                raise StoreFailed(f"The store {self.name} is gone.", "Mount its file system again.")
        _make_private(folder)

    def _files(self, folder: str) -> Iterator[tuple[str, os.stat_result]]:
        try:
            entries = list(os.scandir(self._base + folder))
        except FileNotFoundError:
            return
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from self._files(f"{folder}{entry.name}/")
                continue
            with contextlib.suppress(FileNotFoundError):
                yield folder + entry.name, entry.stat()

    @contextlib.contextmanager
    def _told(self, act: str) -> Iterator[None]:
        try:
            yield
        except OSError as wrong:
            raise StoreFailed(
                f"Can't {act} in the store {self.name}: {os.strerror(wrong.errno or 0)}.", _hint(wrong)
            ) from wrong

    @contextlib.contextmanager
    def _undone(self, draft: str) -> Iterator[None]:
        try:
            yield
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(draft)
            raise

    def _linkless(self, wrong: OSError) -> OSError | StoreFailed:
        if wrong.errno not in _NO_LINKS:
            return wrong
        return StoreFailed(
            f"The file system of {self.name} has no hard links, by which a checkpoint is published in one step.",
            "Choose a folder on a Linux file system.",
        )


@contextlib.contextmanager
def _keyed(key: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise KeyError(key) from None


def _write_all(descriptor: int, body: memoryview) -> None:
    if _STRAIGHT and len(body) >= _LARGE:
        body = _write_straight(descriptor, body)
    while body:
        body = body[os.write(descriptor, body) :]


def _write_straight(descriptor: int, body: memoryview) -> memoryview:
    """As much of it as can go past the page cache: whole pages, from memory that begins at one, where the file system
    can do that. Returns the rest, which goes the usual way."""
    import fcntl  # Windows has none, nor O_DIRECT

    usual = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, usual | _STRAIGHT)
        while len(body) >= _PAGE:
            body = body[os.write(descriptor, body[: len(body) // _PAGE * _PAGE]) :]
    except OSError as wrong:
        if wrong.errno != errno.EINVAL:
            raise
    finally:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, usual)
    return body


def _sync(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_private(folder: str) -> None:
    try:
        os.mkdir(folder, 0o700)
    except FileNotFoundError:
        _make_private(os.path.dirname(folder))
        _make_private(folder)
    except FileExistsError:
        if not os.path.isdir(folder):
            raise


def _hint(wrong: OSError) -> str:
    if wrong.errno in _FULL:
        return "Make room there (`sojourn gc`, `sojourn checkpoints`), or choose another store: SOJOURN_STORE."
    if wrong.errno in _NO_RIGHT:
        return "Give this user the right to write there, or choose another store: SOJOURN_STORE."
    return "Look at its file system."
