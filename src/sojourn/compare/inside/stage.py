"""What a kernel that is compared is asked and answers, in JSON: before its first cell, or between two of them."""

from __future__ import annotations

import gc
import hashlib
import json
import platform
import sys
import time
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from .portraits import portrait
from .ways import WAYS, in_words, names_of_user

LOOKS = 2
"""A value that looks otherwise at the second look than at the first can't be compared with anything."""
_IMMUTABLE = (int, float, complex, str, bytes, tuple, frozenset, type, type(None), type(json))
"""Whether two names have one of these in common makes no difference to anybody."""

said = ""
"""The last answer."""
_not_the_users: frozenset[str] = frozenset()
"""Names that were there before the first cell. (IPython's own list of them Kishu empties.)"""


def hear(question: str) -> None:
    global said
    said = answer(question)


def answer(question: str) -> str:
    """`question`: {"act": …, and what that takes}. Never raises: {"error": …} is an answer too."""
    asked: dict[str, Any] = json.loads(question)
    try:
        found = _ACTS[asked.pop("act")](**asked)
    except Exception as error:  # a way may raise whatever the classes of a state raise
        found = {"error": in_words(error)}
    return json.dumps(found)


def _shell() -> Any:
    return import_module("IPython").get_ipython()


def begin(way: str = "", path: str = "") -> dict[str, Any]:
    """Which Python this is; and, for a way, whether its package is there, which is imported then."""
    global _not_the_users
    _not_the_users = frozenset(_shell().user_ns)
    here = {"python": platform.python_version(), "executable": sys.executable}
    if way:
        try:
            import_module(WAYS[way].module)
        except ImportError as missing:
            return {**here, "missing": in_words(missing)}
        WAYS[way].watch(_shell(), Path(path))
    return here


def look(names: list[str] | None = None) -> dict[str, Any]:
    """What can be seen of these names, or of all that the user's cells have made, without changing anything."""
    namespace = _shell().user_ns
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        users = sorted(names_of_user(_shell()).keys() - _not_the_users)
        wanted = users if names is None else [name for name in names if name in namespace]
        return {"names": {name: _seen(namespace, name, wanted) for name in wanted}}


def _seen(namespace: dict[str, Any], name: str, others: list[str]) -> dict[str, str]:
    """`digest`: of its portrait, "" with a `why` if there is none. `alias`: the first name of the same object.
    `globals`: of a function that sees what later cells assign."""
    value = namespace[name]
    alias = "" if isinstance(value, _IMMUTABLE) else next(other for other in others if namespace[other] is value)
    seen = {"kind": _kind(value), "digest": "", "why": "", "alias": "" if alias == name else alias}
    if getattr(value, "__globals__", None) is namespace:
        seen["globals"] = "the notebook's"
    try:
        digests = {_digest(value) for _ in range(LOOKS)}
    except Exception as error:  # what a class of the user's does when it is looked at
        return {**seen, "why": in_words(error)}
    if len(digests) > 1:
        return {**seen, "why": "it looks different each time"}
    return {**seen, "digest": digests.pop()}


def _digest(value: Any) -> str:
    drawn = json.dumps(portrait(value, use_up=False))
    return hashlib.blake2b(drawn.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _kind(value: Any) -> str:
    """For people: `ndarray (1000, 3)`, `int 7`."""
    name = type(value).__name__
    if isinstance(value, (int, float, str, type(None))) and len(repr(value)) <= 40:
        return f"{name} {value!r}"
    shape = getattr(value, "shape", None)
    return f"{name} {shape}" if type(shape) is tuple else name


def save(way: str, path: str) -> dict[str, Any]:
    """`seconds`, `bytes` on the disk, and what the way `said` that it does not carry: [name, why]."""
    return {**_timed("save", way, path), "bytes": _size_bytes(Path(path))}


def restore(way: str, path: str) -> dict[str, Any]:
    return _timed("restore", way, path)


def _timed(act: str, way: str, path: str) -> dict[str, Any]:
    gc.collect()
    since = time.perf_counter()
    losses = getattr(WAYS[way], act)(_shell(), Path(path))
    seconds = time.perf_counter() - since
    return {"seconds": seconds, "said": [[loss.name, loss.why] for loss in losses]}


def _size_bytes(path: Path) -> int:
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size


_ACTS: dict[str, Callable[..., dict[str, Any]]] = {"begin": begin, "look": look, "save": save, "restore": restore}
