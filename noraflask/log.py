"""Logs: to stdout, one line per event, text or JSON. A line never holds a credential or a query string."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from noraflask.config import LoggingConfig

LEVELS = {"trace": logging.DEBUG, "debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}


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
        event = {"time": _time(record.created), "level": record.levelname.lower(), "logger": record.name, "message": record.getMessage()}
        if record.exc_info:
            event["traceback"] = self.formatException(record.exc_info)
        return json.dumps(event)


class TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = f"{_time(record.created)} {record.levelname.lower():7} {record.name}: {record.getMessage()}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _json_line(event: dict[str, Any]) -> str:
    return json.dumps({"time": _time(time.time()), "level": "info", **event}) + "\n"


def _text_line(event: dict[str, Any]) -> str:
    return f"{_time(time.time())} info    {' '.join(f'{name}={_plain(value)}' for name, value in event.items())}\n"


def _plain(value: Any) -> str:
    text = str(value)
    return text if text.isprintable() and " " not in text and text else json.dumps(text)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
