"""A vault: what is damaged is named, and a save mends it; nothing is visible before its time."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from sojourn.chunks import CHUNK, Body, Manifest, Vault
from sojourn.chunks.layout import Layout
from sojourn.chunks.memory import MemoryBackend
from sojourn.chunks.sealing import Seal
from sojourn.errors import Busy, Damaged, StoreFailed
from sojourn.testing.store_contract import KEY, fill_a_pack, save

PAGES = bytes(range(256)) * 1024


@pytest.fixture
def backend() -> MemoryBackend:
    return MemoryBackend()


@pytest.fixture
def vault(backend: MemoryBackend) -> Vault:
    return Vault(backend, KEY)


@pytest.fixture
def layout() -> Layout:
    return Layout(Seal(KEY).owner)


def bare(layer: Body) -> Manifest:
    return Manifest("one", "s", 0.0, "boot", "here", "4.2", {}, 1, 0, layer)


@settings(max_examples=25)
@given(some.lists(some.binary(max_size=3_000) | some.integers(0, 2 * CHUNK).map(bytes), max_size=5))
def test_a_stream_comes_back(pieces: list[bytes]) -> None:
    vault, told = Vault(MemoryBackend(), KEY), []
    with vault.writing("one"):
        body = vault.write_body(pieces, told.append)
        vault.publish(bare(body))
    assert b"".join(vault.read_body(vault.manifest("one"), body)) == b"".join(pieces)
    assert body.size == sum(map(len, pieces)) == sum(ref.size for ref in told)
    assert body.chunks == tuple(ref.id for ref in told)


def test_zeros_are_not_stored(vault: Vault, backend: MemoryBackend) -> None:
    with vault.writing("one"):
        for zeros in (bytes(CHUNK), bytearray(4096), memoryview(bytes(8192))):
            assert (vault.write(zeros).id, vault.write(zeros).stored) == ("", 0)
        vault.publish(bare(Body(CHUNK, ("",))))
    assert vault.read(vault.manifest("one"), "", 4096) == bytes(4096)
    assert packs(backend) == []


def test_many_threads_write_at_once(vault: Vault) -> None:
    pages = [random.Random(number % 50).randbytes(20_000) for number in range(200)]
    with vault.writing("one"), ThreadPoolExecutor(8) as threads:
        refs = list(threads.map(vault.write, pages))
        vault.publish(bare(Body(200 * CHUNK, tuple(ref.id for ref in refs))))
    manifest = vault.manifest("one")
    assert [vault.read(manifest, ref.id, ref.size) for ref in refs] == pages
    assert len({ref.id for ref in refs}) == 50


def test_nothing_is_written_without_a_lease(vault: Vault) -> None:
    with pytest.raises(StoreFailed, match="within `writing`"):
        vault.write(b"page")
    with vault.writing("one"), pytest.raises(Busy, match="is writing checkpoint one"), vault.writing("two"):
        pass


def test_publishing_twice_is_once_and_another_of_its_id_is_refused(vault: Vault) -> None:
    manifest = save(vault, "one", PAGES, b"layer")
    with vault.writing("one"):
        vault.publish(manifest)
        with pytest.raises(StoreFailed, match="taken"):
            vault.publish(replace(manifest, node="elsewhere"))
        with pytest.raises(StoreFailed, match="while one is written"):
            vault.publish(replace(manifest, id="two"))
    assert vault.manifest("one") == manifest


def test_nothing_is_published_before_it_is_safe(backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    acts: list[str] = []
    monkeypatch.setattr(backend, "settle", lambda: acts.append("settle"))
    put, create = backend.put, backend.create
    monkeypatch.setattr(backend, "put", lambda key, body: (acts.append(key.split("/")[2]), put(key, body)))
    vault = Vault(backend, KEY)
    backend.identity()
    monkeypatch.setattr(backend, "create", lambda key, body: (acts.append("publish"), create(key, body))[1])
    save(vault, "one", PAGES, b"layer")
    assert acts == ["leases", "packs", "settle", "publish"]


# ── damage ──


def altered(body: bytes) -> bytes:
    return body[:-1] + bytes([body[-1] ^ 1])


def packs(backend: MemoryBackend) -> list[str]:
    return [entry.key for entry in backend.keys("owners/") if "/packs/" in entry.key]


Damage = Callable[[MemoryBackend, str, int], None]
"""Of what ends at an offset in an object."""
DAMAGES: dict[str, Damage] = {
    "missing": lambda backend, key, end: backend.delete(key),
    "truncated": lambda backend, key, end: backend.put(key, backend.get(key)[: end - 5]),
    "altered": lambda backend, key, end: backend.put(key, altered(backend.get(key)[:end])),
}


@pytest.fixture(params=DAMAGES)
def damaged(request: pytest.FixtureRequest, vault: Vault, backend: MemoryBackend, layout: Layout) -> str:
    """What is wrong with the chunk of task 7's memory in checkpoint "one", the last one in its pack."""
    saved = save(vault, "one", PAGES, b"")
    spot = saved.spots[saved.memory["7"][0].chunks[0]]
    DAMAGES[request.param](backend, layout.packs + spot.pack, spot.offset + spot.length)
    name: str = request.param
    return name


def test_a_bad_chunk_is_named(vault: Vault, damaged: str) -> None:
    manifest = vault.manifest("one")
    chunk = manifest.memory["7"][0].chunks[0]
    with pytest.raises(Damaged, match=f"Chunk {chunk[:12]} is {damaged}.* part of task 7 of checkpoint one"):
        vault.read(manifest, chunk, CHUNK, of="task 7")
    (problem,) = vault.verify("one")
    assert problem.startswith(f"Chunk {chunk[:12]} is {damaged}")
    assert "used by memory of task 7 at 0x140000." in problem
    assert len(vault.verify("one", deep=False)) == (damaged == "missing")


def test_the_next_save_of_the_same_content_mends_it(vault: Vault, damaged: str) -> None:
    assert vault.verify("one")
    save(Vault(vault.backend, KEY), "two", PAGES, b"layer")
    assert vault.verify("one") == vault.verify("two") == vault.verify("one", deep=False) == []
    with vault.writing("three"):
        assert vault.write(PAGES).stored == 0


def test_a_size_that_is_not_the_one_is_damage(vault: Vault) -> None:
    manifest = save(vault, "one", PAGES, b"")
    with pytest.raises(Damaged, match="262144 bytes long, not 4096"):
        vault.read(manifest, manifest.memory["7"][0].chunks[0], 4096)


def test_a_bad_manifest_is_named(vault: Vault, backend: MemoryBackend, layout: Layout) -> None:
    save(vault, "one", PAGES, b"")
    key = layout.checkpoint("one")
    backend.put(key, altered(backend.get(key)))
    with pytest.raises(Damaged, match="manifest of checkpoint one is altered"):
        vault.manifest("one")
    assert vault.verify("one") == ["The manifest of checkpoint one is altered."]
    fresh = Vault(backend, KEY)
    with fresh.writing("two"):  # it only isn't relied on
        assert fresh.write(PAGES).stored > 0
    with pytest.raises(Damaged):  # but who knows which chunks it names?
        fresh.sweep()
    fresh.drop("one")
    assert fresh.sweep().packs == 1


def test_a_manifest_of_another_owner_does_not_open(backend: MemoryBackend, layout: Layout, vault: Vault) -> None:
    stranger = bytes(32)
    save(Vault(backend, stranger), "one", PAGES, b"")
    backend.put(layout.checkpoint("one"), backend.get(Layout(Seal(stranger).owner).checkpoint("one")))
    with pytest.raises(Damaged, match="sealed with another key"):
        vault.manifest("one")


def test_what_a_broken_off_save_left_is_not_relied_on(vault: Vault, backend: MemoryBackend) -> None:
    with vault.writing("half"):
        fill_a_pack(vault)
    for key in packs(backend):
        backend.put(key, b"")  # as a power cut leaves it
    with vault.writing("one"):
        fill_a_pack(vault)
        vault.publish(bare(Body(0, ())))
    assert len(packs(backend)) == 3  # the broken one, a full one, and the rest


def test_progress_counts_chunks(vault: Vault) -> None:
    save(vault, "one", PAGES, b"layer")
    told: list[tuple[int, int]] = []
    vault.verify("one", progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]


def test_a_manifest_that_is_dropped_while_it_is_read_is_no_damage(vault: Vault, backend: MemoryBackend) -> None:
    save(vault, "one", PAGES, b"")
    fresh = Vault(backend, KEY)
    listed = fresh.checkpoints()
    fresh.drop("one")
    fresh.checkpoints = lambda: listed  # type: ignore[method-assign]
    assert fresh.sweep().packs == 1


def test_manifests_are_read_once(vault: Vault, backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    save(vault, "one", PAGES, b"")
    with vault.writing("two"):
        pass
    get, asked = backend.get, []
    monkeypatch.setattr(backend, "get", lambda key: (asked.append(key.split("/")[2]), get(key))[1])
    with vault.writing("three"):
        assert vault.write(PAGES).stored == 0
    assert "checkpoints" not in asked


def test_a_checkpoint_names_only_what_was_written(vault: Vault) -> None:
    with vault.writing("one"), pytest.raises(StoreFailed, match="never written"):
        vault.publish(bare(Body(4, ("ab" * 32,))))
    assert vault.checkpoints() == []


def test_after_a_pack_was_lost_nothing_is_published(
    vault: Vault, backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it held was taken for written by then."""

    def full(key: str, body: object) -> None:
        raise StoreFailed("The store is full.")

    with vault.writing("one"):
        chunk = vault.write(PAGES).id
        with monkeypatch.context() as patched:
            patched.setattr(backend, "put", full)
            with pytest.raises(StoreFailed, match="full"):
                fill_a_pack(vault)
        with pytest.raises(StoreFailed, match="full"):
            vault.publish(bare(Body(CHUNK, (chunk,))))
    assert vault.checkpoints() == []


def test_what_is_used_of_a_worn_pack_is_written_anew(vault: Vault, backend: MemoryBackend) -> None:
    """Else a pack would be kept for one chunk of its, and a store for packs of that kind."""
    pages = [random.Random(number).randbytes(CHUNK) for number in range(10)]

    def saved(name: str, kept: list[bytes]) -> int:
        with vault.writing(name):
            stored = [vault.write(page) for page in kept]
            vault.publish(replace(bare(Body(len(kept) * CHUNK, tuple(one.id for one in stored))), id=name))
        return sum(one.stored > 0 for one in stored)

    assert saved("all", pages) == 10
    assert saved("few", pages[:3]) == 0
    vault.drop("all")
    assert vault.sweep().slack_bytes > 6 * CHUNK
    assert saved("fresh", pages[:3]) == 3
    vault.drop("few")
    assert vault.sweep().slack_bytes == 0
    assert vault.verify("fresh") == []


def test_what_a_store_that_has_vanished_lacks_is_not_damaged(vault: Vault, backend: MemoryBackend) -> None:
    saved = save(vault, "one", PAGES, b"")
    chunk = saved.memory["7"][0].chunks[0]
    backend.delete(*[entry.key for entry in backend.keys("")])
    for ask in (
        lambda: vault.read(saved, chunk, CHUNK),
        lambda: vault.manifest("one"),
        lambda: vault.verify("one"),
    ):
        with pytest.raises(StoreFailed, match="vanished"):
            ask()
