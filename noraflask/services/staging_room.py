"""Who may begin another upload, or send more bytes, and whose idle uploads are removed to make room.

An owner who has all that one may have loses those of his own uploads that have been idle for longest, empty ones first, and is refused only when none
is idle for long enough. What lies idle is mostly left by jobs that were killed: nobody goes on with it, and whoever does not clear it away should not
be locked out for an hour because of it. Where all places are taken, the owner who has most makes room in the same way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from noraflask.config import StagingConfig
from noraflask.errors import TooManyUploads
from noraflask.services.metrics import catalogue
from noraflask.services.metrics.counting import NullMetrics
from noraflask.services.staging_counts import NOBODY
from noraflask.services.staging_usage import Idle, Usage, idle_in, modified, owner_of, remove_idle, uploads_in

EMPTY_IDLE_SECONDS = 60.0
"""So old is an upload without a byte that makes room: clients send within a second of having begun."""
IDLE_SECONDS = 600.0
"""And one with bytes, which a client might go on with."""
FOR_OTHERS = 3
"""One owner never has more than all but the third part of all places,"""
FREE_FOR_OTHERS = 4
"""nor more than all but the fourth part of the room on the data volume."""
AT_ONCE = 10
"""The tenth part of what an owner may have is removed at once: to look for it takes a look at all uploads."""
LEAST_WAIT, LONGEST_WAIT = 1, 60
"""Seconds between two looks for what could go."""
LONGEST_TOLD = 10
"""Seconds that a refused client is told to wait: uploads end all the time."""
REMEMBERED = 4096

OWNER_FULL = "too many uploads of yours are unfinished; finish or cancel some, or try again later"
OWNER_BYTES = "your unfinished uploads take all the room that one client may have; finish or cancel some, or try again later"


class Room:
    def __init__(
        self,
        config: StagingConfig,
        max_sessions: int,
        usage: Usage,
        folders: Callable[[], list[str]],
        clock: Callable[[], float],
        metrics: NullMetrics,
    ) -> None:
        self._config, self._max_sessions, self._usage = config, max_sessions, usage
        self._folders, self._clock, self._metrics = folders, clock, metrics
        self.most_of_one = min(config.principal_sessions, max_sessions - max_sessions // FOR_OTHERS)
        self._not_before: dict[tuple[int | None, int], float] = {}
        """When it is worth while to look again for what an owner, or None: anybody, could lose, of so many bytes or more."""

    def take(self, owner: int) -> None:
        """Count an upload that begins. Raises TooManyUploads."""
        wait = 0
        for _ in range(2):
            full = self._usage.begin(owner, self.most_of_one, self._max_sessions)
            if full is None:
                return
            wait = self._make_room(owner if full == "owner" else None, self._max_sessions if full == "all" else self.most_of_one)
            if wait:
                break
        self._metrics.count(catalogue.STAGING_REFUSED, "principal_sessions" if full == "owner" else "too_many_uploads")
        raise TooManyUploads(OWNER_FULL if full == "owner" else None, retry_after_seconds=wait or LEAST_WAIT)

    def admit(self, owner: int, offset: int) -> None:
        """More bytes for an upload that is so long. Raises TooManyUploads when the owner's others take all that they may."""
        if owner == NOBODY:
            return
        others = self._usage.volume_bytes_of(owner) - offset
        most = self._config.principal_bytes or self._usage.room_bytes() * (FREE_FOR_OTHERS - 1) // FREE_FOR_OTHERS
        if others <= 0 or others < most or not most:
            return
        wait = self._make_room(owner, self.most_of_one, least_bytes=1)
        if wait:
            self._metrics.count(catalogue.STAGING_REFUSED, "principal_bytes")
            raise TooManyUploads(OWNER_BYTES, retry_after_seconds=wait)

    def sweep(self) -> int:
        """Remove uploads that nobody has written to for the configured time; returns how many."""
        removed, oldest = 0, self._clock() - self._config.session_ttl_seconds
        for folder in self._folders():
            for entry in uploads_in(folder):
                written = modified(entry)
                if written < oldest and remove_idle(entry.path, written):
                    self._usage.counts.ended(owner_of(entry.name))
                    removed += 1
        return removed

    def _make_room(self, owner: int | None, most: int, least_bytes: int = 0) -> int:
        """Remove what has been idle for longest; 0 when something was removed, else the seconds after which something may be."""
        now = time.monotonic()
        wait = self._not_before.get((owner, least_bytes), 0.0) - now
        if wait <= 0:
            idle = [upload for upload in idle_in(self._folders(), owner) if upload.bytes >= least_bytes]
            ripe = [upload for upload in idle if self._ripe_in(upload) <= 0]
            if self._remove(_in_order(ripe, idle), max(1, most // AT_ONCE)):
                return 0
            wait = min(map(self._ripe_in, idle), default=LONGEST_WAIT)
            wait = min(max(wait, LEAST_WAIT), LONGEST_WAIT)  # also when all that is ripe is at work
            if len(self._not_before) >= REMEMBERED:
                self._not_before.clear()
            self._not_before[owner, least_bytes] = now + wait
        return min(max(LEAST_WAIT, round(wait + 0.5)), LONGEST_TOLD)

    def _ripe_in(self, upload: Idle) -> float:
        """Seconds."""
        return min(IDLE_SECONDS if upload.bytes else EMPTY_IDLE_SECONDS, self._config.session_ttl_seconds) - (self._clock() - upload.modified)

    def _remove(self, uploads: Iterable[Idle], most: int) -> int:
        removed = 0
        for upload in uploads:
            if removed < most and remove_idle(upload.path, upload.modified):
                removed += 1
                self._usage.counts.ended(upload.owner)
        if removed:
            self._metrics.count(catalogue.STAGING_MADE_ROOM, by=removed)
        return removed


def _in_order(ripe: Iterable[Idle], idle: Iterable[Idle]) -> list[Idle]:
    """Those of the owner who has most first; of one owner the empty ones before the others, and each after those that were idle for longer."""
    counts: dict[int, int] = {}
    for upload in idle:
        counts[upload.owner] = counts.get(upload.owner, 0) + 1
    return sorted(ripe, key=lambda upload: (-counts[upload.owner], upload.bytes > 0, upload.modified))
