"""What a visit adds to its cell: one that changes 1 MB of a large namespace, in another interpreter beside this one.

`python -m bench.states.visiting here`, with how many gigabytes and visits as JSON on stdin, plays the end where the
namespace lives, and starts the other; what they send goes through pipes. Its answer is one line of JSON.
"""

from __future__ import annotations

import io
import subprocess
import sys
import time
from json import dumps, load, loads
from statistics import median
from typing import IO, Any

from bench.states.stage import new_shell, run
from bench.states.state import State
from sojourn.errors import Refused

BLOCKS = 100
CELLS = """
import numpy as np
rng = np.random.default_rng(1)
layers = {{f"layer {{n}}": rng.random({words}) for n in range({half})}}
for n in range({half}):
    globals()[f"part_{{n}}"] = rng.random({words})
sample = rng.random(125_000)
alias = sample[:10]
def step():
    sample[:] += 1
    return float(sample[0])
"""
CELL = "reached = step()"
PATIENCE_SECONDS = 180.0


def measure(gigabytes: float, visits: int = 15) -> float:
    """Milliseconds on top of the cell, at the median of so many visits after the first. Raises Refused if what came
    back is not what the cell did."""
    asked = dumps({"gigabytes": gigabytes, "visits": visits})
    ended = subprocess.run(
        [sys.executable, "-m", __spec__.name, "here"],
        input=asked,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    if ended.returncode:
        raise Refused(f"the end of a visit died: {ended.stderr[-500:]}")
    return float(loads(ended.stdout.splitlines()[-1]))


def _here(gigabytes: float, visits: int) -> float:
    from sojourn.objects.visit import Home

    shell = new_shell()
    words = int(gigabytes * 2**30 / BLOCKS / 8)
    run(shell, State("a namespace of many blocks", CELLS.format(words=words, half=BLOCKS // 2)))
    space, home = shell.user_ns, Home(shell.user_ns)
    first = float(space["sample"][0])
    companion = [sys.executable, "-m", __spec__.name, "there"]
    with subprocess.Popen(companion, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as there:
        assert there.stdin
        assert there.stdout
        extra = [_visit(home, there.stdin, there.stdout) for _ in range(visits + 1)][1:]
        there.stdin.close()
    if not space["alias"][0] == space["reached"] == first + visits + 1:
        raise Refused("what came back is not what the cell did")
    return median(extra) * 1000


def _visit(home: Any, outward: IO[bytes], homeward: IO[bytes]) -> float:
    """Seconds, without those that the cell took."""
    began = time.perf_counter()
    home.pack(CELL).write(outward)
    outward.flush()
    home.merge(homeward)
    seconds = time.perf_counter() - began
    return seconds - float(homeward.readline())


def _there() -> None:
    from sojourn.objects.companion import Away

    shell = new_shell()
    away = Away(shell.user_ns)
    asked = io.BufferedReader(io.FileIO(0, closefd=False))
    while asked.peek(1):
        away.take(asked)
        began = time.perf_counter()
        shell.run_cell(CELL, store_history=True).raise_error()
        cell_seconds = time.perf_counter() - began
        away.pack_back().write(sys.stdout.buffer)
        sys.stdout.buffer.write(f"{cell_seconds}\n".encode())
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    if sys.argv[1] == "here":
        print(dumps(_here(**load(sys.stdin))))
    else:
        _there()
