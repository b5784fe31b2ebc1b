"""Conan: recipes, whose versions are numbers, numbers with a letter, or words."""

from __future__ import annotations

import re

from noraflask.ecosystems.ecosystem import Ecosystem, Versions
from noraflask.ecosystems.names import Names
from noraflask.ecosystems.ranges import ORDER, Language
from noraflask.ecosystems.versions import FLOOR, Key, identifiers, prerelease, without_zeros

_VERSION = re.compile(r"(?P<items>[0-9A-Za-z_]+(?:\.[0-9A-Za-z_]+)*)(?:-(?P<pre>[0-9A-Za-z._-]+))?(?:\+(?P<build>[0-9A-Za-z._-]+))?")


def _key(version: str) -> Key | None:
    """Items are numbers, numbers with a letter (1.1.1w), or words (cci.20200101), which come after."""
    match = _VERSION.fullmatch(version)
    if not match:
        return None
    items = [_item(word) for word in match["items"].split(".")]
    while items and items[-1] == (0, 0, ""):
        items.pop()
    return (tuple(items), prerelease(match["pre"]), identifiers(match["build"]))


def _item(word: str) -> tuple[int, int, str]:
    letters = word.lstrip("0123456789")
    return (0, int(word[: len(word) - len(letters)]), letters) if letters != word else (1, 0, word)


def _floor(numbers: list[int]) -> Key:
    return (tuple((0, number, "") for number in without_zeros(numbers)), FLOOR)


ECOSYSTEM = Ecosystem(
    id="conan",
    title="Conan",
    osv=("conancenter",),
    names=Names("names of recipes have small letters, digits and _ + . - alone", re.compile(r"[^a-z0-9_+.*-]")),
    versions=Versions(key=_key, language=Language(">=1.2 <1.3", ORDER | {"^", "~"}, _floor, around="[]")),
)
