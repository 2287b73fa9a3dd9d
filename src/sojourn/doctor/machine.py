"""The machine as the doctor sees it: files, programs, its kind of system. Tests put a made-up one in its place."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

SYSTEM_FOLDERS = "/usr/local/sbin:/usr/sbin:/sbin"
"""An ordinary user's PATH lacks these on Debian, and runc and criu are in them."""


@dataclass(frozen=True)
class Answer:
    """What a program said: its exit code (127: there is none) and its stdout and stderr together."""

    code: int
    output: str


@dataclass(frozen=True)
class Distribution:
    """`family` is the package manager's: "debian", "fedora" or "other"."""

    id: str
    version: str
    name: str
    family: str


class Machine:
    """This machine."""

    @cached_property
    def system(self) -> str:
        """As platform.system(): "Linux", "Darwin", "Windows"."""
        return platform.system()

    @cached_property
    def distribution(self) -> Distribution:
        return read_distribution(self.read("/etc/os-release") or "")

    @property
    def is_root(self) -> bool:
        return hasattr(os, "geteuid") and os.geteuid() == 0

    def environment(self, name: str) -> str | None:
        return os.environ.get(name)

    def read(self, path: str) -> str | None:
        """A file's text; None when it is not there or not ours to read."""
        try:
            return Path(path).read_text(errors="replace")
        except OSError:
            return None

    def exists(self, path: str) -> bool:
        return Path(path).exists()

    def is_writable(self, path: str) -> bool:
        return os.access(path, os.W_OK)

    def find(self, program: str) -> str | None:
        return shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}{os.pathsep}{SYSTEM_FOLDERS}")

    def run(self, *argv: str, timeout_seconds: float = 30) -> Answer:
        """Run a program without a shell and without input."""
        try:
            done = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=timeout_seconds,
                check=False,
            )
        except (FileNotFoundError, PermissionError) as absent:
            return Answer(127, str(absent))
        except subprocess.TimeoutExpired:
            return Answer(124, f"{argv[0]} did not answer within {timeout_seconds:.0f} s")
        return Answer(done.returncode, done.stdout.decode(errors="replace"))


def read_distribution(os_release: str) -> Distribution:
    """Understand /etc/os-release."""
    pairs = (line.partition("=") for line in os_release.splitlines() if "=" in line)
    fields = {key.strip(): value.strip().strip("\"'") for key, _, value in pairs}
    kin = {fields.get("ID", ""), *fields.get("ID_LIKE", "").split()}
    family = next((name for name in ("debian", "fedora") if name in kin), "other")
    if "ubuntu" in kin:
        family = "debian"
    if "rhel" in kin:
        family = "fedora"
    return Distribution(
        fields.get("ID", "unknown"), fields.get("VERSION_ID", ""), fields.get("PRETTY_NAME", ""), family
    )
