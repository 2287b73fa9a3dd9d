"""What TLS between machines costs: bytes a second and round trips, sealed and plain, on this machine's own loopback.

The two ends are processes of their own, as source and target of a move are. A sealed connection takes two threads on
the way that a plain one does not, one in each process; the two ways take turns.
"""

from __future__ import annotations

import multiprocessing
import socket
import statistics
import tempfile
import time
from pathlib import Path

from bench.links import load_average
from sojourn.agent.identity import Identity
from sojourn.controller.authority import Authority
from sojourn.transport import sealed
from sojourn.transport.address import hasten
from sojourn.transport.tls import presenting

_PIECE = 1 << 20
_ROUND_TRIPS = 2000
_processes = multiprocessing.get_context("spawn")


def measure(rounds: int, megabytes: int) -> dict[str, object]:
    """Medians over so many rounds; MB/s are 10^6 bytes a second, round trips in microseconds."""
    authority = Authority.new(time.time())
    with tempfile.TemporaryDirectory() as folder:
        identity = Identity(Path(folder) / "node.json", "")
        certificate = authority.certify(identity.request(), "target", time.time())
        identity.chain = identity._new_key + certificate
    plain, closed = [], []
    for _ in range(rounds):
        plain.append(_one(megabytes, "", ""))
        closed.append(_one(megabytes, authority.certificate, identity.chain))
    rates = [statistics.median(rate for rate, _ in way) for way in (closed, plain)]
    return {
        "sealed_mb_s": round(rates[0]),
        "plain_mb_s": round(rates[1]),
        "sealed_share_of_plain": round(rates[0] / rates[1], 2),
        "sealed_round_trip_us": round(statistics.median(trip for _, trip in closed)),
        "plain_round_trip_us": round(statistics.median(trip for _, trip in plain)),
        "rounds": rounds,
        "megabytes": megabytes,
        "load": load_average(),
    }


def _one(megabytes: int, authority: str, chain: str) -> tuple[float, float]:
    """MB/s and the median round trip of one connection, sealed if there is an authority."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        sending = _processes.Process(target=_send, args=(server.getsockname(), authority, megabytes))
        sending.start()
        connection, _ = server.accept()
        hasten(connection)
    with sealed.answered(connection, presenting(chain)) if authority else connection as plain:
        for _ in range(_ROUND_TRIPS):
            plain.sendall(plain.recv(1))
        rate = _received_mb_s(plain)
        trip = float(_last_words(plain))
    sending.join()
    return rate, trip


def _last_words(connection: socket.socket) -> str:
    return b"".join(iter(lambda: connection.recv(100), b"")).decode()


def _received_mb_s(connection: socket.socket) -> float:
    left = int.from_bytes(connection.recv(8, socket.MSG_WAITALL))
    size, piece, since = left, bytearray(_PIECE), time.monotonic()
    while left:
        left -= connection.recv_into(piece, min(left, _PIECE))
    return size / 1e6 / (time.monotonic() - since)


def _send(address: tuple[str, int], authority: str, megabytes: int) -> None:
    with socket.create_connection(address) as connection:
        hasten(connection)
        with sealed.dialled(connection, authority, "target") if authority else connection as plain:
            trips = [_round_trip(plain) for _ in range(_ROUND_TRIPS)]
            pieces = megabytes * 10**6 // _PIECE
            plain.sendall((pieces * _PIECE).to_bytes(8))
            for _ in range(pieces):
                plain.sendall(bytes(_PIECE))
            plain.sendall(str(statistics.median(trips) * 1e6).encode())
            plain.shutdown(socket.SHUT_WR)
            plain.recv(1)


def _round_trip(connection: socket.socket) -> float:
    since = time.perf_counter()
    connection.sendall(b"x")
    connection.recv(1)
    return time.perf_counter() - since
