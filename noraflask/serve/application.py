"""What the server and the application that it serves know of each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol, runtime_checkable

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Repeat(Protocol):
    """One more answer by a plan. Either done() is called, or goes_on() and, some time later, ended()."""

    values: tuple[str, ...]
    """Of the fields that vary."""

    def done(self) -> None:
        """All of it has left at once. What is held back on its account is let go by Application.flush()."""

    def goes_on(self) -> None:
        """The peer does not take all of it now."""

    def ended(self, cut: str | None, sent: int) -> None:
        """`cut`: why the rest did not get through; `sent`: bytes of the body that left."""


class Plan(Protocol):
    """How a request was answered, and all that it rests on: in its environ under `nora.plan`, once its answer is closed, where the server has asked
    for it by `nora.record` and the application knows that the same request can be answered so again."""

    body: bytes
    varying: tuple[tuple[str, str], ...]
    """Header fields whose values are others each time, in their order in the answer, and the values that they had in it."""
    size_bytes: int
    """What it takes in memory."""

    def again(self, given_id: str) -> Repeat | None:
        """Ask all that is asked for each request, and count it. None: it has to be run; nothing was counted then. Takes microseconds, never waits.

        `given_id`: the value of X-Request-Id, the only part of the head that may be another one; empty when there is none.
        """


@runtime_checkable
class Application(Protocol):
    """A WSGI application that is told of its processes, and that can be reloaded.

    A reload: a child of the master calls read_again(), the master adopt() and, once the workers can have it, reload_succeeded(); each worker calls
    adopt() with the same.
    """

    reload_seconds: float
    """How long read_again() may take."""

    password_paths: tuple[str, ...]
    """Ends of addresses whose requests may carry a password in their body: checking one takes long."""

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]: ...

    def client_of_peer(self, peer: str) -> str:
        """Whom a connection from this address is counted for: the address, or "" for a proxy, whose requests say it."""

    def client_of(self, environ: dict[str, Any]) -> str:
        """Whom a request is counted for."""

    def checks_password(self, environ: dict[str, Any]) -> bool:
        """Will a password in the request's head be checked? That takes long."""

    def count(self, event: str) -> None:
        """A connection made room for another one (`evicted`), or was one too many (`refused`)."""

    def flush(self) -> None:
        """Let go what Repeat.done() holds back, as far as that can be done at once."""

    def start_worker(self, place: str, connections: Callable[[], int]) -> None:
        """In a new worker, after the fork. `place`: no other living worker has it; `connections`: open ones, of all workers."""

    def stop_worker(self) -> None:
        """In a worker whose requests have ended."""

    def worker_ended(self, place: str) -> None:
        """In the master: a worker is gone, whatever ended it."""

    def read_again(self) -> tuple[Any, bytes] | None:
        """In a child of the master, of which nothing else is left: what a reload brings, to be pickled, and large data beside it.

        None: nothing can be reloaded. Raises ConfigError for what cannot be used.
        """

    def adopt(self, snapshot: Any, large: bytes | memoryview) -> None:
        """Take that over as a whole, or raise and change nothing."""

    def reload_succeeded(self) -> None:
        """In the master: the workers can have what it has adopted."""

    def reload_refused(self, problem: str) -> None:
        """In the master: what was read cannot be used, or took too long to read; nothing has changed."""

    def reload_broke(self) -> None:
        """A reload met an error that nobody expected; in the master it has changed nothing."""


class PlainApplication:
    """Any WSGI application: it need not be told of anything."""

    password_paths: tuple[str, ...] = ()
    reload_seconds = 300.0

    def __init__(self, wsgi: Wsgi) -> None:
        self._wsgi = wsgi

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        return self._wsgi(environ, start_response)

    def client_of_peer(self, peer: str) -> str:
        return peer

    def client_of(self, environ: dict[str, Any]) -> str:
        return str(environ["REMOTE_ADDR"])

    def checks_password(self, environ: dict[str, Any]) -> bool:
        return has_password(environ)

    def count(self, event: str) -> None:
        """It counts nothing."""

    def flush(self) -> None:
        """It makes no plans."""

    def start_worker(self, place: str, connections: Callable[[], int]) -> None:
        """It has nothing to start."""

    def stop_worker(self) -> None:
        """Nor to stop."""

    def worker_ended(self, place: str) -> None:
        """It counts no workers."""

    def read_again(self) -> tuple[Any, bytes] | None:
        return None

    def adopt(self, snapshot: Any, large: bytes | memoryview) -> None:
        """It reads nothing again, so there is nothing to adopt."""

    def reload_succeeded(self) -> None:
        """As adopt()."""

    def reload_refused(self, problem: str) -> None:
        """As adopt()."""

    def reload_broke(self) -> None:
        """As adopt()."""


def has_password(environ: dict[str, Any]) -> bool:
    """RFC 7617."""
    return str(environ.get("HTTP_AUTHORIZATION", ""))[:6].lower() == "basic "


def application_of(wsgi: Wsgi | Application) -> Application:
    """What gunicorn was given, as the server asks for it."""
    return wsgi if isinstance(wsgi, Application) else PlainApplication(wsgi)
