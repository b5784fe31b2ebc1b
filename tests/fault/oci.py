"""A small client for the fault tests: one kept-alive connection, the OCI requests, and what an answer says."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import random
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
OCTETS = {"Content-Type": "application/octet-stream"}
GONE = (OSError, http.client.HTTPException)
"""What a request raises when the server is killed under it."""


@dataclass(frozen=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def code(self) -> str | None:
        """The first OCI error code; None when the body is not the spec's JSON."""
        try:
            return str(json.loads(self.body)["errors"][0]["code"])
        except (ValueError, KeyError, IndexError, TypeError):
            return None

    @property
    def location(self) -> str:
        """Path and query."""
        parts = urlsplit(self.headers["Location"])
        return f"{parts.path}?{parts.query}" if parts.query else parts.path

    def json(self) -> Any:
        return json.loads(self.body)

    def __repr__(self) -> str:
        return f"<{self.status} {self.body[:300]!r}>"


class Client:
    """One connection; it is opened again after the server has closed it."""

    def __init__(self, port: int, timeout: float = 30) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def ask(self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Answer:
        try:
            self._connection.request(method, path, body, dict(headers or {}))
            response = self._connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        except GONE:
            self._connection.close()
            raise

    def begin(self, repository: str) -> str:
        answer = self.ask("POST", f"/v2/{repository}/blobs/uploads/")
        assert answer.status == 202, answer
        return answer.location

    def patch(self, location: str, data: bytes, start: int | None = None) -> Answer:
        at = {} if start is None else {"Content-Range": f"{start}-{start + len(data) - 1}"}
        return self.ask("PATCH", location, data, OCTETS | at)

    def finish(self, location: str, digest: str, data: bytes = b"") -> Answer:
        return self.ask("PUT", with_digest(location, digest), data, OCTETS)

    def push_blob(self, repository: str, data: bytes) -> str:
        answer = self.finish(self.begin(repository), digest_of(data), data)
        assert answer.status == 201, answer
        return digest_of(data)

    def push_manifest(self, repository: str, reference: str, manifest: bytes) -> Answer:
        return self.ask("PUT", f"/v2/{repository}/manifests/{reference}", manifest, {"Content-Type": MANIFEST_TYPE})

    def push_image(self, repository: str, tag: str, layer: bytes) -> str:
        """A config, one layer, the manifest; returns the manifest's digest."""
        config = config_of(layer)
        self.push_blob(repository, layer)
        self.push_blob(repository, config)
        manifest = manifest_of(config, layer)
        answer = self.push_manifest(repository, tag, manifest)
        assert answer.status == 201, answer
        return digest_of(manifest)

    def blob(self, repository: str, digest: str) -> Answer:
        return self.ask("GET", f"/v2/{repository}/blobs/{digest}")

    def manifest(self, repository: str, reference: str) -> Answer:
        return self.ask("GET", f"/v2/{repository}/manifests/{reference}", headers={"Accept": MANIFEST_TYPE})

    def received(self, location: str) -> int | None:
        """Bytes that an upload holds, by its Range; None when the upload is not known."""
        answer = self.ask("GET", location)
        if answer.status == 404:
            assert answer.code == "BLOB_UPLOAD_UNKNOWN", answer
            return None
        assert answer.status == 204, answer
        last = int(answer.headers["Range"].rpartition("-")[2])
        return last + 1 if last else 0  # 0-0 also means nothing; no test sends a single byte


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def with_digest(location: str, digest: str) -> str:
    return f"{location}{'&' if '?' in location else '?'}digest={digest}"


def noise(size: int, seed: int | str) -> bytes:
    """Bytes that are new for each seed and the same in each run."""
    return random.Random(f"{seed} {size}").randbytes(size)


def config_of(layer: bytes) -> bytes:
    """An image configuration that is unique to its layer."""
    rootfs = {"type": "layers", "diff_ids": [digest_of(layer)]}
    return json.dumps({"architecture": "amd64", "os": "linux", "rootfs": rootfs}).encode()


def manifest_of(config: bytes, *layers: bytes) -> bytes:
    def descriptor(media_type: str, data: bytes) -> dict[str, Any]:
        return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}

    image = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": descriptor(CONFIG_TYPE, config)}
    return json.dumps(image | {"layers": [descriptor(LAYER_TYPE, layer) for layer in layers]}).encode()


class Wire:
    """A bare socket, for requests that no proper client sends."""

    def __init__(self, port: int, timeout: float = 20) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        """As much as the server takes; it may have answered and closed long before the end."""
        with contextlib.suppress(ConnectionError):
            self.sock.sendall(data)

    def head(self, method: str, path: str, *headers: str) -> None:
        lines = (f"{method} {path} HTTP/1.1", "Host: test", *headers, "", "")
        self.send("\r\n".join(lines).encode())

    def answer(self, method: str = "GET") -> Answer | None:
        """The next answer; None when the server closes without one. TimeoutError when it does neither."""
        response = http.client.HTTPResponse(self.sock, method=method)
        try:
            response.begin()
            return Answer(response.status, response.headers, response.read())
        except (ConnectionError, http.client.BadStatusLine, http.client.IncompleteRead):
            return None
        finally:
            response.close()
