"""Running requests: which thread may, what the application answered, and what becomes of the connection afterwards."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from functools import partial

from noraflask.config import ServerConfig
from noraflask.serve.application import Application
from noraflask.serve.board import Board
from noraflask.serve.connection import Connection, Phase
from noraflask.serve.limits import BodyCut, BodyMalformed, BodyTooSlow, PeerTooSlow, wait_writable
from noraflask.serve.pool import Lane, Pool
from noraflask.serve.reactor import Reactor
from noraflask.serve.request import Refused, Request
from noraflask.serve.response import Progress, ShortBody

log = logging.getLogger("nora.server")

OPS_PATHS = frozenset(("/health", "/ready", "/metrics"))
QUICK_METHODS = frozenset(("GET", "HEAD", "OPTIONS"))
DRAIN_BYTES = 64 * 1024  # of a body that the application left unread, to keep the connection;
DRAIN_SECONDS = 5  # within this time
PATIENCE_SECONDS = 0.2  # a pool thread waits so long for a peer to take more, as long as nobody needs the thread

TOO_SLOW = "the client took the response too slowly"
BODY_ERRORS = (BodyCut, BodyTooSlow, BodyMalformed)


class Runner:
    def __init__(self, application: Application, limits: ServerConfig, share: int, board: Board, slot: int) -> None:
        self._application = application
        self._limits = limits
        self._requests: Lane[Connection] = Lane(limits.threads)
        self._ops: Lane[Connection] = Lane(1)
        self._write_threads = max(1, limits.threads // 2)
        self._writes: Lane[Connection] = Lane(self._write_threads)  # whole requests that may wait for the disk
        self._login_threads = max(1, limits.threads // 2)
        self._logins: Lane[Connection] = Lane(self._login_threads)  # those with a password, which may wait for bcrypt
        self._pool = Pool(limits.transfer_threads)
        self.reactor = Reactor(limits, share, board, slot, self.serve, self._give_up)
        self.stopping = False

    @property
    def request_threads(self) -> int:
        """Threads that should wait on the reactor: one more for OPS_PATHS, and one that can always look at what comes next."""
        return self._limits.threads + self._write_threads + self._login_threads + 2

    def serve(self, conn: Connection) -> None:
        """Go on with a connection, on a request thread: send more of its response, or take up its next request."""
        if conn.phase is Phase.SENDING:
            self._submit(conn)
            return
        try:
            request = conn.next_request()
        except Refused as refused:
            log.info("refused a request from %s: %d %s: %s", conn.peer[0], refused.status, refused.reason, refused)
            self.reactor.refuse(conn, refused.status, refused.reason)
            return
        if request is None:
            self.reactor.wait_for_head(conn)
            return
        conn.begin(request)
        if not request.whole:
            self._pool.submit_long(partial(self._guarded, conn, partial(self._run, conn, True)))
            return
        lane = self._lane_for(request)
        if lane.enter(conn):
            self._run_all(lane, conn)

    def _lane_for(self, request: Request) -> Lane[Connection]:
        """A flood of one kind must not keep the others waiting: of writes, or of wrong passwords, each of which costs a tenth of a second."""
        quick = request.method in QUICK_METHODS
        if quick and request.path in OPS_PATHS:
            return self._ops
        if request.path.endswith(self._application.password_paths) or request.environ.get("HTTP_AUTHORIZATION", "")[:6].lower() == "basic ":
            return self._logins
        return self._requests if quick else self._writes

    def _run_all(self, lane: Lane[Connection], conn: Connection | None) -> None:
        while conn is not None:
            self._run(conn, False)
            conn = lane.leave()

    def _run(self, conn: Connection, on_pool: bool) -> None:
        """One request from its environ to its response."""
        request, response = conn.request, conn.response
        try:
            if request.parsed is not None:
                conn.open_body(self._limits)
            response.iterable = self._application(request.environ, response.start_response)
            response.begin(self.stopping or conn.will_close(DRAIN_BYTES))
        except BaseException as error:
            self._failed(conn, error)
        self._send(conn, on_pool)

    def _send(self, conn: Connection, on_pool: bool) -> None:
        """Send what the peer takes, and end the exchange when all is sent."""
        try:
            progress = self._advance(conn, on_pool)
        except PeerTooSlow:
            self._lose(conn, TOO_SLOW)
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
        submit = self._pool.submit_short if conn.response.only_file else self._pool.submit_long
        submit(partial(self._guarded, conn, partial(self._send, conn, True)))

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
            response.replace(error.status, "Request Timeout" if error.status == 408 else "Bad Request")
        else:
            log.error("a request failed: %s %s", request.method, request.path, exc_info=error)
            response.replace(500, "Internal Server Error")

    def _finish(self, conn: Connection) -> None:
        """The response is with the kernel: close the application's answer, then the connection or the exchange."""
        self._close_answer(conn)
        response = conn.response
        if response.close_connection or self.stopping:
            if conn.buffer or conn.body_unfinished:
                self.reactor.close_gently(conn)
            else:
                self.reactor.close(conn)
        elif not conn.finish_body(DRAIN_SECONDS):
            self.reactor.close_gently(conn)
        elif conn.buffer:
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

    def _give_up(self, conn: Connection) -> None:
        self._pool.submit_short(partial(self._guarded, conn, partial(self._lose, conn, TOO_SLOW)))

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
