"""Logs: to stdout, one line per event, text or JSON. A line never holds a credential or a query string.

Whatever a client sends cannot end a line, begin another one or pass for a field of it: JSON is ASCII, and in text a value that a reader could take
for two, and what is not printable, is written as JSON would.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
import secrets
import select
import sys
import threading
import time
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from noraflask.config import LoggingConfig
from noraflask.recording import spoil

LEVELS = {"trace": logging.DEBUG, "debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}

PIPE_BYTES = 4096
"""Linux's PIPE_BUF: so much is written to a pipe as a whole (pipe(7))."""

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
"""Of the request that this thread is running; every line that is written meanwhile has it."""


def setup(config: LoggingConfig) -> None:
    """Send all log records of this process to stdout in the configured form. May be called again."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter() if config.format == "json" else TextFormatter())
    handler.addFilter(_spoil)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(LEVELS[config.level])


class EventLog:
    """Writes events, such as requests, without a log record's cost. One write(2) for each line, or for several, keeps lines of all workers whole."""

    def __init__(self, config: LoggingConfig) -> None:
        self._is_json = config.format == "json"
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._is_stuck, self._knows_nowait = False, True
        self._lock = threading.Lock()  # of what is held; never taken while something waits for a reader

    def write(self, event: dict[str, Any]) -> None:
        self.write_line(_render(self._is_json, _time(time.time()), event).encode(errors="backslashreplace"))

    def line_of(self, event: dict[str, Any], varying: tuple[str, ...]) -> Line:
        return Line(self._is_json, event, varying)

    def can_hold(self) -> bool:
        """False: nobody takes what was written before, and what is held waits for him."""
        if self._is_stuck:
            self.flush()
        return not self._is_stuck

    def hold(self, line: bytes) -> None:
        """Write it soon: at flush(), or when as much is held as a pipe takes in one piece. Never waits, never raises."""
        with self._lock:
            if self._held_bytes + len(line) > PIPE_BYTES:
                self._flush()
            self._held.append(line)
            self._held_bytes += len(line)

    def flush(self) -> None:
        """What somebody who reads a pipe or a socket does not take now stays held. What cannot be written is lost, as a full disk's."""
        if self._held:
            with self._lock:
                self._flush()

    def _flush(self) -> None:
        held, self._held, self._held_bytes, self._is_stuck = self._held, [], 0, False
        while held:
            count = 1 if sum(map(len, held)) > PIPE_BYTES else len(held)
            piece = b"".join(held[:count])
            try:
                rest = piece[self._write_now(piece) :]
            except OSError as problem:
                with contextlib.suppress(OSError):  # where logging tells of lines that it cannot write
                    sys.stderr.write(f"{len(held)} lines of the log are lost: {problem}\n")
                return
            held = [rest, *held[count:]] if rest else held[count:]
            if rest:
                self._held, self._held_bytes, self._is_stuck = held, sum(map(len, held)), True
                return

    def _write_now(self, lines: bytes) -> int:
        """How many bytes were written without waiting for a reader; a file may wait for a disk. A pipe takes PIPE_BYTES as a whole or not at all."""
        if self._knows_nowait:
            try:
                return os.pwritev(1, [lines], -1, os.RWF_NOWAIT)  # -1: from where the file stands
            except BlockingIOError:
                return 0
            except OSError as problem:
                if problem.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                    raise
                self._knows_nowait = False  # a file, a terminal, or a pipe before Linux 6.4
        return os.write(1, lines) if select.select([], [1], [], 0)[1] else 0

    @staticmethod
    def write_line(line: bytes) -> None:
        os.write(1, line)


class Line:
    """The line of an event that comes again and again, with another time and some other values: those named by `varying`, in the event's order."""

    __slots__ = ("_is_json", "_template")

    def __init__(self, is_json: bool, event: dict[str, Any], varying: tuple[str, ...]) -> None:
        self._is_json = is_json
        when, *marks = (secrets.token_hex(16) for _ in range(len(varying) + 1))  # nobody can write one of them into a path
        text, parts = _render(is_json, when, event | dict(zip(varying, marks, strict=True))), []
        for mark in (when, *marks):
            part, found, text = text.partition(f'"{mark}"' if is_json and mark is not when else mark)
            assert found
            parts.append(part)
        self._template = "%s".join(part.replace("%", "%%") for part in (*parts, text))

    @property
    def size_bytes(self) -> int:
        """What it takes in memory, about."""
        return sys.getsizeof(self._template)

    def now(self, *values: float | str, **more: str) -> bytes:
        """With the present time, values in the order of `varying`, and more fields at the end."""
        is_json = self._is_json
        text = self._template % (_time(time.time()), *[_word_of(value, is_json) if isinstance(value, str) else value for value in values])
        if more:
            text = f"{text[:-2]}, {json.dumps(more)[1:]}\n" if is_json else f"{text[:-1]} {_fields(more)}\n"
        return text.encode(errors="backslashreplace")


def _spoil(record: logging.LogRecord) -> bool:
    spoil("a line of the log")
    return True


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        event = {"time": _time(record.created), "level": record.levelname.lower(), "logger": record.name, "message": _message(record)}
        request_id = REQUEST_ID.get()
        if request_id:
            event["request_id"] = request_id
        if record.exc_info:
            event["traceback"] = self.formatException(record.exc_info)
        return json.dumps(event)


class TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = f"{_time(record.created)} {record.levelname.lower():7} {record.name}: {_printable(_message(record))}"
        request_id = REQUEST_ID.get()
        if request_id:
            line += f" request_id={_plain(request_id)}"
        return f"{line} traceback={json.dumps(self.formatException(record.exc_info))}" if record.exc_info else line


def _render(is_json: bool, when: str, event: dict[str, Any]) -> str:
    if is_json:
        return json.dumps({"time": when, "level": "info", **event}) + "\n"
    return f"{when} info    {_fields(event)}\n"


def _fields(event: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={_plain(value)}" for name, value in event.items())


def _word_of(value: str, is_json: bool) -> str:
    if value.isalnum() and value.isascii():
        return f'"{value}"' if is_json else value
    return json.dumps(value) if is_json else _plain(value)


def _plain(value: Any) -> str:
    text = str(value)
    return text if text.isprintable() and text and not _QUOTED & set(text) else json.dumps(text)


_PLACES = re.compile(r"(=?)%(?:%|[-#0 +]*[0-9]*(?:\.[0-9]+)?([a-zA-Z]))")
"""Where a message of logging has a value, and whether that is the value of a name."""


def _message(record: logging.LogRecord) -> str:
    """The message, in which a value that follows `name=` is one word, as in the line of a request. One that was quoted before stays as it is."""
    if not isinstance(record.args, tuple) or "=%s" not in str(record.msg):
        return record.getMessage()
    places = [place for place in _PLACES.finditer(str(record.msg)) if place[2]]
    args = (
        _word(arg) if place[1] and place[2] == "s" else arg
        for place, arg in zip(places, record.args, strict=False)  # too few or too many: getMessage() says so
    )
    return logging.LogRecord(record.name, record.levelno, "", 0, record.msg, (*args, *record.args[len(places) :]), None).getMessage()


def _word(value: Any) -> str:
    text = str(value)
    if text.startswith('"') and text.isprintable():
        try:
            if isinstance(json.loads(text), str):
                return text
        except ValueError:
            pass
    return _plain(text)


def _printable(text: str) -> str:
    return text if text.isprintable() else json.dumps(text)[1:-1]


_QUOTED = frozenset(' "=')
"""With one of these in it a value could be read as two, or as another one."""

_second = (0, "")


def _time(seconds: float) -> str:
    """RFC 3339, in UTC, with milliseconds."""
    global _second
    whole = int(seconds)
    known, text = _second
    if known != whole:
        text = datetime.fromtimestamp(whole, UTC).isoformat().removesuffix("+00:00")
        _second = (whole, text)
    return f"{text}.{int((seconds - whole) * 1000):03d}Z"
