"""A TCP proxy with little bandwidth towards the server."""

from __future__ import annotations

import contextlib
import math
import socket
import threading
import time
from typing import Self

PIECE = 16384
BUFFER_BYTES = 65536  # of the kernel: what it takes, the client takes for sent


class Throttle:
    """Passes on `bytes_per_second` of what clients send, over each connection; what the server answers goes at once."""

    def __init__(self, port: int, bytes_per_second: float) -> None:
        self._port = port
        self._rate = bytes_per_second
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        self._open: list[socket.socket] = []
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        for each in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                server = socket.create_connection(("127.0.0.1", self._port))
                for each in (client, server):
                    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._open += [client, server]
                threading.Thread(target=_pass, args=(client, server, self._rate), daemon=True).start()
                threading.Thread(target=_pass, args=(server, client, math.inf), daemon=True).start()


def _pass(source: socket.socket, target: socket.socket, rate: float) -> None:
    """Bytes wait for their turn, which comes once those before them have had their time; silence earns none."""
    due = 0.0
    with contextlib.suppress(OSError):
        while piece := source.recv(PIECE):
            due = max(due, time.monotonic()) + len(piece) / rate
            time.sleep(max(0.0, due - time.monotonic()))
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)
