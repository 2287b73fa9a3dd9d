"""What every store of chunks must keep to. For a backend of one's own:

class TestMine(StoreContract):
    @pytest.fixture
    def opened(self):
        yield lambda: MyBackend(…)
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from sojourn.chunks import CHUNK, PACK, Backend, Body, Manifest, Run, Vault
from sojourn.errors import Damaged

Opened = Callable[[], Backend]
"""Each call is a further handle, as of another process, on one and the same store, which is empty at first."""

KEY = bytes(range(32))


class StoreContract:
    """To be inherited, with a fixture `opened`."""

    creators = 8
    """How many try at once to create one object."""

    # ── objects ──

    def test_what_is_put_is_got_by_all(self, opened: Opened) -> None:
        one, other = opened(), opened()
        for body in (b"first", b"", bytes(range(256)) * 8192):
            one.put("a/b/c", body)
            assert other.get("a/b/c") == body

    def test_a_body_is_its_callers_again_after_put(self, opened: Opened) -> None:
        backend, body = opened(), bytearray(b"sealed")
        backend.put("a/b", memoryview(body))
        body[:] = b"reused"
        assert backend.get("a/b") == b"sealed"

    def test_what_is_not_there_is_not_there(self, opened: Opened) -> None:
        backend = opened()
        backend.put("a/there", b"")
        for key in ("a/none", "none", "a/there/none"):
            assert not backend.has(key)
            with pytest.raises(KeyError):
                backend.get(key)
            with pytest.raises(KeyError):
                backend.touch(key)
        backend.delete("a/none", "b/none")
        backend.delete()
        assert list(backend.keys("none/")) == []

    def test_keys_are_listed_by_their_beginning(self, opened: Opened) -> None:
        backend = opened()
        for key in ("o/1/chunks/ab/abc", "o/1/chunks/ab/abd", "o/1/leases/x.1", "o/1/leases/y.1", "o/2/leases/x.1"):
            backend.put(key, key.encode())
        listed = {entry.key: entry.size for entry in backend.keys("o/1/")}
        assert listed == {key: len(key) for key in listed}
        assert len(listed) == 4
        assert {entry.key for entry in backend.keys("o/1/leases/x")} == {"o/1/leases/x.1"}
        assert backend.absent("o/1/", ["o/1/leases/x.1", "o/1/leases/z.1"]) == {"o/1/leases/z.1"}

    def test_a_long_listing_is_whole_and_goes_at_once(self, opened: Opened) -> None:
        backend = opened()
        keys = {f"many/{number % 7}/{number:05}" for number in range(1005)}
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda key: backend.put(key, b"x"), keys))
        assert {entry.key for entry in backend.keys("many/")} == keys
        backend.delete(*keys)
        assert not list(backend.keys("many/"))

    def test_only_one_creates(self, opened: Opened) -> None:
        handles = [opened() for _ in range(self.creators)]
        begin = threading.Barrier(self.creators)

        def create(number: int) -> bool:
            begin.wait()
            return handles[number].create("decided/x", bytes([number]))

        with ThreadPoolExecutor(self.creators) as threads:
            won = list(threads.map(create, range(self.creators)))
        assert won.count(True) == 1
        assert handles[0].get("decided/x") == bytes([won.index(True)])
        assert not handles[0].create("decided/x", b"late")
        assert handles[0].get("decided/x") != b"late"

    def test_a_touch_is_later_than_what_was_before(self, opened: Opened) -> None:
        backend = opened()
        backend.put("leases/a", b"a")
        backend.put("leases/b", b"b")
        backend.touch("leases/a")
        at = {entry.key: entry.changed_at for entry in backend.keys("leases/")}
        assert at["leases/a"] >= at["leases/b"]
        assert backend.get("leases/a") == b"a"

    def test_a_listing_never_misses_what_is_touched_meanwhile(self, opened: Opened) -> None:
        backend, toucher, over = opened(), opened(), threading.Event()
        wanted = {f"leases/{number}" for number in range(20)}
        for key in wanted:
            backend.put(key, b"held")

        def touch() -> None:
            while not over.is_set():
                for key in wanted:
                    toucher.touch(key)

        thread = threading.Thread(target=touch)
        thread.start()
        try:
            for _ in range(30):
                assert {entry.key for entry in backend.keys("leases/")} == wanted
        finally:
            over.set()
            thread.join()

    def test_readers_see_whole_bodies_only(self, opened: Opened) -> None:
        backend, writer, over = opened(), opened(), threading.Event()
        bodies = [bytes([number]) * 300_000 for number in (1, 2)]
        backend.put("a/b", bodies[0])

        def write() -> None:
            while not over.is_set():
                for body in bodies:
                    writer.put("a/b", body)

        thread = threading.Thread(target=write)
        thread.start()
        try:
            assert all(backend.get("a/b") in bodies for _ in range(40))
            assert all(entry.size == 300_000 for _ in range(20) for entry in backend.keys("a/"))
        finally:
            over.set()
            thread.join()

    def test_all_know_the_store_by_one_name(self, opened: Opened) -> None:
        first = opened().identity()
        assert len(first) == 32
        with ThreadPoolExecutor(4) as threads:
            assert set(threads.map(lambda _: opened().identity(), range(4))) == {first}

    def test_a_part_is_got_by_itself(self, opened: Opened) -> None:
        backend = opened()
        backend.put("a/b", bytes(range(256)) * 4096)
        assert backend.part("a/b", 1000, 300_000) == (bytes(range(256)) * 4096)[1000:301_000]
        assert backend.part("a/b", 2**20 - 2, 10) == b"\xfe\xff"
        assert backend.part("a/b", 2**20 + 5, 10) == b""
        with pytest.raises(KeyError):
            backend.part("a/none", 0, 10)

    # ── a vault in it ──

    def test_a_saved_checkpoint_is_read_by_another_process(self, opened: Opened) -> None:
        pages = bytes(range(256)) * 1024
        saved = save(Vault(opened(), KEY), "one", pages, b"text" * 100_000)
        vault = Vault(opened(), KEY)
        assert vault.checkpoints() == ["one"]
        assert vault.manifest("one") == saved
        assert b"".join(vault.read_body(saved, saved.layer)) == b"text" * 100_000
        (run,) = saved.memory["7"]
        assert b"".join(vault.read(saved, chunk, size) for _, chunk, size in run.spans()) == pages
        assert vault.verify("one") == vault.verify("one", deep=False) == []

    def test_a_half_written_checkpoint_is_never_visible(self, opened: Opened) -> None:
        vault = Vault(opened(), KEY)
        with vault.writing("half"):
            fill_a_pack(vault)
        assert vault.checkpoints() == []
        with pytest.raises(Damaged, match="half is missing"):
            vault.manifest("half")
        assert vault.sweep().packs == 1

    def test_a_second_checkpoint_writes_only_what_changed(self, opened: Opened) -> None:
        vault = Vault(opened(), KEY)
        save(vault, "one", bytes(range(256)) * 1024, b"same")
        other = Vault(opened(), KEY)
        with other.writing("two"):
            assert other.write(bytes(range(256)) * 1024).stored == 0
            assert other.write(bytes(range(1, 256)) * 1024).stored > 0

    def test_a_sweep_removes_what_no_checkpoint_names(self, opened: Opened) -> None:
        vault = Vault(opened(), KEY)
        for name in ("one", "two"):
            save(vault, name, name.encode() * 50_000, name.encode())
        vault.drop("one")
        assert vault.sweep(dry_run=True).packs == 1
        swept = vault.sweep()
        assert (swept.packs, swept.slack_bytes, swept.busy) == (1, 0, 0)
        assert swept.bytes > 0
        assert swept.used_bytes > 0
        assert vault.verify("two") == vault.verify("two", deep=False) == []
        assert vault.checkpoints() == ["two"]

    def test_a_sweep_keeps_away_from_a_writer(self, opened: Opened) -> None:
        vault, sweeper = Vault(opened(), KEY), Vault(opened(), KEY)
        with vault.writing("one"):
            fill_a_pack(vault)
            assert (sweeper.sweep().busy, sweeper.sweep().packs) == (1, 0)
        assert sweeper.sweep().packs == 1

    def test_owners_see_nothing_of_each_other(self, opened: Opened) -> None:
        save(Vault(opened(), KEY), "one", b"mine" * 1000, b"")
        stranger = Vault(opened(), bytes(32))
        assert stranger.checkpoints() == []
        assert stranger.sweep().used_bytes == 0
        assert Vault(opened(), KEY).verify("one") == []


def fill_a_pack(vault: Vault) -> None:
    """Within `writing`: chunks until one pack is in the store."""
    noise, written = random.Random(7), 0
    while written <= PACK:
        written += vault.write(noise.randbytes(CHUNK)).stored


def save(vault: Vault, checkpoint: str, pages: bytes, layer: bytes) -> Manifest:
    """A whole checkpoint whose task 7 has these pages, at most a chunk; as whoever reads it sees it."""
    with vault.writing(checkpoint):
        assert len(pages) <= CHUNK
        run = Run(CHUNK * 5, len(pages), (vault.write(pages).id,))
        manifest = Manifest(
            id=checkpoint,
            session="s",
            created_at=1.5,
            boot="b",
            node="here",
            criu="4.2.1",
            spec={"image": None},
            incarnation=3,
            epoch=1,
            layer=vault.write_body([layer]),
            images={"pstree.img": Body(0, ())},
            memory={"7": [run]},
        )
        vault.publish(manifest)
    return vault.manifest(checkpoint)
