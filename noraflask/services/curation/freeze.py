"""The freeze: from one moment on nothing new comes from any upstream, in all workers of all nodes, until it is lifted.

freeze    JSON: who, why, since when, and optionally until when
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from noraflask.errors import NoraError
from noraflask.recording import spoil
from noraflask.services.documents import Documents

LOOK_SECONDS = 0.5
NAME = "freeze"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Frozen:
    by: str
    reason: str
    since: float
    until: float | None = None
    """Seconds since the epoch; None: until it is lifted."""


class Freeze:
    def __init__(self, documents: Documents, clock: Callable[[], float] = time.time) -> None:
        self._documents = documents
        self._clock = clock
        self._looked = float("-inf")
        self._frozen: Frozen | None = None

    def begin(self, by: str, reason: str, seconds: float | None = None) -> Frozen:
        now = self._clock()
        frozen = Frozen(by, reason, now, None if seconds is None else now + seconds)
        self._documents.replace(NAME, json.dumps(asdict(frozen)).encode())
        self._looked = float("-inf")
        return frozen

    def lift(self) -> None:
        self._documents.delete(NAME)
        self._looked = float("-inf")

    def current(self) -> Frozen | None:
        """As it was at most LOOK_SECONDS ago. While storage cannot be read, what was known stays; what is there and cannot be understood freezes."""
        spoil("a freeze may begin and end")
        now = self._clock()
        if not 0 <= now - self._looked < LOOK_SECONDS:
            self._looked = now
            try:
                self._frozen = self._read()
            except NoraError as problem:
                log.error("whether there is a freeze cannot be read: %s", problem)
        frozen = self._frozen
        return None if frozen is None or (frozen.until is not None and frozen.until <= now) else frozen

    def _read(self) -> Frozen | None:
        data = self._documents.read(NAME)
        if data is None:
            return None
        try:
            members = json.loads(data)
            until = members.get("until")
            return Frozen(str(members["by"]), str(members["reason"]), float(members["since"]), None if until is None else float(until))
        except (ValueError, TypeError, KeyError, AttributeError):
            return Frozen("unknown", "the note of the freeze is damaged; lift it with `nora curation freeze --lift`", 0.0)
