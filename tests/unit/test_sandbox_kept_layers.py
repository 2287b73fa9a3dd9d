"""A session that comes back brings only what has changed since it left."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from sojourn.sandbox.kept_layers import KEPT_SECONDS, KeptLayers, remember, remembered
from sojourn.sandbox.layer import YOUNG_NS, Index, Layer, size_of


@pytest.fixture
def kept(tmp_path: Path) -> KeptLayers:
    return KeptLayers(tmp_path / "layers")


def layer(place: Path, **files: str) -> Path:
    place.mkdir()
    for name, text in files.items():
        (place / name).write_text(text)
    return place


def test_a_layer_is_taken_back_by_the_move_it_left_by(kept: KeptLayers, tmp_path: Path) -> None:
    kept.keep("s", "move1", layer(tmp_path / "old", big="big"))
    kept.keep("s", "move1", tmp_path / "old")
    assert not (tmp_path / "old").exists()
    assert kept.take("s", "move1", layer(tmp_path / "new"))
    assert (tmp_path / "new/big").read_text() == "big"
    assert not kept.take("s", "move1", layer(tmp_path / "newer")), "it is there once"


@pytest.mark.parametrize("move", ["move2", "", "../s/move1"])
def test_one_of_another_move_is_of_no_use_and_goes(kept: KeptLayers, tmp_path: Path, move: str) -> None:
    kept.keep("s", "move1", layer(tmp_path / "old", big="big"))
    assert not kept.take("s", move, layer(tmp_path / "new"))
    assert list((tmp_path / "new").iterdir()) == []
    assert not kept.take("s", "move1", tmp_path / "new")


def test_nothing_is_kept_for_long_or_on_a_full_disk(
    kept: KeptLayers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.sweep(time.time())
    for session in ("old", "young"):
        kept.keep(session, "move", layer(tmp_path / session))
    os.utime(tmp_path / "layers/old", (time.time() - KEPT_SECONDS - 60,) * 2)
    kept.sweep(time.time())
    assert [path.name for path in (tmp_path / "layers").iterdir()] == ["young"]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=100, free=9))
    kept.sweep(time.time())
    assert list((tmp_path / "layers").iterdir()) == []


def test_there_and_back_with_deltas_alone(kept: KeptLayers, tmp_path: Path) -> None:
    """As the two ends of two moves do it."""
    here, there = layer(tmp_path / "here", big="b" * 10_000, small="here", gone="soon"), layer(tmp_path / "there")
    (here / "folder").mkdir()
    (here / "folder/file").touch()
    came: Index = {}
    index = Layer(here).index()
    Layer(there).apply(Layer(here).delta({}, index), came)
    (here / "small").write_text("changed ahead of the freeze")
    Layer(there).apply(Layer(here).delta(index), came)
    remember(tmp_path, "move1", came)
    kept.keep("s", "move1", here)

    (there / "small").write_text("there")
    (there / "gone").unlink()
    shutil.rmtree(there / "folder")
    (there / "folder").write_text("a file now")
    time.sleep(YOUNG_NS * 2e-9)
    move, came = remembered(tmp_path)
    assert kept.take("s", move, layer(tmp_path / "back"))
    delta = list(Layer(there).delta(came))
    assert sum(map(len, delta)) < 2000, "not the big one"
    index = Layer(tmp_path / "back").index()
    Layer(tmp_path / "back").apply(delta, index)
    assert {path.name: path.read_text() for path in (tmp_path / "back").iterdir()} == {
        "big": "b" * 10_000,
        "small": "there",
        "folder": "a file now",
    }
    assert index.keys() == Layer(tmp_path / "back").index().keys() == {"big", "small", "folder"}
    assert size_of(index) == 10_000 + len("there") + len("a file now")


def test_what_came_by_no_move_is_not_remembered(tmp_path: Path) -> None:
    assert remembered(tmp_path) == ("", {})
