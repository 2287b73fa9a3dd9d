"""`python -m bench move|roundtrip|start|suspend|spot|faraway|relay|sealed|links|objects`: one JSON object on stdout."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from sojourn.errors import Refused


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of indented JSON")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--json", action="store_true", default=argparse.SUPPRESS)
    commands = parser.add_subparsers(dest="command", required=True)
    move = commands.add_parser("move", parents=[shared], help="the silence a client hears during a live move")
    move.add_argument("--heap-gb", type=float, default=1.0)
    move.add_argument("--moves", type=int, default=10)
    move.add_argument("--strategy", choices=["lazy", "copy", "auto"], default="lazy")
    move.add_argument("--peers", action="store_true", help="podman's and runc's own way in the same run")
    roundtrip = commands.add_parser("roundtrip", parents=[shared], help="what an execute and iopub cost")
    roundtrip.add_argument("--rounds", type=int, default=200)
    roundtrip.add_argument("--sessions", type=int, default=20, help="kernels running while memory is read")
    start = commands.add_parser("start", parents=[shared], help="how soon a new kernel is ready")
    start.add_argument("--rounds", type=int, default=7)
    suspend = commands.add_parser("suspend", parents=[shared], help="how soon a session sleeps, and answers again")
    suspend.add_argument("--heap-gb", type=float, nargs="+", default=[0.1, 1.0, 4.0])
    suspend.add_argument("--times", type=int, default=3)
    suspend.add_argument("--peers", action="store_true", help="podman's and runc's own way in the same run")
    spot = commands.add_parser("spot", parents=[shared], help="how soon a node that is taken away has been left")
    spot.add_argument("--sessions", type=int, default=4)
    spot.add_argument("--heap-gb", type=float, default=1.0)
    spot.add_argument("--gbit", type=float, default=10.0, help="of the link between the nodes, per second")
    spot.add_argument("--notice", type=float, default=120.0, help="seconds between the notice and the end")
    faraway = commands.add_parser("faraway", parents=[shared], help="how soon a session answers that sleeps elsewhere")
    faraway.add_argument("--heap-gb", type=float, nargs="+", default=[0.1, 1.0])
    faraway.add_argument("--times", type=int, default=3)
    faraway.add_argument("--gbit", type=float, default=1.0, help="of the link to the store, per second")
    relay = commands.add_parser("relay", parents=[shared], help="how much the controller carries between two nodes")
    relay.add_argument("--rounds", type=int, default=7)
    relay.add_argument("--megabytes", type=int, default=500, help="in each round, each way")
    links = commands.add_parser("links", parents=[shared], help="what moves cost over links of known speed and length")
    links.add_argument("--heap-gb", type=float, default=1.0)
    links.add_argument("--times", type=int, default=2, help="there and back, over each link")
    sealed = commands.add_parser("sealed", parents=[shared], help="what TLS between machines costs")
    sealed.add_argument("--rounds", type=int, default=5)
    sealed.add_argument("--megabytes", type=int, default=1000, help="in each round, each way")
    objects = commands.add_parser("objects", parents=[shared], help="what survives as objects, and how quick that is")
    objects.add_argument("--only", nargs="+", default=[], metavar="WORDS", help="states whose names have any of these")
    objects.add_argument("--ways", nargs="+", default=[], metavar="WAY", help="all that are installed, if left out")
    objects.add_argument("--rounds", type=int, default=5, help="of which times are medians; 0: no times")
    objects.add_argument("--second-gb", type=float, default=2.0, help="of a namespace that moves twice; 0: none does")
    objects.add_argument("--rows", type=Path, metavar="FILE", help="what was found before, to which this is added")
    objects.add_argument("--table", type=Path, metavar="PAGE", help="write the survival table, as Markdown")
    options = parser.parse_args()
    try:
        result = _measure(options)
    except Refused as refused:
        parser.exit(1, f"bench: {refused}\n")
    print(json.dumps(result, indent=None if options.json else 2))


def _measure(options: argparse.Namespace) -> dict[str, object]:
    if options.command == "move":
        from bench import move

        return move.measure(options.heap_gb, options.moves, options.strategy, options.peers)
    if options.command == "roundtrip":
        from bench import roundtrip

        return roundtrip.measure(options.rounds, options.sessions)
    if options.command == "suspend":
        from bench import suspend

        return suspend.measure(options.heap_gb, options.times, options.peers)
    if options.command == "spot":
        from bench import spot

        return spot.measure(options.sessions, options.heap_gb, options.gbit, options.notice)
    if options.command == "faraway":
        from bench import faraway

        return faraway.measure(options.heap_gb, options.times, options.gbit)
    if options.command == "relay":
        from bench import relay

        return relay.measure(options.rounds, options.megabytes)
    if options.command == "links":
        from bench import apart

        return apart.measure(options.heap_gb, options.times)
    if options.command == "sealed":
        from bench import sealed

        return sealed.measure(options.rounds, options.megabytes)
    if options.command == "objects":
        from bench import objects

        return objects.measure(
            options.only, options.ways, options.rounds, options.second_gb, options.rows, options.table
        )
    from bench import start

    return start.measure(options.rounds)


if __name__ == "__main__":
    main()
