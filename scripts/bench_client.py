"""For the benches: an HTTP client that costs little enough not to be what is measured, plain or with TLS, and small images to push with it."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
import socket
import ssl
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

MIB = 1024 * 1024
PATIENCE = 120  # seconds of silence after which a transfer counts as failed
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
PATH = "/v2/bench/app/manifests/v1"
"""Of the small manifest that is read."""
TLS_PIECE = 256 * 1024  # that is encrypted by one call


class Failed(Exception):
    """A server gave something other than what the row needs."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    head: bytes
    body: bytes

    def location(self) -> str:
        found = re.search(rb"(?im)^location:[ \t]*(\S+)", self.head)
        if not found:
            raise Failed(f"no Location in an answer of {self.status}")
        return re.sub(r"^https?://[^/]*", "", found[1].decode())


class Client:
    """One kept-alive HTTP/1.1 connection. `login`: the Authorization header of each request; empty: none."""

    def __init__(self, port: int, login: str = "") -> None:
        self.port = port
        self.host = f"127.0.0.1:{port}"
        self._login = f"Authorization: {login}\r\n" if login else ""
        self.sock = self._connect()
        self.rest = b""

    def _connect(self) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):  # a Python timeout would make every call a poll as well
            sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", PATIENCE, 0))
        return sock

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def connect_again(self) -> None:
        """Go on over a new connection."""
        self.sock.close()
        self.sock, self.rest = self._connect(), b""

    def head_of(self, method: str, path: str, headers: str) -> bytes:
        return f"{method} {path} HTTP/1.1\r\nHost: {self.host}\r\n{self._login}{headers}\r\n".encode()

    def ask(self, method: str, path: str, body: bytes = b"", headers: str = "", want: int = 0) -> Answer:
        length = f"Content-Length: {len(body)}\r\n" if body or method in ("POST", "PUT", "PATCH") else ""
        self.sock.sendall(self.head_of(method, path, headers + length) + body)
        return self.answer(method, want)

    def send_file(self, method: str, path: str, headers: str, file: int, start: int, length: int, want: int) -> Answer:
        """The kernel copies the body from the file to the socket."""
        self.sock.sendall(self.head_of(method, path, headers), socket.MSG_MORE)
        end = start + length
        while start < end:
            start += os.sendfile(self.sock.fileno(), file, start, end - start)
        return self.answer(method, want)

    def answer(self, method: str, want: int = 0) -> Answer:
        head = self._head()
        status = int(head[9:12])
        lower = head.lower()
        length = re.search(rb"\ncontent-length:[ \t]*(\d+)", lower)
        if method == "HEAD" or status in (204, 304):
            body = b""
        elif length:
            body = self._take(int(length[1]))
        elif b"transfer-encoding: chunked" in lower:
            body = b""
            while size := int(self._line().split(b";")[0], 16):
                body += self._take(size + 2)[:-2]
            self._line()
        else:
            raise Failed(f"{method} gave {status} without a length")
        if b"\nconnection: close" in lower:
            self.connect_again()
        if want and status != want:
            raise Failed(f"{method} gave {status}, not {want}: {body[:300]!r}")
        return Answer(status, head, body)

    def discard(self, path: str, size: int, buffer: bytearray) -> None:
        """GET whose body is thrown away inside the kernel (MSG_TRUNC)."""
        self._begin_get(path, size)
        left = size - len(self.rest)
        self.rest = b""
        while left:
            got = self.sock.recv_into(buffer, min(left, len(buffer)), socket.MSG_TRUNC)
            if not got:
                raise Failed(f"the body of a blob ended {left} bytes early")
            left -= got

    def digest_of(self, path: str, size: int) -> str:
        """GET; of what came."""
        self._begin_get(path, size)
        digest = hashlib.sha256(self.rest)
        left = size - len(self.rest)
        self.rest = b""
        while left and (data := self.sock.recv(min(left, MIB))):
            digest.update(data)
            left -= len(data)
        return f"sha256:{digest.hexdigest()}"

    def _begin_get(self, path: str, size: int) -> None:
        self.sock.sendall(self.head_of("GET", path, ""))
        head = self._head()
        length = re.search(rb"(?i)\ncontent-length:[ \t]*(\d+)", head)
        if head[9:12] != b"200" or not length or int(length[1]) != size:
            raise Failed(f"GET of a blob gave {head[:200]!r}")

    def _head(self) -> bytes:
        while b"\r\n\r\n" not in self.rest:
            self._more()
        head, _, self.rest = self.rest.partition(b"\r\n\r\n")
        return head

    def _line(self) -> bytes:
        while b"\r\n" not in self.rest:
            self._more()
        line, _, self.rest = self.rest.partition(b"\r\n")
        return line

    def _take(self, size: int) -> bytes:
        while len(self.rest) < size:
            self._more()
        taken, self.rest = self.rest[:size], self.rest[size:]
        return taken

    def _more(self) -> None:
        data = self.sock.recv(65536)
        if not data:
            raise Failed("the connection was closed in mid-answer")
        self.rest += data


class TlsClient(Client):
    """The same with TLS, which must encrypt what the other one leaves to the kernel."""

    def __init__(self, port: int, login: str, host: str, trust: Path) -> None:
        self._name, self._trust = host, trust
        super().__init__(port, login)
        self.host = host

    def _connect(self) -> socket.socket:
        return _context(self._trust).wrap_socket(super()._connect(), server_hostname=self._name)

    def send_file(self, method: str, path: str, headers: str, file: int, start: int, length: int, want: int) -> Answer:
        self.sock.sendall(self.head_of(method, path, headers))
        with mmap.mmap(file, 0, prot=mmap.PROT_READ) as mapped, memoryview(mapped) as view:
            for begin in range(start, start + length, TLS_PIECE):
                with view[begin : min(begin + TLS_PIECE, start + length)] as piece:
                    self.sock.sendall(piece)
        return self.answer(method, want)


@cache
def _context(trust: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(trust))


NewClient = Callable[[], Client]
"""Connects to a server that is up, as one who may do all that is measured."""


# ------------------------------------------------------------------------------------------------------------- what is pushed


def with_digest(location: str, digest: str) -> str:
    return f"{location}{'&' if '?' in location else '?'}digest={digest}"


def begin_upload(client: Client, repository: str) -> str:
    return client.ask("POST", f"/v2/{repository}/blobs/uploads/", want=202).location()


def push_bytes(client: Client, repository: str, data: bytes) -> str:
    digest = digest_of(data)
    client.ask("PUT", with_digest(begin_upload(client, repository), digest), data, "Content-Type: application/octet-stream\r\n", want=201)
    return digest


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def manifest_of(config: tuple[str, int], layer: tuple[str, int]) -> bytes:
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": {"mediaType": CONFIG_TYPE, "digest": config[0], "size": config[1]},
            "layers": [{"mediaType": LAYER_TYPE, "digest": layer[0], "size": layer[1]}],
            "annotations": {"org.opencontainers.image.created": "2026-01-01T00:00:00Z"},
        },
        indent=2,
    ).encode()


def push_manifest(client: Client, tags: int = 1) -> str:
    """The small manifest at PATH, with what it needs, and under so many tags in all; its digest."""
    config, layer = b'{"architecture":"amd64","os":"linux"}', os.urandom(400)
    parts = [(push_bytes(client, "bench/app", data), len(data)) for data in (config, layer)]
    manifest = manifest_of(parts[0], parts[1])
    for number in range(1, tags + 1):
        client.ask("PUT", f"{PATH.removesuffix('1')}{number}", manifest, f"Content-Type: {MANIFEST_TYPE}\r\n", want=201)
    return digest_of(manifest)
