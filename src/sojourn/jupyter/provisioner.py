"""The kernel provisioner: what makes a kernel of any Jupyter client a Sojourn session.

It asks the front for a session, and from then on only passes on what the client wants. Ports, curve keys and the
client's connection file are made as LocalProvisioner makes them, because clients rely on each detail of it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning import LocalProvisioner
from traitlets import CaselessStrEnum, Dict, Float, List, Unicode

from sojourn import embedded, placement
from sojourn.client import Client
from sojourn.errors import SandboxFailed, SessionLost, SojournError, Unknown, Unreachable
from sojourn.front.client import FrontClient, ensure
from sojourn.jupyter.kernel_session import ANYWHERE, CONNECTION_FILE, Wishes, inside_session, kernel_spec, witnessed
from sojourn.model.resources import Needs
from sojourn.model.sessions import SessionSpec, SessionStatus
from sojourn.settings import configured_controller, kernels_cpu, kernels_image, kernels_mounts

Answer = TypeVar("Answer")
FRESH_SECONDS = 0.1
"""How long a kernel that was seen alive is taken for alive: clients ask in bursts, and some right after a signal."""
START_SECONDS = 60.0
"""How long a start waits for its sandbox; the session may still come to life after that."""
START_LOOK_SECONDS = 0.02
MEND_SECONDS = 5.0
"""How often it is looked whether a part of the embedded controller has died: well within the time that a node may be
away while a session fills."""
STUCK_SECONDS = 60.0
"""How long one that would not start is left alone."""
LEFT_SECONDS = 7 * 24 * 3600.0
"""How long a kernel waits for somebody, after the server that left it behind."""
_IMPORTED_BY = os.getpid()
_mending = threading.Lock()
"""Held by the kernel that looks after the embedded controller for all kernels of this process."""


class SojournProvisioner(LocalProvisioner):  # type: ignore[misc]
    """Runs a kernel as a Sojourn session.

    The traits may stand in the kernelspec (`metadata.kernel_provisioner.config`) or in Jupyter's configuration
    (`c.SojournProvisioner.needs = "mem>=16G"`).
    """

    needs = Unicode("", config=True, help="Where to start, as in %%on: a node, a label, or needs such as mem>=64G.")
    image = Unicode(
        None,
        allow_none=True,
        config=True,
        help="The image the kernel sees; None: as the settings say, else the node's own root.",
    )
    sandbox = CaselessStrEnum(
        ["runc", "process"],
        default_value=None,
        allow_none=True,
        config=True,
        help="What holds the kernel; None: runc where the node has it, else a plain process.",
    )
    cpu = CaselessStrEnum(
        ["node", "fleet"],
        default_value=None,
        allow_none=True,
        config=True,
        help="Which CPU the kernel may use: its node's with all it has, or what all nodes have, to go to each of them; "
        "None: as the settings say.",
    )
    environment = Unicode(
        None,
        allow_none=True,
        config=True,
        help="The node whose Python and system the kernel starts with, wherever it starts; None: those of the node "
        "where it starts.",
    )
    shared = List(
        Unicode(),
        ["{cwd}", "{home}"],
        config=True,
        help="Folders of the node that the kernel uses directly; a node it moves to must have them.",
    )
    carried = List(Unicode(), config=True, help="Folders the kernel gets a copy of, which travels with it.")
    mounts = List(
        Dict(),
        config=True,
        help="Folders of which more is to be said: path, mode (shared, carried or left), and what a carried one is "
        "copied without, as in a .gitignore: exclude.",
    )
    lease_seconds = Float(600.0, config=True, help="How long the kernel lives on after its client has died.")

    session = ""
    """The id of the session; empty before the first start and after the last cleanup."""

    def __new__(cls, **kwargs: Any) -> LocalProvisioner:
        """Ours; but a kernel that is started inside a session belongs into that session, as an ordinary process."""
        if inside_session():
            return LocalProvisioner(**{name: kwargs[name] for name in ("kernel_id", "kernel_spec", "parent")})
        return super().__new__(cls, **kwargs)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._front: FrontClient | None = None
        self._runs = False
        self._seen_alive = float("-inf")
        self._reason = ""
        self._over = threading.Event()

    @property
    def has_process(self) -> bool:
        return self._runs

    # ── starting ──

    def _finalize_env(self, env: dict[str, str]) -> None:
        super()._finalize_env(env)
        env.pop("JPY_PARENT_PID", None)  # a kernel would end when it sees another parent

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Start the kernel: in a new session the first time, in the same one at a restart."""
        self.cwd = str(kwargs.get("cwd") or Path.cwd())
        self._require(cmd[0], kwargs["env"])
        await self._in_thread(lambda: self._launch(cmd, kwargs["env"]))
        keep_sockets(self.connection_info)
        self._runs, self._seen_alive = True, time.monotonic()
        return self.connection_info

    def _require(self, program: str, environment: dict[str, str]) -> None:
        """Where the kernel is to see this machine's own root, say at once, as Popen does, if its program is missing."""
        elsewhere = self._image() or self.needs or configured_controller()
        if not elsewhere and not shutil.which(program, path=environment.get("PATH")):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), program)

    def _launch(self, cmd: list[str], environment: dict[str, str]) -> None:
        outer = os.path.realpath(self.parent.connection_file)
        spec = self._spec([argument.replace(outer, CONNECTION_FILE) for argument in cmd], environment)
        connection = to_json(self.connection_info)
        if self.session:
            try:
                self._ask(lambda front: front.start(self.session, spec.program, connection))
                return
            except (Unknown, SessionLost):
                self.log.warning("Session %s is gone; the kernel starts in a new one.", self.session)
                self._leave()
        language = self.kernel_spec.language if self.kernel_spec else ""
        with witnessed(spec, self.kernel_id) as seen:
            self.session = self._ask(lambda front: front.open(seen, connection, language, self.lease_seconds))
            self._over = threading.Event()
            threading.Thread(target=self._keep_lease, args=(self.session, self._over), daemon=True).start()
            if not configured_controller():
                threading.Thread(target=self._mend, args=(self._over,), daemon=True).start()
            self._await_sandbox()

    def _await_sandbox(self) -> None:
        """Until the session runs. What its node refuses, as an image it lacks, is an error of the start and not a
        kernel that dies without a word. Raises SandboxFailed."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            kernel = self._ask(lambda front: front.kernel(self.session))
            if kernel.status == SessionStatus.FAILED:
                self._leave()
                raise SandboxFailed(f"The kernel could not be started. {kernel.reason}")
            if kernel.status not in (None, SessionStatus.PENDING, SessionStatus.STARTING):
                return
            time.sleep(START_LOOK_SECONDS)

    def _spec(self, argv: list[str], environment: dict[str, str]) -> SessionSpec:
        shared, carried, cpu = tuple(self.shared), tuple(self.carried), self.cpu or kernels_cpu()
        mounts = tuple(self.mounts) or kernels_mounts()
        wishes = Wishes(self._image(), self.sandbox, shared, carried, cpu, self.environment, mounts)
        return kernel_spec(argv, environment, str(self.cwd), self.kernel_id, self._needs(), wishes)

    def _image(self) -> str | None:
        return self.image or (None if self.environment else kernels_image())

    def _needs(self) -> Needs:
        """The needs of the trait's expression; which of its words are nodes the controller knows."""
        if not self.needs.strip():
            return ANYWHERE
        controller = embedded.ensure(self.log.warning)
        with Client(controller.url, controller.token) as client:
            return placement.needs_of(self.needs, client.nodes())

    # ── the kernel's process ──

    async def poll(self) -> int | None:
        """None while the kernel's program runs, or is on its way; else its exit code."""
        if not self._runs:
            return 0
        if time.monotonic() < self._seen_alive + FRESH_SECONDS:
            return None
        try:
            kernel = await self._ask_now(lambda front: front.kernel(self.session))
        except Unknown:
            return 1
        except Unreachable as silent:
            self.log.warning("What became of kernel %s is not known: %s", self.kernel_id, silent)
            return None
        if kernel.running:
            self._seen_alive = time.monotonic()
            return None
        if kernel.reason != self._reason:
            self._reason = kernel.reason
            self.log.warning("Kernel %s has ended: %s", self.kernel_id, kernel.reason)
        return 1 if kernel.exit_code is None else kernel.exit_code

    async def wait(self) -> int | None:
        """The exit code, once there is one."""
        while (code := await self.poll()) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        self._runs = False
        return code

    async def send_signal(self, signum: int) -> None:
        """Send a signal to the kernel and what it started, wherever they are now."""
        if self._runs:
            try:
                await self._ask_now(lambda front: front.signal(self.session, signum))
            except Unknown:
                self.log.debug("Kernel %s had ended before signal %d.", self.kernel_id, signum)

    async def kill(self, restart: bool = False) -> None:
        await self.send_signal(getattr(signal, "SIGKILL", 9))

    async def terminate(self, restart: bool = False) -> None:
        await self.send_signal(signal.SIGTERM)

    async def cleanup(self, restart: bool = False) -> None:
        """Free the sandbox, unless the kernel is to start again in it."""
        await super().cleanup(restart=restart)
        put_sockets_back(self.connection_info)
        if not restart and self.session:
            await self._in_thread(self._leave)
            forget_sockets(self.connection_info)

    async def leave_behind(self) -> None:
        """Give the kernel up without ending it: whoever has its connection file may go on with it."""
        self._over.set()
        await self._in_thread(lambda: self._ask(lambda front: front.lease(self.session, LEFT_SECONDS)))
        self.session, self._runs = "", False

    def _leave(self) -> None:
        """End the session; one that can't be reached now ends when its lease does."""
        self._over.set()
        session, self.session = self.session, ""
        try:
            self._ask(lambda front: front.close(session))
        except Unknown:
            pass
        except SojournError as failure:
            self.log.warning("Session %s is left to its lease: %s", session, failure)

    # ── persistence (see KernelProvisionerBase) ──

    async def get_provisioner_info(self) -> dict[str, Any]:
        return {**await super().get_provisioner_info(), "session": self.session, "cwd": self.cwd}

    async def load_provisioner_info(self, provisioner_info: dict[str, Any]) -> None:
        await super().load_provisioner_info(provisioner_info)
        self.session, self.cwd = provisioner_info["session"], provisioner_info["cwd"]
        self._runs = bool(self.session)

    # ── the front ──

    def _keep_lease(self, session: str, over: threading.Event) -> None:
        """Tell the front that this client lives, also while nobody polls (a blocking client never does)."""
        while not over.wait(self.lease_seconds / 4):
            try:
                self._ask(lambda front: front.lease(session, self.lease_seconds))
            except Unknown:
                return
            except SojournError as failure:
                self.log.debug("The lease of session %s was not renewed: %s", session, failure)

    def _mend(self, over: threading.Event) -> None:
        """Have what dies of the embedded controller and its nodes started again, as long as this kernel is there. One
        kernel of a process does it for all, the next when that one has ended; between processes, the lock of `embedded`
        sees to it that one starts what the others then find."""
        with _mending:
            pause = MEND_SECONDS
            while not over.wait(pause):
                try:
                    embedded.mend()
                    pause = MEND_SECONDS
                except (SojournError, OSError) as stuck:
                    self.log.warning("A part of Sojourn on this machine has died and does not start: %s", stuck)
                    pause = STUCK_SECONDS

    def _ask(self, question: Callable[[FrontClient], Answer]) -> Answer:
        """Ask the front; one that has died is started anew, and takes its kernels back."""
        try:
            self._front = self._front or self._open_front()
            return question(self._front)
        except Unreachable:
            self._front = self._open_front()
            return question(self._front)

    async def _ask_now(self, question: Callable[[FrontClient], Answer]) -> Answer:
        """Ask what the front answers at once, without giving the event loop away: a client may interrupt a kernel
        whose restart it has just asked for, and must find it alive (jupyter_client's own tests do)."""
        if self._front:
            with suppress(Unreachable):
                return question(self._front)
        return await self._in_thread(lambda: self._ask(question))

    def _open_front(self) -> FrontClient:
        return ensure(embedded.ensure(self.log.warning))

    async def _in_thread(self, work: Callable[[], Answer]) -> Answer:
        """All that may block runs beside the client's event loop."""
        if os.getpid() != _IMPORTED_BY:
            return work()  # a forked client has its parent's event loop, and none of that loop's threads
        return await asyncio.to_thread(work)


# jupyter_client removes the files of ipc sockets at every restart, because a kernel it knows binds them anew. Ours stay
# bound, so a second link to each is kept, to put the first one back.


def _sockets(connection: KernelConnectionInfo) -> list[tuple[Path, Path]]:
    """For `ipc`: where clients look for each socket, and our link to it."""
    if connection.get("transport") != "ipc":
        return []
    names = [f"{connection['ip']}-{port}" for name, port in connection.items() if name.endswith("_port")]
    return [(Path(name), Path(f"{name}.kept")) for name in names]


def keep_sockets(connection: KernelConnectionInfo) -> None:
    for socket, kept in _sockets(connection):
        kept.unlink(missing_ok=True)
        kept.hardlink_to(socket)


def put_sockets_back(connection: KernelConnectionInfo) -> None:
    for socket, kept in _sockets(connection):
        if kept.exists() and not socket.exists():
            socket.hardlink_to(kept)


def forget_sockets(connection: KernelConnectionInfo) -> None:
    for _, kept in _sockets(connection):
        kept.unlink(missing_ok=True)


def to_json(connection: KernelConnectionInfo) -> dict[str, Any]:
    """Connection info as a connection file holds it, and right in any working folder: ipc's `ip` is a path."""
    info = {name: value.decode() if isinstance(value, bytes) else value for name, value in connection.items()}
    return info | {"ip": os.path.abspath(info["ip"])} if info["transport"] == "ipc" else info  # noqa: PTH100
