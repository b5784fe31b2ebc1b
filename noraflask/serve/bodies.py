"""Collecting request bodies: pieces go to where the application wants them as they come, and no thread waits for the next one.

A body that comes fast is taken in by the pool, in turns, so that a few large ones do not keep others waiting. One whose peer sends little at a time
is looked at by the one thread for slow peers (slow.py). A small body is collected in memory before the application is asked.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from enum import Enum, auto
from functools import partial
from typing import TYPE_CHECKING, Any

from noraflask.config import ServerConfig
from noraflask.errors import ClientGone
from noraflask.serve.body import ChunkedBody, LengthBody
from noraflask.serve.connection import Connection, Phase
from noraflask.serve.limits import BodyTooSlow, wait_readable
from noraflask.serve.pool import Pool
from noraflask.serve.slow import SlowPeers
from noraflask.suspension import NotYet, Reception

if TYPE_CHECKING:
    from noraflask.serve.reactor import Reactor

SMALL_BODY = 16 * 1024
"""A body up to this size is collected in memory before the application is asked."""
TURN_SECONDS = 0.1  # of a body, as long as others wait for a thread
LOOK_SECONDS = 0.01  # of a slow body
MUCH_BYTES = 64 * 1024  # a peer that has sent so much since the last look is not slow
FREE_TURNS = 4  # nobody is slow before the peer was heard so often
PATIENCE_SECONDS = 0.01  # a pool thread waits so long for more of a fast body, as long as nobody needs the thread

Then = Callable[[BaseException | None], None]


class Turn(Enum):
    """How a turn ended."""

    DONE = auto()
    MORE = auto()
    """There is more to take in."""
    EMPTY = auto()
    """The peer has sent no more yet."""
    HELD_UP = auto()
    """Something else has to be waited for."""


class Bodies:
    reactor: Reactor

    def __init__(self, limits: ServerConfig, pool: Pool, guarded: Callable[[Connection, Callable[[], None]], None]) -> None:
        """`guarded` runs a job at whose errors the connection is lost."""
        self._limits = limits
        self._pool = pool
        self._guarded = guarded
        self._slow = SlowPeers(self._look)

    # Small ones

    @staticmethod
    def is_small(body: LengthBody | ChunkedBody) -> bool:
        """Is it collected before the application is asked?"""
        return not body.is_whole and isinstance(body, LengthBody) and body.is_invited and body.left <= SMALL_BODY

    def await_small(self, conn: Connection, then: Then) -> bool:
        """Is it there already? Else `then` is called once it is, or when that takes long: the application says whether it is worth waiting for."""
        conn.await_body(_Whole(), then, math.inf)
        return self._collect_small(conn)

    def _collect_small(self, conn: Connection) -> bool:
        """On a request thread, which goes on with the request if it is there now."""
        turn, moved, problem = self._take(conn, LOOK_SECONDS)
        if turn is Turn.DONE and problem is None:
            conn.then = conn.reception = None
            return True
        self._after(conn, turn, moved, problem)
        return False

    # Others

    def begin(self, conn: Connection, reception: Reception, then: Then, seconds: float = math.inf) -> None:
        """Let the body of an owned connection go to `reception`; `then` is called on a pool thread."""
        body = conn.request.body
        if isinstance(body, LengthBody) and body.left <= SMALL_BODY:
            seconds = min(seconds, self._limits.header_read_timeout)
        conn.await_body(reception, then, seconds)
        self._submit(conn)

    def _submit(self, conn: Connection) -> None:
        self._pool.submit_long(partial(self._guarded, conn, partial(self._collect, conn)), conn.turn)

    def collect(self, conn: Connection) -> bool:
        """Something has come on an owned connection. On a request thread, which goes on with the request if this is True."""
        if isinstance(conn.reception, _Whole):
            return self._collect_small(conn)
        self._submit(conn)
        return False

    def end(self, conn: Connection, problem: BaseException | None) -> None:
        """The body of an owned connection is there, or what has come so far is all of it."""
        body = conn.request.body
        if isinstance(problem, ClientGone):
            conn.response.close_connection = True
            if body is not None:
                body.end(problem)
        self._pool.submit_long(partial(self._guarded, conn, partial(self._ended, conn, problem)), conn.turn)

    def _collect(self, conn: Connection) -> None:
        """On a pool thread."""
        conn.is_body_too_slow(time.monotonic())  # counts what was waited for; it is here now
        while True:
            turn, moved, problem = self._take(conn, TURN_SECONDS)
            if turn is Turn.MORE and not self._pool.pressed:
                continue
            is_patient = turn is Turn.EMPTY and moved >= MUCH_BYTES and not self._pool.pressed
            if not is_patient or not wait_readable(conn.fd, PATIENCE_SECONDS):
                break
        if turn is Turn.DONE:
            self._ended(conn, problem)
        else:
            self._after(conn, turn, moved, problem)

    def _take(self, conn: Connection, seconds: float) -> tuple[Turn, int, BaseException | None]:
        """Take in what is there, for so many seconds; how that ended, bytes that came in, and the error that ended the body."""
        reception, body = conn.reception, conn.request.environ["wsgi.input"]
        assert reception is not None
        receiver = conn.request.body.receiver if conn.request.body is not None else None
        before, end = receiver.moved if receiver else 0, time.monotonic() + seconds
        turn, problem = Turn.DONE, None
        try:
            while not reception.take(body):
                if time.monotonic() >= end:
                    turn = Turn.MORE
                    break
        except NotYet:
            turn = Turn.HELD_UP
        except BlockingIOError:
            turn = Turn.EMPTY
        except BaseException as error:
            problem = error
        moved = receiver.moved - before if receiver else 0
        conn.hear(moved)
        return turn, moved, problem

    def _after(self, conn: Connection, turn: Turn, moved: int, problem: BaseException | None) -> None:
        """A turn is over: who looks at the connection next?"""
        if turn is Turn.DONE:
            self.end(conn, problem)
        elif turn is Turn.MORE:
            self._submit(conn)
        elif turn is Turn.EMPTY and (moved >= MUCH_BYTES or conn.turns < FREE_TURNS):
            self.reactor.park_body(conn)
        else:
            self.reactor.park_body(conn, armed=False)
            self._slow.add(conn)

    def _ended(self, conn: Connection, problem: BaseException | None) -> None:
        """On a pool thread."""
        then, conn.then, conn.reception = conn.then, None, None
        assert then is not None
        if conn.request.body is not None:
            conn.request.body.receiver.release()
        then(problem)

    # Slow peers

    def slow_down(self, conn: Connection) -> None:
        """The peer of a parked connection sends little at a time."""
        self._slow.add(conn)

    def _look(self, conn: Connection) -> None:
        """On the thread for slow peers, at a connection that may be gone."""
        if conn.phase is not Phase.BODY:
            self.reactor.look_again(conn)
        elif self.reactor.claim(conn, Phase.BODY):
            self._guarded(conn, partial(self._look_at_body, conn))

    def _look_at_body(self, conn: Connection) -> None:
        turn, moved, problem = self._take(conn, LOOK_SECONDS)
        if isinstance(conn.reception, _Whole):
            turn = Turn.DONE  # the application may not want it
        elif turn in (Turn.MORE, Turn.EMPTY) and conn.is_body_too_slow(time.monotonic()):  # not where another request is waited for
            turn, problem = Turn.DONE, BodyTooSlow()
        elif moved >= MUCH_BYTES and turn is Turn.EMPTY:
            turn = Turn.MORE
        self._after(conn, turn, moved, problem)


class _Whole:
    """A small body that is to be in memory before the application is asked."""

    def take(self, body: Any, /) -> bool:
        return bool(body.fetch())
