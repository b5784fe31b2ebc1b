"""The registry under siege: a server with logins and goods, nginx before it, those who attack it, those who use it, and what can be seen of it."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from noraflask.services.auth.users import hash_password, set_user
from tests.fault.conftest import leftovers, unable
from tests.fault.oci import MANIFEST_TYPE, Client, config_of, digest_of, manifest_of, noise
from tests.server import ROOT, Server, free_port, wait_until

from .steps import Target

MIB = 1024 * 1024
READY_SECONDS = 30
USERS = ("writer", "mallory", "drip")
CONFIG = """
[auth]
enabled = true
docker_anon_pull = true
htpasswd_file = "{folder}/users.htpasswd"
[access]
default_role = "none"
[[access.rules]]
users = ["writer"]
names = ["**"]
actions = ["write"]
[[access.rules]]
users = ["mallory"]
names = ["mallory/**"]
actions = ["write"]
[[access.rules]]
users = ["drip"]
names = ["drip/**"]
actions = ["write"]
"""
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"


def basic(user: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{user}'s password".encode()).decode()


# ---- the server


class Castle(Server):
    """`nora serve` with logins. All three users have passwords; `writer` is the honest one."""

    def __init__(self, folder: Path, env: Mapping[str, str | None] | None = None, **options: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(folder, env, CONFIG.format(folder=folder), **options)
        for user in USERS:
            set_user(folder / "users.htpasswd", user, hash_password(f"{user}'s password", 4))

    def all_up(self, workers: int = 2) -> Self:
        wait_until(lambda: len(self.worker_pids()) == workers, 20, "all workers to run")
        return self

    def processor_seconds(self) -> float:
        """Used so far by all its processes."""
        return sum(map(_processor_seconds, self.pids()))

    def condition(self) -> Condition:
        workers = self.worker_pids()
        return Condition(
            workers=workers,
            threads=max(len(os.listdir(f"/proc/{pid}/task")) for pid in workers),
            descriptors=max(len(os.listdir(f"/proc/{pid}/fd")) for pid in workers),
            connections=sum(map(_sockets, workers)),
            unfinished=len(leftovers(self)),
        )


@dataclass(frozen=True)
class Condition:
    """Threads and descriptors: the most that one worker has."""

    workers: list[int]
    threads: int
    descriptors: int
    connections: int
    unfinished: int
    """Files of uploads."""


def _processor_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _sockets(pid: int) -> int:
    return sum(map(_is_socket, Path(f"/proc/{pid}/fd").iterdir()))


def _is_socket(link: Path) -> bool:
    try:
        return os.readlink(link).startswith("socket:")
    except FileNotFoundError:
        return False


# ---- what is in it


@dataclass(frozen=True)
class Goods:
    image: dict[str, str]
    target: Target


def stock(castle: Castle, *, small: bool = False) -> Goods:
    """An image for the honest to pull; unless small, a layer of 8 MiB, an index of 4 MB and 40 MB of referrers for the others."""
    with Pusher(castle.port) as client:
        layer = noise(64 * 1024, "layer")
        image = {"name": "team/app", "tag": "v1", "layer": digest_of(layer), "digest": client.push_image("team/app", "v1", layer)}
        if small:
            return Goods(image, Target(basic("mallory"), basic("drip")))
        large = client.push_blob("team/large", noise(8 * MIB, "large layer"))
        answer = client.ask("PUT", "/v2/team/app/manifests/index", large_index(image["digest"]), {"Content-Type": INDEX_TYPE})
        index_path = f"/v2/team/app/manifests/{'index' if answer.status == 201 else 'v1'}"
        for number in range(10):
            _push_referrer(client, image["digest"], layer, number)
    target = Target(
        session_login=basic("mallory"),
        upload_login=basic("drip"),
        layer=f"/v2/team/large/blobs/{large}",
        index=index_path,
        referrers=f"/v2/team/app/referrers/{image['digest']}",
    )
    return Goods(image, target)


def large_index(child: str) -> bytes:
    """Some 4 MB of entries for one manifest; a server may refuse so many."""
    entry = {"mediaType": MANIFEST_TYPE, "digest": child, "size": 500, "platform": {"architecture": "amd64", "os": "linux"}}
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [entry] * (4_000_000 // (len(json.dumps(entry)) + 2))}).encode()


def _push_referrer(client: Client, subject: str, layer: bytes, number: int) -> None:
    """With annotations of 4 MB; a server may refuse those."""
    manifest = json.loads(manifest_of(config_of(layer), layer))
    manifest["subject"] = {"mediaType": manifest["mediaType"], "digest": subject, "size": 500}
    for size in (4_000_000, 30_000):
        manifest["annotations"] = {"number": str(number), "text": "x" * size}
        data = json.dumps(manifest).encode()
        status = client.push_manifest("team/app", digest_of(data), data).status
        if status == 201:
            return
        assert status in (400, 413, 429), status


class Pusher(Client):
    """The honest user."""

    def ask(self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Any:
        return super().ask(method, path, body, {"Authorization": basic("writer"), **(headers or {})})


# ---- nginx before it


@contextlib.contextmanager
def nginx_before(castle: Castle, folder: Path) -> Iterator[int]:
    """nginx with etc/nginx/nginx.conf, without TLS, which would cost the attackers' process most; returns its port."""
    folder.mkdir(parents=True)
    port = free_port()
    text = (ROOT / "etc" / "nginx" / "nginx.conf").read_text(encoding="utf-8")
    changes = {
        r"^user .*": "user root;" if os.geteuid() == 0 else "",
        r"^worker_processes auto;": "worker_processes auto;\ndaemon off;",
        r"^http \{\n": "http {\n" + "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")),
        r"^pid .*;": f"pid {folder}/nginx.pid;",
        r"^error_log .*;": f"error_log {folder}/error.log;",
        r"access_log .* nora;": f"access_log {folder}/access.log nora;",
        r"^    server \{\n        listen 80;[\s\S]*?\n    \}\n": "",
        r"listen 443 ssl.*": f"listen 127.0.0.1:{port} backlog=4096;",
        r"listen \[::\]:443 ssl.*": "",
        r"^ *ssl_.*\n": "",
        r"127\.0\.0\.1:4000": castle.address,
    }
    for pattern, replacement in changes.items():
        text, count = re.subn(pattern, replacement, text, flags=re.MULTILINE)
        assert count, pattern
    (folder / "nginx.conf").write_text(text)
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen([_nginx(), "-c", folder / "nginx.conf", "-p", folder], stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        wait_until(lambda: process.poll() is not None or _listens(port), 10, "nginx to listen")
        assert process.poll() is None, (folder / "output").read_text()
        yield port
    finally:
        process.terminate()
        process.wait(20)


def _nginx() -> str:
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin") or unable("needs nginx")


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


# ---- those outside


class Besiegers:
    """`with Besiegers(port, goods, {"idle": 100}, ["127.0.0.2"]) as those:`; afterwards `those.outcomes` tells what became of each kind."""

    def __init__(self, port: int, target: Target, peers: Mapping[str, int], sources: list[str] | None = None, rate: int = 2000) -> None:
        """`rate`: connections a second that are begun at most."""
        order = {
            "port": port,
            "sources": sources or ["127.0.0.1"],
            "peers": dict(peers),
            "rate": rate,
            "target": {part.name: getattr(target, part.name) for part in fields(target) if part.init},
        }
        self._order = json.dumps(order)
        self._process: subprocess.Popen[bytes] | None = None
        self.outcomes: dict[str, dict[str, int]] = {}
        self.open: dict[str, int] = {}
        """Connections at the end."""
        self.processor_seconds = 0.0

    @property
    def finished(self) -> bool:
        """Whether all have done what they do once; then the attackers' process has no connections left."""
        assert self._process
        return not any(map(_is_socket, Path(f"/proc/{self._process.pid}/fd").iterdir()))

    def __enter__(self) -> Self:
        self._process = _python("tests.fault.siege.hostile", self._order)
        assert self._process.stdout
        timer = threading.Timer(READY_SECONDS, self._process.kill)
        timer.start()
        line = self._process.stdout.readline()
        timer.cancel()
        assert line == b"ready\n", "the attackers did not get ready"
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process
        try:
            out = self._process.communicate(timeout=20)[0]
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise
        if out:
            told = json.loads(out)
            self.outcomes, self.open, self.processor_seconds = told["outcomes"], told["open"], told["processor"]


@dataclass(frozen=True)
class Seen:
    """By honest clients."""

    seconds: dict[str, list[float]]
    wrong: list[str]

    def p99(self, kind: str) -> float:
        values = sorted(self.seconds[kind])
        return values[max(0, -(-99 * len(values) // 100) - 1)]


def visit(port: int, goods: Goods, seconds: float, seed: str) -> Seen:
    """All four honest clients for so long."""
    order = {"port": port, "seconds": seconds, "login": basic("writer"), "seed": seed, "image": goods.image}
    out, _ = _python("tests.fault.siege.honest", json.dumps(order)).communicate(timeout=seconds + 60)
    return Seen(**json.loads(out))


def _python(module: str, argument: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", module, argument], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )


# ---- what it costs


class MemoryWatch(threading.Thread):
    """The most memory that the server had, in bytes."""

    def __init__(self, castle: Castle, every: float = 0.25) -> None:
        super().__init__(daemon=True)
        self._castle, self._every = castle, every
        self._done = threading.Event()
        self.peak = 0

    def run(self) -> None:
        while not self._done.wait(self._every):
            self.peak = max(self.peak, self._castle.pss_bytes())

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.join()
