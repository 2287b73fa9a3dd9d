from __future__ import annotations

import pytest

from sojourn.errors import Busy, Invalid, SojournError, Unauthorized, Unknown, Unreachable
from sojourn.transport.routes import DETOUR_SECONDS, Routes, is_loopback, may_be_elsewhere, relay_of

RELAY = "controller:8571"


def addresses(routes: Routes, now: float = 0.0) -> list[str]:
    return [route.address for route in routes.ahead(now)]


@pytest.mark.parametrize(
    ("address", "relay", "ahead"),
    [
        ("10.0.0.1:7", RELAY, ["10.0.0.1:7", RELAY]),
        ("10.0.0.1:7", "", ["10.0.0.1:7"]),
        ("", RELAY, [RELAY]),
        ("", "", []),
        ("127.0.0.1:7", "127.0.0.1:8571", ["127.0.0.1:7", "127.0.0.1:8571"]),
        ("127.0.0.1:7", RELAY, [RELAY]),  # another machine's own loopback
        ("127.0.0.1:7", "", ["127.0.0.1:7"]),
    ],
)
def test_directly_if_there_is_a_way_and_then_by_the_relay(address: str, relay: str, ahead: list[str]) -> None:
    assert addresses(Routes("n", address, relay)) == ahead


def test_the_relay_that_led_there_comes_first_for_a_while() -> None:
    routes = Routes("n", "10.0.0.1:7", RELAY)
    direct, relayed = routes.ahead(100.0)
    routes.led_there(relayed, 100.0)
    assert routes.ahead(101.0) == [relayed, direct]
    assert routes.ahead(100.0 + DETOUR_SECONDS) == [direct, relayed]
    routes.led_there(direct, 101.0)
    assert routes.ahead(101.0) == [direct, relayed]


def test_what_leaves_this_machine_is_sealed_if_anybody_vouches_for_the_node() -> None:
    direct, relayed = Routes("n", "10.0.0.1:7", RELAY, "PEM").ahead(0.0)
    assert [(way.node, way.authority) for way in (direct, relayed)] == [("n", "PEM")] * 2
    here, by_relay = Routes("n", "127.0.0.1:7", "127.0.0.1:8", "PEM").ahead(0.0)
    assert (here.authority, by_relay.authority) == ("", "PEM")  # who knows where the relay leads to
    assert not any(way.authority for way in Routes("n", "10.0.0.1:7", RELAY).ahead(0.0))


def test_an_address_is_waited_for_a_shorter_time_where_there_is_another_way() -> None:
    direct, relayed = Routes("n", "10.0.0.1:7", RELAY).ahead(0.0)
    (only,) = Routes("n", "10.0.0.1:7", "").ahead(0.0)
    assert direct.patience_seconds < only.patience_seconds == relayed.patience_seconds


@pytest.mark.parametrize(
    ("error", "elsewhere"),
    [
        (Unreachable("refused"), True),
        (Invalid("not JSON"), True),
        (Unauthorized("not signed for this node"), True),
        (Busy("it has left"), False),
        (Unknown("no such session here"), False),
    ],
)
def test_what_the_agent_itself_refuses_is_not_asked_again_by_the_relay(error: SojournError, elsewhere: bool) -> None:
    assert may_be_elsewhere(error) is elsewhere


def test_the_relay_is_where_the_controller_is() -> None:
    assert relay_of("http://controller:8571/") == "controller:8571"
    assert relay_of("wss://controller/api/agent") == "controller:443"
    assert relay_of("http://[::1]") == "[::1]:80"
    assert relay_of("") == ""


def test_which_addresses_only_this_machine_reaches() -> None:
    assert all(map(is_loopback, ("127.0.0.1:1", "localhost:1", "[::1]:1")))
    assert not any(map(is_loopback, ("10.0.0.1:1", "node.example:1", "[2001:db8::1]:1", "")))
