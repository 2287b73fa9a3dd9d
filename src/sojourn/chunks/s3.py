"""A store in a bucket of S3, or of anything that speaks like it and keeps to `If-None-Match` (AWS, MinIO, Ceph, R2, …).

Credentials and region come from where boto3 finds them: the environment, `~/.aws`, the machine's role.
"""

from __future__ import annotations

import contextlib
import html
import itertools
import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from sojourn.chunks.backend import IDENTITY, Backend, Bytes, Entry
from sojourn.errors import Invalid, StoreFailed

_MOST_AT_ONCE = 1000
"""Keys in one DeleteObjects."""
_CONNECTIONS = 32
_ABSENT = {"NoSuchKey", "404", "NotFound"}
_THERE = {"PreconditionFailed", "412"}
_PARTIAL = 206
"""A server that knows no ranges answers with the whole."""
_BEYOND = {"InvalidRange", "416"}
_ENTRY = re.compile(rb"<Contents>(.*?)</Contents>", re.DOTALL)
_FIELD = re.compile(rb"<(Key|Size|LastModified)>([^<]*)<")
_HINTS = {
    "NoSuchBucket": "Make the bucket first, or mend the address: SOJOURN_STORE.",
    "AccessDenied": "Give these credentials the right to list, read, write and delete there.",
    "403": "Give these credentials the right to list, read, write and delete there.",
    "InvalidAccessKeyId": "Look at AWS_ACCESS_KEY_ID.",
    "SignatureDoesNotMatch": "Look at AWS_SECRET_ACCESS_KEY.",
    "NotImplemented": "This server can't write under a condition (If-None-Match): update it, or choose another.",
    "EntityTooLarge": "The server's limit on an object is too low.",
}
_ANY_HINT = "Look at the server, its disk, and the address of the store: SOJOURN_STORE."


class S3Backend(Backend):
    """`prefix`: what all keys begin with, without a slash at its end. Raises StoreFailed where boto3 is missing."""

    def __init__(self, bucket: str, prefix: str = "", endpoint: str | None = None, region: str | None = None) -> None:
        super().__init__()
        self.name = f"s3://{bucket}/{prefix}" + (f" at {endpoint}" if endpoint else "")
        self._bucket, self._base = bucket, f"{prefix}/" if prefix else ""
        self._client, self._failures = _client(endpoint, region)

    def put(self, key: str, body: Bytes) -> None:
        with self._told("write"):
            self._client.put_object(**self._at(key), Body=bytes(body))

    def create(self, key: str, body: Bytes) -> bool:
        """A repeated request, whose first answer was lost, says False although it was ours: callers look again."""
        try:
            with self._told("write"):
                self._client.put_object(**self._at(key), Body=bytes(body), IfNoneMatch="*")
        except KeyError:
            return False
        return True

    def touch(self, key: str) -> None:
        self.put(key, self.get(key))

    def get(self, key: str) -> bytes:
        with self._told("read"):
            body: bytes = self._client.get_object(**self._at(key))["Body"].read()
            return body

    def part(self, key: str, offset: int, length: int) -> bytes:
        reach = f"bytes={offset}-{offset + length - 1}"
        try:
            with self._told("read"):
                answer = self._client.get_object(**self._at(key), Range=reach)
                body: bytes = answer["Body"].read()
                is_part = answer["ResponseMetadata"]["HTTPStatusCode"] == _PARTIAL
                return body if is_part else body[offset : offset + length]
        except StoreFailed as failed:
            if getattr(failed.__cause__, "response", {}).get("Error", {}).get("Code") in _BEYOND:
                return b""
            raise

    def has(self, key: str) -> bool:
        try:
            with self._told("read"):
                self._client.head_object(**self._at(key))
        except KeyError:
            return False
        return True

    def keys(self, prefix: str) -> Iterator[Entry]:
        with self._told("list"):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._base + prefix
            )
            for found in itertools.chain.from_iterable(page.get("Contents", ()) for page in pages):
                yield Entry(found["Key"][len(self._base) :], found["Size"], found["LastModified"].timestamp())

    def delete(self, *keys: str) -> None:
        for some in _batches(keys):
            objects = [{"Key": self._base + key} for key in some]
            with self._told("delete"):
                answer = self._client.delete_objects(Bucket=self._bucket, Delete={"Objects": objects, "Quiet": True})
            if answer.get("Errors"):
                raise self._failed("delete", answer["Errors"][0].get("Code", ""), str(answer["Errors"][0]))

    def close(self) -> None:
        self._client.close()

    def _identify(self) -> str:
        """With proof that the server keeps to conditions: some only ignore what they don't know."""
        identity = super()._identify()
        if self.create(IDENTITY, self.get(IDENTITY)):
            raise self._failed("write", "NotImplemented", "it overwrites what it was told not to")
        return identity

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._base + key}

    @contextlib.contextmanager
    def _told(self, act: str) -> Iterator[None]:
        """KeyError: it is not there, or, where a condition was set, it is."""
        try:
            yield
        except self._failures as wrong:
            code = getattr(wrong, "response", {}).get("Error", {}).get("Code", "")
            if code in _ABSENT | _THERE:
                raise KeyError(str(wrong)) from wrong
            raise self._failed(act, code, str(wrong)) from wrong

    def _failed(self, act: str, code: str, why: str) -> StoreFailed:
        return StoreFailed(f"Can't {act} in the store {self.name}: {why}.", _HINTS.get(code, _ANY_HINT))


def _client(endpoint: str | None, region: str | None) -> tuple[Any, tuple[type[Exception], ...]]:
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
    except ImportError as missing:
        raise StoreFailed("A store in S3 needs boto3.", "pip install 'sojourn[s3]'") from missing
    config = Config(
        connect_timeout=5,
        read_timeout=60,
        max_pool_connections=_CONNECTIONS,
        retries={"mode": "standard", "max_attempts": 4},
        # Else boto3 adds checksums that not every server knows. GCM's tags tell more.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": "path"} if endpoint else None,
    )
    session = boto3.session.Session(region_name=region)
    try:
        client = session.client(
            "s3", endpoint_url=endpoint, region_name=session.region_name or "us-east-1", config=config
        )
    except ValueError as wrong:
        raise Invalid(f"{endpoint!r} is not the address of a server.", "Write ?endpoint=http://host:port") from wrong
    client.meta.events.register("before-parse.s3.ListObjectsV2", _read_listing)
    return client, (BotoCoreError, ClientError, HTTPClientError)


def _read_listing(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any) -> None:
    """Take the objects out of a listing before botocore reads the rest of it: it needs 50 µs of a core for each, and a
    wake waits for a listing."""
    body = response_dict["body"]
    if found := [_listed(entry) for entry in _ENTRY.findall(body)]:
        customized_response_dict["Contents"] = found
        response_dict["body"] = _ENTRY.sub(b"", body)


def _listed(entry: bytes) -> dict[str, Any]:
    told = {name.decode(): html.unescape(text.decode()) for name, text in _FIELD.findall(entry)}
    return {
        "Key": told["Key"],
        "Size": int(told["Size"]),
        "LastModified": datetime.fromisoformat(told["LastModified"]),
    }


def _batches(keys: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for start in range(0, len(keys), _MOST_AT_ONCE):
        yield keys[start : start + _MOST_AT_ONCE]
