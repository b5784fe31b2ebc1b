"""Layers far larger than the memory they pass through."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urljoin

import pytest

from tests.client.tools import as_root
from tests.server import Server

MIB = 1 << 20
BLOCK = bytes(range(256)) * (MIB // 256)

pytestmark = pytest.mark.slow


def stream(mebibytes: int, sha256: hashlib._Hash) -> Iterator[bytes]:
    """Bytes of which no two blocks are alike, hashed as they pass; never more than one block in memory."""
    for number in range(mebibytes):
        block = number.to_bytes(8, "big") + BLOCK[8:]
        sha256.update(block)
        yield block


@pytest.fixture
def small_tmpfs(tmp_path: Path) -> Iterator[Path]:
    """256 MB of memory as a file system, as `--tmpfs /tmp:size=256M` of a container gives it."""
    folder = tmp_path / "tmpfs"
    folder.mkdir()
    options = f"size=256M,mode=0700,uid={os.getuid()}"
    subprocess.run(as_root("mount", "-t", "tmpfs", "-o", options, "noraflask-test", folder, why="a real tmpfs"), check=True)
    try:
        yield folder
    finally:
        subprocess.run(as_root("umount", "--lazy", folder), check=True)


@contextlib.contextmanager
def memory_watched(server: Server, samples: list[int]) -> Iterator[None]:
    """Adds the server's memory in bytes to the list, again and again while the block runs."""
    stopped = threading.Event()

    def watch() -> None:
        while not stopped.wait(0.25):
            samples.append(server.pss_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        stopped.set()
        watcher.join()


def push(port: int, repository: str, mebibytes: int, *, chunked: bool) -> str:
    """One request with the whole body: a PATCH without a length, as docker does, or a PUT with one. Returns the digest."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    connection.request("POST", f"/v2/{repository}/blobs/uploads/", headers={"Content-Length": "0"})
    response = connection.getresponse()
    response.read()
    assert response.status == 202
    sha256 = hashlib.sha256()
    if chunked:
        location = path_of(response)
        connection.request("PATCH", location, stream(mebibytes, sha256), {"Transfer-Encoding": "chunked"}, encode_chunked=True)
        response = connection.getresponse()
        response.read()
        assert response.status == 202, response.status
        digest = f"sha256:{sha256.hexdigest()}"
        connection.request("PUT", with_digest(path_of(response), digest), headers={"Content-Length": "0"})
    else:
        for _ in stream(mebibytes, sha256):
            pass  # the digest stands in the request line, so it must be known before
        digest = f"sha256:{sha256.hexdigest()}"
        length = {"Content-Length": str(mebibytes * MIB)}
        connection.request("PUT", with_digest(path_of(response), digest), stream(mebibytes, hashlib.sha256()), length)
    response = connection.getresponse()
    body = response.read()
    assert response.status == 201, (response.status, body)
    assert response.headers["Docker-Content-Digest"] == digest
    connection.close()
    return digest


def path_of(response: http.client.HTTPResponse) -> str:
    location = urljoin("http://host/", response.headers["Location"])
    return "/" + location.split("/", 3)[3]


def with_digest(location: str, digest: str) -> str:
    return f"{location}{'&' if '?' in location else '?'}digest={digest}"


def pulled_digest(port: int, repository: str, digest: str) -> tuple[str, int]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    connection.request("GET", f"/v2/{repository}/blobs/{digest}")
    response = connection.getresponse()
    assert response.status == 200
    sha256, size, buffer = hashlib.sha256(), 0, memoryview(bytearray(MIB))
    while count := response.readinto(buffer):
        sha256.update(buffer[:count])
        size += count
    connection.close()
    return f"sha256:{sha256.hexdigest()}", size


@pytest.mark.parametrize(
    ("mebibytes", "chunked"),
    [pytest.param(5 * 1024, True, marks=pytest.mark.soak), (1024, True), (1024, False)],
    ids=["5-GiB-streamed", "1-GiB-streamed", "1-GiB-with-length"],
)
def test_layer_larger_than_the_tmpfs_passes_at_flat_memory(
    own_server: Callable[..., Server], small_tmpfs: Path, disk: Path, mebibytes: int, chunked: bool
) -> None:
    server = own_server(staging=small_tmpfs, storage=disk / "storage")
    push(server.port, "large/warm", 1, chunked=chunked)
    idle, samples = server.pss_bytes(), [0]
    with memory_watched(server, samples):
        digest = push(server.port, "large/layer", mebibytes, chunked=chunked)
        assert pulled_digest(server.port, "large/layer", digest) == (digest, mebibytes * MIB)
    peak = max(samples)
    print(f"memory: {idle / MIB:.0f} MB idle, {peak / MIB:.0f} MB at most during {mebibytes} MiB in and out")
    assert peak < idle + 64 * MIB, f"{idle / MIB:.0f} MB grew to {peak / MIB:.0f} MB"
    assert peak < 200 * MIB
    left = [path for path in small_tmpfs.rglob("*") if path.is_file() and path.stat().st_size > MIB]
    assert not left, "left in staging"
