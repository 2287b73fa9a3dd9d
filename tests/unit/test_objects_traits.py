"""Objects with traits keep their observers."""

from __future__ import annotations

import io
from typing import Any

import traitlets

from sojourn.objects import capture, restore


class Watched(traitlets.HasTraits):  # type: ignore[misc]
    n = traitlets.Int()
    doubled = traitlets.Int()

    @traitlets.observe("n")  # type: ignore[untyped-decorator]
    def _double(self, change: Any) -> None:
        self.doubled = 2 * change["new"]


class Ear:
    def __init__(self) -> None:
        self.heard: list[int] = []

    def hear(self, change: Any) -> None:
        self.heard.append(change["new"])


def test_observers_of_the_class_and_the_users_own_are_told_once_each() -> None:
    here, ear, file, there = Watched(n=1), Ear(), io.BytesIO(), dict[str, Any]()
    here.observe(ear.hear, "n")
    captured = capture({"watched": here, "ear": ear})
    captured.write(file)
    file.seek(0)
    restore(file, there)
    there["watched"].n = 4
    assert there["watched"].doubled == 8
    assert there["ear"].heard == [4]
    assert ear.heard == []
