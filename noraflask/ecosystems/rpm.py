"""RPM packages, with the order of rpmvercmp."""

from __future__ import annotations

import re

from noraflask.ecosystems.ecosystem import Ecosystem, Versions
from noraflask.ecosystems.names import Names
from noraflask.ecosystems.ranges import Language
from noraflask.ecosystems.versions import Key

_VERSION = re.compile(r"(?:(?P<epoch>[0-9]+):)?(?P<version>[0-9A-Za-z._+~^]+)(?:-(?P<release>[0-9A-Za-z._+~^]+))?")
_RUNS = re.compile(r"~|\^|[0-9]+|[A-Za-z]+")
_LAST = ((9, 0, ""),)
"""After every release."""


def _key(version: str) -> Key | None:
    match = _VERSION.fullmatch(version)
    return (int(match["epoch"] or 0), _part(match["version"]), _part(match["release"] or "")) if match else None


def _part(text: str) -> tuple[tuple[int, int, str], ...]:
    """A tilde sorts before the end, a caret after it, then words, then numbers."""
    return (*map(_run, _RUNS.findall(text)), (1, 0, ""))


def _run(run: str) -> tuple[int, int, str]:
    if run in "~^":
        return (0 if run == "~" else 2, 0, "")
    return (4, int(run), "") if run.isdigit() else (3, 0, run)


def _span(version: str, key: Key) -> tuple[Key, Key] | None:
    """A version without a release stands for all of its releases."""
    return None if "-" in version else ((*key[:2], ()), (*key[:2], _LAST))


ECOSYSTEM = Ecosystem(
    id="rpm",
    title="RPM packages",
    aliases=("yum", "dnf"),
    osv=("red hat", "rocky linux", "almalinux", "fedora", "suse", "opensuse", "openeuler", "mageia", "azure linux", "photon os"),
    names=Names("names of packages have no spaces and ASCII alone", re.compile(r"[^!-~]")),
    versions=Versions(key=_key, language=Language(">= 1.2-1, < 1.2-4", span=_span)),
)
