"""Full, read-only, missing and oddly mounted file systems: a clear answer that says when to come again, never half an object or a dead server."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.server import Server, wait_until

from .conftest import Mounts, all_workers, assert_well, ext4_image, leftovers, run
from .oci import Answer, Client, digest_of, noise

Start = Callable[..., Server]
MIB = 1024 * 1024


def fill(at: Path, leave_bytes: int = 0) -> Path:
    """Take all room of a file system but the last `leave_bytes`."""
    ballast = at / "ballast"
    found = os.statvfs(at)
    with open(ballast, "wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            os.posix_fallocate(file.fileno(), 0, max(0, found.f_bavail * found.f_frsize - leave_bytes))
        file.seek(0, os.SEEK_END)
        with contextlib.suppress(OSError):  # ENOSPC is what this is for
            while os.statvfs(at).f_bavail * found.f_frsize > leave_bytes:
                file.write(bytes(512))
    return ballast


def assert_refused(answer: Answer, status: int) -> None:
    """The OCI form of "not now", with the time to come again."""
    assert answer.status == status, answer
    assert answer.code == "STORAGE_FULL" if answer.status == 507 else answer.code in ("TOOMANYREQUESTS", "UNSUPPORTED", "DENIED"), answer
    assert int(answer.headers["Retry-After"]) > 0


def push_ways(client: Client, data: bytes) -> dict[str, Answer]:
    """A push in each way that clients have, as far as it goes: the first refusal, or the last answer."""

    def steps(*calls: Callable[[str], Answer]) -> Answer:
        answer = client.ask("POST", "/v2/disk/app/blobs/uploads/")
        for call in calls:
            if answer.status >= 400:
                break
            answer = call(answer.location)
        return answer

    digest = digest_of(data)
    return {
        "one request": client.ask("POST", f"/v2/disk/app/blobs/uploads/?digest={digest}", data, {"Content-Type": "application/octet-stream"}),
        "two requests": steps(lambda at: client.finish(at, digest, data)),
        "stream": steps(lambda at: client.patch(at, data), lambda at: client.finish(at, digest)),
        "chunks": steps(
            lambda at: client.patch(at, data[: len(data) // 2], 0),
            lambda at: client.patch(at, data[len(data) // 2 :], len(data) // 2),
            lambda at: client.finish(at, digest),
        ),
    }


def only_expected_faults(server: Server, *statuses: int) -> bool:
    """The log names no 5xx but those, and no traceback."""
    return all(any(str(status) in line for status in statuses) and "Traceback" not in line for line in server.log_faults())


# --------------------------------------------------------------------------------------------------------------------- staging


def test_uploads_pass_by_a_full_tmpfs(mount: Mounts, start: Start) -> None:
    tmpfs = mount("tmpfs", "-t", "tmpfs", "-o", "size=4m,mode=1777", "tmpfs")
    server = start(staging=tmpfs)
    workers = all_workers(server)
    with Client(server.port) as client:
        begun = client.begin("disk/before")
        assert client.patch(begun, noise(500_000, "before")).status == 202
        ballast = fill(tmpfs)
        for size in (10, 100_000, 6 * MIB):
            ways = push_ways(client, noise(size, size))
            assert {way: answer.status for way, answer in ways.items()} == dict.fromkeys(ways, 201), ways
        # One that began on the tmpfs finds no room there for its next chunk, and goes on elsewhere.
        data = noise(500_000, "before") + noise(2 * MIB, "after")
        assert client.patch(begun, data[500_000:], 500_000).status == 202
        assert client.finish(begun, digest_of(data)).status == 201
        assert client.blob("disk/before", digest_of(data)).body == data
        assert client.ask("GET", "/ready").status == 200
        ballast.unlink()
    assert_well(server, workers)
    assert server.log_faults() == []
    assert leftovers(server) == []


def test_a_tmpfs_without_inodes(mount: Mounts, start: Start) -> None:
    tmpfs = mount("tmpfs", "-t", "tmpfs", "-o", "size=4m,mode=1777,nr_inodes=20", "tmpfs")
    server = start(staging=tmpfs)
    with Client(server.port) as client:
        abandoned = [client.begin("disk/many") for _ in range(50)]
        assert all(client.received(location) == 0 for location in abandoned)
        client.push_image("disk/app", "v1", noise(5000, "inodes"))
    assert server.log_faults() == []


def test_an_upload_larger_than_the_tmpfs(mount: Mounts, start: Start) -> None:
    """The default share is larger than this tmpfs: the upload meets its end in mid-body."""
    server = start(staging=mount("tmpfs", "-t", "tmpfs", "-o", "size=3m,mode=1777", "tmpfs"))
    with Client(server.port) as client:
        data = noise(9 * MIB, "large")
        assert client.blob("disk/app", client.push_blob("disk/app", data)).body == data
        location = client.begin("disk/app")
        for first in range(0, len(data), MIB):
            assert client.patch(location, data[first : first + MIB], first).status == 202
        assert client.finish(location, digest_of(data)).status == 201
    assert leftovers(server) == []
    assert server.log_faults() == []


@pytest.mark.parametrize("state", ["missing", "removed", "read-only", "a file"])
def test_a_staging_folder_that_cannot_be_used(folder: Path, mount: Mounts, start: Start, state: str) -> None:
    """Uploads then go to the data volume at once."""
    staging = mount("tmpfs", "-t", "tmpfs", "-o", "size=4m", "tmpfs") / "staging"
    server = start(staging=staging)
    server.stop()
    if state in ("missing", "removed"):
        run("rm", "-r", str(staging))
    elif state == "a file":
        run("rm", "-r", str(staging))
        staging.write_bytes(b"")
    else:
        run("mount", "-o", "remount,ro", str(staging.parent))
    with contextlib.closing(_StagingGone(server)) as server:
        if state == "removed":
            run("rm", "-rf", str(staging))  # once more, under the running server
        with Client(server.port) as client:
            for size in (10, 3 * MIB):
                ways = push_ways(client, noise(size, f"{state} {size}"))
                assert {way: answer.status for way, answer in ways.items()} == dict.fromkeys(ways, 201), ways
            client.push_image("disk/app", "v1", noise(5000, state))
            assert client.ask("GET", "/health").status == 200
        assert server.log_faults() == []


class _StagingGone(Server):
    """The same server again, but its staging folder is left as the test made it."""

    def __init__(self, server: Server) -> None:
        super().__init__(server.folder, storage=server.storage, staging=server.storage)
        self._env = {"NORA_STAGING_PATH": str(server.staging)}
        self.start()

    def close(self) -> None:
        self.kill()


def test_staging_and_storage_are_two_mounts_of_one_file_system(folder: Path, mount: Mounts, start: Start) -> None:
    """As with `docker run -v /srv/data:/data -v /srv/tmp:/tmp`: the same device, and yet no link leads from one to the other."""
    for name in ("a", "b"):
        (folder / name).mkdir()
    storage, staging = mount("storage", "--bind", str(folder / "a")), mount("staging", "--bind", str(folder / "b"))
    server = start(storage=storage, staging=staging)
    with Client(server.port) as client:
        for size in (2, 100_000, 20 * MIB):
            data = noise(size, "bind")
            assert client.blob("disk/app", client.push_blob("disk/app", data)).body == data
        client.push_image("disk/app", "v1", noise(5000, "bind image"))
    assert server.log_faults() == []
    assert leftovers(server) == []


# ----------------------------------------------------------------------------------------------------------------- data volume


@pytest.mark.parametrize("share", [64 * MIB, 4096], ids=["staged on tmpfs", "spilled"])
def test_a_full_data_volume(folder: Path, mount: Mounts, start: Start, share: int) -> None:
    disk = mount("disk", "-o", "loop", str(ext4_image(folder / "disk.img", 64)))
    server = start({"NORA_STAGING_SHARE_BYTES": str(share)}, storage=disk / "storage")
    workers = all_workers(server)
    kept = noise(3 * MIB, "kept")
    with Client(server.port) as client:
        image = client.push_image("disk/app", "v1", kept)
        before = server_files(server)
        ballast = fill(disk, leave_bytes=2 * MIB)

        data = noise(5 * MIB, "too much")
        for way, answer in push_ways(client, data).items():
            assert answer.status in (507, 202), way  # a session on tmpfs takes it; the commit then refuses
            assert_refused(answer, 507)
        assert client.blob("disk/app", digest_of(data)).status == 404
        for path, size in server_files(server).items():
            assert size <= before.get(path, 0) or ".incoming" in path, f"half an object: {path}"
        assert sum(size for path, size in server_files(server).items() if ".incoming" in path) < MIB, "refused bytes still take the last room"
        fill(disk)
        answers = push_ways(client, noise(100_000, "not even that"))
        for answer in answers.values():
            assert_refused(answer, 507)
        # Reads and deletes need no room.
        assert client.blob("disk/app", digest_of(kept)).body == kept
        assert client.manifest("disk/app", "v1").status == 200
        assert client.ask("GET", "/health").status == 200
        fill(disk)  # what the refused ones have given back
        wait_until(lambda: client.ask("GET", "/ready").status == 503, 10, "/ready to say that the volume is full")
        assert client.ask("DELETE", "/v2/disk/app/manifests/v1").status == 202
        assert client.ask("DELETE", f"/v2/disk/app/manifests/{image}").status == 202
        assert client.ask("DELETE", f"/v2/disk/app/blobs/{digest_of(kept)}").status == 202
        assert client.manifest("disk/app", image).status == 404
        ballast.unlink()
        for answer in push_ways(client, data).values():
            assert answer.status == 201, answer
        client.push_image("disk/app", "v2", noise(5000, "v2"))
        wait_until(lambda: client.ask("GET", "/ready").status == 200, 10, "/ready to be well again")
    assert_well(server, workers)
    assert only_expected_faults(server, 507, 503)


def server_files(server: Server) -> dict[str, int]:
    return {str(path): path.stat().st_size for path in server.storage.rglob("*") if path.is_file() and ".shared" not in path.parts}


def test_a_refused_manifest_changes_no_tag(folder: Path, mount: Mounts, start: Start) -> None:
    disk = mount("disk", "-o", "loop", str(ext4_image(folder / "disk.img", 64)))
    server = start(storage=disk / "storage")
    with Client(server.port) as client:
        first = client.push_image("disk/app", "v1", noise(5000, "first"))
        second = client.push_image("disk/app", "other", noise(5000, "second"))
        manifest = client.manifest("disk/app", second).body
        ballast = fill(disk)
        # Already kept under another tag, so only the tag wants room; a few bytes may find it, a refusal must leave the old one.
        answer = client.push_manifest("disk/app", "v1", manifest)
        if answer.status != 201:
            assert_refused(answer, 507)
        assert digest_of(client.manifest("disk/app", "v1").body) == (second if answer.status == 201 else first)
        large = manifest[:-1] + b', "annotations": {"filler": "' + b"x" * 500_000 + b'"}}'
        assert_refused(client.push_manifest("disk/app", "v1", large), 507)
        assert digest_of(client.manifest("disk/app", "v1").body) == (second if answer.status == 201 else first)
        assert client.manifest("disk/app", digest_of(large)).status == 404
        ballast.unlink()
        assert client.push_manifest("disk/app", "v1", large).status == 201
        assert client.manifest("disk/app", "v1").body == large


@pytest.mark.parametrize("share", [64 * MIB, 4096], ids=["staged on tmpfs", "spilled"])
def test_a_read_only_data_volume(folder: Path, mount: Mounts, start: Start, share: int) -> None:
    disk = mount("disk", "-o", "loop", str(ext4_image(folder / "disk.img", 64)))
    # The audit log stays open for writing, which holds a volume writable; here it has a place of its own.
    server = start({"NORA_STAGING_SHARE_BYTES": str(share), "NORA_AUDIT_PATH": str(folder / "audit.jsonl")}, storage=disk / "storage")
    workers = all_workers(server)
    layer = noise(100_000, "kept")
    with Client(server.port) as client:
        image = client.push_image("disk/app", "v1", layer)
        assert client.ask("GET", "/ready").status == 200
        read_only(disk)
        for way, answer in push_ways(client, noise(300_000, "refused")).items():
            assert answer.status == 503, way
            assert_refused(answer, 503)
        assert_refused(client.push_manifest("disk/app", "v2", client.manifest("disk/app", "v1").body), 503)
        assert_refused(client.ask("DELETE", f"/v2/disk/app/manifests/{image}"), 503)
        assert_refused(client.ask("DELETE", "/v2/disk/app/manifests/v1"), 503)
        assert client.blob("disk/app", digest_of(layer)).body == layer
        assert client.manifest("disk/app", "v1").status == 200
        assert client.ask("GET", "/v2/disk/app/tags/list").json()["tags"] == ["v1"]
        wait_until(lambda: client.ask("GET", "/ready").status == 503, 10, "/ready to say that the volume is read-only")
        assert client.ask("GET", "/health").status == 200

        run("mount", "-o", "remount,rw", str(disk))
        client.push_image("disk/app", "v2", noise(5000, "v2"))
        wait_until(lambda: client.ask("GET", "/ready").status == 200, 10, "/ready to be well again")
        assert client.ask("DELETE", f"/v2/disk/app/manifests/{image}").status == 202
    assert_well(server, workers)
    assert only_expected_faults(server, 503)


def test_a_server_that_starts_on_a_read_only_data_volume_serves_pulls(folder: Path, mount: Mounts, start: Start) -> None:
    disk = mount("disk", "-o", "loop", str(ext4_image(folder / "disk.img", 64)))
    server = start(storage=disk / "storage")
    layer = noise(100_000, "kept")
    with Client(server.port) as client:
        client.push_image("disk/app", "v1", layer)
    server.stop()
    read_only(disk)
    server.start()
    with Client(server.port) as client:
        assert client.blob("disk/app", digest_of(layer)).body == layer
        assert client.ask("GET", "/health").status == 200
        assert client.ask("GET", "/ready").status == 503
        for answer in push_ways(client, noise(100_000, "refused")).values():
            assert_refused(answer, 503)


def read_only(disk: Path) -> None:
    """Files that are open for writing hold a file system writable; an answered request may hold its own for a moment longer."""

    def remounted() -> bool:
        with contextlib.suppress(AssertionError):
            run("mount", "-o", "remount,ro", str(disk))
            return True
        return False

    wait_until(remounted, 10, "the data volume to become read-only")
