"""Acknowledged means durable: after kill -9 of everything, and after a power cut. Nothing partial is ever visible."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from noraflask.services.documents import Documents
from noraflask.storage.disk import DiskStorage
from tests.server import Server, wait_until

from .conftest import Mounts, all_workers, assert_well, ext4_image, leftovers
from .oci import GONE, Client, config_of, digest_of, manifest_of, noise

Start = Callable[..., Server]
SPILL_EARLY = {"NORA_STAGING_SHARE_BYTES": "262144", "NORA_STAGING_BUDGET_BYTES": "4194304"}
ABSENT = None


@dataclass
class Promises:
    """What one pusher may count on: what was acknowledged last, and where a request was under way what it may have done."""

    blobs: dict[tuple[str, str], set[bool]] = field(default_factory=dict)  # (repository, digest) -> is it there?
    manifests: dict[tuple[str, str], set[bool]] = field(default_factory=dict)
    tags: dict[tuple[str, str], set[str | None]] = field(default_factory=dict)  # (repository, tag) -> digest or ABSENT
    acknowledged: int = 0

    @contextmanager
    def about(self, *changes: tuple[dict, tuple[str, str], object]) -> Iterator[None]:
        """Each change is possible while the request runs, and certain once it was acknowledged."""
        for table, key, after in changes:
            table[key] = table.get(key, {ABSENT if table is self.tags else False}) | {after}
        yield
        for table, key, after in changes:
            table[key] = {after}
        self.acknowledged += 1


class Pusher:
    """One client with repositories of its own: pushes, mounts, moves tags and deletes, as a seeded dice says, until it is told to stop."""

    def __init__(self, port: int, number: int, promises: Promises) -> None:
        self.port = port
        self.dice = random.Random(f"pusher {number} {promises.acknowledged}")
        self.repository, self.other = f"load/p{number}", f"load/p{number}/mounted"
        self.promises = promises
        self.ended_by: Exception | None = None

    def run(self, stop: threading.Event) -> None:
        try:
            with Client(self.port) as client:
                while not stop.is_set():
                    self.step(client)
        except GONE as error:
            self.ended_by = error

    def step(self, client: Client) -> None:
        kind = self.dice.choices(("image", "mount", "delete tag", "delete manifest"), (8, 2, 1, 1))[0]
        held = [(tag, *found) for (repository, tag), found in self.promises.tags.items() if repository == self.repository]
        held = [(tag, digest) for tag, digest, *more in held if digest and not more]
        if kind == "image" or not held:
            self.push_image(client)
        elif kind == "mount":
            self.mount(client)
        else:
            tag, digest = self.dice.choice(held)
            self.delete(client, tag, digest if kind == "delete manifest" else None)

    def push_image(self, client: Client) -> None:
        size = self.dice.choice((2, 300, 5_000, 5_000, 90_000, 700_000))
        layer = self.dice.randbytes(size)
        config = config_of(layer)
        for data in (layer, config):
            with self.promises.about((self.promises.blobs, (self.repository, digest_of(data)), True)):
                self.push_blob(client, data)
        manifest = manifest_of(config, layer)
        digest, tag = digest_of(manifest), f"t{self.dice.randrange(12)}"
        changes = (self.promises.manifests, (self.repository, digest), True), (self.promises.tags, (self.repository, tag), digest)
        with self.promises.about(*changes):
            answer = client.push_manifest(self.repository, tag, manifest)
            assert answer.status == 201, answer

    def push_blob(self, client: Client, data: bytes) -> None:
        digest = digest_of(data)
        how = self.dice.choice(("one request", "two requests", "chunks"))
        if how == "one request":
            answer = client.ask("POST", f"/v2/{self.repository}/blobs/uploads/?digest={digest}", data)
            if answer.status == 201:
                return
            location, rest = answer.location, data  # a registry may decline the short way
        else:
            location, rest = client.begin(self.repository), data
        if how == "chunks":
            half = len(data) // 2
            answer = client.patch(location, data[:half], 0)
            assert answer.status == 202, answer
            location, rest = answer.location, data[half:]
        answer = client.finish(location, digest, rest)
        assert answer.status == 201, answer

    def mount(self, client: Client) -> None:
        blobs = self.promises.blobs.items()
        digest = self.dice.choice([digest for (repository, digest), there in blobs if repository == self.repository and there == {True}])
        with self.promises.about((self.promises.blobs, (self.other, digest), True)):
            answer = client.ask("POST", f"/v2/{self.other}/blobs/uploads/?mount={digest}&from={self.repository}")
            assert answer.status == 201, answer

    def delete(self, client: Client, tag: str, digest: str | None) -> None:
        if digest is None:
            changes = [(self.promises.tags, (self.repository, tag), ABSENT)]
        else:
            changes = [(self.promises.manifests, (self.repository, digest), False)]
            changes += [(self.promises.tags, key, ABSENT) for key, found in self.promises.tags.items() if digest in found]
        with self.promises.about(*changes):
            answer = client.ask("DELETE", f"/v2/{self.repository}/manifests/{digest or tag}")
            assert answer.status == 202, answer


def load(server: Server, promises: list[Promises], strike: Callable[[], None]) -> list[Pusher]:
    """Push from all sides; strike; stop. Anything but an end of the connection is an error."""
    stop = threading.Event()
    pushers = [Pusher(server.port, number, each) for number, each in enumerate(promises)]
    with ThreadPoolExecutor(len(pushers)) as pool:
        running = [pool.submit(pusher.run, stop) for pusher in pushers]
        try:
            strike()
        except AssertionError:
            stop.set()
            for each in running:
                each.result()  # what ended a pusher says more than that nothing came any more
            raise
        finally:
            stop.set()
        for each in running:
            each.result()
    return pushers


def broken_promises(port: int, promises: list[Promises]) -> list[str]:
    """Every acknowledged digest and tag is readable and right; a tag is the last acknowledged value, or one that was under way."""

    def check(mine: Promises) -> list[str]:
        found = []
        with Client(port) as client:
            for (repository, digest), possible in mine.blobs.items():
                answer = client.blob(repository, digest)
                there = answer.status == 200 and digest_of(answer.body) == digest
                if there not in possible or answer.status not in (200, 404):
                    found.append(f"blob {repository}@{digest}: expected {possible}, got {answer}")
            for (repository, digest), possible in mine.manifests.items():
                answer = client.manifest(repository, digest)
                there = answer.status == 200 and digest_of(answer.body) == digest
                if there not in possible or answer.status not in (200, 404):
                    found.append(f"manifest {repository}@{digest}: expected {possible}, got {answer}")
            for (repository, tag), allowed in mine.tags.items():
                answer = client.manifest(repository, tag)
                value = digest_of(answer.body) if answer.status == 200 else ABSENT
                if value not in allowed or answer.status not in (200, 404):
                    found.append(f"tag {repository}:{tag}: expected {allowed}, got {value} {answer}")
        return found

    with ThreadPoolExecutor(4) as pool:
        return [line for lines in pool.map(check, promises) for line in lines]


def partial_things(server: Server) -> list[str]:
    """Whatever can be seen is whole: kept bytes have their digest, what a listed tag leads to is all there."""
    found = []
    for path in (server.storage / "blobs").glob("*/*/*"):
        if hashlib.new(path.parent.parent.name, path.read_bytes()).hexdigest() != path.name:
            found.append(f"kept bytes with another digest: {path} ({path.stat().st_size} bytes)")
    with Client(server.port) as client:
        for repository in client.ask("GET", "/v2/_catalog?n=1000").json()["repositories"]:
            listing = client.ask("GET", f"/v2/{repository}/tags/list?n=1000")
            for tag in (listing.json().get("tags") or []) if listing.status == 200 else []:
                answer = client.manifest(repository, tag)
                if answer.status != 200:
                    found.append(f"{repository}:{tag} is listed and gives {answer}")
                    continue
                manifest = answer.json()
                for digest in (manifest["config"]["digest"], *(layer["digest"] for layer in manifest["layers"])):
                    answer = client.blob(repository, digest)
                    if answer.status != 200 or digest_of(answer.body) != digest:
                        found.append(f"{repository}:{tag} needs {digest}, which gives {answer}")
    return found


# ------------------------------------------------------------------------------------------------------------------- kill -9

LOADED_SECONDS = 240
"""For some hundred pushes where other tests want the same processors and the same disk."""


@pytest.mark.slow
@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.soak)])
def test_kill_9_of_everything_loses_nothing_that_was_acknowledged(kills: int, start: Start) -> None:
    server = start(SPILL_EARLY)
    dice = random.Random("kill")
    promises = [Promises() for _ in range(16)]
    for _ in range(kills):
        before = sum(each.acknowledged for each in promises)
        moment = before + dice.randrange(200, 500)

        def strike(moment: int = moment) -> None:
            wait_until(lambda: sum(each.acknowledged for each in promises) >= moment, LOADED_SECONDS, "pushes to be acknowledged")
            server.kill()

        pushers = load(server, promises, strike)
        assert any(pusher.ended_by for pusher in pushers), "the kill came when nothing was under way"
        server.start()
        assert broken_promises(server.port, promises) == []
        assert partial_things(server) == []
    assert server.log_faults() == []


@pytest.mark.slow
def test_what_killed_pushes_leave_behind_is_swept(start: Start, folder: Path) -> None:
    server = start(SPILL_EARLY)
    promises = [Promises() for _ in range(16)]
    for number in range(1, 4):

        def strike(moment: int = 150 * number) -> None:
            wait_until(lambda: sum(each.acknowledged for each in promises) >= moment, LOADED_SECONDS, "pushes to be acknowledged")
            server.kill()

        load(server, promises, strike)
        # No more than the uploads that were open at the moment of the kill, one a pusher; each kill adds its own until their time is over.
        assert len(leftovers(server)) <= len(promises) * number
        server.start()
    server.stop()
    with Server(server.folder, {"NORA_STAGING_SESSION_TTL_SECONDS": "1"}) as swept:
        wait_until(lambda: leftovers(swept) == [], 30, "leftovers to be swept")
        assert broken_promises(swept.port, promises) == []


def descriptors_of(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


@pytest.mark.slow
def test_kill_9_of_one_worker_under_load_disturbs_only_its_own_requests(start: Start) -> None:
    server = start(SPILL_EARLY)
    promises = [Promises() for _ in range(12)]
    first = all_workers(server)
    reached: list[int] = []

    def acknowledged() -> int:
        return sum(each.acknowledged for each in promises)

    def strike() -> None:
        wait_until(lambda: acknowledged() >= 150, LOADED_SECONDS, "pushes to be acknowledged")
        victim = min(first, key=descriptors_of)  # while the machine is busy, one worker may have got all connections
        os.kill(victim, signal.SIGKILL)
        reached.append(acknowledged())
        wait_until(lambda: acknowledged() >= reached[0] + 150, LOADED_SECONDS, "the other worker to go on")
        wait_until(lambda: len(server.worker_pids()) == len(first) and victim not in server.worker_pids(), 30, "a new worker")

    pushers = load(server, promises, strike)
    assert any(pusher.ended_by is None for pusher in pushers), "every connection was lost with one worker"
    assert broken_promises(server.port, promises) == []
    assert partial_things(server) == []
    assert_well(server, all_workers(server))


def test_a_session_that_was_linked_before_a_crash_cannot_change_the_blob(start: Start) -> None:
    """A crash between the link of an upload to its place and the end of its session leaves two names of one file."""
    server = start(SPILL_EARLY)
    data = noise(600_000, "linked")
    digest = digest_of(data)
    with Client(server.port) as client:
        location = client.begin("crash/link")
        assert client.patch(location, data, 0).status == 202
    server.kill()
    (upload,) = [path for path in leftovers(server) if path.stat().st_size == len(data)]  # a probe may have been under way too
    place = server.storage / "blobs" / "sha256" / digest[7:9] / digest[7:]
    place.parent.mkdir(parents=True, exist_ok=True)
    os.link(upload, place)
    server.start()
    with Client(server.port) as client:
        assert client.ask("PATCH", location, b"more").status in (202, 404)
        client.finish(location, digest, data)
        assert place.read_bytes() == data
        client.push_blob("crash/link", data)
        assert client.blob("crash/link", digest).body == data
    assert place.read_bytes() == data


# ----------------------------------------------------------------------------------------------------------------- power cut

NO_SYNC = """
import os
os.fsync = os.fdatasync = lambda descriptor: None
"""


class Machine:
    """A server whose data lie on a file system of their own, which writes nothing to its device that nobody syncs (commit=600)."""

    def __init__(self, folder: Path, mount: Mounts, start: Start, env: dict[str, str]) -> None:
        self.folder, self.mount, self.start = folder, mount, start
        self.image = ext4_image(folder / "disk.img", 256)
        self.server = start(env, storage=mount("disk", "-o", "loop,commit=600", str(self.image)) / "storage")
        self.cuts = 0

    def cut_power(self) -> Server:
        """A second server on what the device holds at this moment."""
        self.cuts += 1
        copy = self.folder / f"copy{self.cuts}.img"
        copy_sparse(self.image, copy)
        disk = self.mount(f"disk{self.cuts}", "-o", "loop", str(copy))
        return self.start(name=f"after{self.cuts}", storage=disk / "storage")


def copy_sparse(source: Path, target: Path) -> None:
    """The parts of a file that hold data."""
    with open(source, "rb") as old, open(target, "wb") as new:
        size = os.fstat(old.fileno()).st_size
        new.truncate(size)
        offset = 0
        while offset < size:
            try:
                offset = os.lseek(old.fileno(), offset, os.SEEK_DATA)
            except OSError:  # a hole to the end
                break
            end = os.lseek(old.fileno(), offset, os.SEEK_HOLE)
            while offset < end:
                offset += os.copy_file_range(old.fileno(), new.fileno(), end - offset, offset, offset)


def one_of_each(client: Client) -> Iterator[tuple[str, Promises]]:
    """One acknowledged request after the other, each with what it promises; whoever asks may look at the disk in between.

    One at a time matters: a later sync writes the file system's whole journal and would hide that an earlier one is missing.
    """
    said = Promises()
    small, large, config = noise(300, "small"), noise(900_000, "large"), config_of(noise(300, "small"))
    for data in (small, large, config):
        with said.about((said.blobs, ("cut/a", digest_of(data)), True)):
            client.push_blob("cut/a", data)
        yield f"blob of {len(data)} bytes", said
    with said.about((said.blobs, ("cut/b", digest_of(small)), True)):
        assert client.ask("POST", f"/v2/cut/b/blobs/uploads/?mount={digest_of(small)}&from=cut/a").status == 201
    yield "mount", said
    manifests = [manifest_of(config, small), manifest_of(config, small, large)]
    for what, manifest in (("tag", manifests[0]), ("moved tag", manifests[1])):
        digest = digest_of(manifest)
        with said.about((said.manifests, ("cut/a", digest), True), (said.tags, ("cut/a", "v1"), digest)):
            assert client.push_manifest("cut/a", "v1", manifest).status == 201
        yield what, said
    with said.about((said.tags, ("cut/a", "v1"), ABSENT)):
        assert client.ask("DELETE", "/v2/cut/a/manifests/v1").status == 202
    yield "deleted tag", said
    with said.about((said.manifests, ("cut/a", digest_of(manifests[0])), False)):
        assert client.ask("DELETE", f"/v2/cut/a/manifests/{digest_of(manifests[0])}").status == 202
    yield "deleted manifest", said
    with said.about((said.blobs, ("cut/a", digest_of(large)), False), (said.manifests, ("cut/a", digest_of(manifests[1])), False)):
        assert client.ask("DELETE", f"/v2/cut/a/manifests/{digest_of(manifests[1])}").status == 202
        assert client.ask("DELETE", f"/v2/cut/a/blobs/{digest_of(large)}").status == 202
    yield "deleted blob", said


def test_a_power_cut_after_any_acknowledgement_loses_nothing(folder: Path, mount: Mounts, start: Start) -> None:
    machine = Machine(folder, mount, start, SPILL_EARLY)
    with Client(machine.server.port) as client:
        for step, said in one_of_each(client):
            after = machine.cut_power()
            assert broken_promises(after.port, [said]) == [], f"power cut after: {step}"
            assert partial_things(after) == [], f"power cut after: {step}"
            after.kill()


def test_a_power_cut_after_any_swap_loses_nothing(folder: Path, mount: Mounts) -> None:
    """The same for the storage's own verbs that compare versions, and for a document that is made, changed and removed."""
    image = ext4_image(folder / "disk.img", 64)
    storage = DiskStorage(mount("disk", "-o", "loop,commit=600", str(image)) / "storage")
    documents = Documents(storage, "cut/")
    for cut, after in enumerate((b"made", b"changed", b"changed again", None, b"made again")):
        assert documents.update("document", lambda _, after=after: after) == after
        copy = folder / f"copy{cut}.img"
        copy_sparse(image, copy)
        found = DiskStorage(mount(f"disk{cut}", "-o", "loop", str(copy)) / "storage")
        assert Documents(found, "cut/").read("document") == after
        assert Documents(found, "cut/").update("document", lambda old: (old or b"") + b"!") == (after or b"") + b"!"
        found.close()
    storage.close()


@pytest.mark.slow
def test_a_power_cut_under_load_loses_nothing(folder: Path, mount: Mounts, start: Start) -> None:
    machine = Machine(folder, mount, start, SPILL_EARLY)
    promises = [Promises() for _ in range(8)]

    def strike() -> None:
        wait_until(lambda: sum(each.acknowledged for each in promises) >= 300, LOADED_SECONDS, "pushes to be acknowledged")

    load(machine.server, promises, strike)
    after = machine.cut_power()
    assert broken_promises(after.port, promises) == []
    assert partial_things(after) == []


def test_the_power_cut_is_felt_by_a_server_that_does_not_sync(folder: Path, mount: Mounts, start: Start) -> None:
    """The check of the check: the same cut must find fault with a server that acknowledges before its bytes are on the disk."""
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(NO_SYNC)
    careless = {"PYTHONPATH": f"{folder / 'site'}:{Path(__file__).parents[2]}"}
    machine = Machine(folder, mount, start, SPILL_EARLY | careless)
    with Client(machine.server.port) as client:
        steps = one_of_each(client)
        for _ in range(3):
            _, said = next(steps)
    shutil.rmtree(folder / "site")
    after = machine.cut_power()
    assert broken_promises(after.port, [said]) != []
