"""Two servers that are asked the same in the same order, and must say and write the same: one with plans, one without."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from noraflask.config import Config
from tests.server import Server, wait_until

from .launcher import CLOCK_BYTES, Clock
from .records import REQUEST_LINE, Tail, comparable, difference, figures, planned
from .wire import Answer, Connection, Request

PLANS = "NORA_PLAN_MEMORY_MB"
PLANS_EXIST = hasattr(Config().server, "plan_memory_mb")
BEGIN = 2_114_380_800
"""What the servers' clock says at the start: 2037, so that a seed always tells the same story, and all times that the kernel gives files are past."""
RELOADED, REFUSED = b'"message": "reloaded"', b"policy reload failed"
LANES = 4
RELATIVE: dict[str, str | None] = {
    "NORA_CONFIG_PATH": "config.toml",
    "NORA_STORAGE_PATH": "storage",
    "NORA_STATE_PATH": "state",
    "NORA_STAGING_PATH": "staging",
}
"""To the folder of each, so that their configurations are the same."""
"""Connections to each server."""
SOON = 15.0
"""Seconds that a loaded machine may take to write what it has to, or to reload."""
REMEMBERED = 30
SCRAPE = b"GET /metrics HTTP/1.1\r\nHost: r\r\nX-Forwarded-For: 192.0.2.250\r\nX-Request-Id: scrape\r\n\r\n"


class Differs(AssertionError):
    """The two servers did not say or write the same."""


class Twin(Server):
    """One worker. Its log, audit log and ledger are read as they grow."""

    def __init__(self, folder: Path, clock: Path, env: dict[str, str | None], config_text: str, spoil: str = "") -> None:
        usual = {
            "NORA_MAINTENANCE_STALL_SECS": "86400",
            "NORA_WORKERS": "1",
            "NORA_LOG_OPS_INTERVAL_SECS": "0",
            "NORA_RATE_LIMIT_ENABLED": "true",
            "NORA_RATE_LIMIT_WAIT_MS": "0",
        }
        super().__init__(folder, {**usual, "NORA_ALLOWED_HOSTS": "*", **RELATIVE, **env}, config_text)
        self._arguments = [str(clock), *([spoil] if spoil else [])]
        self.lanes = [Connection(self.port) for _ in range(LANES)]
        self.log_tail, self.audit_tail, self.ledger_tail = Tail(self.log), Tail(self.state / "audit.jsonl"), Tail(self.state / "ledger", "*/*.jsonl")
        self.names = {str(folder).encode(): b"(folder)", f":{self.port}".encode(): b":(port)"}
        self.lines: list[bytes] = []
        """Of the log, not compared yet."""
        self.requests = self.reloads = 0
        """Lines of requests among these; reloads that it has told of since the start."""
        self.planned = 0
        """Requests that it has answered by plans, as it said at the last scrape."""
        self.scraped = 0
        """Bytes of /metrics that it has sent: their number differs, and is counted."""

    def launch(self) -> subprocess.Popen[bytes]:
        for folder in (self.folder, self.storage, self.staging):
            folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "tests.fault.twin.launcher", *self._arguments, "--", "serve"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self.folder, env=self.environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        return self._process

    def look(self) -> None:
        """Take in what the log has got."""
        lines = self.log_tail.lines()
        self.lines += lines
        self.requests += sum(REQUEST_LINE in line for line in lines)
        self.reloads += sum(RELOADED in line or REFUSED in line for line in lines)

    def close(self) -> None:
        for lane in self.lanes:
            lane.close()


@dataclass(frozen=True, slots=True)
class Turn:
    lane: int
    """The connection."""
    requests: tuple[Request, ...]
    """Sent together, if they are several."""


def _listed(turns: Sequence[Turn]) -> tuple[list[int], list[Request]]:
    """Lanes and requests, one by one."""
    return [turn.lane for turn in turns for _ in turn.requests], [request for turn in turns for request in turn.requests]


def _shown(answer: Answer, twin: Twin) -> bytes:
    """Without the port, which a client that sends no Host is told, and without an id that the server made."""
    data = answer.data.replace(twin.address.encode(), b"(own)")
    return data.replace(answer.id, b"made") if re.fullmatch(rb"[0-9a-f]{24}", answer.id) else data


class Pair:
    def __init__(self, folder: Path, write_files: Callable[[Path], str], spoil: str = "") -> None:
        """`write_files`: puts a server's files into its folder, and returns its configuration.

        `spoil`: a fault of the first server (spoils.py); what it does not write is not waited for as long then.
        """
        self._soon = SOON if not spoil else SOON / 5
        self.clock_file = folder / "clock"
        folder.mkdir(parents=True, exist_ok=True)
        self.clock_file.write_bytes(bytes(CLOCK_BYTES))
        self.clock = Clock(str(self.clock_file), writable=True)
        self.clock.move(BEGIN, 1_000_000)
        self.twins: list[Twin] = []
        for name, plans in (("first", None), ("second", "0")):
            own = folder / name
            own.mkdir()
            env: dict[str, str | None] = {PLANS: plans} if PLANS_EXIST else {}
            self.twins.append(Twin(own, self.clock_file, env, write_files(own), spoil if name == "first" else ""))
        self.asked = 0
        self.statuses: Counter[int] = Counter()
        self.journal: deque[tuple[int, int | str, bytes]] = deque(maxlen=REMEMBERED)
        self._broken: OSError | None = None
        self._threads = ThreadPoolExecutor(2)
        self._lines_due = 0

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as started:
            for twin in self.twins:
                started.enter_context(twin)
            for twin in self.twins:  # what the start has written; /health was asked until it answered
                wait_until(lambda: len(twin.worker_pids()) == 1, SOON, "the worker to run")  # noqa: B023
            time.sleep(0.3)
            for twin in self.twins:
                twin.look()
                twin.lines, twin.requests = [], 0
            self._started = started.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown()
        for twin in self.twins:
            twin.close()
        self._started.close()

    # ---- asking

    def ask(self, request: Request, lane: int = 0) -> Answer:
        return self.ask_all([Turn(lane, (request,))])[0]

    def ask_all(self, turns: Sequence[Turn]) -> list[Answer]:
        """One after another, in each server; the two servers do not wait for each other meanwhile."""
        waiting = [self._threads.submit(self._take_turns, twin, turns) for twin in self.twins]
        both = [one.result() for one in waiting]
        answers = []
        for turn, request, first, second in zip(*_listed(turns), *both, strict=False):
            self.asked += 1
            self._lines_due += 1
            self.journal.append((self.asked, f"{turn} cut at {request.cut}" if request.cut else turn, request.data))
            if first is None or second is None:
                self.fail(f"no answer of {self.twins[0 if first is None else 1].folder.name}: {self._broken}\n{self.twins[0]._tail()}")
            if first.data != second.data or (request.id and first.id != request.id):
                self._compare(request, first, second)
            if not first.id:  # such a head never reaches the application, and leaves a line of another kind
                self._lines_due -= 1
            self.statuses[first.status] += 1
            answers.append(first)
        return answers

    def _take_turns(self, twin: Twin, turns: Sequence[Turn]) -> list[Answer | None]:
        """None, and no more, where an answer does not come."""
        answers: list[Answer | None] = []
        try:
            for turn in turns:
                lane, requests = twin.lanes[turn.lane], turn.requests
                lane.send(requests[0].data if len(requests) == 1 else b"".join(request.data for request in requests), requests[0].cut)
                for request in requests:
                    answers.append(lane.read(request.method))
        except OSError as problem:
            self._broken = problem
            answers.append(None)
        return answers

    def _compare(self, request: Request, first: Answer, second: Answer) -> None:
        if request.id and (first.id or second.id) and not first.id == request.id == second.id:
            self.fail(f"the request id is {request.id!r}\n{first.data!r}\n{second.data!r}")
        if _shown(first, self.twins[0]) != _shown(second, self.twins[1]):
            self.fail(f"two answers:\n{first.data[:3000]!r}\n{second.data[:3000]!r}")

    def note(self, what: str) -> None:
        """An operation, for whoever reads of a failure."""
        self.journal.append((self.asked, what, b""))

    def fail(self, what: str) -> None:
        past = "\n".join(f"{number} {where} {data[:1500]!r}" for number, where, data in self.journal)
        raise Differs(f"after {self.asked} requests: {what}\n\nthe last requests and operations:\n{past}")

    # ---- operations that are no requests

    def move(self, wall: float, monotonic: float | None = None) -> None:
        """The clocks, while no request is running. `monotonic`: never less than 0; left out: as `wall`."""
        self.clock.move(wall, max(0.0, wall) if monotonic is None else monotonic)

    def each(self, change: Callable[[Twin], object]) -> None:
        for twin in self.twins:
            change(twin)

    def reload(self) -> None:
        """SIGHUP for both, and their word that the worker has it, or that it was refused."""
        self.settle()
        before = [twin.reloads for twin in self.twins]
        for twin in self.twins:
            os.kill(twin.pid, signal.SIGHUP)
        for twin, count in zip(self.twins, before, strict=True):
            self._until(lambda: twin.look() or twin.reloads > count, f"{twin.folder.name} to reload")  # noqa: B023

    def _until(self, condition: Callable[[], object], what: str) -> None:
        end = time.monotonic() + self._soon
        while not condition():
            if time.monotonic() > end:
                self.fail(f"still waiting for {what}")
            time.sleep(0.004)

    # ---- what they have written

    def settle(self) -> None:
        """Both have written a line for each request, and the lines are the same; so are the audit log and the ledger."""
        missing = ""
        for twin in self.twins:
            try:
                self._until(lambda: twin.look() or twin.requests >= self._lines_due, "the lines of all requests")  # noqa: B023
            except Differs:
                missing = f"{twin.folder.name} has written {twin.requests} lines for {self._lines_due} requests; "
        self._compare_lines(f"{missing}log", [twin.lines for twin in self.twins])
        if missing or any(twin.requests != self._lines_due for twin in self.twins):
            self.fail(f"{missing or 'more lines than requests'}, and the other one as well")
        self._forget_lines()
        self._compare_lines("audit log", [twin.audit_tail.lines() for twin in self.twins])
        self._compare_ledgers()

    def _forget_lines(self) -> None:
        for twin in self.twins:
            twin.lines, twin.requests = [], 0
        self._lines_due = 0

    def _compare_lines(self, what: str, lines: list[list[bytes]]) -> None:
        found = difference(*([comparable(line, twin.names) for line in own] for twin, own in zip(self.twins, lines, strict=True)))
        if found:
            self.fail(f"the {what} differs\n{found}")

    def _compare_ledgers(self) -> None:
        """Written a moment later, so that one may lag."""
        ledgers: list[list[bytes]] = [[], []]

        def even() -> bool:
            for lines, twin in zip(ledgers, self.twins, strict=True):
                lines += twin.ledger_tail.lines()
            return len(ledgers[0]) == len(ledgers[1]) and time.monotonic() >= begun + 0.12

        begun = time.monotonic()
        with contextlib.suppress(Differs):
            self._until(even, "ledgers of the same length")
        self._compare_lines("ledger", ledgers)

    def compare_metrics(self) -> None:
        self.settle()
        exposed = []
        for twin in self.twins:
            twin.lanes[0].send(SCRAPE)
            body = twin.lanes[0].read("GET").body
            exposed.append(figures(body, twin.scraped))
            twin.scraped, twin.planned = twin.scraped + len(body), planned(body)
        found = difference(*exposed)
        if found:
            self.fail(f"/metrics differs\n{found}")
        for twin in self.twins:  # its line says how long it was, and that differs
            self._until(lambda: twin.look() or twin.requests, "the line of a scrape")  # noqa: B023
        self._forget_lines()
