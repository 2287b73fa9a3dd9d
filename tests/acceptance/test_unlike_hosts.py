"""A node that has nothing in common with this machine but the kernel: another release of Debian, with another Python,
behind a link of its own. `sojourn add` makes it a node, and sessions go there and come back."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager
from tests.acceptance.conftest import why_no_live_move

from bench.listener import Listener
from sojourn.client import Client
from sojourn.errors import Incompatible
from sojourn.testing import end_kernel, execute, session_of, stack
from sojourn.testing.parts import until
from sojourn.testing.unlike_host import (
    LAB,
    PYTHON,
    RELEASE,
    UnlikeHost,
    unlike_host,
    unlike_root,
    wheelhouse,
    why_no_unlike_host,
)

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(600)]

CHECKOUT = Path(__file__).parents[2]
THERE = f"{LAB}/bin/python"
"""The Python of the other release, at home on that host and in the image."""
RELEASE_HERE = "open('/etc/os-release').read().split('VERSION_CODENAME=')[1].split()[0]"


@dataclass
class Lab:
    client: Client
    host: UnlikeHost
    files: set[str]
    """Of the host, before it was a node."""
    said: str
    """By `sojourn add`."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """This machine is `here`, the other host `trixie`; both reach one store, and the image."""
    if reason := why_no_live_move() or why_no_unlike_host():
        pytest.skip(reason)
    root = unlike_root(CHECKOUT / "build/unlike", CHECKOUT / "requirements.lock")
    store = tmp_path_factory.mktemp("store")
    chosen = patch.dict("os.environ", SOJOURN_STORE=store.as_uri())
    with chosen, unlike_host(root, [store]) as host, stack(("here",)) as client:
        yield Lab(client, host, files_of(host), add(host))


def add(host: UnlikeHost) -> str:
    options = [word for option in host.ssh_options() for word in ("-o", option)]
    wheels = str(wheelhouse(host.image))
    return sojourn("add", f"root@{host.address}", "--yes", "--name", RELEASE, "--wheelhouse", wheels, *options)


def files_of(host: UnlikeHost) -> set[str]:
    """Those of its own root, without what apt notes for itself when the doctor asks it."""
    passed_over = ("/var/cache/apt/*", "/var/lib/apt/*")
    others = [word for path in passed_over for word in ("-not", "-path", path)]
    return set(host.says("find", "/", "-xdev", "-not", "-type", "d", *others).splitlines())


def sojourn(*argv: str) -> str:
    """What the command prints, on either stream; it must not fail."""
    done = subprocess.run([sys.executable, "-m", "sojourn.cli.main", *argv], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@contextmanager
def kernel(node: str, python: str = sys.executable, **config: Any) -> Iterator[tuple[KernelManager, Any]]:
    """Of a Python that this machine need not have, started on a node; it shares no folder with it."""
    manager = KernelManager()
    manager._kernel_spec = KernelSpec(
        argv=[python, "-m", "ipykernel_launcher", "--HistoryManager.enabled=False", "-f", "{connection_file}"],
        display_name=node,
        language="python",
        metadata={
            "kernel_provisioner": {
                "provisioner_name": "sojourn-provisioner",
                "config": {"needs": node, "shared": [], **config},
            }
        },
    )
    manager.start_kernel(cwd="/tmp")
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        yield manager, client
    finally:
        end_kernel(manager, client)


def test_the_other_release_is_a_node_whose_sessions_have_its_own_python(lab: Lab) -> None:
    assert "sessions move live (lazy, copy); relayed through ssh." in lab.said
    nodes = {node.name: node.capabilities for node in lab.client.nodes()}
    assert nodes[RELEASE].python.startswith(f"{PYTHON}.")
    assert nodes[RELEASE].strategies == nodes["here"].strategies
    assert nodes[RELEASE].root_id != nodes["here"].root_id
    assert nodes[RELEASE].machine_id != nodes["here"].machine_id
    (row,) = [line.split() for line in sojourn("nodes").splitlines() if line.startswith(RELEASE)]
    assert {"online", "lazy", "copy"} <= set(row)
    with kernel(RELEASE, THERE) as (_, client):
        assert execute(client, f"import sys; print(*sys.version_info[:2], {RELEASE_HERE})") == f"3 13 {RELEASE}"


def test_sessions_from_an_image_go_there_and_back_in_the_middle_of_a_cell(lab: Lab) -> None:
    with kernel("here", THERE, image=str(lab.host.image)) as (manager, client):
        session = session_of(manager)
        execute(client, "import os; log = open('/tmp/log', 'a+'); inner, outer = os.pipe(); words = {'a': 1}")
        request = client.execute(
            "from itertools import count\nimport time\n"
            "for number in count(1):\n    print(number, flush=True); print(number, file=log); time.sleep(0.002)"
        )
        listener = Listener(client, request)
        for node in (RELEASE, "here", RELEASE, "here"):
            moved = lab.client.move(session, node, wait="filled").move
            assert moved
            assert moved.report.relayed
            time.sleep(0.2)
        manager.interrupt_kernel()
        assert listener.ended.wait(20)
        assert listener.faults() == {"lost": 0, "duplicated": 0, "reordered": 0}

        assert execute(client, "log.flush(); log.seek(0); [int(line) for line in log] == list(range(1, number + 1))")
        assert execute(client, "os.write(outer, b'still'); os.read(inner, 9), words") == "(b'still', {'a': 1})"
        assert execute(client, f"import decimal; print({RELEASE_HERE}, decimal.Decimal(1) / 8)") == f"{RELEASE} 0.125"


def test_a_session_takes_its_release_and_its_python_along(lab: Lab) -> None:
    with kernel(RELEASE, THERE) as (manager, client):
        execute(client, "import sys, sysconfig, subprocess, pathlib\nnumbers = iter(range(100)); next(numbers)")
        execute(client, "extra = pathlib.Path(sysconfig.get_path('purelib'), 'installed_by_hand.py')")
        execute(client, "extra.write_text('answer = 42')")
        born = execute(client, f"{RELEASE_HERE}, sys.version")
        for turn, (node, new) in enumerate((("here", "decimal"), (RELEASE, "sqlite3"), ("here", "ctypes")), 1):
            lab.client.move(session_of(manager), node, wait="filled")
            assert execute(client, f"{RELEASE_HERE}, sys.version") == born
            assert execute(client, "next(numbers)") == str(turn)
            assert execute(client, f"import {new}; bool({new}.__file__)") == "True"
            fresh = "'import json, ipykernel, installed_by_hand as mine; print(mine.answer)'"
            ran = f"subprocess.run([sys.executable, '-c', {fresh}], capture_output=True, text=True)"
            assert execute(client, f"print({ran}.stdout)") == "42"


def test_a_library_from_elsewhere_keeps_a_session_where_it_is_and_is_named(lab: Lab) -> None:
    lab.host.says("sh", "-c", "mkdir -p /srv/own && cp /usr/lib/*-linux-gnu/libz.so.1 /srv/own/libown.so")
    with kernel(RELEASE, THERE) as (manager, client):
        execute(client, "import ctypes; own = ctypes.CDLL('/srv/own/libown.so')")
        with pytest.raises(Incompatible, match=r"/srv/own/libown\.so"):
            lab.client.move(session_of(manager), "here", wait="filled")
        assert execute(client, f"own.zlibVersion() != 0, {RELEASE_HERE}") == f"(True, '{RELEASE}')"
        assert lab.client.session(session_of(manager)).node == RELEASE
    lab.host.says("rm", "-r", "/srv/own")


def test_what_fell_asleep_here_wakes_there(lab: Lab) -> None:
    with kernel("here", THERE, image=str(lab.host.image)) as (manager, client):
        session = session_of(manager)
        execute(client, "numbers = iter(range(100)); next(numbers)")
        lab.client.suspend(session, wait="done")
        lab.client.resume(session, to=RELEASE, wait="filled")
        assert lab.client.session(session).node == RELEASE
        assert execute(client, "next(numbers)") == "1"


def test_a_node_that_is_removed_gives_its_sessions_away_first_and_is_left_as_it_was(lab: Lab) -> None:
    """The last test of all: the node is gone afterwards."""
    with kernel(RELEASE, THERE, image=str(lab.host.image)) as (manager, client):
        execute(client, "x = 42")
        said = sojourn("remove", RELEASE, "--drain")
        assert "Bring its sessions away" in said
        assert lab.client.session(session_of(manager)).node == "here"
        assert execute(client, "x") == "42"
        assert [node.name for node in lab.client.nodes()] == ["here"]
    until(lambda: lab.host.first.children() == [], "the end of all that ran there")
    assert sorted(files_of(lab.host) - lab.files) == []
