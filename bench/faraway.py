"""How soon a sleeping session answers on a node that has nothing of it: its store lies behind a slow link."""

from __future__ import annotations

import importlib.util
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from bench.links import Link, load_average, shaped
from bench.suspend import NODES, Sleeper
from sojourn.errors import Refused
from sojourn.testing import stack

_CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "somebody",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_EC2_METADATA_DISABLED": "true",
}


def measure(heaps_gb: list[float], times: int, gbit_s: float) -> dict[str, Any]:
    """One JSON-ready object; docs/measuring.md says what each figure means."""
    with shaped(gbit_s) as link, _store_in_s3(), stack(NODES) as sojourner:
        load, by_gb = load_average(), {}
        wrong_pages = 0
        for heap_gb in heaps_gb:
            sleeper = Sleeper(sojourner, heap_gb)
            try:
                by_gb[f"{heap_gb:g}"] = _wakes(sleeper, link, times)
                wrong_pages += sleeper.wrong_pages
            finally:
                sleeper.end()
    return {"bench": "faraway", "times": times, **link.said(), "by_gb": by_gb, "wrong_pages": wrong_pages, "load": load}


def _wakes(sleeper: Sleeper, link: Link, times: int) -> dict[str, float]:
    sent = link.sent_bytes
    for _ in range(times):
        sleeper.wake_elsewhere()
    return {
        "wake_s": round(statistics.median(sleeper.elsewhere_s), 3),
        "slowest_wake_s": round(max(sleeper.elsewhere_s), 3),
        "suspend_s": round(statistics.median(sleeper.suspend_s), 2),
        "sent_gb": round((link.sent_bytes - sent) / times / 2**30, 2),
    }


@contextmanager
def _store_in_s3() -> Iterator[None]:
    """SOJOURN_STORE is a bucket behind the link. Raises Refused."""
    if importlib.util.find_spec("boto3") is None:
        raise Refused("A store in S3 needs boto3.", "pip install 'sojourn[s3]'")
    server = subprocess.Popen([sys.executable, "-m", "bench.bucket"], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout
        port = int(server.stdout.readline())
        address = {"SOJOURN_STORE": f"s3://checkpoints/bench?endpoint=http://127.0.0.1:{port}"}
        with patch.dict(os.environ, _CREDENTIALS | address):
            yield
    finally:
        server.terminate()
        server.wait(10)
