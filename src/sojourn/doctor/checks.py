"""The checks, in the order a person reads them. Each looks at one thing and says what it means for moving sessions."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from sojourn.doctor import criu, kernel
from sojourn.doctor.findings import Cure, Finding, State, degraded, missing, ok
from sojourn.doctor.machine import Machine
from sojourn.doctor.packages import install
from sojourn.doctor.proof import check_proof
from sojourn.settings import configured_controller
from sojourn.transport.routes import is_loopback, relay_of

_CAP_SYS_RESOURCE = 24
_PIPE_BYTES = 2**31
"""What one page-pipe of CRIU may ask for; see its `page-pipe: tee` error."""
_SYSCTL = "/etc/sysctl.d/60-sojourn.conf"

Check = Callable[[Machine], Finding]


def check_system(machine: Machine) -> Finding:
    if machine.system == "Linux":
        return ok("system", machine.distribution.name or "Linux")
    return degraded(
        "system",
        f"{machine.system}: notebooks run in plain processes; only Linux nodes can move a running session",
        Cure("add a Linux node: sojourn agent --controller URL --token TOKEN", needs_root=False, automatic=False),
    )


def check_rights(machine: Machine) -> Finding:
    if machine.is_root:
        return ok("rights", "root")
    return degraded("rights", "not root: sessions here are plain processes and can't move live", _as_root())


def check_runc(machine: Machine) -> Finding:
    return _program(machine, "runc", missing, "no sandboxes that can move")


def check_pasta(machine: Machine) -> Finding:
    return _program(machine, "pasta", degraded, "sessions have no network but their own")


def check_podman(machine: Machine) -> Finding:
    return _program(machine, "podman", degraded, "sessions can't name an image; the node's own root is used")


def check_kernel_features(machine: Machine) -> Finding:
    refused = {name: why for name, probe in kernel.FEATURES.items() if (why := probe())}
    if not refused:
        return ok("kernel features", ", ".join(kernel.FEATURES))
    reasons = "; ".join(f"{name}: {why}" for name, why in refused.items())
    return degraded("kernel features", f"no lazy moves, whole copies instead ({reasons})", _kernel_cure(machine))


def check_overlay(machine: Machine) -> Finding:
    if "overlay" in (machine.read("/proc/filesystems") or ""):
        return ok("overlay", "the kernel has it")
    return missing("overlay", "no writable layer for sandboxes", Cure("modprobe overlay"))


def check_cgroups(machine: Machine) -> Finding:
    """The freezer: a controller of its own in version 1, a file of every group in version 2."""
    mounts = [line.split() for line in (machine.read("/proc/mounts") or "").splitlines()]
    for _, where, kind, options, *_ in mounts:
        if kind == "cgroup" and "freezer" in options.split(","):
            return _freezer(machine, f"version 1, freezer at {where}", where)
    for _, where, kind, *_ in mounts:
        if kind == "cgroup2" and machine.exists(f"{where}/cgroup.controllers"):
            return _freezer(machine, f"version 2 at {where}", where)
    return missing(
        "cgroups", "no freezer: mount cgroups", Cure("mount -t cgroup2 none /sys/fs/cgroup", automatic=False)
    )


def check_seccomp(machine: Machine) -> Finding:
    """What every sandbox is born with: the kernel must have filters, and runc know how to set one."""
    if "errno" not in (machine.read("/proc/sys/kernel/seccomp/actions_avail") or ""):
        cure = Cure("use a kernel with CONFIG_SECCOMP_FILTER", automatic=False)
        return missing("seccomp", "the kernel can't filter system calls: no sandboxes", cure)
    runc = machine.find("runc")
    if runc and "libseccomp" not in machine.run(runc, "--version").output:
        cure = Cure("use a runc that was built with libseccomp", automatic=False)
        return missing("seccomp", f"{runc} can't set filters: no sandboxes", cure)
    return ok("seccomp", "sandboxes get a filter of system calls")


def check_pipes(machine: Machine) -> Finding:
    if not machine.is_root:
        return ok("pipe limits", "they matter to root's agents only")
    limit = int(machine.read("/proc/sys/fs/pipe-max-size") or 0)
    if _has_capability(machine, _CAP_SYS_RESOURCE) or limit >= _PIPE_BYTES:
        return ok("pipe limits", "CRIU may use pipes as large as it needs")
    return degraded(
        "pipe limits",
        f"pipes of at most {limit} bytes and no CAP_SYS_RESOURCE: lazy moves of large sessions fail",
        # The first for the next start of the machine, the second for now; sysctl itself may not be installed.
        Cure(f"sh -c 'echo fs.pipe-max-size={_PIPE_BYTES} >{_SYSCTL}; echo {_PIPE_BYTES} >/proc/sys/fs/pipe-max-size'"),
    )


def check_kdat(machine: Machine) -> Finding:
    """CRIU keeps what it learnt of the kernel in /run/criu.kdat, if /run is a tmpfs; else a call costs 0.1 s more."""
    if _kind_of_mount(machine, "/run") == "tmpfs":
        return ok("kdat cache", "/run is a tmpfs")
    if machine.is_root:
        return ok("kdat cache", "/run is no tmpfs; agents give CRIU a private one")
    return ok("kdat cache", "it matters to root's agents only")


def check_lab(machine: Machine) -> Finding:
    if importlib.util.find_spec("jupyterlab"):
        return ok("jupyterlab", "installed beside Sojourn")
    command = f"{shlex.quote(sys.executable)} -m pip install 'sojourn[lab]'"
    return degraded("jupyterlab", "`sojourn up` has no JupyterLab to open", Cure(command, needs_root=False))


def check_encryption(_: Machine) -> Finding:
    """By what the user has set; nobody is asked."""
    controller = configured_controller()
    if controller is None or is_loopback(relay_of(controller.url)):
        return ok("encryption", "the controller is reached on this machine")
    if controller.url.startswith("https:"):
        return ok("encryption", f"{controller.url} speaks TLS")
    cure = Cure("sojourn login https://CONTROLLER", needs_root=False, automatic=False)
    return degraded("encryption", f"what is said to {controller.url} can be read on the way", cure)


EVERYWHERE: tuple[Check, ...] = (check_system, check_rights, check_lab, check_encryption)
ON_LINUX: tuple[Check, ...] = (
    check_runc,
    criu.check_version,
    criu.check_kernel,
    check_kernel_features,
    check_overlay,
    check_cgroups,
    check_seccomp,
    check_pipes,
    check_kdat,
    check_pasta,
    check_podman,
)


def examine(machine: Machine, prove: bool = True, node: bool = False) -> list[Finding]:
    """Every finding about a machine. `prove`: also make a tiny lazy move, where nothing it needs is missing. `node`: it
    is a node only, and nobody opens JupyterLab there."""
    checks = EVERYWHERE + (ON_LINUX if machine.system == "Linux" else ())
    if node:
        checks = tuple(check for check in checks if check is not check_lab)
    findings = [check(machine) for check in checks]
    if machine.system == "Linux" and prove:
        findings.append(check_proof(machine, [finding.name for finding in findings if finding.state is State.MISSING]))
    return findings


def _as_root() -> Cure:
    """sudo's PATH knows no virtual environment: name the command in full."""
    command = Path(sys.executable).with_name("sojourn")
    return Cure(f"{shlex.quote(str(command))} up", automatic=False)


def _program(machine: Machine, name: str, grade: Callable[[str, str, Cure | None], Finding], loss: str) -> Finding:
    path = machine.find(name)
    if path is None:
        return grade(name, f"not installed: {loss}", install(machine, name))
    answer = machine.run(path, "--version")
    if answer.code:
        return grade(name, f"{path} fails: {answer.output.strip()[:100]}", install(machine, name))
    return ok(name, f"{answer.output.splitlines()[0] if answer.output.strip() else name} at {path}")


def _freezer(machine: Machine, detail: str, where: str) -> Finding:
    if machine.is_root and not machine.is_writable(where):
        return missing("cgroups", f"{detail}, but read-only: run the container with its cgroups writable")
    return ok("cgroups", detail)


def _has_capability(machine: Machine, number: int) -> bool:
    lines = (machine.read("/proc/self/status") or "").splitlines()
    held = next((line.split()[1] for line in lines if line.startswith("CapEff:")), "0")
    return bool(int(held, 16) >> number & 1)


def _kind_of_mount(machine: Machine, path: str) -> str | None:
    """The file system mounted exactly there; the last one when several are stacked."""
    rows = [line.split() for line in (machine.read("/proc/mounts") or "").splitlines()]
    return next((row[2] for row in reversed(rows) if row[1] == path), None)


def _kernel_cure(machine: Machine) -> Cure | None:
    if machine.is_root:
        return Cure("use a kernel of 5.11 or newer with CONFIG_USERFAULTFD", automatic=False)
    return None
