"""`python -m sojourn.controller`"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from dataclasses import fields

from sojourn.controller.controller import DEAD_SECONDS
from sojourn.controller.serve import DEFAULT_LISTEN, Options, serve, take_over
from sojourn.errors import SojournError
from sojourn.lifecycle import Limits
from sojourn.settings import file_settings

DATABASE_VARIABLE = "SOJOURN_DATABASE"
_LIMITS = {field.name: field.default for field in fields(Limits)}


def main(arguments: list[str] | None = None) -> int:
    chosen = _parser().parse_args(arguments)
    logging.basicConfig(
        level=chosen.log_level.upper(), format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", stream=sys.stderr
    )
    for chatty in ("uvicorn", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    limits = Limits(**dict(chosen.limit))
    try:
        options = Options(
            chosen.listen,
            chosen.database or database_url(),
            limits,
            chosen.dead_after,
            chosen.plain,
            tuple(chosen.name),
        )
        if chosen.copy_from:
            print(f"Copied {take_over(options, chosen.copy_from)} rows; start the controller without --copy-from now.")
        else:
            serve(options)
    except SojournError as refused:
        print(f"sojourn controller: {refused}", file=sys.stderr)
        return 1
    return 0


def database_url() -> str:
    """As the environment says, else `url` of `[database]` in config.toml; empty: neither does."""
    return os.environ.get(DATABASE_VARIABLE) or str(file_settings().get("database", {}).get("url", ""))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("sojourn controller", description="Run a controller.")
    parser.add_argument("--listen", default=DEFAULT_LISTEN, metavar="HOST:PORT", help="default: %(default)s")
    parser.add_argument(
        "--plain", action="store_true", help="speak no TLS with other machines: a proxy in front does, or nobody need"
    )
    parser.add_argument(
        "--name",
        action="append",
        default=[],
        metavar="HOST",
        help="what else it is called, for browsers and other programs that look at its certificate; may be repeated",
    )
    parser.add_argument(
        "--database",
        default="",
        metavar="URL",
        help="postgresql://USER@HOST/NAME, or sqlite:////PATH, which is the default, in the data folder; with a"
        f" password in it others on this machine can see it: prefer ${DATABASE_VARIABLE}",
    )
    parser.add_argument(
        "--copy-from", default="", metavar="URL", help="copy that database into this one, which is empty, and end"
    )
    parser.add_argument(
        "--dead-after", type=float, default=DEAD_SECONDS, metavar="SECONDS", help="when a node away counts as dead"
    )
    parser.add_argument(
        "--limit",
        type=_limit,
        action="append",
        default=[],
        metavar="NAME=SECONDS",
        help=f"how long to wait: {', '.join(f'{name} ({value:g})' for name, value in _LIMITS.items())}",
    )
    parser.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    return parser


def _limit(text: str) -> tuple[str, float]:
    name, _, seconds = text.partition("=")
    if name not in _LIMITS:
        raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(_LIMITS)}")
    return name, float(seconds)


if __name__ == "__main__":
    sys.exit(main())
