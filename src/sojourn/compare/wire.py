"""A link of known speed and length, between this machine and a process with a network namespace of its own.

The kernel's token bucket (sch_tbf) shapes each direction. A link without delay is a veth pair; one with a delay is
carried by `sojourn.compare.delay`. Needs root and iproute2.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from sojourn.errors import Invalid, Refused

NET = f"198.18.{os.getpid() % 250}"
"""For benchmarks of networks (RFC 2544), so nobody's."""
OUR_ADDRESS, THEIR_ADDRESS = f"{NET}.1", f"{NET}.2"
_LEAST_BURST = 256 << 10
"""Bytes: several of the largest packets that a loopback carries."""
_BURST_SECONDS = 0.001
_LATENCY = "50ms"
_HINT = "It takes root, on Linux with iproute2 and sch_tbf, outside of unprivileged containers."
_RATE = re.compile(r"(?P<number>\d+(?:\.\d+)?)(?P<unit>[kmg])bit", re.I)
_DELAY = re.compile(r"(?P<number>\d+(?:\.\d+)?)(?P<unit>ms|s)", re.I)
_GBIT = {"k": 1e-6, "m": 1e-3, "g": 1.0}
_MILLISECONDS = {"ms": 1.0, "s": 1000.0}


@dataclass(frozen=True)
class Shape:
    """What a link is to be like."""

    gbit_s: float
    round_trip_ms: float = 0.0

    def __str__(self) -> str:
        return f"{self.gbit_s:g} Gbit/s, {self.round_trip_ms:g} ms"

    def seconds(self, size_bytes: int) -> float:
        """What it takes to ask for so much over a link that carries nothing else, and to have it."""
        return self.round_trip_ms / 1000 + size_bytes * 8 / (self.gbit_s * 1e9)


def parse_shape(text: str) -> Shape:
    """`1gbit`, `100mbit,20ms`: what passes each way in a second, and how long a round trip takes. Raises Invalid."""
    rate, _, delay = (part.strip() for part in text.partition(","))
    speed, length = _RATE.fullmatch(rate), _DELAY.fullmatch(delay or "0ms")
    if not speed or not length or not float(speed["number"]):
        raise Invalid(f"{text!r} is no link.", "Write its speed and its round trip: 1gbit,20ms or 100mbit.")
    gbit_s = float(speed["number"]) * _GBIT[speed["unit"].lower()]
    return Shape(gbit_s, float(length["number"]) * _MILLISECONDS[length["unit"].lower()])


def run(*argv: str) -> None:
    """Raises Refused, with what the command says."""
    if not shutil.which(argv[0]):
        raise Refused(f"{argv[0]} is not installed, so there is no link of known speed.", _HINT)
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        raise Refused(f"No link of known speed: `{' '.join(argv)}` says {done.stderr.strip()}", _HINT)


def limit(device: str, gbit_s: float, *before: str) -> None:
    """What leaves by a device is no more than so much; `before`: the words that run a command where the device is."""
    rate = round(gbit_s * 1e9)
    burst = max(_LEAST_BURST, round(rate / 8 * _BURST_SECONDS))
    bucket = ("rate", f"{rate}bit", "burst", f"{burst}b", "latency", _LATENCY)
    run(*before, "tc", "qdisc", "add", "dev", device, "root", "tbf", *bucket)


class Wire:
    """The link, from this machine to a process with a network namespace of its own. `close` takes it down."""

    def __init__(self, shape: Shape, pid: int) -> None:
        """Raises Refused."""
        self.device, self._pid = f"sojourn{os.getpid()}", pid
        self._carrier: subprocess.Popen[bytes] | None = None
        if shape.round_trip_ms:
            self._carrier = self._carried(shape.round_trip_ms / 2000)
        else:
            run("ip", "link", "add", self.device, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
        self._bring_up([], self.device, OUR_ADDRESS, shape)
        self._bring_up(["nsenter", "--target", str(pid), "--net", "--"], "eth0", THEIR_ADDRESS, shape)

    @property
    def crossed_bytes(self) -> int:
        """What has gone over it so far, in both directions, headers included."""
        counts = Path(f"/sys/class/net/{self.device}/statistics")
        return sum(int((counts / name).read_text()) for name in ("tx_bytes", "rx_bytes"))

    def close(self) -> None:
        if self._carrier:
            self._carrier.kill()
            self._carrier.wait()
        else:
            subprocess.run(["ip", "link", "delete", self.device], capture_output=True)

    def _carried(self, seconds: float) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", "sojourn.compare.delay", self.device, str(self._pid), "eth0", str(seconds)]
        carrier = subprocess.Popen(argv, stdout=subprocess.PIPE)
        assert carrier.stdout
        if carrier.stdout.readline() != b"ready\n":
            carrier.wait()
            raise Refused("No link with a delay can be made here.", "It needs /dev/net/tun, and root.")
        os.setpriority(os.PRIO_PROCESS, carrier.pid, -19)  # a wire waits for no core
        return carrier

    @staticmethod
    def _bring_up(where: list[str], device: str, address: str, shape: Shape) -> None:
        run(*where, "ip", "address", "add", f"{address}/30", "dev", device)
        run(*where, "ip", "link", "set", device, "up")
        limit(device, shape.gbit_s, *where)
