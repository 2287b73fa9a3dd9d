"""Sandboxes of the real runc: shut off, moved by hand, and gone without a trace."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sojourn.errors import Incompatible, Invalid, SandboxFailed, SojournError, Unreachable
from sojourn.model import Mount, Needs, Program, SessionSpec
from sojourn.rider.build import build_rider
from sojourn.sandbox.base import Sandbox, SandboxPlan, make_sandbox, open_sandbox
from sojourn.sandbox.cgroups import PIDS_LIMIT, CgroupsV2, Hierarchies, Limits
from sojourn.sandbox.criu_path import find_criu
from sojourn.sandbox.mounts import mounts_below
from sojourn.sandbox.runc import RuncSandbox, runc_missing

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(runc_missing() is not None, reason=f"no runc sandboxes here: {runc_missing()}"),
]

COUNTER = "import itertools, time\nfor n in itertools.count():\n    print(n, flush=True)\n    time.sleep(0.005)\n"
PYTHON = "/usr/bin/python3"


@pytest.fixture(scope="module")
def rider(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_rider(tmp_path_factory.mktemp("rider"))


@pytest.fixture
def failing_rider(tmp_path: Path) -> Path:
    with zipfile.ZipFile(tmp_path / "failing.pyz", "w") as file:
        file.writestr("__main__.py", "raise SystemExit('it can not go on')")
    return tmp_path / "failing.pyz"


def greeting(sandbox: Sandbox) -> dict[str, Any]:
    """The rider's answer to an agent."""
    with sandbox.connect() as connection:
        line = {"attach": "control", "incarnation": sandbox.plan.incarnation, "epoch": 1, "secret": sandbox.secret}
        connection.sendall(json.dumps(line).encode() + b"\n")
        with connection.makefile() as lines:
            answer: dict[str, Any] = json.loads(lines.readline())
            return answer


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """The folder of a node of this test."""
    folder = tmp_path / "node"
    (folder / "sandboxes").mkdir(parents=True)
    (folder / "token").write_text("secret")
    return folder


Make = Callable[..., RuncSandbox]


@pytest.fixture
def make(rider: Path, node: Path) -> Iterator[Make]:
    """Make a sandbox (not yet created) whose program is a shell script; all are removed at the end."""
    made: list[RuncSandbox] = []

    def make(script: str = "exec sleep 1000", incarnation: int = 1, **more: Any) -> RuncSandbox:
        argv = more.pop("argv", ("/bin/sh", "-c", script))
        program = Program(argv=argv, env={"PATH": "/usr/bin:/bin"}, **more.pop("program", {}))
        zipapp = str(more.pop("rider", rider))
        plan = SandboxPlan(
            kind="runc",
            node=f"test-{os.getpid()}",
            session="session1",
            incarnation=incarnation,
            spec=SessionSpec(program=program, **more),
            rider=zipapp,
            hidden=(str(node),),
        )
        sandbox = make_sandbox(node / "sandboxes" / f"session1.{incarnation}", plan)
        assert isinstance(sandbox, RuncSandbox)
        made.append(sandbox)
        return sandbox

    yield make
    for sandbox in made:
        sandbox.remove()


def started(sandbox: RuncSandbox) -> RuncSandbox:
    sandbox.create()
    sandbox.start()
    return sandbox


def eventually(question: Callable[[], Any], seconds: float = 10) -> Any:
    deadline = time.monotonic() + seconds
    while not (answer := question()):
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)
    return answer


def said(sandbox: RuncSandbox, last: str = "END") -> str:
    """What the program wrote, once it has written its last word."""
    return str(eventually(lambda: last in (text := sandbox.log(1 << 20)) and text))


def traces(sandbox: RuncSandbox, netns: int | None) -> list[str]:
    """Whatever of a sandbox is left on this machine."""
    found = [str(path) for path in mounts_below(sandbox.folder)]
    found += [str(sandbox.folder)] if sandbox.folder.exists() else []
    hierarchies = Hierarchies.mounted()
    for root in {*hierarchies.v1.values(), *([hierarchies.v2] if hierarchies.v2 else [])}:
        found += [str(path) for path in (root / "sojourn").glob(f"test-{os.getpid()}*")]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            is_inside = netns and (process / "ns/net").stat().st_ino == netns
            if is_inside or os.fsencode(sandbox.network.path) in (process / "cmdline").read_bytes():
                found.append(str(process))
        except OSError:
            continue
    return found


# ── what it shows and what it hides ──


def test_it_starts_listens_and_is_found_again(make: Make) -> None:
    sandbox = started(make("id -u; pwd; exec sleep 1000", program={"uid": 65534, "gid": 65534, "cwd": "/tmp"}))
    assert greeting(sandbox)["ok"]
    again = open_sandbox(sandbox.folder)
    assert again.alive()
    assert again.root_pid() in again.pids()
    assert said(sandbox, "/tmp").split() == ["65534", "/tmp"]


def test_inside_there_is_nothing_of_the_node(make: Make, node: Path) -> None:
    sandbox = make(
        f"ls /proc | grep -c '^[0-9]'; cat {node}/token; ls -A {node.parent}; hostname; cat /secret/file;"
        "echo in /run: $(ls -A /run); ip -o link 2>/dev/null | wc -l; echo END",
        name="My kernel",
        files={"/secret/file": "for me alone\n"},
    )
    (node.parent / "visible").touch()
    text = said(started(sandbox))
    processes, *rest = text.splitlines()
    assert int(processes) < 8
    assert f"cat: {node}/token: No such file or directory" in rest
    assert "visible" in rest
    assert "node" not in rest
    assert "My-kernel" in rest
    assert "for me alone" in rest
    assert "in /run: sojourn" in rest, "nothing but the rider's folder"


def test_what_it_writes_stays_in_its_layer(make: Make, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("as it was")
    before = kept.stat()
    said(started(make(f"echo changed > {kept}; rm -r /etc/apt; touch /usr/new; echo END")))
    assert kept.read_text() == "as it was"
    assert kept.stat().st_ctime_ns == before.st_ctime_ns
    assert not Path("/usr/new").exists()


def test_root_inside_can_not_reach_the_kernels_levers(make: Make) -> None:
    text = said(
        started(
            make(
                "mount -t tmpfs x /mnt; mknod /tmp/d b 8 0; echo x > /proc/sys/kernel/hostname;"
                "echo 1 > /proc/sys/vm/drop_caches; echo 1 > /sys/kernel/mm/ksm/run; echo END"
            )
        )
    )
    assert text.count("Read-only file system") == 3
    assert "mount: /mnt: permission denied" in text
    assert "mknod: /tmp/d: Operation not permitted" in text


def test_private_files_belong_to_the_program_alone(make: Make) -> None:
    sandbox = make(
        "stat -c '%a %u' /home/of/mine; cat /run/sojourn/rider.json; echo END",
        program={"uid": 65534, "gid": 65534},
        files={"/home/of/mine": "x"},
    )
    text = said(started(sandbox))
    assert "600 65534" in text
    assert "rider.json: Permission denied" in text
    assert sandbox.folder.stat().st_mode & 0o777 == 0o700


def test_memory_and_processes_are_limited(make: Make) -> None:
    hog = f"{PYTHON} -c 'bytearray(200 << 20)'; echo ended with $?; echo END"
    sandbox = started(make(hog, needs=Needs(memory_bytes=64 << 20, cores=0.5)))
    assert "ended with 137" in said(sandbox)
    assert sandbox.alive(), "the rider is not the victim"
    boxes = sandbox.cgroups.boxes()
    assert int((boxes.get("pids", boxes.get("", Path())) / "pids.max").read_text()) == PIDS_LIMIT


def test_shared_folders_are_the_nodes_own_and_carried_ones_a_copy(make: Make, tmp_path: Path, node: Path) -> None:
    shared, carried = tmp_path / "shared", tmp_path / "carried"
    (carried / "deep").mkdir(parents=True)
    (carried / "deep/file").write_text("carried")
    shared.mkdir()
    script = f"cat {carried}/deep/file; echo new > {carried}/deep/file; echo new > {shared}/file; echo; echo END"
    mounts = (Mount(path=str(shared)), Mount(path=str(carried), mode="carried"))
    sandbox = started(make(script, mounts=mounts))
    assert "carried" in said(sandbox)
    assert (shared / "file").read_text() == "new\n"
    assert (carried / "deep/file").read_text() == "carried"
    assert sandbox.binds == {str(shared): str(shared)}
    inside = str(carried / "deep/file").lstrip("/")
    assert inside in sandbox.layer.index(), "it travels"


def test_a_shared_folder_does_not_show_the_state_within(make: Make, tmp_path: Path, node: Path) -> None:
    sandbox = started(make(f"ls -A {node}; cat {node}/token; echo END", mounts=(Mount(path=str(tmp_path)),)))
    assert "secret" not in said(sandbox)
    assert set(sandbox.binds) >= {str(tmp_path), str(node)}
    assert (node / "token").read_text() == "secret"


@pytest.mark.parametrize("path", ["/", "/proc/sys", "relative", "/a/../b", "/run/sojourn"])
def test_a_mount_that_makes_no_sense_is_refused(make: Make, path: str) -> None:
    sandbox = make(mounts=(Mount(path=path),))
    with pytest.raises(Invalid):
        sandbox.create()
    assert traces(sandbox, None) == []


def test_what_the_node_lacks_is_refused_before_anything_is_made(make: Make) -> None:
    for wrong in ({"mounts": (Mount(path="/no/such/folder"),)}, {"image": "/no/such/root"}):
        sandbox = make(**wrong)
        with pytest.raises(Incompatible, match="/no/such"):
            sandbox.create()
        assert traces(sandbox, None) == []


@pytest.mark.skipif(not shutil.which("pasta"), reason="pasta is not installed")
def test_a_way_leads_out_but_not_to_the_nodes_loopback(make: Make) -> None:
    outside = default_address()
    with socket.create_server(("", 0)) as everywhere, socket.create_server(("127.0.0.1", 0)) as inner:
        ports = everywhere.getsockname()[1], inner.getsockname()[1]
        places = [(outside, ports[0]), ("127.0.0.1", ports[1]), ("169.254.250.1", ports[1])]
        script = (
            f"import socket\nfor place in {places}:\n    s = socket.socket()\n    s.settimeout(2)\n"
            "    print(s.connect_ex(place))\n"
        )
        sandbox = started(make(argv=(PYTHON, "-c", f"{script}print('END')")))
        reached, *refused = said(sandbox).split()[:3]
        assert reached == "0", sandbox.facts["outside"]
        assert "0" not in refused


def default_address() -> str:
    """The address this machine has towards the outside."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        try:
            handle.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no network")
        return str(handle.getsockname()[0])


# ── other roots ──


@pytest.fixture(scope="module")
def small_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root folder with a shell, Python and little else, copied from this machine."""
    if not Path(PYTHON).exists():
        pytest.skip(f"there is no {PYTHON} to copy")
    root = tmp_path_factory.mktemp("root") / "root"
    version = subprocess.run([PYTHON, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], capture_output=True)
    programs = ["/bin/sh", "/bin/cat", "/bin/sleep", os.path.realpath(PYTHON)]
    linked = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=True).stdout
    libraries = {word for word in linked.split() if word.startswith("/") and not word.endswith(":")}
    for path in {*programs, *libraries}:
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    standard = f"usr/lib/python{version.stdout.decode().strip()}"
    unused = shutil.ignore_patterns("test", "*.pyc", "dist-packages", "config-*", "pydoc_data", "idlelib", "tkinter")
    shutil.copytree(f"/{standard}", root / standard, ignore=unused, ignore_dangling_symlinks=True)
    if not (root / PYTHON.lstrip("/")).exists():
        (root / PYTHON.lstrip("/")).symlink_to(Path(os.path.realpath(PYTHON)).name)
    for name in ("proc", "dev", "sys", "tmp", "etc"):
        (root / name).mkdir(exist_ok=True)
    (root / "etc/mark").write_text("a root of its own\n")
    return root


def test_a_folder_can_be_the_root(make: Make, small_root: Path) -> None:
    text = said(started(make("cat /etc/mark; cat /etc/passwd; echo x > /etc/mark; echo END", image=str(small_root))))
    assert "a root of its own" in text
    assert "/etc/passwd: No such file" in text
    assert (small_root / "etc/mark").read_text() == "a root of its own\n"


def test_a_device_that_an_image_holds_is_of_no_use(make: Make, small_root: Path) -> None:
    os.mknod(small_root / "null-of-its-own", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    text = said(started(make("cat /null-of-its-own; cat /dev/null && echo END", image=str(small_root))))
    assert "/null-of-its-own: Permission denied" in text


def test_a_log_whose_folder_was_swapped_for_a_link_is_not_read(make: Make, node: Path) -> None:
    sandbox = started(make("echo END; exec sleep 1000"))
    assert said(sandbox)
    (node / "program.log").write_text("secret")
    inside = sandbox.files.upper / "run/sojourn"
    inside.rename(sandbox.files.upper / "run/was")
    inside.symlink_to(node)
    assert sandbox.log(1000) == ""


@pytest.mark.skipif(not shutil.which("podman"), reason="podman is not installed")
def test_an_image_can_be_the_root(make: Make, small_root: Path) -> None:
    image = f"localhost/sojourn-test:{os.getpid()}"
    archive = subprocess.Popen(["tar", "-C", small_root, "-c", "."], stdout=subprocess.PIPE)
    try:
        subprocess.run(["podman", "import", "-q", "-", image], stdin=archive.stdout, check=True, capture_output=True)
        sandbox = started(make("cat /etc/mark; echo x > /etc/mark; echo END", image=image))
        assert "a root of its own" in said(sandbox)
        sandbox.remove()
    finally:
        archive.wait()
        subprocess.run(["podman", "rmi", "-f", image], capture_output=True, check=False)


@pytest.mark.skipif(not shutil.which("podman"), reason="podman is not installed")
def test_an_image_that_is_not_there_is_refused_with_the_command_that_fetches_it(make: Make) -> None:
    with pytest.raises(Incompatible) as refused:
        make(image="localhost/no-such-image:1").create()
    assert "sojourn image pull localhost/no-such-image:1" in refused.value.hint


# ── freezing, killing, removing ──


def last_number(sandbox: RuncSandbox) -> int:
    return int((sandbox.log(200).split() or ["0"])[-1])


def stands_still(sandbox: RuncSandbox) -> bool:
    before = sandbox.log(200)
    time.sleep(0.05)
    return sandbox.log(200) == before


def test_frozen_it_stands_still_and_held_nobody_else_thaws_it(make: Make) -> None:
    sandbox = started(make(argv=(PYTHON, "-c", COUNTER)))
    eventually(lambda: last_number(sandbox) > 3)
    sandbox.freeze()
    assert stands_still(sandbox)
    sandbox.hold()
    sandbox.thaw()
    assert stands_still(sandbox), "the box was thawed, the parent not"
    sandbox.release()
    assert not stands_still(sandbox)


def test_a_frozen_and_held_sandbox_can_be_killed(make: Make) -> None:
    sandbox = started(make(argv=(PYTHON, "-c", COUNTER)))
    sandbox.freeze()
    sandbox.hold()
    sandbox.kill()
    assert sandbox.pids() == []
    assert not sandbox.alive()
    with pytest.raises(Unreachable):
        sandbox.connect()


@pytest.mark.parametrize("state", ["running", "frozen", "held", "killed"])
def test_removing_leaves_nothing_and_may_be_repeated(make: Make, state: str) -> None:
    sandbox = started(make("sleep 1000 & exec sleep 1000"))
    netns = sandbox.network.inode()
    {"running": lambda: None, "frozen": sandbox.freeze, "held": sandbox.hold, "killed": sandbox.kill}[state]()
    open_sandbox(sandbox.folder).remove()
    assert traces(sandbox, netns) == []
    sandbox.remove()


STEPS = ["files.create", "network.create", "cgroups.create", "mount", "_furnish", "start", "adopt"]


@pytest.mark.parametrize("step", STEPS)
def test_after_a_crash_at_any_step_it_can_be_removed(make: Make, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    sandbox = make()

    def crash(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    owner: Any = sandbox
    *path, name = step.split(".")
    for part in path:
        owner = getattr(owner, part)
    monkeypatch.setattr(owner, name, crash)
    with pytest.raises(KeyboardInterrupt):
        started(sandbox)
    netns = sandbox.network.inode()
    monkeypatch.undo()
    open_sandbox(sandbox.folder).remove()
    assert traces(sandbox, netns) == []


def test_two_lives_of_one_session_side_by_side(make: Make) -> None:
    first, second = started(make(incarnation=1)), started(make(incarnation=2))
    first.freeze()
    first.remove()
    assert second.alive()
    assert greeting(second)["ok"]


def test_a_rider_that_fails_is_quoted(make: Make, failing_rider: Path) -> None:
    sandbox = make(rider=failing_rider)
    sandbox.create()
    with pytest.raises(SandboxFailed, match="it can not go on"):
        sandbox.start()


def test_a_folder_without_a_record_is_no_sandbox(tmp_path: Path) -> None:
    with pytest.raises(SandboxFailed):
        open_sandbox(tmp_path)
    (tmp_path / "sandbox.json").write_text("{")
    with pytest.raises(SandboxFailed):
        open_sandbox(tmp_path)


# ── travelling ──

DEEDS = """\
cd {0}
rm removed; rm -r replaced; mkdir replaced; echo new > replaced/new
mkdir fresh; echo one > fresh/a; ln fresh/a fresh/b; ln -s ../a fresh/link; mkfifo fresh/pipe
chmod 4750 fresh/a; chown 1000:1000 fresh; echo more >> appended; mv moved fresh/moved
{1} -c 'import os; os.setxattr("fresh/a", "user.colour", b"red")'
{1} -c 'import socket; socket.socket(socket.AF_UNIX).bind("fresh/socket")'
echo END
"""


def view(sandbox: RuncSandbox, folder: Path) -> dict[str, tuple[object, ...]]:
    """What a session sees below a folder."""
    root = sandbox.files.root / str(folder).lstrip("/")
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(root.rglob("*")):
        there = path.lstat()
        body = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        attributes = tuple(os.listxattr(path, follow_symlinks=False))
        found[str(path.relative_to(root))] = (there.st_mode, there.st_uid, there.st_mtime_ns, body, attributes)
    return found


def test_the_layer_takes_removals_replaced_folders_links_and_attributes_along(make: Make, tmp_path: Path) -> None:
    work = tmp_path / "work"
    (work / "replaced").mkdir(parents=True)
    for name in ("removed", "replaced/old", "appended", "moved", "untouched"):
        (work / name).write_text(f"{name}\n")
    source, target = started(make(DEEDS.format(work, PYTHON), incarnation=1)), make(incarnation=2)
    said(source)
    target.create(mount=False)
    before = source.layer.index()
    target.layer.apply(source.layer.delta({}, before))
    (source.files.root / str(work / "fresh/late").lstrip("/")).write_text("written after the first delta")
    source.freeze()
    target.layer.apply(source.layer.delta(before, always=source.restless_files()))
    target.mount()
    seen = view(target, work)
    assert seen == view(source, work)
    assert set(seen) >= {"replaced/new", "fresh/late", "fresh/socket", "untouched"}
    assert not set(seen) & {"removed", "replaced/old", "moved"}
    assert seen["fresh/a"][4] == ("user.colour",)


def test_a_file_that_is_mapped_and_shared_is_restless(make: Make) -> None:
    script = "import mmap, time\nf = open('/tmp/mapped', 'w+b')\nf.truncate(4096)\nm = mmap.mmap(f.fileno(), 4096)\n"
    sandbox = started(make(argv=(PYTHON, "-c", script + "print('END', flush=True)\ntime.sleep(1000)\n")))
    said(sandbox)
    assert sandbox.restless_files() == {"tmp/mapped"}


def why_no_criu() -> str:
    try:
        find_criu()
    except SojournError as missing:
        return missing.message
    return ""


@pytest.mark.skipif(bool(why_no_criu()), reason=why_no_criu())
def test_what_criu_restores_is_a_sandbox_like_any_other(make: Make, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    spec = {"argv": (PYTHON, "-c", COUNTER), "mounts": (Mount(path=str(shared)),)}
    source, target = started(make(incarnation=1, **spec)), make(incarnation=2, **spec)
    eventually(lambda: last_number(source) > 3)
    target.create(mount=False)
    images = tmp_path / "images"
    images.mkdir()
    source.freeze()
    common = ["-D", str(images), "--manage-cgroups=ignore", "--network-lock", "skip", "-v1"]
    freezer = source.cgroups.boxes().get("freezer") or source.cgroups.boxes()[""]
    externals = ["--external", f"net[{source.network.inode()}]:net", "--external", f"mnt[{shared}]:shared"]
    place = ["-t", str(source.root_pid()), "--root", str(source.files.root), "--freeze-cgroup", str(freezer)]
    criu("dump", *place, *externals, *common)
    target.layer.apply(source.layer.delta({}))
    target.mount()
    with target.network.path.open() as netns:
        externals = [
            f"--inherit-fd=fd[{netns.fileno()}]:net",
            f"--external=mnt[shared]:{target.binds[str(shared)]}",
        ]
        place = ["-d", "--root", str(target.files.root), "--pidfile", str(images / "pid")]
        into_box = {"pass_fds": [netns.fileno()], "preexec_fn": lambda: target.cgroups.enter(os.getpid())}
        criu("restore", *place, *externals, *common, **into_box)
    target.adopt(int((images / "pid").read_text()))
    there = last_number(target)
    eventually(lambda: last_number(target) > there)
    assert greeting(target)["ok"]
    target.freeze()
    assert stands_still(target)
    netns_inode = target.network.inode()
    open_sandbox(target.folder).remove()
    source.remove()
    assert traces(target, netns_inode) == []


def criu(*arguments: str, **more: Any) -> None:
    done = subprocess.run([find_criu()[0], *arguments], capture_output=True, text=True, **more)
    assert done.returncode == 0, done.stderr


# ── version 2 of cgroups, wherever it is mounted ──


@pytest.mark.skipif(Hierarchies.mounted().v2 is None, reason="no cgroup2 is mounted")
def test_version_2_freezes_holds_and_kills() -> None:
    root = Hierarchies.mounted().v2
    assert root is not None
    groups = CgroupsV2(f"sojourn/test-{os.getpid()}/k.1", root)
    groups.create(Limits())
    process = subprocess.Popen([sys.executable, "-c", COUNTER], stdout=subprocess.PIPE)
    try:
        groups.enter(process.pid)
        assert groups.pids() == [process.pid]
        groups.freeze()
        groups.hold()
        groups.thaw()
        assert "frozen 1" in (root / groups.path / "cgroup.events").read_text()
        groups.kill()
        assert process.wait(5) == -9
    finally:
        process.kill()
        process.communicate()
        groups.remove()
    assert not (root / f"sojourn/test-{os.getpid()}").exists()
