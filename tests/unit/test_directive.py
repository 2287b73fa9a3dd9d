"""The expression of a place, and the directive of a cell."""

from __future__ import annotations

from typing import Any

import pytest

from sojourn.directive import Directive, PlaceExpression, blank_directive, find_directive, parse_place
from sojourn.errors import Invalid
from sojourn.model import Needs


@pytest.mark.parametrize(
    ("text", "words", "needs"),
    [
        ("there", ("there",), Needs()),
        ("  gpu  ", ("gpu",), Needs()),
        ("mem>=64G", (), Needs(memory_bytes=64 * 2**30)),
        ("MEM>=1.5GiB cores>=8", (), Needs(memory_bytes=3 * 2**29, cores=8)),
        ("there gpu>=1", ("there",), Needs(gpus=1)),
    ],
)
def test_a_place(text: str, words: tuple[str, ...], needs: Needs) -> None:
    assert parse_place(text) == PlaceExpression(words, needs)


@pytest.mark.parametrize("text", ["", "  ", "mem>64G", "there!", "gpu>=1G", "--return"])
def test_what_is_no_place(text: str) -> None:
    with pytest.raises(Invalid):
        parse_place(text)


@pytest.mark.parametrize(
    ("code", "directive"),
    [
        ("%%on there", Directive("there")),
        ("%%on there\nx", Directive("there")),
        ("\n  \n%%on  there  \nx", Directive("there")),
        ("%%on mem>=64G gpu --return\nx", Directive("mem>=64G gpu", returns=True)),
        ("%%on --return there", Directive("there", returns=True)),
        ("%%on there\r\nx", Directive("there")),
        ("   %%on there\n   x", Directive("there")),
        ("x\n%%on there", None),
        ("%%one there", None),
        ("%%onthere", None),
        ("# %%on there", None),
        ("", None),
    ],
)
def test_the_first_line(code: str, directive: Directive | None) -> None:
    assert find_directive(code, {}) == directive


@pytest.mark.parametrize("code", ["%%on", "%%on ", "%%on --return", "%%on there --fast", "%%on what?"])
def test_a_directive_that_means_nothing(code: str) -> None:
    with pytest.raises(Invalid):
        find_directive(code, {})


@pytest.mark.parametrize(
    ("metadata", "directive"),
    [
        ({"sojourn": {"node": "there"}}, Directive("there")),
        ({"sojourn.node": "there"}, Directive("there")),
        ({"sojourn": {"node": "there", "return": True}}, Directive("there", returns=True)),
        ({"sojourn": {}}, None),
        ({"sojourn": None}, None),
        ({"sojourn": "there"}, None),
        ({"cellId": "1"}, None),
    ],
)
def test_the_metadata(metadata: dict[str, Any], directive: Directive | None) -> None:
    assert find_directive("x", metadata) == directive


def test_the_line_goes_before_the_metadata() -> None:
    assert find_directive("%%on here\nx", {"sojourn": {"node": "there"}}) == Directive("here")


@pytest.mark.parametrize(
    ("code", "language", "blanked"),
    [
        ("%%on there\nx", "python", "# %%on there\nx"),
        ("\n%%on there --return\nx", "python", "\n# %%on there --return\nx"),
        ("%%on there", "python", "# %%on there"),
        ("%%on there\n%%time\nx", "python", "\n%%time\nx"),
        ("%%on there\n\n  %%time\nx", "python", "\n\n  %%time\nx"),
        ("%%on there\n    x\n    y", "python", "    # %%on there\n    x\n    y"),
        ("%%on there\nx", "R", "# %%on there\nx"),
        ("%%on there\nx", "julia", "# %%on there\nx"),
        ("%%on there\nx", "haskell", "\nx"),
        ("x\n%%on there", "python", "x\n%%on there"),
    ],
)
def test_blanking_keeps_every_other_line(code: str, language: str, blanked: str) -> None:
    assert blank_directive(code, language) == blanked
