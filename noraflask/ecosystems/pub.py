"""pub: packages of Dart and Flutter. A build counts in the order of versions."""

from __future__ import annotations

import re
from functools import partial

from noraflask.ecosystems.ecosystem import Ecosystem, Versions
from noraflask.ecosystems.names import Names
from noraflask.ecosystems.ranges import ORDER, Language
from noraflask.ecosystems.versions import join_version, plain_numbers, semver, semver_floor, semver_key


def _same_version(version: str) -> str:
    match = semver(version, least=3)
    return join_version(plain_numbers(match["numbers"]), match["pre"], match["build"]) if match else version


ECOSYSTEM = Ecosystem(
    id="pub",
    title="pub",
    aliases=("pub_dart", "dart"),
    config_name="pub_dart",
    osv=("pub",),
    names=Names("names of Dart packages have small letters, digits and _ alone", re.compile(r"[^a-z0-9_*]")),
    versions=Versions(
        _same_version,
        key=partial(semver_key, build=True),
        language=Language(">=1.2.0 <1.2.5", ORDER | {"^"}, semver_floor, short_spans=True, everything=("*", "any"), widest_caret=1),
    ),
)
