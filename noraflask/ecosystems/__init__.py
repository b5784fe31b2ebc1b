"""Ecosystems: what each format's own world holds for one name and one version, how it orders versions, and what can be set about it.

Each declares itself in the file that bears its id, by a value ECOSYSTEM. names.py, versions.py and ranges.py are what they share.
"""

from __future__ import annotations

from collections.abc import Mapping

from noraflask.ecosystems import ansible, cargo, conan, cpan, deb, docker, gems, go, hf, maven, npm, nuget, pub, pypi, raw, rpm, terraform
from noraflask.ecosystems.ecosystem import Ecosystem, Versions
from noraflask.ecosystems.names import FLAT, Names
from noraflask.ecosystems.ranges import Range

__all__ = ["ECOSYSTEMS", "FLAT", "Ecosystem", "Names", "Range", "Versions", "ecosystem_of", "find"]

_MODULES = (docker, maven, npm, cargo, pypi, go, raw, gems, terraform, ansible, nuget, pub, conan, rpm, deb, cpan, hf)

ECOSYSTEMS: Mapping[str, Ecosystem] = {module.ECOSYSTEM.id: module.ECOSYSTEM for module in _MODULES}
"""By id, in NORA's order."""


def find(word: str) -> Ecosystem | None:
    """By its id or one of its aliases, in any letter case."""
    text = word.strip().lower()
    known = ECOSYSTEMS.get(text)
    return known or next((ecosystem for ecosystem in ECOSYSTEMS.values() if text in ecosystem.aliases), None)


def ecosystem_of(id: str) -> Ecosystem:
    """Total, for old data: a format that is not known here has names and versions as they are written."""
    return ECOSYSTEMS.get(id) or Ecosystem(id, id)
