"""What a hostile client can do, in steps, and what it knows of the registry."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

FOREVER = 1e6


@dataclass(frozen=True)
class Write:
    data: bytes


@dataclass(frozen=True)
class Pause:
    """What comes meanwhile is read and thrown away."""

    seconds: float


@dataclass(frozen=True)
class Answers:
    """Wait for so many; the script is given status and head of the last one."""

    count: int = 1


@dataclass(frozen=True)
class Deaf:
    """Read nothing for so long, then once."""

    seconds: float = FOREVER


Script = Generator[Write | Pause | Answers | Deaf, tuple[int, bytes], str]


@dataclass
class Target:
    """What the scripts must know of the registry; all paths begin with /."""

    session_login: str
    """Value of Authorization, for the one who opens sessions without end."""
    upload_login: str
    """For those whose uploads are slow."""
    layer: str = "/v2/"
    """Of some MiB."""
    index: str = "/v2/"
    """An image index of 4 MB."""
    referrers: str = "/v2/"
    """Of a subject with many MB of annotations."""
    slow_bytes: int = 8192
    """Length of a slow upload that is allowed, at SLOW_RATE bytes a second."""
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1), init=False)
    """For what must be new each time."""
    busy_session: str = field(default="", init=False)
    """Set by the one who holds it."""

    def head(self, method: str, path: str, *fields: str, login: str = "") -> bytes:
        named = [f"Authorization: {login}"] if login else []
        return "\r\n".join((f"{method} {path} HTTP/1.1", "Host: registry", *named, *fields, "", "")).encode("latin-1")


def location_of(head: bytes) -> str:
    found = next(line.partition(b":")[2].strip() for line in head.split(b"\r\n") if line.lower().startswith(b"location:")).decode()
    parts = urlsplit(found)
    return f"{parts.path}?{parts.query}" if parts.query else parts.path
