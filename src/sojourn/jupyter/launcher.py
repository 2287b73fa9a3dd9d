"""`sojourn-kernel -f CONNECTION_FILE`: a Sojourn kernel for clients that start a kernelspec's argv themselves.

To such a client (VS Code, or Jupyter with its local provisioner) this process is the kernel: signals to it reach the
kernel wherever that runs, it ends when the kernel ends, with the same exit code, and when the client dies the kernel
goes with it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from sojourn import embedded
from sojourn.errors import Invalid, SojournError, Unknown, Unreachable
from sojourn.front.client import FrontClient, ensure
from sojourn.jupyter.kernel_session import CONNECTION_FILE, Wishes, inside_session, kernel_spec, witnessed
from sojourn.model.sessions import SessionStatus
from sojourn.settings import kernels_cpu, kernels_image, kernels_mounts

LOOK_SECONDS = 0.5
"""How often to look whether the kernel and the client still live."""
LEASE_SECONDS = 30.0
"""Where there is no fork, the kernel of a launcher that was killed ends with its lease."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run a kernel in the foreground; the exit code is the kernel's."""
    argv = sys.argv[1:] if argv is None else argv
    arguments, rest = parse(argv)
    if inside_session():  # a kernel started in there belongs into that session
        os.execv(sys.executable, [sys.executable, "-m", "ipykernel_launcher", *argv])
    try:
        code = run(Path(arguments.connection_file), rest)
    except SojournError as error:
        sys.exit(f"sojourn-kernel: {error}")
    leave(code)


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """`connection_file`, and what is meant for ipykernel."""
    parser = argparse.ArgumentParser(prog="sojourn-kernel", description=__doc__, allow_abbrev=False)
    parser.add_argument("-f", "--connection-file", required=True, help="as the client wrote it")
    return parser.parse_known_args(argv)


def run(connection_file: Path, rest: Sequence[str]) -> int:
    """Host a kernel at the ports of a connection file until it, or the client, ends; returns the exit code."""
    connection = read_connection(connection_file)
    parent = os.getppid()
    wanted = Signals()
    front = open_front()
    make_room(front, connection)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", CONNECTION_FILE, *rest]
    wishes = Wishes(image=kernels_image(), cpu=kernels_cpu(), mounts=kernels_mounts())
    spec = kernel_spec(command, os.environ, str(Path.cwd()), uuid.uuid4().hex, wishes=wishes)
    with ExitStack() as starting:
        seen = starting.enter_context(witnessed(spec, uuid.uuid4().hex))
        session = front.open(seen, connection, "python", LEASE_SECONDS)
        leave_will(session)
        try:
            return attend(front, session, wanted, parent, starting.close)
        finally:
            with suppress(Unknown, Unreachable):
                front.close(session)


def read_connection(path: Path) -> dict[str, Any]:
    """What a client wrote for its kernel; raises Invalid."""
    try:
        connection: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as wrong:
        raise Invalid(f"{path} is no connection file: {wrong}", "Jupyter passes it as {connection_file}.") from wrong
    return connection


def attend(front: FrontClient, session: str, wanted: Signals, parent: int, started: Callable[[], object] = int) -> int:
    """Pass signals on and renew the lease until the kernel has ended (its exit code) or the client has (0). `started`
    is called when the session is seen to have started."""
    while os.getppid() == parent:
        try:
            for signum in wanted.take():
                front.signal(session, signum)
            front.lease(session, LEASE_SECONDS)
            kernel = front.kernel(session)
        except Unreachable:
            front = open_front()
            continue
        if kernel.status not in (None, SessionStatus.PENDING, SessionStatus.STARTING):
            started()
        if not kernel.running:
            return 1 if kernel.exit_code is None else kernel.exit_code
        wanted.wait(LOOK_SECONDS)
    return 0


def leave_will(session: str) -> None:
    """Have the session end with this process, even if it is killed: a client that kills its kernel starts the next one
    at the same ports at once, and must not find the old one there."""
    if not hasattr(os, "fork"):
        return
    reading, writing = os.pipe()
    if os.fork():
        os.close(reading)  # `writing` stays open, in this process alone, for as long as it lives
        return
    os.setsid()  # what is sent to the kernel's process group is not for us
    os.close(writing)
    os.read(reading, 1)
    with suppress(SojournError):
        front = open_front()
        front.signal(session, getattr(signal, "SIGKILL", 9))
        front.close(session)
    os._exit(0)


def open_front() -> FrontClient:
    return ensure(embedded.ensure())


def make_room(front: FrontClient, connection: dict[str, Any]) -> None:
    """End the kernel that still holds these ports: of a launcher that was killed before it could."""
    for kernel in front.kernels():
        if kernel.connection["shell_port"] == connection["shell_port"]:
            front.close(kernel.session)


class Signals:
    """The signals that are the kernel's rather than ours."""

    def __init__(self) -> None:
        self._caught: list[int] = []
        self._some = threading.Event()
        for name in ("SIGINT", "SIGTERM", "SIGQUIT", "SIGUSR1", "SIGUSR2"):
            if number := getattr(signal, name, None):
                signal.signal(number, self._catch)

    def _catch(self, number: int, frame: object) -> None:
        self._caught.append(number)
        self._some.set()

    def wait(self, seconds: float) -> None:
        """Until a signal comes, or for that long."""
        self._some.wait(seconds)

    def take(self) -> list[int]:
        self._some.clear()
        caught, self._caught = self._caught, []
        return caught


def leave(code: int) -> None:
    """Exit as the kernel did: with its code, or by its signal."""
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code not in (signal.SIGKILL, signal.SIGSTOP) else None
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    main()
