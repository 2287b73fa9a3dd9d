"""Orders for pages met from a checkpoint's chunks."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator

import pytest

from sojourn.chunks import CHUNK, Body, Manifest, Run, Vault, open_store
from sojourn.errors import Damaged, StoreFailed
from sojourn.movers.pager import vault
from sojourn.movers.pager.pieces import PAGE
from sojourn.movers.pager.supply import Buffer, Order
from sojourn.movers.pager.vault import Chunks, VaultSupply
from sojourn.movers.store import open_vault

BASE = 8 * CHUNK
KEY = bytes(range(32))


def window(number: int) -> bytes:
    """Each page begins with the window's number and its own."""
    return b"".join(bytes([number, page]).ljust(PAGE, b"\7") for page in range(CHUNK // PAGE))


class Checkpoint:
    """Four windows of task 5 in a store in memory; the third is zeros."""

    def __init__(self) -> None:
        self.url = f"memory://{uuid.uuid4().hex}"
        self.backend = open_store(self.url)
        self.identity = self.backend.identity()
        vault = Vault(self.backend, KEY)
        with vault.writing("checkpoint"):
            plains = [window(1), window(2), bytes(CHUNK), window(4)]
            self.chunks = tuple(vault.write(plain).id for plain in plains)
            memory = {"5": [Run(BASE, 4 * CHUNK, self.chunks)]}
            vault.publish(Manifest("checkpoint", "s", 0.0, "boot", "here", "4.2", {}, 1, 0, Body(0, ()), memory=memory))

    def opened(self) -> Chunks:
        return Chunks(self.url, self.identity, KEY.hex(), "checkpoint")

    @property
    def manifest(self) -> Manifest:
        return Vault(self.backend, KEY).manifest("checkpoint")

    def pack(self) -> str:
        """The key of the one that holds all."""
        (found,) = [entry.key for entry in self.backend.keys("owners/") if "/packs/" in entry.key]
        return found


@pytest.fixture
def checkpoint() -> Checkpoint:
    return Checkpoint()


@pytest.fixture
def bell() -> Iterator[int]:
    made = os.eventfd(0)
    yield made
    os.close(made)


def brought(supply: VaultSupply, address: int, length: int) -> Order:
    order = Order(5, address, length, Buffer(length))
    order.buffer.view[:] = b"x" * length  # of another order
    supply.order(order)
    deadline = time.monotonic() + 5
    while not supply.tray:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return supply.tray.popleft()


def test_an_order_may_lie_anywhere(checkpoint: Checkpoint, bell: int) -> None:
    everything = window(1) + window(2) + bytes(CHUNK) + window(4)
    for supply in checkpoint.opened().supplies(bell):
        for start, length in ((0, PAGE), (CHUNK - PAGE, 2 * PAGE), (5 * PAGE, 3 * CHUNK), (0, 4 * CHUNK)):
            order = brought(supply, BASE + start, length)
            assert order.failure is None
            assert bytes(order.buffer.view) == everything[start : start + length]
            assert order.blocks
        assert brought(supply, BASE + 2 * CHUNK, CHUNK).blocks == 0


def test_what_the_checkpoint_does_not_hold_is_not_zeros(checkpoint: Checkpoint, bell: int) -> None:
    for address in (BASE - PAGE, BASE + 4 * CHUNK):
        assert isinstance(brought(checkpoint.opened().supplies(bell)[0], address, PAGE).failure, Damaged)


def test_a_bad_chunk_fails_its_orders_by_name_and_no_others(checkpoint: Checkpoint, bell: int) -> None:
    spot = checkpoint.manifest.spots[checkpoint.chunks[1]]
    body = bytearray(checkpoint.backend.get(checkpoint.pack()))
    body[spot.offset + spot.length - 1] ^= 1
    checkpoint.backend.put(checkpoint.pack(), bytes(body))
    chunks = checkpoint.opened()
    assert chunks.missing() is None  # a listing can't tell
    supply, _ = chunks.supplies(bell)
    failure = brought(supply, BASE + CHUNK, PAGE).failure
    assert isinstance(failure, Damaged)
    assert checkpoint.chunks[1][:12] in failure.message
    assert brought(supply, BASE, PAGE).failure is None


@pytest.mark.parametrize("patience", [5.0, 0.0])
def test_a_store_that_fails_for_a_moment_is_asked_again(
    checkpoint: Checkpoint, bell: int, monkeypatch: pytest.MonkeyPatch, patience: float
) -> None:
    read, failures = Vault.read, [StoreFailed("Not now."), StoreFailed("Not yet.")]

    def moody(self: Vault, manifest: Manifest, chunk: str, size: int, *, of: str = "") -> bytes:
        if failures:
            raise failures.pop()
        return read(self, manifest, chunk, size, of=of)

    monkeypatch.setattr(Vault, "read", moody)
    monkeypatch.setattr(vault, "PATIENCE_SECONDS", patience)
    order = brought(checkpoint.opened().supplies(bell)[0], BASE, PAGE)
    assert isinstance(order.failure, StoreFailed) is (patience == 0)
    assert bytes(order.buffer.view) == (window(1)[:PAGE] if patience else b"x" * PAGE)


def test_a_missing_pack_is_told_beforehand(checkpoint: Checkpoint) -> None:
    checkpoint.backend.delete(checkpoint.pack())
    missing = checkpoint.opened().missing()
    assert isinstance(missing, Damaged)
    assert checkpoint.chunks[0][:12] in missing.message


def test_a_chunk_is_decoded_once_for_its_neighbours(
    checkpoint: Checkpoint, bell: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    read = Vault.read

    def counted(self: Vault, manifest: Manifest, chunk: str, size: int, *, of: str = "") -> bytes:
        asked.append(chunk)
        return read(self, manifest, chunk, size, of=of)

    monkeypatch.setattr(Vault, "read", counted)
    urgent, bulk = checkpoint.opened().supplies(bell)
    for start in range(0, CHUNK, 16 * PAGE):
        brought(urgent, BASE + start, 16 * PAGE)
    brought(bulk, BASE, CHUNK)
    assert asked == [checkpoint.chunks[0]]


def test_another_store_at_the_address_is_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(StoreFailed, match="another store"):
        open_vault(checkpoint.url, "0" * 32, KEY.hex())
