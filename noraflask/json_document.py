"""JSON that a peer hands in: bounded before it is parsed, and read in one way only.

Parsed JSON takes many times its own bytes: `[],` is three, and a list takes 56. So values and depth are counted in a document's bytes, and
one that has too many is refused without being parsed. Of large documents each process unfolds one at a time.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Iterator
from typing import Any

from noraflask.errors import Unavailable

MOST_VALUES = 200_000
"""Members of objects and entries of lists together. A manifest of 4 MiB that is nothing but small descriptors has 140,000."""
DEEPEST = 64
"""Objects and lists within each other."""
ROUNDS = 8
"""So deep are honest documents; whether others are too deep is found out with more work."""
LARGE_BYTES = 128 * 1024
MOST_WAITING = 16
"""Threads that may wait for their turn with a large document, each of them with its document in memory."""
WAIT_SECONDS = 20
AGAIN_SECONDS = 2
"""When one comes again for whom there was no place to wait."""

_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[,{}\[\]]', re.DOTALL)
_NO_BRACKET = bytes(set(range(256)) - set(b"{}[]"))
_QUOTE, _COMMA, _OPENING, _CLOSING = b'"'[0], b","[0], b"{[", b"}]"


def parse(data: bytes, most_values: int = MOST_VALUES) -> Any:
    """Raises ValueError, which says what is wrong; also for NaN, and for a member that is there twice: some read the first and some the last."""
    check_size(data, most_values)
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_members, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def parse_object(data: bytes, most_values: int = MOST_VALUES) -> dict[str, Any]:
    """As parse(), for a document that must be an object."""
    members = parse(data, most_values)
    if not isinstance(members, dict):
        raise ValueError("it is not a JSON object")
    return members


def check_size(data: bytes, most_values: int = MOST_VALUES) -> None:
    """Raises ValueError for what has too many values or is nested too deeply. Linear, and it stops where the bound is passed."""
    counted = data.count(b",") + data.count(b"{") + data.count(b"[")  # what is within strings as well, so at least as many as there are values
    if counted <= most_values and _is_shallow(data):
        return
    values = depth = 0
    for number, token in enumerate(_TOKEN.finditer(data)):
        kind = data[token.start()]
        if kind == _COMMA:
            values += 1
        elif kind in _OPENING:
            values, depth = values + 1, depth + 1
        elif kind in _CLOSING:
            depth -= 1
        if values > most_values or number > 4 * most_values:
            raise ValueError(f"it has more than {most_values} members and entries")
        if depth > DEEPEST:
            raise ValueError(f"it is nested too deeply; {DEEPEST} levels are taken")


def _is_shallow(data: bytes) -> bool:
    """True only if it is. Each round takes away the innermost pairs of brackets; those in strings may stand in the way."""
    brackets = data.translate(None, _NO_BRACKET)
    for _ in range(ROUNDS):
        brackets = brackets.replace(b"{}", b"").replace(b"[]", b"")
    return not brackets


class Turns:
    """Who unfolds a large document, one at a time."""

    def __init__(self, wait_seconds: float = WAIT_SECONDS, most_waiting: int = MOST_WAITING) -> None:
        self._wait_seconds, self._most_waiting = wait_seconds, most_waiting
        self._turn, self._guard = threading.Lock(), threading.Lock()
        self._users = 0

    @contextlib.contextmanager
    def take(self, size: int) -> Iterator[None]:
        """Around all that is done with a document of so many bytes while it is unfolded. Raises Unavailable where too many wait already."""
        if size < LARGE_BYTES:
            yield
            return
        with self._guard:
            if self._users > self._most_waiting:
                raise Unavailable("many large documents come at this moment; try again in a few seconds", retry_after_seconds=AGAIN_SECONDS)
            self._users += 1
        try:
            if not self._turn.acquire(timeout=self._wait_seconds):
                raise Unavailable("many large documents come at this moment; try again in a few seconds", retry_after_seconds=AGAIN_SECONDS)
            try:
                yield
            finally:
                self._turn.release()
        finally:
            with self._guard:
                self._users -= 1


_TURNS = Turns()
take_turn = _TURNS.take
"""As Turns.take(), of this process."""


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member appears twice in one object")
    return members


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
