"""A bucket in memory: as much of S3 as Sojourn asks for, at a hundredth of a core.

    python -m bench.bucket

says the port at which it listens. A server for tests such as moto's takes 3 ms of a core for each request, which on a
machine that also holds both nodes would be measured instead of the link.
"""

from __future__ import annotations

import asyncio
import re
import time
from bisect import bisect_left, bisect_right
from html import escape
from urllib.parse import parse_qs, unquote, urlsplit

_MOST_KEYS = 1000
"""In one listing, as S3 has it."""
_HEAD_BYTES = 1 << 16
Answer = tuple[int, bytes]
_WORDS = {
    200: "OK",
    204: "No Content",
    206: "Partial Content",
    404: "Not Found",
    405: "Method Not Allowed",
    412: "Precondition Failed",
}


class Bucket:
    """Paths of objects (`/bucket/key`) and what they hold; every bucket is there."""

    def __init__(self) -> None:
        self._bodies: dict[str, bytes] = {}
        self._sorted: list[str] | None = []
        """None: to be sorted again."""

    def answer(self, method: str, path: str, options: dict[str, str], if_none_match: bool, body: bytes) -> Answer:
        if method == "PUT":
            return self._put(path, body, if_none_match)
        if method == "POST" and "delete" in options:
            return self._delete(path, body)
        if method == "GET" and "list-type" in options:
            return 200, self._list(path, options)
        if method in ("GET", "HEAD"):
            return (200, self._bodies[path]) if path in self._bodies else (404, _error("NoSuchKey"))
        return 405, _error("MethodNotAllowed")

    def _put(self, path: str, body: bytes, if_none_match: bool) -> Answer:
        if if_none_match and path in self._bodies:
            return 412, _error("PreconditionFailed")
        if path not in self._bodies:
            self._sorted = None
        self._bodies[path] = body
        return 200, b""

    def _delete(self, bucket: str, body: bytes) -> Answer:
        for key in re.findall(r"<Key>(.*?)</Key>", body.decode()):
            self._bodies.pop(f"{bucket}/{key}", None)
        self._sorted = None
        return 200, b"<DeleteResult/>"

    def _list(self, bucket: str, options: dict[str, str]) -> bytes:
        if self._sorted is None:
            self._sorted = sorted(self._bodies)
        prefix = f"{bucket}/{options.get('prefix', '')}"
        first = bisect_left(self._sorted, prefix)
        if after := options.get("continuation-token"):
            first = bisect_right(self._sorted, after)
        found = [path for path in self._sorted[first : first + _MOST_KEYS + 1] if path.startswith(prefix)]
        listed, more = found[:_MOST_KEYS], len(found) > _MOST_KEYS
        token = f"<NextContinuationToken>{escape(listed[-1])}</NextContinuationToken>" if more else ""
        contents = "".join(self._entry(path, path[len(bucket) + 1 :]) for path in listed)
        truncated = f"<IsTruncated>{str(more).lower()}</IsTruncated>"
        return f"<ListBucketResult>{truncated}{token}{contents}</ListBucketResult>".encode()

    def _entry(self, path: str, key: str) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
        size = len(self._bodies[path])
        return f"<Contents><Key>{escape(key)}</Key><LastModified>{at}</LastModified><Size>{size}</Size></Contents>"


def _error(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()


async def _converse(bucket: Bucket, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection, as long as the client keeps it."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            (method, target, _), headers = head.partition("\r\n")[0].split(" "), _headers(head)
            if "100-continue" in headers.get("expect", ""):
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            address = urlsplit(target)
            options = {name: values[-1] for name, values in parse_qs(address.query, keep_blank_values=True).items()}
            path = unquote(address.path).rstrip("/")
            status, answer = bucket.answer(method, path, options, "if-none-match" in headers, body)
            if status == 200 and (reach := re.fullmatch(r"bytes=(\d+)-(\d+)", headers.get("range", ""))):
                status, answer = 206, answer[int(reach[1]) : int(reach[2]) + 1]
            said = f"HTTP/1.1 {status} {_WORDS[status]}\r\nContent-Length: {len(answer)}\r\n\r\n".encode()
            writer.write(said if method == "HEAD" else said + answer)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


def _headers(head: str) -> dict[str, str]:
    lines = (line.partition(":") for line in head.split("\r\n")[1:] if line)
    return {name.strip().lower(): value.strip() for name, _, value in lines}


async def _serve() -> None:
    bucket = Bucket()
    server = await asyncio.start_server(lambda *ends: _converse(bucket, *ends), "127.0.0.1", 0, limit=_HEAD_BYTES)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve())
