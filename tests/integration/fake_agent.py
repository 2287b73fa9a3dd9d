"""An agent that speaks `wire.py` over a real WebSocket and has no sandboxes: it says what a good agent would say, or
what the test tells it to say."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from sojourn import wire
from sojourn.chunks import Manifest, Vault, open_store
from sojourn.errors import SojournError, Unreachable
from sojourn.model import Capabilities, Image, Inspection, Load, Luggage, MoveReport, Resources, SaveReport
from sojourn.wire import Acknowledge, Held, Hello, Instruct, Report, Turned, Welcome, from_controller

GIGABYTE = 2**30


def capabilities(**changes: Any) -> Capabilities:
    known: dict[str, Any] = {
        "os": "linux",
        "arch": "x86_64",
        "kernel": "6.1",
        "python": "3.11",
        "sojourn": "0.1.0",
        "machine_id": "machine",
        "root_id": "root",
        "sandboxes": ("runc", "process"),
        "strategies": ("lazy", "copy"),
        "criu": "4.2",
        "runc": "1.1",
    }
    return Capabilities(**{**known, **changes})


class FakeAgent:
    def __init__(self, url: str, token: str, name: str, *, labels: tuple[str, ...] = (), **changes: Any) -> None:
        self.url, self.token, self.name, self.labels = (
            "ws" + url.removeprefix("http") + "/api/agent",
            token,
            name,
            labels,
        )
        self.protocol = wire.PROTOCOL
        self.address: str | None = "127.0.0.1:7000"
        self.capabilities = capabilities(**changes)
        self.held: tuple[Held, ...] = ()
        self.inspection = Inspection(memory_bytes=GIGABYTE // 10, private_dirty_bytes=GIGABYTE // 20)
        self.luggage: Luggage | SojournError = Unreachable("The kernel can't be asked for its objects.", "It is none.")
        """What is said of the session's objects."""
        self.images: dict[str, Image] | None = None
        """By name; None: whatever is asked for is there."""
        self.heard: list[Any] = []
        self.acknowledged = 0
        self.key = ""
        self.silent: set[str] = set()
        """Kinds of instructions that are not answered."""
        self._number = 0
        self._socket: ClientConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self._news = asyncio.Event()

    async def dial(self) -> Welcome | Turned:
        headers = {"Authorization": f"Bearer {self.token}"}
        self._socket = await connect(self.url, additional_headers=headers, compression=None, proxy=None)
        await self._say(self.hello())
        answer = from_controller.validate_json(await self._socket.recv())
        assert isinstance(answer, Welcome | Turned)
        if isinstance(answer, Welcome):
            self.token, self.key = answer.token, answer.key
            self._task = asyncio.create_task(self._listen(self._socket))
            await self._say(wire.Heartbeat(load=Load(memory_free_bytes=8 * GIGABYTE)))
        return answer

    async def hang_up(self) -> None:
        if self._socket:
            await self._socket.close()
        if self._task:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        self._socket = self._task = None

    def hello(self) -> Hello:
        return Hello(
            protocol=self.protocol,
            version="0.1.0",
            name=self.name,
            labels=self.labels,
            capacity=Resources(cores=4, memory_bytes=16 * GIGABYTE),
            capabilities=self.capabilities,
            address=self.address,
            held=self.held,
        )

    async def report(self, event: wire.Event, number: int | None = None) -> None:
        if number is None:
            self._number += 1
            number = self._number
        await self._say(Report(number=number, event=event))

    async def heard_of(self, kind: type, count: int = 1) -> Any:
        """The count-th instruction of a kind, waiting for it."""
        async with asyncio.timeout(10):
            while len(found := [one for one in self.heard if isinstance(one, kind)]) < count:
                self._news.clear()
                await self._news.wait()
        return found[count - 1]

    async def _say(self, message: Any) -> None:
        assert self._socket
        await self._socket.send(message.model_dump_json())

    async def _listen(self, socket: ClientConnection) -> None:
        with suppress(ConnectionClosed):
            async for text in socket:
                message = from_controller.validate_json(text)
                if isinstance(message, Acknowledge):
                    self.acknowledged = message.number
                elif isinstance(message, Instruct):
                    self.heard.append(message.instruction)
                    if message.instruction.do not in self.silent:
                        await self._answer(message.instruction)
                self._news.set()

    async def _answer(self, asked: Any) -> None:
        answer = _ANSWERS.get(asked.do)
        if answer:
            for event in answer(self, asked):
                await self.report(event, 0 if asked.do in _CASUAL else None)


def _events(kind: type, *names: str) -> Callable[[FakeAgent, Any], list[Any]]:
    """The event that repeats these fields of the instruction."""
    return lambda _, asked: [kind(**{name: getattr(asked, name) for name in names})]


def save(agent: FakeAgent, asked: wire.SaveSession) -> list[Any]:
    """A real checkpoint in the real store, of nothing much."""
    vault = Vault(open_store(asked.store.url), bytes.fromhex(asked.store.key))
    with vault.writing(asked.save):
        layer = vault.write_body([b"a small file", asked.save.encode()])
        vault.publish(
            Manifest(
                id=asked.save,
                session=asked.session,
                created_at=time.time(),
                boot="boot",
                node=agent.name,
                criu="4.2",
                spec={},
                incarnation=asked.incarnation,
                epoch=1,
                layer=layer,
            )
        )
    report = SaveReport(frozen_s=0.2, total_s=1.0, memory_bytes=GIGABYTE // 10, stored_bytes=1000, layer_bytes=44)
    known = {"session": asked.session, "incarnation": asked.incarnation}
    return [
        wire.SessionFrozen(move=asked.save, session=asked.session),
        wire.SessionSaved(save=asked.save, report=report, **known),
    ]


def _woken(agent: FakeAgent, asked: wire.WakeSession) -> list[Any]:
    known = {"move": asked.wake, "session": asked.session, "incarnation": asked.incarnation, "report": MoveReport()}
    return [wire.SessionThawed(**known), wire.SessionFilled(**known)]


def _images_found(agent: FakeAgent, asked: wire.LookForImages) -> list[Any]:
    if agent.images is None:
        found = [image(asked.reference)] if asked.reference else []
    else:
        found = [one for name, one in agent.images.items() if asked.reference in (name, one.id, "")]
    return [wire.ImagesFound(request=asked.request, images=tuple(found))]


def image(name: str, **changes: Any) -> Image:
    """One of that name, or of that id."""
    identity = name if len(name) == 64 else hashlib.sha256(name.encode()).hexdigest()
    return Image(**{"id": identity, "names": (name,), "size_bytes": GIGABYTE, "created_at": 1.0, **changes})


def _luggage_seen(agent: FakeAgent, asked: wire.LookAtLuggage) -> list[Any]:
    known = {"request": asked.request, "session": asked.session}
    if isinstance(agent.luggage, SojournError):
        return [wire.LuggageSeen(error=agent.luggage.to_wire(), **known)]
    return [wire.LuggageSeen(luggage=agent.luggage, **known)]


_CASUAL = ("inspect_session", "look_at_luggage", "send_log", "look_for_images", "remove_image")
_ANSWERS: dict[str, Callable[[FakeAgent, Any], list[Any]]] = {
    "start_sandbox": lambda agent, asked: [
        wire.SandboxStarted(
            session=asked.session, incarnation=asked.incarnation, sandbox=agent.capabilities.sandboxes[0]
        )
    ],
    "stop_sandbox": _events(wire.SandboxStopped, "session", "incarnation"),
    "inspect_session": lambda agent, asked: [
        wire.SessionInspected(request=asked.request, session=asked.session, inspection=agent.inspection)
    ],
    "look_at_luggage": _luggage_seen,
    "send_log": lambda agent, asked: [
        wire.LogSent(request=asked.request, session=asked.session, text=f"log at {agent.name}")
    ],
    "look_for_images": _images_found,
    "remove_image": lambda _, asked: [wire.ImageRemoved(request=asked.request)],
    "prepare_arrival": _events(wire.ArrivalPrepared, "move", "session"),
    "depart": lambda _, asked: [
        wire.SessionFrozen(move=asked.move, session=asked.session),
        wire.SessionSent(move=asked.move, session=asked.session),
    ],
    "save_session": save,
    "wake_session": _woken,
    "commit_move": _events(wire.MoveCommitted, "move", "session"),
    "roll_back_move": _events(wire.MoveRolledBack, "move", "session", "incarnation"),
    "abandon_arrival": _events(wire.ArrivalAbandoned, "move", "session"),
}


async def thaw(agent: FakeAgent, incarnation: int = 2) -> str:
    """At the target: the session runs here. Gives the move's id."""
    asked = await agent.heard_of(wire.PrepareArrival)
    report = MoveReport(frozen_s=0.12, image_bytes=4_000_000)
    await agent.report(
        wire.SessionThawed(move=asked.move, session=asked.session, incarnation=incarnation, report=report)
    )
    return str(asked.move)


async def fill(agent: FakeAgent, incarnation: int = 2) -> None:
    asked = await agent.heard_of(wire.PrepareArrival)
    report = MoveReport(filled_s=0.5, page_bytes=100_000_000)
    await agent.report(
        wire.SessionFilled(move=asked.move, session=asked.session, incarnation=incarnation, report=report)
    )
