"""Driving CRIU: one process of `criu swrk` for one dump or one restore, asked over its own RPC (criu/images/rpc.proto).

It is started ahead of time and waits. CRIU looks for its cache of what the kernel can do at /run/criu.kdat and
writes it only to a tmpfs; without it every call probes for 60–100 ms. So where /run is no tmpfs, CRIU runs in a mount
namespace of its own with one there.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import stat
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sojourn.errors import CriuFailed, SandboxFailed
from sojourn.movers.haste import hasten
from sojourn.movers.protobuf import Value, decode, encode
from sojourn.sandbox.criu_path import find_criu
from sojourn.sandbox.network import Network

_READY_TO_BEGIN, _ALL_WRITTEN, _READY_TO_RUN = b"pre-dump", b"post-dump", b"pre-resume"
"""CRIU asks what to do next at some points, and waits for the answer; at the latter two with the tasks stopped."""

_DUMP, _RESTORE, _CHECK, _NOTIFY, _VERSION = 1, 2, 3, 6, 10
_LOG_ERRORS_AND_WARNINGS = 2
_CGROUPS_IGNORE, _NETWORK_LOCK_SKIP = 0, 3
_GHOST_LIMIT = 256 << 20
"""Deleted files that are still open travel in the images, up to this size each."""
_LET_GO_SECONDS = 5.0
_LOOK_SECONDS = 0.5
_LONGEST_ANSWER = 1 << 20

# Fields of criu_opts.
_IMAGES, _PID, _TCP, _FILE_LOCKS, _LOG_LEVEL, _LOG_FILE, _NOTIFY_SCRIPTS, _ROOT = 1, 2, 5, 8, 9, 10, 12, 13
_WORK, _CGROUPS, _GHOSTS, _EXTERNAL, _FREEZE, _LAZY, _NETWORK_LOCK = 17, 34, 35, 37, 44, 48, 64


def memory_folder() -> Path:
    """A folder in memory (tmpfs) for images, which are read once and soon; this user's alone. Raises SandboxFailed."""
    folder = Path("/dev/shm") / f"sojourn-{os.geteuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    there = folder.lstat()
    if there.st_uid != os.geteuid() or stat.S_IMODE(there.st_mode) != 0o700 or not stat.S_ISDIR(there.st_mode):
        raise SandboxFailed(f"{folder} belongs to somebody else.", "Remove it; somebody may be up to something.")
    return folder


@dataclass(frozen=True)
class Places:
    """Where one call of CRIU works."""

    images: Path
    work: Path
    log: str
    """Name of the log file in `work`."""


class Criu:
    """One CRIU process, waiting for its one request."""

    def __init__(self, places: Places, network: Network) -> None:
        """It is born in the session's network namespace, and so need not dump or make that one: what is in it is the
        sandbox's affair, and walking through the connection tracking of the whole machine takes CRIU 25 ms."""
        path, _ = find_criu()
        self.places = places
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process: subprocess.Popen[bytes] = network.run(
                lambda: subprocess.Popen(
                    [*own_run(), path, "swrk", str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd=places.work,
                    start_new_session=True,
                )
            )
        hasten(self._process.pid)

    @property
    def pid(self) -> int:
        return self._process.pid

    def dump(
        self, root_pid: int, *, lazy: bool, freezer: Path, external: Sequence[str], freeze: Callable[[], None]
    ) -> None:
        """Write the images of a tree of tasks, which `freeze`, called when CRIU is ready to begin, brings to a
        standstill. Returns with the tasks still stopped by CRIU, which is then to be told to `let_go`; what is to keep
        them from running must be done before. `lazy`: without the pages.

        Raises CriuFailed, and what `freeze` raises; then the tasks stand as they stood before.
        """
        _spare(self.pid)
        options = self._options(
            {
                _PID: root_pid,
                _FREEZE: str(freezer),
                _LAZY: lazy,
                _NOTIFY_SCRIPTS: True,
                _GHOSTS: _GHOST_LIMIT,
                _EXTERNAL: list(external),
            }
        )
        answer = self._ask(_DUMP, options)
        while answer.get(1) == _NOTIFY:
            if _script(answer) == _READY_TO_BEGIN:
                freeze()
            elif _script(answer) == _ALL_WRITTEN:
                return
            self._send({1: _NOTIFY, 3: True})
            answer = self._receive("dump")
        raise self._failure("dump", answer)

    def restore(self, root: Path, *, lazy: bool, external: Sequence[str], before_thaw: Callable[[], None]) -> int:
        """Make the tasks of the images below `root`; returns the PID of the first when they run. `lazy`: the pager
        listens in the work folder. `before_thaw` is called when all is made and nothing runs yet. Raises CriuFailed."""
        more = {_ROOT: str(root), _LAZY: lazy, _EXTERNAL: list(external), _NOTIFY_SCRIPTS: True}
        answer = self._ask(_RESTORE, self._options(more))
        while answer.get(1) == _NOTIFY:
            if _script(answer) == _READY_TO_RUN:
                before_thaw()
            self._send({1: _NOTIFY, 3: True})
            answer = self._receive("restore")
        if not answer.get(2):
            raise self._failure("restore", answer)
        pid = decode(_bytes(answer[4]))[1]
        assert isinstance(pid, int)
        return pid

    def let_go(self) -> None:
        """Have it end as after a failed dump: sockets out of repair, tasks let loose (which a held cgroup keeps from
        running). The end of the agent has the same effect. Right any number of times."""
        self._socket.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_LET_GO_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End the process, whatever it is doing. Right any number of times."""
        self._socket.close()
        if self._process.returncode is not None:
            return  # and its number may be another's by now
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _options(self, more: Mapping[int, Any]) -> bytes:
        return encode(
            {
                _LOG_LEVEL: _LOG_ERRORS_AND_WARNINGS,
                _LOG_FILE: self.places.log,
                _TCP: True,
                _FILE_LOCKS: True,
                _CGROUPS: _CGROUPS_IGNORE,
                _NETWORK_LOCK: _NETWORK_LOCK_SKIP,
                **more,
            }
        )

    def _ask(self, kind: int, options: bytes) -> dict[int, int | bytes]:
        images = os.open(self.places.images, os.O_RDONLY | os.O_DIRECTORY)
        work = os.open(self.places.work, os.O_RDONLY | os.O_DIRECTORY)
        try:
            # CRIU opens these through /proc/<our PID>/fd, so they stay open until it answers.
            self._send({1: kind, 2: encode({_IMAGES: images, _WORK: work}) + options})
            return self._receive("dump" if kind == _DUMP else "restore")
        finally:
            os.close(images)
            os.close(work)

    def _send(self, message: Mapping[int, Value]) -> None:
        with contextlib.suppress(BrokenPipeError):  # its end says why
            self._socket.send(encode(message))

    def _receive(self, act: str) -> dict[int, int | bytes]:
        self._socket.settimeout(_LOOK_SECONDS)
        body = None
        while body is None:
            try:
                body = self._socket.recv(_LONGEST_ANSWER)
            except TimeoutError:
                # CRIU's helper may outlive it, holding the socket open and waiting for ever.
                body = b"" if self._process.poll() is not None else None
            except OSError:  # closed by `kill`
                body = b""
        if not body:
            raise self._failure(act, {})
        return decode(body)

    def _failure(self, act: str, answer: Mapping[int, int | bytes]) -> CriuFailed:
        log = self.places.work / self.places.log
        said = first_error(log) or _bytes(answer.get(9, b"")).decode() or "it ended without a word"
        return CriuFailed(f"CRIU could not {act} the session: {said}", f"Its log was {log}.")


def first_error(log: Path) -> str:
    """The first Error line of a CRIU log, without its time and place."""
    with contextlib.suppress(OSError):
        for line in log.read_text(errors="replace").splitlines():
            # A machine without CAP_SYS_RESOURCE says this and goes on.
            if "Error" in line and "RLIMIT_NOFILE" not in line:
                return line.partition("Error")[2].partition(": ")[2].strip()
    return ""


def _spare(pid: int) -> None:
    """From the kernel, when memory ends: a task in which CRIU was at work when it was killed ends with it. For a dump
    alone, since what is restored are children of CRIU's."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text("-1000")


def _script(answer: Mapping[int, int | bytes]) -> int | bytes:
    """Which point a notification is about."""
    return decode(_bytes(answer[5]))[1]


def _bytes(value: int | bytes) -> bytes:
    assert isinstance(value, bytes)
    return value


# ── the cache ──


def own_run() -> list[str]:
    """The words before CRIU's own that give it a tmpfs at /run; none where there is one."""
    if _is_tmpfs("/run"):
        return []
    private = memory_folder() / "run"
    private.mkdir(mode=0o700, exist_ok=True)
    script = 'mount --bind "$0" /run && exec "$@"'
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, str(private)]


def _is_tmpfs(path: str) -> bool:
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    return any(line.split()[1] == path and line.split()[2] == "tmpfs" for line in mounts)
