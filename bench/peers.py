"""The same kernel stopped and carried on by the peers: podman's and runc's own checkpoint and restore.

The kernel runs in a container over this machine's own root, with its client's place taken by a thread that writes
the time to a file every 2 ms; the gap is the longest silence in that file. Images go to memory (tmpfs), which is
kind to the peers: the prior system for JupyterHub put them on NFS. The kernel listens on Unix sockets, because a
restored container's loopback interface is down and neither peer could restore its TCP connections.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench.heap import prepare
from sojourn.sandbox.criu_path import find_criu

OWN_FOLDERS = ("dev", "out", "proc", "run", "sys", "tmp", "var/tmp")
"""What the container has for itself; everything else at the top is this machine's, read-only."""
READY_SECONDS = 120

KERNEL = """
import threading, time
{prepare}
def _write_times():
    with open({log!r}, "a") as file:
        while True:
            file.write("%f\\n" % time.time()); file.flush(); time.sleep(0.002)
threading.Thread(target=_write_times, daemon=True).start()
from ipykernel.kernelapp import launch_new_instance
launch_new_instance(argv=["--transport=ipc", "-f", "/tmp/kernel.json", "--HistoryManager.hist_file=:memory:"])
"""


class Peer:
    """A container with the kernel in it. Used as a context manager, which removes all that it made."""

    name = "peer"

    def __init__(self, heap_gb: float) -> None:
        criu, _ = find_criu()
        self.environment = {**os.environ, "PATH": f"{Path(criu).parent}:{os.environ['PATH']}"}
        self.folder = Path(tempfile.mkdtemp(prefix="sojourn-bench-"))
        self.memory = Path(tempfile.mkdtemp(prefix="sojourn-bench-", dir="/dev/shm"))
        self.out = self.folder / "out"
        self.out.mkdir()
        self.log = self.out / "times"
        self.argv = [sys.executable, "-c", KERNEL.format(prepare=prepare(heap_gb), log="/out/times")]
        self.id = f"sojourn-bench-{secrets.token_hex(4)}"

    def __enter__(self) -> Peer:
        try:
            self.start()
            self.wait_until_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not (self.log.exists() and self.log.stat().st_size):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name}: the kernel did not start")
            time.sleep(0.05)
        time.sleep(1.0)

    def __exit__(self, *exc: object) -> None:
        self.remove()
        shutil.rmtree(self.memory, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, *argv: str) -> None:
        done = subprocess.run(argv, env=self.environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip()[-800:]}")

    def gap_s(self) -> float:
        """Seconds of the longest silence around one checkpoint and restore."""
        before = time.time()
        self.carry()
        stopped = time.time()
        while (moments := self.moments())[-1] < stopped:
            if time.time() > stopped + READY_SECONDS:
                raise TimeoutError(f"{self.name}: the kernel did not come back")
            time.sleep(0.1)
        around = [moment for moment in moments if moment > before - 0.5]
        return max(later - earlier for earlier, later in pairwise(around))

    def moments(self) -> list[float]:
        return [float(line) for line in self.log.read_text().splitlines()[:-1]]

    def start(self) -> None:
        raise NotImplementedError

    def carry(self) -> None:
        raise NotImplementedError

    def remove(self) -> None:
        raise NotImplementedError


class Podman(Peer):
    """`podman container checkpoint --export`, then `restore --import`: how a container leaves a machine."""

    name = "podman"

    def start(self) -> None:
        base = self.folder / "base"
        for folder in OWN_FOLDERS:
            (base / folder).mkdir(parents=True, exist_ok=True)
        tops = [top for top in Path("/").iterdir() if top.is_dir() and not (base / top.name).exists()]
        for top in tops:
            if top.is_symlink():
                (base / top.name).symlink_to(top.readlink())
            else:
                (base / top.name).mkdir()
        self.run("tar", "-C", str(base), "-cf", f"{self.folder}/base.tar", ".")
        self.run("podman", "import", "--quiet", f"{self.folder}/base.tar", self.id)
        volumes = [part for top in tops if not top.is_symlink() for part in ("-v", f"{top}:{top}:ro")]
        limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"]
        self.podman("run", "-d", "--name", self.id, "--network=none", "--security-opt", "seccomp=unconfined", *limits,
                    *volumes, "-v", f"{self.out}:/out", self.id, *self.argv)  # fmt: skip

    def podman(self, *argv: str) -> None:
        self.run("podman", "--runtime", str(shutil.which("runc")), *argv)

    def carry(self) -> None:
        archive = str(self.memory / "checkpoint.tar")
        keep = ("--tcp-established", "--file-locks", "--ignore-volumes")
        self.podman("container", "checkpoint", "--export", archive, "--compress", "none", *keep, self.id)
        self.podman("rm", "--force", self.id)
        self.podman("container", "restore", "--import", archive, *keep)

    def remove(self) -> None:
        subprocess.run(["podman", "rm", "--force", "--time", "0", self.id], capture_output=True)
        subprocess.run(["podman", "rmi", "--force", self.id], capture_output=True)


class Runc(Peer):
    """`runc checkpoint` to a tmpfs, then `runc restore`: stop and copy at its plainest."""

    name = "runc"

    def start(self) -> None:
        self.root = self.folder / "rootfs"
        for folder in ("upper", "work", "rootfs"):
            (self.folder / folder).mkdir()
        layers = f"lowerdir=/,upperdir={self.folder}/upper,workdir={self.folder}/work"
        self.run("mount", "-t", "overlay", "overlay", "-o", layers, str(self.root))
        (self.folder / "config.json").write_text(json.dumps(self.config()))
        self.runc("run", "-d", "--bundle", str(self.folder), self.id)

    def runc(self, *argv: str) -> None:
        """runc hands its own standard streams to the container; files of this machine there would fail the dump, so
        they are a pipe, whose other end lives as long as the container."""
        command = shlex.join(["runc", "--root", f"{self.folder}/state", *argv])
        self.run("sh", "-c", f"({command} </dev/null 2>&1 | cat >>{self.folder}/runc.log) >/dev/null 2>&1 &")

    def config(self) -> dict[str, Any]:
        """runc's default specification, with the kernel, without a network and with room to write."""
        self.run("runc", "spec", "--bundle", str(self.folder))
        config: dict[str, Any] = json.loads((self.folder / "config.json").read_text())
        config["root"] = {"path": "rootfs", "readonly": False}
        config["process"] |= {"args": self.argv, "terminal": False, "cwd": "/tmp", "rlimits": []}
        config["process"]["env"].append("HOME=/root")
        config["mounts"].append(
            {"destination": "/out", "type": "bind", "source": str(self.out), "options": ["rbind", "rw"]}
        )
        config["linux"]["cgroupsPath"] = f"/{self.id}"
        return config

    def carry(self) -> None:
        keep = ("--image-path", str(self.memory), "--work-path", str(self.memory), "--tcp-established", "--file-locks")
        self.run("runc", "--root", f"{self.folder}/state", "checkpoint", *keep, self.id)
        self.runc("restore", "-d", *keep, "--bundle", str(self.folder), self.id)

    def remove(self) -> None:
        runc = ["runc", "--root", f"{self.folder}/state"]
        subprocess.run([*runc, "kill", self.id, "KILL"], capture_output=True)
        time.sleep(0.2)
        subprocess.run([*runc, "delete", "--force", self.id], capture_output=True)
        for mounted in (self.folder / "state" / self.id / "criu-root", self.root):
            subprocess.run(["umount", "--lazy", str(mounted)], capture_output=True)


PEERS: dict[str, type[Peer]] = {"podman": Podman, "runc": Runc}
