"""A person's Jupyter: starts a kernel on a node, runs a cell that prints, and writes down what is seen of it.

    python laptop.py NODE CODE REPORT

Each line that CODE prints begins with its number, from 1 on. REPORT is written anew every second while the cell runs:
how many lines were seen, what is wrong with them, what else was said, and at the end how the cell ended.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sojourn.testing import end_kernel, session_of, start_kernel


@dataclass
class Report:
    session: str
    lines: int = 0
    out_of_order: list[tuple[int, int]] = field(default_factory=list)
    """(line before, line): not one after the other."""
    longest_silence_s: float = 0.0
    said: list[tuple[int, str]] = field(default_factory=list)
    """(line before, what was said on stderr)."""
    ended: str = ""
    """How the cell ended: ok, or the error."""


class Reader:
    """Of a cell's output."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self._last, self._rest, self._heard_at = 0, "", time.monotonic()

    def hear(self, message: dict[str, Any]) -> None:
        now = time.monotonic()
        self.report.longest_silence_s = max(self.report.longest_silence_s, now - self._heard_at)
        self._heard_at = now
        if message["msg_type"] == "stream" and message["content"]["name"] == "stdout":
            *lines, self._rest = (self._rest + message["content"]["text"]).split("\n")
            for line in lines:
                self._read(line)
        elif message["msg_type"] == "stream":
            self.report.said.append((self._last, message["content"]["text"]))
            self._rest = ""

    def _read(self, line: str) -> None:
        number = int(line.split(maxsplit=1)[0])
        if number != self._last + 1:
            self.report.out_of_order.append((self._last, number))
        self._last = number
        self.report.lines += 1


def main() -> None:
    node, code, path = sys.argv[1:]
    os.chdir(Path(path).parent)
    manager, kernel = start_kernel(needs=node)
    try:
        report = Report(session_of(manager))
        reader, written_at = Reader(report), 0.0

        def hear(message: dict[str, Any]) -> None:
            nonlocal written_at
            reader.hear(message)
            if time.monotonic() > written_at + 1:
                write(report, path)
                written_at = time.monotonic()

        reply = kernel.execute_interactive(code, timeout=None, output_hook=hear)
        report.ended = reply["content"].get("evalue", reply["content"]["status"])
        write(report, path)
    finally:
        end_kernel(manager, kernel)


def write(report: Report, path: str) -> None:
    draft = Path(path).with_suffix(".new")
    draft.write_text(json.dumps(asdict(report)))
    draft.rename(path)


if __name__ == "__main__":
    main()
