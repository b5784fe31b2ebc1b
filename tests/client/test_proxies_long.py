"""Large and slow bodies through nginx, Caddy and Traefik, as docs/deployment.md sets them up; the slow ones trickle while the large ones run."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.client.fronts import CA, HOST, WORDS, Front, engine_on, front_on, machine_with_ca, registry_on
from tests.client.guarded import password_of
from tests.client.test_large_layers import with_digest
from tests.client.tools import missing
from tests.server import wait_until

pytestmark = pytest.mark.slow

GIB = 1 << 30
LOGIN = ("--user", f"writer:{password_of('writer')}")
SLOW_SECONDS = 300
SLOW_BYTES_PER_SECOND = 16_384


@dataclass(frozen=True)
class Trickle:
    """A PATCH that takes SLOW_SECONDS, by curl."""

    front: Front
    protocol: str
    location: str
    process: subprocess.Popen[bytes]


@pytest.fixture(scope="module")
def fronts() -> Iterator[dict[str, Front]]:
    """All three at once, each on a machine of its own with a registry of its own: all of them want the same ports."""
    free = os.statvfs("/var/tmp")
    if free.f_bavail * free.f_frsize < 20 * GIB:
        missing("20 GiB of free disk in /var/tmp")
    with contextlib.ExitStack() as stack:
        found = {}
        for name in WORDS:
            machine = stack.enter_context(machine_with_ca())
            found[name] = stack.enter_context(front_on(machine, stack.enter_context(registry_on(machine)), name))
        yield found


@pytest.fixture(scope="module")
def trickled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("trickled") / "data"
    data.write_bytes(os.urandom(SLOW_SECONDS * SLOW_BYTES_PER_SECOND))
    return data


@pytest.fixture(scope="module", autouse=True)
def trickles(fronts: dict[str, Front], trickled: Path) -> Iterator[list[Trickle]]:
    """Through each of the three, over HTTP/1.1 in chunks, as docker sends them, and over HTTP/2. They begin now."""
    begun = []
    try:
        for front in fronts.values():
            for protocol in ("--http1.1", "--http2"):
                location = front.ask(f"/v2/slow/{protocol.removeprefix('--')}/blobs/uploads/", *LOGIN, "-X", "POST").headers["location"]
                words = ["curl", "-sS", "--cacert", CA, "-o", "/dev/null", "-w", "%{http_code}", protocol, *LOGIN, "-X", "PATCH", "-H", "Expect:"]
                words += ["--limit-rate", str(SLOW_BYTES_PER_SECOND), "-T", "-", location]
                with trickled.open("rb") as body:
                    process = subprocess.Popen(front.machine.command(*words), stdin=body, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
                begun.append(Trickle(front, protocol, location, process))
        yield begun
    finally:
        for each in begun:
            if each.process.poll() is None:
                each.process.kill()
            each.process.communicate()


class Noise:
    """Bytes without end that do not get smaller, at the price of a copy: one random block, told apart by a counter."""

    def __init__(self) -> None:
        self._block, self._number = os.urandom(1 << 20), 0

    def read(self, size: int) -> bytes:
        self._number += 1
        return (self._number.to_bytes(8, "big") + self._block[8:])[:size]


@pytest.fixture(scope="module")
def tree() -> Iterator[Path]:
    """A tar of one file of 2 GiB."""
    file = Path("/var/tmp") / f"noraflask-tree-{os.getpid()}.tar"
    try:
        with tarfile.open(file, "w", format=tarfile.GNU_FORMAT, copybufsize=1 << 20) as tar:
            member = tarfile.TarInfo("srv/large")
            member.size = 2 * GIB
            tar.addfile(member, Noise())  # type: ignore[arg-type]
        yield file
    finally:
        file.unlink()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A file of more than two GiB that takes no place, and its digest."""
    file = tmp_path_factory.mktemp("large") / "data"
    with file.open("wb") as empty:
        empty.truncate(2 * GIB + 1)
    with file.open("rb") as data:
        return file, hashlib.file_digest(data, "sha256").hexdigest()


def curl(front: Front, script: str) -> str:
    """What a script on the front's machine writes; CURL stands for curl, its login and its authority."""
    words = f"curl -sS --fail --cacert {CA} --user {LOGIN[1]!r} -H Expect: --http1.1"
    done = subprocess.run(
        front.machine.command("sh", "-euc", script.replace("CURL", words)), capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", WORDS)
def test_two_gigabytes_go_up_in_chunks_and_come_down(name: str, fronts: dict[str, Front], large: tuple[Path, str]) -> None:
    front, (file, digest) = fronts[name], large
    location = front.ask("/v2/large/blob/blobs/uploads/", *LOGIN, "-X", "POST").headers["location"]
    curl(front, f"CURL -X PATCH -H 'Transfer-Encoding: chunked' -T {file} '{location}'")
    assert front.ask(with_digest(location, f"sha256:{digest}"), *LOGIN, "-X", "PUT").status == 201
    assert curl(front, f"CURL {front.url}/v2/large/blob/blobs/sha256:{digest} | sha256sum").split()[0] == digest


@pytest.mark.soak
@pytest.mark.parametrize("name", WORDS)
def test_docker_pushes_and_pulls_a_layer_of_two_gigabytes(name: str, fronts: dict[str, Front], tree: Path) -> None:
    front, reference = fronts[name], f"{HOST}/large/layer:1"
    with engine_on(front.machine) as docker:
        docker("import", tree, reference)
        before = docker("image", "inspect", "--format", "{{.Id}}", reference)
        docker("login", "--username", "writer", "--password-stdin", HOST, stdin=password_of("writer").encode())
        docker("push", reference, seconds=900)
        docker("rmi", reference)
        docker("pull", reference, seconds=900)
        assert docker("image", "inspect", "--format", "{{.Id}}", reference) == before
    of_layer = [line for line in front.logged() if line["path"].startswith("/v2/large/layer/blobs/")]
    (up,) = [line for line in of_layer if line["method"] == "PATCH" and line["ms"] > 1000]
    down = max((line for line in of_layer if line["method"] == "GET"), key=lambda line: line["bytes"])
    assert (up["status"], down["status"]) == (202, 200)
    assert down["bytes"] > 2 * GIB
    print(f"{name}: 2 GiB up in {up['ms'] / 1000:.0f} s, down in {down['ms'] / 1000:.0f} s")


@pytest.mark.waits(SLOW_SECONDS)
def test_an_upload_of_three_hundred_seconds(trickles: list[Trickle], trickled: Path) -> None:
    digest = "sha256:" + hashlib.sha256(trickled.read_bytes()).hexdigest()
    for each in trickles:
        told = each.process.communicate(timeout=2 * SLOW_SECONDS)[0].decode()
        assert told == "202", (each.front.name, each.protocol, told)
        wanted = {"method": "PATCH", "path": each.location.removeprefix(each.front.url)}
        wait_until(lambda front=each.front, wanted=wanted: front.logged(**wanted), 10, "the line of the upload in the registry's log")
        (line,) = each.front.logged(**wanted)
        assert line["ms"] > 0.9 * SLOW_SECONDS * 1000, "the proxy has kept the body to itself, and sent it at once"
        put = each.front.ask(with_digest(each.location, digest), *LOGIN, "-X", "PUT")
        assert put.status == 201, put
        assert each.front.ask(put.headers["location"], *LOGIN).body == trickled.read_bytes()
        print(f"{each.front.name} {each.protocol}: {len(trickled.read_bytes())} bytes in {line['ms'] / 1000:.0f} s")
