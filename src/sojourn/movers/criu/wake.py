"""A wake by CRIU: an arrival whose other side is the store."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Any

from sojourn.chunks import Body, Manifest, Vault
from sojourn.errors import Incompatible, MoveFailed, SandboxFailed, SojournError, WakeFailed
from sojourn.model.checkpoints import StorePass
from sojourn.model.sessions import Sight
from sojourn.movers.abilities import has_userfaultfd
from sojourn.movers.base import Facts, Link, Note, Tell
from sojourn.movers.clocks import check_clock, has_time_namespaces
from sojourn.movers.connections import Connection
from sojourn.movers.criu import ground
from sojourn.movers.criu.revival import CriuRevival
from sojourn.movers.haste import hastened
from sojourn.movers.store import open_vault
from sojourn.sandbox import canary
from sojourn.sandbox.rootfs import require_room
from sojourn.sandbox.runc import RuncSandbox

_THREADS = 8
"""Images are many and small; a store may be far away."""


class CriuWake(CriuRevival):
    """See `base.Arrival`; `move` is the wake."""

    way_back = "It sleeps on; wake it again."

    def __init__(
        self, sandbox: RuncSandbox, wake: str, checkpoint: str, store: StorePass, *, tell: Tell, note: Note
    ) -> None:
        super().__init__(sandbox, wake, "lazy", tell=tell, note=note)
        self._checkpoint, self._store = checkpoint, store
        self._whole: Future[None] = Future()
        """Every chunk that the checkpoint names is there."""
        self._began_at = time.monotonic()
        self._outside: list[Connection] = []

    @classmethod
    def recover(
        cls,
        sandbox: RuncSandbox,
        wake: str,
        checkpoint: str,
        store: StorePass,
        facts: Facts,
        *,
        tell: Tell,
        note: Note,
    ) -> CriuWake:
        """After a crash of the agent. When `thawed`, the caller has to `go_on`, else to `abandon`."""
        woken = cls(sandbox, wake, checkpoint, store, tell=tell, note=note)
        woken._remember(facts)
        if not facts.get("paged", True):
            woken._strategy = "copy"
        return woken

    def prepare(self) -> None:
        with self._failing_as_wake():
            self._prepare()

    def receive(self, link: Link | None) -> None:
        with self._failing_as_wake():
            self._receive()

    def go_on(self) -> None:
        with self._failing_as_wake():
            super().go_on()

    @contextlib.contextmanager
    def _failing_as_wake(self) -> Iterator[None]:
        try:
            yield
        except MoveFailed as failed:
            raise WakeFailed(failed.message, failed.hint) from failed
        except (SojournError, KeyboardInterrupt):
            raise
        except BaseException as failed:
            raise WakeFailed(f"Waking session {self._name} failed: {failed!r}", self.way_back) from failed

    # ── making ready ──

    def _prepare(self) -> None:
        """The sandbox is made while the state is fetched, and the pager looks for the chunks of the memory."""
        self._began_at = time.monotonic()
        self._make_folder()
        with hastened(), ThreadPoolExecutor(_THREADS) as beside:
            if has_userfaultfd():
                self._start_pager()
            shown = beside.submit(self._show_store)
            created = beside.submit(self._sandbox.create, mount=False)
            vault = open_vault(**self._store.model_dump())
            manifest = vault.manifest(self._checkpoint)
            self._read_facts(manifest)
            fetched = beside.map(
                partial(self._fetch_image, vault, manifest), *zip(*manifest.images.items(), strict=True)
            )
            if self._paged:
                shown.result()
            self._came_to("images fetched", image_bytes=sum(fetched))
            created.result()
            self._came_to("sandbox made")
            self._take_layer(vault, manifest)
            self._came_to("layer fetched")

    def _show_store(self) -> None:
        """At once: to load what speaks with a store far away takes the pager as long as it takes the agent."""
        if self._pager:
            self._attach()
            self._to_pager({"do": "vault", "checkpoint": self._checkpoint, **self._store.model_dump()})

    def _read_facts(self, manifest: Manifest) -> None:
        facts = manifest.strategy_facts
        self._outside = [Connection.from_wire(one) for one in facts["outside"]]
        self._paged = facts["paged"]
        self._note({"paged": self._paged})
        if self._paged and self._pager is None:
            raise Incompatible(
                f"Checkpoint {self._checkpoint} can't wake here: this node has no userfaultfd.",
                "Wake it on another node; `sojourn doctor` tells which can.",
            )

        self._require_folders(manifest)
        here = has_time_namespaces()
        check_clock(facts["monotonic"], manifest.images, has_namespaces=here, now=time.monotonic())

    def _require_folders(self, manifest: Manifest) -> None:
        """Whether the folders that the session shares are here what they were where it was saved."""
        sandbox, known = self._sandbox, manifest.strategy_facts.get("shared", {})
        sights = {path: Sight(**sight) for path, sight in known.items()}
        seen = canary.look(sandbox.shared, sandbox.user)
        canary.require_same(sights, f"node {manifest.node}", seen, f"node {sandbox.plan.node}")

    def _fetch_image(self, vault: Vault, manifest: Manifest, name: str, body: Body) -> int:
        with (self._folder / os.path.basename(name)).open("wb", buffering=0) as file:  # noqa: PTH119
            for piece in vault.read_body(manifest, body, of=f"image {name}"):
                file.write(piece)
        return body.size

    def _take_layer(self, vault: Vault, manifest: Manifest) -> None:
        sandbox = self._sandbox
        sandbox.inherit(manifest.origin)
        self._find_ground(manifest)
        free, name = shutil.disk_usage(sandbox.folder).free, f"the files of session {self._name}"
        require_room(free, manifest.layer.size, f"{name} on node {sandbox.plan.node}")
        stream = vault.read_body(manifest, manifest.layer, of="the layer")
        written = sum(map(sandbox.layer.apply, parted(stream, manifest.strategy_facts["layer_parts"])))
        sandbox.mount()
        self._report = self._report.model_copy(update={"layer_bytes": written})

    def _find_ground(self, manifest: Manifest) -> None:
        """What the session stood on when it was saved."""
        if ground.settle(self._sandbox, manifest.origin):
            return
        layers = manifest.origin.get("layers", [])
        if not layers:
            raise Incompatible(
                f"Session {self._name} was saved on the root of node {manifest.node}, and this node has another one.",
                "Wake it there.",
            )
        ground.stand_on(self._sandbox, layers)

    # ── the wake ──

    def _receive(self) -> None:
        with contextlib.ExitStack() as stack:
            stack.enter_context(hastened())
            criu = self._start_criu(stack)
            filling = None
            if self._paged:
                number = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
                stack.callback(os.close, number)
                filling = self._follow_fill(criu, number)
            self._thaw(criu, self._outside, self._began_at, filling)
        if filling:
            filling.result()
        self._finish()

    def _hear(self, message: dict[str, Any]) -> bool:
        if message["event"] == "whole" and not self._whole.done():
            self._whole.set_result(None)
        return super()._hear(message)

    def _await_leave(self, filling: Future[None]) -> None:
        self._came_to("restored")
        wait((filling, self._whole), return_when=FIRST_COMPLETED)
        if not self._whole.done():
            filling.result()
        self._came_to("chunks looked for")

    def _came_to(self, step: str, **more: Any) -> None:
        self._mark(step, self._began_at, self._report.timeline, **more)


def parted(stream: Iterator[bytes], sizes: Sequence[int]) -> Iterator[Iterator[bytes]]:
    """Several streams that were written as one, each of so many bytes; to be drawn one after the other. Raises
    SandboxFailed when it ends early."""
    left = memoryview(b"")

    def part(size: int) -> Iterator[bytes]:
        nonlocal left
        while size:
            if not left:
                left = memoryview(next(stream, b""))
            if not left:
                raise SandboxFailed("The stream of a layer's changes was cut off.")
            piece, left = left[:size], left[size:]
            size -= len(piece)
            yield bytes(piece)

    for size in sizes:
        drawn = part(size)
        yield drawn
        for _ in drawn:
            pass
