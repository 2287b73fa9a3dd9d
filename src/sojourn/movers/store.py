"""Opening the store that a pass names; without its model, for processes that must start quickly."""

from __future__ import annotations

from sojourn.chunks import Vault, open_store
from sojourn.errors import StoreFailed


def open_vault(url: str, identity: str, key: str) -> Vault:
    """The owner's part of the store (the fields of a `StorePass`). Raises StoreFailed when another store is found at
    that address."""
    backend = open_store(url)
    found = backend.identity()
    if found != identity:
        raise StoreFailed(
            f"{backend.name} on this node is another store ({found[:8]}) than the one meant ({identity[:8]}).",
            "Mount the same folder on every node, or keep checkpoints in S3 (`[store] url`).",
        )
    return Vault(backend, bytes.fromhex(key))
