"""Room for connections: how many a worker has, how many of each client, how much their unfinished heads may hold; and who goes when there is none."""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable
from enum import Enum
from typing import Protocol

from noraflask.config import ServerConfig
from noraflask.serve.clients import Clients
from noraflask.serve.connection import Connection, Phase
from noraflask.serve.held import Held

RESERVE = 16  # connections beyond the bound that are taken to see whether they ask for the server's health
YOUNG_SECONDS = 1  # a new connection has at least this long for its request before it makes room for others
GREEDY_PART = 4  # a client that has more than such a part of the connections makes room first
LOOKS = 8  # idle connections that are looked at, whether a request has just arrived there
ROOM, MANY = 16, 256  # so many connections are ended at a time, where more than so many wait


class Ending(Enum):
    """Why an exchange cannot go on."""

    TOO_SLOW = "the client took the response too slowly"
    EVICTED = "the server needed the connection for other clients"
    STOPPED = "the server is stopping"


class Connections(Protocol):
    """Those of a worker (reactor.py)."""

    connections: dict[int, Connection]
    idle: dict[int, Connection]
    waiting: dict[int, Connection]

    def parked(self) -> list[Connection]: ...

    def claim(self, conn: Connection) -> bool: ...

    def close(self, conn: Connection) -> None: ...

    def end(self, conn: Connection, why: Ending) -> None: ...

    def refuse(self, conn: Connection, status: int, reason: str) -> None: ...


class Room:
    reactor: Connections

    def __init__(self, share: int, share_of_client: int, client_of_peer: Callable[[str], str], told: Callable[[str], None]) -> None:
        """`share`: most connections at a time. `client_of_peer`: whom a new one counts for. `told` is called with what befell one, to be counted."""
        self.share = share
        self.client_of_peer = client_of_peer
        self._told = told
        self._clients = Clients(share_of_client)
        self._ending: set[Connection] = set()  # those that make room for others and are not closed yet
        self.held = Held()

    @property
    def overflow(self) -> int:
        """Connections beyond the bound; negative when there is room."""
        return len(self.reactor.connections) - len(self._ending) - self.share

    @property
    def is_full(self) -> bool:
        """Is there not even room for one that asks for the server's health?"""
        return self.overflow >= RESERVE

    def attribute(self, conn: Connection, client: str) -> None:
        """From now on the connection counts for this client."""
        if client != conn.client:
            self._clients.move(conn.client, client)
            conn.client = client

    def leaves(self, conn: Connection) -> None:
        """It has been told to end, and is not waited for."""
        self._ending.add(conn)

    def left(self, conn: Connection) -> None:
        """It is closed."""
        self.attribute(conn, "")
        self.let_go(conn)
        self._ending.discard(conn)

    def admits(self, conn: Connection) -> bool:
        """May its request run? If not, its client has too many others that do not wait, or all have."""
        return self.keep_to_share(conn.client, even_young=True) and (self.overflow <= 0 or self.make(even_young=True))

    def keep_to_share(self, client: str, even_young: bool = False) -> bool:
        """End connections of a client that has too many. False: none of them can be ended."""
        return not self._clients.is_over(client) or self._make_room_of(client, even_young)

    def make(self, even_young: bool = False) -> bool:
        """End some connections that wait: of a client that has more than its part, else idle ones, else those that were not heard for longest.

        `even_young`: where nothing else helps also such as have only just come, and may be about to send their requests.
        """
        greedy = self._clients.largest(self.share // GREEDY_PART)
        if greedy and self._make_room_of(greedy, even_young):
            return True
        longest_idle = self._longest_idle()
        if longest_idle is not None and self.reactor.claim(longest_idle):
            self.reactor.close(longest_idle)
            return True
        those = self._waiting_ones()
        return self._evict(those if even_young else _not_young(those))

    def _longest_idle(self) -> Connection | None:
        """Rather one on which no request has arrived, whose event is on its way."""
        idle = list(self.reactor.idle.values())  # at once: other threads change the table meanwhile
        return next((conn for conn in idle[:LOOKS] if not conn.is_readable), next(iter(idle), None))

    def _make_room_of(self, client: str, even_young: bool) -> bool:
        those = [conn for conn in self._waiting_ones() if conn.client == client]
        return self._evict(those if even_young else _not_young(those))

    def _waiting_ones(self) -> list[Connection]:
        return [conn for conn in self.reactor.parked() if conn.phase is not Phase.READY]

    def _evict(self, those: list[Connection]) -> bool:
        """Several at a time, as the search costs the same."""
        young = time.monotonic() - YOUNG_SECONDS

        def order(conn: Connection) -> tuple[bool, bool, float]:
            return conn.phase is not Phase.IDLE, _is_young(conn, young), conn.progress

        ended = 0
        for conn in heapq.nsmallest(ROOM if len(those) > MANY else 1, those, key=order):
            if self.reactor.claim(conn):
                self._told("evicted")
                self.reactor.end(conn, Ending.EVICTED)
                ended += 1
        return bool(ended)

    # Memory

    def hold_less(self) -> None:
        """Peers that are waited for make this worker hold too much: one of them goes."""
        conn = self.held.first_to_go(list(self.reactor.waiting.values()))
        if conn is None or not self.reactor.claim(conn):
            return
        self._told("evicted")
        if conn.phase is Phase.HEAD:
            self.reactor.refuse(conn, 431, "Request Header Fields Too Large")
        else:
            self.reactor.end(conn, Ending.EVICTED)

    def let_go(self, conn: Connection) -> None:
        """Its head is not an unfinished one any more."""
        self.held.put(conn, 0)


def _not_young(those: list[Connection]) -> list[Connection]:
    """Without those that came this very moment: their requests may be on their way, and are judged when they are there."""
    young = time.monotonic() - YOUNG_SECONDS
    return [conn for conn in those if not _is_young(conn, young)]


def _is_young(conn: Connection, since: float) -> bool:
    return conn.phase is Phase.HEAD and conn.progress > since


def share_of_client(limits: ServerConfig, share: int) -> int:
    """Connections of one client in a worker that may have `share` of them: workers do not get exactly equal parts of a client's."""
    whole = limits.max_connections_per_client or limits.max_connections * 3 // 4
    return max(1, math.ceil(share * whole / limits.max_connections))
