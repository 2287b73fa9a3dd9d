"""Where checkpoints lie, and what opens them: the store, and for each owner a key and a vault.

A store is a disk or a network, so it is only ever touched in threads. What a pass is made of stands in the database:
instructions that must be told again need no store that answers.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from functools import cache
from typing import TypeVar

from sojourn.chunks import Vault, open_store
from sojourn.database import Checkpoint, Database
from sojourn.database import queries as ask
from sojourn.errors import StoreFailed
from sojourn.model import StorePass

T = TypeVar("T")


class Vaults:
    def __init__(self, database: Database, url: str) -> None:
        """`url`: where new checkpoints go. Raises Invalid; whether the store answers is not known yet."""
        self._database, self._url = database, url
        self._backend = cache(open_store)
        self._backend(url)
        with database.transaction() as connection:
            self._keys = ask.owner_keys(connection)
            self._stores = ask.stores(connection)

    async def ready(self) -> None:
        """To be awaited before anything is to be saved. Raises StoreFailed when the store can't be opened, or is not
        the one in which checkpoints lie."""
        identity = await asyncio.to_thread(lambda: self._backend(self._url).identity())
        if self._stores.get(identity) == self._url:
            return
        with self._database.transaction(lasting=True) as connection:
            self._require_no_other(identity, ask.checkpoints(connection))
            ask.save_store(connection, identity, self._url)
        self._stores = {**{known: url for known, url in self._stores.items() if url != self._url}, identity: self._url}

    def here(self) -> str:
        """The identity of the store where new checkpoints go; while it was never ready, of the one where they went
        before. Raises StoreFailed when there never was any."""
        found = [identity for identity, url in self._stores.items() if url == self._url] or list(self._stores)
        if found:
            return found[-1]
        raise StoreFailed(f"The store at {self._url} has never been opened.", "Look at its address, then try again.")

    def pass_for(self, owner: str, store: str | None = None) -> StorePass:
        """`store`: its identity; None: where new checkpoints go. Raises StoreFailed for one never seen."""
        identity = store or self.here()
        if identity not in self._stores:
            raise StoreFailed(f"The store {identity} is not known any more.", "Connect it again: SOJOURN_STORE.")
        return StorePass(url=self._stores[identity], identity=identity, key=self._key(owner))

    async def within(self, owner: str, store: str, act: Callable[[Vault], T]) -> T:
        """Do something in an owner's vault, in a thread. Raises StoreFailed, also when another store lies there now."""
        opens = self.pass_for(owner, store)
        return await asyncio.to_thread(lambda: act(self._vault(opens)))

    def all(self) -> list[tuple[str, str]]:
        """(owner, store) of every vault there may be."""
        return [(owner, store) for owner in self._keys for store in self._stores]

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────

    def _vault(self, opens: StorePass) -> Vault:
        backend = self._backend(opens.url)
        if backend.identity() != opens.identity:
            raise _another(opens.url)
        return Vault(backend, bytes.fromhex(opens.key))

    def _key(self, owner: str) -> str:
        """Made on first use, and safe on the disk before anything is sealed with it."""
        if owner not in self._keys:
            key = secrets.token_hex(32)
            with self._database.transaction(lasting=True) as connection:
                ask.add_owner(connection, owner, key)
            self._keys[owner] = key
        return self._keys[owner]

    def _require_no_other(self, identity: str, checkpoints: list[Checkpoint]) -> None:
        """A folder that is not mounted must not be taken for an empty store."""
        before = {known for known, url in self._stores.items() if url == self._url and known != identity}
        if any(one.store in before for one in checkpoints):
            raise _another(self._url)


def _another(url: str) -> StoreFailed:
    return StoreFailed(
        f"The store at {url} is not the one in which checkpoints were kept.",
        "Mount or connect that one again; or name another address for new checkpoints: SOJOURN_STORE.",
    )
