"""There and back: what the second move of a large namespace costs when little of it was touched in between.

`python -m bench.states.return_trip` with an `End` on stdin plays one of the two ends; both live until the way back is
done, as the two kernels of a session would. What they send lies in files; the link between them is reckoned.
"""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from json import dumps, load, loads
from pathlib import Path
from typing import Any

from bench.states.races import IN_MEMORY
from bench.states.stage import new_shell, run
from bench.states.state import State
from bench.states.trials import scene
from sojourn.errors import Refused

BLOCKS = 100
LINK_BYTES_PER_SECOND = 10e9 / 8
PATIENCE_SECONDS = 180.0
CELLS = """
import numpy as np
rng = np.random.default_rng(1)
layers = {{f"layer {{n}}": rng.random({words}) for n in range({half})}}
for n in range({half}):
    globals()[f"part_{{n}}"] = rng.random({words})
best = layers["layer 3"]
def total():
    return float(sum(layer.sum() for layer in layers.values()))
"""
TOUCH = 'layers["layer 3"] += 1'
CHECK = '(total(), best is layers["layer 3"], float(part_0[0]))'


@dataclass(frozen=True)
class End:
    """One end. `act`: "here", where the namespace is made and comes back to, or "there"."""

    act: str
    folder: str
    cells: str


def measure(gigabytes: float) -> dict[str, Any]:
    """`bytes_share`, `time_share`: of the second move, in the first one's, after 1 % of so many GiB was touched."""
    words = int(gigabytes * 2**30 / BLOCKS / 8)
    cells = CELLS.format(words=words, half=BLOCKS // 2)
    with scene(IN_MEMORY if IN_MEMORY.is_dir() else None) as place, ThreadPoolExecutor(2) as both:
        ends = [asdict(End(act, str(place.root), cells)) for act in ("here", "there")]
        list(both.map(lambda end: place.run("bench.states.return_trip", end, PATIENCE_SECONDS), ends))
        told: dict[str, Any] = {}
        for act in ("here", "there"):
            result = place.root / f"{act}.json"
            if not result.exists():
                raise Refused(
                    f"the end {act} of the return trip died: {(place.root / f'{act}.log').read_text()[-500:]}"
                )
            told |= loads(result.read_text())
    first_s = told["first_save_s"] + told["first_bytes"] / LINK_BYTES_PER_SECOND + told["first_restore_s"]
    second_s = told["second_save_s"] + told["second_bytes"] / LINK_BYTES_PER_SECOND + told["second_restore_s"]
    return {
        "gb": gigabytes,
        "bytes_share": round(told["second_bytes"] / told["first_bytes"], 4),
        "time_share": round(second_s / first_s, 4),
        "first_s": round(first_s, 3),
        "second_s": round(second_s, 3),
        "whole": told["came_back"] == told["left_there"],
    }


def main() -> None:
    end = End(**load(sys.stdin))
    shell, folder = new_shell(), Path(end.folder)
    told = _here(shell, folder, end.cells) if end.act == "here" else _there(shell, folder)
    (folder / f"{end.act}.json").write_text(dumps(told))
    os._exit(0)


def _here(shell: Any, folder: Path, cells: str) -> dict[str, Any]:
    from sojourn.objects import Seen

    run(shell, State("a namespace of many blocks", cells))
    first = _save(shell, folder / "first", since=Seen())
    restore_s, _ = _restore(shell, folder / "second", seen=first["seen"])
    came_back = eval(CHECK, shell.user_ns)
    return {
        "first_save_s": first["seconds"],
        "first_bytes": first["bytes"],
        "second_restore_s": restore_s,
        "came_back": came_back,
    }


def _there(shell: Any, folder: Path) -> dict[str, Any]:
    restore_s, seen = _restore(shell, folder / "first", seen=None)
    shell.run_cell(TOUCH, store_history=True).raise_error()
    left_there = eval(CHECK, shell.user_ns)
    second = _save(shell, folder / "second", since=seen)
    return {
        "first_restore_s": restore_s,
        "second_save_s": second["seconds"],
        "second_bytes": second["bytes"],
        "left_there": left_there,
    }


def _save(shell: Any, path: Path, since: Any) -> dict[str, Any]:
    from sojourn.objects import capture

    scratch = path.with_suffix(".part")
    began = time.perf_counter()
    captured = capture(shell.user_ns, since=since)
    with scratch.open("wb") as file:
        captured.write(file)
    seconds = time.perf_counter() - began
    size = scratch.stat().st_size
    scratch.rename(path)
    return {"seconds": seconds, "bytes": size, "seen": captured.seen}


def _restore(shell: Any, path: Path, seen: Any) -> tuple[float, Any]:
    """Seconds, and what both ends have then. Waits for the other end to have written."""
    from sojourn.objects import restore

    while not path.exists():
        time.sleep(0.02)
    began = time.perf_counter()
    with path.open("rb") as file:
        restored = restore(file, shell.user_ns, seen=seen)
    return time.perf_counter() - began, restored.seen


if __name__ == "__main__":
    main()
