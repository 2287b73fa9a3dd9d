"""Who this machine is: its identity, its processor, its kernel."""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import platform
import re
import uuid
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_XSAVE_LEAF = 0xD
# rbx must survive a call; leaf in edi, sub-leaf in esi; the answer is ebx.
_CPUID_EBX = bytes.fromhex("53 89f8 89f1 0fa2 89d8 5b c3")


@cache
def boot_id() -> str:
    """Changes with each boot; where the OS has none, constant, so that nothing looks like a reboot."""
    return _first_line("/proc/sys/kernel/random/boot_id") or "unknown"


@cache
def machine_id() -> str:
    return _first_line("/etc/machine-id") or _first_line("/var/lib/dbus/machine-id") or f"mac-{uuid.getnode():012x}"


def root_id() -> str:
    """Two nodes share it only when they show sessions the very same root: one boot of one machine, one root folder."""
    root = Path("/").stat()
    identity = f"{machine_id()} {boot_id()} {root.st_dev} {root.st_ino}"
    return hashlib.sha256(identity.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Processor:
    model: str = ""
    flags: tuple[str, ...] = ()
    xsave_bytes: int = 0
    """Size of the area for all enabled register sets; 0 where unknown."""


def processor() -> Processor:
    try:
        facts = _facts(_CPUINFO.read_text())
    except OSError:
        return Processor(model=platform.processor())
    flags = tuple(sorted((facts.get("flags") or facts.get("Features") or "").split()))
    return Processor(facts.get("model name", ""), flags, xsave_bytes() if "xsave" in flags else 0)


def xsave_bytes() -> int:
    """CPUID leaf 0xD: the size of the XSAVE area for the features the kernel has enabled (Intel SDM, volume 1, 13.2).

    0 where a page may not be made executable.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        return 0
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    except (OSError, AttributeError, TypeError):
        return 0
    page.write(_CPUID_EBX)
    start = ctypes.addressof(ctypes.c_char.from_buffer(page))
    size: int = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_uint32, ctypes.c_uint32)(start)(_XSAVE_LEAF, 0)
    return size


def _facts(cpuinfo: str) -> dict[str, str]:
    """Of the first processor."""
    lines = cpuinfo.split("\n\n")[0].splitlines()
    return {
        name.strip(): value.strip() for name, _, value in (re.sub(r"\s+", " ", line).partition(":") for line in lines)
    }


def _first_line(path: str) -> str:
    try:
        return Path(path).read_text().strip().partition("\n")[0]
    except OSError:
        return ""
