"""What `sojourn image` makes of its words, and says of what came of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sojourn.cli.images import default_tag, fate, full_name, recipe_in
from sojourn.client.words import Transfer
from sojourn.errors import Invalid

CAME = Transfer(id="t", reference="mine", node="there", way="here", total_bytes=10**9, began_at=10.0, ended_at=22.0)


def test_a_recipe_is_a_file_a_folder_or_sojourns_own(tmp_path: Path) -> None:
    assert recipe_in(None) == (None, None)
    with pytest.raises(Invalid, match="no Containerfile or Dockerfile") as reason:
        recipe_in(tmp_path)
    assert "`sojourn image recipe >" in reason.value.hint
    (tmp_path / "Dockerfile").touch()
    assert recipe_in(tmp_path) == recipe_in(tmp_path / "Dockerfile") == (tmp_path, tmp_path / "Dockerfile")


def test_an_image_is_called_like_its_folder_unless_told(tmp_path: Path) -> None:
    folder = tmp_path / "My Data_2"
    folder.mkdir()
    assert (default_tag(folder), default_tag(None)) == ("my-data-2", "sojourn")


@pytest.mark.parametrize(
    ("tag", "name"),
    [
        ("mine", "localhost/mine:latest"),
        ("mine:2", "localhost/mine:2"),
        ("registry.example/ada/mine", "registry.example/ada/mine:latest"),
        ("registry.example:5000/mine:2", "registry.example:5000/mine:2"),
    ],
)
def test_names_are_as_podman_has_them(tag: str, name: str) -> None:
    assert full_name(tag) == name


def test_each_node_says_in_a_line_what_became_of_the_image() -> None:
    assert fate(CAME) == "there: here from here in 12 s, 1.0 GB"
    assert fate(CAME.model_copy(update={"way": ""})) == "there: here from this machine in 12 s, 1.0 GB"
    assert fate(CAME.model_copy(update={"way": "there"})) == "there: has it already"
    failed = CAME.model_copy(update={"error": {"code": "unreachable", "message": "It broke.", "hint": "Try again."}})
    assert fate(failed) == "there: It broke. Try again."
