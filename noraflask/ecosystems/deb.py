"""Debian packages, with the order of deb-version(7)."""

from __future__ import annotations

import re
from typing import Any

from noraflask.ecosystems.ecosystem import Ecosystem, Versions
from noraflask.ecosystems.names import Names
from noraflask.ecosystems.ranges import ORDER, Language
from noraflask.ecosystems.versions import Key

_VERSION = re.compile(r"(?:(?P<epoch>[0-9]+):)?(?P<upstream>[0-9A-Za-z][0-9A-Za-z.+~_-]*)")
_RUNS = re.compile(r"([^0-9]*)([0-9]*)")


def _key(version: str) -> Key | None:
    match = _VERSION.fullmatch(version)
    if not match:
        return None
    upstream, hyphen, revision = match["upstream"].rpartition("-")
    return (int(match["epoch"] or 0), _part(upstream if hyphen else revision), _part(revision if hyphen else ""))


def _part(text: str) -> tuple[Any, ...]:
    """Runs of other characters and of digits in turn; a tilde sorts before the end, letters before all but that."""
    runs: list[Any] = []
    for other, digits in _RUNS.findall(text) if text else [("", "")]:
        if other or digits or not runs:
            runs += [(*(_order(char) for char in other), 0), int(digits or 0)]
    return (*runs, (0,))


def _order(char: str) -> int:
    return -1 if char == "~" else ord(char) + (0 if char.isalpha() else 256)


ECOSYSTEM = Ecosystem(
    id="deb",
    title="Debian packages",
    aliases=("apt", "debian"),
    osv=("debian", "ubuntu", "echo"),
    names=Names("names of packages have small letters, digits and + . - alone", re.compile(r"[^a-z0-9+.*-]")),
    versions=Versions(key=_key, language=Language(">= 1.2-1, << 1.2-4", ORDER | {"<<", ">>"})),
)
