"""Go: module paths, which the proxy protocol writes with `!x` for X, and versions with their `v`."""

from __future__ import annotations

import re
from functools import partial

from noraflask.ecosystems.ecosystem import Ecosystem, Versions
from noraflask.ecosystems.names import Names
from noraflask.ecosystems.ranges import ORDER, Language
from noraflask.ecosystems.versions import join_version, semver, semver_floor, semver_key


def _same_name(name: str) -> str:
    return re.sub(r"!([a-z])", lambda match: match[1].upper(), name)


def _same_version(version: str) -> str:
    """Rules may forget the `v` of a whole version; the proxy never does."""
    match = semver(version, least=1 if version.startswith("v") else 3)
    if not match:
        return version
    numbers = match["numbers"] + ".0" * (2 - match["numbers"].count("."))
    return f"v{join_version(numbers, match['pre'], 'incompatible' if match['build'] == 'incompatible' else '')}"


def _version_pattern(text: str) -> str:
    return f"v{text}" if text[0].isdigit() else text


def _from_osv(version: str) -> str:
    """Without the `v` there."""
    return f"v{version}" if version[:1].isdigit() else version


ECOSYSTEM = Ecosystem(
    id="go",
    title="Go",
    aliases=("golang",),
    osv=("go",),
    names=Names("module paths have no spaces and ASCII alone", re.compile(r"[^!-~]"), _same_name),
    versions=Versions(
        _same_version,
        _version_pattern,
        partial(semver_key, least=1),
        Language(">=v1.2.0, <v1.2.5", ORDER | {"^", "~"}, semver_floor),
        from_osv=_from_osv,
    ),
)
