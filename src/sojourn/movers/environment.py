"""How a node gets the layers of another one's environment, over the link of a move or one of its own.

    source                              target
    layers: ids, in order          →
                                   ←    wanted: those of them that it has not
    of each wanted one, in order:
                                   ←    ready: whether it is wanted still (another move may have brought it meanwhile)
    the contents, a stream         →
                                   ←    lacking: bits, for the files that no layer there has
    those files, a stream          →
    packed                         →
                                   ←    unpacked

Either side may say `refused`, an error, wherever it has to say something; both then raise it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from sojourn.environment.contents import Contents, decode
from sojourn.environment.depot import Depot, Lacking
from sojourn.errors import MoveFailed, SojournError
from sojourn.movers.parcels import Parcels

Said = Callable[[int, int], None]
"""Bytes of files that have crossed, and all that are to, as far as is known."""


def send(parcels: Parcels, depot: Depot, contents: Sequence[Contents], said: Said = lambda done, total: None) -> None:
    """The source's side, which has these layers: of its own root, or in its depot. Raises what either side met: a file
    that has changed (Incompatible), no room (DoesNotFit), a link that is gone (MoveFailed)."""
    parcels.send(layers=[layer.id for layer in contents])
    wanted = parcels.answer("wanted")
    account = _Account(said)
    for layer in contents:
        if layer.id in wanted and parcels.answer("ready"):
            _send_layer(parcels, depot, layer, account)


def _send_layer(parcels: Parcels, depot: Depot, layer: Contents, account: _Account) -> None:
    parcels.send_stream(layer.encode())
    lacking = Lacking.from_bits(layer, bytes.fromhex(parcels.answer("lacking")))
    account.expect(lacking.size_bytes)
    try:
        parcels.send_stream(account.counted(depot.pack(layer, lacking)))
    except MoveFailed:
        raise
    except SojournError as changed:
        parcels.send_stream(())
        parcels.send(refused=changed.to_wire())
        raise
    parcels.send(packed=True)
    parcels.answer("unpacked")


def receive(parcels: Parcels, depot: Depot, said: Said = lambda done, total: None) -> list[str]:
    """The target's side. The ids of the layers, in the order in which the source named them: all are in the depot then.
    Raises as `send` does."""
    ids: list[str] = parcels.answer("layers")
    wanted = [id for id in ids if depot.here(id) is None]  # noqa: A001
    parcels.send(wanted=wanted)
    account = _Account(said)
    for id in wanted:  # noqa: A001
        with depot.turn(id):
            is_wanted = depot.here(id) is None
            parcels.send(ready=is_wanted)
            if is_wanted:
                _receive_layer(parcels, depot, id, account)
    for id in ids:  # noqa: A001
        depot.note_use(id)
    return ids


def _receive_layer(parcels: Parcels, depot: Depot, id: str, account: _Account) -> None:  # noqa: A002
    with parcels.refusing():
        layer = decode(parcels.receive_stream(), id)
        lacking = depot.lacking(layer)
        depot.require_room(layer, lacking)
    account.expect(lacking.size_bytes)
    parcels.send(lacking=lacking.to_bits(layer).hex())
    stream = parcels.receive_stream()
    try:
        depot.unpack(layer, lacking, account.counted(stream))
    except MoveFailed:
        raise
    except SojournError as wrong:
        _drain(stream)
        parcels.answer("packed")  # or why not, which then is the reason
        parcels.send(refused=wrong.to_wire())
        raise
    parcels.answer("packed")
    parcels.send(unpacked=id)


class _Account:
    """What has crossed, and what is to."""

    def __init__(self, said: Said) -> None:
        self._said, self._done, self._total = said, 0, 0

    def expect(self, size: int) -> None:
        self._total += size

    def counted(self, stream: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in stream:
            yield chunk
            self._done += len(chunk)
            self._said(self._done, self._total)


def _drain(stream: Iterable[bytes]) -> None:
    for _ in stream:
        pass
