"""One connection to a host, made by the system's ssh: it asks what it has to ask once, and all commands share it."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from sojourn.errors import Invalid, SojournError, Unreachable
from sojourn.hosts.book import Host

CONNECT_SECONDS = 15
SILENT_SECONDS = 15
"""After three times so many without a word a connection counts as broken."""
_SSH_FAILED = 255


def program() -> str:
    """Raises Unreachable where there is no ssh."""
    if path := shutil.which("ssh"):
        return path
    raise Unreachable("There is no ssh on this machine.", "Install the OpenSSH client.")


def command(host: Host, *options: str) -> list[str]:
    """ssh's command line up to the host, which may be followed by a command. Options are `-o`'s; of two the first
    counts, so ours go before the user's."""
    alive = (f"ConnectTimeout={CONNECT_SECONDS}", f"ServerAliveInterval={SILENT_SECONDS}", "ServerAliveCountMax=3")
    chosen = [word for option in (*options, *host.options, *alive) for word in ("-o", option)]
    return [program(), *chosen, "--", host.destination]


def host_of(destination: str) -> str:
    """The host's part of a destination. Raises Invalid for what ssh would take for an option, or nothing."""
    bare = destination.removeprefix("ssh://").rpartition("@")[2]
    if destination.startswith("ssh://"):
        bare = bare.rpartition(":")[0] or bare
    if not bare or destination.startswith("-") or any(char.isspace() for char in destination):
        raise Invalid(f"{destination!r} is no host.", "Write it as for ssh: user@host, or a name of ~/.ssh/config.")
    return bare.strip("[]")


class Connection:
    """A context: opened at its beginning, and nothing of it is left at its end. Raises Unreachable when ssh can't
    get there; the user may have been asked for a password or about the host's key."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._folder = Path()
        self._path = ""

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="sojourn-ssh-"))
        self._path = f"ControlPath={self._folder / 'line'}"
        master = command(self.host, self._path, "ControlMaster=yes", "ControlPersist=no", "ClearAllForwardings=yes")
        said = self._folder / "said"
        with said.open("wb") as log:  # a pipe would stay open with the master in the background
            code = subprocess.run([*master[:-2], "-f", "-N", *master[-2:]], stdout=log, stderr=log).returncode
        if code:
            text = _last_lines(said.read_text(errors="replace"))
            self._clear()
            raise Unreachable(
                f"ssh does not get to {self.host.destination}: {text}",
                f"`ssh {self.host.destination}` has to work first.",
            )
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        line = command(self.host, self._path)
        subprocess.run([*line[:-2], "-O", "exit", *line[-2:]], capture_output=True, check=False)
        self._clear()

    def ask(self, script: str) -> str:
        """What a POSIX script prints there. It comes by stdin, so nothing of it stands in a command line, and what it
        calls must not read stdin. Raises SojournError with the end of what it said on stderr, if it fails."""
        return self._run(self.shell("-s"), script.encode())

    def put(self, data: bytes, path: str) -> None:
        """Write a file there, readable by its owner alone."""
        self._run(self.shell("-c", f"umask 077 && cat >{shlex.quote(path)}"), data)

    def unpack(self, archive: bytes, folder: str) -> None:
        """Unpack a tar archive into a folder that is there."""
        self._run(self.shell("-c", f"tar -xf - -C {shlex.quote(folder)}"), archive)

    def shell(self, *arguments: str) -> list[str]:
        """The command that is run there: a shell, and root's with sudo."""
        return [*(("sudo", "-n", "-H") if self.host.sudo else ()), "sh", *arguments]

    def _run(self, argv: Sequence[str], data: bytes) -> str:
        line = command(self.host, self._path, "ControlMaster=no")
        done = subprocess.run([*line, shlex.join(argv)], input=data, capture_output=True, check=False)
        if done.returncode:
            text = _last_lines(done.stderr.decode(errors="replace")) or f"exit code {done.returncode}"
            broken = Unreachable if done.returncode == _SSH_FAILED else SojournError
            raise broken(f"{self.host.destination} says: {text}", "Mend that there, then do the same again.")
        return done.stdout.decode(errors="replace")

    def _clear(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def _last_lines(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines()[-12:])
