"""The magic `%sojourn`, and an IPython kernel that has it without having Sojourn installed.

This one file is put into every sandbox that runs an IPython kernel and started in the place of
`python -m ipykernel_launcher`; so it imports nothing but the standard library and IPython, and keeps to what
Python 3.8 understands. Where Sojourn is installed, `%load_ext sojourn` loads the same magic.

It asks through the rider's socket (`SOJOURN_SOCKET`): no token is in the kernel, and a session can act on itself only.
"""

from __future__ import annotations

import argparse
import asyncio
import html
import importlib.abc
import importlib.util
import inspect
import io
import json
import os
import shlex
import socket
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from IPython import get_ipython
from IPython.core.error import UsageError

PORTER = "sojourn-porter"
"""The name of its threads."""
RECOMPUTABLE = "_sojourn_recomputable"
"""In the namespace of cells: names that may stay behind. It travels itself, and `%who` does not tell of it."""


class Table:
    """What a verb answers: a title and rows, as text for a terminal and as HTML for a notebook."""

    def __init__(self, title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        self.title = title
        self.head = tuple(head)
        self.rows = [tuple(row) for row in rows]

    def __repr__(self) -> str:
        lines = [self.head, *self.rows] if self.rows else []
        widths = [max(len(cell) for cell in column) for column in zip(*lines)]  # noqa: B905
        text = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip()  # noqa: B905
            for line in lines
        ]
        return "\n".join([self.title, *text] if self.title else text)

    def _repr_html_(self) -> str:
        def row(cells: Sequence[str], tag: str) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

        title = f"<div>{html.escape(self.title)}</div>" if self.title else ""
        body = "".join(row(cells, "td") for cells in self.rows)
        return f"{title}<table><thead>{row(self.head, 'th')}</thead><tbody>{body}</tbody></table>" if body else title


# ── verbs ────────────────────────────────────────────────────────────────────────────────────────────────────


def sojourn(line: str) -> Table:
    """Where this kernel runs, moving it, and letting it sleep, go back or branch.

    %sojourn nodes                     the nodes, and what they have
    %sojourn where                     where this kernel is, and whether it has a network
    %sojourn move PLACE                move it: a node (there), a label (gpu) or needs (mem>=64G cores>=8)
        --strategy auto|lazy|copy      how its memory travels; auto by default
        --with auto|criu|objects       what carries it: the very processes, or a new kernel with its names
        --drop NAME                    of objects: a name that may stay behind; --drop-all: any that can't travel
        --dry-run                      say what would happen, and do nothing
    %sojourn suspend                   let it sleep as soon as this cell has ended; the next cell wakes it
    %sojourn checkpoint [NAME]         save its state; it goes on
    %sojourn checkpoints               what it can be taken back to
    %sojourn restore CHECKPOINT        take it back there: a name or an id; this cell then never ends
    %sojourn fork [NAME]               begin another session in this state
        --count K                      or several
        --node PLACE                   there
    %sojourn recomputable [NAME…]      names that may stay behind, for a cell makes them again; none: list them
        --forget NAME                  it is to travel after all
    """
    chosen = parse(line)
    return _VERBS[chosen.verb](chosen)


def _move(chosen: argparse.Namespace) -> Table:
    place = " ".join(chosen.place)
    how = {"strategy": chosen.strategy, "dry_run": chosen.dry_run}
    if chosen.carrier != "auto":
        how["carrier"] = chosen.carrier
    if chosen.drop or chosen.drop_all:
        how["may_lose"] = ["*"] if chosen.drop_all else chosen.drop
    return show_move(ask("move", to=place, **how))


def _restore(chosen: argparse.Namespace) -> Table:
    """Said before: if it can be done, nobody is left who could hear the answer."""
    print(f"Going back to {chosen.checkpoint}: what this kernel did since is given up, and this cell gets no answer.")
    sys.stdout.flush()
    return show_place(ask("restore", checkpoint=chosen.checkpoint))


def _fork(chosen: argparse.Namespace) -> Table:
    return show_fork(ask("fork", name=chosen.name, count=chosen.count, to=chosen.node))


def _recomputable(chosen: argparse.Namespace) -> Table:
    space = get_ipython().user_ns
    marked = [name for name in space.get(RECOMPUTABLE, ()) if name not in chosen.forget]
    unknown = [name for name in chosen.name if name not in space]
    strange = [name for name in chosen.forget if name not in space.get(RECOMPUTABLE, ())]
    if unknown or strange:
        what = f"no cell has defined {unknown[0]}" if unknown else f"{strange[0]} was not marked"
        raise UsageError(f"Nothing was marked: {what}.\n`%sojourn recomputable` lists what is.")
    space[RECOMPUTABLE] = sorted({*marked, *chosen.name})
    listed = ", ".join(space[RECOMPUTABLE])
    return Table(f"May stay behind when objects move: {listed or 'nothing is marked'}.", (), ())


_VERBS: dict[str, Callable[[argparse.Namespace], Table]] = {
    "nodes": lambda _: show_nodes(ask("nodes")),
    "where": lambda _: show_place(ask("where")),
    "move": _move,
    "suspend": lambda _: show_suspend(ask("suspend")),
    "checkpoint": lambda chosen: show_checkpoint(ask("checkpoint", name=chosen.name)),
    "checkpoints": lambda _: show_checkpoints(ask("checkpoints")),
    "restore": _restore,
    "fork": _fork,
    "recomputable": _recomputable,
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}\n{sojourn.__doc__}")


def parse(line: str) -> argparse.Namespace:
    """`verb`, and what belongs to it (`place`, `strategy`, `dry_run`; `name`; …); raises UsageError with the usage."""
    parser = _Parser(prog="%sojourn", add_help=False)
    verbs = parser.add_subparsers(dest="verb", parser_class=_Parser, required=True)
    for bare in ("nodes", "where", "suspend", "checkpoints"):
        verbs.add_parser(bare, add_help=False)
    move = verbs.add_parser("move", add_help=False)
    move.add_argument("place", nargs="+")
    move.add_argument("--strategy", choices=("auto", "lazy", "copy"), default="auto")
    move.add_argument("--with", dest="carrier", choices=("auto", "criu", "objects"), default="auto")
    move.add_argument("--drop", action="append", default=[])
    move.add_argument("--drop-all", action="store_true")
    move.add_argument("--dry-run", action="store_true")
    verbs.add_parser("checkpoint", add_help=False).add_argument("name", nargs="?", default="")
    verbs.add_parser("restore", add_help=False).add_argument("checkpoint")
    fork = verbs.add_parser("fork", add_help=False)
    fork.add_argument("name", nargs="?", default="")
    fork.add_argument("--count", type=int, default=1)
    fork.add_argument("--node", default=None)
    recomputable = verbs.add_parser("recomputable", add_help=False)
    recomputable.add_argument("name", nargs="*", default=[])
    recomputable.add_argument("--forget", action="append", default=[])
    return parser.parse_args(shlex.split(line))


def ask(verb: str, /, **arguments: Any) -> dict[str, Any]:
    """The body of the rider's answer to a verb. Waits as long as it takes; an interrupt ends the wait.

    Raises UsageError, which IPython shows without a traceback, when the verb is refused or nobody can be asked.
    """
    path = os.environ.get("SOJOURN_SOCKET")
    if not path:
        raise UsageError('This kernel does not run in a Sojourn session.\nChoose the kernel "Python 3 (Sojourn)".')
    with _connect(path) as line:
        line.sendall(json.dumps({"name": verb, "arguments": arguments}).encode() + b"\n")
        with line.makefile("rb") as answers:
            text = answers.readline()
    if not text:
        raise UsageError("The session's rider hung up before it answered.\nTry again.")
    answer = json.loads(text)
    if not answer["ok"]:
        raise UsageError("\n".join(filter(None, (answer["body"].get("message"), answer["body"].get("hint")))))
    body: dict[str, Any] = answer["body"]
    return body


def _connect(path: str) -> socket.socket:
    try:
        if ":" in path and "/" not in path:
            host, _, port = path.rpartition(":")
            return socket.create_connection((host, int(port)))
        line = socket.socket(socket.AF_UNIX)
        line.connect(path)
    except OSError as wrong:
        raise UsageError(f"The session's rider can't be reached at {path}: {wrong}") from wrong
    return line


# ── showing ──────────────────────────────────────────────────────────────────────────────────────────────────


def show_nodes(body: dict[str, Any]) -> Table:
    """`body`: {"nodes": [NodeView], "here": name of the node this kernel is on}."""
    rows: list[tuple[str, ...]] = []
    for node in body["nodes"]:
        capacity, load = node["capacity"], node.get("load", {})
        free = f"{gigabytes(load.get('memory_free_bytes', 0))} of {gigabytes(capacity['memory_bytes'])} free"
        mark = "*" if node["name"] == body.get("here") else ""
        cells = (mark, node["name"], node["status"], f"{capacity['cores']:g}", free, str(capacity.get("gpus", 0)))
        rows.append((*cells, " ".join(node.get("labels", ()))))
    return Table("", ("", "node", "status", "cores", "memory", "GPUs", "labels"), rows)


def show_place(body: dict[str, Any]) -> Table:
    """`body`: {"session": SessionView, "no_network": why it can't reach the outside, "stayed": why nothing came of the
    move that it asked for last; both empty when all is well}."""
    session, closed, stayed = body["session"], body.get("no_network"), body.get("stayed")
    said = [f"{session['name'] or session['id']} is on {session['node']} ({session['status']})."]
    said += [f"It has no network: {closed}."] * bool(closed)
    said += [f"It asked to be moved, and stayed: {stayed}"] * bool(stayed)
    return Table("\n".join(said), (), ())


def show_move(body: dict[str, Any]) -> Table:
    """`body`: {"session": SessionView, "plan": MovePlan, "move": MoveView or None, "later": whether it begins when the
    cell has ended}."""
    session, move, plan = body["session"], body.get("move"), body.get("plan") or {}
    name = session["name"] or session["id"]
    if body.get("later"):
        when = f"{name} moves to {plan['target']} as objects when this cell has ended ({plan['why']})."
        return Table(f"{when}\nIf something would be lost, it stays: `%sojourn where` then says what.", (), ())
    if move:
        frozen = move["report"]["frozen_s"]
        cost = f"frozen for {frozen:.2f} s" if frozen else "on its way"
        left = move["report"].get("left")
        behind = f"\nLeft behind, and {move['target']}'s own from here on: {', '.join(left)}." if left else ""
        way = f"{move['source']} to {move['target']} ({move['strategy']})"
        return Table(f"{name} moved from {way}: {cost}.{behind}", (), ())
    if not plan:
        return Table(f"{name} is on {session['node']} already.", (), ())
    return Table(f"{name}: {foretell(plan)}", (), ())


def show_suspend(body: dict[str, Any]) -> Table:
    """`body`: {"session": SessionView}."""
    return Table(f"{called(body['session'])} goes to sleep when this cell has ended; any cell wakes it.", (), ())


def show_checkpoint(body: dict[str, Any]) -> Table:
    """`body`: {"session": SessionView, "checkpoint": CheckpointView, "back": whether this life began there}."""
    checkpoint, report = body["checkpoint"], body["checkpoint"]["report"]
    name = checkpoint["name"] or checkpoint["id"][:8]
    if body["back"]:
        return Table(f"{called(body['session'])} is at checkpoint {name} again.", (), ())
    size = amount(report["memory_bytes"] + report["layer_bytes"])
    return Table(f"Checkpoint {name}: frozen for {report['frozen_s']:.2f} s, {size} saved.", (), ())


def show_checkpoints(body: dict[str, Any]) -> Table:
    """`body`: {"checkpoints": [CheckpointView]}, the newest first."""
    rows = [
        (
            one["id"][:8],
            one["name"],
            one["kind"],
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one["created_at"])),
            amount(one["report"]["memory_bytes"]),
            "damaged" if one["problem"] else "whole",
        )
        for one in body["checkpoints"]
    ]
    title = "" if rows else "No checkpoints yet. `%sojourn checkpoint NAME` makes one."
    return Table(title, ("checkpoint", "name", "kind", "taken", "memory", "state"), rows)


def show_fork(body: dict[str, Any]) -> Table:
    """`body`: {"session": SessionView, "forks": [SessionView], "back": whether this is a branch itself}."""
    if body["back"]:
        return Table(f"This is {called(body['session'])}, which began here.", (), ())
    rows = [(called(one), one["node"], f"sojourn attach {called(one)}") for one in body["forks"]]
    return Table(f"{len(rows)} forked from {called(body['session'])}.", ("session", "node", "to open it"), rows)


def called(session: dict[str, Any]) -> str:
    name: str = session["name"] or session["id"][:8]
    return name


def foretell(plan: dict[str, Any]) -> str:
    """A MovePlan as a sentence or two."""
    if not plan["fits"]:
        return "\n".join([f"it can't move to {plan['target']}.", *plan["refusals"], plan["hint"]]).rstrip()
    if plan["strategy"] == "objects":
        return foretell_objects(plan)
    frozen = "for a moment" if plan["frozen_s"] is None else f"for about {plan['frozen_s']:.2f} s"
    size = gigabytes(plan["page_bytes"] + plan["layer_bytes"])
    reset = plan["connections_reset"]
    loss = f"\nThese connections would be reset: {', '.join(reset)}." if reset else ""
    way = f"{plan['source']} to {plan['target']} ({plan['strategy']})"
    closed = plan.get("no_network")
    network = f"\nIt would have no network there: {closed}." if closed else ""
    image, image_size = plan.get("image"), amount(plan.get("image_bytes", 0))
    ahead = f"\nIts image {image} ({image_size}) would be brought there first, while it runs on." if image else ""
    folders = "".join(f"\n{said}." for said in map(fate, plan.get("folders", ())))
    return f"it would move from {way}, frozen {frozen}, with {size}.{ahead}{loss}{network}{folders}"


def foretell_objects(plan: dict[str, Any]) -> str:
    """The same of a move into a new kernel."""
    ahead = f"\nIts image {plan['image']} would be brought there first." if plan.get("image") else ""
    network = f"\nIt would have no network there: {plan['no_network']}." if plan.get("no_network") else ""
    folders = "".join(f"\n{said}." for said in map(fate, plan.get("folders", ())))
    way = f"it would move from {plan['source']} to {plan['target']} as objects ({plan['why']})"
    luggage = plan.get("luggage")
    if not luggage:
        return f"{way}. What would be lost can be said between two cells only.{ahead}{network}{folders}"
    lost = "".join(f"\n{one['path']} would be lost: {one['why']}." for one in luggage["lost"])
    notes = "".join(f"\n{note}." for note in luggage["notes"])
    return f"{way}: {luggage['names']} names, {amount(luggage['size_bytes'])}.{lost}{notes}{ahead}{network}{folders}"


def fate(folder: dict[str, Any]) -> str:
    """What becomes of a Folder at a move."""
    if folder["mode"] == "carried":
        return f"It carries {folder['path']}, {amount(folder['size_bytes'])}"
    if folder["mode"] == "left":
        return f"It leaves {folder['path']} behind, and would see the folder of that path there, or an empty one"
    return f"{folder['path']} is the very same folder there"


def gigabytes(count: float) -> str:
    return f"{count / 2**30:.1f} GB"


def amount(count: float) -> str:
    return gigabytes(count) if count >= 2**30 else f"{count / 2**20:.0f} MB"


# ── the porter ───────────────────────────────────────────────────────────────────────────────────────────────


class Gate:
    """Before every request of a kernel's clients: closed, while its namespace is being carried."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._open = True

    def guard(self, handlers: dict[str, Callable[..., Any]]) -> None:
        """From now on these take their requests through the gate."""
        for kind, handler in list(handlers.items()):
            handlers[kind] = self._guarded(handler)

    def close(self, patience: float) -> bool:
        """Once nobody is inside; False, and open, if that takes longer than so many seconds."""
        deadline = time.monotonic() + patience
        self._open = False
        while self._inside:
            if time.monotonic() > deadline:
                self._open = True
                return False
            time.sleep(0.002)
        return True

    def open(self) -> None:
        self._open = True

    def _guarded(self, handler: Callable[..., Any]) -> Callable[..., Any]:
        async def passed(*arguments: Any) -> Any:
            # Not a lock: this thread's loop may be the one that has to carry the namespace.
            while not self._enter():  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            try:
                result = handler(*arguments)
                return await result if inspect.isawaitable(result) else result
            finally:
                with self._lock:
                    self._inside -= 1

        return passed

    def _enter(self) -> bool:
        with self._lock:
            self._inside += self._open
            return self._open


class Porter:
    """Answers agents that come for the namespace of a kernel. What is to be done with it, they bring along: the porter
    loads that code for itself, so that both ends of a move run the same."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        self.gate = Gate()
        self.gate.guard(kernel.shell_handlers)
        self._loaded = ""
        """The digest of the code."""
        self._at_work: Any = None

    def wait(self, rider: socket.socket) -> None:
        """For agents, whose connections the rider hands on, until the rider is gone."""
        with rider:
            rider.sendall(b'{"porter": true}\n')
            while agent := _handed_on(rider):
                threading.Thread(target=self._serve, args=(agent,), name=PORTER, daemon=True).start()

    def _serve(self, agent: socket.socket) -> None:
        agent.setblocking(True)
        with agent, agent.makefile("rwb") as line:
            try:
                asked = json.loads(line.readline())
                failure = self._load(asked["digest"], line.read(asked["bytes"]))
                line.write(json.dumps({"error": failure} if failure else {"loaded": True}).encode() + b"\n")
                line.flush()
                if not failure:
                    self._at_work.serve(line)
            except (OSError, ValueError):
                pass  # the agent is gone

    def _load(self, digest: str, code: bytes) -> dict[str, str] | None:
        """What went wrong, as an error of Sojourn's, if anything did."""
        if digest == self._loaded or (self._at_work and self._at_work.stands_still):
            return None
        try:
            self._import(code)
        except Exception as failed:
            message = f"The code that carries namespaces can't run in this kernel: {type(failed).__name__}: {failed}."
            return {"code": "incompatible", "message": message, "hint": "It needs Python 3.10 or newer."}
        self._loaded = digest
        return None

    def _import(self, code: bytes) -> None:
        finder = Luggage(code)
        for name in [name for name in sys.modules if finder.has(name)]:
            del sys.modules[name]
        sys.meta_path[:] = [finder, *(known for known in sys.meta_path if not isinstance(known, Luggage))]
        self._at_work = importlib.import_module("_sojourn.objects.porter").Porter(self.kernel, self.gate)


class Luggage(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Imports modules from a zip in memory."""

    def __init__(self, code: bytes) -> None:
        with zipfile.ZipFile(io.BytesIO(code)) as archive:
            self._sources = {_module(path): archive.read(path) for path in archive.namelist()}
            self._packages = {_module(path) for path in archive.namelist() if path.endswith("/__init__.py")}

    def has(self, name: str) -> bool:
        return name in self._sources

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name not in self._sources:
            return None
        return importlib.util.spec_from_loader(name, self, is_package=name in self._packages)

    def get_source(self, name: str) -> str:
        return self._sources[name].decode()

    def is_package(self, name: str) -> bool:
        return name in self._packages

    def get_code(self, name: str) -> Any:
        return compile(self._sources[name], f"<{name}>", "exec", dont_inherit=True)


def _module(path: str) -> str:
    return path[: -len(".py")].replace("/", ".").replace(".__init__", "")


def _handed_on(rider: socket.socket) -> socket.socket | None:
    """The next agent's connection; None when the rider is gone."""
    while True:
        data, ancillary, _flags, _peer = rider.recvmsg(4096, socket.CMSG_SPACE(4))
        for level, kind, body in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                return socket.socket(fileno=int.from_bytes(body[:4], sys.byteorder))
        if not data:
            return None


def begin_portering(kernel: Any) -> None:
    """Be ready for agents, beside the kernel; where nobody can be handed on, do nothing."""
    path = os.environ.get("SOJOURN_SOCKET", "")
    if not hasattr(socket, "CMSG_SPACE") or not path.startswith("/"):
        return
    porter, rider = Porter(kernel), _connect(path)
    threading.Thread(target=porter.wait, args=(rider,), name=PORTER, daemon=True).start()


# ── in IPython ───────────────────────────────────────────────────────────────────────────────────────────────


def load_ipython_extension(shell: Any) -> None:
    """What `%load_ext sojourn` calls."""
    shell.register_magic_function(sojourn, "line", "sojourn")


def launch() -> None:
    """What `python -m ipykernel_launcher` does, with the magic loaded and nothing else changed."""
    if sys.path and Path(sys.path[0]) == Path(__file__).parent:
        del sys.path[0]
    from ipykernel.kernelapp import IPKernelApp

    class SessionKernelApp(IPKernelApp):  # type: ignore[misc]
        name = "ipython-kernel"

        def init_extensions(self) -> None:
            super().init_extensions()
            load_ipython_extension(self.shell)
            begin_portering(self.kernel)
            # For a tip in its banner, IPython draws a random number whenever a client asks what kernel this is: ours do
            # so more often, and what a person has seeded must not depend on that.
            self.shell.enable_tip = False
            # `%load_ext sojourn` must work here too, though there may be no such module.
            self.shell.extension_manager.loaded.add("sojourn")

    SessionKernelApp.launch_instance()


if __name__ == "__main__":
    launch()
