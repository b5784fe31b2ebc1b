"""CPAN: distributions of Perl, with the order of version.pm."""

from __future__ import annotations

import re

from noraflask.ecosystems.ecosystem import Ecosystem, Versions
from noraflask.ecosystems.names import Names
from noraflask.ecosystems.ranges import Language
from noraflask.ecosystems.versions import Key, without_zeros

_VERSION = re.compile(r"(?P<dotted>v?)(?P<whole>[0-9]*)(?P<rest>(?:\.[0-9_]+)*)(?:-TRIAL[0-9]*)?")


def _key(version: str) -> Key | None:
    """With a `v` or two dots, numbers; else a decimal, whose digits after the point count by threes (1.002003 = v1.2.3)."""
    match = _VERSION.fullmatch(version)
    if not match or not (match["whole"] or match["rest"]):
        return None
    parts = [int(part or 0) for part in match["rest"].replace("_", "").split(".")[1:]]
    if not match["dotted"] and len(parts) == 1:
        digits = match["rest"].replace("_", "")[1:]
        digits += "0" * (-len(digits) % 3)
        parts = [int(digits[at : at + 3]) for at in range(0, len(digits), 3)]
    return without_zeros([int(match["whole"] or 0), *parts])


ECOSYSTEM = Ecosystem(
    id="cpan",
    title="CPAN",
    osv=("cpan",),
    names=Names("names of distributions have no spaces and ASCII alone", re.compile(r"[^!-~]")),
    versions=Versions(key=_key, language=Language(">= 1.20, < 1.25")),
)
