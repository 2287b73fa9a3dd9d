"""An agent that runs without anybody: a unit of systemd where it is, else a process in the background that is started
again when it ends. Of either kind, sessions outlive the agent."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypedDict

import psutil

from sojourn.errors import Busy, SojournError, Unknown
from sojourn.hosts.book import require_name
from sojourn.sandbox.mounts import remove_tree
from sojourn.settings import cap_log, data_folder, home, write_private

if TYPE_CHECKING:
    from sojourn.agent.agent import Settings

STOP_SECONDS = 20.0
PAUSE_SECONDS = 2.0
"""Before an agent that ended is started again."""
LOG_LINES = 12


class Card(TypedDict):
    """What is remembered of an installed agent."""

    argv: list[str]
    folder: str
    """The node's."""


class Keeper(Protocol):
    """Who sees to it that an agent runs."""

    def start(self, name: str, argv: Sequence[str]) -> str:
        """In place of what ran under that name; a sentence about what starts it."""

    def stop(self, name: str) -> None:
        """End it for good. Done twice it is done once."""

    def log(self, name: str) -> str:
        """The end of what the agent wrote."""


def install(settings: Settings) -> str:
    """Have an agent of these settings run from now on, in place of an older one of that name; a sentence about what
    starts it. Raises SojournError with what systemd said."""
    require_name(settings.name)
    token = folder(settings.name) / "token"
    write_secret(token, settings.join_token)
    argv = [sys.executable, "-m", "sojourn.agent", *arguments(settings), "--token-file", str(token)]
    write_private(_card(settings.name), {"argv": argv, "folder": str(settings.folder)})
    return fitting().start(settings.name, argv)


def uninstall(name: str) -> None:
    """End an agent that was installed, and remove what it kept here, its token too. Raises Unknown, and Busy while it
    holds sandboxes: then it goes on."""
    nodes = Path(_installed(name)["folder"])
    if sandboxes := [path.name for path in (nodes / "sandboxes").glob("*")]:
        raise Busy(f"Node {name} holds sandboxes here: {', '.join(sandboxes)}.", "Stop or move their sessions first.")
    fitting().stop(name)
    remove_tree(nodes)
    remove_tree(folder(name))
    for empty in (nodes.parent, folder(name).parent, data_folder()):
        with suppress(OSError):  # something else is kept there
            empty.rmdir()


def log(name: str) -> str:
    """The end of what an installed agent wrote. Raises Unknown."""
    _installed(name)
    return fitting().log(name)


def fitting() -> Keeper:
    """systemd's, if it runs here for this user, else our own."""
    if shutil.which("systemctl") and Path("/run/systemd/system").is_dir():
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            return Systemd()
        if _said("systemctl", "--user", "show-environment")[0] == 0:
            return Systemd(user=True)
    return Background()


def arguments(settings: Settings) -> list[str]:
    """The agent's command line for these settings, without a token."""
    listen = f"{f'[{settings.host}]' if ':' in settings.host else settings.host}:{settings.port}"
    options = [("--controller", url) for url in (settings.controller, *settings.elsewhere)]
    options += [("--name", settings.name), *(("--label", label) for label in settings.labels)]
    options += [("--listen", listen if settings.host else "none"), ("--folder", str(settings.folder))]
    options += [("--sandbox", settings.sandbox), ("--eviction", settings.eviction)]
    options += [("--metadata-url", settings.metadata_url)] if settings.metadata_url else []
    return [word for option in options for word in option]


# ── systemd ──────────────────────────────────────────────────────────────────────────────────────────────────


class Systemd:
    """The system's, for root's agents, or that of one user."""

    def __init__(self, user: bool = False) -> None:
        self._user = user
        self._command = ["systemctl", *(["--user"] if user else [])]
        own = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "systemd/user"
        self.folder = own if user else Path("/etc/systemd/system")

    def start(self, name: str, argv: Sequence[str]) -> str:
        self.folder.mkdir(parents=True, exist_ok=True)
        text = unit(name, argv, "default.target" if self._user else "multi-user.target", _environment())
        (self.folder / unit_name(name)).write_text(text)
        for verb in (["daemon-reload"], ["enable", unit_name(name)], ["restart", unit_name(name)]):
            self._do(*verb)
        return f"systemd starts it, also after a reboot ({unit_name(name)})" + self._lingering()

    def stop(self, name: str) -> None:
        path = self.folder / unit_name(name)
        if path.exists():
            self._do("disable", "--now", unit_name(name))
            path.unlink()
            self._do("daemon-reload")

    def log(self, name: str) -> str:
        whose = "--user-unit" if self._user else "--unit"
        return _said("journalctl", whose, unit_name(name), "--lines", str(LOG_LINES), "--no-pager", "--output=cat")[1]

    def _do(self, *verb: str) -> None:
        code, output = _said(*self._command, *verb)
        if code:
            raise SojournError(f"systemctl {' '.join(verb)}: {output}", "`systemctl status` shows more.")

    def _lingering(self) -> str:
        """What a user's own service lacks, if it may not go on when the user logs out."""
        if not self._user or _said("loginctl", "enable-linger")[0] == 0:
            return ""
        return "; it ends when you log out, unless root runs `loginctl enable-linger` for you"


def unit_name(name: str) -> str:
    return f"sojourn-agent-{name}.service"


def unit(name: str, argv: Sequence[str], wanted_by: str, environment: dict[str, str]) -> str:
    """The text of a unit. Only the agent itself is ever ended (KillMode), for sessions that are plain processes are in
    its cgroup."""
    variables = "".join(f"Environment={_quoted(f'{key}={value}')}\n" for key, value in environment.items())
    return f"""\
[Unit]
Description=Sojourn node {name}
After=network-online.target
Wants=network-online.target
StartLimitIntervalSec=0

[Service]
ExecStart={" ".join(map(_quoted, argv))}
{variables}Restart=always
RestartSec={PAUSE_SECONDS:g}
KillMode=process
OOMPolicy=continue
TasksMax=infinity
LimitNOFILE=65536

[Install]
WantedBy={wanted_by}
"""


def _quoted(word: str) -> str:
    """As systemd reads it: % and $ stand for themselves."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if re.search(r"[^\w@%+=:,./$-]", escaped, re.ASCII) else escaped


def _environment() -> dict[str, str]:
    """What the agent must know that its service's manager would not tell it."""
    return {"SOJOURN_HOME": str(there)} if (there := home()) else {}


# ── without systemd ──────────────────────────────────────────────────────────────────────────────────────────


class Background:
    """A process that starts the agent again whenever it ends; which these are stands in two files."""

    def start(self, name: str, argv: Sequence[str]) -> str:
        from sojourn.front.client import SECRETS, detached

        self.stop(name)
        cap_log(self._log(name))
        environment = {key: value for key, value in os.environ.items() if key not in (*SECRETS, "SOJOURN_JOIN_TOKEN")}
        watch = [sys.executable, "-m", "sojourn.hosts", "supervise", name]
        with self._log(name).open("ab") as file:
            process = subprocess.Popen(
                watch, env=environment, cwd="/", stdin=subprocess.DEVNULL, stdout=file, stderr=file, **detached()
            )
        _note(name, "supervisor", process.pid)
        return "a process in the background starts it again when it ends, but nothing does so after a reboot"

    def stop(self, name: str) -> None:
        for role in ("supervisor", "agent"):  # which may have lost its supervisor
            _end(name, role)

    def log(self, name: str) -> str:
        with suppress(FileNotFoundError):
            return "\n".join(self._log(name).read_text(errors="replace").splitlines()[-LOG_LINES:])
        return ""

    def _log(self, name: str) -> Path:
        return folder(name) / "agent.log"


def supervise(name: str) -> None:
    """Run an installed agent again and again, until SIGTERM; its sessions go on then."""
    argv = _installed(name)["argv"]
    ending = False

    def end(*_: object) -> None:
        nonlocal ending
        ending = True
        if agent and agent.poll() is None:
            agent.terminate()

    agent: subprocess.Popen[bytes] | None = None
    signal.signal(signal.SIGTERM, end)
    while not ending:
        cap_log(folder(name) / "agent.log")
        agent = subprocess.Popen(argv)
        if ending:  # asked in between
            agent.terminate()
        _note(name, "agent", agent.pid)
        agent.wait()
        if not ending:
            time.sleep(PAUSE_SECONDS)


def _note(name: str, role: str, pid: int) -> None:
    with suppress(psutil.NoSuchProcess):
        write_private(folder(name) / f"{role}.json", {"pid": pid, "created": psutil.Process(pid).create_time()})


def _end(name: str, role: str) -> None:
    """A PID used again by another program does not count."""
    with suppress(OSError, ValueError, psutil.NoSuchProcess):
        known = json.loads((folder(name) / f"{role}.json").read_text())
        process = psutil.Process(known["pid"])
        if process.create_time() == known["created"]:
            process.terminate()
            if not _has_ended(process):
                process.kill()


def _has_ended(process: psutil.Process) -> bool:
    """Wait for it, as long as may be. One that nobody has reaped yet has ended too."""
    deadline = time.monotonic() + STOP_SECONDS
    while time.monotonic() < deadline:
        if process.status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


# ── what is remembered ───────────────────────────────────────────────────────────────────────────────────────


def folder(name: str) -> Path:
    return data_folder() / "services" / name


def installed() -> list[str]:
    """The names of all agents that were installed by this user."""
    return sorted(path.parent.name for path in (data_folder() / "services").glob("*/service.json"))


def write_secret(path: Path, secret: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secret)


def _card(name: str) -> Path:
    return folder(name) / "service.json"


def _installed(name: str) -> Card:
    """Raises Unknown."""
    try:
        card: Card = json.loads(_card(name).read_text())
    except (OSError, ValueError):
        known = ", ".join(installed()) or "none"
        raise Unknown(f"No agent {name!r} was installed here by you.", f"Installed: {known}.") from None
    return card


def _said(*argv: str) -> tuple[int, str]:
    """The exit code of a program, and what it printed."""
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except OSError as absent:
        return 127, str(absent)
    return done.returncode, done.stdout.decode(errors="replace").strip()
