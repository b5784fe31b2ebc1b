"""Honest clients in a process of their own: how long each thing that they do takes, and what was not right.

    python -m tests.fault.siege.honest '{"port": 4000, "seconds": 6, "login": "Basic …", "seed": "quiet", "image": {…}}'

Four run beside each other: one pulls an image, one pushes small images, one pushes layers of some MiB, and one asks /health and /ready in turn.
Each does its thing on a new connection, at set times, and prints JSON in the end.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from tests.fault.oci import MANIFEST_TYPE, OCTETS, config_of, digest_of, manifest_of, noise, with_digest

LARGE_BYTES = 4 * 1024 * 1024
PATIENCE = 20.0
"""Seconds for one answer."""
EVERY = {"health": 0.05, "pull": 0.1, "push": 0.15, "large push": 0.4}
"""Seconds from one beginning to the next."""


class WrongAnswer(Exception):
    pass


class Session:
    """One connection."""

    def __init__(self, port: int, login: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        self._login = login

    def ask(self, status: int, method: str, path: str, body: bytes | None = None, **fields: str) -> tuple[http.client.HTTPResponse, bytes]:
        headers = {name.replace("_", "-"): value for name, value in fields.items()} | {"Authorization": self._login}
        self._connection.request(method, path, body, headers)
        response = self._connection.getresponse()
        data = response.read()
        if response.status != status:
            raise WrongAnswer(f"{method} {path}: {response.status} instead of {status}: {data[:300]!r}")
        return response, data

    def begin(self, name: str) -> str:
        response, _ = self.ask(202, "POST", f"/v2/{name}/blobs/uploads/", Content_Length="0")
        parts = urlsplit(response.headers["Location"])
        return f"{parts.path}?{parts.query}" if parts.query else parts.path

    def close(self) -> None:
        self._connection.close()


class Honest:
    def __init__(self, port: int, login: str, seed: str, image: dict[str, str]) -> None:
        self._port, self._login, self._seed, self._image = port, login, seed, image
        self.seconds: dict[str, list[float]] = {kind: [] for kind in EVERY}
        self.wrong: list[str] = []
        self._filler = noise(LARGE_BYTES, seed)

    def run(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        doing = {"health": self._health, "pull": self._pull, "push": self._push, "large push": self._large_push}
        threads = [threading.Thread(target=self._repeat, args=(kind, make, until)) for kind, make in doing.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _repeat(self, kind: str, make: Callable[[int], Callable[[Session], None]], until: float) -> None:
        """`make` prepares what is not measured."""
        for number in range(10**9):
            due = time.monotonic() + EVERY[kind]
            do = make(number)
            started = time.monotonic()
            if started > until:
                return
            session = Session(self._port, self._login)
            with contextlib.closing(session):
                try:
                    do(session)
                except (OSError, http.client.HTTPException, WrongAnswer) as error:
                    self.wrong.append(f"{kind} {number}: {type(error).__name__} {error}")
            self.seconds[kind].append(time.monotonic() - started)
            time.sleep(max(0.0, due - time.monotonic()))

    def _health(self, number: int) -> Callable[[Session], None]:
        def do(session: Session) -> None:
            session.ask(200, "GET", "/ready" if number % 2 else "/health")

        return do

    def _pull(self, number: int) -> Callable[[Session], None]:
        name, layer, digest = self._image["name"], self._image["layer"], self._image["digest"]

        def do(session: Session) -> None:
            response, manifest = session.ask(200, "GET", f"/v2/{name}/manifests/{self._image['tag']}", Accept=MANIFEST_TYPE)
            if digest_of(manifest) != digest or response.headers["Docker-Content-Digest"] != digest:
                raise WrongAnswer(f"another manifest: {manifest[:300]!r}")
            for blob in (json.loads(manifest)["config"]["digest"], layer):
                _, data = session.ask(200, "GET", f"/v2/{name}/blobs/{blob}")
                if digest_of(data) != blob:
                    raise WrongAnswer(f"another blob: {len(data)} bytes instead of {blob}")

        return do

    def _push(self, number: int) -> Callable[[Session], None]:
        """As crane does: layer and config by POST and PUT, then the manifest under a tag; and it is there."""
        layer = noise(2000, f"{self._seed} {number}")
        config = config_of(layer)
        manifest, name = manifest_of(config, layer), f"team/app{number % 20}"

        def do(session: Session) -> None:
            for data in (layer, config):
                session.ask(201, "PUT", with_digest(session.begin(name), digest_of(data)), data, **_octets())
            response, _ = session.ask(201, "PUT", f"/v2/{name}/manifests/{self._seed}-{number}", manifest, Content_Type=MANIFEST_TYPE)
            if response.headers["Docker-Content-Digest"] != digest_of(manifest):
                raise WrongAnswer(f"pushed under another digest: {response.headers['Docker-Content-Digest']}")
            session.ask(200, "HEAD", f"/v2/{name}/manifests/{digest_of(manifest)}", Accept=MANIFEST_TYPE)

        return do

    def _large_push(self, number: int) -> Callable[[Session], None]:
        data = f"{self._seed} {number:8}".encode() + self._filler
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"

        def do(session: Session) -> None:
            location = session.begin("team/large")
            response, _ = session.ask(202, "PATCH", location, data, **_octets())
            parts = urlsplit(response.headers["Location"])
            location = f"{parts.path}?{parts.query}" if parts.query else parts.path
            session.ask(201, "PUT", with_digest(location, digest), b"", **_octets())

        return do


def _octets() -> dict[str, str]:
    return {"Content_Type": OCTETS["Content-Type"]}


def main(order: dict[str, Any]) -> None:
    honest = Honest(order["port"], order["login"], order["seed"], order["image"])
    honest.run(order["seconds"])
    print(json.dumps({"seconds": honest.seconds, "wrong": honest.wrong}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
