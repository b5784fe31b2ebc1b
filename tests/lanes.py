"""Tests side by side, in processes forked after the tests are collected: `pytest -p tests.lanes --lanes 4`.

pytest-xdist collects in each process and sends every report through three of them: thousands of quick tests would cost twice as much.

A lane takes one unit after another. A unit is a test, or what must stay together in one process, without a list that somebody keeps:
- tests of a module that use a fixture of that module's or a wider scope of its own (one server for all of them),
- tests with the same `together` marker, which a conftest gives by the fixtures in use (one dockerd),
- in unit/, contract/ and protocol/ the whole module: there a test takes milliseconds.
Tests marked `waits` come first, the longest first, in lanes of their own, for they need no processor. Tests marked `alone` measure time or fairness;
they run one by one once all others are done.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Sequence
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any

import pytest

WAITING_LANES = 6
"""At most, beside those of --lanes."""
IN_MEMORY = ("unit", "contract", "protocol")
GRACE_SECONDS = 60
"""For a lane to stop its servers once it is asked to end."""

Unit = tuple[int, ...]
"""Places of tests in session.items."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--lanes", type=_lanes, default=0, metavar="N", help="run the tests in so many processes; auto: one for each processor")


def _lanes(text: str) -> int:
    return len(os.sched_getaffinity(0)) if text == "auto" else int(text)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """None lets pytest do it as ever."""
    options = session.config.option
    if not options.lanes or options.collectonly or options.usepdb or session.testsfailed or len(session.items) < 2:
        return None
    session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]  # one for all lanes, so that it is cleared up as one
    waiting, working, alone = plan(session.items)
    crew = Crew(session)
    crew.run([[waiting]] * min(len(waiting), WAITING_LANES) + [[working, waiting]] * options.lanes)
    crew.run([[alone]])
    return True


# ---- the plan


def plan(items: Sequence[pytest.Item]) -> tuple[deque[Unit], deque[Unit], deque[Unit]]:
    """Units that wait, the longest first; units that work, the large ones first; and those that want the machine for themselves."""
    units: dict[str, list[int]] = {}
    for place, item in enumerate(items):
        units.setdefault(_unit_of(item), []).append(place)
    waiting, working, alone = list[tuple[float, Unit]](), list[tuple[tuple[bool, bool, int], Unit]](), deque[Unit]()
    for places in map(tuple, units.values()):
        members = [items[place] for place in places]
        seconds = [float(marker.args[0]) for item in members if (marker := item.get_closest_marker("waits"))]
        if any(item.get_closest_marker("alone") for item in members):
            alone.append(places)
        elif seconds:
            waiting.append((-sum(seconds), places))
        else:
            quick = not any(item.get_closest_marker("slow") for item in members)
            working.append(((_in_memory(members[0]), quick, -len(places)), places))
    return deque(unit for _, unit in sorted(waiting)), deque(unit for _, unit in sorted(working)), alone


def _unit_of(item: pytest.Item) -> str:
    together = item.get_closest_marker("together")
    alone = " alone" if item.get_closest_marker("alone") else ""
    if together and not item.get_closest_marker("waits"):
        return f"together {together.args[0]}{alone}"
    if _in_memory(item) or _shares(item):
        return f"{item.path}{alone}"
    return item.nodeid


def _in_memory(item: pytest.Item) -> bool:
    return any(part in IN_MEMORY for part in item.nodeid.partition("::")[0].split("/"))


def _shares(item: pytest.Item) -> bool:
    """Whether it uses something that its module makes once for several tests."""
    used = getattr(item, "_fixtureinfo").name2fixturedefs.values()  # noqa: B009
    return any(made[-1].scope in ("class", "module", "package") for made in used)


# ---- the lanes


class Crew:
    """The lanes of one session, seen from the process that reports."""

    def __init__(self, session: pytest.Session) -> None:
        self._session = session
        self._lanes: dict[Connection, Lane] = {}
        self._started = 0

    def run(self, lanes: Sequence[list[deque[Unit]]]) -> None:
        """Each lane with the queues that it takes units from, the first of them while it has any."""
        try:
            for queues in lanes:
                if any(queues):
                    self._begin(queues)
            while self._lanes:
                for connection in wait(list(self._lanes), timeout=1):
                    assert isinstance(connection, Connection)
                    self._listen(self._lanes[connection])
                if self._stopped:
                    raise self._stopped
        finally:
            self._end()

    @property
    def _stopped(self) -> BaseException | None:
        session = self._session
        if session.shouldfail:
            return session.Failed(session.shouldfail)
        return session.Interrupted(session.shouldstop) if session.shouldstop else None

    def _begin(self, queues: list[deque[Unit]]) -> None:
        ours, theirs = Pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self._started += 1
        pid = os.fork()
        if pid == 0:
            for connection in (ours, *self._lanes):
                connection.close()
            run_lane(self._session, theirs, self._started)
        theirs.close()
        self._lanes[ours] = Lane(pid, ours, queues)

    def _listen(self, lane: Lane) -> None:
        try:
            word, value = lane.connection.recv()
        except (EOFError, ConnectionResetError):
            self._gone(lane)
            return
        if word == "next":
            unit = next((queue.popleft() for queue in lane.queues if queue), None)
            lane.left = deque(unit or ())
            lane.connection.send(unit)
        elif word == "begins":
            lane.running = self._session.items[lane.left.popleft()]
        else:
            lane.running = None
            self._report(value)

    def _report(self, reports: list[dict[str, Any]]) -> None:
        hook = self._session.config.hook
        for data in reports:
            hook.pytest_runtest_logreport(report=hook.pytest_report_from_serializable(config=self._session.config, data=data))

    def _gone(self, lane: Lane) -> None:
        del self._lanes[lane.connection]
        lane.connection.close()
        code = os.waitstatus_to_exitcode(os.waitpid(lane.pid, 0)[1])
        if lane.running is not None:
            text = f"the process of this test ended with {code} in its midst"
            report = pytest.TestReport(lane.running.nodeid, lane.running.location, {}, "failed", text, "call")
            self._session.config.hook.pytest_runtest_logreport(report=report)
            if lane.left:
                lane.queues[0].appendleft(tuple(lane.left))
            if any(lane.queues):
                self._begin(lane.queues)
        elif code:
            raise RuntimeError(f"a lane ended with {code} between two tests")

    def _end(self) -> None:
        """Those that still run have lost their reader: each ends after its test, and a test that is stuck is ended."""
        for lane in self._lanes.values():
            lane.connection.close()
        deadline = time.monotonic() + GRACE_SECONDS
        for lane in self._lanes.values():
            os.kill(lane.pid, signal.SIGINT)
        for lane in self._lanes.values():
            while os.waitpid(lane.pid, os.WNOHANG) == (0, 0):
                if time.monotonic() > deadline:
                    os.kill(lane.pid, signal.SIGKILL)
                time.sleep(0.05)
        self._lanes.clear()


class Lane:
    def __init__(self, pid: int, connection: Connection, queues: list[deque[Unit]]) -> None:
        self.pid, self.connection, self.queues = pid, connection, queues
        self.left: deque[int] = deque()
        """Of the unit that it took last."""
        self.running: pytest.Item | None = None


def run_lane(session: pytest.Session, connection: Connection, number: int) -> None:
    """The life of a forked process; it does not return."""
    code = 1
    try:
        _settle(session.config, number)
        _take_units(session, connection, _keep_reports(session.config))
        code = 0
    except (KeyboardInterrupt, EOFError, BrokenPipeError, ConnectionResetError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal there come two
        with contextlib.suppress(BaseException):
            session._setupstate.teardown_exact(None)  # what runs for this lane is stopped, as after its last test
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def _settle(config: pytest.Config, number: int) -> None:
    """What lanes must not share: the terminal, the file that output is captured in, and names of temporary folders."""
    gc.freeze()  # thousands of collected tests, which the collector would look through again and again
    plugins = config.pluginmanager
    capture: Any = plugins.getplugin("capturemanager")
    capture.stop_global_capturing()
    capture.start_global_capturing()
    for name in ("terminalreporter", "terminalprogress"):
        if plugins.has_plugin(name):
            plugins.unregister(name=name)
    factory = config._tmp_path_factory  # type: ignore[attr-defined]
    factory._basetemp = factory._basetemp / f"lane{number}"
    factory._basetemp.mkdir(mode=0o700)


def _keep_reports(config: pytest.Config) -> list[dict[str, Any]]:
    """A list that each report is added to from now on, in a form that can be sent."""
    kept: list[dict[str, Any]] = []

    class Keeper:
        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            kept.append(config.hook.pytest_report_to_serializable(config=config, report=report))

    config.pluginmanager.register(Keeper())
    return kept


def _take_units(session: pytest.Session, connection: Connection, reports: list[dict[str, Any]]) -> None:
    item = None
    while (unit := _ask(connection)) is not None:
        following = [session.items[place] for place in unit[1:]]
        for place, nextitem in zip(unit, [*following, session], strict=True):  # before another unit, what the session has stays
            connection.send(("begins", None))
            item = session.items[place]
            item.ihook.pytest_runtest_protocol(item=item, nextitem=nextitem)
            _send(connection, reports)
    if item is not None:
        end = pytest.CallInfo.from_call(lambda: session._setupstate.teardown_exact(None), "teardown")
        if end.excinfo:
            item.ihook.pytest_runtest_logreport(report=item.ihook.pytest_runtest_makereport(item=item, call=end))
            _send(connection, reports)


def _ask(connection: Connection) -> Unit | None:
    connection.send(("next", None))
    unit: Unit | None = connection.recv()
    return unit


def _send(connection: Connection, reports: list[dict[str, Any]]) -> None:
    connection.send(("reports", reports))
    reports.clear()
