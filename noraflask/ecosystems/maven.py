"""Maven: coordinates as group.id:artifact, and its "Version Order Specification"."""

from __future__ import annotations

import re
from collections.abc import Iterator

from noraflask.ecosystems.ecosystem import Ecosystem, Versions
from noraflask.ecosystems.names import Names
from noraflask.ecosystems.ranges import Language
from noraflask.ecosystems.versions import Key

# Tokens with their separators; what says nothing is trimmed before each hyphen and at the end.
_TOKEN = re.compile(r"([.-]?)([0-9]+|[^0-9.-]+|(?=[.-]|$))")
_RANK = {"alpha": 0, "beta": 1, "milestone": 2, "rc": 3, "cr": 3, "snapshot": 4, "": 5, "final": 5, "ga": 5, "release": 5, "sp": 6}
_SHORT = {"a": "alpha", "b": "beta", "m": "milestone"}
_END = (0, 5, "")
_NULLS = (_END, (1, 0, ""), (2, 0, ""))
_BARE = re.compile(r"[!-'*+.0-Z^-~-]+")
"""No blank, slash, comma, bracket or backslash."""


def _key(version: str) -> Key | None:
    if not _BARE.fullmatch(version):
        return None
    tokens: list[tuple[int, int, str]] = []
    for hyphen, token in _tokens(version.lower()):
        if hyphen:
            _trim(tokens)
        tokens.append(token)
    _trim(tokens)
    return (*tokens, _END)


def _tokens(version: str) -> Iterator[tuple[bool, tuple[int, int, str]]]:
    """Whether a hyphen or its like stands before, and the token: qualifiers sort before numbers after a hyphen before numbers after a dot."""
    for match in _TOKEN.finditer(version):
        separator, word = match.groups()
        if not separator and not word:
            continue
        change = not separator and match.start() > 0
        if word.isdigit() or (not word and separator == "."):
            hyphen = separator == "-" or change
            yield hyphen, (1 if hyphen else 2, int(word or 0), "")
        elif not word:
            yield True, (1, 0, "")
        else:
            word = _SHORT.get(word, word) if version[match.end() : match.end() + 1].isdigit() else word
            rank = _RANK.get(word, 7)
            yield True, (0, rank, word if rank == 7 else "")


def _trim(tokens: list[tuple[int, int, str]]) -> None:
    while tokens and tokens[-1] in _NULLS:
        tokens.pop()


ECOSYSTEM = Ecosystem(
    id="maven",
    title="Maven",
    aliases=("maven2",),
    osv=("maven",),
    names=Names("coordinates have letters, digits and . _ - alone, as in group.id:artifact", re.compile(r"[^A-Za-z0-9._:*-]")),
    versions=Versions(key=_key, language=Language("[1.0,1.2.5),[2.0,2.1)", brackets=True)),
)
