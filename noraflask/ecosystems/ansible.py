"""Ansible Galaxy: collections, as namespace.name."""

from __future__ import annotations

import re

from noraflask.ecosystems.ecosystem import Ecosystem, Versions
from noraflask.ecosystems.names import Names
from noraflask.ecosystems.ranges import ORDER, Language
from noraflask.ecosystems.versions import semver_floor, semver_key

ECOSYSTEM = Ecosystem(
    id="ansible",
    title="Ansible Galaxy",
    osv=("ansible galaxy",),
    names=Names("names of collections have small letters, digits and _ alone, as in namespace.name", re.compile(r"[^a-z0-9_.*]")),
    versions=Versions(key=semver_key, language=Language(">=1.2.0,<1.2.5", ORDER | {"^", "~"}, semver_floor)),
)
