"""What services and the envelope call. Every method is safe in any thread, never raises, and costs microseconds or less."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from noraflask.services.metrics import catalogue
from noraflask.services.metrics.bank import Bank, Buckets, Series
from noraflask.services.metrics.catalogue import COUNTER, FAMILIES, GAUGE, HISTOGRAM, METHOD_OTHER, METHODS, OTHER, Family

MOST_SERIES = 2000
"""Of one family; a label that is not as bounded as was thought must not fill the memory."""
_METHODS = frozenset(METHODS)


class NullMetrics:
    """Counts nothing: for tests, and where metrics are switched off."""

    def count(self, family: Family, *labels: str, by: float = 1.0) -> None: ...
    def observe(self, family: Family, amount: float, *labels: str) -> None: ...
    def change(self, family: Family, by: float) -> None: ...
    def request_began(self) -> None: ...
    def request_answered(self, registry: str, method: str, status: str, seconds: float, decision: str | None) -> None: ...
    def request_done(self, registry: str, method: str, status: str, seconds: float, received: int, sent: int, served: bool) -> None: ...
    def storage_timer(self, operation: str, backend: str) -> Callable[[str, float], None]:
        """What is called with the outcome of each operation of that kind, and its seconds."""
        return lambda status, seconds: None


class Metrics(NullMetrics):
    def __init__(self, bank: Bank, registries: tuple[str, ...]) -> None:
        self.bank = bank
        self._registries = registries
        self._lock = threading.Lock()
        self._numbers: dict[tuple[Family, tuple[str, ...]], Series] = {}
        self._buckets: dict[tuple[Family, tuple[str, ...]], Buckets] = {}
        self._sizes: dict[Family, int] = {}
        self._requests: dict[tuple[str, str, str], _Request] = {}
        for family in FAMILIES:
            for labels in family.presets(registries):
                self._bucket(family, labels) if family.kind == HISTOGRAM else self._number(family, labels)
        self._in_flight = self._number(catalogue.HTTP_IN_FLIGHT, ())

    def count(self, family: Family, *labels: str, by: float = 1.0) -> None:
        assert family.kind == COUNTER
        series, bank = self._number(family, labels), self.bank
        with bank.lock:
            bank.counters[series.cell] += by

    def observe(self, family: Family, amount: float, *labels: str) -> None:
        buckets, bank = self._bucket(family, labels), self.bank
        with bank.lock:
            buckets.observe(bank.histograms, amount)

    def change(self, family: Family, by: float) -> None:
        assert family.kind == GAUGE
        series, bank = self._number(family, ()), self.bank
        with bank.lock:
            bank.gauges[series.cell] += by

    def request_began(self) -> None:
        bank = self.bank
        with bank.lock:
            bank.gauges[self._in_flight.cell] += 1.0

    def request_answered(self, registry: str, method: str, status: str, seconds: float, decision: str | None) -> None:
        """Before the first byte leaves: whoever has an answer finds it counted, whatever becomes of this process.

        `decision`: the gate's answer, None: it was not asked.
        """
        made = self._requests.get((registry, method, status)) or self._request(registry, method, status)
        decided = self._number(catalogue.CURATION_DECISIONS, (decision,)) if decision else None
        bank = self.bank
        with bank.lock:
            bank.counters[made.requests.cell] += 1.0
            if decided:
                bank.counters[decided.cell] += 1.0
            made.head.observe(bank.histograms, seconds)

    def request_done(self, registry: str, method: str, status: str, seconds: float, received: int, sent: int, served: bool) -> None:
        """When the last byte has left, or could not. `served`: an artifact was."""
        made = self._requests.get((registry, method, status)) or self._request(registry, method, status)
        bank = self.bank
        with bank.lock:
            counters = bank.counters
            if sent:
                counters[made.sent.cell] += sent
            if received:
                counters[made.received.cell] += received
            if served and made.downloads and made.hits:
                counters[made.downloads.cell] += 1.0
                counters[made.hits.cell] += 1.0
            made.last.observe(bank.histograms, seconds)
            bank.gauges[self._in_flight.cell] -= 1.0

    def storage_timer(self, operation: str, backend: str) -> Callable[[str, float], None]:
        bank, took = self.bank, self._bucket(catalogue.STORAGE_DURATION, (backend, operation))
        done = {status: self._number(catalogue.STORAGE_OPERATIONS, (operation, status)) for status in ("ok", "not_found", "error")}

        def timer(status: str, seconds: float) -> None:
            with bank.lock:
                bank.counters[done[status].cell] += 1.0
                took.observe(bank.histograms, seconds)

        return timer

    def _request(self, registry: str, method: str, status: str) -> _Request:
        known, named = registry in self._registries, method if method in _METHODS else METHOD_OTHER
        place = (registry,) if known else (OTHER,)
        made = _Request(
            self._number(catalogue.HTTP_REQUESTS, (*place, named, status)),
            self._number(catalogue.HTTP_SENT, place),
            self._number(catalogue.HTTP_RECEIVED, place),
            self._number(catalogue.DOWNLOADS, place) if known else None,
            self._number(catalogue.CACHE_REQUESTS, (*place, "hit")) if known else None,
            self._bucket(catalogue.HTTP_DURATION, (*place, named)),
            self._bucket(catalogue.HTTP_LAST_BYTE, place),
        )
        if method == named and len(self._requests) < MOST_SERIES:
            self._requests[registry, method, status] = made
        return made

    def _number(self, family: Family, labels: tuple[str, ...]) -> Series:
        found = self._numbers.get((family, labels))
        if found is None:
            found = self._make(self._numbers, family, labels, lambda named: self.bank.series(family, family.name, named))
        return found

    def _bucket(self, family: Family, labels: tuple[str, ...]) -> Buckets:
        found = self._buckets.get((family, labels))
        if found is None:
            found = self._make(self._buckets, family, labels, lambda named: self.bank.buckets(family, named))
        return found

    def _make(self, made: dict[Any, Any], family: Family, labels: tuple[str, ...], make: Callable[[dict[str, str]], Any]) -> Any:
        with self._lock:
            if self._sizes.get(family, 0) >= MOST_SERIES:
                labels = (OTHER,) * len(labels)
            if (family, labels) not in made:
                made[family, labels] = make(dict(zip(family.labels, labels, strict=True)))
                self._sizes[family] = self._sizes.get(family, 0) + 1
            return made[family, labels]


class _Request:
    """What requests to one repository, with one method and one status, count."""

    __slots__ = ("downloads", "head", "hits", "last", "received", "requests", "sent")

    def __init__(
        self, requests: Series, sent: Series, received: Series, downloads: Series | None, hits: Series | None, head: Buckets, last: Buckets
    ) -> None:
        self.requests, self.sent, self.received, self.downloads, self.hits, self.head, self.last = (
            requests, sent, received, downloads, hits, head, last,
        )  # fmt: skip
