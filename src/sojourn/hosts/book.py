"""Which hosts were added, and how each is reached: a private file for each, `hosts/NAME.json` in the data folder."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from sojourn.errors import Invalid
from sojourn.settings import data_folder, write_private


@dataclass(frozen=True)
class Host:
    name: str
    """The node's."""
    destination: str
    """As ssh is told: `user@host`, an alias of `~/.ssh/config`, `ssh://user@host:port`."""
    options: tuple[str, ...] = ()
    """ssh's own, as of its `-o`."""
    sudo: bool = False
    """Whether everything there is done by root, by sudo without a password."""
    controller: str = ""
    """The address of the controller it is a node of; empty: the embedded one, wherever it listens."""
    port: int = 0
    """Where that controller is on the host's own loopback, by the tether; 0: it is dialled directly."""


def require_name(name: str) -> None:
    """Raises Invalid for a name that can't be that of a file and of a service."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise Invalid(f"A node can't be called {name!r} here.", "Take letters, digits, dots and dashes.")


def folder() -> Path:
    return data_folder() / "hosts"


def log_of(name: str) -> Path:
    """What ssh said while it kept up the line to that host."""
    return folder() / f"{name}.log"


def hosts() -> dict[str, Host]:
    """All that were added, by their names."""
    found = {}
    for path in folder().glob("*.json"):
        with suppress(OSError, ValueError, TypeError):  # being replaced or removed at this moment
            body = json.loads(path.read_text())
            found[path.stem] = Host(**body | {"options": tuple(body["options"])})
    return found


def keep(host: Host) -> None:
    write_private(_path(host.name), asdict(host))


def forget(name: str) -> None:
    _path(name).unlink(missing_ok=True)
    log_of(name).unlink(missing_ok=True)


def _path(name: str) -> Path:
    return folder() / f"{name}.json"
