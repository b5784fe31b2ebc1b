"""Plans: what a request was answered is answered again, without running it, while all that the answer rests on is as it was.

The server keeps them, for all bytes of a request's head (serve/plans.py). Each time that one is used, everything is done that running the request
would do, or is known to have the outcome that it had: docs/decisions/0013-plans.md has the list. A view need not know of it. Only the one path by
which stored bytes leave (responses.py) says that an answer is complete; whatever else a view does that is not known to be harmless spoils it.
"""

from __future__ import annotations

import sys
import time
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

from noraflask.log import EventLog
from noraflask.recording import Recording
from noraflask.services.metrics import catalogue
from noraflask.services.metrics.counting import NullMetrics
from noraflask.services.state import State

REQUEST_ID_FIELD, REMAINING_FIELD = "X-Request-Id", "x-ratelimit-remaining"
PLAN_BYTES, LOOK_BYTES, QUESTION_BYTES = 4000, 700, 600
"""What a plan takes, beside texts, and for each thing that it looks at, asks or does: more than was measured, where it shares nothing with others."""
VARYING = ("bytes", "ms", "request_id")
"""Of the line of a request that is answered again."""


class Scene(NamedTuple):
    """Where plans are used."""

    current: Callable[[], State]
    """Gives the live state."""
    next_id: Callable[[], str]
    """For a request that brings none."""
    metrics: NullMetrics
    events: EventLog | None
    """Where requests leave their lines; None: they leave none."""
    clock: Callable[[], float] = time.time


class Outcome:
    """What the envelope tells of a request that was answered, for others that are answered the same."""

    __slots__ = ("decision", "method", "registry", "sent", "served", "status")

    def __init__(self, registry: str, method: str, status: str, decision: str | None, sent: int, served: bool) -> None:
        """`sent`: bytes of the body; `served`: they are an artifact."""
        self.registry, self.method, self.status, self.decision = sys.intern(registry), sys.intern(method), sys.intern(status), decision
        self.sent, self.served = sent, served


class Plan:
    __slots__ = (
        *("_clock", "_counted", "_current", "_effects", "_limit", "_line", "_looks"),
        *("_next_id", "_outcome", "_questions", "_scene", "_state", "_until"),
        *("body", "size_bytes", "varying"),
    )

    def __init__(
        self, recording: Recording, outcome: Outcome, event: dict[str, Any] | None, state: State, scene: Scene, varying: tuple[tuple[str, str], ...]
    ) -> None:
        """`event`: for the log, None where requests leave no lines; `state`: the one that the request saw; `varying`: see serve/application.py."""
        assert recording.body is not None
        self.body = bytes(memoryview(recording.body))  # in a piece of memory of its size: what was read into a larger one lies among gaps
        self.varying = varying
        self._scene, self._current, self._next_id, self._clock = scene, scene.current, scene.next_id, scene.clock
        self._state, self._until = weakref.ref(state), recording.until
        self._looks, self._questions = tuple(recording.looks.values()), tuple(recording.questions)
        self._limit, self._effects = recording.limit, tuple(recording.effects)
        self._outcome = outcome
        self._counted = scene.metrics.repeats(outcome.registry, outcome.method, outcome.status, outcome.decision, outcome.served, recording.tier)
        self._line = scene.events.line_of(event, VARYING) if event is not None and scene.events is not None else None
        self.size_bytes = PLAN_BYTES + LOOK_BYTES * len(self._looks) + QUESTION_BYTES * (len(self._questions) + len(self._effects))
        self.size_bytes += len(self.body) + (self._line.size_bytes if self._line is not None else 0)

    def again(self, given_id: str) -> Repeat | None:
        """Everything that is asked, done and counted for each request. None: it is to be run, and nothing has been done or counted."""
        started = time.perf_counter()
        if self._current() is not self._state():
            return None
        now = self._clock()
        if now >= self._until or not (self._line is None or self._scene.events is None or self._scene.events.can_hold()):
            return None
        try:
            for holds in self._questions:
                if not holds(now):
                    return None
            for look, version in self._looks:
                if look() != version:
                    return None
        except Exception:  # whoever runs the request meets it again, and answers it
            return None
        values: tuple[str, ...] = (given_id or self._next_id(),)
        if self._limit is not None:  # last: where it says no, or anything did before, nothing was taken
            remaining = self._limit()
            if remaining is None:
                return None
            values = (*values, str(remaining))
        for effect in self._effects:
            effect(now)
        self._counted.answered(time.perf_counter() - started)
        return Repeat(self, started, values)

    def done(self, repeat: Repeat) -> None:
        seconds = time.perf_counter() - repeat.started
        self._counted.done(seconds, self._outcome.sent)
        if self._line is not None and self._scene.events is not None:
            self._scene.events.hold(self._line.now(self._outcome.sent, round(seconds * 1000, 1), repeat.values[0]))

    def goes_on(self) -> None:
        self._scene.metrics.request_began()

    def ended(self, repeat: Repeat, cut: str | None, sent: int) -> None:
        outcome, seconds, metrics = self._outcome, time.perf_counter() - repeat.started, self._scene.metrics
        metrics.request_done(outcome.registry, outcome.method, outcome.status, seconds, 0, sent, outcome.served)
        if cut is not None:
            metrics.count(catalogue.HTTP_CUT, outcome.registry)
        if self._line is not None and self._scene.events is not None:
            more = {} if cut is None else {"cut": cut}
            self._scene.events.write_line(self._line.now(sent, round(seconds * 1000, 1), repeat.values[0], **more))


class Repeat:
    """One answer by a plan."""

    __slots__ = ("_plan", "started", "values")

    def __init__(self, plan: Plan, started: float, values: tuple[str, ...]) -> None:
        self._plan, self.started, self.values = plan, started, values

    def done(self) -> None:
        """All of it has left at once. The line of the log is held back until the server says flush()."""
        self._plan.done(self)

    def goes_on(self) -> None:
        """The peer does not take all of it now."""
        self._plan.goes_on()

    def ended(self, cut: str | None, sent: int) -> None:
        """After goes_on(): what became of it. `cut`: why it did not get through; `sent`: bytes of the body that did."""
        self._plan.ended(self, cut, sent)
