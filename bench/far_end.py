"""The far end of what is measured over a link: run on the other host with ADDRESS and FOLDER.

It listens at ADDRESS, says its port, and does with each connection what the first byte asks for: echo, drain, or take
in an environment's layers, into a depot in FOLDER.
"""

from __future__ import annotations

import socket
import sys
import threading
from pathlib import Path

from sojourn.environment.depot import Depot
from sojourn.movers import environment
from sojourn.movers.parcels import Parcels

ECHO, DRAIN, LAYERS = b"e", b"d", b"l"
_PIECE = 1 << 20


def serve(connection: socket.socket, folder: Path) -> None:
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        asked = connection.recv(1)
        if asked == ECHO:
            while said := connection.recv(_PIECE):
                connection.sendall(said)
        elif asked == DRAIN:
            piece = bytearray(_PIECE)
            while connection.recv_into(piece):
                pass
            connection.sendall(DRAIN)
        elif asked == LAYERS:
            environment.receive(Parcels(connection), Depot(folder))
            connection.sendall(LAYERS)


def main() -> None:
    address, folder = sys.argv[1], Path(sys.argv[2])
    with socket.create_server((address, 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=(connection, folder), daemon=True).start()


if __name__ == "__main__":
    main()
