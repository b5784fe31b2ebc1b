"""Who owns a connection: tables of those that wait, and what is counted for each."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from noraflask.config import ServerConfig
from noraflask.serve.board import Board
from noraflask.serve.connection import Answered, Connection, Phase
from noraflask.serve.held import LEAST_BYTES
from noraflask.serve.listening import POLITE_TIMES, Listeners
from noraflask.serve.reactor import Reactor
from noraflask.serve.room import Room


class Worker:
    def __init__(self) -> None:
        self.served: list[Connection] = []
        self.sockets: list[socket.socket] = []
        self.room = Room(10, 10, lambda peer: peer, lambda what: None)
        self.reactor = Reactor(
            ServerConfig(),
            self.room,
            Listeners(self.room, Board(), 0),
            self.served.append,
            lambda conn, why: None,
            lambda conn: None,
            lambda conn: Answered.NOT,
            lambda: None,
        )

    def connect(self, client: str = "192.0.2.1") -> Connection:
        ours, theirs = socket.socketpair()
        self.sockets += ours, theirs
        self.reactor.welcome(ours, (client, 1), {})
        return self.reactor.connections[ours.fileno()]


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    for sock in worker.sockets:
        sock.close()


@pytest.fixture
def reactor(worker: Worker) -> Reactor:
    return worker.reactor


def test_a_connection_that_has_gone_on_is_not_taken_for_what_it_was(worker: Worker, reactor: Reactor) -> None:
    conn = worker.connect()
    assert reactor.claim(conn)
    reactor.park(conn, Phase.IDLE, 60)
    assert not reactor.claim(conn, Phase.BODY)
    assert reactor.idle == {conn.fd: conn}
    assert reactor.claim(conn, Phase.IDLE)
    assert not reactor.claim(conn)


def test_a_connection_that_ends_twice_takes_no_other_one_with_it(worker: Worker, reactor: Reactor) -> None:
    conn = worker.connect()
    assert reactor.claim(conn)
    reactor.close(conn)
    other = worker.connect("192.0.2.2")
    assert other.fd == conn.fd
    reactor.look_again(conn)
    reactor.close(conn)
    assert reactor.connections == reactor.waiting == {other.fd: other}
    assert [worker.room._clients.count(client) for client in ("192.0.2.1", "192.0.2.2")] == [0, 1]


def test_a_head_that_was_refused_takes_no_memory_any_more(worker: Worker, reactor: Reactor) -> None:
    conn = worker.connect()
    assert reactor.claim(conn)
    conn.buffer = b"G" * 2 * LEAST_BYTES
    reactor.wait_for_head(conn)
    assert reactor.claim(conn)
    reactor.refuse(conn, 431, "Request Header Fields Too Large")
    assert (conn.phase, conn.held, worker.room.held.bytes) == (Phase.LINGERING, 0, 0)


def test_an_error_at_accepting_does_not_end_it(worker: Worker, reactor: Reactor, monkeypatch: pytest.MonkeyPatch) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    reactor.listen(listener, {})
    clients = [socket.create_connection(listener.getsockname())]
    worker.sockets += listener, clients[0]

    def fail(sock: socket.socket, *rest: object) -> None:
        sock.close()
        raise RuntimeError

    monkeypatch.setattr(reactor, "welcome", fail)
    reactor.work()
    monkeypatch.undo()
    worker.sockets.append(socket.create_connection(listener.getsockname()))
    reactor.sweep()
    reactor.work()
    assert len(reactor.connections) == 1
    worker.sockets += [conn.sock for conn in reactor.connections.values()]


def test_of_idle_connections_one_whose_request_has_just_come_is_not_the_first_to_go(worker: Worker, reactor: Reactor) -> None:
    first, second, third = (worker.connect(f"192.0.2.{number}") for number in range(3))
    for conn in (first, second, third):
        assert reactor.claim(conn)
        reactor.park(conn, Phase.IDLE, 60)
    worker.sockets[1].send(b"GET / HTTP/1.1\r\n")
    assert worker.room.make()
    assert list(reactor.idle.values()) == [first, third]
    worker.sockets[5].send(b"GET / HTTP/1.1\r\n")
    assert worker.room.make()  # all have something to say, and room there must be
    assert list(reactor.idle.values()) == [third]


def test_many_connections_at_once_are_shared_with_a_worker_that_has_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given a moment each time, and no more than a few of them in one batch, since it may be stuck."""
    board, taken, rests = Board(), list[socket.socket](), list[float]()
    room = Room(100, 100, lambda peer: peer, lambda what: None)
    listeners = Listeners(room, board, 0)
    reactor = Reactor(ServerConfig(), room, listeners, print, lambda conn, why: None, lambda conn: None, lambda conn: Answered.NOT, lambda: None)
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        reactor.listen(listener, {})
        clients = [socket.create_connection(listener.getsockname()) for _ in range(14)]

        def elsewhere(seconds: float) -> None:
            rests.append(seconds)
            taken.append(listener.accept()[0])
            board.note(1, len(taken))

        monkeypatch.setattr("noraflask.serve.listening.time.sleep", elsewhere)
        board.note(0, 0)
        board.note(1, 0)
        listeners.accept_or_rest(listener.fileno())
        assert len(reactor.connections) == len(taken) == 7
        clients += [socket.create_connection(listener.getsockname()) for _ in range(40)]
        monkeypatch.setattr("noraflask.serve.listening.time.sleep", rests.append)  # the other one does not move
        rests.clear()
        listeners.accept_or_rest(listener.fileno())
        assert (len(reactor.connections), len(rests)) == (47, POLITE_TIMES)
        for conn in list(reactor.connections.values()):
            reactor.close(conn)
        for sock in (*clients, *taken):
            sock.close()
