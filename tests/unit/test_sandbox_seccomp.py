"""Which system calls a session may make: podman's conditions resolved, and where we are stricter."""

from __future__ import annotations

import errno
import json
from typing import Any

import pytest

from sojourn.sandbox import seccomp
from sojourn.sandbox.spec import CAPABILITIES

OURS = seccomp.profile(CAPABILITIES, "x86_64")


def verdict(profile: dict[str, Any], call: str) -> str | int | None:
    """What becomes of a call whatever its arguments: "allow", an errno, or None when the arguments decide."""
    rules = [rule for rule in profile["syscalls"] if call in rule["names"]]
    if any(rule.get("args") for rule in rules):
        return None
    assert len(rules) < 2, f"runc is told about {call} twice"
    if not rules:
        return int(profile["defaultErrnoRet"])
    return "allow" if rules[0]["action"] == "SCMP_ACT_ALLOW" else int(rules[0]["errnoRet"])


@pytest.mark.parametrize("call", ["read", "futex", "rseq", "ptrace", "arch_prctl", "io_setup", "memfd_create", "vfork"])
def test_programs_may_do_what_podman_lets_them_do(call: str) -> None:
    assert verdict(OURS, call) == "allow"


@pytest.mark.parametrize(
    "call",
    [
        *("bpf", "chroot", "finit_module", "kcmp", "kexec_load", "keyctl", "mount", "open_by_handle_at", "setns"),
        *("perf_event_open", "request_key", "settimeofday", "umount2", "unshare", "userfaultfd"),
    ],
)
def test_what_reaches_the_node_is_not_permitted(call: str) -> None:
    assert verdict(OURS, call) == errno.EPERM


@pytest.mark.parametrize("call", ["io_uring_setup", "memfd_secret", "landlock_restrict_self", "clone3", "not_yet_made"])
def test_what_can_not_be_carried_or_is_not_known_is_not_there(call: str) -> None:
    assert verdict(OURS, call) == errno.ENOSYS


@pytest.mark.parametrize(
    ("capability", "call"),
    [("CAP_SYS_CHROOT", "chroot"), ("CAP_SYS_PTRACE", "kcmp"), ("CAP_DAC_READ_SEARCH", "open_by_handle_at")],
)
def test_a_capability_brings_its_calls(capability: str, call: str) -> None:
    assert verdict(seccomp.profile([*CAPABILITIES, capability], "x86_64"), call) == "allow"


def test_no_capability_brings_namespaces_back() -> None:
    mighty = seccomp.profile([*CAPABILITIES, "CAP_SYS_ADMIN"], "x86_64")
    assert verdict(mighty, "bpf") == "allow"
    assert {verdict(mighty, call) for call in seccomp.FORBIDDEN} == {errno.EPERM}


def test_a_clone_is_looked_at_for_the_flags_of_namespaces() -> None:
    (rule,) = [rule for rule in OURS["syscalls"] if "clone" in rule["names"]]
    (condition,) = rule["args"]
    wanted = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
    assert (condition["op"], condition["value"], condition["valueTwo"]) == ("SCMP_CMP_MASKED_EQ", wanted, 0)


def test_sockets_of_the_nodes_audit_are_for_those_with_the_capability() -> None:
    assert verdict(OURS, "socket") is None
    rules = [rule for rule in OURS["syscalls"] if rule["names"] == ["socket"]]
    assert [rule.get("errnoRet") for rule in rules] == [errno.EINVAL, None, None]
    assert verdict(seccomp.profile([*CAPABILITIES, "CAP_AUDIT_WRITE"], "x86_64"), "socket") == "allow"


def test_each_machine_has_its_own_calls() -> None:
    arm = seccomp.profile(CAPABILITIES, "aarch64")
    assert OURS["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
    assert arm["architectures"] == ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]
    assert (verdict(OURS, "modify_ldt"), verdict(arm, "modify_ldt")) == ("allow", errno.ENOSYS)
    assert (verdict(OURS, "set_tls"), verdict(arm, "set_tls")) == (errno.ENOSYS, "allow")
    assert seccomp.profile(CAPABILITIES, "riscv64")["architectures"] == [], "runc takes the machine's own"


def test_runc_is_told_nothing_that_it_does_not_know() -> None:
    keys = {key for rule in OURS["syscalls"] for key in rule}
    assert keys == {"names", "action", "errnoRet", "args"}
    rules = [json.dumps(rule, sort_keys=True) for rule in OURS["syscalls"]]
    assert len(rules) == len(set(rules)), "libseccomp takes a repeated rule for a mistake"


def test_podmans_plain_refusals_are_all_of_one_kind() -> None:
    """What `profile` takes for granted of the file: a newer one that breaks it must not pass unseen."""
    rules = seccomp._podmans()["syscalls"]
    refusals = [rule for rule in rules if rule["action"] == "SCMP_ACT_ERRNO" and not rule["args"]]
    assert {rule["errnoRet"] for rule in refusals} == {errno.EPERM}
    assert {rule["action"] for rule in rules} == {"SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW"}
    assert seccomp._podmans()["defaultErrnoRet"] == errno.ENOSYS
