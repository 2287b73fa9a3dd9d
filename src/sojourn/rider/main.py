"""`python -I -S rider.pyz CONFIG`: the first process of a sandbox."""

# ruff: noqa: PTH105, PTH123
# (pathlib would cost every rider a megabyte)
from __future__ import annotations

import json
import os
import signal
import sys
from typing import TYPE_CHECKING

from sojourn.rider.rider import Rider

if TYPE_CHECKING:
    from typing import Any


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:
        config: dict[str, Any] = json.load(file)
    rider = Rider(config)
    forward_signals(rider)
    if config.get("announce"):
        announce(config["announce"], rider.address)
    if config.get("autostart"):
        rider.start_program()
    ride(rider)


def forward_signals(rider: Rider) -> None:
    """What the sandbox is told, its program is told. SIGTERM ends the rider too, once the program has ended."""

    def forward(signum: int, _frame: object) -> None:
        rider.loop.soon(lambda: rider.pass_signal(signum))

    for name in ("SIGTERM", "SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), forward)


def announce(path: str, address: str) -> None:
    draft = f"{path}.draft"
    with open(draft, "w", encoding="utf-8") as file:
        file.write(address)
    os.replace(draft, path)


def ride(rider: Rider) -> None:
    """Until told to end. A fault of ours must not end the session, whose first process this is: it is noted instead."""
    while not rider.done:
        try:
            rider.loop.run_once()
        except Exception:
            import traceback

            rider.capture.add(f"[rider] {traceback.format_exc()}".encode())


if __name__ == "__main__":
    main()
