"""npm: names with scopes, and SemVer as node-semver reads it."""

from __future__ import annotations

import re

from noraflask.ecosystems.ecosystem import Ecosystem, Versions
from noraflask.ecosystems.names import Names
from noraflask.ecosystems.ranges import ORDER, Language
from noraflask.ecosystems.versions import join_version, semver, semver_floor, semver_key


def _same_version(version: str) -> str:
    match = semver(version, least=3)
    return join_version(match["numbers"], match["pre"]) if match else version


def _version_pattern(text: str) -> str:
    return text.lstrip("v=") if text[:1] in "v=" else text


ECOSYSTEM = Ecosystem(
    id="npm",
    title="npm",
    osv=("npm",),
    names=Names("names of npm packages have no spaces and ASCII alone", re.compile(r"[^!-~]")),
    versions=Versions(
        _same_version,
        _version_pattern,
        semver_key,
        Language("^1.2.3 || >=2.0.0 <2.1.4", ORDER | {"^", "~", "~>"}, semver_floor, short_spans=True, between=" "),
    ),
)
