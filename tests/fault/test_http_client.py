"""The one HTTP client of ours against servers that refuse, hang, lie and talk without end."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from collections.abc import Callable, Iterable, Iterator

import pytest

from noraflask.http_client import Bounds, NoAnswer, get
from tests.server import free_port

OK = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture
def server() -> Iterator[Callable[[Iterable[bytes]], str]]:
    """Starts one that answers its first request with these pieces, and gives its address. It ends when they do, or the client has gone."""
    with contextlib.ExitStack() as stack:

        def start(pieces: Iterable[bytes]) -> str:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            listener.settimeout(10)
            thread = threading.Thread(target=serve, args=(listener, pieces))
            thread.start()
            stack.callback(thread.join, 10)
            return f"http://127.0.0.1:{listener.getsockname()[1]}/secret"

        yield start


def serve(listener: socket.socket, pieces: Iterable[bytes]) -> None:
    connection, _ = listener.accept()
    with connection, contextlib.suppress(OSError):
        connection.settimeout(10)
        connection.recv(65536)
        for piece in pieces:
            connection.sendall(piece)


def silence(gone: threading.Event) -> Iterator[bytes]:
    gone.wait(10)
    yield b""


def test_a_good_answer(server):
    answer = get(server([OK + b"X-Y: z\r\nContent-Length: 3\r\n\r\nabc"]))
    assert (answer.status, answer.headers["x-y"], answer.body) == (200, "z", b"abc")


def test_a_redirect_is_an_answer_and_not_followed(server):
    answer = get(server([b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"]))
    assert answer.status == 302


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        ([], "closed connection"),
        ([b"hello\r\n\r\n"], "hello"),
        ([OK + b"Content-Length: 10\r\n\r\nabc"], "7 more expected"),
        ([OK + b"\r\n" + b"x" * 2000], "larger than 1000 bytes"),
    ],
)
def test_an_answer_that_is_none(server, pieces, text):
    with pytest.raises(NoAnswer, match=text) as caught:
        get(server(pieces), bounds=Bounds(max_bytes=1000))
    assert "secret" not in str(caught.value)


def test_a_server_that_says_nothing_is_given_up(server):
    gone = threading.Event()
    with pytest.raises(NoAnswer, match="timed out"):
        get(server(silence(gone)), bounds=Bounds(read_seconds=0.05))
    gone.set()


def test_a_server_that_talks_without_end_is_given_up(server):
    address = server(itertools.chain([OK + b"\r\n"], itertools.repeat(b"x" * 1000)))
    with pytest.raises(NoAnswer, match=r"longer than 0\.2 s"):
        get(address, bounds=Bounds(total_seconds=0.2, max_bytes=1 << 40))


def test_a_server_that_is_not_there():
    with pytest.raises(NoAnswer, match="refused"):
        get(f"http://127.0.0.1:{free_port()}/")


@pytest.mark.parametrize("url", ["http://", "ftp://127.0.0.1/", "http://[::1/", "nonsense"])
def test_what_is_no_address(url):
    with pytest.raises(NoAnswer):
        get(url)


def test_plain_http_where_tls_is_expected(server):
    with pytest.raises(NoAnswer, match="SSL"):
        get("https" + server([OK + b"\r\n"]).removeprefix("http"))
