"""What a host is and has: a small script for any POSIX shell prints it as lines, which are read here."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePosixPath

from sojourn.errors import SojournError

OLDEST_PYTHON = (3, 11)
ROOTS_VENV = "/opt/sojourn/venv"
OWN_VENV = ".local/share/sojourn/venv"
"""Below the home of whoever is not root."""
MARK = "sojourn-delivered"
"""A file in the environment: the fingerprint of what was installed in it."""

SCRIPT = f"""
PATH="$PATH:/usr/local/bin:$HOME/.local/bin:$HOME/.cargo/bin:/usr/sbin:/sbin"
say() {{ printf '%s=%s\\n' "$1" "$2"; }}
say system "$(uname -s)"
say machine "$(uname -m)"
say uid "$(id -u)"
say home "$HOME"
case $(ldd --version 2>&1) in *musl*) say libc musl ;; *) say libc gnu ;; esac
for name in python3.14 python3.13 python3.12 python3.11 python3; do
    path=$(command -v $name) && say python "$("$path" -c 'import importlib.util as find, sys
print("%d.%d" % sys.version_info[:2], "venv" if find.find_spec("ensurepip") else "bare", sys.executable)' </dev/null)"
done 2>/dev/null
path=$(command -v uv) && say uv "$path"
path=$(command -v apt-get) && say apt "$path"
if [ "$(id -u)" = 0 ]; then venv={ROOTS_VENV}; else venv=$HOME/{OWN_VENV}; fi
[ -r "$venv/{MARK}" ] && say delivered "$(cat "$venv/{MARK}")"
if [ "$(id -u)" = 0 ]; then disk=/opt; else disk=$HOME; fi
[ -d "$disk" ] || disk=/
say free "$(df -Pk "$disk" | while read -r _ _ _ free _; do echo "$free"; done | tail -n 1)"
cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | while read -r _ local _ state _; do
    [ "$state" = 0A ] && say listens "${{local##*:}}"
done
say end survey
"""


@dataclass(frozen=True)
class Python:
    path: str
    version: tuple[int, int]
    makes_venvs: bool
    """Debian keeps in a package of its own what that takes."""


@dataclass(frozen=True)
class Survey:
    system: str
    """As uname: "Linux", "Darwin"."""
    machine: str
    uid: int
    home: str
    libc: str
    pythons: tuple[Python, ...] = ()
    """New enough for Sojourn, the first found first."""
    uv: str = ""
    apt: bool = False
    delivered: str = ""
    """The fingerprint of the Sojourn that is there."""
    free_bytes: int = 0
    """Where Sojourn would go."""
    ports: frozenset[int] = field(default_factory=frozenset)
    """At which somebody listens."""

    @property
    def is_root(self) -> bool:
        return self.uid == 0

    @property
    def venv(self) -> str:
        return ROOTS_VENV if self.is_root else str(PurePosixPath(self.home, OWN_VENV))

    @property
    def python(self) -> str:
        """That of the environment, once it is made."""
        return f"{self.venv}/bin/python"

    def free_port(self, first: int) -> int:
        """The first port from `first` at which nobody listens."""
        return next(port for port in range(first, 65536) if port not in self.ports)


def read(text: str) -> Survey:
    """Understand what the script printed. Raises SojournError when it did not come to its end."""
    pairs = [(key, value) for key, equals, value in (line.partition("=") for line in text.splitlines()) if equals]
    said = dict(pairs)
    if said.get("end") != "survey" or not said.get("uid", "").isdigit():
        raise SojournError("The host does not say what it is.", "It has to have a POSIX shell.")
    return Survey(
        system=said["system"],
        machine=said["machine"],
        uid=int(said["uid"]),
        home=said["home"],
        libc=said["libc"],
        pythons=tuple(filter(None, (_python(value) for key, value in pairs if key == "python"))),
        uv=said.get("uv", ""),
        apt="apt" in said,
        delivered=said.get("delivered", ""),
        free_bytes=int(said["free"]) * 1024 if said.get("free", "").isdigit() else 0,
        ports=frozenset(int(value, 16) for key, value in pairs if key == "listens"),
    )


def _python(line: str) -> Python | None:
    version, _, rest = line.partition(" ")
    kind, _, path = rest.partition(" ")
    major, _, minor = version.partition(".")
    if not (path and major.isdigit() and minor.isdigit()) or (int(major), int(minor)) < OLDEST_PYTHON:
        return None
    return Python(path, (int(major), int(minor)), kind == "venv")
