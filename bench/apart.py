"""What moves, executes and environments cost between hosts that are apart: over links of known speed and length."""

from __future__ import annotations

import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sojourn
from bench import far_end, relay
from bench.far_end import DRAIN, ECHO, LAYERS
from bench.heap import prepare
from bench.links import load_average
from bench.listener import Listener
from bench.prefix import make_prefix
from bench.roundtrip import WARM_UP, round_trip_ms
from bench.suspend import STIR
from sojourn.compare.hosts import HERE, THERE, Hosts, hosts
from sojourn.compare.wire import THEIR_ADDRESS, Shape, Wire
from sojourn.environment.depot import Depot
from sojourn.environment.parts import Part
from sojourn.model import MoveReport, Strategy
from sojourn.movers import environment
from sojourn.movers.parcels import Parcels
from sojourn.testing import LOCAL, OURS, end_kernel, execute, session_of, start_kernel

SLOW, USUAL, FAST = Shape(0.1, 40), Shape(1, 10), Shape(10)
ROUND_TRIPS = 50
SETTLE_SECONDS = 1.0
PREFIX_MEGABYTES, PREFIX_FILES = 1000, 40_000
_PIECE = bytes(1 << 20)


def measure(heap_gb: float, times: int) -> dict[str, Any]:
    """One JSON-ready object; docs/measuring.md says what each figure means."""
    load = load_average()
    by_link = {str(shape): _over(shape, heap_gb, times) for shape in (SLOW, USUAL, FAST)}
    usual = by_link[str(USUAL)]
    return {
        "bench": "links",
        "heap_gb": heap_gb,
        "gap_1gbit_s": usual["gap_s"],
        "roundtrip_extra_ms": usual["roundtrip_extra_ms"],
        "layer_share_of_link": usual["layer"]["share_of_link"],
        "second_node_extra_s": usual["layer"]["again_s"],
        "relayed_mb_s": relay.measure(3, 500)["relayed_mb_s"],
        "by_link": by_link,
        "wrong_pages": sum(link["wrong_pages"] for link in by_link.values()),
        "load": load,
    }


def _over(shape: Shape, heap_gb: float, times: int) -> dict[str, Any]:
    with hosts(shape) as (pair, sojourner), _far_end(pair) as dial:
        link = _link(dial)
        layer = {"layer": _ship_layer(dial, pair.wire, link["mb_s"])} if shape == USUAL else {}
        ours, local = start_kernel(OURS, needs=HERE), start_kernel(LOCAL)
        try:
            execute(ours[1], prepare(heap_gb) + STIR, timeout=600)
            traveller = Traveller(sojourner, pair.wire, *ours)
            trips = [traveller.move(to, "lazy") for _ in range(times) for to in (THERE, HERE)]
            copied = traveller.move(THERE, "copy")
            apart_ms, local_ms = _round_trips_ms(ours[1]), _round_trips_ms(local[1])
            wrong = int(execute(ours[1], "print(verify())", timeout=600))
        finally:
            end_kernel(*ours)
            end_kernel(*local)
    return {
        "measured": link,
        **_summary(trips),
        "copy": copied,
        "round_trip_ms": apart_ms,
        "roundtrip_extra_ms": round(apart_ms - local_ms - link["round_trip_ms"], 2),
        **layer,
        "wrong_pages": wrong,
    }


def _summary(trips: list[dict[str, float]]) -> dict[str, float]:
    medians = {key: round(statistics.median(trip[key] for trip in trips), 3) for key in trips[0]}
    return {**medians, "slowest_gap_s": max(trip["gap_s"] for trip in trips)}


def _round_trips_ms(client: Any) -> float:
    return round(statistics.median([round_trip_ms(client) for _ in range(WARM_UP + ROUND_TRIPS)][WARM_UP:]), 2)


class Traveller:
    """A kernel that counts aloud while it is moved."""

    def __init__(self, sojourner: sojourn.Client, wire: Wire, manager: Any, client: Any) -> None:
        self._sojourner, self._wire, self._manager, self._client = sojourner, wire, manager, client

    def move(self, to: str, strategy: Strategy) -> dict[str, float]:
        """Seconds as a client sees them, and what went over the link, over what the memory has."""
        listener = Listener(self._client, self._client.execute("count_aloud()"))
        time.sleep(SETTLE_SECONDS)
        crossed, since = self._wire.crossed_bytes, time.monotonic()
        outcome = self._sojourner.move(session_of(self._manager), to, strategy=strategy, wait="filled")
        whole_s, crossed = time.monotonic() - since, self._wire.crossed_bytes - crossed
        time.sleep(SETTLE_SECONDS)
        gap_s = listener.longest_silence(since, time.monotonic() - SETTLE_SECONDS / 2)
        self._manager.interrupt_kernel()
        listener.ended.wait(30)
        assert outcome.move
        return {**_trip(outcome.move.report, crossed), "gap_s": round(gap_s, 3), "whole_s": round(whole_s, 2)}


def _trip(report: MoveReport, crossed_bytes: int) -> dict[str, float]:
    return {
        "frozen_s": round(report.frozen_s, 3),
        "filled_s": round(report.filled_s, 2),
        "crossed_mb": round(crossed_bytes / 1e6),
        "page_mb": round(report.page_bytes / 1e6),
    }


# ── the link by itself ──

Dial = Callable[[bytes], socket.socket]


@contextmanager
def _far_end(pair: Hosts) -> Iterator[Dial]:
    folder = tempfile.mkdtemp(prefix="sojourn-far-")
    argv = pair.inside(sys.executable, far_end.__file__, THEIR_ADDRESS, folder)
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert process.stdout

    def dial(asked: bytes) -> socket.socket:
        connection = socket.create_connection((THEIR_ADDRESS, port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(asked)
        return connection

    try:
        port = int(process.stdout.readline())
        yield dial
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder)


def _link(dial: Dial) -> dict[str, float]:
    """As one connection finds it."""
    with dial(ECHO) as connection:
        trips_ms = [_echo_ms(connection) for _ in range(ROUND_TRIPS)]
    with dial(DRAIN) as connection:
        sent, since = 0, time.monotonic()
        while time.monotonic() < since + 2:
            connection.sendall(_PIECE)
            sent += len(_PIECE)
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)
        mb_s = sent / 1e6 / (time.monotonic() - since)
    return {"round_trip_ms": round(statistics.median(trips_ms), 2), "mb_s": round(mb_s, 1)}


def _echo_ms(connection: socket.socket) -> float:
    since = time.perf_counter()
    connection.sendall(ECHO)
    connection.recv(1)
    return (time.perf_counter() - since) * 1000


def _ship_layer(dial: Dial, wire: Wire, link_mb_s: float) -> dict[str, float]:
    """A prefix becomes a layer of the other host's, from the moment when what it holds is known here, and is asked for
    again."""
    folder = Path(tempfile.mkdtemp(prefix="sojourn-prefix-"))
    try:
        prefix = folder / "prefix"
        make_prefix(prefix, PREFIX_MEGABYTES, PREFIX_FILES)
        depot, part = Depot(folder / "depot"), Part(name=str(prefix), paths=(str(prefix),))
        layer = depot.own(part)
        crossed = wire.crossed_bytes
        seconds = _shipped_s(dial, depot, part)
        crossed = wire.crossed_bytes - crossed
        again_s = min(_shipped_s(dial, depot, part) for _ in range(3))
    finally:
        shutil.rmtree(folder)
    return {
        "mb": round(layer.size_bytes / 1e6),
        "files": layer.count,
        "seconds": round(seconds, 2),
        "share_of_link": round(layer.size_bytes / 1e6 / seconds / link_mb_s, 2),
        "crossed_mb": round(crossed / 1e6),
        "again_s": round(again_s, 3),
    }


def _shipped_s(dial: Dial, depot: Depot, part: Part) -> float:
    """Seconds until the other host has a part, as it is here at this moment."""
    since = time.monotonic()
    with dial(LAYERS) as connection:
        environment.send(Parcels(connection), depot, [depot.own(part)])
        connection.recv(1)
    return time.monotonic() - since
