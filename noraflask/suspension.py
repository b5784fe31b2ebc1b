"""How a view waits for its request's body without holding a thread.

A view that takes a body is a generator. It yields a Reception, which says where the body goes; it goes on when the body is there, or has the error
thrown into it that ended the body. Our own server (serve/) is told of the wait by Suspended, collects the body as it comes, and has the view go on
on another thread. Under any other server the thread waits, as WSGI has it: drive().

    data = yield from read_body(limit)
    received = yield from upload.receive(limit)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable
from typing import Any, Protocol, TypeGuard, TypeVar

SUSPENDS = "nora.suspends"
"""In a request's environ, set by a server that knows Suspended."""
LATER_SECONDS = 0.05

Result = TypeVar("Result")


class BodyStream(Protocol):
    def read(self, size: int, /) -> bytes:
        """At most `size` bytes, b"" at the end. Our server's raises BlockingIOError when the peer has sent no more yet."""


class Reception(Protocol):
    """What a view waits for."""

    def take(self, body: BodyStream, /) -> bool:
        """Take in the next piece; True when nothing more is to come. Raises what reading raises (BlockingIOError: not yet), NotYet, and its own
        errors, which end the wait."""


Steps = Generator[Reception, None, Result]
"""What a view that waits is, and each part of it."""


class NotYet(BlockingIOError):
    """Not the peer is waited for, but a short time."""


class Later:
    """Go on in a moment: whoever waits for something that another request holds."""

    def __init__(self, seconds: float = LATER_SECONDS) -> None:
        self._due = time.monotonic() + seconds

    def take(self, body: BodyStream, /) -> bool:
        if time.monotonic() < self._due:
            raise NotYet
        return True


Resume = Callable[[BaseException | None, Callable[..., Any]], Iterable[bytes]]
"""Go on, with the error that ended the body, or None, and WSGI's start_response. It returns or raises what the application does, Suspended again
included."""


class Suspended(BaseException):
    """The application waits. Not an answer and not an error: it goes through everything up to the server."""

    def __init__(self, reception: Reception, resume: Resume) -> None:
        super().__init__()
        self.reception = reception
        self.resume = resume


def drive(steps: Steps[Result], body: BodyStream) -> Result:
    """Run a view to its end on this thread, with a body that waits for the peer when it is read."""
    problem: BaseException | None = None
    while True:
        try:
            reception = steps.throw(problem) if problem else next(steps)
        except StopIteration as end:
            result: Result = end.value
            return result
        problem = receive(reception, body)


def receive(reception: Reception, body: BodyStream) -> BaseException | None:
    """Wait on this thread until all is in; what ended it early."""
    while True:
        try:
            if reception.take(body):
                return None
        except NotYet:
            time.sleep(LATER_SECONDS)
        except Exception as error:
            return error


def receive_now(reception: Reception, body: BodyStream) -> BaseException | None:
    """Take in what is in memory already. Raises BlockingIOError when that is not all."""
    if not getattr(body, "is_whole", False):
        raise BlockingIOError
    try:
        while not reception.take(body):
            pass
    except BlockingIOError:
        raise
    except Exception as error:
        return error
    return None


def is_waiting(answer: Any) -> TypeGuard[Steps[Any]]:
    """Is what a view returned the beginning of one that waits?"""
    return isinstance(answer, Generator)
