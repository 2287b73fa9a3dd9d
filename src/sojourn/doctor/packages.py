"""What the system parts are called by each package manager, and the command that installs them."""

from __future__ import annotations

from sojourn.doctor.findings import Cure
from sojourn.doctor.machine import Machine

PASTA = "passt"  # codespell:ignore passt
NAMES = {
    "debian": {"runc": "runc", "podman": "podman", "pasta": PASTA, "criu": "criu"},
    "fedora": {"runc": "runc", "podman": "podman", "pasta": PASTA, "criu": "criu"},
}
"""Package manager's family -> program -> package."""

_INSTALL = {"debian": "apt-get install --yes --no-install-recommends", "fedora": "dnf install --assumeyes"}
UPDATE = {"debian": "apt-get update"}
"""What has to run once before the first install, where anything has."""


def install(machine: Machine, program: str) -> Cure:
    """The cure that installs the package which holds a program."""
    family = machine.distribution.family
    if family not in NAMES:
        return Cure(f"install {program} with this system's package manager", automatic=False)
    return Cure(f"{_INSTALL[family]} {NAMES[family][program]}", downloads=True)


def offered_version(machine: Machine, package: str) -> str | None:
    """The version the distribution would install; None where it has none, or can't be asked."""
    if machine.distribution.family == "debian":
        return _field(machine.run("apt-cache", "policy", package).output, "Candidate")
    if machine.distribution.family == "fedora":
        return _field(machine.run("dnf", "--quiet", "info", package).output, "Version")
    return None


def _field(text: str, name: str) -> str | None:
    lines = (line.partition(":") for line in text.splitlines())
    value = next((value.strip() for key, _, value in lines if key.strip() == name), None)
    return None if value in (None, "(none)") else value
