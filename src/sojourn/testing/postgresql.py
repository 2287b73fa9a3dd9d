"""A PostgreSQL server of one's own, for tests: in a temporary folder, on loopback and a Unix socket, gone at the end.

with postgresql() as server:
    Database(server.new_database())

PostgreSQL refuses to run as root; then it runs as `postgres`, or else as `nobody`.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

START_SECONDS = 30.0
_USER = "sojourn"


class Server:
    """Made by `postgresql()`; it may be stopped and started again, and keeps what was written."""

    def __init__(self, folder: Path, programs: Path, port: int, addresses: tuple[str, ...] = ("127.0.0.1",)) -> None:
        self._folder, self._programs, self._port, self._addresses = folder, programs, port, addresses
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0

    def new_database(self) -> str:
        """The address of an empty database."""
        self._databases += 1
        name = f"sojourn{self._databases}"
        self.do(f"CREATE DATABASE {name}")
        return self.url(name)

    def url(self, database: str, address: str = "127.0.0.1") -> str:
        return f"postgresql://{_USER}@{address}:{self._port}/{database}"

    def socket_url(self, database: str) -> str:
        """The same by the Unix socket."""
        return f"postgresql://{_USER}@/{database}?host={self._folder}&port={self._port}"

    def do(self, statement: str, database: str = "postgres") -> list[Any]:
        """Execute a statement as the superuser, in a connection of its own; the rows that it gives."""
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True) as connection:
            found = connection.execute(statement.encode())
            return found.fetchall() if found.description else []

    def start(self) -> None:
        """Returns when it accepts connections."""
        argv = [str(self._programs / "postgres"), "-D", str(self._folder / "data"), "-p", str(self._port)]
        argv += [
            "-k",
            str(self._folder),
            "-c",
            f"listen_addresses={','.join(self._addresses)}",
            "-c",
            "shared_buffers=16MB",
        ]
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(argv, stdout=log, stderr=log, cwd="/", **_unprivileged())
        deadline = time.monotonic() + START_SECONDS
        while not self._accepts():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"PostgreSQL did not start:\n{(self._folder / 'server.log').read_text()[-2000:]}")
            time.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: hang up on everybody and end well. SIGQUIT: end as in a crash."""
        if self._process:
            self._process.send_signal(how)
            self._process.wait(START_SECONDS)
            self._process = None

    def hang_up(self) -> None:
        """End every other connection, as a network that breaks them does."""
        self.do("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")

    def _accepts(self) -> bool:
        import psycopg

        with contextlib.suppress(psycopg.OperationalError):
            return bool(self.do("SELECT 1"))
        return False


def why_no_postgresql() -> str:
    """The reason why no server can be started here; empty when one can."""
    try:
        import psycopg  # noqa: F401
    except ImportError:
        return "psycopg is not installed"
    return "" if _programs() else "PostgreSQL's server is not installed"


@contextmanager
def postgresql(*also_at: str) -> Iterator[Server]:
    """A server that runs; `also_at`: addresses of this machine at which it answers whoever comes from this machine."""
    programs = _programs()
    assert programs, why_no_postgresql()
    folder = Path(tempfile.mkdtemp(prefix="sojourn-postgresql-"))
    server = Server(folder, programs, _free_port(), ("127.0.0.1", *also_at))
    try:
        _initialise(programs, folder)
        with (folder / "data" / "pg_hba.conf").open("a") as admitted:
            admitted.writelines(f"host all all {address}/32 trust\n" for address in also_at)
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)


def _initialise(programs: Path, folder: Path) -> None:
    if owner := _unprivileged():
        os.chown(folder, owner["user"], owner["group"])
    argv = [str(programs / "initdb"), "--pgdata", str(folder / "data"), "--username", _USER]
    argv += ["--auth", "trust", "--encoding", "UTF8", "--locale", "C", "--no-sync"]
    made = subprocess.run(argv, capture_output=True, cwd="/", check=False, **_unprivileged())
    assert made.returncode == 0, made.stderr.decode()


def _programs() -> Path | None:
    """Where initdb and postgres are; Debian keeps them off the path, a folder for each version."""
    versions = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    newest = max(versions, key=lambda program: int(program.parts[-3]), default=None)
    found = newest or shutil.which("initdb")
    return Path(found).resolve().parent if found else None


def _unprivileged() -> dict[str, Any]:
    """For Popen: who the server is to be."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            user = pwd.getpwnam(name)
            return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    raise AssertionError("there is no user but root")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as trial:
        port: int = trial.getsockname()[1]
    return port
