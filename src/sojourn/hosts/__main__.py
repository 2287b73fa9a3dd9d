"""`python -m sojourn.hosts`: `sojourn agent install` and `uninstall`, and what `sojourn add` calls on the host."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from sojourn.errors import SojournError
from sojourn.hosts import service

USAGE = """\
usage: sojourn agent install --controller URL --token-file FILE [OPTIONS OF `sojourn agent`]
       sojourn agent uninstall NAME

install    have an agent with these options run from now on: by systemd where it is, else by a process in the
           background; done again, the new options count
uninstall  end it, and remove what it kept; refused while it holds sessions
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    verb, *rest = (sys.argv[1:] if argv is None else list(argv)) or ["--help"]
    try:
        if verb == "install" and rest:
            from sojourn.agent.main import parse  # the other verbs need not wait for all of the agent

            print(service.install(parse(rest)))
        elif verb == "uninstall" and len(rest) == 1:
            service.uninstall(rest[0])
        elif verb == "installed" and not rest:
            print("\n".join(service.installed()))
        elif verb == "log" and len(rest) == 1:
            print(service.log(rest[0]))
        elif verb == "supervise" and len(rest) == 1:
            service.supervise(rest[0])
        else:
            print(USAGE, end="")
            return 0 if "--help" in (verb, *rest) else 2
    except SojournError as refused:
        print(f"sojourn agent {verb}: {refused}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
