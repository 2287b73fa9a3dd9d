"""The lines to hosts: for each, an ssh that gives the host the controller's port on its own loopback, kept up for ever.

One process, `python -m sojourn.hosts.tether`, keeps all of a user's. It sees within a second that a host was added or
removed, and that the controller listens elsewhere now.
"""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from sojourn.errors import Busy, SojournError
from sojourn.front.locks import take_lock
from sojourn.hosts import book
from sojourn.hosts.book import Host
from sojourn.hosts.ssh import command
from sojourn.settings import cap_log, data_folder
from sojourn.transport.routes import relay_of

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 15.0
"""The longest is less than `sojourn add` waits."""
PROVED_SECONDS = 10.0
"""A line that stood for so long was a good one; the next is tried soon."""
END_SECONDS = 5.0
PORT_HELD = b"remote port forwarding failed"

_MY_SERVER = """\
record=$HOME/.local/share/sojourn/tether-%PORT%
born() { sed "s/.*) //" /proc/$1/stat 2>/dev/null | cut -d" " -f20; }
"""
HOLD = f"""{_MY_SERVER}mkdir -p "${{record%/*}}"
echo "$PPID $(born $PPID)" >"$record"
cat >/dev/null
rm -f "$record"
kill $PPID
"""
"""Run by the line itself: it notes which server process holds the port, and ends that one when this end is gone."""
CLEAR = f"""{_MY_SERVER}[ -r "$record" ] || exit 0
read -r server time <"$record"
[ -n "$time" ] && [ "$time" = "$(born $server)" ] && kill -9 $server
rm -f "$record"
"""
"""Run when the port is still held: a server does not know for hours that its client has lost the network."""


def line(host: Host, target: str) -> list[str]:
    """The ssh that gives the host its port. `target`: the controller's host:port, as this machine reaches it."""
    forward = f"127.0.0.1:{host.port}:{target}"
    return _ssh(host, f"RemoteForward={forward.replace(f':{target}', f' {target}')}", script=HOLD)


def clearing(host: Host) -> list[str]:
    """The ssh that ends the server process which still holds the port of an older line."""
    return _ssh(host, script=CLEAR)


class Tether:
    """One host's line. `tend` is to be called again and again, and never waits."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._target = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._clears = self._cleared = False
        """Whether an older line's port is being freed now, or has just been."""
        self._began = 0.0
        self._said_from = 0
        self._pause = FIRST_PAUSE_SECONDS
        self._not_before = 0.0

    def tend(self, target: str, now: float) -> None:
        """`target`: where the controller is, host:port; `now`: by a clock that is never set."""
        if self._process and target != self._target and not self._clears:
            self.end()
        if self._process and self._process.poll() is not None:
            self._ended(now)
        if self._process is None and target and now >= self._not_before:
            self._begin(target, now)

    def end(self) -> None:
        """Hang up; what holds the port there ends with it."""
        if self._process:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(END_SECONDS)
            self._process.kill()
            self._process.wait()
        self._process = None

    def _begin(self, target: str, now: float) -> None:
        path = book.log_of(self.host.name)
        cap_log(path)
        argv = clearing(self.host) if self._clears else line(self.host, target)
        with path.open("ab") as file:
            self._said_from = file.tell()
            self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=file, stderr=file)
        self._target, self._began = target, now

    def _ended(self, now: float) -> None:
        assert self._process
        if self._process.stdin:
            self._process.stdin.close()
        self._process = None
        if self._clears:
            self._clears, self._cleared = False, True
        elif not self._cleared and PORT_HELD in _tail(book.log_of(self.host.name), self._said_from):
            self._clears = True
        else:
            self._rest(now)

    def _rest(self, now: float) -> None:
        """For longer each time, until a line has proved good."""
        if now - self._began > PROVED_SECONDS:
            self._pause = FIRST_PAUSE_SECONDS
        self._not_before, self._cleared = now + self._pause, False
        self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)


def keep(ending: Callable[[float], bool]) -> None:
    """Keep all lines up, until `ending(seconds)`, which waits for so long, is true. Raises Busy when another process
    does so already."""
    book.folder().mkdir(parents=True, exist_ok=True, mode=0o700)
    with (book.folder() / "lock").open("w") as lock:
        if not take_lock(lock):
            raise Busy("Another process keeps up the lines to hosts already.", "`sojourn down` ends it.")
        tethers: dict[str, Tether] = {}
        try:
            while not ending(LOOK_SECONDS):
                _tend_all(tethers)
        finally:
            for tether in tethers.values():
                tether.end()


def _tend_all(tethers: dict[str, Tether]) -> None:
    known = {name: host for name, host in book.hosts().items() if host.port}
    for name in [name for name, tether in tethers.items() if known.get(name) != tether.host]:
        tethers.pop(name).end()
    for name, host in known.items():
        tether = tethers.setdefault(name, Tether(host))
        try:
            tether.tend(_controller(host), time.monotonic())
        except (OSError, SojournError) as failed:
            log.error("the line to %s: %s", name, failed)


def _controller(host: Host) -> str:
    """Where the host's controller is now, host:port; empty: the embedded one has never been started."""
    url = host.controller
    if not url:
        with suppress(OSError, ValueError, KeyError):
            url = json.loads((data_folder() / "controller" / "controller.json").read_text())["url"]
    return relay_of(url)


def _ssh(host: Host, *options: str, script: str) -> list[str]:
    """ssh that asks nobody, and shares its connection with none."""
    quiet = ("BatchMode=yes", "ControlMaster=no", "ControlPath=none", "ExitOnForwardFailure=yes")
    text = script.replace("%PORT%", str(host.port)).strip().replace("\n", "; ").replace("'", "'\"'\"'")
    return [*command(host, *quiet, *options), f"exec sh -c '{text}'"]


def _tail(path: Path, start: int) -> bytes:
    with suppress(OSError), path.open("rb") as file:
        file.seek(start)
        return file.read()
    return b""


def main() -> int:
    """Until SIGTERM or SIGINT. Returns the exit status."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    try:
        keep(over.wait)
    except SojournError as refused:
        print(f"sojourn tether: {refused}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
