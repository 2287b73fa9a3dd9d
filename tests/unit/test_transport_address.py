from __future__ import annotations

from pathlib import Path

import pytest

from sojourn.errors import Invalid
from sojourn.transport import address


@pytest.mark.parametrize(
    ("text", "parts"),
    [("127.0.0.1:80", ("127.0.0.1", 80)), ("[::1]:8", ("::1", 8)), ("node-3:65535", ("node-3", 65535))],
)
def test_an_address_has_a_host_and_a_port(text: str, parts: tuple[str, int]) -> None:
    assert address.parse_tcp(text) == parts


@pytest.mark.parametrize("text", ["", "here", "here:", "here:x", "here:70000"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        address.parse_tcp(text)


def test_a_socket_left_over_is_replaced(tmp_path: Path) -> None:
    where = str(tmp_path / "socket")
    for _ in range(2):
        with address.listen(where) as listener:
            assert address.address_of(listener) == where
            address.connecting(where).close()


def test_a_path_may_be_too_long_for_a_socket() -> None:
    assert address.is_possible("/tmp/x")
    assert address.is_possible("127.0.0.1:0")
    assert not address.is_possible("/tmp/" + "x" * 100)
