"""What the application decided for whole request heads, kept so that the same request is answered without asking it: as long as the plan itself says
that all is as it was (Plan.again in application.py).

The key is a keyed hash of everything that a view can have looked at: the peer, the listener, and all bytes of the head, credentials among them, but
for X-Request-Id, which proxies set anew each time. A head is kept when it is seen a second time; of a flood of different ones only the keys are.
"""

from __future__ import annotations

import os
import re
import sys
import time
from hashlib import blake2b
from typing import NamedTuple

from noraflask.serve.application import Plan
from noraflask.serve.response import Whole, server_and_date
from noraflask.services.bounded_memory import BoundedMemory

HEAD_BYTES = 4096
"""A longer head is never kept."""
SIGHTS_PART = 16
"""Such a part of the memory is for heads that were seen once."""
SIGHT_BYTES = 50
AGAIN_SECONDS = 2.0
"""What could not be kept is not tried again for so long."""

ID_FIELD = "X-Request-Id"
LONG_ID = 8
_ID = re.compile(rb"\r\nx-request-id:[ \t]*([!-~]{1,128})[ \t]*(?=\r\n)", re.IGNORECASE)


class Sight(NamedTuple):
    """A request as it was seen."""

    key: bytes
    given_id: str
    """What it says that its id is; empty when it says nothing that would be taken."""


class Kept:
    """A plan and the answer by it."""

    __slots__ = ("_head", "plan")

    def __init__(self, plan: Plan, head: bytes) -> None:
        """`head`: with %b where Server and Date come, and what varies. The body is the plan's own."""
        self.plan, self._head = plan, head

    def answer(self, values: tuple[str, ...]) -> bytes:
        """Head and body as they go on the wire."""
        return self._head % (server_and_date(), *[value.encode("latin-1") for value in values]) + self.plan.body

    @property
    def size_bytes(self) -> int:
        """What it takes in memory, about."""
        return self.plan.size_bytes + sys.getsizeof(self._head)


class Plans:
    """Of one worker. For all of its threads."""

    def __init__(self, limit_bytes: int) -> None:
        """0: none are kept."""
        self._secret = os.urandom(32)
        self.is_on = limit_bytes > 0
        sights = limit_bytes // SIGHTS_PART
        self._kept: BoundedMemory[bytes, Kept] = BoundedMemory(limit_bytes - sights, (limit_bytes - sights) // 8)
        self._sights: BoundedMemory[bytes, float] = BoundedMemory(sights)

    def see(self, head: bytes, place: bytes) -> Sight | None:
        """`head`: all that the peer has sent, one whole head or more; `place`: from where, and to which listener. None: it is never kept."""
        if len(head) > HEAD_BYTES or not head.startswith((b"GET ", b"HEAD ")) or head.find(b"\r\n\r\n") != len(head) - 4:
            return None
        hashed = blake2b(place, digest_size=16, key=self._secret)
        found = _ID.search(head)
        if found is None:
            hashed.update(head)
            return Sight(hashed.digest(), "")
        start, end = found.span()
        hashed.update(head[:start])
        hashed.update(head[end:])
        return Sight(hashed.digest(), found[1].decode("latin-1"))

    def clear(self) -> None:
        """After a reload no plan holds, and all of them lead to what was before."""
        self._kept.clear()

    def find(self, sight: Sight) -> Kept | None:
        return self._kept.get(sight.key)

    def wants(self, sight: Sight) -> bool:
        """Is it worth while to have the application record this request?"""
        now = time.monotonic()
        last = self._sights.get(sight.key)
        if last is None:
            self._sights.put(sight.key, now, SIGHT_BYTES)
            return self._kept.get(sight.key) is not None
        return last <= now

    def keep(self, sight: Sight, plan: Plan | None, whole: Whole | None) -> None:
        """`plan`: None: the application says that it cannot be answered so again."""
        kept = _cut(plan, whole, sight.given_id) if plan is not None and whole is not None else None
        if plan is None or kept is None:
            self._sights.put(sight.key, time.monotonic() + AGAIN_SECONDS, SIGHT_BYTES)
        else:
            self._kept.put(sight.key, kept, kept.size_bytes)


def _is_told_twice(varying: tuple[tuple[str, str], ...], fields: bytes) -> bool:
    """Is the request's id, which is no part of the key, somewhere else in the answer? A short one may be there by chance, if not as a word."""
    for name, value in varying:
        if name == ID_FIELD:
            word = re.escape(value.encode("latin-1"))
            found = re.findall(word if len(value) >= LONG_ID else rb"(?<![!-~])" + word + rb"(?![!-~])", fields)
            return len(found) > 1
    return False


def _cut(plan: Plan, whole: Whole, given_id: str) -> Kept | None:
    """None where the answer is not what the plan takes it for, or has another id than the one that was found in the head: there were two of them."""
    if whole.body != plan.body or (given_id and (ID_FIELD, given_id) not in plan.varying):
        return None
    if _is_told_twice(plan.varying, whole.fields):
        return None
    rest, parts = whole.fields, [whole.line]
    for name, value in plan.varying:
        part, found, rest = rest.partition(f"\r\n{name}: {value}\r\n".encode("latin-1"))
        if not found:
            return None
        parts.append(part + f"\r\n{name}: ".encode("latin-1"))
        rest = b"\r\n" + rest
    return Kept(plan, b"%b".join(part.replace(b"%", b"%%") for part in (*parts, rest)))
