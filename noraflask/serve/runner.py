"""Running requests: which thread may, what the application answered, and what becomes of the connection afterwards.

No thread waits for a peer, and none is taken before a request has what it needs: a small body is there before the application is asked; a large one,
or one that does not come, is asked for by the application (suspension.py) once it has let the request in, and collected by bodies.py.
"""

from __future__ import annotations

import logging
import math
import socket
import time
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Any

from noraflask.config import ServerConfig
from noraflask.recording import PLAN, WANTED
from noraflask.serve.application import Application, Repeat
from noraflask.serve.board import Board
from noraflask.serve.bodies import Bodies
from noraflask.serve.body import ChunkedBody, Leftover
from noraflask.serve.connection import Answered, Connection, Phase
from noraflask.serve.limits import BodyAbandoned, BodyCut, BodyMalformed, BodyTooSlow, PeerTooSlow, wait_writable
from noraflask.serve.listening import Listeners
from noraflask.serve.plans import Plans
from noraflask.serve.pool import Lane, Pool
from noraflask.serve.reactor import Reactor
from noraflask.serve.request import Refused, Request
from noraflask.serve.response import Progress, Response, ShortBody
from noraflask.serve.room import Ending, Room, share_of_client
from noraflask.suspension import Resume, Suspended

log = logging.getLogger("nora.server")

HEALTH_PATHS = frozenset(("/health", "/ready"))
METRICS_PATH = "/metrics"
QUICK_METHODS = frozenset(("GET", "HEAD", "OPTIONS"))
DRAIN_BYTES = 64 * 1024  # of a body that the application left unread, to keep the connection;
DRAIN_SECONDS = 5  # within this time
PATIENCE_SECONDS = 0.2  # a pool thread waits so long for a peer to take more, as long as nobody needs the thread

BODY_ERRORS = (BodyCut, BodyTooSlow, BodyMalformed)


class Runner:
    def __init__(self, application: Application, limits: ServerConfig, share: int, board: Board, slot: int) -> None:
        self._application = application
        self._limits = limits
        self._requests: Lane[Connection] = Lane(limits.threads)
        self._health: Lane[Connection] = Lane(1)
        self._metrics: Lane[Connection] = Lane(1)
        self._write_threads = max(1, limits.threads // 2)
        self._writes: Lane[Connection] = Lane(self._write_threads)  # whole requests that may wait for the disk
        self._login_threads = max(1, limits.threads // 2)
        self._logins: Lane[Connection] = Lane(self._login_threads)  # those with a password, which may wait for bcrypt
        self._pool = Pool(limits.transfer_threads)
        self.plans = Plans(limits.plan_memory_mb << 20)
        self._bodies = Bodies(limits, self._pool, self._guarded)
        self._room = Room(share, share_of_client(limits, share), application.client_of_peer, application.count)
        self.reactor = Reactor(
            limits,
            self._room,
            Listeners(self._room, board, slot),
            serve=self.serve,
            give_up=self._give_up,
            slow_down=self._bodies.slow_down,
            answer=self.answer,
            turn_ended=application.flush,
        )
        self._bodies.reactor = self.reactor
        self.stopping = False

    @property
    def request_threads(self) -> int:
        """Threads that should work for the reactor: two more for HEALTH_PATHS and METRICS_PATH, one that leads, and one that can always look at what
        the leader finds."""
        return self._limits.threads + self._write_threads + self._login_threads + 4

    # Answers by a plan

    def answer(self, conn: Connection) -> Answered:
        """Answer the request in the buffer as it was answered before, if that can be done at once."""
        sight = conn.sight = self.plans.see(conn.buffer, conn.place) if self.plans.is_on and not self.stopping else None
        kept = self.plans.find(sight) if sight is not None else None
        if sight is None or kept is None or self._room.overflow > 0:
            return Answered.NOT
        repeat = kept.plan.again(sight.given_id)
        if repeat is None:
            return Answered.NOT
        data, sent = kept.answer(repeat.values), 0
        try:
            sent = conn.sock.send(data, socket.MSG_DONTWAIT)
        except OSError:
            pass  # whoever sends the rest meets it again
        if sent < len(data):
            self._answer_slowly(conn, repeat, data, sent)
            return Answered.ELSEWHERE
        conn.forget_head()
        if conn.held:
            self._room.let_go(conn)
        repeat.done()
        return Answered.WHOLE

    def _answer_slowly(self, conn: Connection, repeat: Repeat, data: bytes, sent: int) -> None:
        """The peer does not take all of it now, or is gone."""
        repeat.goes_on()
        request = conn.next_request()
        assert request is not None
        self._room.let_go(conn)
        conn.sight = None
        if not conn.own:
            self._room.attribute(conn, self._application.client_of(request.environ))
        conn.begin(request)
        conn.turn = _turn_of(conn)
        conn.response.go_on(data, sent)
        conn.response.iterable = Rest(repeat, request.environ, conn.response, data.index(b"\r\n\r\n") + 4)
        self._send(conn, False)

    def serve(self, conn: Connection) -> None:
        """Go on with a connection, on a request thread: send more of its response, take more of its body, or take up its next request."""
        if conn.phase is Phase.SENDING:
            self._submit(conn)
        elif conn.phase is Phase.BODY:
            if self._bodies.collect(conn):
                self._enter(conn)
        else:
            self._begin(conn)

    def _begin(self, conn: Connection) -> None:
        try:
            request = conn.next_request()
        except Refused as refused:
            log.info("refused a request from %s: %d %s: %s", conn.peer[0], refused.status, refused.reason, refused)
            self.reactor.refuse(conn, refused.status, refused.reason)
            return
        if request is None:
            self.reactor.wait_for_head(conn)
            return
        self._room.let_go(conn)
        conn.begin(request)
        sight = conn.sight
        if sight is not None and self.plans.wants(sight):
            request.environ[WANTED] = conn.response.keeps_whole = True
        if not self._is_within_share(conn):
            self._application.count("refused")
            self.reactor.refuse(conn, 503, "Service Unavailable")
            return
        conn.turn = _turn_of(conn)
        if request.parsed is None:
            self._enter(conn)
            return
        conn.open_body(self._limits)
        body = request.body
        assert body is not None
        if not self._bodies.is_small(body) or self._bodies.await_small(conn, partial(self._enter_with, conn)):
            self._enter(conn)

    def _is_within_share(self, conn: Connection) -> bool:
        """A proxy's connection counts for the client that it works for; connections beyond the bound are for the server's health alone."""
        if conn.request.path in HEALTH_PATHS:
            return True
        if not conn.own:
            self._room.attribute(conn, self._application.client_of(conn.request.environ))
        return self._room.admits(conn)

    def _lane_for(self, request: Request) -> Lane[Connection]:
        """A flood of one kind must not keep the others waiting: of writes, or of wrong passwords, each of which costs a tenth of a second."""
        quick = request.method in QUICK_METHODS
        if quick and request.path in HEALTH_PATHS:
            return self._health
        if quick and request.path == METRICS_PATH:
            return self._metrics
        if request.path.endswith(self._application.password_paths) or self._application.checks_password(request.environ):
            return self._logins
        return self._requests if quick else self._writes

    def _enter(self, conn: Connection) -> None:
        """The application may run, in its turn; on a request thread."""
        lane = self._lane_for(conn.request)
        if lane.enter(conn, conn.turn):
            self._run_all(lane, conn)

    def _enter_with(self, conn: Connection, problem: BaseException | None) -> None:
        """A small body is there, or does not come soon, and the application says whether it is worth waiting for; or has ended early, as it will see
        when it reads. Not on a request thread."""
        lane = self._lane_for(conn.request)
        if lane.enter(conn, conn.turn):
            self._pool.submit_short(partial(self._run_all, lane, conn))

    def _run_all(self, lane: Lane[Connection], conn: Connection | None) -> None:
        while conn is not None:
            self._guarded(conn, partial(self._run, conn, False))
            conn = lane.leave()

    def _run(self, conn: Connection, on_pool: bool) -> None:
        """One request from its environ to its response, or to where it must wait for its body, and on from there."""
        request, response = conn.request, conn.response
        try:
            if conn.run is None:
                response.iterable = self._application(request.environ, response.start_response)
            else:
                run, conn.run = conn.run, None
                response.iterable = run()
            response.begin(self.stopping or conn.will_close(DRAIN_BYTES))
        except Suspended as pause:
            self._bodies.begin(conn, pause.reception, partial(self._resume, conn, pause.resume))
            return
        except BaseException as error:
            self._failed(conn, error)
        self._send(conn, on_pool)

    def _resume(self, conn: Connection, resume: Resume, problem: BaseException | None) -> None:
        """The body that the application waits for is there, or has ended with an error. On a pool thread."""
        conn.run = partial(resume, problem, conn.response.start_response)
        if self._lane_for(conn.request) is self._logins and conn.request.path.endswith(self._application.password_paths):
            self._enter_with(conn, None)
        else:
            self._run(conn, True)

    def _send(self, conn: Connection, on_pool: bool) -> None:
        """Send what the peer takes, and end the exchange when all is sent."""
        try:
            progress = self._advance(conn, on_pool)
        except PeerTooSlow:
            self._lose(conn, Ending.TOO_SLOW.value)
        except OSError as error:
            self._lose(conn, f"the client is gone: {error.strerror or error}")
        except BaseException as error:
            trace = None if isinstance(error, ShortBody) else error
            log.error("a response broke off: %s %s: %s", conn.request.method, conn.request.path, error, exc_info=trace)
            self._lose(conn, "the response broke off")
        else:
            if progress is Progress.DONE:
                self._finish(conn)
            elif progress is Progress.BLOCKED:
                self.reactor.park(conn, Phase.SENDING, math.inf)
            else:
                self._submit(conn)

    def _advance(self, conn: Connection, on_pool: bool) -> Progress:
        """Send until that is done, the peer takes no more, or another thread must go on. Only the pool waits, and only while nobody needs it."""
        while True:
            patient = on_pool and not self._pool.pressed
            if patient:
                conn.begin_waiting(self._limits)
            progress = conn.response.advance(conn.sock, on_pool, patient)
            if progress is Progress.BLOCKED:
                conn.begin_waiting(self._limits)
                if not patient or not wait_writable(conn.fd, PATIENCE_SECONDS):
                    return progress
            elif progress is not Progress.MORE or not patient:
                return progress
            if conn.too_slow(time.monotonic()):
                raise PeerTooSlow

    def _submit(self, conn: Connection) -> None:
        """Let the pool send the rest."""
        job = partial(self._guarded, conn, partial(self._send, conn, True))
        if conn.response.only_file:
            self._pool.submit_short(job)
        else:
            self._pool.submit_long(job, conn.turn)

    def _guarded(self, conn: Connection, job: Callable[[], None]) -> None:
        """The last resort on a pool thread: an error of our own costs one connection."""
        try:
            job()
        except BaseException:
            log.exception("a connection was lost to an error of the server")
            self.reactor.abort(conn)

    # Endings

    def _failed(self, conn: Connection, error: BaseException) -> None:
        """The application raised before anything was sent."""
        request, response = conn.request, conn.response
        if isinstance(error, BODY_ERRORS):  # its client's doing: a framework usually answers this itself
            response.replace(error.status, HTTPStatus(error.status).phrase)
        else:
            log.error("a request failed: %s %s", request.method, request.path, exc_info=error)
            response.replace(500, "Internal Server Error")

    def _finish(self, conn: Connection) -> None:
        """The response is with the kernel: close the application's answer, then the connection or the exchange."""
        self._close_answer(conn)
        response, body = conn.response, conn.request.body
        if conn.sight is not None and body is None and WANTED in conn.request.environ:
            self.plans.keep(conn.sight, conn.request.environ.get(PLAN), response.whole)
        if isinstance(body, ChunkedBody) and body.finished:
            conn.buffer = body.rest()
        if response.close_connection or self.stopping:
            if conn.buffer or conn.is_body_unfinished:
                self.reactor.close_gently(conn)
            else:
                self.reactor.close(conn)
        elif body is not None and not body.finished:
            self._bodies.begin(conn, Leftover(), partial(self._drained, conn), DRAIN_SECONDS)
        else:
            self._next(conn)

    def _drained(self, conn: Connection, problem: BaseException | None) -> None:
        """What the application left of the body has been thrown away."""
        if problem is None:
            self._next(conn)
        else:
            self.reactor.close_gently(conn)

    def _next(self, conn: Connection) -> None:
        """The exchange is over; the connection can have another one."""
        conn.sight = None
        if conn.buffer:
            self.reactor.park(conn, Phase.READY, math.inf)
        else:
            self.reactor.park(conn, Phase.IDLE, self._limits.keep_alive_timeout)

    def _lose(self, conn: Connection, why: str) -> None:
        """The response cannot be completed. The application sees `why` in `nora.cut`, and the bytes that left in `nora.sent`, when
        its answer is closed."""
        conn.request.environ["nora.cut"] = why
        conn.request.environ["nora.sent"] = conn.response.sent
        self._close_answer(conn)
        self.reactor.abort(conn)

    def _give_up(self, conn: Connection, why: Ending) -> None:
        """End an exchange in the middle of its response, or of its body, which is told to the application."""
        if conn.phase is Phase.BODY:
            self._bodies.end(conn, BodyAbandoned(why.value))
        else:
            self._pool.submit_short(partial(self._guarded, conn, partial(self._lose, conn, why.value)))

    def _close_answer(self, conn: Connection) -> None:
        """PEP 3333: close() exactly once, whatever happened."""
        answer, conn.response.iterable = conn.response.iterable, None
        close = getattr(answer, "close", None)
        if close is None:
            return
        try:
            close()
        except BaseException:
            log.exception("closing a response failed: %s %s", conn.request.method, conn.request.path)


class Rest:
    """Stands for the application's answer where only the rest of one by a plan is to be sent: it is told how that ended."""

    def __init__(self, repeat: Repeat, environ: dict[str, Any], response: Response, head_bytes: int) -> None:
        self._repeat, self._environ, self._response, self._head_bytes = repeat, environ, response, head_bytes

    def close(self) -> None:
        self._repeat.ended(self._environ.get("nora.cut"), max(0, self._response.sent - self._head_bytes))


def _turn_of(conn: Connection) -> str:
    """Who takes turns in a lane: clients, and those behind one address that log in differently. Whoever makes up logins gains no more than by
    waiting in one queue."""
    credential = conn.request.environ.get("HTTP_AUTHORIZATION")
    return f"{conn.client} {hash(credential)}" if credential else conn.client
