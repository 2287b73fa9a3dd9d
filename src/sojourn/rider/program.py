"""The session's program: started in a process group of its own, its output captured, its end noticed."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from sojourn.errors import Invalid, SandboxFailed
from sojourn.transport.loop import READ, Loop

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from typing import Any

    from sojourn.rider.capture import Capture


class Spec:
    """A checked `program` of the configuration or of a `start`; raises Invalid.

    `paths`: where private files really lie, in a sandbox without a root of its own; said path -> real path. `held`:
    what each program of this session has in its environment, in spite of all it is told.
    """

    __slots__ = ("argv", "cwd", "env", "gid", "uid")

    def __init__(self, body: dict[str, Any], paths: dict[str, str], held: dict[str, str] | None = None) -> None:
        try:
            self.argv = [_told(str(word), paths) for word in body["argv"]]
            self.env = {str(name): _told(str(value), paths) for name, value in body.get("env", {}).items()}
            self.env |= held or {}
            self.cwd = str(body.get("cwd") or "/")
            self.uid, self.gid = int(body.get("uid") or 0), int(body.get("gid") or 0)
        except (KeyError, TypeError, ValueError, AttributeError) as wrong:
            raise Invalid(f"That is not a program: {wrong!r}.", "A program has at least an argv.") from wrong
        if not self.argv:
            raise Invalid("The program has an empty argv.", "Name what to run.")


def _told(text: str, paths: dict[str, str]) -> str:
    for said, real in paths.items():
        text = text.replace(said, real)
    return text


class Program:
    """At most one program at a time. `started(pid)` and `exited(code)` tell of it; a negative code is a signal.

    This class is for POSIX, where the rider reaps every orphan of its sandbox too.
    """

    def __init__(
        self,
        loop: Loop,
        capture: Capture,
        started: Callable[[int], None],
        exited: Callable[[int], None],
        failed: Callable[[SandboxFailed], None],
    ) -> None:
        self.pid: int | None = None
        self.exit_code: int | None = None
        self._loop, self._capture = loop, capture
        self._started, self._exited, self._failed = started, exited, failed
        self._next: Spec | None = None
        self._prepare()

    @property
    def running(self) -> bool:
        return self.pid is not None

    def start(self, spec: Spec) -> None:
        """Start it, after killing the one that runs."""
        if self.running:
            self._next = spec
            self.signal(signal.SIGKILL, whole_group=True)
            return
        try:
            self.pid = self._spawn(spec)
        except OSError as failure:
            self._failed(SandboxFailed(f"{spec.argv[0]} could not be started: {failure}", _START_HINT))
            return
        self.exit_code = None
        self._started(self.pid)

    def signal(self, signum: int, whole_group: bool) -> None:
        """To the program, or to its whole process group; nothing when it does not run."""
        if self.pid is None:
            return
        with suppress(ProcessLookupError):  # it has just ended; its exit is on the way
            if whole_group:
                os.killpg(self.pid, signum)
            else:
                os.kill(self.pid, signum)

    def kill(self) -> None:
        """SIGKILL to everything in the sandbox but the rider, or, where that has no borders, to the program's group."""
        self._next = None
        if os.getpid() != 1:
            self.signal(signal.SIGKILL, whole_group=True)
            return
        with suppress(ProcessLookupError):  # nobody else is there
            os.kill(-1, signal.SIGKILL)

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────

    def _prepare(self) -> None:
        signal.set_wakeup_fd(self._loop.waker_fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _signum, _frame: self._loop.soon(self._reap))

    def _spawn(self, spec: Spec) -> int:
        output, program_output = os.pipe()
        told, tell = os.pipe()
        pid = os.fork()
        if not pid:
            _become(spec, program_output, tell)
        os.close(program_output)
        os.close(tell)
        failure = os.read(told, 4096)  # until exec closes it
        os.close(told)
        if failure:
            os.close(output)
            os.waitpid(pid, 0)
            raise OSError(failure.decode())
        os.set_blocking(output, False)
        self._loop.watch(output, READ, lambda _ready: self._read(output))
        return pid

    def _read(self, output: int) -> None:
        try:
            data = os.read(output, 65536)
        except BlockingIOError:
            return
        if data:
            self._capture.add(data)
        else:
            self._loop.forget(output)
            os.close(output)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if pid == self.pid:
                self._has_exited(os.waitstatus_to_exitcode(status))

    def _has_exited(self, code: int) -> None:
        self.pid, self.exit_code = None, code
        self._exited(code)
        spec, self._next = self._next, None
        if spec:
            self.start(spec)


class PlainProgram(Program):
    """The same by `subprocess` and a thread, for Windows: output goes into a file that the tail is read from."""

    _process: subprocess.Popen[bytes] | None = None

    def signal(self, signum: int, whole_group: bool) -> None:
        if self._process is None:
            return
        if signum == signal.SIGINT and sys.platform == "win32":
            self._process.send_signal(signal.CTRL_BREAK_EVENT)
        elif signum == getattr(signal, "SIGKILL", signal.SIGTERM):
            self._process.kill()
        else:
            self._process.send_signal(signum)

    def kill(self) -> None:
        self._next = None
        if self._process is not None:
            self._process.kill()

    def _prepare(self) -> None:
        pass

    def _spawn(self, spec: Spec) -> int:
        import subprocess

        process = subprocess.Popen(
            spec.argv,
            env=spec.env,
            cwd=spec.cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        self._process = process
        self._in_thread(lambda: self._wait(process))
        return process.pid

    def _in_thread(self, work: Callable[[], None]) -> None:
        import threading

        threading.Thread(target=work, daemon=True).start()

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        """In a thread of its own, for a pipe can't be selected there."""
        assert process.stdout is not None
        self._in_thread(lambda: self._pass_on(process))
        code = process.wait()
        self._loop.soon(lambda: self._has_exited(code))

    def _pass_on(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        while data := os.read(process.stdout.fileno(), 65536):
            self._loop.soon(lambda data=data: self._capture.add(data))  # type: ignore[misc]


_START_HINT = "Look at the program's argv, cwd and user."


def program_class() -> type[Program]:
    return Program if hasattr(os, "fork") else PlainProgram


def _become(spec: Spec, output: int, tell: int) -> None:
    """In the forked child: turn into the program, or tell why not. Never returns."""
    try:
        os.setsid()
        for signum in (signal.SIGPIPE, signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(signum, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        _change_user(spec)
        os.chdir(spec.cwd)
        os.execvpe(spec.argv[0], spec.argv, spec.env)
    except BaseException as failure:
        os.write(tell, str(failure).encode())
    finally:
        os._exit(127)


def _change_user(spec: Spec) -> None:
    if os.geteuid() != 0 or (spec.uid, spec.gid) == (0, 0):
        return  # an unprivileged rider has one user only
    with suppress(PermissionError):  # some user namespaces forbid it; there are no groups to lose there
        os.setgroups([spec.gid])
    os.setgid(spec.gid)
    os.setuid(spec.uid)
