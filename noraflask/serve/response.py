"""From a WSGI answer to bytes on a socket, never waiting for the peer. RFC 9112 sections 6 and 7, PEP 3333."""

from __future__ import annotations

import os
import re
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from typing import Any, NamedTuple

from gunicorn.util import hop_headers, http_date

SMALL_FILE = 64 * 1024  # a file up to this size is read and leaves together with the head
FILE_PIECE = 4 * 1024 * 1024  # bytes offered to one sendfile call, which
FILE_PATIENCE = struct.pack("ll", 0, 50_000)  # gives up (struct timeval) when the peer takes nothing for 50 ms

_STATUS = re.compile(r"[1-9][0-9]{2}(?: [ \t\x21-\x7e\x80-\xff]*)?")
_FIELDS = re.compile(r"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+: [ \t\x21-\x7e\x80-\xff]*\r\n)*")


class Progress(Enum):
    DONE = "everything is with the kernel"
    BLOCKED = "the peer takes no more for now"
    MORE = "a piece of a file is with the kernel"
    SLOW = "what comes next may take long: a request thread hands it on"


class ShortBody(Exception):
    """The application gave fewer bytes than it announced: the connection must end, so that the client notices."""


class Whole(NamedTuple):
    """A response that went out in one piece."""

    line: bytes
    """The status line; Server and Date follow it."""
    fields: bytes
    """All others, each with its line's end, and the empty line."""
    body: bytes


class FileWrapper:
    """`wsgi.file_wrapper`: a file that the kernel sends, from its present offset on, Content-Length bytes or all."""

    def __init__(self, filelike: Any, blksize: int = 64 * 1024) -> None:
        self.filelike = filelike
        self.blksize = blksize

    def __iter__(self) -> Iterator[bytes]:
        return iter(lambda: self.filelike.read(self.blksize), b"")

    def close(self) -> None:
        if hasattr(self.filelike, "close"):
            self.filelike.close()


class Response:
    """One response: what the application says of it, and what is left to send: bytes first, then a piece of a file or an iterator."""

    __slots__ = (
        "_data",
        "_fd",
        "_fields",
        "_file_left",
        "_http11",
        "_iterator",
        "_left",
        "_method",
        "_offset",
        "_status",
        "_written",
        "close_connection",
        "code",
        "iterable",
        "keeps_whole",
        "sent",
        "started",
        "whole",
    )

    def __init__(self, method: str, http11: bool, keep_alive: bool) -> None:
        self._method, self._http11 = method, http11
        self.close_connection = not keep_alive
        self.started = False  # the head is built: nothing else can be answered any more
        self.code = 0
        self.sent = 0  # bytes that the kernel took
        self.iterable: Any = None
        self.keeps_whole = False
        self.whole: Whole | None = None  # if it is kept, once it has begun, and if nothing follows that is not in it
        self._status: str | None = None
        self._fields = ""
        self._left: int | None = None  # announced bytes that the application has still to give; None when it announced none
        self._written: list[bytes] = []
        self._data: bytes | memoryview = b""
        self._fd, self._offset, self._file_left = -1, 0, 0
        self._iterator: Iterator[bytes] | None = None

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], None]:
        """PEP 3333. Raises ValueError for a status or a header that could split the response."""
        if exc_info:
            if self.started:
                raise exc_info[1].with_traceback(exc_info[2])
        elif self._status is not None:
            raise AssertionError("start_response was called twice")
        if not _STATUS.fullmatch(status):
            raise ValueError(f"not a valid status: {status!r}")
        self._status, self.code, self._left = status, int(status[:3]), None
        lines = []
        for name, value in headers:
            lower = name.lower()
            if lower == "content-length":
                self._announce(value)
                if self.code == 204 or self.code < 200:  # RFC 9110 section 8.6
                    continue
            elif lower in hop_headers:  # ours to say
                if lower == "connection" and value.lower() == "close":
                    self.close_connection = True
                continue
            lines.append(f"{name}: {value.strip()}\r\n")
        self._fields = "".join(lines)
        if self._fields.count("\n") != len(lines) or not _FIELDS.fullmatch(self._fields):
            raise ValueError("a response header holds a character that is not allowed")
        return self._written.append

    def _announce(self, value: str) -> None:
        if not (value.isascii() and value.isdigit()) or self._left is not None:
            raise ValueError("Content-Length must be one number")
        self._left = int(value)

    @property
    def _bodiless(self) -> bool:
        """RFC 9112 section 6.3: no body, whatever the headers say."""
        return self._method == "HEAD" or self.code in (204, 304) or self.code < 200

    @property
    def _chunked(self) -> bool:
        return self._left is None and self._http11 and not self._bodiless

    def begin(self, close_connection: bool) -> None:
        """Take the application's answer, `iterable`. Raises what its iterator raises before the first bytes, and ShortBody."""
        iterable = self.iterable
        self.close_connection |= close_connection
        body = self._begin_file(iterable) if isinstance(iterable, FileWrapper) else None
        if body is None:
            body = self._begin_bytes(iterable)
        line, fields = self._head()
        self._data = b"".join((line, server_and_date(), fields, body))
        if self.keeps_whole and self._iterator is None and not self._file_left and not self.close_connection:
            self.whole = Whole(line, fields, body)
        self.started = True

    def _begin_file(self, wrapper: FileWrapper) -> bytes | None:
        """The bytes of a small file, b"" for one that the kernel will send, None if it is no real file."""
        try:
            fd = wrapper.filelike.fileno()
            offset = os.lseek(fd, 0, os.SEEK_CUR)
            if self._left is None:
                self._announce_size(max(0, os.fstat(fd).st_size - offset))
        except (AttributeError, OSError):
            return None
        size, self._left = self._left or 0, 0
        if self._bodiless:
            return b""
        if size > SMALL_FILE:
            self._fd, self._offset, self._file_left = fd, offset, size
            return b""
        data = os.pread(fd, size, offset)
        if len(data) < size:
            raise ShortBody(f"a file is {size - len(data)} bytes shorter than announced")
        return data

    def _begin_bytes(self, iterable: Iterable[bytes]) -> bytes:
        if isinstance(iterable, list | tuple):
            data = b"".join(iterable)
        elif self._bodiless and self._status is not None:
            return b""
        else:
            self._iterator = iter(iterable)
            data = self._next()  # a generator may call start_response only now
        if self._written:
            data = b"".join((*self._written, data))
        if self._iterator is None and self._left is None and not self._bodiless:
            self._announce_size(len(data))
        return self._framed(data)

    def _announce_size(self, size: int) -> None:
        self._left = size
        self._fields += f"Content-Length: {size}\r\n"

    def _head(self) -> tuple[bytes, bytes]:
        """The status line, and all fields but Server and Date with the empty line."""
        if self._status is None:
            raise AssertionError("the application answered without calling start_response")
        framing = ""
        if self._chunked:
            framing = "Transfer-Encoding: chunked\r\n"
        elif self._left is None and not self._bodiless:
            self.close_connection = True  # HTTP/1.0 without a length: the end of the connection is the end of the body
        if self.close_connection:
            framing += "Connection: close\r\n"
        elif not self._http11:
            framing += "Connection: keep-alive\r\n"
        version = "HTTP/1.1" if self._http11 else "HTTP/1.0"
        return f"{version} {self._status}\r\n".encode("latin-1"), f"{self._fields}{framing}\r\n".encode("latin-1")

    def _next(self) -> bytes:
        """The iterator's next bytes, b"" at its end."""
        for data in self._iterator or ():
            if data:
                return data
        self._iterator = None
        return b""

    def _framed(self, data: bytes) -> bytes:
        """`data` as it goes on the wire: cut to the announced length, or as a chunk; at the end of the iterator the end of the body."""
        if self._bodiless:
            self._iterator = None
            return b""
        if self._chunked:
            chunk = b"%X\r\n%b\r\n" % (len(data), data) if data else b""
            return chunk if self._iterator is not None else chunk + b"0\r\n\r\n"
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
            if not self._left and self._iterator is not None:
                self._next()  # lets a generator run to its end
                self._iterator = None
            if self._left and self._iterator is None:
                raise ShortBody(f"the body is {self._left} bytes shorter than announced")
        return data

    def advance(self, sock: socket.socket, on_pool: bool, patient: bool = False) -> Progress:
        """Send what can be sent now, or if `patient` within a moment.

        Raises OSError when the peer is gone, ShortBody, and what the application's iterator raises.
        """
        while on_pool or not self._file_left:
            if self._data:
                if not self._send_data(sock):
                    return Progress.BLOCKED
                continue
            if self._file_left:
                return self._send_file(sock, patient)
            if self._iterator is None:
                return Progress.DONE
            if not on_pool:
                break
            self._data = self._framed(self._next())
        return Progress.SLOW

    def _send_data(self, sock: socket.socket) -> bool:
        """False when the peer takes nothing now."""
        try:
            sent = sock.send(self._data, socket.MSG_DONTWAIT | (socket.MSG_MORE if self._file_left else 0))
        except BlockingIOError:
            return False
        self.sent += sent
        self._data = b"" if sent == len(self._data) else memoryview(self._data)[sent:]
        return True

    @property
    def held(self) -> int:
        """Bytes of it in memory, those included that have left in the same piece."""
        return memoryview(self._data.obj).nbytes if isinstance(self._data, memoryview) else len(self._data)

    @property
    def only_file(self) -> bool:
        """Is what is left bytes and a file only, so that sending it never waits for the application?"""
        return self._iterator is None

    def go_on(self, data: bytes, sent: int) -> None:
        """Send the rest of a response that has begun elsewhere."""
        self._data, self.sent, self.started = memoryview(data)[sent:], sent, True

    def replace(self, status: int, reason: str) -> None:
        """Answer one line instead of what the application began to say; nothing of that has been sent."""
        self._data, self._iterator, self._file_left = plain_text(status, reason, self._method == "HEAD"), None, 0
        self.started = self.close_connection = True

    def _send_file(self, sock: socket.socket, patient: bool) -> Progress:
        """One piece of the file. If patient, the kernel waits a moment for the peer: cheaper than to return each time its buffer is full."""
        if patient:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, FILE_PATIENCE)
        else:
            sock.setblocking(False)
        try:
            sent = os.sendfile(sock.fileno(), self._fd, self._offset, min(self._file_left, FILE_PIECE))
        except BlockingIOError:
            return Progress.BLOCKED
        finally:
            if not patient:
                sock.setblocking(True)
        if not sent:
            raise ShortBody(f"a file is {self._file_left} bytes shorter than announced")
        self._offset += sent
        self._file_left -= sent
        self.sent += sent
        return Progress.MORE if self._file_left else Progress.DONE


RETRY_SECONDS = 2  # for a client that was one too many

_stamp = (0, b"")


def server_and_date() -> bytes:
    global _stamp
    now = int(time.time())
    second, text = _stamp
    if second != now:
        text = f"Server: nora\r\nDate: {http_date(now)}\r\n".encode()
        _stamp = (now, text)
    return text


def plain_text(status: int, reason: str, head: bool = False) -> bytes:
    """A whole response of one line, for what never reaches the application. It ends the connection."""
    body = f"{status} {reason}\n".encode("latin-1")
    fields = f"Content-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
    if status == 503:
        fields += f"Retry-After: {RETRY_SECONDS}\r\n"
    return b"".join((f"HTTP/1.1 {status} {reason}\r\n".encode("latin-1"), server_and_date(), f"{fields}\r\n".encode(), b"" if head else body))
