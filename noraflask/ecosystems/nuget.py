"""NuGet: ids in any letter case, versions of up to four numbers."""

from __future__ import annotations

import re

from noraflask.ecosystems.ecosystem import Ecosystem, Versions
from noraflask.ecosystems.names import Names
from noraflask.ecosystems.ranges import ORDER, Language
from noraflask.ecosystems.versions import FLOOR, Key, join_version, numbers_of, prerelease

_VERSION = re.compile(
    r"(?P<numbers>[0-9]+(?:\.[0-9]+){0,3})(?:-(?P<pre>[0-9a-z-]+(?:\.[0-9a-z-]+)*))?(?:\+[0-9a-z-]+(?:\.[0-9a-z-]+)*)?", re.IGNORECASE
)


def _same_version(version: str) -> str:
    match = _VERSION.fullmatch(version)
    if not match:
        return version.lower()
    numbers = [*numbers_of(match["numbers"]), 0, 0][: max(3, match["numbers"].count(".") + 1)]
    if numbers[3:] == [0]:
        numbers.pop()
    return join_version(".".join(map(str, numbers)), match["pre"]).lower()


def _key(version: str) -> Key | None:
    match = _VERSION.fullmatch(version)
    return (*[*numbers_of(match["numbers"]), 0, 0, 0][:4], prerelease((match["pre"] or "").lower())) if match else None


def _floor(numbers: list[int]) -> Key:
    return (*[*numbers, 0, 0, 0][:4], FLOOR)


ECOSYSTEM = Ecosystem(
    id="nuget",
    credential_headers=("HTTP_X_NUGET_APIKEY",),
    title="NuGet",
    aliases=("chocolatey", "choco", "powershellgallery", "pwsh"),
    osv=("nuget", "powershell gallery", "chocolatey"),
    names=Names("ids have letters, digits and . _ - alone", re.compile(r"[^a-z0-9._*-]"), folds_case=True),
    versions=Versions(_same_version, str.lower, _key, Language("[1.0.0,1.2.5)", ORDER, _floor, brackets=True)),
)
