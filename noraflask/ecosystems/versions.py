"""What several ecosystems' versions share: SemVer's grammar and order, and how numbers are read and joined.

A version becomes a *key* once: a value that compares as the ecosystem says. Everything here is total and takes linear time.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

MAX_VERSION = 256
"""Characters; a longer text is no version."""

REMEMBERED_CHARACTERS = 64
"""Of a version whose key or form a process remembers; honest ones are shorter."""

Key = Any
"""What a version compares by; only keys of one ecosystem compare."""

SEMVER = re.compile(
    r"[v=\s]*(?P<numbers>[0-9]+(?:\.[0-9]+){0,2})(?:-(?P<pre>[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+(?P<build>[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?\s*"
)
RELEASE: Key = (1,)
"""A version without a prerelease."""
FLOOR: Key = (0, ())
"""Before every prerelease, as -0 in node-semver."""


def as_written(text: str) -> str:
    return text


def is_readable(version: str) -> bool:
    return len(version) <= MAX_VERSION and version.isascii()


def cached_key(make: Callable[[str], Key | None], version: str) -> Key | None:
    if not version or not is_readable(version):
        return None
    return _cached_key(make, version) if len(version) <= REMEMBERED_CHARACTERS else make(version)


@lru_cache(maxsize=8192)
def _cached_key(make: Callable[[str], Key | None], version: str) -> Key | None:
    return make(version)


def semver(version: str, least: int) -> re.Match[str] | None:
    """`least`: numbers that there must be."""
    match = SEMVER.fullmatch(version)
    return match if match and match["numbers"].count(".") >= least - 1 else None


def join_version(numbers: str, pre: str | None, build: str | None = "") -> str:
    return numbers + (f"-{pre}" if pre else "") + (f"+{build}" if build else "")


def plain_numbers(text: str) -> str:
    """Without zeros in front."""
    return ".".join(map(str, numbers_of(text)))


def numbers_of(text: str) -> list[int]:
    return [int(number) for number in text.split(".")]


def without_zeros(numbers: list[int]) -> tuple[int, ...]:
    """Without those at the end."""
    while numbers and not numbers[-1]:
        numbers = numbers[:-1]
    return tuple(numbers)


def identifiers(text: str | None) -> tuple[tuple[int, int, str], ...]:
    """SemVer 11.4: numbers before words, fewer before more."""
    return tuple((0, int(word), "") if word.isdigit() else (1, 0, word) for word in text.split(".")) if text else ()


def prerelease(text: str | None) -> Key:
    return (0, identifiers(text)) if text else RELEASE


def semver_key(version: str, least: int = 3, build: bool = False) -> Key | None:
    match = semver(version, least)
    if not match:
        return None
    numbers = [*numbers_of(match["numbers"]), 0, 0][:3]
    return (*numbers, prerelease(match["pre"]), identifiers(match["build"])) if build else (*numbers, prerelease(match["pre"]))


def semver_floor(numbers: list[int]) -> Key:
    return (*[*numbers, 0, 0][:3], FLOOR)
