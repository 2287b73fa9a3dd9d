"""The embedded controller: started on first use, once per user, with one or two nodes on this machine.

Nobody has to run anything: the provisioner, the launcher and the commands call `ensure()`. The parts are processes
of their own, so they outlive whoever started them and keep the sessions. A part found dead is started again on the
same folder, which is how it takes its sessions back.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import psutil

from sojourn.client import Client
from sojourn.errors import Refused, SojournError, Unreachable
from sojourn.front.client import SECRETS, FrontClient, detached, front_folder
from sojourn.front.words import Card
from sojourn.hosts import book
from sojourn.lifecycle import ENDED
from sojourn.model import NodeStatus, NodeView, SessionStatus
from sojourn.settings import Controller, cap_log, configured_controller, data_folder, nodes_folder, write_private

START_SECONDS = 30.0
"""How long the controller may take to answer, and then its nodes to come online."""
STOP_SECONDS = 10.0
TETHERS = "tethers"
"""The part that keeps up the lines to the hosts that were added."""

Found = TypeVar("Found")
Say = Callable[[str], None]


def ensure(say: Say | None = None) -> Controller:
    """The controller to use: the configured one, else the embedded one, started if it does not run.

    `say` is told once, at the very first start, what this machine lacks and what works nevertheless; the default is
    stderr. Raises Unreachable when a part does not start, quoting its log.
    """
    return configured_controller() or start(say=say)


def start(nodes: Sequence[str] | None = None, say: Say | None = None, *, sandbox: str | None = None) -> Controller:
    """Start what does not run of the embedded controller and its nodes; done twice it is done once.

    `nodes` are the names of the nodes wanted on this machine: by default those of the last start, and at the first
    one `here` and `there` where sandboxes can be moved, else `here` alone. `sandbox` ("runc", "process", "auto") is
    what the nodes may make; by default as at the last start, and at the first one "auto".
    """
    with _only_one():
        return _start(nodes, say, sandbox)


def mend() -> None:
    """Start again what has died since the last start; what was stopped stays so. Cheap when all lives. Raises
    Unreachable like `start`."""
    with _only_one():
        if not all(map(_lives, _memory()["parts"].values())):
            _start(None, None, None)


def tie() -> None:
    """Have the lines to the hosts that were added kept up, if there are any. Done twice it is done once."""
    with _only_one():
        _tie(_memory())


def _start(nodes: Sequence[str] | None, say: Say | None, sandbox: str | None) -> Controller:
    memory = _memory()
    names = tuple(nodes or memory.get("nodes") or default_nodes())
    memory["sandbox"] = sandbox or memory.get("sandbox", "auto")
    for part in ("controller", TETHERS, *names):
        cap_log(_log(part))
    controller = _controller(memory)
    _tie(memory)
    started = [name for name in names if _node(memory, name, controller)]
    if started:
        views = _wait_for_nodes(controller, memory, names)
        if not memory.get("told"):
            (say or _complain)(greeting(views))
        _remember(memory | {"nodes": list(names), "told": True})
    return controller


def running() -> Controller | None:
    """The embedded controller, if it runs and answers."""
    card = _card()
    if not card:
        return None
    controller = Controller(card["url"], card["token"])
    try:
        with _client(controller) as client:
            client.version()
    except Unreachable:
        return None
    return controller


def stop(*, keep_sessions: bool = False) -> None:
    """Stop the embedded controller and its nodes, and every session first, unless they are to be found again by the
    next start. Right in any state."""
    with _only_one():
        memory = _memory()
        controller = running()
        if controller and not keep_sessions:
            _stop_sessions(controller)
            _end_front(controller)
        parts = memory.get("parts", {})
        # The controller last: it hears the agents' goodbyes.
        for name in sorted(parts, key=lambda name: name == "controller"):
            _end(parts[name])
        _remember(memory | {"parts": {}})


def default_nodes() -> tuple[str, ...]:
    """Two nodes where a session can move between them, which takes root and runc; else one."""
    movable = hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("runc")
    return ("here", "there") if movable else ("here",)


def greeting(nodes: Sequence[NodeView]) -> str:
    """What the user is told at the very first start."""
    capabilities = nodes[0].capabilities
    where = f"the node{'s' if len(nodes) > 1 else ''} {' and '.join(node.name for node in nodes)}"
    lacking: dict[str, list[str]] = {}
    for thing, why in capabilities.refusals.items():
        lacking.setdefault(why, []).append(thing)
    reasons = "".join(f"\n  {', '.join(things)}: {why}" for why, things in lacking.items())
    if capabilities.strategies:
        but = f" Not possible:{reasons}" if reasons else ""
        return f"Sojourn runs on this machine with {where}; sessions can move between them.{but}"
    return (
        f"Sojourn runs on this machine with {where}. Kernels run here and outlive a crash of Jupyter, but "
        f"can't move while they run, because something is missing:{reasons or ' root, runc or CRIU'}\n"
        "  `sojourn doctor` shows what, and the commands that cure it."
    )


# ── the parts ────────────────────────────────────────────────────────────────────────────────────────────────


def command_of(module: str) -> list[str]:
    return [sys.executable, "-m", module]


def _controller(memory: dict[str, Any]) -> Controller:
    if controller := running():
        return controller
    _end(memory["parts"].get("controller"))
    argv = [*command_of("sojourn.controller"), "--listen", _address()]
    _spawn(memory, "controller", argv)
    return _wait(running, memory, "controller")


def _node(memory: dict[str, Any], name: str, controller: Controller) -> bool:
    """Have a node run an agent of this controller; whether one had to be started."""
    part = memory["parts"].get(name)
    if part and part.get("of") == controller.url and _lives(part):
        return False
    _end(part)
    folder = nodes_folder() / name
    argv = [*command_of("sojourn.agent"), "--controller", controller.url, "--name", name]
    argv += ["--folder", str(folder), "--listen", "127.0.0.1:0", "--sandbox", memory["sandbox"]]
    _spawn(memory, name, argv, controller.url, {"SOJOURN_JOIN_TOKEN": _card()["join_token"]})
    return True


def _tie(memory: dict[str, Any]) -> None:
    if book.hosts() and not _lives(memory["parts"].get(TETHERS)):
        _spawn(memory, TETHERS, command_of("sojourn.hosts.tether"))
    elif not book.hosts():
        _end(memory["parts"].pop(TETHERS, None))
        _remember(memory)


def _address() -> str:
    """Where to listen: where the last controller did, because agents and fronts look for it there."""
    known = str(urlsplit(_card().get("url", "")).netloc)
    if known.startswith("127.0.0.1:"):
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind(("127.0.0.1", int(known.rpartition(":")[2])))
            except OSError:
                return "127.0.0.1:0"
        return known
    return "127.0.0.1:0"


def _spawn(
    memory: dict[str, Any], name: str, argv: list[str], of: str = "", secrets: dict[str, str] | None = None
) -> None:
    """Start a part as a process of its own session, and remember it at once."""
    environment = {key: value for key, value in os.environ.items() if key not in SECRETS} | (secrets or {})
    with _log(name).open("ab") as log:
        quote_from = log.tell()
        process = subprocess.Popen(
            argv, env=environment, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log, **detached()
        )
    created = psutil.Process(process.pid).create_time()
    memory["parts"][name] = {"pid": process.pid, "created": created, "of": of, "log": quote_from}
    _remember(memory)


def _process(part: dict[str, Any] | None) -> psutil.Process | None:
    """The living process of a part; a PID used again by another program does not count."""
    try:
        process = psutil.Process(part["pid"]) if part else None
        alive = process and process.status() != psutil.STATUS_ZOMBIE and process.create_time() == part["created"]  # type: ignore[index]
    except psutil.Error:
        return None
    return process if alive else None


def _lives(part: dict[str, Any] | None) -> bool:
    return _process(part) is not None


def _end(part: dict[str, Any] | None) -> None:
    if process := _process(part):
        process.terminate()
        if not _has_ended(part):
            process.kill()
            _has_ended(part)
        with suppress(psutil.Error):
            process.wait(0)  # if it is a child of ours; else it is another's to reap, who may take his time


def _has_ended(part: dict[str, Any] | None) -> bool:
    """Wait for it, as long as may be."""
    deadline = time.monotonic() + STOP_SECONDS
    while alive := _lives(part):
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
    return not alive


# ── waiting ──────────────────────────────────────────────────────────────────────────────────────────────────


def _wait(look: Callable[[], Found | None], memory: dict[str, Any], name: str) -> Found:
    """What `look` finds, while the part lives and time is left."""
    deadline = time.monotonic() + START_SECONDS
    part = memory["parts"][name]
    while (found := look()) is None:
        late = time.monotonic() > deadline
        if late or not _lives(part):
            said = _log(name).read_bytes()[part["log"] :].decode(errors="replace").splitlines()
            what = f"is not ready after {START_SECONDS:g} s" if late else "ended at once"
            raise Unreachable("\n".join([f"The embedded {name} {what}.", *said[-12:]]), f"Its log: {_log(name)}.")
        time.sleep(0.05)
    return found


def _wait_for_nodes(controller: Controller, memory: dict[str, Any], names: Sequence[str]) -> list[NodeView]:
    """The views of the nodes, all of them online."""

    def online(client: Client, name: str) -> NodeView | None:
        found = (node for node in client.nodes() if node.name == name and node.status is NodeStatus.ONLINE)
        return next(found, None)

    with _client(controller) as client:
        return [_wait(partial(online, client, name), memory, name) for name in names]


def _stop_sessions(controller: Controller) -> None:
    """Stop every session and wait for it: a node's sandboxes outlive its agent."""
    deadline = time.monotonic() + START_SECONDS
    with _client(controller) as client:
        while (sessions := client.sessions()) and time.monotonic() < deadline:
            for session in sessions:
                if session.status is not SessionStatus.STOPPING:
                    _stop_session(client, session.id)
            time.sleep(0.1)


def _end_front(controller: Controller) -> None:
    """End the front, if all that it hosts has ended; it may host kernels of other controllers too."""
    try:
        card = Card.model_validate_json((front_folder() / "front.json").read_bytes())
        front = FrontClient(card, controller)
        for kernel in front.kernels():
            if kernel.status in ENDED or not kernel.running:
                front.close(kernel.session)
        if not front.kernels():
            _end({"pid": card.pid, "created": psutil.Process(card.pid).create_time()})
    except (OSError, ValueError, SojournError, psutil.Error):
        return  # there is none, or it ends by itself


def _stop_session(client: Client, session: str) -> None:
    with suppress(Refused):  # gone meanwhile, or not to be stopped in this very moment
        client.stop(session)


def _client(controller: Controller) -> Client:
    return Client(controller.url, controller.token, timeout_s=30)


# ── what is remembered ───────────────────────────────────────────────────────────────────────────────────────


def folder() -> Path:
    return data_folder() / "embedded"


def _log(name: str) -> Path:
    return folder() / f"{name}.log"


def _memory() -> dict[str, Any]:
    """`nodes` (names), `sandbox`, `told`, and `parts`: name -> pid, its creation time, the controller it is of, where
    in its log it begins."""
    return {"parts": {}} | _read(folder() / "embedded.json")


def _remember(memory: dict[str, Any]) -> None:
    write_private(folder() / "embedded.json", memory)


def _card() -> dict[str, Any]:
    """What the controller says of itself: `url`, `token`, `join_token`, `pid`."""
    return _read(data_folder() / "controller" / "controller.json")


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return found


@contextmanager
def _only_one() -> Iterator[None]:
    """Hold this user's lock: whoever comes second waits, and finds everything started.

    Released in so many words, for a client that forks meanwhile has the open file in its child too.
    """
    folder().mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder() / "lock").open("a+") as file:
        file.seek(0)
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
            release = partial(msvcrt.locking, file.fileno(), msvcrt.LK_UNLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
            release = partial(fcntl.flock, file, fcntl.LOCK_UN)
        try:
            yield
        finally:
            release()


def _complain(text: str) -> None:
    print(text, file=sys.stderr)
