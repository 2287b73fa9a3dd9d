"""What runc and the rider are told."""

from __future__ import annotations

import pytest

from sojourn.model import Baseline, Mount, Program, SessionSpec
from sojourn.sandbox import spec as specs

FACTS = specs.NodeFacts(
    "/s/rootfs", "/s/netns", "/sojourn/here/k.1/box", "/usr/bin/python3", {"/data": "/data"}, "x86_64"
)
SPEC = SessionSpec(program=Program(argv=("python", "-m", "ipykernel"), env={"HOME": "/root"}, uid=1000, gid=100))


def test_the_sandbox_has_its_own_namespaces_and_the_network_made_for_it() -> None:
    namespaces = {each["type"]: each.get("path") for each in specs.oci_config("k", FACTS)["linux"]["namespaces"]}
    assert namespaces == {"pid": None, "mount": None, "ipc": None, "uts": None, "network": "/s/netns"}


def test_root_inside_can_do_nothing_to_the_node() -> None:
    config = specs.oci_config("k", FACTS)
    granted = {name for names in config["process"]["capabilities"].values() for name in names}
    assert not granted & {"CAP_SYS_ADMIN", "CAP_MKNOD", "CAP_SYS_PTRACE", "CAP_NET_ADMIN", "CAP_SYS_MODULE"}
    assert {"CAP_SETUID", "CAP_SETGID", "CAP_KILL"} <= granted, "the rider starts programs as somebody else"
    assert config["process"]["noNewPrivileges"]
    assert config["linux"]["seccomp"]["defaultAction"] == "SCMP_ACT_ERRNO"
    read_only = {each["destination"] for each in config["mounts"] if "ro" in each["options"]}
    assert {"/proc", "/sys"} <= read_only


def test_few_mounts_and_no_masks_because_each_costs_time_at_a_freeze() -> None:
    config = specs.oci_config("k", FACTS)
    assert [each["destination"] for each in config["mounts"]] == [
        "/proc",
        "/dev",
        "/dev/pts",
        "/sys",
        "/data",
    ]
    assert not {"maskedPaths", "readonlyPaths"} & set(config["linux"])


def test_the_rider_starts_the_program_with_its_whole_environment_and_no_io_uring() -> None:
    program = specs.rider_config("k", SPEC)["program"]
    assert program["env"] == {"HOME": "/root", "UV_USE_IO_URING": "0"}
    assert (program["uid"], program["gid"]) == (1000, 100)


def test_the_rider_is_held_to_the_baseline_too_and_holds_each_program() -> None:
    fleet = SPEC.model_copy(update={"baseline": Baseline(flags=("avx",), env={"CORE": "least"})})
    assert "CORE=least" in specs.oci_config("k", FACTS, specs.held_to(fleet))["process"]["env"]
    assert specs.rider_config("k", fleet)["held"] == {"CORE": "least"}
    assert (specs.held_to(SPEC), specs.rider_config("k", SPEC)["held"]) == ({}, {})


def test_a_hidden_folder_inside_a_shared_one_is_covered() -> None:
    shared = SessionSpec(program=SPEC.program, mounts=(Mount(path="/home/me"), Mount(path="/src", mode="carried")))
    hidden = ["/home/me/.config/sojourn", "/home/meadow", "/src/state"]
    assert specs.binds(shared, hidden, "/nothing") == {
        "/home/me": "/home/me",
        "/home/me/.config/sojourn": "/nothing",
    }


def test_a_carried_folder_in_a_shared_one_is_laid_over_it() -> None:
    folders = (
        Mount(path="/home/me"),
        Mount(path="/home/me/work", mode="carried"),
        Mount(path="/home/me/work/common"),
        Mount(path="/src", mode="carried"),
        Mount(path="/data", mode="left"),
    )
    hidden = ["/home/me/.config/sojourn", "/home/me/work/state", "/src/state"]
    spec = SPEC.model_copy(update={"mounts": folders})
    assert list(specs.binds(spec, hidden, "/nothing", root="/upper").items()) == [
        ("/data", "/data"),
        ("/home/me", "/home/me"),
        ("/home/me/work", "/upper/home/me/work"),
        ("/home/me/work/common", "/home/me/work/common"),
        ("/home/me/.config/sojourn", "/nothing"),
    ]


@pytest.mark.parametrize(
    ("name", "host"),
    [("my kernel", "my-kernel"), ("Übung 1", "bung-1"), ("", "session"), ("…", "session"), ("x" * 80, "x" * 63)],
)
def test_any_name_gives_a_host_name(name: str, host: str) -> None:
    assert specs.hostname(name) == host


def test_a_hidden_folder_inside_a_hidden_one_needs_no_mount_of_its_own() -> None:
    folders = (Mount(path="/tmp"), Mount(path="/tmp/work"), Mount(path="/tmpfoo"))
    shared = SPEC.model_copy(update={"mounts": folders})
    hidden = ["/tmp/home/data", "/tmp/home/data/nodes", "/tmp/home/config", "/elsewhere"]
    assert specs.binds(shared, hidden, "/nothing") == {
        "/tmp": "/tmp",
        "/tmpfoo": "/tmpfoo",
        "/tmp/home/config": "/nothing",
        "/tmp/home/data": "/nothing",
    }
