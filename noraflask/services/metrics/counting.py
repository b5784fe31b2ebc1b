"""What services and the envelope call. Every method is safe in any thread, never raises, and costs microseconds or less."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import accumulate

from prometheus_client.metrics_core import Metric
from prometheus_client.utils import floatToGoString

from noraflask.recording import spoil
from noraflask.services.metrics import catalogue
from noraflask.services.metrics.catalogue import COUNTER, FAMILIES, GAUGE, HISTOGRAM, METHOD_OTHER, METHODS, OTHER, Family
from noraflask.services.metrics.counter_files import Buckets, CounterFiles, TooMany

MOST_REMEMBERED = 50_000
"""Kinds of requests whose cells a process has at hand."""
MOST_REPEATED = 1_000
"""Kinds of answers by plans."""
_METHODS = frozenset(METHODS)


class Repeats:
    """Counts answers that are given again as they were once (web/plans.py). This one counts nothing."""

    def answered(self, seconds: float) -> None:
        """As request_answered(), and what the limiter counted."""

    def done(self, seconds: float, sent: int) -> None:
        """As request_done(), when all has left at once, so that the request was never seen to be in flight."""


class NullMetrics:
    """Counts nothing: for tests, and where metrics are switched off."""

    def count(self, family: Family, *labels: str, by: float = 1.0) -> None: ...
    def observe(self, family: Family, amount: float, *labels: str) -> None: ...
    def change(self, family: Family, by: float) -> None: ...
    def request_began(self) -> None: ...
    def request_answered(self, registry: str, method: str, status: str, seconds: float, decision: str | None) -> None: ...
    def request_done(self, registry: str, method: str, status: str, seconds: float, received: int, sent: int, served: bool) -> None: ...
    def repeats(self, registry: str, method: str, status: str, decision: str | None, served: bool, tier: str) -> Repeats:
        """For requests like one that was answered so. `tier`: in which the limiter counts them, empty: in none."""
        return Repeats()

    def storage_timer(self, operation: str, backend: str) -> Callable[[str, float], None]:
        """What is called with the outcome of each operation of that kind, and its seconds."""
        return lambda status, seconds: None


class Metrics(NullMetrics):
    def __init__(self, files: CounterFiles, repositories: Callable[[], Collection[str]], in_full: Collection[str] = ()) -> None:
        """`repositories`: the names of those that there are now; the same object as long as nothing has changed, which is cheaper to tell.

        `in_full`: repositories all of whose series are there from the start. The value `registry` of a label is a repository's name or `other`,
        whatever is counted: no client can make series.
        """
        self.files = files
        self._repositories, self._in_full = repositories, tuple(in_full)
        self._seen: Collection[str] = ()
        self._names: frozenset[str] = frozenset()
        self._numbers: dict[tuple[Family, tuple[str, ...]], int] = {}
        self._buckets: dict[tuple[Family, tuple[str, ...]], Buckets] = {}
        self._requests: dict[tuple[str, str, str], _Request] = {}
        self._repeats: dict[tuple[str, str, str, str | None, bool, str], Repeats] = {}
        self._in_flight = self._number(catalogue.HTTP_IN_FLIGHT, ())
        self._make_presets()

    def names(self) -> frozenset[str]:
        current = self._repositories()
        if current is not self._seen:
            self._seen, self._names = current, frozenset(current)
        return self._names

    def count(self, family: Family, *labels: str, by: float = 1.0) -> None:
        assert family.kind == COUNTER
        spoil("something is counted")
        cell, files = self._number(family, labels), self.files
        with files.lock:
            files.cells[cell] += by

    def observe(self, family: Family, amount: float, *labels: str) -> None:
        spoil("something is measured")
        buckets, files = self._bucket(family, labels), self.files
        with files.lock:
            buckets.observe(files.cells, amount)

    def change(self, family: Family, by: float) -> None:
        assert family.kind == GAUGE
        spoil("something is counted")
        cell, files = self._number(family, ()), self.files
        with files.lock:
            files.cells[cell] += by

    def request_began(self) -> None:
        files = self.files
        with files.lock:
            files.cells[self._in_flight] += 1.0

    def request_answered(self, registry: str, method: str, status: str, seconds: float, decision: str | None) -> None:
        """Before the first byte leaves: whoever has an answer finds it counted, whatever becomes of this process.

        `decision`: the gate's answer, None: it was not asked.
        """
        request = self._requests.get((registry, method, status)) or self._request(registry, method, status)
        decided = self._number(catalogue.CURATION_DECISIONS, (decision,)) if decision else None
        files = self.files
        with files.lock:
            cells = files.cells
            cells[request.requests] += 1.0
            if decided is not None:
                cells[decided] += 1.0
            request.head.observe(cells, seconds)

    def request_done(self, registry: str, method: str, status: str, seconds: float, received: int, sent: int, served: bool) -> None:
        """When the last byte has left, or could not. `served`: an artifact was."""
        request = self._requests.get((registry, method, status)) or self._request(registry, method, status)
        files = self.files
        with files.lock:
            cells = files.cells
            if sent:
                cells[request.sent] += sent
            if received:
                cells[request.received] += received
            if served and request.downloads is not None and request.hits is not None:
                cells[request.downloads] += 1.0
                cells[request.hits] += 1.0
            request.last.observe(cells, seconds)
            cells[self._in_flight] -= 1.0

    def repeats(self, registry: str, method: str, status: str, decision: str | None, served: bool, tier: str) -> Repeats:
        kind = (registry, method, status, decision, served, tier)
        found = self._repeats.get(kind)
        if found is None:
            found = self._make_repeats(*kind)
            if registry in self.names():
                if len(self._repeats) >= MOST_REPEATED:
                    self._repeats.clear()
                self._repeats[kind] = found
        return found

    def _make_repeats(self, registry: str, method: str, status: str, decision: str | None, served: bool, tier: str) -> Repeats:
        request = self._requests.get((registry, method, status)) or self._request(registry, method, status)
        counted = [request.requests, self._number(catalogue.HTTP_REPEATED, ())]
        if decision:
            counted.append(self._number(catalogue.CURATION_DECISIONS, (decision,)))
        if tier:
            counted.append(self._number(catalogue.RATE_LIMITED, (tier, "allowed")))
        downloads = [request.downloads, request.hits] if served and request.downloads is not None and request.hits is not None else []
        return _Repeats(self.files, request, tuple(counted), tuple(downloads))

    def storage_timer(self, operation: str, backend: str) -> Callable[[str, float], None]:
        files, took = self.files, self._bucket(catalogue.STORAGE_DURATION, (backend, operation))
        done = {status: self._number(catalogue.STORAGE_OPERATIONS, (operation, status)) for status in ("ok", "not_found", "error")}

        def timer(status: str, seconds: float) -> None:
            with files.lock:
                files.cells[done[status]] += 1.0
                took.observe(files.cells, seconds)

        return timer

    def collect(self) -> Iterator[Metric]:
        """Everything that all processes have counted, for a scrape. Counts of a repository that a reload removed stay."""
        counted: dict[Family, dict[tuple[str, ...], tuple[float, ...]]] = {family: self._presets(family) for family in FAMILIES}
        for series, cells in self.files.totals():
            counted.setdefault(series.family, {})[series.labels] = cells
        yield from (_metric(family, rows) for family, rows in counted.items() if rows)

    def _make_presets(self) -> None:
        """Those of `in_full` have their cells from the start, so that they are counted even where the tmpfs fills up later."""
        present = [name for name in self._in_full if name in self.names()]
        for family in FAMILIES:
            for labels in family.presets(present, ()):
                self._bucket(family, labels) if family.kind == HISTOGRAM else self._number(family, labels)

    def _presets(self, family: Family) -> dict[tuple[str, ...], tuple[float, ...]]:
        names = self.names()
        in_full = [name for name in self._in_full if name in names]
        zeros = (0.0,) * (len(family.buckets) + 2)
        return dict.fromkeys(family.presets(in_full, names.difference(in_full)), zeros)

    def _request(self, registry: str, method: str, status: str) -> _Request:
        known, named = registry in self.names(), method if method in _METHODS else METHOD_OTHER
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
        if method == named and registry == place[0]:
            if len(self._requests) >= MOST_REMEMBERED:
                self._requests.clear()
            self._requests[registry, method, status] = made
        return made

    def _number(self, family: Family, labels: tuple[str, ...]) -> int:
        cell = self._numbers.get((family, labels))
        if cell is None:
            labels = self._bounded(family, labels)
            cell = self._numbers.get((family, labels))
            if cell is None:
                labels, cell = self._first_cell(family, labels)
                self._numbers[family, labels] = cell
        return cell

    def _bucket(self, family: Family, labels: tuple[str, ...]) -> Buckets:
        buckets = self._buckets.get((family, labels))
        if buckets is None:
            labels = self._bounded(family, labels)
            buckets = self._buckets.get((family, labels))
            if buckets is None:
                labels, first = self._first_cell(family, labels)
                buckets = self._buckets[family, labels] = Buckets(family.buckets, first)
        return buckets

    def _bounded(self, family: Family, labels: tuple[str, ...]) -> tuple[str, ...]:
        if family.by_repository and labels[0] not in self.names():
            return (OTHER, *labels[1:])
        return labels

    def _first_cell(self, family: Family, labels: tuple[str, ...]) -> tuple[tuple[str, ...], int]:
        """And the labels under which it is counted, which are `other` where there are too many."""
        try:
            return labels, self.files.first_cell(family, labels)
        except TooMany:
            kept = labels[: family.by_repository]
            labels = (*kept, *(OTHER,) * (len(labels) - len(kept)))
            return labels, self.files.first_cell(family, labels)


@dataclass(slots=True, eq=False)
class _Request:
    """Where requests to one repository, with one method and one status, are counted."""

    requests: int
    sent: int
    received: int
    downloads: int | None
    hits: int | None
    head: Buckets
    last: Buckets


class _Repeats(Repeats):
    __slots__ = ("_counted", "_downloads", "_files", "_head", "_last", "_sent_cell")

    def __init__(self, files: CounterFiles, request: _Request, counted: tuple[int, ...], downloads: tuple[int, ...]) -> None:
        self._files, self._counted, self._downloads = files, counted, downloads
        self._head, self._last, self._sent_cell = request.head, request.last, request.sent

    def answered(self, seconds: float) -> None:
        files = self._files
        with files.lock:
            cells = files.cells
            for cell in self._counted:
                cells[cell] += 1.0
            self._head.observe(cells, seconds)

    def done(self, seconds: float, sent: int) -> None:
        files = self._files
        with files.lock:
            cells = files.cells
            for cell in self._downloads:
                cells[cell] += 1.0
            cells[self._sent_cell] += sent
            self._last.observe(cells, seconds)


def _metric(family: Family, rows: dict[tuple[str, ...], tuple[float, ...]]) -> Metric:
    name = family.name.removesuffix("_total") if family.kind == COUNTER else family.name
    metric = Metric(name, family.help, family.kind)
    bounds = [floatToGoString(bound) for bound in (*family.buckets, float("inf"))]
    for values, cells in rows.items():
        labels = dict(zip(family.labels, values, strict=True))
        if family.kind != HISTOGRAM:
            metric.add_sample(family.name, labels, cells[0])
            continue
        counts = list(accumulate(cells[1:]))
        for bound, count in zip(bounds, counts, strict=True):
            metric.add_sample(f"{name}_bucket", {**labels, "le": bound}, count)
        metric.add_sample(f"{name}_count", labels, counts[-1])
        metric.add_sample(f"{name}_sum", labels, cells[0])
    return metric
