"""What a request reads, asks and does, noted while it runs, so that its answer may be given again without running it (web/plans.py).

Who reads something notes how to see whether it is still the same; who asks what may change by itself notes the question; who does something that is
due for each request notes it as well. All else that has an effect, or depends on the moment, spoils the recording: what nobody thought of is run each
time. Those who note are the lowest that every request must pass: the storage (services/watched_storage.py), log, audit, metrics, gate, login.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from contextvars import ContextVar

WANTED, PLAN = "nora.record", "nora.plan"
"""In a request's environ: the server wants it recorded; what may be done again, when its answer is closed."""
MOST_LOOKS = 8
"""A request that rests on more is as quickly run again."""

Look = Callable[[], object]
"""Tells the present version of something, quickly: equal only as long as it is the same, None while there is nothing. It never raises."""
Question = Callable[[float], bool]
"""Does it still hold, at this time (seconds since the epoch)?"""
Effect = Callable[[float], object]
"""What is done for each request, at this time."""


class Recording:
    """Of one request. It may be used again at times before `until`, as long as nothing has spoiled it."""

    __slots__ = ("body", "effects", "limit", "looks", "questions", "spoiled_by", "tier", "until")

    def __init__(self) -> None:
        self.looks: dict[Hashable, tuple[Look, object]] = {}
        self.questions: list[Question] = []
        self.effects: list[Effect] = []
        self.limit: Callable[[], int | None] | None = None
        """Counts one more request of the same client: how many it has left, None when there is none left at once, and nothing was counted."""
        self.tier = ""
        """In which it counts them."""
        self.until = math.inf
        self.body: bytes | None = None
        """What the answer's body was, once the answer is known to be one of stored bytes and nothing else."""
        self.spoiled_by = ""

    def read(self, key: Hashable, look: Look) -> None:
        """To be called before something is read."""
        if key not in self.looks:
            self.looks[key] = (look, look())
            if len(self.looks) > MOST_LOOKS:
                self.spoil("it rests on too much")

    def was_absent(self, key: Hashable) -> bool:
        """Was there nothing, before it was read for the first time?"""
        return key in self.looks and self.looks[key][1] is None

    def last_until(self, moment: float) -> None:
        self.until = min(self.until, moment)

    def spoil(self, why: str) -> None:
        self.spoiled_by = self.spoiled_by or why


CURRENT: ContextVar[Recording | None] = ContextVar("recording", default=None)
"""Of the request that this thread is running, if it is recorded."""


def spoil(why: str) -> None:
    """What happens here happens for each request, or depends on the moment."""
    recording = CURRENT.get()
    if recording is not None:
        recording.spoil(why)


class aside:
    """`with aside() as recording:` what happens inside is not noted; whoever opens it notes what of it is asked and done again, if there is one."""

    __slots__ = ("_recording",)

    def __enter__(self) -> Recording | None:
        self._recording = CURRENT.get()
        if self._recording is not None:
            CURRENT.set(None)
        return self._recording

    def __exit__(self, *raised: object) -> None:
        if self._recording is not None:
            CURRENT.set(self._recording)
