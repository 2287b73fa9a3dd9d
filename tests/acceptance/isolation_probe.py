"""Run inside a sandbox by test_isolation: tries whatever a session may not do, each time a file `ask` appears, and
writes what came of it to `answer`: {"attempts": {name: outcome}, "states": [/proc/PID/status of each process]}.

Arguments: a folder of the node that is hidden, and a file beside it. The numbers are those of x86-64.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

NEW_MOUNTS, NEW_USERS = 0x20000, 0x10000000
MINUS_ONE, AT_FDCWD, SESSION_KEYRING = 2**64 - 1, 2**64 - 100, 2**64 - 3
PTRACE_TRACEME, PTRACE_CONT = 0, 7
NETLINK_AUDIT = 9

libc = ctypes.CDLL(None, use_errno=True)
room = ctypes.create_string_buffer(256)
tmpfs, mnt, proc = (ctypes.create_string_buffer(word) for word in (b"tmpfs", b"/mnt", b"/proc"))
Attempt = Callable[[], object]


def call(number: int, *arguments: int | ctypes.Array[ctypes.c_char]) -> Attempt:
    """A system call by its number."""

    def attempt() -> None:
        words = (ctypes.c_void_p(word) if isinstance(word, int) else word for word in arguments)
        if libc.syscall(number, *words) == -1:
            raise OSError(ctypes.get_errno(), "")

    return attempt


def write(path: str) -> Attempt:
    return lambda: Path(path).write_text("0")


def fork_bomb() -> None:
    children = []
    try:
        while len(children) < 200:
            children.append(os.fork())
            if not children[-1]:
                signal.pause()
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)


def debug_a_child() -> None:
    child = os.fork()
    if not child:
        libc.ptrace(PTRACE_TRACEME, 0, 0, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    assert os.WIFSTOPPED(os.waitpid(child, 0)[1])
    libc.ptrace(PTRACE_CONT, child, 0, 0)
    assert os.waitpid(child, 0)[1] == 0


def threads_and_programs() -> None:
    threading.Thread(target=int).start()
    assert os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)[1] == 0


def spin() -> None:
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        pass


def attempts(hidden: str, beside: str) -> dict[str, Attempt]:
    return {
        "mount": call(165, tmpfs, mnt, tmpfs, 0, 0),
        "umount2": call(166, proc, 2),
        "unshare users": call(272, NEW_USERS),
        "unshare mounts": call(272, NEW_MOUNTS),
        "clone into a user namespace": call(56, NEW_USERS | signal.SIGCHLD, 0, 0, 0, 0),
        "clone3": call(435, room, 0),
        "setns": call(308, 0, 0),
        "keyctl": call(250, 0, SESSION_KEYRING, 0),
        "add_key": call(248, room, room, room, 1, SESSION_KEYRING),
        "bpf": call(321, 0, room, 8),
        "perf_event_open": call(298, room, 0, MINUS_ONE, MINUS_ONE, 0),
        "io_uring_setup": call(425, 4, room),
        "userfaultfd": call(323, 1),
        "memfd_secret": call(447, 0),
        "landlock_create_ruleset": call(444, 0, 0, 1),
        "kexec_load": call(246, 0, 0, 0, 0),
        "init_module": call(175, room, 0, room),
        "open_by_handle_at": call(304, AT_FDCWD, room, 0),
        "fixed addresses (personality)": call(135, 0x40000),
        "swapoff": call(168, mnt),
        "sethostname": lambda: socket.sethostname("mine"),
        "clock_settime": lambda: time.clock_settime(time.CLOCK_REALTIME, time.time()),
        "chroot": lambda: os.chroot("/tmp"),
        "a device": lambda: os.mknod("/tmp/device", stat.S_IFBLK | 0o600, os.makedev(8, 0)),
        "raw packets": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close(),
        "the node's audit": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_AUDIT).close(),
        "core_pattern": write("/proc/sys/kernel/core_pattern"),
        "drop_caches": write("/proc/sys/vm/drop_caches"),
        "sysrq": write("/proc/sysrq-trigger"),
        "sysfs": write("/sys/kernel/mm/ksm/run"),
        "/dev/mem": lambda: Path("/dev/mem").open("rb"),
        "a hidden folder": lambda: list(Path(hidden).iterdir()),
        "a hidden token": lambda: Path(hidden, "token").read_text(),
        "fork bomb": fork_bomb,
        "too much memory": lambda: bytearray(400 << 20),
        "a file beside the hidden folder": lambda: Path(beside).read_text(),
        "the own personality": call(135, 0xFFFFFFFF),
        "to debug a child": debug_a_child,
        "threads and programs": threads_and_programs,
        "memory by a descriptor": lambda: os.close(os.memfd_create("mine")),
        "all cores": spin,
    }


def outcome(attempt: Attempt) -> str:
    """Of an attempt in a process of its own, so that nothing of it stays: an error's name, a signal's, or "done"."""
    ears, mouth = os.pipe()
    child = os.fork()
    if not child:
        try:
            attempt()
            said = "done"
        except OSError as refused:
            said = errno.errorcode[refused.errno or 0]
        except BaseException as failed:
            said = repr(failed)
        os.write(mouth, said.encode())
        os._exit(0)
    os.close(mouth)
    said = os.read(ears, 1000).decode()
    os.close(ears)
    signum = os.waitpid(child, 0)[1] & 0x7F
    return signal.Signals(signum).name if signum else said


def status(process: Path) -> dict[str, str]:
    lines = (process / "status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def main() -> None:
    tried = attempts(*sys.argv[1:])
    place = Path("/var/probe")
    place.mkdir()
    while True:
        time.sleep(0.005)
        with suppress(FileNotFoundError):
            (place / "ask").unlink()
            found = {name: outcome(attempt) for name, attempt in tried.items()}
            states = [status(folder) for folder in Path("/proc").glob("[0-9]*")]
            (place / "answer.new").write_text(json.dumps({"attempts": found, "states": states}))
            (place / "answer.new").rename(place / "answer")


if __name__ == "__main__":
    main()
