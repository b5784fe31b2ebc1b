"""What each ecosystem holds for one name and one version, how it orders versions, and its language for ranges of them.

Everything here is total: whatever a client or a rule file sends, the answer comes in linear time, and only parse_range() raises (ValueError).
A version becomes a *key* once (cached): a value that compares as the ecosystem says. A range becomes intervals between keys, so that asking it costs
two comparisons. Two things differ from what installers do, because rules say what is dangerous and not what is preferred:

- prereleases stand where the order puts them: 2.0.0-rc.1 is in `<2.0.0` and in `^1.0.0 || <2.0.0`, though not in `^1.0.0` or `1.x`;
- a bare version is that version, also where installers read "at least" (nuget, cpan); cargo's bare version stays a caret, as in Cargo.toml.

`||` joins alternatives and a comma or blank means *and*, in every format.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

from packaging.specifiers import InvalidSpecifier, Specifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from noraflask.services.curation.model import FORMAT_ALIASES, FORMATS
from noraflask.services.curation.patterns import FLAT

MAX_VERSION = 256
MAX_RANGE = 1024

Key = Any
"""What a version compares by; only keys of one format compare."""

_FOLDED = re.compile(r"[-_.]+")
_HUB = ("docker.io/", "index.docker.io/", "registry-1.docker.io/", "registry.hub.docker.com/")
_LOWER_NAMES = frozenset({"nuget", "terraform", "hf", "docker", "cargo", "pypi"})


# ---- Formats and names


def canonical_format(text: str) -> str | None:
    """NORA's identifier for any spelling of it, None when there is none."""
    word = text.strip().lower()
    word = FORMAT_ALIASES.get(word, word)
    return word if word in FORMATS else None


def canonical_name(format: str, name: str) -> str:
    if format in _LOWER_NAMES:
        name = name.lower()
    match format:
        case "pypi":
            return _FOLDED.sub("-", name)
        case "cargo":
            return name.replace("_", "-")
        case "go":
            return _go_decoded(name)
        case "docker":
            name = _without_hub(name)
            rest = name.removeprefix("library/")
            return name if "/" in rest or not rest else rest
    return name


def _without_hub(name: str) -> str:
    for host in _HUB:
        if name.startswith(host):
            return name[len(host) :] or name
    return name


def _go_decoded(name: str) -> str:
    """`!x` is how the module proxy protocol spells X."""
    return re.sub(r"!([a-z])", lambda found: found[1].upper(), name)


# ---- Versions: one spelling each

_SEMVER = re.compile(
    r"[v=\s]*(?P<numbers>[0-9]+(?:\.[0-9]+){0,2})(?:-(?P<pre>[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+(?P<build>[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?\s*"
)
_NUGET = re.compile(
    r"(?P<numbers>[0-9]+(?:\.[0-9]+){0,3})(?:-(?P<pre>[0-9a-z-]+(?:\.[0-9a-z-]+)*))?(?:\+[0-9a-z-]+(?:\.[0-9a-z-]+)*)?", re.IGNORECASE
)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"[a-z0-9]+:[0-9a-f]{32,128}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")


def canonical_version(format: str, version: str) -> str:
    """The one spelling of all that the ecosystem holds for equal; as written when it is no version there."""
    if len(version) > MAX_VERSION or not version.isascii():
        return version
    change = _CANONICAL.get(format)
    return change(version) if change else version


def _npm_version(version: str) -> str:
    found = _semver(version, least=3)
    return _joined(found["numbers"], found["pre"]) if found else version


def _go_version(version: str) -> str:
    """Rules may forget the `v` of a whole version; the proxy never does."""
    found = _semver(version, least=1 if version.startswith("v") else 3)
    if not found:
        return version
    numbers = found["numbers"] + ".0" * (2 - found["numbers"].count("."))
    return f"v{_joined(numbers, found['pre'], 'incompatible' if found['build'] == 'incompatible' else '')}"


def _pub_version(version: str) -> str:
    found = _semver(version, least=3)
    return _joined(_plain(found["numbers"]), found["pre"], found["build"]) if found else version


def _nuget_version(version: str) -> str:
    found = _NUGET.fullmatch(version)
    if not found:
        return version.lower()
    numbers = [*_numbers(found["numbers"]), 0, 0][: max(3, found["numbers"].count(".") + 1)]
    if numbers[3:] == [0]:
        numbers.pop()
    return _joined(".".join(map(str, numbers)), found["pre"]).lower()


@lru_cache(maxsize=16384)
def _pypi_version(version: str) -> str:
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


def _docker_version(version: str) -> str:
    return version.lower() if ":" in version else version


def _semver(version: str, least: int) -> re.Match[str] | None:
    found = _SEMVER.fullmatch(version)
    return found if found and found["numbers"].count(".") >= least - 1 else None


def _joined(numbers: str, pre: str | None, build: str | None = "") -> str:
    return numbers + (f"-{pre}" if pre else "") + (f"+{build}" if build else "")


def _plain(numbers: str) -> str:
    return ".".join(map(str, _numbers(numbers)))


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(".")]


_CANONICAL: dict[str, Callable[[str], str]] = {
    "npm": _npm_version,
    "go": _go_version,
    "pub": _pub_version,
    "nuget": _nuget_version,
    "pypi": _pypi_version,
    "docker": _docker_version,
    "hf": str.lower,
}


# ---- Patterns over them

_PYPI_WORDS = re.compile(r"[-_.]?(alpha|beta|preview|pre)[-_.]?")
_PYPI_SHORT = {"alpha": "a", "beta": "b", "preview": "rc", "pre": "rc"}


def canonical_pattern(format: str, text: str, what: str = "name") -> str:
    """The pattern with its literal pieces in canonical form, in the shapes of patterns.py; without a star as a name or version."""
    if "*" not in text:
        return canonical_name(format, text) if what == "name" else canonical_version(format, text)
    return _name_pattern(format, text) if what == "name" else _version_pattern(format, text)


def _name_pattern(format: str, text: str) -> str:
    if format == "docker":
        return _docker_pattern(text.lower())
    tree = ""
    if format == "pypi" and text.endswith((".**", "_**", "-**")) and len(text) > 3:
        text, tree = text[:-3], "-**"
    return "*".join(canonical_name(format, piece) for piece in text.split("*")) + tree


def _docker_pattern(text: str) -> str:
    """`library/…` are the names without a slash; the Hub's hosts vanish."""
    text = _without_hub(text)
    rest = text.removeprefix("library/")
    return text if rest == text or "/" in rest else FLAT + ("*" if rest == "**" else rest)


def _version_pattern(format: str, text: str) -> str:
    match format:
        case "npm":
            return text.lstrip("v=") if text[:1] in "v=" else text
        case "go":
            return f"v{text}" if text[0].isdigit() else text
        case "pypi":
            text = text.lower()
            return _PYPI_WORDS.sub(lambda found: _PYPI_SHORT[found[1]], text.removeprefix("v"))
        case "nuget" | "hf":
            return text.lower()
        case "docker":
            return _docker_version(text)
    return text


# ---- Keys: how versions compare


@lru_cache(maxsize=16384)
def version_key(format: str, version: str) -> Key | None:
    """A value that sorts as the ecosystem sorts its versions; None when it cannot be compared."""
    make = _KEYS.get(format)
    if make is None or not version or len(version) > MAX_VERSION or not version.isascii():
        return None
    return make(version)


def is_version(format: str, version: str) -> bool:
    """The ecosystem could have it; for docker a tag or a digest, for hf a revision, never for raw."""
    if not version or len(version) > MAX_VERSION:
        return False
    if format == "docker":
        return bool(_TAG.fullmatch(version) or _DIGEST.fullmatch(version))
    if format == "hf":
        return bool(_REVISION.fullmatch(version))
    return version_key(format, version) is not None


def compare(format: str, a: str, b: str) -> int | None:
    """-1, 0 or 1; None when one of them cannot be compared."""
    left, right = version_key(format, a), version_key(format, b)
    if left is None or right is None:
        return None
    return (left > right) - (left < right)


_RELEASE = (1,)
_FLOOR: Key = (0, ())
"""Before every prerelease, as -0 in node-semver."""


def _identifiers(text: str | None) -> tuple[tuple[int, int, str], ...]:
    """SemVer 11.4: numbers before words, fewer before more."""
    return tuple((0, int(word), "") if word.isdigit() else (1, 0, word) for word in text.split(".")) if text else ()


def _pre(text: str | None) -> Key:
    return (0, _identifiers(text)) if text else _RELEASE


def _semver_key(version: str, least: int = 3, build: bool = False) -> Key | None:
    found = _semver(version, least)
    if not found:
        return None
    numbers = [*_numbers(found["numbers"]), 0, 0][:3]
    return (*numbers, _pre(found["pre"]), _identifiers(found["build"])) if build else (*numbers, _pre(found["pre"]))


def _semver_floor(numbers: list[int]) -> Key:
    return (*[*numbers, 0, 0][:3], _FLOOR)


def _nuget_key(version: str) -> Key | None:
    found = _NUGET.fullmatch(version)
    return (*[*_numbers(found["numbers"]), 0, 0, 0][:4], _pre((found["pre"] or "").lower())) if found else None


def _nuget_floor(numbers: list[int]) -> Key:
    return (*[*numbers, 0, 0, 0][:4], _FLOOR)


def _pypi_key(version: str) -> Key | None:
    try:
        return Version(version)
    except InvalidVersion:
        return None


# Docker tags: numbers, perhaps a prerelease word, perhaps a variant (-alpine), which does not count.
_DOCKER = re.compile(
    r"v?(?P<numbers>[0-9]+(?:\.[0-9]+)*)"
    r"(?:[-._]?(?P<word>alpha|beta|preview|pre|rc|cr|dev|snapshot|nightly|canary|milestone|ea|[abm](?=[-._]?[0-9]))[-._]?(?P<number>[0-9]*))?"
    r"(?:[-_.+].*)?",
    re.IGNORECASE,
)
_DOCKER_RANK = {"nightly": 0, "canary": 0, "dev": 0, "snapshot": 0, "a": 1, "alpha": 1, "ea": 1, "b": 2, "beta": 2, "m": 3, "milestone": 3}


def _docker_key(version: str) -> Key | None:
    found = _DOCKER.fullmatch(version)
    if not found or ":" in version:
        return None
    word = (found["word"] or "").lower()
    return (_stripped(_numbers(found["numbers"])), (0, _DOCKER_RANK.get(word, 4), int(found["number"] or 0)) if word else _RELEASE)


def _docker_floor(numbers: list[int]) -> Key:
    return (_stripped(numbers), (0,))


def _stripped(numbers: list[int]) -> tuple[int, ...]:
    while numbers and not numbers[-1]:
        numbers = numbers[:-1]
    return tuple(numbers)


# Maven, "Version Order Specification": tokens with their separators; what says nothing is trimmed before each hyphen and at the end.
_MAVEN_TOKEN = re.compile(r"([.-]?)([0-9]+|[^0-9.-]+|(?=[.-]|$))")
_MAVEN_RANK = {"alpha": 0, "beta": 1, "milestone": 2, "rc": 3, "cr": 3, "snapshot": 4, "": 5, "final": 5, "ga": 5, "release": 5, "sp": 6}
_MAVEN_SHORT = {"a": "alpha", "b": "beta", "m": "milestone"}
_MAVEN_END = (0, 5, "")
_MAVEN_NULLS = (_MAVEN_END, (1, 0, ""), (2, 0, ""))
_BARE = re.compile(r"[!-'*+.0-Z^-~-]+")
"""No blank, slash, comma, bracket or backslash."""


def _maven_key(version: str) -> Key | None:
    if not _BARE.fullmatch(version):
        return None
    tokens: list[tuple[int, int, str]] = []
    for hyphen, token in _maven_tokens(version.lower()):
        if hyphen:
            _trim(tokens)
        tokens.append(token)
    _trim(tokens)
    return (*tokens, _MAVEN_END)


def _maven_tokens(version: str) -> Iterator[tuple[bool, tuple[int, int, str]]]:
    """Whether a hyphen or its like stands before, and the token: qualifiers sort before numbers after a hyphen before numbers after a dot."""
    for found in _MAVEN_TOKEN.finditer(version):
        separator, word = found.groups()
        if not separator and not word:
            continue
        change = not separator and found.start() > 0
        if word.isdigit() or (not word and separator == "."):
            hyphen = separator == "-" or change
            yield hyphen, (1 if hyphen else 2, int(word or 0), "")
        elif not word:
            yield True, (1, 0, "")
        else:
            word = _MAVEN_SHORT.get(word, word) if version[found.end() : found.end() + 1].isdigit() else word
            rank = _MAVEN_RANK.get(word, 7)
            yield True, (0, rank, word if rank == 7 else "")


def _trim(tokens: list[tuple[int, int, str]]) -> None:
    while tokens and tokens[-1] in _MAVEN_NULLS:
        tokens.pop()


_GEM = re.compile(r"\s*[0-9]+(?:\.[0-9A-Za-z]+)*(?:-[0-9A-Za-z_.-]+)?\s*")
_GEM_PLATFORM = re.compile(
    r"-(?:x86|x64|i[3-6]86|amd64|arm|aarch64|universal|java|jruby|ruby|mswin|mingw|linux|darwin|powerpc|ppc|s390|riscv|sparc|dalvik|dotnet|macruby|freebsd)"
)
_GEM_END = (1, 0, "")


def _gem_key(version: str) -> Key | None:
    """Gem::Version; a platform (-x86_64-linux) does not count, another hyphen begins a prerelease."""
    if not _GEM.fullmatch(version):
        return None
    platform = _GEM_PLATFORM.search(version)
    text = version[: platform.start()] if platform else version
    words = re.findall(r"[0-9]+|[A-Za-z]+", text.replace("-", ".pre."))
    first = next((at for at, word in enumerate(words) if not word.isdigit()), len(words))
    return (*_gem_segments(words[:first]), *_gem_segments(words[first:]), _GEM_END)


def _gem_segments(words: list[str]) -> list[tuple[int, int, Any]]:
    """A version goes on with zeros for ever: those at the end say nothing, and those before a word sort before the end, fewer first."""
    segments: list[tuple[int, int, Any]] = []
    zeros = 0
    for word in words:
        number = word.isdigit()
        if number and not int(word):
            zeros += 1
            continue
        if zeros:
            segments += [_GEM_END] * zeros if number else [(0, 1, zeros)]
        segments.append((1, int(word), "") if number else (0, 0, word))
        zeros = 0
    return segments


def _gem_floor(numbers: list[int]) -> Key:
    return (*((1, number, "") for number in _stripped(numbers)), (0, 0, ""))


_CONAN = re.compile(r"(?P<items>[0-9A-Za-z_]+(?:\.[0-9A-Za-z_]+)*)(?:-(?P<pre>[0-9A-Za-z._-]+))?(?:\+(?P<build>[0-9A-Za-z._-]+))?")


def _conan_key(version: str) -> Key | None:
    """Items are numbers, numbers with a letter (1.1.1w), or words (cci.20200101), which come after."""
    found = _CONAN.fullmatch(version)
    if not found:
        return None
    items = [_conan_item(word) for word in found["items"].split(".")]
    while items and items[-1] == (0, 0, ""):
        items.pop()
    return (tuple(items), _pre(found["pre"]), _identifiers(found["build"]))


def _conan_item(word: str) -> tuple[int, int, str]:
    letters = word.lstrip("0123456789")
    return (0, int(word[: len(word) - len(letters)]), letters) if letters != word else (1, 0, word)


def _conan_floor(numbers: list[int]) -> Key:
    return (tuple((0, number, "") for number in _stripped(numbers)), _FLOOR)


_DEB = re.compile(r"(?:(?P<epoch>[0-9]+):)?(?P<upstream>[0-9A-Za-z][0-9A-Za-z.+~_-]*)")
_RUNS = re.compile(r"([^0-9]*)([0-9]*)")


def _deb_key(version: str) -> Key | None:
    found = _DEB.fullmatch(version)
    if not found:
        return None
    upstream, hyphen, revision = found["upstream"].rpartition("-")
    return (int(found["epoch"] or 0), _deb_part(upstream if hyphen else revision), _deb_part(revision if hyphen else ""))


def _deb_part(text: str) -> tuple[Any, ...]:
    """deb-version(7): runs of other characters and of digits in turn; a tilde sorts before the end, letters before all but that."""
    runs: list[Any] = []
    for other, digits in _RUNS.findall(text) if text else [("", "")]:
        if other or digits or not runs:
            runs += [(*(_deb_order(char) for char in other), 0), int(digits or 0)]
    return (*runs, (0,))


def _deb_order(char: str) -> int:
    return -1 if char == "~" else ord(char) + (0 if char.isalpha() else 256)


_RPM = re.compile(r"(?:(?P<epoch>[0-9]+):)?(?P<version>[0-9A-Za-z._+~^]+)(?:-(?P<release>[0-9A-Za-z._+~^]+))?")
_RPM_RUNS = re.compile(r"~|\^|[0-9]+|[A-Za-z]+")
_RPM_LAST = ((9, 0, ""),)


def _rpm_key(version: str) -> Key | None:
    found = _RPM.fullmatch(version)
    return (int(found["epoch"] or 0), _rpm_part(found["version"]), _rpm_part(found["release"] or "")) if found else None


def _rpm_part(text: str) -> tuple[tuple[int, int, str], ...]:
    """rpmvercmp: a tilde sorts before the end, a caret after it, then words, then numbers."""
    return (*map(_rpm_run, _RPM_RUNS.findall(text)), (1, 0, ""))


def _rpm_run(run: str) -> tuple[int, int, str]:
    if run in "~^":
        return (0 if run == "~" else 2, 0, "")
    return (4, int(run), "") if run.isdigit() else (3, 0, run)


_CPAN = re.compile(r"(?P<dotted>v?)(?P<whole>[0-9]*)(?P<rest>(?:\.[0-9_]+)*)(?:-TRIAL[0-9]*)?")


def _cpan_key(version: str) -> Key | None:
    """version.pm: with a `v` or two dots, numbers; else a decimal, whose digits after the point count by threes (1.002003 = v1.2.3)."""
    found = _CPAN.fullmatch(version)
    if not found or not (found["whole"] or found["rest"]):
        return None
    parts = [int(part or 0) for part in found["rest"].replace("_", "").split(".")[1:]]
    if not found["dotted"] and len(parts) == 1:
        digits = found["rest"].replace("_", "")[1:]
        digits += "0" * (-len(digits) % 3)
        parts = [int(digits[at : at + 3]) for at in range(0, len(digits), 3)]
    return _stripped([int(found["whole"] or 0), *parts])


_KEYS: dict[str, Callable[[str], Key | None]] = {
    "npm": _semver_key,
    "cargo": _semver_key,
    "ansible": _semver_key,
    "pub": partial(_semver_key, build=True),
    "go": partial(_semver_key, least=1),
    "terraform": partial(_semver_key, least=1),
    "pypi": _pypi_key,
    "nuget": _nuget_key,
    "docker": _docker_key,
    "maven": _maven_key,
    "gems": _gem_key,
    "conan": _conan_key,
    "deb": _deb_key,
    "rpm": _rpm_key,
    "cpan": _cpan_key,
}


# ---- Ranges


@dataclass(frozen=True, slots=True)
class _Interval:
    low: Key = None
    low_in: bool = True
    high: Key = None
    high_in: bool = True
    holes: tuple[_Interval, ...] = ()

    def __contains__(self, key: Key) -> bool:
        if self.low is not None and (key < self.low or (key == self.low and not self.low_in)):
            return False
        if self.high is not None and (key > self.high or (key == self.high and not self.high_in)):
            return False
        return not any(key in hole for hole in self.holes)

    def and_(self, other: _Interval) -> _Interval:
        low, low_in = self.low, self.low_in
        if low is None or (other.low is not None and (other.low > low or (other.low == low and not other.low_in))):
            low, low_in = other.low, other.low_in
        high, high_in = self.high, self.high_in
        if high is None or (other.high is not None and (other.high < high or (other.high == high and not other.high_in))):
            high, high_in = other.high, other.high_in
        return _Interval(low, low_in, high, high_in, self.holes + other.holes)

    @property
    def is_empty(self) -> bool:
        if self.low is None or self.high is None:
            return False
        return bool(self.low > self.high or (self.low == self.high and not (self.low_in and self.high_in)))


_ALL = _Interval()


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


@dataclass(frozen=True, slots=True)
class Range:
    format: str
    text: str
    parts: tuple[_Interval | _Specifiers, ...] = field(repr=False)

    def contains(self, version: str) -> bool | None:
        """None: the version cannot be compared."""
        key = version_key(self.format, version)
        return None if key is None else any(key in part for part in self.parts)

    @property
    def is_empty(self) -> bool:
        """Nothing can be in it, as in `>2 <1`; not noticed for pypi."""
        return all(part.is_empty for part in self.parts)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class _Language:
    example: str
    operators: frozenset[str]
    floor: Callable[[list[int]], Key] | None = None
    """The key just before all prereleases of these numbers; with it come `1.*`, and `^` and `~` where they are operators."""
    short_spans: bool = False
    """`1.2` stands for all of 1.2.x, and not for 1.2.0."""
    bare: str = "="
    brackets: bool = False
    """Maven's and NuGet's `[1.0,2.0)`."""


_ORDER = frozenset({"=", "==", "!=", "<", "<=", ">", ">="})
_LANGUAGES = {
    "npm": _Language("^1.2.3 || >=2.0.0 <2.1.4", _ORDER | {"^", "~", "~>"}, _semver_floor, short_spans=True),
    "cargo": _Language(">=1.2.0, <1.2.5", _ORDER | {"^", "~"}, _semver_floor, short_spans=True, bare="^"),
    "pub": _Language(">=1.2.0 <1.2.5", _ORDER | {"^"}, _semver_floor, short_spans=True),
    "go": _Language(">=v1.2.0, <v1.2.5", _ORDER | {"^", "~"}, _semver_floor),
    "ansible": _Language(">=1.2.0,<1.2.5", _ORDER | {"^", "~"}, _semver_floor),
    "terraform": _Language("~> 1.2.0, != 1.2.3", _ORDER | {"~>"}, _semver_floor),
    "docker": _Language(">=1.25.0 <1.25.4", _ORDER | {"^", "~"}, _docker_floor),
    "conan": _Language(">=1.2 <1.3", _ORDER | {"^", "~"}, _conan_floor),
    "gems": _Language("~> 1.2, >= 1.2.4", _ORDER | {"~>"}, _gem_floor),
    "nuget": _Language("[1.0.0,1.2.5)", _ORDER, _nuget_floor, brackets=True),
    "maven": _Language("[1.0,1.2.5),[2.0,2.1)", _ORDER, brackets=True),
    "deb": _Language(">= 1.2-1, << 1.2-4", _ORDER | {"<<", ">>"}),
    "rpm": _Language(">= 1.2-1, < 1.2-4", _ORDER),
    "cpan": _Language(">= 1.20, < 1.25", _ORDER),
    "pypi": _Language(">=1.2,<1.2.5", frozenset()),
}


def parse_range(format: str, text: str) -> Range:
    """Raises ValueError, whose text says what is wrong and shows a range of that format."""
    language = _LANGUAGES.get(format)
    if language is None:
        raise ValueError(f"{format} has no ranges; name versions one by one, or with a pattern such as 1.2*")
    try:
        if len(text) > MAX_RANGE:
            raise ValueError(f"it has more than {MAX_RANGE} characters; split it into several rules")
        if not text.isascii() or not text.isprintable():
            raise ValueError("it holds characters outside printable ASCII")
        parts = tuple(_part(format, language, part.strip()) for part in text.split("||"))
    except ValueError as error:
        shown = text if len(text) <= 60 else f"{text[:60]}…"
        raise ValueError(f'"{shown}" is no range of {format}: {error}; write for example "{language.example}"') from None
    flat = [one for several in parts for one in several]
    return Range(format, text, tuple(flat))


def _part(format: str, language: _Language, text: str) -> list[Any]:
    if not text:
        raise ValueError('an alternative is empty ("*" is everything)')
    if text == "*" or (format == "pub" and text == "any"):
        return [_ALL]
    if format == "pypi":
        return [_specifiers(text)]
    if format == "conan" and text[0] + text[-1] == "[]":
        text = text[1:-1]
    if language.brackets and text[0] in "[(":
        return list(_bracketed(format, text))
    return [_comparators(format, language, text)]


def _specifiers(text: str) -> _Specifiers:
    text = f"=={text}" if text[0].isalnum() else text.replace("===", "==")
    try:
        every = list(SpecifierSet(text))
        ordered = tuple((one.operator == "<", Version(one.version)) for one in every if one.operator in "<>")
    except (InvalidSpecifier, InvalidVersion):
        raise ValueError("it is no PEP 440 specifier set (~= == != <= >= < >, joined by commas)") from None
    if not every:
        raise ValueError("it holds no specifier")
    return _Specifiers(ordered, tuple(one for one in every if one.operator not in "<>"))


_BRACKETED = re.compile(r"\s*([\[(])([^\[\]()]*)([\])])\s*(,?)")


def _bracketed(format: str, text: str) -> Iterator[_Interval]:
    at, more = 0, True
    while at < len(text):
        found = _BRACKETED.match(text, at)
        if not found or not more:
            raise ValueError(f'expected "[" or "(" and its end at "{text[at : at + 20]}"')
        yield _bracket(format, found[1] == "[", found[2], found[3] == "]")
        at, more = found.end(), bool(found[4])
    if more:
        raise ValueError("it ends with a comma")


def _bracket(format: str, low_in: bool, body: str, high_in: bool) -> _Interval:
    low, comma, high = (part.strip() for part in body.partition(","))
    if not comma:
        if not (low and low_in and high_in):
            raise ValueError(f'one version stands in square brackets, as "[{low or "1.0"}]"')
        return _Interval(_key(format, low), True, _key(format, low), True)
    return _Interval(_key(format, low) if low else None, low_in, _key(format, high) if high else None, high_in)


_COMPARATOR = re.compile(r"(?P<operator>===|==|>=|<=|!=|~>|>>|<<|<|>|=|~|\^|)\s*(?P<version>[0-9A-Za-z*][^\s,|<>=!]*)\s*(?P<comma>,?)\s*")
_HYPHEN = re.compile(r"(\S+)\s+-\s+(\S+)")
_WILD = re.compile(r"[v=]*(?P<numbers>[0-9]+(?:\.[0-9]+){0,2})?(?:(?:^|\.)[*xX]){1,3}")
_LEADING = re.compile(r"v?([0-9]+(?:\.[0-9]+)*)")


def _comparators(format: str, language: _Language, text: str) -> _Interval:
    hyphen = _HYPHEN.fullmatch(text) if language.short_spans else None
    if hyphen:
        return _bound(format, language, ">=", hyphen[1]).and_(_bound(format, language, "<=", hyphen[2]))
    interval, at, comma = _ALL, 0, ""
    while at < len(text):
        found = _COMPARATOR.match(text, at)
        if not found:
            raise ValueError(f'cannot read "{text[at : at + 20]}"')
        interval = interval.and_(_bound(format, language, found["operator"] or language.bare, found["version"]))
        at, comma = found.end(), found["comma"]
    if comma:
        raise ValueError("it ends with a comma")
    return interval


def _bound(format: str, language: _Language, operator: str, version: str) -> _Interval:
    if operator not in language.operators:
        raise ValueError(f"{operator} is not one of its operators ({' '.join(sorted(language.operators))})")
    span = _span(format, language, version)
    match operator:
        case "=" | "==":
            return span
        case "!=":
            return _Interval(holes=(span,))
        case "<" | "<<":
            return _Interval(high=span.low, high_in=False) if span.low is not None else _NONE
        case "<=":
            return _Interval(high=span.high, high_in=span.high_in)
        case ">" | ">>":
            return _Interval(low=span.high, low_in=not span.high_in) if span.high is not None else _NONE
        case ">=":
            return _Interval(low=span.low)
    if span.low is None:
        return _ALL
    return _Interval(low=span.low, high=_next(format, language, operator, version), high_in=False)


_NONE = _Interval(low=(), high=(), low_in=False)
"""Holds nothing, whatever the keys are: it is empty by itself, and what it is intersected with stays empty."""


def _span(format: str, language: _Language, version: str) -> _Interval:
    """All versions that a version in a range stands for: most often one."""
    wild = _WILD.fullmatch(version) if language.short_spans or "*" in version else None
    numbers = wild["numbers"] if wild else None
    if language.short_spans and not wild and re.fullmatch(r"v?[0-9]+(?:\.[0-9]+)?", version):
        numbers = version.lstrip("v")
    if numbers and language.floor:
        given = _numbers(numbers)
        return _Interval(language.floor(given), True, language.floor(_bumped(given, len(given) - 1)), False)
    if wild and language.floor:
        return _ALL
    key = _key(format, version)
    if format == "rpm" and "-" not in version:
        return _Interval((*key[:2], ()), True, (*key[:2], _RPM_LAST), False)
    return _Interval(key, True, key, True)


def _key(format: str, version: str) -> Key:
    key = version_key(format, version)
    if key is None:
        raise ValueError(f'"{version[:40]}" is no version there')
    return key


def _next(format: str, language: _Language, operator: str, version: str) -> Key | None:
    """Where `^`, `~` and `~>` end; None: nowhere."""
    found = _LEADING.match(version)
    if not found or not language.floor:
        raise ValueError(f"{operator} needs a version that begins with a number")
    numbers = _numbers(found[1])
    if operator == "^":
        at = next((at for at, number in enumerate(numbers) if number), len(numbers) - 1)
        at = min(at, 1) if format == "pub" else at
    elif operator == "~>" and format in ("gems", "terraform"):
        if len(numbers) == 1 and format == "terraform":
            return None
        at = max(len(numbers) - 2, 0)
    else:
        at = min(len(numbers) - 1, 1)
    return language.floor(_bumped(numbers, at))


def _bumped(numbers: list[int], at: int) -> list[int]:
    return [*numbers[:at], numbers[at] + 1]
