"""A store's address, and the backend that it means."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from sojourn.chunks.backend import Backend
from sojourn.chunks.memory import MemoryBackend
from sojourn.errors import Invalid

_KNOWN = "Write file:///folder, s3://bucket/prefix?endpoint=http://host:port, or memory://name."
_S3_OPTIONS = {"endpoint", "region"}


def open_store(url: str) -> Backend:
    """`file:///folder`, `s3://bucket/prefix?endpoint=…&region=…`, `memory://name` (one per name and process).

    Nothing is touched yet: whether the store answers, its `identity()` tells. Raises Invalid.
    """
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path.startswith("/"):
        from sojourn.chunks.local import LocalBackend

        return LocalBackend(Path(unquote(parts.path)))
    if parts.scheme == "s3" and parts.netloc:
        from sojourn.chunks.s3 import S3Backend

        return S3Backend(parts.netloc, parts.path.strip("/"), **_options(url, parts.query))
    if parts.scheme == "memory" and parts.netloc:
        return _memory(parts.netloc)
    raise Invalid(f"{url!r} is not the address of a store.", _KNOWN)


def _options(url: str, query: str) -> dict[str, str]:
    options = {name: values[-1] for name, values in parse_qs(query).items()}
    if unknown := options.keys() - _S3_OPTIONS:
        raise Invalid(f"{url!r} has an option that means nothing: {min(unknown)!r}.", _KNOWN)
    return options


@cache
def _memory(name: str) -> MemoryBackend:
    return MemoryBackend(f"memory://{name}")
