"""How much the controller's relay carries on this machine, against the same two ends joined directly.

Relay, sender and receiver are processes of their own, as controller, source and target of a move are; the two ways take
turns, so that whatever else the machine does meanwhile weighs on both.
"""

from __future__ import annotations

import json
import multiprocessing
import socket
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from bench.links import load_average
from sojourn.controller.relay import Relay

_PIECE = 1 << 20
_BEGIN = b"\n"
_processes = multiprocessing.get_context("spawn")

Address = tuple[str, int]


def measure(rounds: int, megabytes: int) -> dict[str, object]:
    """Medians over so many rounds of so many megabytes each way; MB/s are 10^6 bytes a second."""
    relayed, direct = [], []
    with _relay() as (address, calls):
        for _ in range(rounds):
            relayed.append(_relayed(address, calls, megabytes))
            direct.append(_direct(megabytes))
    return {
        "relayed_mb_s": round(statistics.median(relayed)),
        "direct_mb_s": round(statistics.median(direct)),
        "share_of_direct": round(statistics.median(relayed) / statistics.median(direct), 2),
        "relayed_mb_s_worst": round(min(relayed)),
        "rounds": rounds,
        "megabytes": megabytes,
        "load": load_average(),
    }


@contextmanager
def _relay() -> Iterator[tuple[Address, Connection]]:
    """A relay's address, and where it says which calls are to be fetched."""
    ours, theirs = _processes.Pipe()
    serving = _processes.Process(target=_serve, args=(theirs,))
    serving.start()
    try:
        yield ours.recv(), ours
    finally:
        ours.send("end")
        serving.join()


def _serve(pipe: Connection) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        relay = Relay(listener)
        relay.open(lambda connection, first: connection.close(), lambda node, call: pipe.send(call))
        pipe.send(listener.getsockname())
        pipe.recv()
        relay.close()


def _relayed(address: Address, calls: Connection, megabytes: int) -> float:
    with _sender(address, _line(node="target"), megabytes):
        call = calls.recv()
        with socket.create_connection(address) as connection:
            connection.sendall(_line(call=call))
            return _received_mb_s(connection)


def _direct(megabytes: int) -> float:
    with socket.create_server(("127.0.0.1", 0)) as server, _sender(server.getsockname(), b"", megabytes):
        connection, _ = server.accept()
        with connection:
            return _received_mb_s(connection)


@contextmanager
def _sender(address: Address, first: bytes, megabytes: int) -> Iterator[None]:
    sending = _processes.Process(target=_send, args=(address, first, megabytes))
    sending.start()
    try:
        yield
    finally:
        sending.join()


def _send(address: Address, first: bytes, megabytes: int) -> None:
    piece = bytes(_PIECE)
    with socket.create_connection(address) as connection:
        connection.sendall(first)
        connection.recv(len(_BEGIN))
        for _ in range(megabytes * 10**6 // _PIECE):
            connection.sendall(piece)


def _received_mb_s(connection: socket.socket) -> float:
    """From the word to begin until the last byte."""
    received, piece = 0, bytearray(_PIECE)
    connection.sendall(_BEGIN)
    since = time.monotonic()
    while count := connection.recv_into(piece):
        received += count
    return received / 1e6 / (time.monotonic() - since)


def _line(**said: Any) -> bytes:
    return json.dumps({"sojourn": 1, **said}).encode() + b"\n"
