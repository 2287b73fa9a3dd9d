"""Every kind of store keeps to one contract; S3's with a real server."""

from __future__ import annotations

import importlib.util
import itertools
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sojourn.chunks import Vault, open_store
from sojourn.errors import StoreFailed
from sojourn.testing.store_contract import KEY, Opened, StoreContract, save

pytestmark = pytest.mark.integration
_numbers = itertools.count()


class TestLocal(StoreContract):
    @pytest.fixture
    def opened(self, tmp_path: Path) -> Opened:
        return lambda: open_store(f"file://{tmp_path}/a%20store")


class TestMemory(StoreContract):
    @pytest.fixture
    def opened(self) -> Opened:
        name = f"contract-{next(_numbers)}"
        return lambda: open_store(f"memory://{name}")


KILLED = """
import random, sys
from sojourn.chunks import CHUNK, Vault, open_store
vault = Vault(open_store(sys.argv[1]), bytes(range(32)))
with vault.writing("killed"):
    for number in range(100_000):
        vault.write(random.randbytes(CHUNK))
        print(number, flush=True)
"""


def test_a_writer_that_is_killed_leaves_nothing_that_a_sweep_does_not_find(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/store"
    with subprocess.Popen([sys.executable, "-c", KILLED, url], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        for _ in range(100):
            assert writer.stdout.readline()
        vault = Vault(open_store(url), KEY)
        assert vault.sweep().busy == 1
        writer.kill()
    assert vault.checkpoints() == []
    swept = vault.sweep()
    assert (swept.busy, swept.used_bytes, swept.slack_bytes) == (0, 0, 0)
    assert swept.packs >= 2
    save(vault, "next", b"page" * 1000, b"")
    assert vault.verify("next") == []


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an S3 server, a process of its own."""
    for needed in ("boto3", "moto", "flask"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed: pip install 'moto[server]' boto3")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("moto") / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stdout=out, stderr=out
        )
    try:
        _await(port, process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def _await(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    pytest.skip(f"moto's server does not start: {log.read_text()[-500:]}")


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.mark.usefixtures("credentials")
class TestS3(StoreContract):
    creators = 1
    """moto looks, then writes, in two steps; real servers do it in one."""

    @pytest.fixture
    def opened(self, server: str, credentials: None) -> Iterator[Opened]:
        import boto3

        bucket = f"bucket-{next(_numbers)}"
        boto3.client("s3", endpoint_url=server, region_name="us-east-1").create_bucket(Bucket=bucket)
        handles = []

        def opened() -> object:
            handles.append(open_store(f"s3://{bucket}/some/prefix?endpoint={server}"))
            return handles[-1]

        yield opened  # type: ignore[misc]
        for handle in handles:
            handle.close()

    def test_a_bucket_that_is_not_there_is_named(self, server: str) -> None:
        store = open_store(f"s3://nowhere/x?endpoint={server}")
        with pytest.raises(StoreFailed, match=r"s3://nowhere/x.*NoSuchBucket") as failed:
            store.put("a", b"")
        assert "Make the bucket" in failed.value.hint
        with pytest.raises(StoreFailed):
            store.identity()
        with pytest.raises(StoreFailed):
            list(store.keys(""))

    def test_a_server_that_ignores_conditions_is_refused(self, opened: Opened) -> None:
        store = opened()
        put = store._client.put_object  # type: ignore[attr-defined]
        store._client.put_object = lambda IfNoneMatch=None, **rest: put(**rest)  # type: ignore[attr-defined] # noqa: N803
        with pytest.raises(StoreFailed, match="overwrites") as failed:
            store.identity()
        assert "If-None-Match" in failed.value.hint


@pytest.mark.usefixtures("credentials")
def test_a_server_that_does_not_answer_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("boto3")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        store = open_store(f"s3://b/p?endpoint=http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(StoreFailed, match=r"s3://b/p.*127\.0\.0\.1") as failed:
            store.get("a")
    assert failed.value.hint
