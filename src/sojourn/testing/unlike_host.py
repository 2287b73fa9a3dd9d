"""A host on this machine that has nothing in common with it but the kernel: another release of Debian, with its own C
library, programs and Python, behind a network of its own, with an sshd and nothing of Sojourn's.

    root = unlike_root(Path("build/unlike"), Path("requirements.lock"))
    with unlike_host(root) as host:
        sojourn add root@{host.address} …
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from sojourn.hosts.delivery import pack
from sojourn.sandbox.criu_path import PRIVATE
from sojourn.sandbox.mounts import remove_tree

RELEASE = "trixie"
PYTHON = "3.13"
"""What that release calls python3."""
LAB = "/opt/lab"
"""An environment of that Python's in the root, with ipykernel: its people's own, which Sojourn knows nothing of."""

_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_PACKAGES = ("ca-certificates", "iproute2", "openssh-server", "passt", "python3", "python3-venv", "runc")
_RECIPE = 1
"""Counted up when a root is to be made anew though none of the above has changed."""
_KERNELS = ("dev", "sys")
_SSHD = """\
HostKey /root/.ssh/key
AuthorizedKeysFile /root/.ssh/key.pub
UsePAM no
PermitRootLogin yes
PasswordAuthentication no
"""
_MACHINE = """
set -e
mkdir {folder}/root
mount -t tmpfs -o mode=755 tmpfs {folder}/root
cd {folder}/root
cp --archive {image}/. .
mkdir -m 700 -p root/.ssh
cp --archive {folder}/ssh/. root/.ssh
rm etc/apt/sources.list
{brings}
tr -d - </proc/sys/kernel/random/uuid >etc/machine-id
for folder in {kernels}; do mount --rbind /$folder $folder; done
mount -t proc proc proc
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs tmpfs dev/shm
mkdir -p run/sshd old
for folder in {same}; do mkdir -p .$folder && mount --bind $folder .$folder; done
hostname {name}
ip link set lo up
pivot_root . old
umount -l /old
rmdir /old
echo ready
exec /usr/sbin/sshd -D -e -f /root/.ssh/sshd_config 2>/root/.ssh/sshd.log
"""
"""All in memory, so nothing has to be removed. It reaches this machine alone, so it has no sources of packages."""
_BRING_CRIU = f"mkdir -p .{PRIVATE.parents[1]} && cp --archive {PRIVATE.parent} .{PRIVATE.parents[1]}"


def why_no_unlike_host() -> str:
    """The reason why this machine can't have one; empty when it can."""
    lacking = [name for name in ("debootstrap", "ssh", "ssh-keygen", "ip", "unshare") if not shutil.which(name)]
    if lacking:
        return f"needs {', '.join(lacking)}: scripts/setup.sh installs it"
    return "" if _KEYRING.exists() else f"needs {_KEYRING}, by which Debian's packages are known"


# ── its root ─────────────────────────────────────────────────────────────────────────────────────────────────


def unlike_root(folder: Path, lock: Path) -> Path:
    """The root of such a host, made in `folder` if it is not there yet (a minute): nobody may change it. `lock`: the
    versions of what Sojourn is built on. Raises CalledProcessError."""
    made_of, recipe = folder / "made-of", _recipe(lock)
    if not made_of.exists() or made_of.read_text() != recipe:
        remove_tree(folder)
        folder.mkdir(parents=True)
        _bootstrap(folder / "root")
        _gather_wheels(folder, lock)
        _furnish_lab(folder)
        made_of.write_text(recipe)
    return folder / "root"


def wheelhouse(root: Path) -> Path:
    """What Sojourn is built on, for the Python of that root."""
    return root.parent / "wheels"


def _recipe(lock: Path) -> str:
    words = (str(_RECIPE), RELEASE, *_packages(), lock.read_text())
    return hashlib.sha256("\n".join(words).encode()).hexdigest()


def _packages() -> tuple[str, ...]:
    """CRIU goes along from here, where it has been brought to a folder of its own."""
    return _PACKAGES if PRIVATE.exists() else (*_PACKAGES, "criu")


def _bootstrap(root: Path) -> None:
    options = ("--variant=minbase", f"--keyring={_KEYRING}", f"--include={','.join(_packages())}")
    _run("debootstrap", *options, RELEASE, str(root), *_mirror())
    for packages in (root / "var/cache/apt/archives").glob("*.deb"):
        packages.unlink()


def _mirror() -> list[str]:
    """Where this machine's own Debian comes from; elsewhere, debootstrap knows one."""
    asked = ("apt-get", "indextargets", "--format", "$(ORIGIN) $(REPO_URI)", "Created-By: Packages")
    lines = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.splitlines()
    own = [uri for origin, _, uri in (line.partition(" ") for line in lines) if origin == "Debian"]
    return [uri for uri in own if "security" not in uri][:1]


def _gather_wheels(folder: Path, lock: Path) -> None:
    """By the pip of that root, which here does not install but fetches, from where this machine's own would."""
    constraints = folder / "constraints"
    constraints.write_text("\n".join(re.findall(r"^[\w.-]+==[^\s\\]+", lock.read_text(), re.MULTILINE)))
    parcel = pack()
    (folder / parcel.file).write_bytes(parcel.wheel)
    wanted = ("--constraint", str(constraints), str(folder / parcel.file))
    _pip(folder, "download", "--dest", str(folder / "wheels"), *wanted)
    (folder / "wheels" / parcel.file).unlink()  # `sojourn add` brings the one of the day


def _furnish_lab(folder: Path) -> None:
    inside = ("chroot", str(folder / "root"), "python3", "-m")
    _run(*inside, "venv", "--without-pip", LAB)
    packages = f"{folder}/root{LAB}/lib/python{PYTHON}/site-packages"
    found = ("--no-index", "--find-links", str(folder / "wheels"))
    _pip(folder, "install", "--no-compile", "--target", packages, *found, "ipykernel")
    _run(*inside, "compileall", "-q", LAB)


def _pip(folder: Path, verb: str, *arguments: str) -> None:
    (pip,) = (folder / "root/usr/share/python-wheels").glob("pip-*.whl")
    options = ("--quiet", "--only-binary=:all:", "--python-version", PYTHON)
    _run(sys.executable, f"{pip}/pip", verb, *options, *arguments)


# ── the host ─────────────────────────────────────────────────────────────────────────────────────────────────


class UnlikeHost:
    """Runs in a copy of its root. It ends with its first process, and so do all others there, its mounts and its link.

    `image`: the root as it was made, at the same path as on this machine, so that sessions of both can start from it.
    """

    def __init__(self, root: Path, folder: Path, same: Sequence[Path] = ()) -> None:
        self.image, self.folder = root, folder
        number = os.getpid() % 16000
        net = f"198.19.{number // 64}"  # for benchmarks of networks (RFC 2544), so nobody's
        self.gateway, self.address = (f"{net}.{number % 64 * 4 + end}" for end in (1, 2))
        self._make_key()
        self.first = self._start((root, *same))
        self._connect(f"unlike{number}")

    @property
    def root(self) -> Path:
        """Its files, as long as it runs."""
        return Path(f"/proc/{self.first.pid}/root")

    def _make_key(self) -> None:
        secrets = self.folder / "ssh"
        secrets.mkdir(mode=0o700)
        (secrets / "sshd_config").write_text(_SSHD)
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(secrets / "key"))

    def _start(self, same: Sequence[Path]) -> psutil.Process:
        with_us = ("setpriv", "--pdeathsig", "KILL")  # whatever ends these tests
        apart = ("unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--propagation", "private")
        script = _MACHINE.format(
            folder=self.folder,
            image=self.image,
            brings=_BRING_CRIU if PRIVATE.exists() else ":",
            kernels=" ".join(_KERNELS),
            same=" ".join(map(str, same)),
            name=RELEASE,
        )
        self._machine = subprocess.Popen(
            [*with_us, *apart, "--fork", "--kill-child", "sh", "-c", script],
            stdout=subprocess.PIPE,
            env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
        )
        assert self._machine.stdout
        assert self._machine.stdout.readline() == b"ready\n"
        return psutil.Process(self._machine.pid).children()[0]

    def _connect(self, link: str) -> None:
        for command in (
            f"ip link add {link} type veth peer name eth0 netns {self.first.pid}",
            f"ip address add {self.gateway}/30 dev {link}",
            f"ip link set {link} up",
        ):
            _run(*command.split())
        self.says("ip", "address", "add", f"{self.address}/30", "dev", "eth0")
        self.says("ip", "link", "set", "eth0", "up")

    def inside(self, *argv: str) -> list[str]:
        """The command that runs one there."""
        return ["nsenter", "--target", str(self.first.pid), "--all", "--", *argv]

    def says(self, *argv: str) -> str:
        """What a program there prints. Raises CalledProcessError when it fails."""
        return subprocess.run(self.inside(*argv), check=True, capture_output=True, text=True).stdout

    def ssh_options(self) -> list[str]:
        """For ssh's -o."""
        known = f"UserKnownHostsFile={self.folder}/known_hosts"
        key = f"IdentityFile={self.folder}/ssh/key"
        return [key, "IdentitiesOnly=yes", known, "StrictHostKeyChecking=accept-new"]

    def end(self) -> None:
        self._machine.kill()
        self._machine.wait()


@contextmanager
def unlike_host(root: Path, same: Sequence[Path] = ()) -> Iterator[UnlikeHost]:
    """A host with a copy of that root, gone at the end. `same`: folders of this machine that it has too."""
    folder = Path(tempfile.mkdtemp(prefix="sojourn-unlike-"))
    try:
        host = UnlikeHost(root, folder, same)
        try:
            yield host
        finally:
            host.end()
    finally:
        remove_tree(folder)


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True)
