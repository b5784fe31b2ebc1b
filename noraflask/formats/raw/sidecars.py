"""Checksums below a file's own name: `app.tar.gz.sha256` and the like, where no file was pushed under that name.

The SHA-256 is known. The others are computed from the bytes once, all in one pass, and kept in the file's pointer; so that no client can make the
server hash without end, one large file at a time is hashed in each process (services/rehashing.py).
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace

from flask import Response, request

from noraflask.digest import Digest
from noraflask.errors import NoraError, NotFound
from noraflask.formats.raw import files, protocol
from noraflask.formats.raw.files import FileUnknown
from noraflask.pointer import Pointer
from noraflask.services.content import Content
from noraflask.services.rehashing import Rehashing
from noraflask.web.access import PULL, demand
from noraflask.web.context import repository, services
from noraflask.web.responses import Answer, matches

REHASHING = Rehashing("the checksums of another large file are computed now")


@dataclass(frozen=True, slots=True)
class Sidecar:
    base: str
    """Path of the file."""
    pointer: Pointer
    algorithm: str


def find(name: str) -> Sidecar | None:
    """None: the name is no sidecar of a file that exists. Sidecars have no sidecars."""
    parsed = protocol.parse_sidecar(name)
    pointer = files.find(parsed[0]) if parsed else None
    return Sidecar(parsed[0], pointer, parsed[1]) if parsed and pointer else None


def send(name: str, sidecar: Sidecar) -> Response:
    """Who may not have the file may not have its checksum. Raises Denied, Unauthenticated, CurationDenied, Unavailable."""
    demand(PULL, sidecar.base)
    files.permit(sidecar.base, sidecar.pointer)
    body = protocol.render_sidecar(sidecar.base, checksum(sidecar))
    headers = {
        **files.facts(Digest.of(body)),
        "Cache-Control": repository().settings.cache_control,
        "Content-Type": "text/plain; charset=utf-8",
        "Content-Disposition": protocol.disposition(name),
    }
    if matches(request.headers.get("If-None-Match", ""), headers["ETag"], weak=True):
        return Answer(status=304, headers=headers)
    return Answer(body, headers=headers)


def checksum(sidecar: Sidecar) -> str:
    """In hex. Raises FileUnknown when the bytes are not there, Unavailable while another large file is hashed."""
    pointer = sidecar.pointer
    if sidecar.algorithm == pointer.digest.algorithm:
        return pointer.digest.hex
    sums = pointer.own.get("sums")
    if sums is None:
        sums = compute(services().content, pointer)
        keep(sidecar.base, pointer, sums)
    return str(sums[sidecar.algorithm])


def compute(content: Content, pointer: Pointer) -> dict[str, str]:
    """Of the bytes as they are served."""
    try:
        return REHASHING.hashes(content, pointer.digest, pointer.size, protocol.SUMS)
    except NotFound:
        raise FileUnknown() from None


def keep(path: str, known: Pointer, sums: dict[str, str]) -> None:
    """In the pointer, if it still leads there. A storage that cannot be written to now does not keep the answer back."""

    def add(pointer: Pointer | None) -> Pointer | None:
        if pointer is None or pointer.digest != known.digest:
            return pointer
        return replace(pointer, own={**pointer.own, "sums": sums})

    with contextlib.suppress(NoraError):
        services().content.change(protocol.file_key(repository().name, path), add)
