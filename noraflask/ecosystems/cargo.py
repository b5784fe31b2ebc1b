"""Cargo: crates, whose hyphens and underscores are the same."""

from __future__ import annotations

import re

from noraflask.ecosystems.ecosystem import Ecosystem, Versions
from noraflask.ecosystems.names import Names
from noraflask.ecosystems.ranges import ORDER, Language
from noraflask.ecosystems.versions import semver_floor, semver_key


def _same_name(name: str) -> str:
    return name.replace("_", "-")


ECOSYSTEM = Ecosystem(
    id="cargo",
    title="Cargo",
    aliases=("crates", "crates.io"),
    osv=("crates.io",),
    names=Names("names of crates have letters, digits, - and _ alone", re.compile(r"[^a-z0-9*-]"), _same_name, folds_case=True),
    versions=Versions(
        key=semver_key,
        language=Language(">=1.2.0, <1.2.5", ORDER | {"^", "~"}, semver_floor, short_spans=True, bare="^"),
    ),
)
