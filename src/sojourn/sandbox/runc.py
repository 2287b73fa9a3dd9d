"""A sandbox of runc: overlay root, own PID, mount, network, IPC and UTS namespaces, cgroup limits.

runc only gives birth. Afterwards the sandbox is told by its cgroup, so one that CRIU restored, which runc never saw,
is the same to every method here.

    <folder>/sandbox.json  plan and facts        rootfs/ upper/ work/ mask/  the root file system
             config.json   the OCI bundle        netns   its network namespace, kept by a bind mount
             runc/         runc's state          empty/  what covers a hidden folder inside a shared one
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from sojourn.errors import Incompatible, Invalid, SandboxFailed, Unreachable
from sojourn.sandbox import folders, syscalls
from sojourn.sandbox import spec as specs
from sojourn.sandbox.base import Sandbox, SandboxPlan, end_of, end_of_open, own_python, write_json
from sojourn.sandbox.canary import User, look, require_same
from sojourn.sandbox.cgroups import Cgroups, Hierarchies, Limits, open_cgroups
from sojourn.sandbox.images import PYTHONS
from sojourn.sandbox.kept_layers import KeptLayers
from sojourn.sandbox.layer import Layer
from sojourn.sandbox.mounts import make_folder, remove_tree
from sojourn.sandbox.network import Network
from sojourn.sandbox.rootfs import RootFilesystem, find_in, hidden_folders, lower_of, resolve_inside
from sojourn.sandbox.way_out import NAMESERVER, WayOut

START_SECONDS = 15.0
_RUNC_SECONDS = 30.0


def runc_missing() -> str | None:
    """Why this machine can't have runc sandboxes; None when it can."""
    if sys.platform != "linux":
        return "runc needs Linux"
    if os.geteuid() != 0:
        return "runc sandboxes need root"
    if not shutil.which("runc"):
        return "runc is not installed"
    if not _is_mighty():
        return "this root may not mount: CAP_SYS_ADMIN was taken from it, as in most containers"
    if "\toverlay\n" not in Path("/proc/filesystems").read_text():
        return "the kernel has no overlay file system"
    if not Path("/proc/sys/kernel/seccomp").exists():
        return "the kernel has no seccomp filters"
    mounted = Hierarchies.mounted()
    return None if "freezer" in mounted.v1 or mounted.v2 else "no cgroup freezer is mounted"


class RuncSandbox(Sandbox):
    """See the module."""

    def __init__(self, folder: Path, plan: SandboxPlan) -> None:
        super().__init__(folder, plan)
        self.files = RootFilesystem(self.folder)
        self.network = Network(self.folder / "netns")
        self._way_out = WayOut(self.network.path)

    @cached_property
    def hidden(self) -> list[str]:
        """Folders of the node that the session must not see."""
        return sorted({*hidden_folders(), *self.plan.hidden, str(self.folder.parent)})

    @cached_property
    def cgroups(self) -> Cgroups:
        plan = self.plan
        return open_cgroups(f"sojourn/{specs.hostname(plan.node)}/{plan.session}.{plan.incarnation}")

    @property
    def layer(self) -> Layer:
        return Layer(self.files.upper)

    @property
    def config(self) -> Path:
        """The OCI config.json; the folder is the bundle."""
        return self.folder / "config.json"

    @property
    def binds(self) -> dict[str, str]:
        """Mount point inside -> folder of the node: what a mover must declare external. The mount points are those the
        session was born with, wherever it is now."""
        modes = {mount.path: mount.mode for mount in self.plan.spec.mounts}
        return {point: self._behind(point, modes.get(point)) for point in self.facts["binds"]}

    @property
    def _prefixes(self) -> list[str]:
        return list(self.facts.get("prefixes", []))

    def _behind(self, point: str, mode: str | None) -> str:
        if point in self._prefixes:
            return str(self.files.annex(point))
        if mode == "carried":  # not by way of the root, in which the folder around it is mounted already
            return str(resolve_inside(self.files.upper, point))
        return point if mode else self._nothing

    @property
    def shared(self) -> list[str]:
        """The folders that must be the very same ones on each node."""
        return [mount.path for mount in folders.standing(self.plan.spec.mounts) if mount.mode == "shared"]

    @property
    def user(self) -> User:
        """Whose program it is, and whose rights to files it has."""
        return User(self.plan.spec.program.uid, self.plan.spec.program.gid)

    @property
    def origin(self) -> dict[str, Any]:
        """What a restore elsewhere must find again: the mount points, the identity of the image, and without one the
        root that the session was born on, and the layers that stand for it here; none: it is the node's own."""
        facts = {name: self.facts.get(name) for name in ("image", "python")}
        ground = {"root": self.root, "layers": self.layers, "prefixes": self._prefixes}
        return {"binds": list(self.binds), **facts, **ground}

    def inherit(self, origin: Mapping[str, Any]) -> None:
        """Called by a mover before the freeze, with the source's `origin`: the session keeps the mount points it was
        born with. A hidden folder that this node does not have is made, empty: there must be something to mount on.
        Raises Incompatible when the image's name stands for another one here, Invalid for a mount point that is in
        none of the session's shared folders: this is root, and the source need not be believed."""
        if origin["image"] != self.facts["image"]:
            image = self.plan.spec.image
            raise Incompatible(
                f"The image {image} is another one on node {self.plan.node}.",
                f"`sojourn image pull {image}` gives all nodes the same one; sessions keep the one they have.",
            )
        for point in origin["binds"]:
            self._check_point(point)
        known = {name: origin[name] for name in ("python", "root", "prefixes") if name in origin}
        self.facts |= {"binds": list(origin["binds"]), **known}
        for point, outside in self.binds.items():
            if outside != point:
                make_folder(Path(point))
        self.record()

    @property
    def root(self) -> str:
        """The identity of the node's root that the session was born on; with an image it does not matter."""
        return str(self.facts.get("root", self.plan.root))

    @property
    def layers(self) -> list[dict[str, Any]]:
        """What stands for that root on this node, the topmost first, as the mover that brought it noted it; none: it
        is this node's own root."""
        return list(self.facts.get("layers", []))

    def stand_on(self, layers: Sequence[Mapping[str, Any]], lower: Sequence[str]) -> None:
        """Called by a mover before `mount`: the session's root is made of these folders of the node, not of the node's
        own root."""
        self.facts |= {"layers": list(layers), "lower": list(lower)}
        self.record()

    def _check_point(self, point: str) -> None:
        shared = [Path(mount.path) for mount in self.plan.spec.mounts if mount.mode != "carried"]
        plain = os.path.normpath(point) == point and any(Path(point).is_relative_to(folder) for folder in shared)
        there = Path(point).is_dir()
        if plain and (there or any(Path(point).resolve().is_relative_to(folder.resolve()) for folder in shared)):
            return
        raise Invalid(f"{self._name} can't keep its mount point {point!r}: it is in none of its shared folders.")

    def _native_binds(self) -> list[str]:
        there = [path for path in self.hidden if Path(path).is_dir()]
        covered = tuple(f"{path}/" for path in there)
        prefixes = [path for path in self.plan.prefixes if not f"{path}/".startswith(covered)]
        return [*specs.binds(self.plan.spec, there, self._nothing), *prefixes]

    @property
    def _nothing(self) -> str:
        return str(self.folder / "empty")

    # ── making it ──

    def create(self, mount: bool = True) -> None:
        spec = self.plan.spec
        folders.check(spec.mounts, spec.files)
        folders.require(spec.mounts, self.plan.node, born=mount)
        if mount:
            self._meet_asked_for()
        lower, image, python = self._below(born=mount)
        points = self._native_binds()
        prefixes = [path for path in self.plan.prefixes if path in points]
        self.facts |= {"lower": lower, "image": image, "python": python, "binds": points, "prefixes": prefixes}
        self.record()
        Path(self._nothing).mkdir(exist_ok=True, mode=0o755)
        self.files.create()
        self.network.create()
        self._way_out.begin()
        self.cgroups.create(Limits(spec.needs.memory_bytes, spec.needs.cores))
        name, held = spec.name or self.plan.session, specs.held_to(spec)
        write_json(self.config, specs.oci_config(name, self._node_facts(python), held))
        for folder in spec.mounts:
            if folder.mode == "left":
                folders.make_for(Path(folder.path), spec.program.uid, spec.program.gid)
        if mount:
            self._carry()
            self.mount()
            self._furnish()
        else:
            self._note_way_out()

    def _below(self, born: bool) -> tuple[list[str], str, str]:
        """The root's layers, the identity of the image, and the interpreter for the rider."""
        spec = self.plan.spec
        if born and spec.ground:
            return self.facts["lower"], "", spec.ground.python
        lower, image = lower_of(spec.pinned.id if spec.pinned else spec.image)
        return lower, image, _python_in(lower)

    def _meet_asked_for(self) -> None:
        """Whether the folders that the session shares are those of whoever asked for it."""
        known = {one.path: one.seen for one in self.plan.spec.mounts if one.mode == "shared" and one.seen}
        for path, sight in known.items():
            seen = look([path], self.user, sight.of)
            require_same({path: sight}, "the machine that asks for it", seen, f"node {self.plan.node}")

    def _carry(self) -> None:
        """Copy what the session is to carry. A folder in it that is another one's affair is left out of the copy."""
        mounts = folders.standing(self.plan.spec.mounts)
        for folder in mounts:
            if folder.mode == "carried":
                inner = {one.path for one in mounts if one.path != folder.path}
                self.files.carry(folder, inner.union(self.hidden))

    # ── its layer, when it comes back ──

    def keep_layer(self, move: str) -> None:
        """Called by a mover when the session has left for good: another one may bring it back. The rest of the sandbox
        is left for its owner to remove."""
        if self.plan.kept:
            self.kill()
            with contextlib.suppress(OSError):  # the move is done all the same
                self.files.unmount()
                KeptLayers(Path(self.plan.kept)).keep(self.plan.session, move, self.files.upper)

    def take_layer(self, move: str) -> bool:
        """Called by a mover before anything of the layer has come: begin with what left this node by a move."""
        kept = self.plan.kept
        return kept is not None and KeptLayers(Path(kept)).take(self.plan.session, move, self.files.upper)

    def mount(self) -> None:
        self.files.mount(self.facts["lower"], self.hidden)
        if self.layers:  # home has these folders, its layers need not
            user = self.user
            for point in self.facts["binds"]:
                folders.make_for(resolve_inside(self.files.root, point), user.uid, user.gid)
        for prefix in self._prefixes:
            self.files.mount_annex(prefix, self.facts["lower"])

    def _note_way_out(self) -> None:
        """A session without the outside is still a session: the reason is written down, not raised."""
        self.facts["outside"] = self._way_out.finish() or "open"
        self.record()

    def _node_facts(self, python: str) -> specs.NodeFacts:
        return specs.NodeFacts(
            rootfs=str(self.files.root),
            netns=str(self.network.path),
            cgroups_path=self.cgroups.box_path,
            python=python,
            binds=self.binds,
            machine=platform.machine(),
        )

    def _furnish(self) -> None:
        """Write the rider's files and the session's private ones, through the overlay and so into the layer."""
        spec, program = self.plan.spec, self.plan.spec.program
        name = specs.hostname(spec.name or self.plan.session)
        self.files.write(specs.RIDER, Path(self.plan.rider).read_bytes(), 0o644)
        self.files.write(specs.CONFIG, specs.dump(specs.rider_config(self.plan.session, spec)), 0o600)
        self.files.write("/etc/hostname", f"{name}\n".encode(), 0o644)
        self.files.write("/etc/hosts", f"127.0.0.1 localhost {name}\n::1 localhost\n".encode(), 0o644)
        self.files.write("/etc/resolv.conf", f"nameserver {NAMESERVER}\n".encode(), 0o644)
        for path, text in spec.files.items():
            self.files.write(path, text.encode(), 0o600, program.uid, program.gid)

    # ── its life ──

    def start(self) -> None:
        log = self.folder / "runc.log"
        command = ["runc", "--root", str(self.folder / "runc"), "--log", str(log), "run", "--detach"]
        command += ["--bundle", str(self.folder), "--pid-file", str(self.folder / "pid"), self._name]
        if _exit_code(command) != 0:
            raise SandboxFailed(f"runc could not start {self._name}: {_last_line(log)}", f"See {log}.")
        self.facts["root_pid"] = int((self.folder / "pid").read_text())
        self._note_way_out()
        self._await_rider()
        self.adopt(self.facts["root_pid"])

    @property
    def _name(self) -> str:
        return f"{self.plan.session}.{self.plan.incarnation}"

    def _await_rider(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self.listens():
            if not self.alive():
                raise SandboxFailed(f"The rider of {self._name} ended at once: {self.log(2000) or 'it said nothing'}")
            if time.monotonic() > deadline:
                raise SandboxFailed(f"The rider of {self._name} does not listen: {self.log(2000)}")
            time.sleep(0.002)

    def listens(self) -> bool:
        """Whether the rider accepts connections, asked without making one."""
        with contextlib.suppress(OSError):
            return "@sojourn-rider\n" in Path(f"/proc/{self.facts['root_pid']}/net/unix").read_text()
        return False

    def adopt(self, root_pid: int) -> None:
        if root_pid not in self.pids():
            raise SandboxFailed(f"Process {root_pid} is not in the cgroup of {self._name}, or has ended.")
        self.facts |= {"root_pid": root_pid, "netns": self.network.inode()}
        self.record()

    def connect(self) -> socket.socket:
        try:
            return self.network.connect()
        except FileNotFoundError as gone:
            raise Unreachable(f"{self._name} is gone.") from gone

    def kill(self) -> None:
        """Beside the cgroup's processes also what entered the network namespace from outside: a restore that was cut
        off leaves tasks in it that never reached the cgroup."""
        self.cgroups.kill()
        for pid in self.network.visitors():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def remove(self) -> None:
        self.kill()
        self.files.unmount()
        self._way_out.close()
        self.network.remove()
        self.cgroups.remove()
        remove_tree(self.folder)

    # ── what it is doing ──

    def pids(self) -> list[int]:
        return self.cgroups.pids()

    def root_pid(self) -> int | None:
        pids = self.pids()
        known = self.facts.get("root_pid")
        return known if known in pids else next((pid for pid in pids if _is_first(pid)), None)

    def log(self, tail_bytes: int) -> str:
        texts = [self._end_inside(path, tail_bytes) for path in (specs.LOG, specs.NOTES)]
        return "\n".join(text for text in texts if text)

    def _end_inside(self, path: str, size: int) -> str:
        """Of a file in the layer. The session may put a link in the place of any of its folders at any moment, so the
        kernel has to see to it that the way does not lead out."""
        try:
            folder = os.open(self.files.upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                descriptor = syscalls.open_beneath(folder, path.lstrip("/"))
            finally:
                os.close(folder)
        except OSError:
            return ""
        return end_of_open(descriptor, size)

    def freeze(self) -> None:
        self.cgroups.freeze()

    def thaw(self) -> None:
        self.cgroups.thaw()

    def hold(self) -> None:
        self.cgroups.hold()

    def release(self) -> None:
        self.cgroups.release()

    def restless_files(self) -> set[str]:
        found = set()
        for pid in self.pids():
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/maps").read_text(errors="surrogateescape").splitlines():
                    fields = line.split(maxsplit=5)
                    if len(fields) == 6 and fields[1].endswith("s") and fields[5].startswith("/"):
                        found.add(fields[5].lstrip("/"))
        return {path for path in found if os.path.lexists(self.files.upper / path)}


def _exit_code(command: list[str]) -> int:
    """Of runc, which is killed, with what it has forked, when it hangs. Raises SandboxFailed then."""
    nothing = subprocess.DEVNULL
    with subprocess.Popen(command, stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True) as runc:
        try:
            return runc.wait(_RUNC_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(runc.pid, signal.SIGKILL)
            raise SandboxFailed(
                f"runc did not start {command[-1]} within {_RUNC_SECONDS:g} s.",
                "Is the node's disk, or its load, stuck?",
            ) from None


def _is_mighty() -> bool:
    """Whether this process has CAP_SYS_ADMIN, number 21 of capabilities(7)."""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return bool(found and int(found[1], 16) >> 21 & 1)


def _python_in(lower: list[str]) -> str:
    """The interpreter for the rider; on the node's own root the agent's own."""
    found = find_in(lower, (own_python(), *PYTHONS) if lower == ["/"] else PYTHONS)
    if found is None:
        raise Incompatible(f"There is no Python in {lower[0]} to run the rider.", f"Install one of {PYTHONS} into it.")
    return found


def _is_first(pid: int) -> bool:
    """Whether a process is PID 1 of the innermost PID namespace it is in (proc_pid_status(5), NSpid)."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("NSpid:"):
                return line.split()[-1] == "1"
    return False


def _last_line(log: Path) -> str:
    return (end_of(log, 2000).strip().splitlines() or ["it said nothing"])[-1]
