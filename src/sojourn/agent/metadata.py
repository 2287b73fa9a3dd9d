"""What the clouds' metadata services say of the end of a spot machine. Each is asked as its provider's pages tell.

`look()` gives the moment the machine ends, in seconds since the epoch, or None. It raises httpx.HTTPError when the
service does not answer, ValueError when it says what no such service says.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import ClassVar

import httpx
from pydantic import BaseModel

_TOKEN_SECONDS = 21600


class MetadataService(ABC):
    """Asked from within the machine, at an address that only the machine itself reaches."""

    address: ClassVar[str]
    pause_seconds: ClassVar[float]
    """Between two questions, as the provider recommends."""
    patience_seconds: ClassVar[float] = 10.0
    """For one answer."""

    def __init__(self, address: str = "", now: Callable[[], float] = time.time) -> None:
        self._now = now
        # The address is the machine's own: no proxy of the environment's leads there.
        self._client = httpx.AsyncClient(
            base_url=address or self.address, timeout=self.patience_seconds, trust_env=False
        )

    async def close(self) -> None:
        await self._client.aclose()

    @abstractmethod
    async def look(self) -> float | None: ...


class Aws(MetadataService):
    """Spot Instance interruption notices: `/latest/meta-data/spot/instance-action`, a 404 until there is one, with a
    session token (IMDSv2). Rebalance recommendations are not asked for: they name no end."""

    address = "http://169.254.169.254"
    pause_seconds = 5.0

    class Action(BaseModel):
        action: str
        time: datetime

    _token = ""

    async def look(self) -> float | None:
        answer = await self._ask()
        if answer.status_code == HTTPStatus.UNAUTHORIZED:  # no token yet, or it has expired
            self._token = await self._new_token()
            answer = await self._ask()
        if answer.status_code == HTTPStatus.NOT_FOUND:
            return None
        return self.Action.model_validate_json(answer.raise_for_status().content).time.timestamp()

    async def _ask(self) -> httpx.Response:
        headers = {"X-aws-ec2-metadata-token": self._token} if self._token else {}
        return await self._client.get("/latest/meta-data/spot/instance-action", headers=headers)

    async def _new_token(self) -> str:
        lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_SECONDS)}
        return (await self._client.put("/latest/api/token", headers=lifetime)).raise_for_status().text


class Gcp(MetadataService):
    """Preemption: `/computeMetadata/v1/instance/preempted` becomes TRUE 30 seconds before the end. The service keeps
    the question until the value is another one than that of `last_etag`, or `timeout_sec` have passed."""

    address = "http://metadata.google.internal"
    pause_seconds = 1.0
    patience_seconds = 75.0

    _NOTICE_SECONDS = 30.0
    _etag = "NONE"
    _at: float | None = None

    async def look(self) -> float | None:
        answer = await self._client.get(
            "/computeMetadata/v1/instance/preempted",
            params={"wait_for_change": "true", "timeout_sec": "60", "last_etag": self._etag},
            headers={"Metadata-Flavor": "Google"},
        )
        answer.raise_for_status()
        if answer.headers.get("Metadata-Flavor") != "Google":
            raise ValueError("the answer is not from Google's metadata server")
        self._etag = answer.headers.get("ETag", self._etag)
        preempted = answer.text.strip() == "TRUE"
        self._at = (self._at or self._now() + self._NOTICE_SECONDS) if preempted else None
        return self._at


class Azure(MetadataService):
    """Scheduled Events: `/metadata/scheduledevents` lists those of all machines of a set. An event that has started
    names no moment any more."""

    address = "http://169.254.169.254"
    pause_seconds = 1.0
    patience_seconds = 130.0
    """The first question turns the service on, which takes up to two minutes."""

    class Event(BaseModel):
        EventType: str
        Resources: list[str] = []
        NotBefore: str = ""

    class Events(BaseModel):
        Events: list[Azure.Event]

    _HEADERS: ClassVar[Mapping[str, str]] = {"Metadata": "true"}
    _name = ""
    _at: float | None = None

    async def look(self) -> float | None:
        answer = await self._client.get(
            "/metadata/scheduledevents", params={"api-version": "2020-07-01"}, headers=self._HEADERS
        )
        events = self.Events.model_validate_json(answer.raise_for_status().content).Events
        ends = [self._end(event) for event in events if event.EventType == "Preempt" and await self._is_ours(event)]
        self._at = min(ends, default=None)
        return self._at

    def _end(self, event: Event) -> float:
        return parsedate_to_datetime(event.NotBefore).timestamp() if event.NotBefore else self._at or self._now()

    async def _is_ours(self, event: Event) -> bool:
        """In doubt it is: a needless evacuation costs less than a missed one."""
        if not self._name:
            with suppress(httpx.HTTPError):
                self._name = await self._own_name()
        return not self._name or not event.Resources or self._name in event.Resources

    async def _own_name(self) -> str:
        answer = await self._client.get(
            "/metadata/instance/compute/name",
            params={"api-version": "2021-02-01", "format": "text"},
            headers=self._HEADERS,
        )
        return answer.raise_for_status().text.strip()


SERVICES: Mapping[str, type[MetadataService]] = {"aws": Aws, "gcp": Gcp, "azure": Azure}
