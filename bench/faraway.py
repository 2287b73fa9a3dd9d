"""How soon a sleeping session answers on a node that has nothing of it: its store lies behind a slow link."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from bench.links import Link, load_average, shaped
from bench.suspend import Sleeper
from sojourn.errors import Refused
from sojourn.testing import stack
from sojourn.testing.parts import free_port, until

BUCKET = "sojourn"
_CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "somebody",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_EC2_METADATA_DISABLED": "true",
}


def measure(heaps_gb: list[float], times: int, gbit_s: float) -> dict[str, Any]:
    """One JSON-ready object; docs/measuring.md says what each figure means."""
    with shaped(gbit_s) as link, _s3_store(), stack() as sojourner:
        load, wakes = load_average(), []
        for heap_gb in heaps_gb:
            sleeper = Sleeper(sojourner, heap_gb)
            try:
                wakes.append(_Wakes(sleeper, link, times))
            finally:
                sleeper.end()
    return {
        "bench": "faraway",
        "times": times,
        **link.said(),
        "wake_s": {one.name: one.wake_s for one in wakes},
    }
