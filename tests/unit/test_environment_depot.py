"""Depots: a layer arrives as its home has it, or not at all, and only what is new of it crosses."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sojourn.environment import depot as module
from sojourn.environment.contents import FILE, FOLDER, LINK, NOTHING, Contents, decode, pack
from sojourn.environment.depot import Depot, Lacking
from sojourn.environment.parts import Part
from sojourn.environment.reading import SMALL
from sojourn.errors import DoesNotFit, Incompatible, Invalid, SojournError, Unknown

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away, and capabilities")
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")
"""cap_net_raw=ep, as the kernel keeps it."""


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    prefix = tmp_path / "home/env"
    (prefix / "lib/deep/er").mkdir(parents=True)
    (prefix / "lib/code.py").write_text("code")
    (prefix / "lib/empty.py").touch()
    (prefix / "lib/deep/er/big.so").write_bytes(os.urandom(3 * SMALL + 17))
    (prefix / "bin").mkdir()
    (prefix / "bin/python").symlink_to("/usr/bin/python3")
    os.link(prefix / "lib/code.py", prefix / "bin/same.py")
    return prefix


@pytest.fixture
def home(tmp_path: Path) -> Depot:
    return Depot(tmp_path / "depot-home")


@pytest.fixture
def away(tmp_path: Path) -> Depot:
    return Depot(tmp_path / "depot-away")


def part(prefix: Path) -> Part:
    return Part(name=str(prefix), paths=(str(prefix),))


def ship(contents: Contents, source: Depot, target: Depot) -> tuple[Path, int]:
    """The tree, and the bytes of files that crossed."""
    crossed = 0

    def counted(stream: Iterator[bytes]) -> Iterator[bytes]:
        nonlocal crossed
        for chunk in stream:
            crossed += len(chunk)
            yield chunk

    with target.turn(contents.id):
        lacking = target.lacking(contents)
        told = Lacking.from_bits(contents, lacking.to_bits(contents))
        tree = target.unpack(contents, lacking, counted(source.pack(contents, told)))
    return tree, crossed


def listing(folder: Path) -> dict[str, tuple[object, ...]]:
    """Everything that should travel, told by path. Folders' times don't."""
    found: dict[str, tuple[object, ...]] = {}
    for path in folder.rglob("*"):
        there, plain = path.lstat(), path.is_file() and not path.is_symlink()
        time_ns, body = (there.st_mtime_ns, path.read_bytes()) if plain else (0, b"")
        target = str(path.readlink()) if path.is_symlink() else ""
        names = os.listxattr(path, follow_symlinks=False)
        attributes = {name: os.getxattr(path, name, follow_symlinks=False) for name in names}
        name = str(path.relative_to(folder))
        found[name] = (there.st_mode, there.st_uid, there.st_gid, time_ns, body, target, attributes)
    return found


def below(tree: Path, prefix: Path) -> Path:
    return tree / str(prefix)[1:]


def state(depot: Depot) -> list[str]:
    return sorted(str(path.relative_to(depot.folder)) for path in depot.folder.rglob("*"))


# ── whole ──


@AS_ROOT
def test_a_layer_is_what_home_has(prefix: Path, home: Depot, away: Depot) -> None:
    os.setxattr(prefix / "lib/code.py", "security.capability", CAPABILITY)
    os.setxattr(prefix / "lib/empty.py", "user.note", b"noted")
    (prefix / "lib/code.py").chmod(0o4755)
    (prefix / "lib/deep").chmod(0o700)
    (prefix / "lib/deep/er/sparse").write_bytes(b"")
    os.truncate(prefix / "lib/deep/er/sparse", 64 * SMALL)
    for path in (prefix / "lib/deep", prefix / "lib/empty.py", prefix / "bin/python"):
        os.lchown(path, 1234, 4321)
    with open(os.fsencode(prefix) + b"/\xff\xfe odd\nname", "w") as file:  # noqa: PTH123
        file.write("odd")
    os.utime(prefix / "lib/empty.py", ns=(1, -5_000_000_000))

    tree, crossed = ship(home.own(part(prefix)), home, away)

    assert listing(below(tree, prefix)) == listing(prefix)
    assert (below(tree, prefix) / "lib/deep/er/sparse").stat().st_blocks == 0
    assert crossed < 4 * SMALL
    assert (tree / str(prefix)[1:]).parent.stat().st_mode == prefix.parent.stat().st_mode


def test_the_same_content_crosses_once(prefix: Path, home: Depot, away: Depot) -> None:
    (prefix / "copy.so").write_bytes((prefix / "lib/deep/er/big.so").read_bytes())
    tree, crossed = ship(home.own(part(prefix)), home, away)
    assert crossed < 4 * SMALL
    assert listing(below(tree, prefix)) == listing(prefix)
    linked = [(below(tree, prefix) / name).stat().st_ino for name in ("lib/code.py", "bin/same.py")]
    assert linked[0] == linked[1]


def test_between_two_versions_only_what_is_new_crosses(prefix: Path, home: Depot, away: Depot) -> None:
    old, _ = ship(home.own(part(prefix)), home, away)
    (prefix / "lib/new.py").write_text("new")
    os.utime(prefix / "lib/deep/er/big.so", ns=(5, 5))  # installed again: the same but for its time
    tree, crossed = ship(home.own(part(prefix)), home, away)
    assert crossed == len("new")
    assert listing(below(tree, prefix)) == listing(prefix)
    inodes = {folder: (below(folder, prefix) / "lib/code.py").stat().st_ino for folder in (old, tree)}
    assert inodes[old] == inodes[tree]


def test_a_node_that_is_not_home_passes_a_layer_on(prefix: Path, home: Depot, away: Depot, tmp_path: Path) -> None:
    contents = home.own(part(prefix))
    ship(contents, home, away)
    (prefix / "lib/code.py").write_text("home has gone on")
    third = Depot(tmp_path / "depot-third")
    tree, _ = ship(away.contents(contents.id), away, third)
    assert (below(tree, prefix) / "lib/code.py").read_text() == "code"


def test_contents_survive_their_journey(prefix: Path, home: Depot) -> None:
    contents = home.own(part(prefix))
    assert decode(contents.encode(), contents.id) == contents
    assert contents.covers(f"{prefix}/lib/code.py")
    assert not contents.covers(f"{prefix}-other")
    assert contents.entry(f"{prefix}/lib/code.py").size == 4  # type: ignore[union-attr]
    assert contents.entry(f"{prefix}/lib/none.py") is None


# ── not at all ──


def flipped(stream: Iterator[bytes]) -> Iterator[bytes]:
    for chunk in stream:
        yield bytes([chunk[0] ^ 1]) + chunk[1:] if len(chunk) == SMALL else chunk


def cut_off(stream: Iterator[bytes]) -> Iterator[bytes]:
    body = b"".join(stream)
    yield body[: len(body) // 2]


def overlong(stream: Iterator[bytes]) -> Iterator[bytes]:
    yield from stream
    yield b"more"


@pytest.mark.parametrize("harm", [flipped, cut_off, overlong])
def test_a_stream_that_is_not_whole_leaves_the_depot_as_it_was(
    harm: Callable[[Iterator[bytes]], Iterator[bytes]], prefix: Path, home: Depot, away: Depot
) -> None:
    contents = home.own(part(prefix))
    ship(contents, home, away)
    before = state(away)
    (prefix / "more.so").write_bytes(os.urandom(2 * SMALL))
    newer = home.own(part(prefix))
    with away.turn(newer.id):
        lacking = away.lacking(newer)
        with pytest.raises(Incompatible):
            away.unpack(newer, lacking, harm(home.pack(newer, lacking)))
    assert away.here(newer.id) is None
    assert state(away) == before


def test_a_file_that_changed_since_is_named(prefix: Path, home: Depot, away: Depot) -> None:
    for name in ("bin/same.py", "lib/deep/er/big.so"):
        contents = home.own(part(prefix))
        with (prefix / name).open("r+b") as file:
            file.write(b"X")
        with pytest.raises(Incompatible, match=name):
            ship(contents, home, away)
        assert away.stock() == []


def evil(*folders: tuple[str, list[bytes]]) -> Contents:
    return Contents.of(Part(name="evil", paths=("/evil",)), {path: b"".join(body) for path, body in folders})


def entry(name: bytes, kind: bytes = FILE, rest: bytes = b"") -> bytes:
    return pack(name, kind, 0o755, os.getuid(), os.getgid(), 0, 0, NOTHING, rest)


@pytest.mark.parametrize(
    "contents",
    [
        evil(("", [entry(b"..", FOLDER)]), ("..", [entry(b"x")])),
        evil(("", [entry(b"a/../../x")])),
        evil(("", [entry(b"way", LINK, b"/tmp")]), ("way", [entry(b"x")])),
        evil(("", [entry(b"way", FOLDER), entry(b"way", LINK, b"/tmp")]), ("way", [entry(b"x")])),
        evil(("", []), ("/tmp", [entry(b"x")])),
        evil(("", [entry(b"device", b"c")])),
        evil(("", [entry(b"cut")[:-2]])),
        evil(("", [entry(b"cover", rest=b'{"trusted.overlay.redirect": "2f"}')])),
        evil(("", [entry(b"cover", rest=b"no attributes")])),
    ],
)
def test_what_would_lead_outside_is_not_even_begun(contents: Contents) -> None:
    with pytest.raises(Incompatible, match="garbled"):
        decode(contents.encode(), contents.id)


def test_contents_of_another_layer_are_refused(prefix: Path, home: Depot) -> None:
    contents = home.own(part(prefix))
    with pytest.raises(Incompatible, match="that of"):
        decode(contents.encode(), "0" * 32)
    with pytest.raises(Incompatible, match="garbled"):
        decode([b"".join(contents.encode())[:-5]], contents.id)


def test_an_id_is_no_path(away: Depot) -> None:
    for word in ("../own", "", ".", "0" * 31):
        with pytest.raises(Invalid):
            away.here(word)
    with pytest.raises(Unknown):
        away.contents("0" * 32)


def test_room_is_asked_for_first(prefix: Path, home: Depot, away: Depot, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = home.own(part(prefix))
    disk = type("Disk", (), {"free": module.ROOM_LEFT_BYTES + 3 * SMALL})
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: disk)
    with pytest.raises(DoesNotFit, match="env"):
        ship(contents, home, away)
    assert away.stock() == []


# ── many at once, and in time ──


def test_two_that_come_at_once_are_one(prefix: Path, home: Depot, away: Depot) -> None:
    contents = home.own(part(prefix))
    trees: list[Path] = []

    def arrive() -> None:
        # each mover opens the depot for itself
        trees.append(ship(contents, home, Depot(away.folder))[0])

    threads = [threading.Thread(target=arrive) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(trees) == 4
    assert len(set(trees)) == 1
    assert listing(below(trees[0], prefix)) == listing(prefix)


def test_what_nobody_uses_goes_in_time(prefix: Path, home: Depot, away: Depot) -> None:
    first, _ = home.own(part(prefix)), ship(home.own(part(prefix)), home, away)
    (prefix / "lib/new.py").write_text("new")
    second, _ = home.own(part(prefix)), ship(home.own(part(prefix)), home, away)
    soon, later = time.time() + 60, time.time() + 8 * 86400
    assert away.collect(now=soon) == []
    assert away.collect(keep=[second.id], now=later) == [first.id]
    assert [layer.id for layer in away.stock()] == [second.id]
    assert away.stock()[0].part == str(prefix)
    with away.turn("0" * 32):
        assert away.collect(now=later) == []
    away.note_use(second.id)
    assert away.collect(now=soon) == []
    assert away.collect(now=later) == [second.id]
    assert not list((away.folder / "layers").iterdir())


def test_after_a_power_cut_only_what_was_settled_is_believed(
    prefix: Path, home: Depot, away: Depot, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled = home.own(part(prefix))
    ship(settled, home, away)
    away.settle()
    (prefix / "lib/new.py").write_text("new")
    fresh = home.own(part(prefix))
    ship(fresh, home, away)
    monkeypatch.setattr(module, "_boot", lambda: "another boot")
    assert away.here(settled.id)
    assert away.here(fresh.id) is None
    tree, crossed = ship(fresh, home, away)  # what is there of it is not believed either
    assert crossed == len("new")
    assert listing(below(tree, prefix)) == listing(prefix)


def test_a_disk_that_takes_only_a_part_gets_the_rest(
    prefix: Path, home: Depot, away: Depot, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, body, at: real(file, body[: max(1, len(body) // 2)], at))
    tree, _ = ship(home.own(part(prefix)), home, away)
    assert listing(below(tree, prefix)) == listing(prefix)


def test_the_depot_itself_is_never_taken_along(prefix: Path) -> None:
    inner = Depot(prefix / "depot")
    before = inner.own(part(prefix)).id
    assert inner.own(part(prefix)).id == before


def test_every_refusal_is_one_of_ours(prefix: Path, home: Depot, away: Depot, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    contents = home.own(part(prefix))
    monkeypatch.setattr("sojourn.environment.building.os.pwrite", full)
    with pytest.raises(SojournError, match="full"):
        ship(contents, home, away)
    assert away.stock() == []
