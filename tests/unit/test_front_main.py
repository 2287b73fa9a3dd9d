"""The front as a program."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sojourn.front import __main__ as program

LIMITS = """
import resource
from sojourn.front.__main__ import allow_many_kernels
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (256, most))
allow_many_kernels()
print(resource.getrlimit(resource.RLIMIT_NOFILE) == (most, most))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such limit")
def test_it_may_open_as_many_files_as_the_system_lets_it() -> None:
    assert subprocess.run([sys.executable, "-c", LIMITS], capture_output=True, text=True).stdout == "True\n"


async def test_a_stumble_does_not_end_the_looking_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "LOOK_SECONDS", 0.001)
    (tmp_path / "front.json").touch()
    looks = iter([ZeroDivisionError(), True, False])

    class Front:
        async def look_after(self) -> bool:
            look = next(looks)
            if isinstance(look, Exception):
                raise look
            return look

    front, server = Front(), SimpleNamespace(should_exit=False)
    looking: Any = program._look_after(front, server, tmp_path / "front.json")  # type: ignore[arg-type]
    await asyncio.wait_for(looking, 5)
    assert next(looks, "looked three times") == "looked three times"
