"""`python -m sojourn.controller`"""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import fields

from sojourn.controller.controller import DEAD_SECONDS
from sojourn.controller.serve import DEFAULT_LISTEN, Options, serve
from sojourn.errors import SojournError
from sojourn.lifecycle import Limits

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
        serve(Options(chosen.listen, chosen.database, limits, chosen.dead_after))
    except SojournError as refused:
        print(f"sojourn controller: {refused}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("sojourn controller", description="Run a controller.")
    parser.add_argument("--listen", default=DEFAULT_LISTEN, metavar="HOST:PORT", help="default: %(default)s")
    parser.add_argument("--database", default="", metavar="URL", help="a SQLAlchemy URL; default: SQLite in its folder")
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
