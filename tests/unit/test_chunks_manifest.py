"""Manifests as bytes, and how memory and streams are cut."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as some

from sojourn.chunks import CHUNK, Body, Manifest, Run, cut
from sojourn.chunks.manifest import Spot, in_chunks
from sojourn.errors import Damaged

PAGE = 4096
ids = some.one_of(some.just(""), some.binary(min_size=32, max_size=32).filter(any).map(bytes.hex))
facts = some.dictionaries(some.text(max_size=5), some.integers() | some.text(max_size=5) | some.none(), max_size=3)


@some.composite
def bodies(draw: some.DrawFn) -> Body:
    size = draw(some.integers(0, 4 * CHUNK))
    count = -(-size // CHUNK)
    return Body(size, tuple(draw(some.lists(ids, min_size=count, max_size=count))))


@some.composite
def runs(draw: some.DrawFn) -> Run:
    address, size = (draw(some.integers(1, 300)) * PAGE for _ in range(2))
    count = len(list(cut(address, size)))
    return Run(address, size, tuple(draw(some.lists(ids, min_size=count, max_size=count))))


@some.composite
def located(draw: some.DrawFn, manifest: Manifest) -> Manifest:
    """Its chunks lie in packs."""
    packs = draw(some.dictionaries(some.text(max_size=8), some.integers(1, 2**31), min_size=1, max_size=3))
    spots = some.builds(Spot, some.sampled_from(sorted(packs)), some.integers(0, 2**32 - 1), some.integers(1, 2**20))
    return replace(manifest, packs=packs, spots={chunk: draw(spots) for chunk in sorted(manifest.chunks())})


manifests = some.builds(
    Manifest,
    id=some.text(max_size=8),
    session=some.text(max_size=8),
    created_at=some.floats(0, 2e9),
    boot=some.text(max_size=8),
    node=some.text(max_size=8),
    criu=some.just("4.2.1"),
    spec=facts,
    incarnation=some.integers(0),
    epoch=some.integers(0),
    layer=bodies(),
    images=some.dictionaries(some.text(max_size=8), bodies(), max_size=3),
    memory=some.dictionaries(some.text(max_size=3), some.lists(runs(), max_size=3), max_size=3),
    origin=facts,
    strategy_facts=facts,
    report=facts,
).flatmap(located)


@given(manifests)
def test_a_manifest_comes_back_from_its_bytes(manifest: Manifest) -> None:
    assert Manifest.from_bytes(manifest.to_bytes()) == manifest


@given(manifests, some.data())
def test_broken_bytes_are_damaged_or_another_manifest_but_never_the_same(
    manifest: Manifest, data: some.DataObject
) -> None:
    body = manifest.to_bytes()
    with contextlib.suppress(Damaged):
        assert Manifest.from_bytes(body[: data.draw(some.integers(0, len(body) - 1))]) != manifest


def test_another_format_is_told_of() -> None:
    body = b'\0\0\0\x0c{"format":9}'
    with pytest.raises(Damaged, match="another version"):
        Manifest.from_bytes(body)


@given(manifests)
def test_every_chunk_is_used_somewhere_with_its_size(manifest: Manifest) -> None:
    uses = list(manifest.uses())
    assert {chunk for _, chunk, _ in uses} == manifest.chunks()
    assert all(0 < size <= CHUNK for _, _, size in uses)


@given(some.integers(0, 2**47), some.integers(0, 5 * CHUNK))
def test_memory_is_cut_at_borders_without_a_gap(address: int, length: int) -> None:
    pieces = list(cut(address, length))
    assert sum(size for _, size in pieces) == length
    assert [start + size for start, size in pieces[:-1]] == [start for start, _ in pieces[1:]]
    assert all(start // CHUNK == (start + size - 1) // CHUNK for start, size in pieces)
    assert all(start % CHUNK == 0 for start, _ in pieces[1:])
    assert not pieces or pieces[0][0] == address


def test_a_page_lies_in_the_same_chunk_however_far_its_run_reaches() -> None:
    short, long = (dict(cut(address, 3 * CHUNK)) for address in (CHUNK + PAGE, 0))
    assert short.keys() & long.keys() == {2 * CHUNK}
    assert short[2 * CHUNK] == long[2 * CHUNK]


@given(some.lists(some.integers(0, 3 * CHUNK), max_size=5))
def test_a_stream_is_cut_into_whole_chunks(sizes: list[int]) -> None:
    pieces = [bytes([number]) * size for number, size in enumerate(sizes)]
    chunks = [bytes(chunk) for chunk in in_chunks(pieces)]
    assert b"".join(chunks) == b"".join(pieces)
    assert all(len(chunk) == CHUNK for chunk in chunks[:-1])
    assert all(chunks)
