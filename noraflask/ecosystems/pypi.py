"""PyPI: project names as PEP 503 folds them, versions and specifiers of PEP 440."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from packaging.specifiers import InvalidSpecifier, Specifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from noraflask.ecosystems.ecosystem import Ecosystem, Versions
from noraflask.ecosystems.names import Names
from noraflask.ecosystems.ranges import Language
from noraflask.ecosystems.versions import REMEMBERED_CHARACTERS, Key

_FOLDED = re.compile(r"[-_.]+")
_WORDS = re.compile(r"[-_.]?(alpha|beta|preview|pre)[-_.]?")
_SHORT = {"alpha": "a", "beta": "b", "preview": "rc", "pre": "rc"}


def _same_name(name: str) -> str:
    return _FOLDED.sub("-", name)


def _name_pattern(text: str) -> str:
    text, tree = text.lower(), ""
    if text.endswith((".**", "_**", "-**")) and len(text) > 3:
        text, tree = text[:-3], "-**"
    return "*".join(map(_same_name, text.split("*"))) + tree


def _same_version(version: str) -> str:
    return _normal_version(version) if len(version) <= REMEMBERED_CHARACTERS else _normal_version.__wrapped__(version)


@lru_cache(maxsize=8192)
def _normal_version(version: str) -> str:
    """PEP 440's normal form, with just three numbers where fewer or trailing zeros say the same: `1.0.*` then matches 1.0 and 1.0.0 alike."""
    try:
        parsed = Version(version)
    except InvalidVersion:
        return version
    release = list(parsed.release)
    while len(release) > 3 and not release[-1]:
        release.pop()
    release += [0] * (3 - len(release))
    normal = str(parsed)
    epoch, _, rest = normal.rpartition("!")
    tail = rest[len(".".join(map(str, parsed.release))) :]
    return f"{epoch}{'!' if epoch else ''}{'.'.join(map(str, release))}{tail}"


def _version_pattern(text: str) -> str:
    return _WORDS.sub(lambda match: _SHORT[match[1]], text.lower().removeprefix("v"))


def _key(version: str) -> Key | None:
    try:
        return Version(version)
    except InvalidVersion:
        return None


@dataclass(frozen=True, slots=True)
class _Specifiers:
    """PEP 440, but `<` and `>` by plain order: 2.0rc1 is in `<2.0`, 1.0.post1 in `>1.0`."""

    ordered: tuple[tuple[bool, Version], ...]
    """(True, V) for `<V`, (False, V) for `>V`."""
    others: tuple[Specifier, ...]

    def __contains__(self, key: Version) -> bool:
        public = Version(key.public) if self.ordered and key.local else key
        if not all(public < bound if below else public > bound for below, bound in self.ordered):
            return False
        return all(specifier.contains(key, prereleases=True) for specifier in self.others)

    @property
    def is_empty(self) -> bool:
        return False


def _read_specifiers(text: str) -> _Specifiers:
    text = f"=={text}" if text[0].isalnum() else text.replace("===", "==")
    try:
        every = list(SpecifierSet(text))
        ordered = tuple((one.operator == "<", Version(one.version)) for one in every if one.operator in "<>")
    except (InvalidSpecifier, InvalidVersion):
        raise ValueError("it is no PEP 440 specifier set (~= == != <= >= < >, joined by commas)") from None
    if not every:
        raise ValueError("it holds no specifier")
    return _Specifiers(ordered, tuple(one for one in every if one.operator not in "<>"))


ECOSYSTEM = Ecosystem(
    id="pypi",
    title="PyPI",
    aliases=("python",),
    osv=("pypi",),
    names=Names(
        "names of projects have letters, digits and - alone",
        re.compile(r"[^a-z0-9*-]"),
        _same_name,
        folds_case=True,
        pattern=_name_pattern,
    ),
    versions=Versions(_same_version, _version_pattern, _key, Language(">=1.2,<1.2.5", read=_read_specifiers, between=",")),
)
