"""The connections of a worker: accepting them, waiting for them in epoll, ending those that wait too long.

Several threads call `wait()`; each event goes to one of them (EPOLLONESHOT). Who takes a connection out of `idle` or `waiting` owns it, so an
event for a connection that somebody else has taken, or whose descriptor has a new owner, does no harm: it finds nothing, or nothing to read.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import time
from collections.abc import Callable
from typing import Any

from noraflask.config import ServerConfig
from noraflask.serve.board import Board
from noraflask.serve.connection import Connection, Phase
from noraflask.serve.response import plain_text
from noraflask.serve.room import Ending, Room

log = logging.getLogger("nora.server")

LINGER_SECONDS = 5  # after the last response: for a client that is still sending,
LINGER_BYTES = 16 * 1024 * 1024  # and at most this much of it
ACCEPT_BATCH = 64  # connections a thread accepts before it looks after them: whoever waits in the listening queue waits for all before it
POLITE_SECONDS = 0.001  # a new connection is left so long to a worker that has fewer
COMPLAIN_SECONDS = 60  # the same trouble is logged once in this time
STOP_SECONDS = 1  # an unfinished head has so long when the server stops
SILENT_SECONDS = 1  # a peer that was not heard for so long is looked at by the thread for slow ones
PROMPT_READS = 16  # what came in more pieces than this, a head or what follows the last answer, is read on by that thread's clock

_READ = select.EPOLLIN | select.EPOLLONESHOT
_EVENTS = {
    Phase.HEAD: _READ,
    Phase.BODY: _READ,
    Phase.IDLE: _READ,
    Phase.LINGERING: _READ,
    Phase.READY: _READ | select.EPOLLOUT,  # a socket is writable nearly always: this comes back at once
    Phase.SENDING: select.EPOLLOUT | select.EPOLLONESHOT,
}
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Reactor:
    def __init__(
        self,
        limits: ServerConfig,
        room: Room,
        board: Board,
        slot: int,
        serve: Callable[[Connection], None],
        give_up: Callable[[Connection, Ending], None],
        slow_down: Callable[[Connection], None],
    ) -> None:
        self._limits = limits
        self._board, self._slot = board, slot
        self._room = room
        room.reactor = self
        self._serve = serve  # called with a connection that can go on; the callee owns it then
        self._give_up = give_up  # called with a connection whose exchange cannot go on
        self._slow_down = slow_down  # called with a connection whose peer sends little at a time; it stays parked
        self._epoll = select.epoll()
        self._listeners: dict[int, tuple[socket.socket, dict[str, Any]]] = {}
        self._resting: set[int] = set()  # listeners that are not accepted from because there is no room
        self._complained = 0.0
        self.connections: dict[int, Connection] = {}
        self.idle: dict[int, Connection] = {}  # Phase.IDLE, the longest idle first
        self.waiting: dict[int, Connection] = {}  # all other phases

    # Waiting

    def listen(self, listener: socket.socket, base: dict[str, Any]) -> None:
        """Accept from `listener`; `base` is the beginning of each environ."""
        listener.setblocking(False)
        self._listeners[listener.fileno()] = (listener, base)
        self._epoll.register(listener.fileno(), _READ)

    def wait(self) -> None:
        """Wait for one event and do what it asks for."""
        for fd, _ in self._epoll.poll(None, 1):
            conn = self.idle.pop(fd, None) or self.waiting.pop(fd, None)
            if conn is None:
                if fd in self._listeners:
                    self._accept_or_rest(fd)
                continue
            try:
                self._resume(conn)
            except BaseException:
                log.exception("a connection was lost to an error of the server")
                self.abort(conn)

    def wake_all(self) -> None:
        """From now on every `wait()` returns at once."""
        self._epoll.register(os.eventfd(1), select.EPOLLIN)

    def park(self, conn: Connection, phase: Phase, seconds: float) -> None:
        """Give up `conn` until something happens on it, at most `seconds`."""
        conn.phase = phase
        conn.progress = time.monotonic()
        conn.deadline = conn.progress + seconds
        conn.turns = 0
        if phase is Phase.IDLE:
            self._room.attribute(conn, conn.own)
        is_too_much = self._room.held.put(conn, _held_by(conn))
        self._arm(conn)
        if is_too_much:
            self._room.hold_less()

    def park_body(self, conn: Connection, armed: bool = True) -> None:
        """As park(), for the rest of a body, whose deadline is set already. Not armed, somebody looks at it without being told."""
        conn.phase = Phase.BODY
        conn.begin_body_wait()
        conn.is_armed = armed
        if armed:
            self._arm(conn)
        else:
            self.waiting[conn.fd] = conn

    def _arm(self, conn: Connection) -> None:
        phase = conn.phase
        (self.idle if phase is Phase.IDLE else self.waiting)[conn.fd] = conn
        try:
            self._epoll.modify(conn.fd, _EVENTS[phase])
        except OSError:
            pass  # the sweep has taken and closed it meanwhile

    def _resume(self, conn: Connection) -> None:
        phase = conn.phase
        if phase is Phase.LINGERING:
            self._linger(conn)
        elif phase is Phase.READY or phase is Phase.SENDING or phase is Phase.BODY:
            self._serve(conn)
        else:
            self._read(conn)

    def _read(self, conn: Connection) -> None:
        try:
            more = conn.read()
        except BlockingIOError:
            self._arm(conn)
            return
        except OSError:
            more = False
        if not more:
            self.close(conn)
            return
        self._serve(conn)

    def wait_for_head(self, conn: Connection) -> None:
        """`conn` has only the beginning of a head. Its time runs from the first byte."""
        if conn.phase is not Phase.HEAD:
            self.park(conn, Phase.HEAD, self._limits.header_read_timeout)
            return
        is_too_much = self._room.held.put(conn, len(conn.buffer))
        self._wait_on(conn)
        if is_too_much:
            self._room.hold_less()

    def _wait_on(self, conn: Connection) -> None:
        """Wait for more of what comes piece by piece."""
        conn.turns += 1
        if conn.turns < PROMPT_READS:
            self._arm(conn)
            return
        self.waiting[conn.fd] = conn
        self._slow_down(conn)

    def look_again(self, conn: Connection) -> None:
        """Be told again when something comes on a connection that is parked and not armed."""
        if self.claim(conn):
            self._arm(conn)

    # Accepting

    def _accept_or_rest(self, fd: int) -> None:
        try:
            self._accept(fd)
        except BaseException:
            log.exception("accepting connections met an error of the server")
            self._resting.add(fd)  # the next sweep tries again; epoll tells of a listener only once

    def _accept(self, fd: int) -> bool:
        """Accept a few connections. False when there were no more, or there is no room."""
        listener, base = self._listeners[fd]
        if self._board.fewer_elsewhere(self._slot):
            time.sleep(POLITE_SECONDS)
        for _ in range(ACCEPT_BATCH):
            if self._room.is_full and not self._room.make(even_young=True):
                self._rest(fd, "all %d connections of this worker are busy; new ones have to wait", self._room.share)
                return False
            try:
                sock, peer = listener.accept()
            except BlockingIOError:
                self._rearm(fd)
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
            self._welcome(sock, peer, base)
        self._rearm(fd)
        return True

    def _welcome(self, sock: socket.socket, peer: Any, base: dict[str, Any]) -> None:
        host, port = peer[:2] if isinstance(peer, tuple) else ("", 0)
        host = host.removeprefix("::ffff:")
        own = self._room.client_of_peer(host)
        conn = Connection(sock, (host, port), own, base, time.monotonic() + self._limits.header_read_timeout)
        self.connections[conn.fd] = conn
        self._room.attribute(conn, own)
        self._note()
        try:
            self._epoll.register(conn.fd, 0)
        except OSError as error:  # fs.epoll.max_user_watches
            log.warning("cannot watch a connection: %s", error.strerror)
            self.close(conn)
            return
        self._room.keep_to_share(own)
        self._arm(conn)

    def _note(self) -> None:
        if self._listeners:
            self._board.note(self._slot, len(self.connections))

    def _rest(self, fd: int, message: str, *args: Any) -> None:
        """Leave new connections in the backlog until one of ours ends, or the next sweep."""
        self._resting.add(fd)
        now = time.monotonic()
        if now - self._complained > COMPLAIN_SECONDS:
            self._complained = now
            log.warning(message, *args)

    def _rearm(self, fd: int) -> None:
        try:
            self._epoll.modify(fd, _READ)
        except OSError:
            pass  # closed: the worker is stopping

    def _accept_again(self) -> None:
        while self._resting:
            self._rearm(self._resting.pop())

    def end(self, conn: Connection, why: Ending) -> None:
        """End an owned connection that waits, and what it is in the middle of."""
        if conn.phase in (Phase.SENDING, Phase.BODY):
            self._room.leaves(conn)
            self._give_up(conn, why)
        else:
            self.close(conn)

    # Ending

    def close(self, conn: Connection) -> None:
        """End an owned connection at once."""
        if self.connections.get(conn.fd) is conn:
            del self.connections[conn.fd]
            self._room.left(conn)
        self._note()
        conn.sock.close()
        if self._resting:
            self._accept_again()

    def abort(self, conn: Connection) -> None:
        """End an owned connection so that the client sees an error, not the end of a response."""
        conn.reset_at_close()
        self.close(conn)

    def close_gently(self, conn: Connection) -> None:
        """End an owned connection whose client may still be sending. Closed at once it would be reset, and the client might
        never read the last response (RFC 9112 section 9.6)."""
        try:
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.close(conn)
            return
        conn.lingered = len(conn.buffer)
        conn.buffer = b""
        self.park(conn, Phase.LINGERING, LINGER_SECONDS)

    def _linger(self, conn: Connection) -> None:
        try:
            while conn.lingered < LINGER_BYTES:
                data = conn.sock.recv(256 * 1024, socket.MSG_DONTWAIT)
                if not data:
                    break
                conn.lingered += len(data)
        except BlockingIOError:
            self._wait_on(conn)
            return
        except OSError:
            pass
        self.close(conn)

    def refuse(self, conn: Connection, status: int, reason: str) -> None:
        """Answer an owned connection with one line and end it."""
        try:
            conn.sock.send(plain_text(status, reason), socket.MSG_DONTWAIT)
        except OSError:
            self.close(conn)
            return
        self.close_gently(conn)

    # Once a second, on the main thread

    def sweep(self) -> None:
        """End what has waited too long, and try again what there was no room for."""
        now = time.monotonic()
        for conn in self.parked():
            if conn.phase is Phase.SENDING:
                self._check_pace(conn, now)
            elif conn.phase is Phase.BODY:
                self._check_silence(conn, now)
            elif conn.deadline <= now and self.claim(conn):
                self._expire(conn)
        self._accept_again()

    def parked(self) -> list[Connection]:
        """All that wait."""
        return [*self.idle.values(), *self.waiting.values()]

    def claim(self, conn: Connection, phase: Phase | None = None) -> bool:
        """Take a waiting connection out of its table. False: somebody else has, or it does not wait for that any more."""
        table = self.idle if conn.phase is Phase.IDLE else self.waiting
        found = table.pop(conn.fd, None)
        if found is not None and (found is not conn or (phase is not None and conn.phase is not phase)):
            self._arm(found)  # its descriptor has been given to another one meanwhile, or it has gone on
            return False
        return found is conn

    def _check_pace(self, conn: Connection, now: float) -> None:
        if not self.claim(conn, Phase.SENDING):
            return
        if conn.too_slow(now):
            self._give_up(conn, Ending.TOO_SLOW)
        else:
            self._arm(conn)

    def _check_silence(self, conn: Connection, now: float) -> None:
        """A body that does not come: its peer is a slow one from now on."""
        if conn.is_armed and now - conn.progress > SILENT_SECONDS and self.claim(conn, Phase.BODY):
            self.park_body(conn, armed=False)
            self._slow_down(conn)

    def _expire(self, conn: Connection) -> None:
        if conn.phase is Phase.HEAD and conn.buffer:
            self.refuse(conn, 408, "Request Timeout")
        else:
            self.close(conn)

    # Stopping

    def stop_listening(self) -> None:
        """Take what is in the backlog already, then no more."""
        for fd, (listener, _) in list(self._listeners.items()):
            while self._accept(fd):
                pass
            del self._listeners[fd]
            listener.close()
        self._resting.clear()
        self._board.leave(self._slot)

    def close_idle(self) -> None:
        """End kept-alive connections, except those on which a request has just arrived: their event is on its way. Unfinished
        heads get a little time."""
        for conn in list(self.idle.values()):
            if not conn.is_readable and self.claim(conn):
                self.close(conn)
        soon = time.monotonic() + STOP_SECONDS
        for conn in list(self.waiting.values()):
            if conn.phase is Phase.HEAD:
                conn.deadline = min(conn.deadline, soon)

    def cut_all(self) -> None:
        """End every connection; threads that wait for a peer wake up with an error."""
        for conn in self.parked():
            if self.claim(conn):
                self.end(conn, Ending.STOPPED)
        for conn in list(self.connections.values()):
            try:
                conn.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def _held_by(conn: Connection) -> int:
    """Bytes in memory that a connection waits to be rid of, or to have more of."""
    if conn.phase is Phase.SENDING:
        return conn.response.held
    return len(conn.buffer) if conn.phase is Phase.HEAD else 0
