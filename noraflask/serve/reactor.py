"""The connections of a worker: waiting for them in epoll, answering what can be answered at once, ending those that wait too long.

One request thread *leads*: it polls, reads heads, and answers those that `answer` knows the answer to. All else becomes jobs for other threads, and
the lead is passed on before the leader runs one of them itself. Who takes a connection out of `idle` or `waiting` owns it, so an event for one that
somebody else has taken, or whose descriptor has a new owner, does no harm: it finds nothing, or nothing to read.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from noraflask.config import ServerConfig
from noraflask.serve.connection import Answered, Connection, Phase
from noraflask.serve.epoll import Epoll
from noraflask.serve.held import held_by
from noraflask.serve.jobs import Jobs
from noraflask.serve.lead import Lead
from noraflask.serve.listening import Listeners
from noraflask.serve.response import plain_text
from noraflask.serve.room import Ending, Room

log = logging.getLogger("nora.server")

LINGER_SECONDS = 5  # after the last response: for a client that is still sending,
LINGER_BYTES = 16 * 1024 * 1024  # and at most this much of it
STOP_SECONDS = 1  # an unfinished head has so long when the server stops
SILENT_SECONDS = 1  # a peer that was not heard for so long is looked at by the thread for slow ones
PROMPT_READS = 16  # what came in more pieces than this, a head or what follows the last answer, is read on by that thread's clock
TURN_EVENTS = 64  # connections that the leader looks at before it polls again
STRANGE_SECONDS = 0.001  # the leader's pause when epoll repeats itself about connections that others own


Job = Connection | int | Lead[Any]  # what a request thread can do: go on with a connection, accept from a listener, lead


class Reactor:
    def __init__(
        self,
        limits: ServerConfig,
        room: Room,
        listeners: Listeners,
        serve: Callable[[Connection], None],
        give_up: Callable[[Connection, Ending], None],
        slow_down: Callable[[Connection], None],
        answer: Callable[[Connection], Answered],
        turn_ended: Callable[[], None],
    ) -> None:
        self._limits = limits
        self._room = room
        self._listeners = listeners
        room.reactor = listeners.reactor = self
        self._serve = serve  # called with a connection that can go on; the callee owns it then
        self._give_up = give_up  # called with a connection whose exchange cannot go on
        self._slow_down = slow_down  # called with a connection whose peer sends little at a time; it stays parked
        self._answer = answer  # called by the leader with a connection on which something of a request has come; it never waits
        self._turn_ended = turn_ended  # called after some answers, before the leader polls again or passes the lead on
        self._epoll = Epoll()
        self._jobs: Jobs[Job] = Jobs()
        self._lead: Lead[Job] = Lead()
        self._jobs.put(self._lead)
        self._stuck: set[Lead[Job]] = set()  # leads whose threads have lost them and do not go on yet
        self._strangers: set[int] = set()  # descriptors of the leader's last turn whose connections others owned
        self._is_stopping = self._is_over = False
        self.connections: dict[int, Connection] = {}
        self.idle: dict[int, Connection] = {}  # Phase.IDLE, the longest idle first
        self.waiting: dict[int, Connection] = {}  # all other phases

    def listen(self, listener: socket.socket, base: dict[str, Any]) -> None:
        """Accept from `listener`; `base` is the beginning of each environ."""
        self._listeners.add(listener, base)
        self._epoll.add_listener(listener.fileno())

    # Request threads

    def work(self) -> None:
        """Do the next job, and lead before, if nobody does."""
        job: Job | None = self._jobs.get()
        if isinstance(job, Lead):
            job = self._take_lead(job)
        if isinstance(job, Connection):
            self._resume(job)
        elif isinstance(job, int):
            self._listeners.accept_or_rest(job)

    def _take_lead(self, lead: Lead[Job]) -> Job | None:
        """Answer what can be answered at once, until there is something else: one job for this thread, the others are for others."""
        try:
            while not (lead.slow or self._is_over or lead.is_lost):
                self._take_turn(lead)
        except BaseException:
            log.exception("the leading thread met an error it did not expect")
        finally:
            lead.rest()
            slow = lead.take_slow()
            if lead.is_lost:
                self._stuck.discard(lead)
                self._jobs.put(*slow[1:])
            else:
                self._jobs.put(lead, *slow[1:])  # the lead first: who takes it up finds the next ones while these are being looked at
        return slow[0] if slow else None

    def _take_turn(self, lead: Lead[Job]) -> None:
        """Look at some connections, at each once."""
        strangers = set()
        lead.rest()
        events = self._epoll.poll(TURN_EVENTS)
        lead.begin_turn()
        try:
            for fd, _ in events:
                conn = self.idle.pop(fd, None) or self.waiting.pop(fd, None)
                if conn is not None:
                    is_quiet = conn.phase is Phase.IDLE or conn.phase is Phase.HEAD
                    if not (is_quiet and self._is_done(lead, conn)):
                        lead.slow.append(conn)
                elif fd in self._listeners:
                    lead.slow.append(fd)
                else:
                    strangers.add(fd)
        finally:
            if lead.has_answered:
                self._turn_ended()
        if strangers & self._strangers and not self._is_over:  # their owners are about to close or to park them
            time.sleep(STRANGE_SECONDS)
        self._strangers = strangers

    def _is_done(self, lead: Lead[Job], conn: Connection) -> bool:
        """Read and answer, if that can be done at once. If not, the connection is disarmed. An error costs one connection."""
        try:
            if not self._hear(conn):
                return True
            outcome = Answered.NOT if self._is_stopping or self._stuck else self._answer(conn)
            if outcome is Answered.NOT:
                self._epoll.disarm(conn.fd)
                return False
            if outcome is Answered.WHOLE:
                self._settle(conn, Phase.IDLE, self._limits.keep_alive_timeout)
                self.idle[conn.fd] = conn
        except BaseException:
            log.exception("a connection was lost to an error of the server")
            self.abort(conn)
        lead.has_answered = True
        return True

    def _hear(self, conn: Connection) -> bool:
        """Read what has come. False: there is nothing to go on with."""
        try:
            if conn.read():
                return True
        except BlockingIOError:
            self._arm(conn)  # the event was meant for somebody else
            return False
        except OSError:
            pass
        self.close(conn)
        return False

    def _resume(self, conn: Connection) -> None:
        try:
            if conn.phase is Phase.LINGERING:
                self._linger(conn)
            else:
                self._serve(conn)
        except BaseException:
            log.exception("a connection was lost to an error of the server")
            self.abort(conn)

    def wake_all(self) -> None:
        """From now on every `work()` returns soon: whoever leads passes the lead on to the next thread that waits."""
        self._is_over = True
        self._epoll.wake()

    # Waiting

    def park(self, conn: Connection, phase: Phase, seconds: float) -> None:
        """Give up `conn` until something happens on it, at most `seconds`."""
        is_too_much = self._settle(conn, phase, seconds)
        self._arm(conn)
        if is_too_much:
            self._room.hold_less()

    def _settle(self, conn: Connection, phase: Phase, seconds: float) -> bool:
        """A connection begins to wait. Do all that wait hold too much memory now?"""
        conn.phase = phase
        conn.progress = time.monotonic()
        conn.deadline = conn.progress + seconds
        conn.turns = 0
        if phase is Phase.IDLE:
            self._room.attribute(conn, conn.own)
        return self._room.held.put(conn, held_by(conn))

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
        self._epoll.arm(conn.fd, phase)
        if self.connections.get(conn.fd) is not conn:  # somebody else has taken and closed it meanwhile,
            other = self.idle.get(conn.fd) or self.waiting.get(conn.fd)
            if other is not None:  # and its descriptor has a new owner
                self._epoll.arm(other.fd, other.phase)

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

    # New ones

    def watch_listener(self, fd: int) -> None:
        """Somebody shall accept from it as soon as there is something to accept."""
        self._epoll.arm_listener(fd)

    def welcome(self, sock: socket.socket, peer: Any, base: dict[str, Any]) -> None:
        """A connection was accepted."""
        host, port = peer[:2] if isinstance(peer, tuple) else ("", 0)
        host = host.removeprefix("::ffff:")
        own = self._room.client_of_peer(host)
        conn = Connection(sock, (host, port), own, base, time.monotonic() + self._limits.header_read_timeout)
        self.connections[conn.fd] = conn
        self._room.attribute(conn, own)
        self._listeners.note(len(self.connections))
        try:
            self._epoll.add(conn.fd)
        except OSError as error:  # fs.epoll.max_user_watches
            log.warning("cannot watch a connection: %s", error.strerror)
            self.close(conn)
            return
        self._room.keep_to_share(own)
        self._arm(conn)

    # Ending

    def end(self, conn: Connection, why: Ending) -> None:
        """End an owned connection that waits, and what it is in the middle of."""
        if conn.phase in (Phase.SENDING, Phase.BODY):
            self._room.leaves(conn)
            self._give_up(conn, why)
        else:
            self.close(conn)

    def close(self, conn: Connection) -> None:
        """End an owned connection at once."""
        if self.connections.get(conn.fd) is conn:
            del self.connections[conn.fd]
            self._room.left(conn)
        self._listeners.note(len(self.connections))
        conn.sock.close()
        if self._listeners.resting:
            self._listeners.accept_again()

    def abort(self, conn: Connection) -> None:
        """End an owned connection so that the client sees an error, not the end of a response."""
        conn.reset_at_close()
        self.close(conn)

    def close_gently(self, conn: Connection) -> None:
        """End an owned connection whose client may still be sending: a reset might take the last response from it (RFC 9112 section 9.6)."""
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
        self._listeners.accept_again()
        self._replace_leader(now)

    def _replace_leader(self, now: float) -> None:
        """One that is stuck keeps its thread and what it has in hand. Until it goes on, requests are run, in lanes that are bounded."""
        lost = self._lead
        if lost.is_stuck(now):
            log.warning("the leading thread of this worker waits for the storage; another one takes its place")
            self._stuck.add(lost)
            lost.is_lost = True
            self._lead = Lead()
            self._jobs.put(self._lead, *lost.take_slow())

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
        if self.claim(conn, Phase.SENDING):
            self._give_up(conn, Ending.TOO_SLOW) if conn.too_slow(now) else self._arm(conn)

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
        """Take what is in the backlog already, then no more. Every answer ends its connection from now on, so none is the leader's."""
        self._is_stopping = True
        self._listeners.stop()

    def close_idle(self) -> None:
        """End kept-alive connections, but not one on which a request has just arrived. Unfinished heads get a little time."""
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
            with suppress(OSError):
                conn.sock.shutdown(socket.SHUT_RDWR)
