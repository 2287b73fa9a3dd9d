"""Things that stand for something of the process: locks, files, weak references, iterators over them. What can be had
again over there, is; what can't is refused."""

from __future__ import annotations

import ctypes
import io
import os
import stat
import tempfile
import threading
import weakref
from concurrent.futures import Future
from pathlib import Path, PurePath
from typing import Any

from .graph import CannotTravel, Grapher, Reduction, family, way

_Lock = type(threading.Lock())
_RLock = type(threading.RLock())


@way(_Lock)
def reduce_lock(graph: Grapher, lock: Any) -> Reduction:
    if lock.locked():
        raise CannotTravel(lock, "a lock that is held")
    return threading.Lock, ()


@way(_RLock)
def reduce_reentrant_lock(graph: Grapher, lock: Any) -> Reduction:
    if not repr(lock).startswith("<unlocked"):
        raise CannotTravel(lock, "a lock that is held")
    return threading.RLock, ()


@family(lambda kind: issubclass(kind, threading.local))
def reduce_local(graph: Grapher, local: Any) -> Reduction:
    """What the present thread has in it; other threads do not travel."""
    return type(local), (), vars(local)


# ── weak references ──────────────────────────────────────────────────────────────────────────────────────────


@way(weakref.ref)
def reduce_reference(graph: Grapher, reference: Any) -> Reduction:
    if reference.__callback__ is not None:
        raise CannotTravel(reference, "a weak reference with a callback")
    target = reference()
    return (make_dead_reference, ()) if target is None else (make_reference, (target,))


def make_reference(target: Any) -> Any:
    return weakref.ref(target)


def make_dead_reference() -> Any:
    return weakref.ref(_Fleeting())


class _Fleeting:
    pass


@way(weakref.WeakKeyDictionary, weakref.WeakValueDictionary)
def reduce_weak_dictionary(graph: Grapher, found: Any) -> Reduction:
    return type(found), (), None, None, iter(list(found.items()))


@way(weakref.WeakSet)
def reduce_weak_set(graph: Grapher, found: Any) -> Reduction:
    return weakref.WeakSet, (), list(found), None, None, fill_weak_set


def fill_weak_set(made: Any, members: list[Any]) -> None:
    made.update(members)


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────


@way(io.TextIOWrapper, io.BufferedReader, io.BufferedWriter, io.BufferedRandom, io.FileIO)
def reduce_file(graph: Grapher, file: Any) -> Reduction:
    """A regular file below the working folder is opened again, where it stands: it is there too, as it was here."""
    if file.closed:
        raise CannotTravel(file, "a file that is closed")
    path = _below_here(file)
    if file.writable():
        file.flush()
    text = (file.encoding, file.errors) if isinstance(file, io.TextIOWrapper) else (None, None)
    graph.notes.append(f"{graph.at}: {path} is opened again, at the same position")
    return reopen, (str(path), file.mode, isinstance(file, io.FileIO), *text, file.tell())


def _below_here(file: Any) -> Path:
    name = file.name
    try:
        status = os.fstat(file.fileno())
    except (OSError, ValueError) as error:
        raise CannotTravel(file, f"an open file without a descriptor: {error}") from error
    if not isinstance(name, str) or not stat.S_ISREG(status.st_mode):
        raise CannotTravel(file, "an open pipe, terminal or device")
    path = Path(name)
    if not path.resolve().is_relative_to(Path.cwd().resolve()):
        raise CannotTravel(file, f"an open file outside the working folder: {name}")
    if not path.exists() or path.stat().st_ino != status.st_ino:
        raise CannotTravel(file, f"an open file that is gone: {name}")
    return path


def reopen(path: str, mode: str, raw: bool, encoding: str | None, errors: str | None, position: int) -> Any:
    """Without emptying it again, whatever the mode says."""

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags & ~(os.O_TRUNC | os.O_EXCL), 0o666)

    buffering = 0 if raw else -1
    file = open(path, mode, buffering, encoding, errors, opener=opener)  # noqa: SIM115
    file.seek(position)
    return file


@family(lambda kind: issubclass(kind, ctypes.CDLL))
def reduce_library(graph: Grapher, library: Any) -> Reduction:
    return type(library), (library._name,)


@family(lambda kind: issubclass(kind, PurePath))
def reduce_path(graph: Grapher, path: PurePath) -> Reduction:
    if path.is_absolute() and path.is_relative_to(tempfile.gettempdir()) and Path(path).exists():
        graph.notes.append(f"{graph.at}: a path to something temporary, {path}, which stays behind")
    return NotImplemented


@way(tempfile.TemporaryDirectory)
def reduce_temporary_folder(graph: Grapher, folder: Any) -> Reduction:
    raise CannotTravel(folder, f"a temporary folder, {folder.name}, which stays behind and is deleted there")


# ── what happens later ───────────────────────────────────────────────────────────────────────────────────────


@way(weakref.finalize)
def reduce_finalizer(graph: Grapher, finalizer: Any) -> Reduction:
    raise CannotTravel(finalizer, "a finalizer" if finalizer.alive else "a finalizer that has run")


@family(lambda kind: issubclass(kind, Future))
def reduce_future(graph: Grapher, future: Future[Any]) -> Reduction:
    if not future.done():
        raise CannotTravel(future, "a future that is still to come")
    return NotImplemented
