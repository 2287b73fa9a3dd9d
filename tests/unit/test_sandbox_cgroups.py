"""Cgroups of both versions, on folders that stand in for the kernel's."""

from __future__ import annotations

from pathlib import Path

import pytest

from sojourn.errors import SandboxFailed
from sojourn.sandbox import cgroups
from sojourn.sandbox.cgroups import CgroupsV1, CgroupsV2, Hierarchies, Limits, open_cgroups

HYBRID = """\
30 24 0:26 / /sys/fs/cgroup rw,relatime shared:9 - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw,nsdelegate
32 30 0:28 / /sys/fs/cgroup/systemd rw,nosuid shared:11 - cgroup cgroup rw,xattr,name=systemd
33 30 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:12 - cgroup cgroup rw,cpu,cpuacct
34 30 0:30 / /sys/fs/cgroup/freezer rw,nosuid shared:13 - cgroup cgroup rw,freezer
"""
UNIFIED = "31 30 0:27 / /sys/fs/cgroup rw,nosuid shared:10 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"


def test_a_hybrid_machine_freezes_by_version_1() -> None:
    found = Hierarchies.parse(HYBRID)
    assert found.v1 == {
        "name=systemd": Path("/sys/fs/cgroup/systemd"),
        "cpu": Path("/sys/fs/cgroup/cpu,cpuacct"),
        "cpuacct": Path("/sys/fs/cgroup/cpu,cpuacct"),
        "freezer": Path("/sys/fs/cgroup/freezer"),
    }
    assert isinstance(open_cgroups("sojourn/here/k.1", found), CgroupsV1)


def test_a_unified_machine_freezes_by_version_2() -> None:
    groups = open_cgroups("sojourn/here/k.1", Hierarchies.parse(UNIFIED))
    assert isinstance(groups, CgroupsV2)
    assert groups.boxes() == {"": Path("/sys/fs/cgroup/sojourn/here/k.1/box")}


def test_without_a_freezer_there_is_no_sandbox() -> None:
    with pytest.raises(SandboxFailed, match="freezer"):
        open_cgroups("sojourn/here/k.1", Hierarchies({}, None))


def test_limits_of_version_1_reach_the_controllers_that_exist(tmp_path: Path) -> None:
    groups = CgroupsV1("sojourn/here/k.1", {name: tmp_path / name for name in ("freezer", "memory", "pids")})
    groups.create(Limits(memory_bytes=1 << 30, cores=2))
    box = "sojourn/here/k.1/box"
    assert (tmp_path / "memory" / box / "memory.limit_in_bytes").read_text() == str(1 << 30)
    assert (tmp_path / "pids" / box / "pids.max").read_text() == str(cgroups.PIDS_LIMIT)
    assert not (tmp_path / "cpu").exists()


def test_no_need_of_memory_means_no_limit(tmp_path: Path) -> None:
    groups = CgroupsV1("sojourn/here/k.1", {"freezer": tmp_path / "freezer", "memory": tmp_path / "memory"})
    groups.create(Limits())
    assert not list((tmp_path / "memory/sojourn/here/k.1/box").iterdir())


def test_limits_of_version_2_need_delegated_controllers(tmp_path: Path) -> None:
    groups = CgroupsV2("sojourn/here/k.1", tmp_path)
    box = tmp_path / "sojourn/here/k.1/box"
    box.mkdir(parents=True)
    for folder in (tmp_path, *(tmp_path / "sojourn/here/k.1/box").parents, box):
        if folder.is_relative_to(tmp_path):
            (folder / "cgroup.controllers").write_text("cpu memory io\n")
    groups.create(Limits(memory_bytes=4096, cores=1.5))
    assert (box / "memory.max").read_text() == "4096"
    assert (box / "cpu.max").read_text() == "150000 100000"
    assert not (box / "pids.max").exists()
    assert (box.parent / "cgroup.subtree_control").exists()


def test_freezing_and_holding_are_two_levels(tmp_path: Path) -> None:
    groups = CgroupsV1("k", {"freezer": tmp_path})
    groups.create(Limits())
    groups.freeze()
    groups.hold()
    assert (tmp_path / "k/box/freezer.state").read_text() == "FROZEN"
    groups.thaw()
    assert (tmp_path / "k/box/freezer.state").read_text() == "THAWED"
    assert (tmp_path / "k/freezer.state").read_text() == "FROZEN", "who thaws the box does not release it"
    groups.release()
    assert (tmp_path / "k/freezer.state").read_text() == "THAWED"


def test_who_enters_goes_before_everybody_until_it_settles(tmp_path: Path) -> None:
    groups = CgroupsV1("k", {name: tmp_path / name for name in ("freezer", "cpu")})
    groups.create(Limits())
    groups.enter(7)
    fast = tmp_path / "cpu/sojourn-restoring"
    assert (groups.pids(), (fast / "cgroup.procs").read_text()) == ([7], "7")
    assert not (tmp_path / "cpu/k/box/cgroup.procs").exists()
    groups.settle()
    assert (tmp_path / "cpu/k/box/cgroup.procs").read_text() == "7"


def test_what_does_not_freeze_is_thawed_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "FREEZE_SECONDS", 0.01)
    groups = CgroupsV2("k", tmp_path)
    box = tmp_path / "k/box"
    box.mkdir(parents=True)
    (box / "cgroup.events").write_text("populated 1\nfrozen 0\n")
    with pytest.raises(SandboxFailed, match="does not freeze"):
        groups.freeze()
    assert (box / "cgroup.freeze").read_text() == "0"


def test_a_sandbox_that_is_gone_has_no_processes_and_may_be_thawed(tmp_path: Path) -> None:
    groups = CgroupsV1("k", {"freezer": tmp_path})
    assert groups.pids() == []
    groups.thaw()
    groups.release()
    groups.kill()
