"""Digest: an algorithm and its hex value, valid once it exists."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any

from noraflask.errors import InvalidDigest

ALGORITHMS = {"sha256": 64, "sha512": 128}
"""Registered algorithms of the image-spec ("Digests") with the number of their hex digits."""

_FORM = re.compile(r"(?:sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})\Z")


@dataclass(frozen=True, slots=True)
class Digest:
    algorithm: str
    hex: str

    @classmethod
    def parse(cls, text: str | None) -> Digest:
        """The image-spec, "Digests". Raises InvalidDigest for anything but a registered algorithm with lower-case hex of its length."""
        if text is None or not _FORM.match(text):
            raise InvalidDigest(detail={"digest": (text or "")[:200]})
        algorithm, _, value = text.partition(":")
        return cls(algorithm, value)

    @classmethod
    def of(cls, data: bytes, algorithm: str = "sha256") -> Digest:
        return cls(algorithm, new_hash(algorithm, data).hexdigest())

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


def new_hash(algorithm: str, data: bytes = b"") -> Any:
    """A hashlib object of a registered algorithm."""
    return hashlib.new(algorithm, data, usedforsecurity=True)
