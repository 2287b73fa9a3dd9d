"""What this node can do for moves, found out by doing it in small."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache

from sojourn.errors import SojournError
from sojourn.movers.connections import borrow
from sojourn.movers.criu.service import own_run
from sojourn.movers.pager.pieces import PAGE
from sojourn.movers.pager.userfault import EVENTS, Userfault, open_userfault
from sojourn.sandbox.criu_path import find_criu
from sojourn.sandbox.runc import runc_missing

_CHECK_SECONDS = 30


def probe() -> tuple[tuple[str, ...], dict[str, str]]:
    """The strategies this node can take part in, and why not the others: ("lazy", "copy"), {"lazy": reason}.

    Takes about 0.2 s, and leaves CRIU's cache behind for the first move.
    """
    if reason := _why_not_copy():
        return (), {"lazy": reason, "copy": reason}
    if reason := why_not_lazy():
        return ("copy",), {"lazy": reason}
    return ("lazy", "copy"), {}


def _why_not_copy() -> str | None:
    if reason := runc_missing():
        return reason
    try:
        path, _ = find_criu()
    except SojournError as absent:
        return absent.message
    checked = subprocess.run([*own_run(), path, "check"], capture_output=True, text=True, timeout=_CHECK_SECONDS)
    if checked.returncode:
        said = [
            line for line in (checked.stdout + checked.stderr).splitlines() if "Error" in line and "RLIMIT" not in line
        ]
        return f"`criu check` fails: {said[0] if said else f'exit code {checked.returncode}'}"
    return None


def why_not_lazy() -> str | None:
    """What lazy pages need beside CRIU: userfaultfd with its events, and pidfd_getfd for rolling back."""
    for attempt in (_try_userfaultfd, _try_pidfd_getfd):
        if reason := _reason(attempt):
            return reason
    return None


@cache
def has_userfaultfd() -> bool:
    return _reason(_try_userfaultfd) is None


def _reason(attempt: Callable[[], None]) -> str | None:
    try:
        attempt()
    except OSError as failed:
        return f"{failed.strerror} ({errno.errorcode.get(failed.errno or 0, failed.errno)})"
    return None


def _try_userfaultfd() -> None:
    """Have a page of our own filled in. Raises OSError that says what is missing."""
    if sys.platform != "linux":
        raise OSError(errno.ENOSYS, "userfaultfd needs Linux")
    try:
        descriptor = open_userfault(EVENTS)
    except OSError as refused:
        raise OSError(refused.errno, f"userfaultfd with its events can't be had: {refused.strerror}") from refused
    userfault = Userfault(descriptor)
    with private_page() as missing, private_page() as given:
        try:
            given[:5] = b"pages"
            userfault.register(address_of(missing), PAGE)
            _, failed = userfault.copy(address_of(missing), address_of(given), PAGE)
            if failed or missing[:5] != b"pages":
                raise OSError(failed or errno.EIO, "a page can't be filled in by userfaultfd")
        finally:
            # Before the page is unmapped: the kernel would wait until somebody has read of it.
            userfault.close()


def _try_pidfd_getfd() -> None:
    itself = os.pidfd_open(os.getpid())
    try:
        os.close(borrow(itself, itself))
    except OSError as refused:
        raise OSError(refused.errno, f"pidfd_getfd can't be had: {refused.strerror}") from refused
    finally:
        os.close(itself)


def private_page() -> mmap.mmap:
    return mmap.mmap(-1, PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def address_of(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))
