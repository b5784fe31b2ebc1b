"""Files under blows: kill -9, a power cut, a full disk, clients that trickle or break off, and many writers of one name."""

from __future__ import annotations

import hashlib
import os
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.server import Server, wait_until

from .conftest import Mounts, all_workers, assert_well, ext4_image
from .oci import GONE, Client, Wire, noise
from .test_disk import fill
from .test_durability import Machine

Start = Callable[..., Server]
KIB, MIB = 1024, 1 << 20


def etag_of(data: bytes) -> str:
    return f'"{hashlib.sha256(data).hexdigest()}"'


class Writer:
    """Puts, overwrites and deletes files of its own as a seeded dice says, and knows what each may hold."""

    def __init__(self, port: int, number: int, promised: dict[str, set[bytes | None]]) -> None:
        self.port, self.number, self.promised = port, number, promised
        self.dice = random.Random(f"writer {number} {len(promised)}")
        self.acknowledged = 0

    def run(self, stop: threading.Event) -> None:
        try:
            with Client(self.port) as client:
                while not stop.is_set():
                    self.step(client)
        except GONE:
            return

    def step(self, client: Client) -> None:
        path = f"w{self.number}/d{self.dice.randrange(3)}/f{self.dice.randrange(8)}"
        before = self.promised.get(path, {None})
        (known,) = before if len(before) == 1 else (None,)
        data = None if known is not None and self.dice.random() < 0.2 else self.dice.randbytes(self.dice.choice((0, 5, 5000, 90_000, 700_000)))
        self.promised[path] = before | {data}
        if len(before) > 1:
            headers = {"If-Match": "*"} if client.ask("HEAD", f"/raw/{path}").status == 200 else {}
        else:
            headers = {"If-Match": etag_of(known)} if known is not None else {"If-None-Match": "*"}
        answer = client.ask("DELETE" if data is None else "PUT", f"/raw/{path}", data, headers)
        assert answer.status in (200, 204), answer
        self.promised[path] = {data}
        self.acknowledged += 1


def assert_kept(port: int, promised: dict[str, set[bytes | None]]) -> None:
    with Client(port) as client:
        for path, possible in promised.items():
            answer = client.ask("GET", f"/raw/{path}")
            assert answer.status in (200, 404), (path, answer)
            found = answer.body if answer.status == 200 else None
            assert found in possible, f"{path}: {len(found) if found is not None else None} bytes that nobody was promised"
            if found is not None:
                assert answer.headers["ETag"] == etag_of(found)


def at_work(server: Server, promised: list[dict[str, set[bytes | None]]], least: int, blow: Callable[[], None]) -> None:
    """Writers at full speed until `least` requests were acknowledged, then the blow."""
    writers, stop = [Writer(server.port, number, own) for number, own in enumerate(promised)], threading.Event()
    with ThreadPoolExecutor(len(writers)) as pool:
        running = [pool.submit(writer.run, stop) for writer in writers]
        try:
            wait_until(lambda: sum(writer.acknowledged for writer in writers) >= least or any(job.done() for job in running), 60, "work to be done")
            blow()
        finally:
            stop.set()
    for job in running:
        job.result()


def test_what_was_acknowledged_survives_kill_9(start: Start) -> None:
    server = start(env={"NORA_STAGING_SHARE_BYTES": "262144"})
    promised: list[dict[str, set[bytes | None]]] = [{} for _ in range(4)]
    for _ in range(4):
        at_work(server, promised, 60, server.kill)
        server.start()
        for own in promised:
            assert_kept(server.port, own)


def acknowledged(client: Client) -> Iterator[tuple[str, dict[str, set[bytes | None]]]]:
    """One request after the other and what each promises; one at a time, as a later sync would hide that an earlier one is missing."""
    promised: dict[str, set[bytes | None]] = {}
    old = b"small"
    for step, path, data, headers in (
        ("a new file", "a", old, {}),
        ("a file in new folders", "b/c/d", noise(900_000, "large"), {}),
        ("the same bytes elsewhere", "b/e", old, {}),
        ("an overwritten file", "a", b"smaller", {"If-Match": etag_of(old)}),
        ("an empty file", "empty", b"", {}),
        ("a deleted file", "b/e", None, {}),
    ):
        answer = client.ask("DELETE" if data is None else "PUT", f"/raw/{path}", data, headers)
        assert answer.status in (200, 204), answer
        promised[path] = {data}
        yield step, promised


def test_what_was_acknowledged_survives_a_power_cut(folder: Path, mount: Mounts, start: Start) -> None:
    machine = Machine(folder, mount, start, {"NORA_STAGING_SHARE_BYTES": "262144"})
    with Client(machine.server.port) as client:
        for _, promised in acknowledged(client):
            after = machine.cut_power()
            assert_kept(after.port, promised)
            after.kill()


def test_a_full_disk_is_told_and_leaves_nothing(start: Start, mount: Mounts, folder: Path) -> None:
    disk = mount("disk", "-o", "loop", str(ext4_image(folder / "disk.img", 64)))
    server = start(storage=disk / "storage", env={"NORA_STAGING_SHARE_BYTES": "262144"})
    with Client(server.port) as client:
        assert client.ask("PUT", "/raw/before", b"before").status == 200
        ballast = fill(disk, 2 * MIB)
        answer = client.ask("PUT", "/raw/large", noise(8 * MIB, "large"))
        assert answer.status == 507, answer
        assert int(answer.headers["Retry-After"]) > 0
        assert client.ask("HEAD", "/raw/large").status == 404
        assert client.ask("GET", "/raw/before").body == b"before"
        os.unlink(ballast)
        data = noise(8 * MIB, "large")
        assert client.ask("PUT", "/raw/large", data).status == 200
        assert client.ask("GET", "/raw/large").body == data
    assert_well(server, all_workers(server), "a full disk")


def test_a_client_that_trickles_loses_its_own_connection_alone(start: Start) -> None:
    server = start(env={"NORA_IDLE_TIMEOUT": "5"})
    workers = all_workers(server)
    with Wire(server.port) as wire, Client(server.port) as client:
        wire.head("PUT", "/raw/slow", "Content-Length: 1000000")
        wait_until(lambda: client.ask("HEAD", "/raw/slow").headers.get("Upload-Offset") == "0", 10, "the upload to begin")
        wire.send(b"x" * 1000)
        assert client.ask("PUT", "/raw/quick", b"quick").status == 200
        wait_until(lambda: client.ask("HEAD", "/raw/slow").headers.get("Upload-Offset") == "1000", 10, "what came in to be told")
        rest, answers = noise(999_000, "rest"), []

        def gone_on() -> bool:  # 409 for as long as the server waits for the other client
            answers.append(client.ask("PUT", "/raw/slow", rest, {"Content-Range": "bytes 1000-999999/1000000"}))
            return answers[-1].status != 409

        wait_until(gone_on, 30, "the upload to be given up")
        assert answers[-1].status == 200, answers
        assert client.ask("GET", "/raw/slow").body == b"x" * 1000 + rest
    assert_well(server, workers, "a trickle")


def test_what_came_in_survives_kill_9_and_goes_on(start: Start) -> None:
    server = start()
    data = noise(4 * MIB, "half")
    with Wire(server.port) as wire, Client(server.port) as client:
        wire.head("PUT", "/raw/half", f"Content-Length: {len(data)}")
        wire.send(data[: 3 * MIB])
        wait_until(lambda: int(client.ask("HEAD", "/raw/half").headers.get("Upload-Offset", "0")) == 3 * MIB, 20, "the server to have it")
        server.kill()
    server.start()
    with Client(server.port) as client:
        offset = int(client.ask("HEAD", "/raw/half").headers["Upload-Offset"])
        assert offset == 3 * MIB
        answer = client.ask("PUT", "/raw/half", data[offset:], {"Content-Range": f"bytes {offset}-{len(data) - 1}/{len(data)}"})
        assert answer.status == 200, answer
        assert client.ask("GET", "/raw/half").body == data


def test_two_writers_of_one_path_do_not_disturb_each_other(start: Start) -> None:
    """Both stream at the same time; one wins, the other is told, and what is there is whole."""
    server = start()
    bodies = [noise(3 * MIB, number) for number in range(2)]
    wires = [Wire(server.port) for _ in bodies]
    for wire, body in zip(wires, bodies, strict=True):
        wire.head("PUT", "/raw/one", f"Content-Length: {len(body)}")
        wire.send(body[:MIB])
    for wire, body in zip(wires, bodies, strict=True):
        wire.send(body[MIB:])
    statuses = sorted(wire.answer().status for wire in wires)
    for wire in wires:
        wire.sock.close()
    assert statuses == [200, 409]
    with Client(server.port) as client:
        assert client.ask("GET", "/raw/one").body in bodies


def test_of_writers_in_all_workers_one_wins(start: Start) -> None:
    server = start(env={"NORA_WORKERS": "4"})
    for turn in range(5):

        def write(number: int, turn: int = turn) -> int:
            with Client(server.port) as client:
                return client.ask("PUT", f"/raw/race{turn}", b"%d" % number, {"If-None-Match": "*"}).status

        with ThreadPoolExecutor(32) as pool:
            statuses = list(pool.map(write, range(32)))
        assert sorted(set(statuses)) == [200, 412]
        assert statuses.count(200) == 1


def test_no_change_is_lost_among_workers(start: Start) -> None:
    server = start(env={"NORA_WORKERS": "4"})
    with Client(server.port) as client:
        assert client.ask("PUT", "/raw/counter", b"0").status == 200

    def count(_: int) -> None:
        with Client(server.port) as client:
            done = 0
            while done < 5:
                known = client.ask("GET", "/raw/counter")
                body = b"%d" % (int(known.body) + 1)
                done += client.ask("PUT", "/raw/counter", body, {"If-Match": known.headers["ETag"]}).status == 200

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count, range(8)))
    with Client(server.port) as client:
        assert client.ask("GET", "/raw/counter").body == b"40"


def test_a_file_that_is_deleted_while_it_is_read_is_read_to_its_end(start: Start) -> None:
    server = start()
    data = noise(16 * MIB, "read")
    with Client(server.port) as client, Wire(server.port) as wire:
        assert client.ask("PUT", "/raw/read", data).status == 200
        wire.head("GET", "/raw/read", "Connection: close")
        assert client.ask("DELETE", "/raw/read").status == 204
        assert client.ask("GET", "/raw/read").status == 404
        answer = wire.answer()
        assert answer.status in (200, 404)
        assert answer.status == 404 or answer.body == data
