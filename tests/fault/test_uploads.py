"""Clients that break off, stall, lie, repeat themselves and run into each other. What came in stays, what is wrong is refused, the next one works."""

from __future__ import annotations

import array
import fcntl
import os
import signal
import socket
import tempfile
import termios
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.server import Server, wait_until

from .conftest import all_workers, assert_well, leftovers
from .oci import Answer, Client, Wire, digest_of, noise, with_digest

Start = Callable[..., Server]
KIB = 1024
IDLE_SECONDS = 2


@pytest.fixture(scope="module")
def shared() -> Iterator[Server]:
    env = {"NORA_IDLE_TIMEOUT": str(IDLE_SECONDS), "NORA_STAGING_SHARE_BYTES": str(256 * KIB)}
    with tempfile.TemporaryDirectory(prefix="nora-fault-") as folder, Server(Path(folder), env) as server:
        yield server


@pytest.fixture
def server(shared: Server, request: pytest.FixtureRequest) -> Iterator[Server]:
    """The module's server, which must have come through each test with all its processes, no fault in its log and no open upload."""
    workers = all_workers(shared)
    lying, faults = set(leftovers(shared)), shared.log_faults()
    yield shared
    assert_well(shared, workers, request.node.name)
    assert shared.log_faults() == faults
    # The storage's own probe writes a file for a moment, which may be met before or after; what a test left behind stays.
    wait_until(lambda: set(leftovers(shared)) <= lying, 5, "no file of an upload to be left")


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.port) as client:
        yield client


def go_on(client: Client, location: str, data: bytes, tries: int = 1) -> None:
    """What a good client does after a broken request: ask what came in, send the rest (asking again when that was outdated), finish."""
    for left in reversed(range(tries)):
        start = client.received(location)
        assert start is not None
        answer = client.patch(location, data[start:], start) if start < len(data) else None
        if answer is None or answer.status == 202:
            break
        assert answer.status == 416, answer
        assert left, answer
    answer = client.finish(answer.location if answer else location, digest_of(data))
    assert answer.status == 201, answer


def cancel(client: Client, location: str) -> None:
    assert client.ask("DELETE", location).status == 204


def together(*jobs: Callable[[], Answer]) -> list[Answer]:
    barrier = threading.Barrier(len(jobs))

    def at_once(job: Callable[[], Answer]) -> Answer:
        barrier.wait()
        return job()

    with ThreadPoolExecutor(len(jobs)) as pool:
        return list(pool.map(at_once, jobs))


def alone(server: Server, call: Callable[[Client], Answer]) -> Callable[[], Answer]:
    """A job on a connection of its own."""

    def job() -> Answer:
        with Client(server.port) as client:
            return call(client)

    return job


# ------------------------------------------------------------------------------------------------------- broken connections

FRAMINGS = {
    "length": ("Content-Length: 1000000", lambda data: data),
    "chunked": ("Transfer-Encoding: chunked", lambda data: b"%x\r\n%b\r\n" % (len(data), data)),
    "in mid-chunk": ("Transfer-Encoding: chunked", lambda data: b"%x\r\n%b" % (len(data) + 5000, data)),
}


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("size", [30 * KIB, 700 * KIB], ids=["on tmpfs", "spilled"])
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_a_client_that_disconnects_can_go_on(server: Server, client: Client, framing: str, size: int, reset: bool) -> None:
    data = noise(1_000_000, f"{framing} {size} {reset}")
    location = client.begin("cut/off")
    header, frame = FRAMINGS[framing]
    with Wire(server.port) as wire:
        # A request that comes to a worker only after its reset must not be appended to what was sent since: its range says where it belongs.
        place = ["Content-Range: 0-999999"] if reset else []
        wire.head("PATCH", location, header, "Content-Type: application/octet-stream", *place)
        wire.send(frame(data[:size]))
        if reset:
            # A reset throws away what the server has not read yet, so wait for it; how much of an unfinished piece it keeps is its own affair.
            wait_until(lambda: _unread(wire.sock) == 0, 10, "the server to read")
            wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    if reset:
        wait_until(lambda: _free(client, location), 10, "the broken request to end")
        assert (client.received(location) or 0) <= size
        go_on(client, location, data, tries=10)  # a worker may come to the broken request only now
    else:
        wait_until(lambda: client.received(location) == size, 10, f"all {size} bytes that came in to be kept")
        go_on(client, location, data)
    assert client.blob("cut/off", digest_of(data)).body == data


def _unread(sock: socket.socket) -> int:
    """Bytes sent that the peer's kernel has not acknowledged (SIOCOUTQ)."""
    buffer = array.array("i", [0])
    fcntl.ioctl(sock, termios.TIOCOUTQ, buffer)
    return buffer[0]


def _free(client: Client, location: str) -> bool:
    """Nobody writes any more: a chunk out of order is refused as such at once."""
    begin = time.monotonic()
    answer = client.patch(location, b"x", 10**9)
    return answer.status == 416 and time.monotonic() - begin < 1


def test_a_finishing_put_that_breaks_off_stores_nothing(server: Server, client: Client) -> None:
    data = noise(400_000, "put")
    location = client.begin("cut/put")
    with Wire(server.port) as wire:
        wire.head("PUT", with_digest(location, digest_of(data)), f"Content-Length: {len(data)}")
        wire.send(data[:100_000])
    wait_until(lambda: client.received(location) == 100_000, 10, "the bytes that came in to be kept")
    assert client.blob("cut/put", digest_of(data)).status == 404
    go_on(client, location, data)


def test_a_client_that_stalls_is_cut_and_can_go_on(server: Server, client: Client) -> None:
    data = noise(300_000, "stall")
    location = client.begin("stall/it")
    with Wire(server.port, timeout=IDLE_SECONDS * 5) as wire:
        wire.head("PATCH", location, f"Content-Length: {len(data)}")
        wire.send(data[:50_000])
        begin = time.monotonic()
        answer = wire.answer()
        assert IDLE_SECONDS * 0.5 < time.monotonic() - begin < IDLE_SECONDS * 4
    assert answer is None or answer.status in (400, 408), answer
    assert client.received(location) == 50_000
    go_on(client, location, data)


# ------------------------------------------------------------------------------------------------ chunks over new connections


def bytes_read(pid: int) -> int:
    """From files: what comes from sockets is received or spliced, and does not count as read."""
    return int(Path(f"/proc/{pid}/io").read_text().split()[1])


@pytest.mark.parametrize("kills", [0, 2])
def test_chunks_over_new_connections_are_hashed_once_by_all_workers_together(start: Start, kills: int) -> None:
    """A hash reads the upload's file; so what was read tells how often it was hashed."""
    server = start({"NORA_WORKERS": "4"})
    workers = all_workers(server, 4)
    chunk, count = noise(5_000_000, "shared"), 20
    read_before = {pid: bytes_read(pid) for pid in workers}
    read_by_the_dead = 0
    with Client(server.port) as client:
        location = client.begin("spread/app")
    for number in range(count):
        with Client(server.port) as client:
            answer = client.patch(location, chunk, number * len(chunk))
            assert answer.status == 202, answer
            location = answer.location
        if kills and number in (7, 14):
            victim = max(read_before, key=lambda pid: bytes_read(pid) - read_before[pid])
            read_by_the_dead += bytes_read(victim) - read_before.pop(victim)
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda victim=victim: victim not in all_workers(server, 4), 20, "another worker in its place")
            read_before |= {pid: 0 for pid in all_workers(server, 4) if pid not in read_before}
    with Client(server.port) as client:
        assert client.finish(location, digest_of(chunk * count)).status == 201
    read = sum(bytes_read(pid) - before for pid, before in read_before.items()) + read_by_the_dead
    assert read < 1.2 * len(chunk) * count


# --------------------------------------------------------------------------------------------------------------------- lies


def test_a_body_shorter_than_its_content_length(server: Server, client: Client) -> None:
    data = noise(80_000, "short")
    location = client.begin("lie/short")
    with Wire(server.port) as wire:
        wire.head("PATCH", location, f"Content-Length: {len(data) + 1000}")
        wire.send(data)
        wire.sock.shutdown(socket.SHUT_WR)
        answer = wire.answer()
    assert answer is None or (answer.status, answer.code) in ((400, "SIZE_INVALID"), (400, "BLOB_UPLOAD_INVALID")), answer
    wait_until(lambda: client.received(location) == len(data), 10, "the bytes that came in to be kept")
    go_on(client, location, data)


def test_a_body_longer_than_its_content_length(server: Server, client: Client) -> None:
    """The announced part is the body; the rest is no request."""
    data = noise(80_000, "long")
    location = client.begin("lie/long")
    with Wire(server.port) as wire:
        wire.head("PATCH", location, "Content-Length: 50000")
        wire.send(data)
        answer = wire.answer()
        assert answer is not None
        assert answer.status == 202
        second = wire.answer()
        assert second is None or second.status == 400, second
    assert client.received(location) == 50_000
    go_on(client, location, data)


def test_a_content_range_that_is_not_as_long_as_the_body(server: Server, client: Client) -> None:
    data = noise(20_000, "range")
    location = client.begin("lie/range")
    for wrong in ("0-20000", "0-19998", "0-0"):
        answer = client.ask("PATCH", location, data, {"Content-Range": wrong, "Content-Type": "application/octet-stream"})
        assert answer.status in (400, 416), answer
        assert answer.code in ("SIZE_INVALID", "BLOB_UPLOAD_INVALID"), answer
        assert client.received(location) == 0
    go_on(client, location, data)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("way", ["in one request", "in two requests", "in chunks"])
def test_a_wrong_digest_stores_nothing(client: Client, algorithm: str, way: str) -> None:
    data = noise(40_000, f"{algorithm} {way}")
    wrong = digest_of(data + b"!", algorithm)
    if way == "in one request":
        answer = client.ask("POST", f"/v2/lie/digest/blobs/uploads/?digest={wrong}", data, {"Content-Type": "application/octet-stream"})
    elif way == "in two requests":
        answer = client.finish(client.begin("lie/digest"), wrong, data)
    else:
        answer = client.finish(client.patch(client.begin("lie/digest"), data).location, wrong)
    assert (answer.status, answer.code) == (400, "DIGEST_INVALID"), answer
    for digest in (wrong, digest_of(data), digest_of(data, "sha512")):
        assert client.blob("lie/digest", digest).status == 404
    right = digest_of(data, algorithm)
    assert client.finish(client.begin("lie/digest"), right, data).status == 201
    assert client.blob("lie/digest", right).body == data


@pytest.mark.parametrize("digest", ["", "sha256:", "sha256:" + "0" * 63, "sha256:" + "A" * 64, "md5:" + "0" * 32, "x"])
def test_a_malformed_digest_leaves_the_upload_alone(client: Client, digest: str) -> None:
    data = noise(3000, digest)
    location = client.begin("lie/form")
    assert client.patch(location, data).status == 202
    answer = client.finish(location, digest)
    assert (answer.status, answer.code) == (400, "DIGEST_INVALID"), answer
    go_on(client, location, data)


# ------------------------------------------------------------------------------------------------------------ order and repeats


def test_a_repeated_chunk_is_refused_and_the_upload_lives_on(client: Client) -> None:
    data = noise(30_000, "repeat")
    location = client.begin("order/repeat")
    assert client.patch(location, data[:10_000], 0).status == 202
    for start in (0, 5_000, 9_999, 10_001, 20_000):  # the same again, an overlap, a gap
        answer = client.patch(location, data[start : start + 10_000], start)
        assert (answer.status, answer.code) == (416, "BLOB_UPLOAD_INVALID"), answer
        assert client.received(location) == 10_000
    go_on(client, location, data)


def test_a_last_chunk_out_of_order_is_refused_and_the_upload_lives_on(client: Client) -> None:
    data = noise(30_000, "last")
    location = client.begin("order/last")
    assert client.patch(location, data[:10_000], 0).status == 202
    header = {"Content-Range": "20000-29999", "Content-Type": "application/octet-stream"}
    answer = client.ask("PUT", with_digest(location, digest_of(data)), data[20_000:], header)
    assert (answer.status, answer.code) == (416, "BLOB_UPLOAD_INVALID"), answer
    assert client.received(location) == 10_000
    go_on(client, location, data)


def test_finishing_twice(client: Client) -> None:
    data = noise(30_000, "twice")
    location = client.begin("order/twice")
    assert client.finish(location, digest_of(data), data).status == 201
    for body in (b"", data):
        answer = client.finish(location, digest_of(data), body)
        assert (answer.status, answer.code) == (404, "BLOB_UPLOAD_UNKNOWN"), answer
    assert client.patch(location, data).status == 404
    assert client.received(location) is None
    assert client.blob("order/twice", digest_of(data)).body == data


def test_an_upload_is_known_only_in_its_own_repository(client: Client) -> None:
    data = noise(30_000, "foreign")
    location = client.begin("mine/app")
    assert client.patch(location, data[:1000]).status == 202
    foreign = location.replace("/v2/mine/app/", "/v2/yours/app/")
    assert foreign != location
    answers = [client.finish(foreign, digest_of(data), data), client.patch(foreign, data), client.ask("DELETE", foreign), client.ask("GET", foreign)]
    assert {(answer.status, answer.code) for answer in answers} == {(404, "BLOB_UPLOAD_UNKNOWN")}
    assert client.blob("yours/app", digest_of(data)).status == 404
    assert client.received(location) == 1000
    go_on(client, location, data)


# --------------------------------------------------------------------------------------------------------------- side by side


@pytest.mark.parametrize("size", [10 * KIB, 2048 * KIB], ids=["small", "spilling"])
def test_two_connections_send_the_same_chunk(server: Server, client: Client, size: int) -> None:
    for turn in range(5):
        data = noise(size, turn)
        location = client.begin("race/chunk")
        answers = together(*[alone(server, lambda mine, data=data, location=location: mine.patch(location, data, 0))] * 2)  # type: ignore[misc]
        assert sorted(answer.status for answer in answers) in ([202, 409], [202, 416]), answers
        assert {answer.code for answer in answers} == {None, "BLOB_UPLOAD_INVALID"}, answers
        assert client.received(location) == size
        go_on(client, location, data)


def test_a_second_writer_is_refused_while_the_first_is_slow(server: Server, client: Client) -> None:
    data = noise(4096 * KIB, "slow")
    location = client.begin("race/slow")
    with Wire(server.port) as wire:
        wire.head("PATCH", location, f"Content-Length: {len(data)}", f"Content-Range: 0-{len(data) - 1}")
        refused = threading.Event()
        answers: list[Answer] = []

        def second() -> None:
            answers.append(alone(server, lambda mine: mine.patch(location, data, 0))())
            refused.set()

        sent = 2048 * KIB
        wire.send(data[:sent])
        wait_until(lambda: (client.received(location) or 0) > 0, 10, "the first writer to be at work")
        thread = threading.Thread(target=second)
        thread.start()
        while not refused.wait(0.2):  # slow, but never silent for longer than the server allows
            wire.send(data[sent : sent + 2000])
            sent += 2000
        thread.join()
        assert (answers[0].status, answers[0].code) in ((409, "BLOB_UPLOAD_INVALID"), (416, "BLOB_UPLOAD_INVALID")), answers
        wire.send(data[sent:])
        answer = wire.answer()
    assert answer is not None
    assert answer.status == 202
    go_on(client, location, data)


@pytest.mark.parametrize("size", [100, 100 * KIB, 1024 * KIB], ids=str)
def test_one_blob_from_32_connections_at_once(server: Server, size: int) -> None:
    data = noise(size, "crowd")

    def push(mine: Client) -> Answer:
        return mine.finish(mine.begin("race/crowd"), digest_of(data), data)

    answers = together(*[alone(server, push)] * 32)
    assert {answer.status for answer in answers} == {201}, [answer for answer in answers if answer.status != 201][:3]
    with Client(server.port) as client:
        assert client.blob("race/crowd", digest_of(data)).body == data
    copies = [path for path in server.storage.rglob("*") if path.is_file() and path.stat().st_size == size and path.read_bytes() == data]
    assert len(copies) == 1


def test_one_tag_from_16_connections_at_once(server: Server, client: Client) -> None:
    """The tag ends up as one of them, whole, and every image is there."""

    def push(number: int) -> Callable[[], str]:
        def job() -> str:
            with Client(server.port) as mine:
                return mine.push_image("race/tag", "v1", noise(2000, number))

        return job

    with ThreadPoolExecutor(16) as pool:
        digests = [job.result() for job in [pool.submit(push(number)) for number in range(16)]]
    assert digest_of(client.manifest("race/tag", "v1").body) in digests
    assert all(digest_of(client.manifest("race/tag", digest).body) == digest for digest in digests)


def test_two_connections_finish_the_same_upload(server: Server, client: Client) -> None:
    for turn in range(10):
        data = noise(500_000, f"finish {turn}")
        location = client.begin("race/finish")
        assert client.patch(location, data).status == 202
        answers = together(*[alone(server, lambda mine, data=data, location=location: mine.finish(location, digest_of(data)))] * 2)  # type: ignore[misc]
        statuses = sorted(answer.status for answer in answers)
        assert statuses[0] == 201, answers
        assert statuses[1] in (201, 404, 409), answers
        assert client.blob("race/finish", digest_of(data)).body == data
        assert client.received(location) is None


def test_a_cancel_while_another_connection_writes(server: Server, client: Client) -> None:
    """Cancelled or refused; either way both sides hear the same story and nothing stays behind."""
    for size in (3072 * KIB, 8192 * KIB):
        data = noise(size, "cancel")
        location = client.begin("race/cancel")
        with Wire(server.port) as wire:
            wire.head("PATCH", location, f"Content-Length: {size}")
            wire.send(data[: size // 2])
            wait_until(lambda location=location: (client.received(location) or 0) > 0, 10, "the writer to be at work")  # type: ignore[misc]
            cancelled = client.ask("DELETE", location)
            wire.send(data[size // 2 :])
            written = wire.answer()
        if cancelled.status == 204:
            assert written is None or written.status in (202, 404), written
            assert client.received(location) is None
        else:
            assert (cancelled.status, cancelled.code) == (409, "BLOB_UPLOAD_INVALID"), cancelled
            assert written is not None
            assert written.status == 202
            cancel(client, location)
        answer = client.finish(location, digest_of(data))
        assert (answer.status, answer.code) == (404, "BLOB_UPLOAD_UNKNOWN"), answer
        assert client.blob("race/cancel", digest_of(data)).status == 404


def test_questions_while_an_upload_spills_and_ends(server: Server, client: Client) -> None:
    """GET finds the upload on the tmpfs, on the data volume, or no longer; there is no fourth answer in between."""
    stop = threading.Event()
    places: list[str] = []
    wrong: list[Answer] = []

    def ask() -> None:
        with Client(server.port) as mine:
            while not stop.is_set():
                answer = mine.ask("GET", places[-1])
                if answer.status not in (204, 404):
                    wrong.append(answer)

    places.append(client.begin("race/ask"))
    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for turn in range(40):
            data = noise(400_000, f"ask {turn}")
            assert client.patch(places[-1], data[:1000]).status == 202
            assert client.patch(places[-1], data[1000:]).status == 202
            assert client.finish(places[-1], digest_of(data)).status == 201
            places.append(client.begin("race/ask"))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    cancel(client, places[-1])
    assert wrong == []


# -------------------------------------------------------------------------------------------------------------- many sessions


def test_more_open_uploads_than_allowed_are_told_to_come_again(start: Start) -> None:
    server = start({"NORA_MAX_UPLOAD_SESSIONS": "5"})
    with Client(server.port) as client:
        wait_until(lambda: client.ask("POST", "/v2/many/app/blobs/uploads/").status == 429, 20, "too many open uploads")
        answer = client.ask("POST", "/v2/many/app/blobs/uploads/")
        assert (answer.status, answer.code) == (429, "TOOMANYREQUESTS"), answer
        assert int(answer.headers["Retry-After"]) > 0
        assert client.ask("GET", "/health").status == 200
    with Server(server.folder / "again", {"NORA_MAX_UPLOAD_SESSIONS": "5"}) as again, Client(again.port) as client:
        location = client.begin("many/app")
        data = noise(1000, "allowed")
        assert client.finish(location, digest_of(data), data).status == 201


def test_one_client_never_takes_the_places_of_all(start: Start) -> None:
    """However its requests are spread over the workers, and after a restart too. Who pulls, and the balancer that asks /ready, never notice."""
    server = start({"NORA_MAX_UPLOAD_SESSIONS": "300"})

    def begin(mine: Client, address: str) -> Answer:
        return mine.ask("POST", "/v2/many/app/blobs/uploads/", headers={"X-Forwarded-For": address})

    def hoard() -> list[Answer]:
        with Client(server.port) as mine:
            return [begin(mine, "192.0.2.66") for _ in range(50)]

    answers = [answer for some in together(*[hoard] * 8) for answer in some]
    taken = len(leftovers(server))
    assert sorted({answer.status for answer in answers}) == [202, 429]
    assert taken == sum(answer.status == 202 for answer in answers)
    assert 150 <= taken <= 200  # two thirds of all; an upload that begins while files are counted may count twice for a moment
    refused = next(answer for answer in answers if answer.status == 429)
    assert (refused.code, 1 <= int(refused.headers["Retry-After"]) <= 60) == ("TOOMANYREQUESTS", True)
    with Client(server.port) as mine:  # after the next look the places that were counted twice are free
        wait_until(lambda: begin(mine, "192.0.2.66").status == 429 and len(leftovers(server)) >= 200, 20, "all places taken")
    assert len(leftovers(server)) == 200
    for _ in range(2):
        with Client(server.port) as client:
            assert begin(client, "192.0.2.66").status == 429
            assert client.ask("GET", "/ready").status == client.ask("GET", "/health").status == 200
            for number in range(20):
                assert begin(client, f"2001:db8::{number}").status == 202  # one /64 is one client
            client.push_image("many/other", "v1", noise(5000, "other"))
        server.restart()


@pytest.mark.slow
@pytest.mark.parametrize("count", [2_000, pytest.param(10_000, marks=pytest.mark.soak)])
def test_thousands_of_abandoned_uploads(count: int, start: Start) -> None:
    server = start({"NORA_STAGING_PRINCIPAL_SESSIONS": "12000"})

    def abandon(number: int) -> None:
        with Client(server.port) as client:
            for turn in range(count // 8):
                location = client.begin(f"left/app{number}")
                if turn % 25 == 0:
                    assert client.patch(location, noise(2000, turn)).status == 202

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(abandon, range(8)))
    assert len(leftovers(server)) == count
    slowest = 0.0
    with Client(server.port) as client:
        for turn in range(20):
            begin = time.monotonic()
            client.push_image("left/new", f"v{turn}", noise(5000, f"new {turn}"))
            assert client.ask("GET", "/health").status == 200
            slowest = max(slowest, time.monotonic() - begin)
    assert slowest < 2

    server.stop()
    with Server(server.folder, {"NORA_STAGING_SESSION_TTL_SECONDS": "2"}) as short, Client(short.port) as client:
        wait_until(lambda: leftovers(short) == [], 30, "abandoned uploads to be swept at start")
        client.push_image("left/new", "after", noise(5000, "after"))
        abandoned = [client.begin("left/again") for _ in range(50)]
        wait_until(lambda: leftovers(short) == [], 60, "abandoned uploads to be swept while the server runs")
        assert client.received(abandoned[0]) is None
        assert short.log_faults() == []
