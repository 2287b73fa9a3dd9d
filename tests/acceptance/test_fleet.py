"""A kernel that is started for the whole fleet, on a node that can do more than another one says it can."""

from __future__ import annotations

import asyncio
import json
import os
import re
from typing import Any

import pytest
from tests.acceptance.conftest import why_no_live_move
from tests.integration.fake_agent import FakeAgent

import sojourn
from sojourn.model import Capabilities
from sojourn.testing import end_kernel, execute, session_of, stack, start_kernel

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(120)]

LESS = re.compile(r"avx2|avx512.*|avx_.*|amx.*|fma|f16c|bmi.|movbe|abm|gfni|vaes|vpclmulqdq|sha_ni|xsavec")
"""What the lesser node lacks: it is a Sandy Bridge."""
ASK = """
import ctypes, json, os, pathlib, numpy
from numpy._core._multiarray_umath import __cpu_dispatch__ as known, __cpu_features__ as has
libraries = [*pathlib.Path(numpy.__file__).parent.with_name("numpy.libs").glob("*openblas*")]
core = ctypes.CDLL(str(libraries[0])).scipy_openblas_get_corename64_
core.restype = ctypes.c_char_p
rider = dict(one.split("=", 1) for one in open("/proc/1/environ").read().split(chr(0)) if one)
print(json.dumps({
    "core": core().decode(),
    "wide": [name for name in known if has[name]],
    "rider": rider.get("GLIBC_TUNABLES", ""),
    "program": os.environ["GLIBC_TUNABLES"],
    "told": os.environ.get("TOLD_LATER"),
}))
"""


def joins_and_leaves(client: sojourn.Client, name: str, facts: Capabilities) -> None:
    """A node that the controller has seen and knows; it is switched off now."""
    token = client.create_token("join", name)["token"]
    agent = FakeAgent(client.url, token, name, **facts.model_dump())

    async def visit() -> None:
        await agent.dial()
        await agent.hang_up()

    asyncio.run(visit())


def asked(client: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(execute(client, ASK))
    return found


def test_a_kernel_of_the_fleet_uses_no_more_than_the_least_node_has() -> None:
    if reason := why_no_live_move():
        pytest.skip(reason)
    with stack() as sojourner:
        facts = sojourner.nodes()[0].capabilities
        if "avx2" not in facts.cpu_flags:
            pytest.skip("this CPU has nothing to do without")
        flags = tuple(flag for flag in facts.cpu_flags if not LESS.fullmatch(flag))
        joins_and_leaves(sojourner, "old", facts.model_copy(update={"cpu_flags": flags, "xsave_bytes": 832}))
        manager, client = start_kernel(cpu="fleet")
        try:
            found = asked(client)
            assert (found["core"], found["wide"]) == ("Sandybridge", [])
            assert found["rider"] == found["program"], "the rider goes where its session goes"
            assert "-AVX2," in found["rider"]
            sojourner.move(session_of(manager), "there", wait="filled")
            manager.restart_kernel(now=True, env={**os.environ, "TOLD_LATER": "another environment"})
            client.wait_for_ready(timeout=60)
            assert asked(client) == {**found, "told": "another environment"}
        finally:
            end_kernel(manager, client)
