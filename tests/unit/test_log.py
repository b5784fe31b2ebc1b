"""Lines of the log: one for each event, whatever is in it."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noraflask import log
from noraflask.config import LoggingConfig

FORGED = [
    "x\n2026-01-01T00:00:00.000Z info    forged",
    'x\r\n{"level": "error"}',
    "x\x1b[2Jx",
    "x\u2028forged",
    "x\x85forged",
    "x\u202egnp.exe",
    "x\x00",
    'a="b" status=200',
    "\udcff",
]
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=60)


def formatted(formatter, message, error=None):
    exc_info = (type(error), error, None) if error else None
    return formatter.format(logging.LogRecord("nora.test", logging.INFO, "", 0, "%s", (message,), exc_info))


def rendered(format, **event):
    """One event as it is written, from the other end of a pipe."""
    reading, writing = os.pipe()
    kept = os.dup(1)
    try:
        os.dup2(writing, 1)
        log.EventLog(LoggingConfig(format=format)).write(event)
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(writing)
    with os.fdopen(reading, "rb") as lines:
        return lines.read()


def is_one_line(data: bytes) -> bool:
    text = data.decode()
    return text.endswith("\n") and text[:-1].isprintable()


@pytest.mark.parametrize("text", FORGED)
@pytest.mark.parametrize("format", ["json", "text"])
def test_no_value_ends_a_line_or_hides_in_it(format, text):
    line = rendered(format, message="request", path=text, agent=text)
    assert is_one_line(line)
    if format == "json":
        assert json.loads(line)["path"].encode("utf-16", "surrogatepass") == text.encode("utf-16", "surrogatepass")
    else:
        assert re.fullmatch(rb'\S+ info    message=request path=("[^ ].*") agent=\1\n', line)


@given(ANY_TEXT)
def test_any_value_in_json_is_what_it_was(text):
    line = log._render(True, "now", {"message": "request", "path": text, "status": 200, "ms": 0.5, "none": None})
    found = json.loads(line)
    assert (found["path"], found["status"], found["ms"], found["none"], found["level"]) == (text, 200, 0.5, None, "info")
    assert is_one_line(line.encode())


@given(ANY_TEXT)
def test_any_value_in_text_is_one_word(text):
    line = log._render(False, "now", {"message": "request", "path": text})
    assert line.count("\n") == 1
    word = line.rstrip("\n").partition(" path=")[2]
    assert (json.loads(word) if word.startswith('"') else word) == text


@pytest.mark.parametrize("text", FORGED)
@pytest.mark.parametrize("formatter", [log.TextFormatter(), log.JsonFormatter()])
def test_messages_and_tracebacks_are_one_line(formatter, text):
    line = formatted(formatter, text, ValueError(text))
    assert line.isprintable()
    assert "ValueError" in line


@pytest.mark.parametrize("formatter", [log.TextFormatter(), log.JsonFormatter()])
def test_lines_of_a_request_have_its_id(formatter):
    before = formatted(formatter, "x")
    mark = log.REQUEST_ID.set("r-17")
    try:
        assert "r-17" in formatted(formatter, "x")
    finally:
        log.REQUEST_ID.reset(mark)
    assert "request_id" not in before


# Messages with fields: `name=value`, where the value came from outside.

FIELD = re.compile(r' ([a-z_]+)=("(?:[^"\\]|\\.)*"|[^ ="]*)')


def fields(message, *args, formatter=None):
    """The fields of a message as a reader takes them apart; nothing may be left between them."""
    line = (formatter or log.TextFormatter()).format(logging.LogRecord("nora.test", logging.INFO, "", 0, message, args, None))
    assert line.isprintable()
    text = line.partition(": ")[2]
    found = FIELD.findall(f" {text}")
    assert "".join(f" {name}={value}" for name, value in found) == f" {text}"
    return [(name, json.loads(value) if value.startswith('"') else value) for name, value in found]


@pytest.mark.parametrize("text", [*FORGED, "two words", "", "x request_id=forged", '"a" user="root"', '"unfinished', "a=b"])
def test_a_value_of_a_message_is_one_word(text):
    assert fields("user=%s count=%d by=%s", text, 3, "rule 7 of config.toml") == [("user", text), ("count", "3"), ("by", "rule 7 of config.toml")]


def test_a_value_that_is_quoted_already_stays():
    assert fields("user=%s action=%s", json.dumps("a b"), "pull") == [("user", "a b"), ("action", "pull")]


@pytest.mark.parametrize("id", ['a"b', "a=b", 'x"user="root'])
def test_a_request_id_from_outside_is_one_word(id):
    mark = log.REQUEST_ID.set(id)
    try:
        assert fields("user=%s", "ann") == [("user", "ann"), ("request_id", id)]
    finally:
        log.REQUEST_ID.reset(mark)


def test_no_message_says_the_id_that_its_line_has_anyway():
    sources = Path(log.__file__).parent.rglob("*.py")
    assert [path.name for path in sources if "request_id=%s" in path.read_text()] == []


@pytest.mark.parametrize(
    ("message", "args"), [("100%% of=%s", ("a b",)), ("%5.1f s for=%s", (2.5, "a b")), ("x=%(y)s", ({"y": "a"},)), ("x=%s", ()), ("%s", ("x=%s",))]
)
def test_any_message_of_logging_is_written(message, args):
    record = logging.LogRecord("nora.test", logging.INFO, "", 0, message, args, None)
    assert log.TextFormatter().format(record).endswith(record.getMessage().replace("a b", '"a b"'))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (1795724321.0625, "2026-11-26T20:18:41.062Z"),
        (1795724321.9999, "2026-11-26T20:18:41.999Z"),
        (1795724322.0, "2026-11-26T20:18:42.000Z"),
    ],
)
def test_times(seconds, text):
    assert log._time(seconds) == text


def test_setup_writes_to_stdout(monkeypatch, capsys):
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    log.setup(LoggingConfig(format="text", level="warn"))
    logging.getLogger("nora.test").warning("here")
    logging.getLogger("nora.test").info("not here")
    assert capsys.readouterr().out.split(maxsplit=1)[1] == "warning nora.test: here\n"


# Lines that come again and again.


@pytest.mark.parametrize("format", ["json", "text"])
@pytest.mark.parametrize("id", ["0a1b", "x-1", 'a"b', "a=b", 'x"user="root', "\x7f"])
@given(path=ANY_TEXT, ms=st.floats(0, 1e6))
def test_a_line_that_comes_again_is_what_it_would_be(format, id, path, ms):
    log_ = log.EventLog(LoggingConfig(format=format))
    event = {"message": "request", "path": path, "status": 200, "ms": round(ms, 1), "agent": path, "request_id": id, "user": path}
    again = log_.line_of(event | {"ms": 0.3, "request_id": "first"}, ("ms", "request_id")).now(event["ms"], id)
    assert (
        again.partition(b"Z")[2]
        == log._render(format == "json", "2026-01-01T00:00:00.000Z", event).encode(errors="backslashreplace").partition(b"Z")[2]
    )
    assert is_one_line(again)


@pytest.mark.parametrize("format", ["json", "text"])
def test_what_became_of_an_answer_is_told_at_the_end_of_such_a_line(format):
    log_ = log.EventLog(LoggingConfig(format=format))
    event = {"message": "request", "path": "/100%s", "bytes": 7, "request_id": "one"}
    again = log_.line_of(event | {"bytes": 1}, ("bytes", "request_id")).now(7, "two", cut="the peer left")
    event |= {"request_id": "two", "cut": "the peer left"}
    assert again.partition(b"Z")[2] == log._render(format == "json", "2026-01-01T00:00:00.000Z", event).encode().partition(b"Z")[2]


def test_what_is_held_is_written_in_whole_lines_that_a_pipe_takes_at_once(monkeypatch):
    written = []
    monkeypatch.setattr(log.os, "pwritev", lambda descriptor, buffers, offset, flags: written.extend(buffers) or len(buffers[0]))
    events = log.EventLog(LoggingConfig())
    lines = [b"%d %b\n" % (number, b"x" * (number % 900)) for number in range(2000)]
    for line in lines:
        events.hold(line)
    events.flush()
    events.flush()
    assert b"".join(written) == b"".join(lines)
    assert all(len(data) <= log.PIPE_BYTES and data.endswith(b"\n") for data in written)
    assert len(written) < len(lines) / 4


@contextlib.contextmanager
def pipe_in_place_of_stdout():
    """The end to read from. Within the test, since pytest changes stdout between its phases."""
    reading, writing = os.pipe()
    kept = os.dup(1)
    os.dup2(writing, 1)
    try:
        yield reading
    finally:
        os.dup2(kept, 1)
        for descriptor in (reading, writing, kept):
            os.close(descriptor)


@pytest.mark.parametrize("is_new", [True, False], ids=["now", "before Linux 6.4"])
def test_who_answers_does_not_wait_for_a_pipe_that_nobody_reads(is_new, monkeypatch):
    if not is_new:
        monkeypatch.setattr(log.os, "pwritev", lambda *given: (_ for _ in ()).throw(OSError(errno.EOPNOTSUPP, "")))
    events, lines, seen = log.EventLog(LoggingConfig()), [], b""
    with pipe_in_place_of_stdout() as pipe:
        while events.can_hold():
            lines.append(b"%06d %b\n" % (len(lines), b"x" * 500))
            events.hold(lines[-1])
            events.flush()
        written = b"".join(lines)
        while len(seen) < len(written):
            seen += os.read(pipe, 4096)
            events.flush()
        assert events.can_hold()
    assert seen == written


def test_lines_that_cannot_be_written_cost_nobody_his_answer(monkeypatch, capsys):
    monkeypatch.setattr(log.os, "pwritev", lambda *given: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    events = log.EventLog(LoggingConfig())
    for _ in range(10):
        events.hold(b"x" * 1000)
    assert events.can_hold()
    assert "4 lines of the log are lost" in capsys.readouterr().err
