"""A live move between hosts that are far apart: whole, and with fewer bytes on the wire than the memory has."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.acceptance.conftest import why_no_live_move

from sojourn.compare.hosts import HERE, THERE, hosts
from sojourn.compare.wire import Shape
from sojourn.testing import end_kernel, execute, session_of, start_kernel

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(120)]

MEGABYTES = 16
STATE = f"""
import hashlib, random
chance = random.Random(1)
lines = "\\n".join(str(chance.random()) for _ in range({MEGABYTES} << 20 >> 4)).encode()
counted = hashlib.sha256(lines).hexdigest()
"""
WHOLE = "hashlib.sha256(lines).hexdigest() == counted"


@pytest.mark.skipif(bool(why_no_live_move()), reason=why_no_live_move())
@pytest.mark.skipif(not shutil.which("tc") or not Path("/dev/net/tun").exists(), reason="needs iproute2 and tun")
def test_a_session_crosses_a_slow_and_long_link_packed() -> None:
    with hosts(Shape(gbit_s=0.1, round_trip_ms=40)) as (pair, client):
        kernel = start_kernel(needs=HERE)
        try:
            execute(kernel[1], STATE)
            before = pair.wire.crossed_bytes
            moved = client.move(session_of(kernel[0]), THERE, wait="filled").move
            crossed = pair.wire.crossed_bytes - before
            assert moved
            assert moved.report.page_bytes > MEGABYTES << 20
            assert moved.report.link_bytes < crossed < 0.75 * moved.report.page_bytes
            assert execute(kernel[1], WHOLE) == "True"
        finally:
            end_kernel(*kernel)
