"""What a response looks like on the wire, and what must never get there."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from noraflask.serve.response import FileWrapper, Progress, Response, ShortBody


def wire(answer: Any, status: str = "200 OK", headers: Any = (), method: str = "GET", http11: bool = True) -> tuple[str, bytes, bool]:
    """The head without Server and Date, the body, and whether the connection is closed."""
    response = Response(method, http11, True)
    response.start_response(status, list(headers))
    response.iterable = answer
    response.begin(False)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        while response.advance(ours, True) is not Progress.DONE:
            pass
        ours.shutdown(socket.SHUT_WR)
        data = b"".join(iter(lambda: theirs.recv(65536), b""))
    head, _, body = data.partition(b"\r\n\r\n")
    lines = [line for line in head.decode("latin-1").split("\r\n") if not line.startswith(("Server: ", "Date: "))]
    return "|".join(lines), body, response.close_connection


def chunks(*data: bytes) -> Iterator[bytes]:
    yield from data


LENGTH_3 = [("Content-Length", "3")]


@pytest.mark.parametrize(
    ("arguments", "head", "body", "closes"),
    [
        ({"answer": [b"abc"]}, "HTTP/1.1 200 OK|Content-Length: 3", b"abc", False),
        ({"answer": []}, "HTTP/1.1 200 OK|Content-Length: 0", b"", False),
        ({"answer": [b"abcdef"], "headers": LENGTH_3}, "HTTP/1.1 200 OK|Content-Length: 3", b"abc", False),
        ({"answer": chunks(b"a", b"", b"bcd", b"e"), "headers": LENGTH_3}, "HTTP/1.1 200 OK|Content-Length: 3", b"abc", False),
        ({"answer": chunks(b"ab", b"c")}, "HTTP/1.1 200 OK|Transfer-Encoding: chunked", b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n", False),
        ({"answer": chunks()}, "HTTP/1.1 200 OK|Content-Length: 0", b"", False),
        ({"answer": chunks(b"ab", b"c"), "http11": False}, "HTTP/1.0 200 OK|Connection: close", b"abc", True),
        ({"answer": [b"abc"], "http11": False}, "HTTP/1.0 200 OK|Content-Length: 3|Connection: keep-alive", b"abc", False),
        ({"answer": [b"abc"], "headers": LENGTH_3, "method": "HEAD"}, "HTTP/1.1 200 OK|Content-Length: 3", b"", False),
        ({"answer": chunks(b"abc"), "method": "HEAD"}, "HTTP/1.1 200 OK", b"", False),
        ({"answer": [b"abc"], "headers": LENGTH_3, "status": "204 No Content"}, "HTTP/1.1 204 No Content", b"", False),
        ({"answer": [b"abc"], "headers": LENGTH_3, "status": "304 Not Modified"}, "HTTP/1.1 304 Not Modified|Content-Length: 3", b"", False),
        ({"answer": [b""], "headers": [("Connection", "close")]}, "HTTP/1.1 200 OK|Content-Length: 0|Connection: close", b"", True),
        (
            {"answer": [b""], "headers": [("Transfer-Encoding", "x"), ("Server", "s"), ("A", " b ")]},
            "HTTP/1.1 200 OK|A: b|Content-Length: 0",
            b"",
            False,
        ),
        ({"answer": FileWrapper(io.BytesIO(b"abc")), "headers": LENGTH_3}, "HTTP/1.1 200 OK|Content-Length: 3", b"abc", False),
    ],
)
def test_on_the_wire(arguments: dict[str, Any], head: str, body: bytes, closes: bool) -> None:
    assert wire(**arguments) == (head, body, closes)


@pytest.mark.parametrize("size", [0, 1, 65536, 65537, 1_000_000])
def test_files(tmp_path: Path, size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 2)
    (tmp_path / "file").write_bytes(data[: size + 3])
    with (tmp_path / "file").open("rb") as file:
        file.seek(3)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            response = Response("GET", True, True)
            response.start_response("200 OK", [])
            response.iterable = FileWrapper(file)
            response.begin(False)
            received = b""
            while response.advance(ours, True) is not Progress.DONE:
                received += theirs.recv(1 << 20)
            ours.shutdown(socket.SHUT_WR)
            received += b"".join(iter(lambda: theirs.recv(1 << 20), b""))
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"Content-Length: %d" % size in head
    assert body == data[3 : size + 3]


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        ("200 OK\r\nA: b", []),
        ("200", [("A", "b\r\nC: d")]),
        ("200 OK", [("A\r\nB", "c")]),
        ("200 OK", [("A", "b\nC: d")]),
        ("200 OK", [("A", "b\x00")]),
        ("200 OK", [("A: b\r\nC", "d")]),
        ("200 OK", [("", "b")]),
        ("200 OK", [("A b", "c")]),
        ("OK", []),
        ("2000", []),
        ("200 OK", [("Content-Length", "-1")]),
        ("200 OK", [("Content-Length", "1"), ("Content-Length", "1")]),
        ("200 OK", [("Content-Length", "\xb2")]),
    ],
)
def test_what_could_split_a_response_is_refused(status: str, headers: list[tuple[str, str]]) -> None:
    with pytest.raises(ValueError, match=r"status|header|Content-Length"):
        Response("GET", True, True).start_response(status, headers)


def test_a_body_that_is_too_short() -> None:
    for answer in ([b"ab"], chunks(b"a", b"b")):
        with pytest.raises(ShortBody):
            wire(answer, headers=LENGTH_3)


def test_start_response_once() -> None:
    response = Response("GET", True, True)
    response.start_response("200 OK", [("A", "b")])
    with pytest.raises(AssertionError):
        response.start_response("200 OK", [])
    error = ValueError("late")
    response.start_response("500 Failed", [("C", "d")], (ValueError, error, None))
    response.iterable = [b"x"]
    response.begin(False)
    with pytest.raises(ValueError, match="late"):
        response.start_response("500 Failed", [], (ValueError, error, None))


def test_the_write_callable_comes_before_the_body() -> None:
    response = Response("GET", True, True)
    write = response.start_response("200 OK", [])
    write(b"ab")
    response.iterable = [b"c"]
    response.begin(False)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert response.advance(ours, False) is Progress.DONE
        assert theirs.recv(1000).endswith(b"Content-Length: 3\r\n\r\nabc")


@pytest.mark.parametrize(("answer", "expected"), [([b"x" * 10_000_000], Progress.BLOCKED), (chunks(b"a", b"b"), Progress.SLOW)])
def test_a_request_thread_does_not_wait(answer: Any, expected: Progress) -> None:
    response = Response("GET", True, True)
    response.start_response("200 OK", [])
    response.iterable = answer
    response.begin(False)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert response.advance(ours, False) is expected
