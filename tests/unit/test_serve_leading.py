"""The leading thread: what is answered at once, what is passed on; the lead is never lost, and never goes round in circles."""

from __future__ import annotations

import contextlib
import random
import re
import select
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest

from noraflask.config import ServerConfig
from noraflask.serve import reactor as reactor_module
from noraflask.serve.application import PlainApplication
from noraflask.serve.board import Board
from noraflask.serve.connection import Answered, Connection, Phase
from noraflask.serve.epoll import DISARMED
from noraflask.serve.jobs import Jobs
from noraflask.serve.lead import Lead
from noraflask.serve.request import NO_BODY
from noraflask.serve.runner import Runner
from tests.server import wait_until

SOON = 30
RESET = struct.pack("ii", 1, 0)
HOT_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhot"


def get(path: str, more: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: here\r\n{more}\r\n".encode()


HOT = get("/hot")


class Served:
    """A worker without its process: the request threads, and a leader that knows the answer to HOT."""

    def __init__(self, share: int = 1000, **limits: Any) -> None:
        self.go = threading.Event()  # lets /blocks end
        self.blocked: Counter[str] = Counter()
        self.turns: list[list[Connection]] = [[]]  # who was answered in each
        self.ended = False
        self.runner = Runner(PlainApplication(self.view), ServerConfig(**limits), share, Board(), 0)
        self.reactor = self.runner.reactor
        self.reactor._answer = self.answer
        self.reactor._turn_ended = lambda: self.turns.append([])
        listener = socket.create_server(("127.0.0.1", 0), backlog=1000)
        self.address = listener.getsockname()
        self.reactor.listen(listener, {"wsgi.input": NO_BODY, "wsgi.input_terminated": True, "SCRIPT_NAME": ""})
        self.threads = [threading.Thread(target=self.work, daemon=True) for _ in range(self.runner.request_threads)]
        for thread in self.threads:
            thread.start()

    def work(self) -> None:
        while not self.ended:
            with contextlib.suppress(BaseException):
                self.reactor.work()

    def view(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        path = environ["PATH_INFO"]
        if "blocks" in environ["QUERY_STRING"]:
            self.blocked[path] += 1
            self.go.wait(SOON)
        start_response("200 OK", [])
        return [path.encode()]

    def answer(self, conn: Connection) -> Answered:
        if conn.buffer != HOT:
            return Answered.NOT
        conn.sock.send(HOT_ANSWER, socket.MSG_DONTWAIT)
        conn.buffer = b""
        self.turns[-1].append(conn)
        return Answered.WHOLE

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, SOON)

    def ask(self, sock: socket.socket, request: bytes = HOT) -> bytes:
        sock.sendall(request)
        return receive(sock)

    def is_well(self) -> bool:
        """A hot and an ordinary answer over a new connection."""
        with self.connect() as sock:
            return (self.ask(sock), self.ask(sock, get("/cold")), self.ask(sock)) == (b"hot", b"/cold", b"hot")

    def stop(self) -> None:
        self.go.set()
        self.runner.stopping = True
        self.reactor.stop_listening()
        self.reactor.cut_all()
        wait_until(lambda: not self.reactor.connections, SOON, "all connections to end")
        self.ended = True
        self.reactor.wake_all()
        for thread in self.threads:
            thread.join(SOON)
            assert not thread.is_alive()


def receive(sock: socket.socket) -> bytes:
    """The body of one answer; b"" when there is none."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(65536)
        if not more:
            return b""
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    while len(body) < length:
        more = sock.recv(65536)
        if not more:
            raise ConnectionError("an answer ended early")
        body += more
    return body


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served()
    yield served
    served.stop()


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()


class CountedPolls:
    """An epoll object whose turns are counted."""

    def __init__(self, epoll: Any) -> None:
        self._epoll = epoll
        self.polls = 0

    def poll(self, *args: Any) -> Any:
        self.polls += 1
        return self._epoll.poll(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._epoll, name)


def test_what_the_leader_answers_needs_no_other_thread_and_no_call_of_epoll_ctl(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    with served.connect() as sock:
        assert served.ask(sock) == b"hot"
        changed = []

        class Noted(CountedPolls):
            def modify(self, fd: int, events: int) -> None:
                changed.append(fd)

        monkeypatch.setattr(served.reactor._epoll, "_epoll", Noted(served.reactor._epoll._epoll))
        assert [served.ask(sock) for _ in range(100)] == [b"hot"] * 100
        (conn,) = served.reactor.connections.values()
        assert conn.fd not in changed
        wait_until(lambda: list(served.reactor.idle.values()) == [conn], SOON, "the connection to be idle")
        assert conn.phase is Phase.IDLE
        assert conn.deadline == conn.progress + ServerConfig().keep_alive_timeout


def test_hot_answers_go_on_while_all_lanes_are_busy(served: Served) -> None:
    login = "Authorization: Basic eDp5\r\n"
    size = ServerConfig().threads
    kinds = {
        "/health": (1, get("/health?blocks")),
        "/metrics": (1, get("/metrics?blocks")),
        "/read": (size, get("/read?blocks")),
        "/login": (size // 2, get("/login?blocks", login)),
        "/write": (size // 2, b"PUT /write?blocks HTTP/1.1\r\nHost: here\r\nContent-Length: 1\r\n\r\nx"),
    }
    with contextlib.ExitStack() as held:
        busy = {path: [held.enter_context(served.connect()) for _ in range(2 * count)] for path, (count, _) in kinds.items()}
        for path, (_, request) in kinds.items():
            for sock in busy[path]:
                sock.sendall(request)
        wait_until(lambda: served.blocked == {path: count for path, (count, _) in kinds.items()}, SOON, "all lanes to be full")
        for _ in range(20):
            with served.connect() as sock:  # it is accepted, too
                assert [served.ask(sock) for _ in range(20)] == [b"hot"] * 20
        served.go.set()
        assert all(receive(sock) == path.encode() for path, socks in busy.items() for sock in socks)


def test_slow_requests_and_new_connections_go_on_in_a_flood_of_hot_ones(served: Served) -> None:
    stop = threading.Event()

    def flood() -> None:
        with served.connect() as sock:
            while not stop.is_set():
                assert served.ask(sock) == b"hot"

    flooders = [threading.Thread(target=flood) for _ in range(8)]
    for thread in flooders:
        thread.start()
    try:
        wait_until(lambda: len(served.turns) > 100, SOON, "the flood")
        for _ in range(20):
            assert served.is_well()
            with served.connect() as sock:
                assert served.ask(sock, get("/health")) == b"/health"
    finally:
        stop.set()
        for thread in flooders:
            thread.join()
    assert all(len(turn) == len(set(turn)) for turn in served.turns)  # one answer for a connection and a turn


def test_what_is_pipelined_is_answered_in_its_order(served: Served) -> None:
    with served.connect() as sock:
        sock.sendall((HOT + get("/a")) * 50)
        file = sock.makefile("rb")
        seen = []
        for _ in range(100):
            length = 0
            while (line := file.readline()) != b"\r\n":
                if line.lower().startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
            seen.append(file.read(length))
    assert seen == [b"/hot", b"/a"] * 50


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("place", ["_answer", "_turn_ended", "_serve", "poll", "read"])
def test_an_error_of_the_leader_costs_one_connection_and_not_the_lead(place: str, error: type[BaseException], served: Served) -> None:
    for _ in range(2 * len(served.threads)):
        with pytest.MonkeyPatch.context() as patch, served.connect() as sock:
            assert served.ask(sock) == b"hot"
            failed = threading.Event()

            def fail(*args: Any, failed: threading.Event = failed) -> Any:
                failed.set()
                raise error

            if place == "poll":

                class Failing(CountedPolls):
                    def poll(self, *args: Any, patch: pytest.MonkeyPatch = patch, fail: Callable[[], Any] = fail) -> Any:
                        patch.undo()
                        fail()

                patch.setattr(served.reactor._epoll, "_epoll", Failing(served.reactor._epoll._epoll))
            else:
                patch.setattr(Connection if place == "read" else served.reactor, place, fail)
            sock.sendall(get("/cold") if place == "_serve" else HOT)
            assert failed.wait(SOON)
        assert served.is_well()
    assert all(thread.is_alive() for thread in served.threads)


def test_a_leader_that_is_stuck_loses_the_lead(served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A look at a disk that hangs: others are run meanwhile, and none is looked at for that disk; when it is over, all is as it was."""
    hangs, over, asked = threading.Event(), threading.Event(), list[Connection]()
    usual = served.answer

    def answer(conn: Connection) -> Answered:
        if conn.buffer == HOT:
            asked.append(conn)
            if not hangs.is_set():
                hangs.set()
                over.wait(SOON)
        return usual(conn)

    monkeypatch.setattr(served.reactor, "_answer", answer)
    monkeypatch.setattr("noraflask.serve.lead.STUCK_SECONDS", 0.05)
    with served.connect() as stuck, served.connect() as other, served.connect() as found:
        assert served.ask(found, get("/found")) == b"/found"
        usual_poll = served.reactor._epoll.poll

        def poll(most: int) -> list[tuple[int, int]]:  # both in one turn, the stuck one last
            events = usual_poll(most)
            while len(served.reactor.connections) == 3 and not hangs.is_set() and len(events) < 2:
                events = usual_poll(most)
            return sorted(events, key=lambda event: served.reactor.connections[event[0]].peer[1] == stuck.getsockname()[1])

        monkeypatch.setattr(served.reactor._epoll, "poll", poll)
        found.sendall(get("/found-again"))
        stuck.sendall(HOT)
        assert hangs.wait(SOON)
        monkeypatch.setattr(served.reactor._epoll, "poll", usual_poll)
        other.sendall(get("/other"))
        wait_until(lambda: time.sleep(0.06) or served.reactor.sweep() or served.reactor._stuck, SOON, "somebody else to lead")
        assert receive(other) == b"/other"
        assert receive(found) == b"/found-again"  # it was in the hands of the one that is stuck
        assert [served.ask(other) for _ in range(20)] == [b"/hot"] * 20  # by the view, not by the leader
        assert len(asked) == 1
        served.reactor.sweep()
        over.set()
        assert receive(stuck) == b"hot"
        wait_until(lambda: not served.reactor._stuck, SOON, "the thread to come back")
        assert served.ask(other) == b"hot"
    assert caplog.text.count("another one takes its place") == 1
    assert served.is_well()


def test_a_lead_that_is_lost_while_it_waits_to_be_taken_is_no_lead(served: Served) -> None:
    lost: Lead[Any] = Lead()
    lost.is_lost = True
    served.reactor._stuck.add(lost)
    served.reactor._jobs.put(lost)
    wait_until(lambda: not served.reactor._stuck, SOON, "it to be given up")
    assert served.is_well()


def test_epoll_goes_on_about_a_reset_unless_it_tells_once() -> None:
    """What `DISARMED` rests on."""
    for mask, told in ((0, [1, 1, 1]), (DISARMED, [1, 0, 0])):
        ours, theirs = socket.socketpair()
        with ours, select.epoll() as epoll:
            epoll.register(ours.fileno(), select.EPOLLIN)
            epoll.modify(ours.fileno(), mask)
            theirs.close()
            assert [len(epoll.poll(0)) for _ in told] == told


def test_a_client_that_leaves_while_its_request_runs_does_not_keep_the_leader_busy(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = CountedPolls(served.reactor._epoll._epoll)
    monkeypatch.setattr(served.reactor._epoll, "_epoll", counted)
    with served.connect() as hot:
        served.ask(hot)
        leavers = [served.connect() for _ in range(ServerConfig().threads)]
        for sock in leavers:
            sock.sendall(get("/read?blocks"))
        wait_until(lambda: served.blocked["/read"] == len(leavers), SOON, "the requests to run")
        for number, sock in enumerate(leavers):
            if number % 2:
                sock.sendall(HOT)
            reset(sock)
        pauses: list[float] = []
        monkeypatch.setattr(reactor_module, "time", SimpleNamespace(monotonic=time.monotonic, sleep=pauses.append))
        before = counted.polls
        for _ in range(200):
            served.ask(hot)
        assert counted.polls - before < 200 + 3 * len(leavers)
        assert not pauses
        served.go.set()
        wait_until(lambda: len(served.reactor.connections) == 1, SOON, "the connections to be closed")


def test_the_leader_pauses_when_epoll_repeats_itself_about_what_others_own(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    with served.connect() as sock, served.connect() as hot:
        assert served.ask(sock) == served.ask(hot) == b"hot"
        conn = next(conn for conn in served.reactor.connections.values() if conn.peer[1] == sock.getsockname()[1])
        wait_until(lambda: served.reactor.claim(conn), SOON, "the connection to be idle")
        paused = threading.Event()

        def sleep(seconds: float) -> None:
            paused.set()
            time.sleep(seconds)

        monkeypatch.setattr(reactor_module, "time", SimpleNamespace(monotonic=time.monotonic, sleep=sleep))
        sock.sendall(HOT)
        assert paused.wait(SOON)
        assert served.ask(hot) == b"hot"
        served.reactor.park(conn, Phase.IDLE, 60)
        assert receive(sock) == b"hot"


def test_an_event_that_was_meant_for_an_earlier_owner_loses_nothing(served: Served) -> None:
    """Its descriptor has a new owner, which is armed again."""
    epoll = served.reactor._epoll._epoll

    def is_armed() -> bool:
        found = re.search(rf"tfd: +{conn.fd} events: +([0-9a-f]+)", Path(f"/proc/self/fdinfo/{epoll.fileno()}").read_text())
        return found is not None and int(found[1], 16) & (select.EPOLLIN | select.EPOLLONESHOT) == select.EPOLLIN

    with served.connect() as sock:
        assert served.ask(sock) == b"hot"
        (conn,) = served.reactor.connections.values()
        for _ in range(20):
            epoll.modify(conn.fd, select.EPOLLOUT | select.EPOLLONESHOT)
            wait_until(is_armed, SOON, "the connection to be armed again")
            assert served.ask(sock) == b"hot"


def test_whoever_arms_a_descriptor_that_has_a_new_owner_puts_it_right(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    with served.connect() as sock:
        assert served.ask(sock) == b"hot"
        (conn,) = served.reactor.connections.values()
        wait_until(lambda: served.reactor.idle, SOON, "the connection to be idle")
        gone = Connection(conn.sock, conn.peer, "", {}, 0)
        gone.phase = Phase.LINGERING
        armed: list[tuple[int, Phase]] = []
        monkeypatch.setattr(served.reactor._epoll, "arm", lambda fd, phase: armed.append((fd, phase)))
        served.reactor._arm(gone)
        served.reactor.waiting.clear()
        assert armed == [(conn.fd, Phase.LINGERING), (conn.fd, Phase.IDLE)]


def test_an_answer_that_its_peer_does_not_take_waits_elsewhere(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(conn: Connection) -> Answered:
        conn.buffer = b""
        served.turns[-1].append(conn)
        served.reactor.close_gently(conn)
        return Answered.ELSEWHERE

    monkeypatch.setattr(served.reactor, "_answer", answer)
    before = len(served.turns)
    with served.connect() as sock:
        assert served.ask(sock) == b""
        wait_until(lambda: len(served.turns) > before, SOON, "the turn to end")
        assert [conn.phase for conn in served.reactor.waiting.values()] == [Phase.LINGERING]
    wait_until(lambda: not served.reactor.connections, SOON, "the connection to end")


def test_a_server_that_stops_answers_nothing_at_once(served: Served) -> None:
    with served.connect() as sock:
        assert served.ask(sock) == b"hot"
        served.runner.stopping = True
        served.reactor.stop_listening()
        assert served.ask(sock) == b"/hot"  # the ordinary way, which says that the connection ends
        assert not sock.recv(1)


def test_no_request_is_lost_among_clients_of_all_kinds() -> None:
    served = Served(share=60, header_read_timeout=SOON, keep_alive_timeout=SOON)
    problems: list[str] = []
    answered: Counter[bool] = Counter()
    turns: SimpleQueue[bool | None] = SimpleQueue()  # so that a slow machine evicts no more of them

    def behave(seed: int) -> None:
        choose = random.Random(seed)
        sock = served.connect()
        for turn in range(150):
            turns.put(turn % 5 == 0)
            path = choose.choice(("/hot", "/hot", "/cold", "/other"))
            request, wanted = get(path), path.encode()
            try:
                way = choose.randrange(12)
                if way == 0:
                    sock.sendall(request[: choose.randrange(len(request))])
                    reset(sock)
                elif way == 1:
                    sock.sendall(request)
                    sock.shutdown(socket.SHUT_WR)
                    if receive(sock).lstrip(b"/") not in (b"", wanted.lstrip(b"/")):
                        problems.append(f"{seed}: half-closed")
                    sock.close()
                elif way == 2:
                    sock.sendall(request)
                    reset(sock)
                elif way == 3:
                    for byte in range(0, len(request), 8):
                        sock.sendall(request[byte : byte + 8])
                elif way == 4:
                    sock.sendall(b"PUT /put HTTP/1.1\r\nHost: here\r\nContent-Length: 5\r\n\r\n" + b"x" * choose.choice((2, 5)))
                    if choose.randrange(2):
                        reset(sock)
                    else:
                        sock.sendall(b"xxxxx")
                        sock.close()
                else:
                    sock.sendall(request)
                if sock.fileno() < 0:
                    sock = served.connect()
                elif not (said := receive(sock)) or said.startswith(b"503 "):
                    raise ConnectionError("evicted, or one too many")
                else:
                    answered[said.lstrip(b"/") == wanted.lstrip(b"/")] += 1
            except TimeoutError:
                problems.append(f"{seed}: {path} was not answered")
                break
            except OSError:  # reset, or evicted
                sock.close()
                sock = served.connect()
        sock.close()

    def evict() -> None:
        for is_due in iter(turns.get, None):
            if is_due:
                served.runner._room.make()
                served.reactor.sweep()

    clients = [threading.Thread(target=behave, args=(seed,)) for seed in range(24)]
    evictor = threading.Thread(target=evict)
    for thread in (*clients, evictor):
        thread.start()
    for thread in clients:
        thread.join()
    turns.put(None)
    evictor.join()
    assert not problems
    assert answered[True] > 1000
    assert not answered[False]
    assert served.is_well()
    wait_until(lambda: not served.reactor.connections, SOON, "all connections to end")
    assert not served.reactor.idle
    assert not served.reactor.waiting
    served.stop()


def test_each_job_is_done_once_and_none_waits_for_ever() -> None:
    jobs: Jobs[int | None] = Jobs()
    done: list[int] = []

    def work() -> None:
        while (job := jobs.get()) is not None:
            done.append(job)
            if job % 3 == 0:
                jobs.put(job + 1_000_001)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for job in range(3000):
        jobs.put(job)
    wait_until(lambda: len(done) >= 4000, SOON, "the jobs")
    for _ in threads:
        jobs.put(None)
    for thread in threads:
        thread.join(SOON)
    assert sorted(done) == sorted([*range(3000), *(job + 1_000_001 for job in range(0, 3000, 3))])


def test_a_job_that_is_put_while_a_thread_goes_to_sleep_wakes_it() -> None:
    jobs: Jobs[int] = Jobs()

    class Late(list[threading.Lock]):
        def append(self, lock: threading.Lock) -> None:
            jobs._jobs.append(1)  # as put() does; it has found nobody to wake
            super().append(lock)

    jobs._sleeping = Late()
    done: list[int] = []
    thread = threading.Thread(target=lambda: done.append(jobs.get()), daemon=True)
    thread.start()
    thread.join(SOON)
    assert done == [1]
