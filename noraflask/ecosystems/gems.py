"""RubyGems: names as written, versions as Gem::Version orders them."""

from __future__ import annotations

import re
from typing import Any

from noraflask.ecosystems.ecosystem import Ecosystem, Versions
from noraflask.ecosystems.names import Names
from noraflask.ecosystems.ranges import ORDER, Language
from noraflask.ecosystems.versions import Key, without_zeros

_VERSION = re.compile(r"\s*[0-9]+(?:\.[0-9A-Za-z]+)*(?:-[0-9A-Za-z_.-]+)?\s*")
_PLATFORM = re.compile(
    r"-(?:x86|x64|i[3-6]86|amd64|arm|aarch64|universal|java|jruby|ruby|mswin|mingw|linux|darwin|powerpc|ppc|s390|riscv|sparc|dalvik|dotnet|macruby|freebsd)"
)
_END = (1, 0, "")


def _key(version: str) -> Key | None:
    """A platform (-x86_64-linux) does not count, another hyphen begins a prerelease."""
    if not _VERSION.fullmatch(version):
        return None
    platform = _PLATFORM.search(version)
    text = version[: platform.start()] if platform else version
    words = re.findall(r"[0-9]+|[A-Za-z]+", text.replace("-", ".pre."))
    first = next((at for at, word in enumerate(words) if not word.isdigit()), len(words))
    return (*_segments(words[:first]), *_segments(words[first:]), _END)


def _segments(words: list[str]) -> list[tuple[int, int, Any]]:
    """A version goes on with zeros for ever: those at the end say nothing, and those before a word sort before the end, fewer first."""
    segments: list[tuple[int, int, Any]] = []
    zeros = 0
    for word in words:
        number = word.isdigit()
        if number and not int(word):
            zeros += 1
            continue
        if zeros:
            segments += [_END] * zeros if number else [(0, 1, zeros)]
        segments.append((1, int(word), "") if number else (0, 0, word))
        zeros = 0
    return segments


def _floor(numbers: list[int]) -> Key:
    return (*((1, number, "") for number in without_zeros(numbers)), (0, 0, ""))


ECOSYSTEM = Ecosystem(
    id="gems",
    title="RubyGems",
    aliases=("rubygems", "gem"),
    osv=("rubygems",),
    names=Names("names of gems have letters, digits and . _ - alone", re.compile(r"[^A-Za-z0-9._*-]")),
    versions=Versions(key=_key, language=Language("~> 1.2, >= 1.2.4", ORDER | {"~>"}, _floor, raises_last_but_one=True, behind=" ")),
)
