"""The pointer document: what a name of any format says of the content that it leads to.

{"digest": "sha256:…", "size": 1234, "mediaType": "…", "created": 1764429313.123, "own": {…}}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from noraflask.digest import Digest


@dataclass(frozen=True, slots=True)
class Pointer:
    digest: Digest
    size: int
    """Bytes of the content."""
    media_type: str
    created: float
    """Seconds since the epoch, to the millisecond: when this pointer was made. Ages and retention count from it, and never from a file's time, so a
    copy, a restore and a migration change nothing."""
    own: Mapping[str, Any] = field(default_factory=dict)
    """What only the format understands; JSON."""

    def render(self) -> bytes:
        members: dict[str, Any] = {
            "digest": str(self.digest),
            "size": self.size,
            "mediaType": self.media_type,
            "created": round(self.created, 3),
        }
        if self.own:
            members["own"] = self.own
        return json.dumps(members).encode()

    @classmethod
    def parse(cls, document: bytes) -> Pointer:
        """Raises ValueError for what is no pointer, or only the beginning of one."""
        try:
            members = json.loads(document)
            digest, size, media_type, created = members["digest"], members["size"], members["mediaType"], members["created"]
            own = members.get("own", {})
            if not (type(size) is int and isinstance(media_type, str) and type(created) in (int, float) and isinstance(own, dict)):
                raise ValueError("a member is of another type")
            return cls(Digest.parse(digest), size, media_type, float(created), own)
        except Exception as problem:
            raise ValueError(f"not a pointer document: {problem!r}"[:200]) from None

    def leads_to_the_same(self, other: Pointer) -> bool:
        """Whenever they were made."""
        return (self.digest, self.size, self.media_type, self.own) == (other.digest, other.size, other.media_type, other.own)
