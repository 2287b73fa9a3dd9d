"""A session for tests of movers: a program that knows every page of its heap, counts, and talks to itself."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sojourn.model import Mount, Program, SessionSpec
from sojourn.rider.build import build_rider
from sojourn.sandbox.base import SandboxPlan, write_json
from sojourn.sandbox.runc import RuncSandbox

PAGES = 40_000
"""160 MB: small enough to be quick, large enough to be killed half-way."""

MANY_PAGES = 5 * PAGES
"""Takes a few hundred milliseconds to fill: what is killed at the thaw is killed half-way."""

HEAP = """
import ctypes, mmap, os, socket, struct, sys, threading, time
pages, children, trouble = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
heap = mmap.mmap(-1, pages * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for page in range(pages):
    if page % 64 < 48:  # some pages are never touched
        struct.pack_into("Q", heap, page * 4096, page + 1)
if trouble == "a family of sockets that CRIU does not know":
    strange = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
if trouble == "io_uring":
    ring = ctypes.CDLL(None).syscall(425, 4, ctypes.create_string_buffer(120))
    assert ring >= 0
if trouble == "many threads":
    for _ in range(150):
        threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
accepted, _ = server.accept()
os.makedirs("/var/heap", exist_ok=True)
os.chdir("/var/heap")
for child in range(children):
    if os.fork() == 0:
        while True:
            time.sleep(1)
if trouble.startswith("connect "):
    host, port = trouble.split()[1:]
    outside = socket.create_connection((host, int(port)))
    def wait_outside():
        try:
            said = repr(outside.recv(10))
        except OSError as failed:
            said = type(failed).__name__
        with open("outside", "w") as file:
            file.write(said)
    threading.Thread(target=wait_outside).start()
lines = os.open("lines", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
count, moment, clock = 0, time.monotonic(), "well"
while True:
    count += 1
    now = time.monotonic()
    moment, clock = now, "ill" if now < moment else clock
    os.write(lines, b"%d\\n" % count)
    if os.path.exists("ask"):
        os.unlink("ask")
        client.sendall(b"%d" % count)
        echoed = accepted.recv(100) == b"%d" % count
        wrong = sum(struct.unpack_from("Q", heap, page * 4096)[0] != (page + 1 if page % 64 < 48 else 0)
                    for page in range(pages))
        with open("answer.new", "w") as file:
            file.write(f"{wrong} wrong of {pages}, socket {'well' if echoed else 'ill'}, clock {clock}")
        os.rename("answer.new", "answer")
    time.sleep(0.002)
"""
RIGHT = f"0 wrong of {PAGES}, socket well, clock well"


class Ground:
    """Makes sandboxes, and sees that nothing is left of them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.made = folder, list[RuncSandbox]()
        self.rider = str(build_rider(folder / "rider"))
        self.session = uuid.uuid4().hex[:12]

    def __enter__(self) -> Ground:
        return self

    def __exit__(self, *_: object) -> None:
        for sandbox in self.made:
            sandbox.remove()
        assert str(self.folder) not in Path("/proc/self/mountinfo").read_text()
        assert not list(Path("/sys/fs/cgroup").glob(f"*/sojourn/mover-*/{self.session}*"))

    def sandbox(
        self,
        node: str,
        children: int = 0,
        trouble: str = "none",
        pages: int = PAGES,
        shared: tuple[Path, ...] = (),
        hidden: tuple[Path, ...] = (),
    ) -> RuncSandbox:
        program = Program(argv=("/usr/bin/python3", "/var/heap.py", str(pages), str(children), trouble))
        mounts = tuple(Mount(path=str(folder)) for folder in shared)
        spec = SessionSpec(program=program, files={"/var/heap.py": HEAP}, sandbox="runc", mounts=mounts)
        plan = SandboxPlan(
            kind="runc",
            node=f"mover-{node}",
            session=self.session,
            incarnation=len(self.made) + 1,
            spec=spec,
            rider=self.rider,
            hidden=tuple(map(str, hidden)),
        )
        made = RuncSandbox(self.folder / f"{node}.{plan.incarnation}", plan)
        self.made.append(made)
        return made

    def running(self, **kind: Any) -> RuncSandbox:
        made = self.sandbox("here", **kind)
        made.create()
        if kind.get("trouble") == "io_uring":
            without_filter(made)
        made.start()
        until(lambda: lines(made) > 0)
        return made


def without_filter(sandbox: RuncSandbox) -> None:
    """Between `create` and `start`: have it born as sessions were before there were seccomp filters."""
    config = json.loads(sandbox.config.read_text())
    del config["linux"]["seccomp"]
    write_json(sandbox.config, config)


def until(happened: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def lines(sandbox: RuncSandbox) -> int:
    path = sandbox.files.upper / "var/heap/lines"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def runs(sandbox: RuncSandbox) -> bool:
    before = lines(sandbox)
    time.sleep(0.1)
    return lines(sandbox) > before


def ask(sandbox: RuncSandbox) -> Path:
    folder = sandbox.files.root / "var/heap"
    (folder / "answer").unlink(missing_ok=True)
    (folder / "ask").touch()
    return folder / "answer"


def memory_of(sandbox: RuncSandbox) -> str:
    answer = ask(sandbox)
    until(answer.exists)
    return answer.read_text()


def in_order(sandbox: RuncSandbox) -> bool:
    numbers = [int(line) for line in (sandbox.files.upper / "var/heap/lines").read_text().split()]
    return numbers == list(range(1, len(numbers) + 1))
