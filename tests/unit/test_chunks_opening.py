"""Addresses of stores."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sojourn.chunks import open_store
from sojourn.errors import Invalid, StoreFailed


def test_a_memory_store_is_one_per_name() -> None:
    assert open_store("memory://opening") is open_store("memory://opening") is not open_store("memory://another")


def test_a_folder_may_have_any_name(tmp_path: Path) -> None:
    assert open_store(f"file://{tmp_path}/with%20space").name == f"file://{tmp_path}/with space"


@pytest.mark.parametrize(
    "url",
    ["", "/folder", "file://host/folder", "file:relative", "s3://", "memory://", "ftp://x/y", "s3://b/p?endpoints=x"],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(Invalid, match=r"store|option"):
        open_store(url)


def test_without_boto3_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(StoreFailed) as failed:
        open_store("s3://bucket/prefix")
    assert failed.value.hint == "pip install 'sojourn[s3]'"


def test_an_endpoint_must_be_an_address() -> None:
    pytest.importorskip("boto3")
    with pytest.raises(Invalid, match="'nonsense'"):
        open_store("s3://bucket/prefix?endpoint=nonsense")
