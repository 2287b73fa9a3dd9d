"""What a front hosts, on disk, so that the next one hosts it again at the same ports."""

from __future__ import annotations

import json
import logging
import uuid
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from sojourn.front.connection import Connection
from sojourn.front.ledger import Ledger
from sojourn.front.recollection import Recollection
from sojourn.front.words import ControllerAddress
from sojourn.model import Program
from sojourn.model.base import Word
from sojourn.settings import write_private

log = logging.getLogger(__name__)

KERNELSPEC = "sojourn"
"""Jupyter Server takes notice of connection files that name a kernelspec."""


class Record(Word):
    """One hosted kernel."""

    session: str
    controller: ControllerAddress
    program: Program
    """As it was asked for, with `{connection_file}` in it."""
    outer: Connection
    inner: Connection
    language: str
    identity: str
    lease_seconds: float
    adopted: bool = False
    """No provisioner knows it: Jupyter finds it by its connection file alone."""


class Journal:
    """A folder with one file for each hosted kernel, and beside it the connection files for Jupyter.

    A Jupyter Server with `allow_external_kernels` and `external_connection_dir` set to `connections` lists them.
    """

    def __init__(self, folder: Path) -> None:
        self._own = folder / "identity.json"
        self._kernels = folder / "kernels"
        self.connections = folder / "connections"

    def front_id(self) -> str:
        """The same for each front on this folder."""
        try:
            return str(json.loads(self._own.read_bytes())["front"])
        except (OSError, ValueError, KeyError, TypeError):
            front = uuid.uuid4().hex
            write_private(self._own, {"front": front})
            return front

    def write(self, record: Record) -> None:
        write_private(self._kernels / f"{record.session}.json", record.model_dump(mode="json"))
        kernelspec = {"kernel_name": KERNELSPEC} if record.adopted else {}
        write_private(self._connection_file(record.session), kernelspec | record.outer.for_file())

    def ledger(self, session: str) -> Ledger:
        return Ledger(self._kernels / f"{session}.owed")

    def recollection(self, record: Record) -> Recollection:
        return Recollection(self._kernels / f"{record.session}.known", record.language)

    def recollect(self, fork: str, origin: str) -> None:
        """What is known of a kernel is true of its fork."""
        with suppress(OSError):  # then it is asked when it wakes
            known = json.loads((self._kernels / f"{origin}.known").read_bytes())
            write_private(self._kernels / f"{fork}.known", known | {"epoch": None})

    def forget(self, session: str) -> None:
        (self._kernels / f"{session}.known").unlink(missing_ok=True)
        (self._kernels / f"{session}.owed").unlink(missing_ok=True)
        self._connection_file(session).unlink(missing_ok=True)
        (self._kernels / f"{session}.json").unlink(missing_ok=True)

    def read(self) -> list[Record]:
        return [record for path in sorted(self._kernels.glob("[!.]*.json")) if (record := _read(path))]

    def _connection_file(self, session: str) -> Path:
        return self.connections / f"kernel-{session}.json"


def _read(path: Path) -> Record | None:
    try:
        return Record.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as broken:
        log.error("%s can't be read and is left alone: %s", path, broken)
        return None
