"""`python -m sojourn.agent`: arguments, logging, signals."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from sojourn.agent import eviction
from sojourn.agent.agent import Agent, Settings
from sojourn.errors import Invalid, SojournError
from sojourn.settings import nodes_folder

TOKEN_VARIABLE = "SOJOURN_JOIN_TOKEN"

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run an agent until SIGTERM or SIGINT; sessions go on without it. Returns the exit status."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
    logging.getLogger("websockets").setLevel(logging.WARNING)
    try:
        settings = parse(sys.argv[1:] if argv is None else argv)
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            runner.run(serve(settings))
    except SojournError as refused:
        print(f"sojourn agent: {refused}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


async def serve(settings: Settings) -> None:
    """An agent's whole run, until a signal asks it to end."""
    agent = Agent(settings)
    try:
        running = asyncio.create_task(agent.run())
        _on_signals(running)
        with suppress(asyncio.CancelledError):
            await running
    finally:
        await agent.close()


def parse(argv: Sequence[str]) -> Settings:
    """Arguments, then environment; raises Invalid for an address or a file that means nothing."""
    given = _parser().parse_args(argv)
    # Popped, so that no sandbox and no child of ours inherits it.
    token = given.token or _file_token(given.token_file) or os.environ.pop(TOKEN_VARIABLE, "")
    host, port = _address(given.listen)
    for url in given.controller:
        if not url.startswith(("http://", "https://")):
            raise Invalid(f"{url!r} is not the address of a controller.", "Write it as https://HOST:PORT.")
    eviction.check(given.eviction)
    return Settings(
        controller=given.controller[0],
        elsewhere=tuple(given.controller[1:]),
        join_token=token,
        name=given.name,
        labels=tuple(given.label),
        host=host,
        port=port,
        folder=given.folder or nodes_folder() / given.name,
        sandbox=given.sandbox,
        eviction=given.eviction,
        metadata_url=given.metadata_url,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sojourn agent", description="Make this machine a node of a controller.")
    parser.add_argument(
        "--controller",
        required=True,
        action="append",
        metavar="URL",
        help="http(s)://host:port of the controller; may be repeated: where it may be if not there",
    )
    parser.add_argument(
        "--token", default="", help=f"join token; others on this machine can see it: prefer ${TOKEN_VARIABLE}"
    )
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="a file with the join token")
    parser.add_argument("--name", default=socket.gethostname(), help="the node's name (default: the host's)")
    parser.add_argument("--label", action="append", default=[], help="a word sessions can ask for; may be repeated")
    parser.add_argument(
        "--listen",
        default="127.0.0.1:0",
        metavar="HOST:PORT|none",
        help="where fronts and other agents reach this node, if not by the controller's relay alone (default: on this"
        " machine)",
    )
    parser.add_argument("--folder", type=Path, help="where this node keeps its journal and sandboxes")
    parser.add_argument("--sandbox", choices=("auto", "runc", "process"), default="auto", help="kinds it may make")
    parser.add_argument(
        "--eviction",
        default="none",
        metavar="aws|gcp|azure|file:PATH|signal|none",
        help="who says that this machine is about to be taken away",
    )
    parser.add_argument("--metadata-url", default="", metavar="URL", help="asked instead of the cloud's own address")
    return parser


def _address(text: str) -> tuple[str, int]:
    if text == "none":
        return "", 0
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise Invalid(f"{text!r} is not an address to listen at.", "Write it as 0.0.0.0:7002, or none.")
    return host.strip("[]"), int(port)


def _file_token(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        return path.read_text().strip()
    except OSError as wrong:
        raise Invalid(f"The join token can't be read from {path}: {wrong.strerror}.", "Name another file.") from wrong


def _on_signals(running: asyncio.Task[None]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        # Windows has no signal handlers in loops; there SIGINT is a KeyboardInterrupt.
        with suppress(NotImplementedError):
            loop.add_signal_handler(number, running.cancel)
