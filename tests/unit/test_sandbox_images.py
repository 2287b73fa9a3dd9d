"""How podman is spoken to, by one that only keeps files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.unit.podman_stand_in import Podman

from sojourn.errors import Incompatible, SandboxFailed, Unknown
from sojourn.sandbox import images


@pytest.fixture
def podman(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Podman:
    made = Podman(tmp_path)
    monkeypatch.setenv("PATH", str(made.bin), prepend=":")
    return made


def test_layers_are_told_from_the_top_with_the_images_own_id(podman: Podman) -> None:
    image = podman.has("ab", "localhost/mine:1")
    assert images.layers_of("localhost/mine:1") == (["/top", "/middle", "/bottom"], image)


def test_an_image_that_is_not_here_is_named_with_the_command_that_fetches_it(podman: Podman) -> None:
    with pytest.raises(Incompatible, match="no image localhost/mine:1 here") as reason:
        images.layers_of("localhost/mine:1")
    assert "`sojourn image pull localhost/mine:1`" in reason.value.hint


def test_images_kept_in_another_way_are_refused(podman: Podman) -> None:
    podman.has("ab", "mine", GraphDriver={"Name": "vfs", "Data": {}})
    with pytest.raises(Incompatible, match="as 'vfs'"):
        images.layers_of("mine")


def test_without_podman_there_are_no_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert images.missing()
    with pytest.raises(Incompatible, match="need podman"):
        images.find("mine")


def test_what_speaks_of_a_person_is_not_the_images(podman: Podman) -> None:
    podman.has("ab", "mine")
    assert images.find("mine").env == {"PATH": "/opt/conda/bin", "A": "b=c"}
    podman.has("cd", "bare", Config={})
    assert images.find("bare").env["PATH"].endswith("/sbin:/bin")


def test_an_image_comes_whole_and_under_its_name(podman: Podman) -> None:
    image = podman.has("ab", "theirs")
    with images.saved(image) as stream:
        archive = stream.read()
    (podman.store / image).unlink()
    assert images.load([archive[:10], archive[10:]], image, "mine").names == ("mine",)


def test_half_an_archive_is_no_image(podman: Podman) -> None:
    image = podman.has("ab", "theirs")
    archive = (podman.store / image).read_bytes()
    (podman.store / image).unlink()
    with pytest.raises(SandboxFailed, match="could not take in image mine: json"):
        images.load([archive[:40]], image, "mine")
    with pytest.raises(Unknown):
        images.find(image)


def test_another_image_than_was_announced_gets_no_name(podman: Podman) -> None:
    other = podman.has("cd", "theirs")
    archive = (podman.store / other).read_bytes()
    with pytest.raises(SandboxFailed, match="another one than abab"):
        images.load([archive], "ab" * 32, "mine")
    assert json.loads((podman.store / other).read_text())["RepoTags"] == []


def test_saving_what_is_not_there_is_an_error_and_not_an_empty_archive(podman: Podman) -> None:
    with pytest.raises(SandboxFailed, match="image not known"), images.saved("nothing") as stream:
        assert stream.read() == b""


@pytest.mark.parametrize(
    ("said", "lacking"),
    [
        ("rider\nipykernel\nchecked", []),
        ("ipykernel\nchecked", ["There is no Python 3.11"]),
        ("rider\nchecked", ["`python3` finds no ipykernel"]),
        ("", ["It could not be tried"]),
    ],
)
def test_what_a_kernel_needs_is_named(podman: Podman, said: str, lacking: list[str]) -> None:
    image = podman.has("ab", "mine", Says=said)
    found = images.lacking(image)
    assert len(found) == len(lacking)
    assert all(sentence.startswith(word) for sentence, word in zip(found, lacking, strict=True))


def test_the_recipe_can_begin_with_another_base() -> None:
    lines = images.recipe().splitlines()
    assert "ARG BASE=docker.io/library/python:${PYTHON}-slim" in lines
    assert "FROM ${BASE}" in lines
