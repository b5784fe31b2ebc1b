"""Accepting connections: a few at a time, as long as there is room, and evenly over the workers."""

from __future__ import annotations

import errno
import logging
import socket
import time
from typing import Any, Protocol

from noraflask.serve.board import Board
from noraflask.serve.room import Room

log = logging.getLogger("nora.server")

ACCEPT_BATCH = 64  # connections a thread accepts before it looks after them: whoever waits in the listening queue waits for all before it
POLITE_SECONDS = 0.001  # a new connection is left so long to a worker that has fewer
POLITE_TIMES = 8  # within a batch; another worker may be stuck
COMPLAIN_SECONDS = 60  # the same trouble is logged once in this time
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Watcher(Protocol):
    """What the listeners need of the reactor."""

    def watch_listener(self, fd: int) -> None: ...

    def welcome(self, sock: socket.socket, peer: Any, base: dict[str, Any]) -> None: ...


class Listeners:
    reactor: Watcher

    def __init__(self, room: Room, board: Board, slot: int) -> None:
        self._room = room
        self._board, self._slot = board, slot
        self._listeners: dict[int, tuple[socket.socket, dict[str, Any]]] = {}
        self.resting: set[int] = set()
        """Listeners that are not accepted from because there is no room."""
        self._complained = 0.0

    def add(self, listener: socket.socket, base: dict[str, Any]) -> None:
        """Accept from `listener`; `base` is the beginning of each environ."""
        listener.setblocking(False)
        self._listeners[listener.fileno()] = (listener, base)

    def __contains__(self, fd: int) -> bool:
        return fd in self._listeners

    def accept_or_rest(self, fd: int) -> None:
        """Accept from a listener of which epoll has told."""
        try:
            self._accept(fd)
        except BaseException:
            log.exception("accepting connections met an error of the server")
            self.resting.add(fd)  # the next sweep tries again; epoll tells of a listener only once

    def _accept(self, fd: int) -> bool:
        """Accept a few connections. False when there were no more, or there is no room."""
        if fd not in self._listeners:  # the worker is stopping
            return False
        listener, base = self._listeners[fd]
        polite = POLITE_TIMES
        for _ in range(ACCEPT_BATCH):
            if polite and self._board.fewer_elsewhere(self._slot):  # each time: who opens many at once would have all of them here
                polite -= 1
                time.sleep(POLITE_SECONDS)
            if self._room.is_full and not self._room.make(even_young=True):
                self._rest(fd, "all %d connections of this worker are busy; new ones have to wait", self._room.share)
                return False
            try:
                sock, peer = listener.accept()
            except BlockingIOError:
                self.reactor.watch_listener(fd)
                return False
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._room.make()
                    self._rest(fd, "cannot accept connections: %s", error.strerror)
                    return False
                if error.errno == errno.EBADF:  # closed: the worker is stopping
                    return False
                continue  # that one connection has failed: accept(2)
            if self._room.overflow >= 0:
                self._room.make()
            self.reactor.welcome(sock, peer, base)
        self.reactor.watch_listener(fd)
        return True

    def note(self, connections: int) -> None:
        """The worker has so many now."""
        if self._listeners:
            self._board.note(self._slot, connections)

    def _rest(self, fd: int, message: str, *args: Any) -> None:
        """Leave new connections in the backlog until one of ours ends, or the next sweep."""
        self.resting.add(fd)
        now = time.monotonic()
        if now - self._complained > COMPLAIN_SECONDS:
            self._complained = now
            log.warning(message, *args)

    def accept_again(self) -> None:
        """There may be room now."""
        while self.resting:
            self.reactor.watch_listener(self.resting.pop())

    def stop(self) -> None:
        """Take what is in the backlog already, then no more."""
        for fd, (listener, _) in list(self._listeners.items()):
            while self._accept(fd):
                pass
            del self._listeners[fd]
            listener.close()
        self.resting.clear()
        self._board.leave(self._slot)
