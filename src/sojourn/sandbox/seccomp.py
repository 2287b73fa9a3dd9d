"""Which system calls a session may make: podman's default profile, stricter where podman relies on user namespaces.

`seccomp.json` is that profile unchanged, as Debian's package golang-github-containers-common 0.50.1 has it (© 2018 the
authors of github.com/containers/common, Apache License 2.0: `seccomp.LICENSE`). It is shipped rather than looked for
on the node: a filter is born with its session and travels in it, so every node should give the same.

podman's form of a profile has conditions that runc does not know: on capabilities and on the machine. They
are resolved here, once for each sandbox. What no rule names gets "no such system call", as on an older kernel.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from importlib import resources
from typing import Any

Rule = Mapping[str, Any]
"""One of a profile's `syscalls`."""

NAMESPACES_AND_MOUNTS = (
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "mount",
    "mount_setattr",
    "move_mount",
    "open_tree",
    "pivot_root",
    "setns",
    "umount",
    "umount2",
    "unshare",
)
"""podman allows most of them: they need a capability, or a user namespace, which anybody may make. But that one opens
much of the kernel that only root used to reach, and CRIU restores no namespaces within a session's."""
KEYS = ("add_key", "keyctl", "request_key")
"""Keys belong to user numbers, not to sandboxes: root inside has those of the node's root."""
FORBIDDEN = frozenset({*NAMESPACES_AND_MOUNTS, *KEYS})
"""Answered with "not permitted"."""

UNCARRIED = (
    "io_uring_enter",
    "io_uring_register",
    "io_uring_setup",
    "landlock_add_rule",
    "landlock_create_ruleset",
    "landlock_restrict_self",
    "memfd_secret",
)
"""What a session can't take along: CRIU can't dump rings and secret memory, and forgets what a landlock forbids."""
CLONE3 = "clone3"
"""Its flags are in memory, where no filter sees them. The C libraries take clone instead."""
ABSENT = frozenset({*UNCARRIED, CLONE3})
"""Answered with "no such system call", so that programs do without."""

_ALLOW, _REFUSE = "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"
_NEW_NAMESPACES = 0x7E020000
"""CLONE_NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET (clone(2)): the first argument, but on s390."""
_CLONE: Rule = {
    "names": ["clone"],
    "action": _ALLOW,
    "args": [{"index": 0, "value": _NEW_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}],
}

_GO_NAMES = {"x86_64": "amd64", "aarch64": "arm64"}
"""uname's word for a machine -> podman's, where they differ."""


def profile(capabilities: Collection[str], machine: str) -> dict[str, Any]:
    """OCI's `linux.seccomp` for a process with these capabilities on a machine of uname's word (`x86_64`)."""
    podmans = _podmans()
    arch = _GO_NAMES.get(machine, machine)
    rules = [rule for rule in podmans["syscalls"] if _applies(rule, capabilities, arch)]
    refused = {name for rule in rules if _is_plain(rule, _REFUSE) for name in rule["names"]} | FORBIDDEN
    allowed = {name for rule in rules if _is_plain(rule, _ALLOW) for name in rule["names"]}
    return {
        "defaultAction": _REFUSE,
        "defaultErrnoRet": errno.ENOSYS,
        "architectures": _architectures(podmans["archMap"], machine),
        "syscalls": [
            {"names": sorted(refused), "action": _REFUSE, "errnoRet": errno.EPERM},
            {"names": sorted(allowed - refused - ABSENT - {"clone"}), "action": _ALLOW},
            *_distinct(_bare(rule) for rule in rules if rule["args"]),
            _CLONE,
        ],
    }


@cache
def _podmans() -> dict[str, Any]:
    body: dict[str, Any] = json.loads(resources.files(__package__).joinpath("seccomp.json").read_text())
    return body


def _applies(rule: Rule, capabilities: Collection[str], arch: str) -> bool:
    """As podman decides it (containers/common, pkg/seccomp): all that is included, nothing that is excluded."""
    includes, excludes = rule["includes"], rule["excludes"]
    return (
        set(includes.get("caps", ())) <= set(capabilities)
        and arch in includes.get("arches", [arch])
        and not set(excludes.get("caps", ())) & set(capabilities)
        and arch not in excludes.get("arches", ())
    )


def _is_plain(rule: Rule, action: str) -> bool:
    """Whether a rule decides without looking at arguments."""
    return rule["action"] == action and not rule["args"]


def _bare(rule: Rule) -> Rule:
    """Without what runc does not know."""
    return {key: rule[key] for key in ("names", "action", "errnoRet", "args") if key in rule}


def _distinct(rules: Iterable[Rule]) -> list[Rule]:
    """podman says one of its rules twice, which libseccomp takes for a mistake."""
    kept: list[Rule] = []
    for rule in rules:
        if rule not in kept:
            kept.append(rule)
    return kept


def _architectures(known: Iterable[Mapping[str, Any]], machine: str) -> list[str]:
    """The machine's own calls and those of its older kin; without names runc takes the machine's own."""
    own = f"SCMP_ARCH_{machine.upper()}"
    return [name for each in known if each["architecture"] == own for name in (own, *each["subArchitectures"])]
