"""Logs: to stdout, one line per event, text or JSON. A line never holds a credential or a query string.

Whatever a client sends cannot end a line, begin another one or pass for a field of it: JSON is ASCII, and in text a value that a reader could take
for two, and what is not printable, is written as JSON would.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from noraflask.config import LoggingConfig

LEVELS = {"trace": logging.DEBUG, "debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
"""Of the request that this thread is running; every line that is written meanwhile has it."""


def setup(config: LoggingConfig) -> None:
    """Send all log records of this process to stdout in the configured form. May be called again."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter() if config.format == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(LEVELS[config.level])


def write_event(config: LoggingConfig) -> Callable[[dict[str, Any]], None]:
    """A function that writes one event, such as a request, without a log record's cost. One write(2) a line keeps lines of all workers whole."""
    render = _json_line if config.format == "json" else _text_line

    def write(event: dict[str, Any]) -> None:
        os.write(1, render(event).encode(errors="backslashreplace"))

    return write


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


def _json_line(event: dict[str, Any]) -> str:
    return json.dumps({"time": _time(time.time()), "level": "info", **event}) + "\n"


def _text_line(event: dict[str, Any]) -> str:
    return f"{_time(time.time())} info    {' '.join(f'{name}={_plain(value)}' for name, value in event.items())}\n"


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
