"""Eviction notices, from stand-ins for the clouds' metadata services that answer as their providers' pages say."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.integration.test_agent import AgentProcess

from sojourn.agent import eviction
from sojourn.agent.metadata import SERVICES
from sojourn.model import Eviction
from sojourn.testing.scripted_controller import ScriptedController, scripted_controller

pytestmark = pytest.mark.integration


class StandIn(BaseHTTPRequestHandler):
    """Of one metadata service; each test has a class of its own to set."""

    asked: ClassVar[list[str]]
    silent: ClassVar[bool] = False

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        self.asked.append(parts.path)
        if self.silent:
            self.answer(503, "Service Unavailable")
        else:
            self.get(parts.path, {name: values[-1] for name, values in parse_qs(parts.query).items()})

    def get(self, path: str, query: dict[str, str]) -> None:
        raise NotImplementedError

    def answer(self, status: int, text: str = "", **headers: str) -> None:
        body = text.encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class AwsStandIn(StandIn):
    """IMDSv2 alone: a question without a token, or with an old one, is a 401."""

    tokens: ClassVar[list[str]]
    action: ClassVar[dict[str, str] | None] = None

    def do_PUT(self) -> None:
        seconds = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
        if self.path != "/latest/api/token" or not (seconds.isdigit() and 1 <= int(seconds) <= 21600):
            self.answer(400, "Bad Request")
            return
        self.tokens.append(f"token{len(self.tokens)}==")
        self.answer(200, self.tokens[-1], X_Aws_Ec2_Metadata_Token_Ttl_Seconds=seconds)

    def get(self, path: str, query: dict[str, str]) -> None:
        if self.headers.get("X-aws-ec2-metadata-token") not in self.tokens[-1:]:
            self.answer(401, "Unauthorized")
        elif path == "/latest/meta-data/events/recommendations/rebalance":
            self.answer(200, '{"noticeTime": "2026-01-02T03:00:00Z"}')
        elif path == "/latest/meta-data/spot/instance-action" and self.action:
            self.answer(200, json.dumps(self.action), Content_Type="application/json")
        else:
            self.answer(404, "Not Found")


class GcpStandIn(StandIn):
    preempted: ClassVar[threading.Event]
    held: ClassVar[threading.Event]
    """Set while a question is kept until something changes."""

    def get(self, path: str, query: dict[str, str]) -> None:
        if self.headers.get("Metadata-Flavor") != "Google":
            self.answer(403, "Forbidden")
            return
        assert (path, query["wait_for_change"]) == ("/computeMetadata/v1/instance/preempted", "true")
        if query["last_etag"] == self._etag:
            self.held.set()
            self.preempted.wait(5)
        text = "TRUE" if self.preempted.is_set() else "FALSE"
        self.answer(200, text, Metadata_Flavor="Google", ETag=self._etag, Content_Type="application/text")

    @property
    def _etag(self) -> str:
        return f"etag{self.preempted.is_set()}"


class AzureStandIn(StandIn):
    events: ClassVar[list[dict[str, object]]]

    def get(self, path: str, query: dict[str, str]) -> None:
        if self.headers.get("Metadata") != "true" or "api-version" not in query:
            self.answer(400, '{"error": "Bad request. Required metadata header not specified"}')
        elif path == "/metadata/instance/compute/name":
            self.answer(200, "worker_3")
        elif (path, query["api-version"]) == ("/metadata/scheduledevents", "2020-07-01"):
            body = {"DocumentIncarnation": len(self.events), "Events": self.events}
            self.answer(200, json.dumps(body), Content_Type="application/json; charset=utf-8")
        else:
            self.answer(404)


def event(kind: str = "Preempt", machine: str = "worker_3", not_before: str = "") -> dict[str, object]:
    return {
        "EventId": "f020ba2e-3bc0-4c40-a10b-86575a9eabd5",
        "EventType": kind,
        "ResourceType": "VirtualMachine",
        "Resources": [machine],
        "EventStatus": "Scheduled" if not_before else "Started",
        "NotBefore": not_before,
        "Description": "",
        "EventSource": "Platform",
        "DurationInSeconds": -1,
    }


@contextmanager
def serving(kind: type[StandIn]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


async def until(holds: Callable[[], bool]) -> None:
    for _ in range(1000):
        if holds():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came to that")


class Told(list[Eviction | None]):
    async def until(self, count: int) -> Eviction | None:
        """Wait for so many words; returns the last."""
        await until(lambda: len(self) >= count)
        assert len(self) == count
        return self[-1]


@asynccontextmanager
async def watching(source: str, url: str = "") -> AsyncIterator[Told]:
    told = Told()
    task = asyncio.create_task(eviction.watch(source, url, told.append))
    try:
        yield told
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eviction, "_FILE_PAUSE_SECONDS", 0.02)
    for service in SERVICES.values():
        monkeypatch.setattr(service, "pause_seconds", 0.02)


async def asked(kind: type[StandIn], times: int = 3) -> None:
    """Wait until it was asked that often again."""
    before = len(kind.asked)
    await until(lambda: len(kind.asked) >= before + times)


async def test_aws_says_when_a_spot_instance_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # no proxy leads to a metadata service

    class Aws(AwsStandIn):
        asked: ClassVar[list[str]] = []
        tokens: ClassVar[list[str]] = []

    with serving(Aws) as url:
        async with watching("aws", url) as told:
            await asked(Aws)
            assert told == []
            Aws.tokens.append("the one given before has expired")
            await asked(Aws)
            assert len(Aws.tokens) == 3
            Aws.action = {"action": "terminate", "time": "2026-01-02T03:04:05Z"}
            assert await told.until(1) == Eviction(at=1767323045, source="aws")
            await asked(Aws)
            assert len(told) == 1
    assert set(Aws.asked) == {"/latest/meta-data/spot/instance-action"}


async def test_a_service_that_is_away_for_a_while_takes_nothing_back() -> None:
    class Aws(AwsStandIn):
        asked: ClassVar[list[str]] = []
        tokens: ClassVar[list[str]] = []
        action: ClassVar[dict[str, str] | None] = {"action": "stop", "time": "2026-01-02T03:04:05Z"}
        silent: ClassVar[bool] = True

    with serving(Aws) as url:
        async with watching("aws", url) as told:
            await asked(Aws)
            Aws.silent = False
            await told.until(1)
            Aws.silent = True
            await asked(Aws)
            Aws.silent = False
            await asked(Aws)
            assert len(told) == 1


async def test_google_keeps_the_question_until_the_machine_is_preempted() -> None:
    class Gcp(GcpStandIn):
        asked: ClassVar[list[str]] = []
        preempted: ClassVar[threading.Event] = threading.Event()
        held: ClassVar[threading.Event] = threading.Event()

    with serving(Gcp) as url:
        async with watching("gcp", url) as told:
            assert await asyncio.to_thread(Gcp.held.wait, 10)
            assert len(Gcp.asked) == 2  # the first question is answered at once
            began = time.time()
            Gcp.preempted.set()
            notice = await told.until(1)
            assert notice is not None
            assert notice.source == "gcp"
            assert began + 30 <= notice.at <= time.time() + 30
            await asked(Gcp)
            assert len(told) == 1


async def test_azure_tells_of_its_own_machine_alone_and_may_take_it_back() -> None:
    class Azure(AzureStandIn):
        asked: ClassVar[list[str]] = []
        events: ClassVar[list[dict[str, object]]] = []

    with serving(Azure) as url:
        async with watching("azure", url) as told:
            moment = "Fri, 02 Jan 2026 03:04:05 GMT"
            Azure.events = [event("Reboot", not_before=moment), event(machine="worker_2", not_before=moment)]
            await asked(Azure)
            assert told == []
            Azure.events = [*Azure.events, event(not_before=moment)]
            assert await told.until(1) == Eviction(at=1767323045, source="azure")
            Azure.events = [event()]  # it has started
            await asked(Azure)
            assert len(told) == 1
            Azure.events = []
            assert await told.until(2) is None


async def test_a_file_gives_notice_while_it_is_there(tmp_path: Path) -> None:
    file = tmp_path / "evicted"
    async with watching(f"file:{file}") as told:
        file.touch()
        notice = await told.until(1)
        assert notice is not None
        assert (notice.source, notice.at) == ("file", file.stat().st_mtime + 120)
        for count, text in enumerate(("1767323045", "2026-01-02T03:04:06Z\n"), start=2):
            (tmp_path / "draft").write_text(text)
            (tmp_path / "draft").rename(file)
            assert await told.until(count) == Eviction(at=1767323043 + count, source="file")
        file.unlink()
        assert await told.until(4) is None


async def test_a_signal_gives_notice_once() -> None:
    async with watching("signal") as told:
        await asyncio.sleep(0)
        began = time.time()
        os.kill(os.getpid(), signal.SIGUSR1)
        notice = await told.until(1)
        assert notice is not None
        assert notice.source == "signal"
        assert began + 120 <= notice.at <= time.time() + 120
        os.kill(os.getpid(), signal.SIGUSR1)
        await asyncio.sleep(0.05)
        assert len(told) == 1


async def test_no_source_is_watched_where_none_is_named() -> None:
    await eviction.watch("none", "", lambda notice: None)


async def test_an_agent_tells_its_controller_at_once(tmp_path: Path) -> None:
    class Aws(AwsStandIn):
        asked: ClassVar[list[str]] = []
        tokens: ClassVar[list[str]] = []
        action: ClassVar[dict[str, str] | None] = {"action": "terminate", "time": "2026-01-02T03:04:05Z"}

    async with scripted_controller() as controller:
        controller.heartbeat_seconds = 600
        with serving(Aws) as url:
            agent = AgentProcess(controller, tmp_path / "node", "--eviction", "aws", "--metadata-url", url)
            try:
                await agent.online()
                assert await _told(controller) == Eviction(at=1767323045, source="aws")
            finally:
                await agent.end()


async def _told(controller: ScriptedController) -> Eviction | None:
    def newest() -> Eviction | None:
        return next((beat.load.eviction for beat in controller.nodes["here"].heartbeats if beat.load.eviction), None)

    return await controller.until(newest, what=lambda: "a heartbeat with the notice")
