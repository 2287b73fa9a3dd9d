"""`sojourn add` against a real sshd on a host of its own: a namespace with its own network, processes, home and
folders, where Sojourn is not installed, and from where nothing but this machine is reached."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import requires
from pathlib import Path

import psutil
import pytest
from packaging.requirements import Requirement
from tests.acceptance.conftest import why_no_live_move

from sojourn.client import Client
from sojourn.hosts import book, survey
from sojourn.hosts.wheel import wheel
from sojourn.sandbox.mounts import remove_tree
from sojourn.testing import end_kernel, execute, session_of, stack, start_kernel
from sojourn.testing.parts import until

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(180)]

NET = f"198.19.{os.getpid() % 250}"
"""For benchmarks of networks (RFC 2544), so nobody's."""
BROUGHT = Path(__file__).parents[2] / "build/openssh"
"""Where scripts/setup.sh unpacks Debian's sshd, on machines that have none."""

SSHD = """\
Port 22
AuthorizedKeysFile {folder}/key.pub
HostKey {folder}/key
StrictModes no
UsePAM no
PermitRootLogin yes
PasswordAuthentication no
"""
MACHINE = """
set -e
cd {folder}
mkdir -p opt/criu nodes root run /opt/sojourn /var/lib/sojourn
[ ! -d /opt/sojourn/criu ] || mount --bind /opt/sojourn/criu opt/criu
mount --rbind opt /opt/sojourn
mount --bind nodes /var/lib/sojourn
mount --bind passwd /etc/passwd
mount --bind run /run
mkdir -p /run/sshd
mount -t tmpfs tmpfs /dev/shm
ip link set lo up
echo ready
exec {sshd} -D -e -f {folder}/sshd_config 2>{folder}/sshd.log
"""


def find_sshd() -> str | None:
    return shutil.which("sshd", path="/usr/sbin:/usr/local/sbin") or shutil.which("sshd", path=BROUGHT / "usr/sbin")


def parts_of(sshd: str) -> str:
    """Since 9.8 sshd is several programs, sought where Debian has them."""
    parts = {"SshdSessionPath": "sshd-session", "SshdAuthPath": "sshd-auth"}
    found = {key: BROUGHT / "usr/lib/openssh" / name for key, name in parts.items()}
    return "".join(f"{key} {path}\n" for key, path in found.items() if str(BROUGHT) in sshd and path.exists())


class Host:
    """A machine with an sshd. It ends with its first process, and so does all that runs on it."""

    def __init__(self, folder: Path, sshd: str) -> None:
        self.folder, self.home = folder, folder / "root"
        self.address, gateway = f"{NET}.2", f"{NET}.1"
        passwd = re.sub(r"(?m)^(root:.*):[^:]*(:[^:]*)$", rf"\1:{self.home}\2", Path("/etc/passwd").read_text())
        if "\nsshd:" not in passwd:
            passwd += "sshd:x:997:997::/:/bin/false\n"
        (folder / "passwd").write_text(passwd)
        (folder / "sshd_config").write_text(SSHD.format(folder=folder) + parts_of(sshd))
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "key"], check=True)
        apart = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        libraries = {"LD_LIBRARY_PATH": ":".join(map(str, BROUGHT.glob("usr/lib/*-linux-gnu")))}
        self.machine = subprocess.Popen(
            [*apart, "--propagation", "private", "sh", "-c", MACHINE.format(folder=folder, sshd=sshd)],
            stdout=subprocess.PIPE,
            env={"PATH": os.defpath + ":/usr/sbin:/sbin"} | (libraries if str(BROUGHT) in sshd else {}),
        )
        assert self.machine.stdout
        assert self.machine.stdout.readline() == b"ready\n"
        link = f"sojourn{os.getpid() % 10000}.a"
        for command in (
            f"ip link add {link} type veth peer name eth0 netns {self.first.pid}",
            f"ip address add {gateway}/30 dev {link}",
            f"ip link set {link} up",
            f"{' '.join(self.inside())} ip address add {self.address}/30 dev eth0",
            f"{' '.join(self.inside())} ip link set eth0 up",
        ):
            subprocess.run(command.split(), check=True)

    @property
    def first(self) -> psutil.Process:
        """Its PID 1."""
        return psutil.Process(self.machine.pid).children()[0]

    def inside(self) -> list[str]:
        return ["nsenter", "--target", str(self.first.pid), "--all", "--"]

    def says(self, *argv: str) -> str:
        return subprocess.run([*self.inside(), *argv], capture_output=True, text=True).stdout

    def ssh_options(self) -> list[str]:
        known = f"UserKnownHostsFile={self.folder}/known_hosts"
        options = (f"IdentityFile={self.folder}/key", "IdentitiesOnly=yes", known, "StrictHostKeyChecking=accept-new")
        return [word for option in options for word in ("--ssh-option", option)]

    def end(self) -> None:
        self.machine.send_signal(signal.SIGKILL)
        self.machine.wait()


def needed(name: str, found: set[str]) -> set[str]:
    """A distribution and all that it requires, as far as it is installed here."""
    if (name := name.lower().replace("_", "-")) not in found:
        found.add(name)
        for text in requires(name) or ():
            wanted = Requirement(text)
            if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
                needed(wanted.name, found)
    return found


def wheelhouse(folder: Path) -> Path:
    """What Sojourn is built on, packed from where these tests run: nothing comes from elsewhere."""
    folder.mkdir()
    for name in needed("sojourn", set()) - {"sojourn"}:
        file, content = wheel(name)
        (folder / file).write_bytes(content)
    return folder


def sojourn(*argv: str) -> str:
    """What the command prints, on either stream; it must not fail."""
    done = subprocess.run([sys.executable, "-m", "sojourn.cli.main", *argv], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def why_no_host() -> str:
    if reason := why_no_live_move():
        return reason
    if not find_sshd() or not all(map(shutil.which, ("ssh", "ssh-keygen", "ip", "unshare"))):
        return "needs ssh, iproute2 and an sshd: scripts/setup.sh brings one"
    bare = subprocess.run(["sh"], input=survey.SCRIPT, capture_output=True, text=True, env={"PATH": os.defpath})
    pythons = survey.read(bare.stdout + "home=/\n").pythons
    if not pythons or not pythons[0].makes_venvs or pythons[0].version != sys.version_info[:2]:
        return "needs python3-venv of this Python's version, for the wheels of this environment"
    return ""


@pytest.fixture
def host() -> Iterator[Host]:
    if reason := why_no_host():
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="sojourn-host-"))
    sshd = find_sshd()
    assert sshd
    made = Host(folder, sshd)
    try:
        yield made
    finally:
        made.end()
        remove_tree(folder)


def tethers() -> psutil.Process:
    """What keeps up the lines to hosts."""
    memory = json.loads((Path(os.environ["SOJOURN_HOME"]) / "data/embedded/embedded.json").read_text())
    return psutil.Process(memory["parts"]["tethers"]["pid"])


def has_ended(process: psutil.Process) -> bool:
    """Perhaps not reaped yet, by whoever has to."""
    with suppress(psutil.NoSuchProcess):
        return process.status() == psutil.STATUS_ZOMBIE
    return True


def status(client: Client, name: str) -> str:
    return next(node.status.value for node in client.nodes() if node.name == name)


def cut_the_line(host: Host) -> None:
    """As when the network goes: this end dies, and the other does not hear of it and keeps the port."""
    host.says("sh", "-c", f"kill -STOP $(cut -d ' ' -f 1 {host.home}/.local/share/sojourn/tether-*)")
    tethers().children()[0].kill()


def test_a_host_becomes_a_node_works_through_its_line_and_is_left_as_it_was(host: Host) -> None:
    line = ["--yes", "--name", "far", "--label", "lab", *host.ssh_options()]
    with stack(("here",)) as client:
        said = sojourn("add", f"root@{host.address}", *line, "--wheelhouse", str(wheelhouse(host.folder / "wheels")))
        assert "Install Sojourn" in said
        assert "\nfar is a node:" in said
        assert 'mode = "left"' in said  # what becomes of a home that is another one there
        assert "sessions move live (lazy, copy); relayed through ssh." in said
        assert not [token for token in client.tokens() if token["name"].startswith("add-")]

        manager, kernel = start_kernel(needs="lab")
        try:
            session = session_of(manager)
            execute(kernel, "x = list(range(100_000))")
            assert client.session(session).node == "far"

            cut_the_line(host)
            until(lambda: status(client, "far") == "offline", "the line's end")
            assert execute(kernel, "sum(x)") == "4999950000"  # waits for the line
            moved = client.move(session, "here", wait="filled").move
            assert moved
            assert moved.report.relayed
            assert execute(kernel, "sum(x)") == "4999950000"
        finally:
            end_kernel(manager, kernel)
        until(lambda: not client.sessions(), "the session's end")

        said = sojourn("add", f"root@{host.address}", *line)
        assert "This very Sojourn is in /opt/sojourn/venv already." in said
        assert status(client, "far") == "online"

        line_keeper = tethers()
        sojourn("remove", "far")
        assert [node.name for node in client.nodes()] == ["here"]
        assert not book.hosts()
        assert has_ended(line_keeper)
        assert host.first.children() == []
        assert [path for path in host.home.rglob("*") if not path.is_dir()] == []
        assert list((host.folder / "nodes").iterdir()) == []
        assert [path.name for path in (host.folder / "opt").iterdir()] == ["criu"]
