"""How a link is written, and what crossing it takes."""

from __future__ import annotations

import pytest

from sojourn.compare.wire import Shape, parse_shape
from sojourn.errors import Invalid


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("1gbit", Shape(1.0, 0.0)),
        ("100mbit,20ms", Shape(0.1, 20.0)),
        ("2.5Gbit, 0.5s", Shape(2.5, 500.0)),
        ("500kbit,0ms", Shape(0.0005, 0.0)),
    ],
)
def test_a_link_is_a_speed_and_a_round_trip(text: str, shape: Shape) -> None:
    found = parse_shape(text)
    assert found.gbit_s == pytest.approx(shape.gbit_s)
    assert found.round_trip_ms == pytest.approx(shape.round_trip_ms)


@pytest.mark.parametrize("text", ["", "fast", "20ms", "1gbit,20", "1gbit,20ms,3", "0gbit", "1gbit,-5ms", "1 gb/s"])
def test_anything_else_is_no_link(text: str) -> None:
    with pytest.raises(Invalid, match="is no link"):
        parse_shape(text)


def test_a_request_takes_a_round_trip_and_its_bytes() -> None:
    assert Shape(0.1, 40).seconds(12_500_000) == pytest.approx(1.04)
