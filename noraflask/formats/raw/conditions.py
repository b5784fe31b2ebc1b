"""Conditions of requests that change files (RFC 9110, 13), pure: who may write and delete what, given what is there now.

Those of requests that read are judged where all bytes leave (web/responses.py).

An ETag is the SHA-256 of the bytes, so it is strong, and the same bytes have the same one everywhere.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime

from noraflask.digest import Digest
from noraflask.errors import AlreadyExists, BadRequest, PreconditionFailed

ANY = "*"
LONGEST_HEADER = 8192
"""Characters of a condition; a longer one is refused."""

_ETAGS = re.compile(r'[ \t]*(?:W/)?"[\x21\x23-\x7e\x80-\uffff]*"[ \t]*(?:,[ \t]*(?:(?:W/)?"[\x21\x23-\x7e\x80-\uffff]*"[ \t]*)?)*\Z')
_ETAG = re.compile(r'(W/)?("[^"]*")')


@dataclass(frozen=True, slots=True)
class File:
    """What conditions are about: a file as it is now."""

    digest: Digest
    size: int
    modified: float
    """Seconds since the epoch."""

    @property
    def etag(self) -> str:
        return f'"{self.digest.hex}"'


@dataclass(frozen=True, slots=True)
class Etags:
    """The value of If-Match and If-None-Match: any representation, or a list."""

    is_any: bool = False
    strong: frozenset[str] = frozenset()
    weak: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Conditions:
    if_match: Etags | None = None
    if_none_match: Etags | None = None
    if_unmodified_since: float | None = None


NONE = Conditions()


class Write(enum.Enum):
    """What a PUT comes to."""

    CREATE = "create"
    REPLACE = "replace"
    SAME = "same"
    """The file is there already."""
    OPEN = "open"
    """Only the bytes can tell: right if they are those that are there."""


def parse_conditions(headers: Mapping[str, str]) -> Conditions:
    """`headers`: by the names of WSGI, such as HTTP_IF_MATCH.

    A date that is none is ignored, as 13.1.4 says. Raises BadRequest for ETags that are none.
    """
    return Conditions(
        _etags("If-Match", headers.get("HTTP_IF_MATCH")),
        _etags("If-None-Match", headers.get("HTTP_IF_NONE_MATCH")),
        parse_date(headers.get("HTTP_IF_UNMODIFIED_SINCE")),
    )


def _etags(name: str, header: str | None) -> Etags | None:
    if header is None:
        return None
    if header.strip() == ANY:
        return Etags(is_any=True)
    if len(header) > LONGEST_HEADER or not _ETAGS.match(header):
        raise BadRequest(f'{name} must be * or a list of ETags in double quotes, such as "<sha-256 in hex>"')
    found = _ETAG.findall(header)
    return Etags(strong=frozenset(tag for weak, tag in found if not weak), weak=frozenset(tag for weak, tag in found if weak))


def parse_date(header: str | None) -> float | None:
    """Seconds since the epoch of an HTTP date; None for anything else."""
    try:
        when = parsedate_to_datetime(header or "")
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def check_state(conditions: Conditions, current: File | None) -> None:
    """If-Match, else If-Unmodified-Since; If-None-Match of a method that changes something (13.2.2). Raises PreconditionFailed."""
    _check_match(conditions, current)
    unwanted = conditions.if_none_match
    if unwanted is not None and current is not None and (unwanted.is_any or current.etag in unwanted.strong | unwanted.weak):
        raise PreconditionFailed(detail={"etag": current.etag})


def _check_match(conditions: Conditions, current: File | None) -> None:
    wanted = conditions.if_match
    if wanted is None:
        if conditions.if_unmodified_since is not None and current is not None and int(current.modified) > conditions.if_unmodified_since:
            raise PreconditionFailed(detail={"etag": current.etag})
    elif current is None:
        raise PreconditionFailed("there is no such file, so If-Match cannot be met; leave it out to create one")
    elif not wanted.is_any and current.etag not in wanted.strong:  # strong comparison, 13.1.1
        raise PreconditionFailed(detail={"etag": current.etag})


def check_put(conditions: Conditions) -> None:
    """What a PUT may ask for. Raises BadRequest."""
    if conditions.if_none_match is not None and not conditions.if_none_match.is_any:
        raise BadRequest("If-None-Match of a PUT may only be *: create the file, overwrite none; use If-Match to overwrite one that you know")


def judge_put(conditions: Conditions, overwrite: str, current: File | None, digest: Digest | None, size: int | None) -> Write:
    """`overwrite`: "conditional" (with If-Match only), "always" or "never"; `digest`, `size`: of the new bytes, None while they are not known.

    Raises PreconditionFailed, or AlreadyExists for other bytes than are there.
    """
    check_state(conditions, current)
    if current is None:
        return Write.CREATE
    if digest == current.digest:
        return Write.SAME
    if may_overwrite(conditions, overwrite):
        return Write.REPLACE
    if digest is None and size in (None, current.size):
        return Write.OPEN
    if overwrite == "never":
        raise AlreadyExists("the file exists with other bytes, and this repository never changes one; choose another name", {"etag": current.etag})
    raise AlreadyExists(f"the file exists with other bytes; send If-Match: {current.etag} to overwrite it", {"etag": current.etag})


def may_overwrite(conditions: Conditions, overwrite: str) -> bool:
    """May the request put other bytes in place of those that are there, if its conditions hold?"""
    return overwrite == "always" or (overwrite == "conditional" and conditions.if_match is not None)
