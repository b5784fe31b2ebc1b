"""For scripts/bench oci and edge: large blobs in memory, and the ways in which clients push them."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench_client import MIB, Client, begin_upload, with_digest

FRAME = 32 * 1024  # chunk of a streamed body: what Go's clients (docker, containerd, crane) send
FRAME_HEAD = b"%x\r\n" % FRAME
PIECE = 16 * MIB  # body of one PATCH in a chunked upload
BYTES = "Content-Type: application/octet-stream\r\n"


@dataclass
class Blob:
    """A large blob, ready to send: as it is, and with the framing of a streamed body around its pieces."""

    path: Path
    digest: str
    size: int
    plain: int
    framed: int
    framed_size: int

    def renew(self) -> None:
        """Other bytes, another digest."""
        mark = os.urandom(8)
        os.pwrite(self.plain, mark, 0)
        os.pwrite(self.framed, mark, len(FRAME_HEAD))
        with open(self.path, "rb") as file:
            self.digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


@contextmanager
def prepared(folder: Path, count: int, size: int) -> Iterator[list[Blob]]:
    """Files in memory, so that sending them costs no disk."""
    blobs = []
    noise = os.urandom(MIB)
    for number in range(count):
        digest = hashlib.sha256()
        paths = folder / f"{number}.plain", folder / f"{number}.framed"
        with open(paths[0], "wb") as plain, open(paths[1], "wb") as framed:
            for part in range(size // MIB):
                block = struct.pack(">QQ", number, part) + noise[16:]
                digest.update(block)
                plain.write(block)
                for start in range(0, MIB, FRAME):
                    framed.write(b"%b%b\r\n" % (FRAME_HEAD, block[start : start + FRAME]))
            framed.write(b"0\r\n\r\n")
        opened = [os.open(path, os.O_RDWR) for path in paths]
        blobs.append(Blob(paths[0], f"sha256:{digest.hexdigest()}", size, opened[0], opened[1], paths[1].stat().st_size))
    yield blobs
    for blob in blobs:
        for descriptor in (blob.plain, blob.framed):
            os.close(descriptor)


Push = Callable[[Client, str, Blob], None]


def push_whole(client: Client, repository: str, blob: Blob) -> None:
    """POST, then one PUT with Content-Length."""
    location = begin_upload(client, repository)
    headers = f"{BYTES}Content-Length: {blob.size}\r\n"
    client.send_file("PUT", with_digest(location, blob.digest), headers, blob.plain, 0, blob.size, 201)


def push_stream(client: Client, repository: str, blob: Blob) -> None:
    """POST, one PATCH with Transfer-Encoding: chunked, PUT."""
    location = begin_upload(client, repository)
    headers = f"{BYTES}Transfer-Encoding: chunked\r\n"
    location = client.send_file("PATCH", location, headers, blob.framed, 0, blob.framed_size, 202).location()
    client.ask("PUT", with_digest(location, blob.digest), want=201)


def push_pieces(client: Client, repository: str, blob: Blob, over_new_connections: bool = False) -> None:
    """POST, PATCH after PATCH of 16 MiB with Content-Range, PUT."""
    location = begin_upload(client, repository)
    for start in range(0, blob.size, PIECE):
        if over_new_connections:
            client.connect_again()
        length = min(PIECE, blob.size - start)
        headers = f"{BYTES}Content-Length: {length}\r\nContent-Range: {start}-{start + length - 1}\r\n"
        location = client.send_file("PATCH", location, headers, blob.plain, start, length, 202).location()
    if over_new_connections:
        client.connect_again()
    client.ask("PUT", with_digest(location, blob.digest), want=201)


def push_apart(client: Client, repository: str, blob: Blob) -> None:
    """The same, each request over a connection of its own, as curl and scripts do."""
    push_pieces(client, repository, blob, over_new_connections=True)
