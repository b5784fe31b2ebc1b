"""Ranges of versions: each ecosystem has a language of its own, and all of them end in intervals between keys, so that asking costs two comparisons.

Two things differ from what installers do, because rules say what is dangerous and not what is preferred:

- prereleases stand where the order puts them: 2.0.0-rc.1 is in `<2.0.0` and in `^1.0.0 || <2.0.0`, though not in `^1.0.0` or `1.x`;
- a bare version is that version, also where installers read "at least" (nuget, cpan); cargo's bare version stays a caret, as in Cargo.toml.

`||` joins alternatives and a comma or blank means *and*, in every language.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from noraflask.ecosystems.versions import Key, numbers_of

MAX_RANGE = 1024
"""Characters."""
ORDER = frozenset({"=", "==", "!=", "<", "<=", ">", ">="})
"""Operators that all but one language have."""


class Part(Protocol):
    """One alternative of a range."""

    @property
    def is_empty(self) -> bool: ...

    def __contains__(self, key: Key) -> bool: ...


@dataclass(frozen=True, slots=True)
class Interval:
    low: Key = None
    low_in: bool = True
    high: Key = None
    high_in: bool = True
    holes: tuple[Interval, ...] = ()

    def __contains__(self, key: Key) -> bool:
        if self.low is not None and (key < self.low or (key == self.low and not self.low_in)):
            return False
        if self.high is not None and (key > self.high or (key == self.high and not self.high_in)):
            return False
        return not any(key in hole for hole in self.holes)

    def and_(self, other: Interval) -> Interval:
        low, low_in = self.low, self.low_in
        if low is None or (other.low is not None and (other.low > low or (other.low == low and not other.low_in))):
            low, low_in = other.low, other.low_in
        high, high_in = self.high, self.high_in
        if high is None or (other.high is not None and (other.high < high or (other.high == high and not other.high_in))):
            high, high_in = other.high, other.high_in
        return Interval(low, low_in, high, high_in, self.holes + other.holes)

    @property
    def is_empty(self) -> bool:
        if self.low is None or self.high is None:
            return False
        return bool(self.low > self.high or (self.low == self.high and not (self.low_in and self.high_in)))


ALL = Interval()
NONE = Interval(low=(), high=(), low_in=False)
"""Holds nothing, whatever the keys are: it is empty by itself, and what it is intersected with stays empty."""


@dataclass(frozen=True, slots=True)
class Range:
    format: str
    text: str
    key: Callable[[str], Key | None] = field(repr=False, compare=False)
    parts: tuple[Part, ...] = field(repr=False)

    def contains(self, version: str) -> bool | None:
        """None: the version cannot be compared."""
        key = self.key(version)
        return None if key is None else any(key in part for part in self.parts)

    @property
    def is_empty(self) -> bool:
        """Nothing can be in it, as in `>2 <1`; not noticed for pypi."""
        return all(part.is_empty for part in self.parts)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Language:
    example: str
    operators: frozenset[str] = ORDER
    floor: Callable[[list[int]], Key] | None = None
    """The key just before all prereleases of these numbers; with it come `1.*`, and `^` and `~` where they are operators."""
    short_spans: bool = False
    """`1.2` stands for all of 1.2.x, and not for 1.2.0."""
    bare: str = "="
    """What a version without an operator means."""
    brackets: bool = False
    """Maven's and NuGet's `[1.0,2.0)`."""
    between: str = ", "
    """How two bounds are joined."""
    behind: str = ""
    """What stands between an operator and its version."""
    everything: tuple[str, ...] = ("*",)
    around: str = ""
    """Brackets that may stand around an alternative."""
    widest_caret: int | None = None
    """The last of the numbers, from 0, that `^` may raise."""
    raises_last_but_one: bool = False
    """`~>` does, and not the second number as `~`."""
    open_when_alone: bool = False
    """`~>` of one number has no end."""
    span: Callable[[str, Key], tuple[Key, Key] | None] | None = None
    """All versions that a version of the range stands for: the first, and what all of them are below; None: itself."""
    read: Callable[[str], Part] | None = None
    """Reads a whole alternative, in place of all the above."""


def parse_range(format: str, language: Language, key: Callable[[str], Key | None], text: str) -> Range:
    """Raises ValueError, whose text says what is wrong and shows a range of that format."""
    try:
        if len(text) > MAX_RANGE:
            raise ValueError(f"it has more than {MAX_RANGE} characters; split it into several rules")
        if not text.isascii() or not text.isprintable():
            raise ValueError("it holds characters outside printable ASCII")
        reader = _Reader(language, key)
        parts = [part for alternative in text.split("||") for part in reader.alternative(alternative.strip())]
    except ValueError as error:
        shown = text if len(text) <= 60 else f"{text[:60]}…"
        raise ValueError(f'"{shown}" is no range of {format}: {error}; write for example "{language.example}"') from None
    return Range(format, text, key, tuple(parts))


def render_interval(language: Language, low: str | None, high: str | None, high_in: bool) -> str:
    """As people of that ecosystem write it; parse_range() reads it."""
    if language.brackets:
        return f"{'(' if low is None else '['}{low or ''},{high or ''}{']' if high_in else ')'}"
    lower = "" if low is None else f">={language.behind}{low}"
    upper = "" if high is None else f"{'<=' if high_in else '<'}{language.behind}{high}"
    return language.between.join(bound for bound in (lower, upper) if bound)


_BRACKETED = re.compile(r"\s*([\[(])([^\[\]()]*)([\])])\s*(,?)")
_COMPARATOR = re.compile(r"(?P<operator>===|==|>=|<=|!=|~>|>>|<<|<|>|=|~|\^|)\s*(?P<version>[0-9A-Za-z*][^\s,|<>=!]*)\s*(?P<comma>,?)\s*")
_HYPHEN = re.compile(r"(\S+)\s+-\s+(\S+)")
_WILD = re.compile(r"[v=]*(?P<numbers>[0-9]+(?:\.[0-9]+){0,2})?(?:(?:^|\.)[*xX]){1,3}")
_LEADING = re.compile(r"v?([0-9]+(?:\.[0-9]+)*)")


class _Reader:
    """Of one language. All methods raise ValueError."""

    def __init__(self, language: Language, key: Callable[[str], Key | None]) -> None:
        self.language = language
        self.key_or_none = key

    def alternative(self, text: str) -> list[Part]:
        if not text:
            raise ValueError('an alternative is empty ("*" is everything)')
        if text in self.language.everything:
            return [ALL]
        if self.language.read is not None:
            return [self.language.read(text)]
        if self.language.around and text[0] + text[-1] == self.language.around:
            text = text[1:-1]
        if self.language.brackets and text[0] in "[(":
            return list(self.bracketed(text))
        return [self.comparators(text)]

    def bracketed(self, text: str) -> Iterator[Interval]:
        at, more = 0, True
        while at < len(text):
            match = _BRACKETED.match(text, at)
            if not match or not more:
                raise ValueError(f'expected "[" or "(" and its end at "{text[at : at + 20]}"')
            yield self.bracket(match[1] == "[", match[2], match[3] == "]")
            at, more = match.end(), bool(match[4])
        if more:
            raise ValueError("it ends with a comma")

    def bracket(self, low_in: bool, body: str, high_in: bool) -> Interval:
        low, comma, high = (part.strip() for part in body.partition(","))
        if not comma:
            if not (low and low_in and high_in):
                raise ValueError(f'one version stands in square brackets, as "[{low or "1.0"}]"')
            return Interval(self.key(low), True, self.key(low), True)
        return Interval(self.key(low) if low else None, low_in, self.key(high) if high else None, high_in)

    def comparators(self, text: str) -> Interval:
        hyphen = _HYPHEN.fullmatch(text) if self.language.short_spans else None
        if hyphen:
            return self.bound(">=", hyphen[1]).and_(self.bound("<=", hyphen[2]))
        interval, at, comma = ALL, 0, ""
        while at < len(text):
            match = _COMPARATOR.match(text, at)
            if not match:
                raise ValueError(f'cannot read "{text[at : at + 20]}"')
            interval = interval.and_(self.bound(match["operator"] or self.language.bare, match["version"]))
            at, comma = match.end(), match["comma"]
        if comma:
            raise ValueError("it ends with a comma")
        return interval

    def bound(self, operator: str, version: str) -> Interval:
        if operator not in self.language.operators:
            raise ValueError(f"{operator} is not one of its operators ({' '.join(sorted(self.language.operators))})")
        span = self.span(version)
        match operator:
            case "=" | "==":
                return span
            case "!=":
                return Interval(holes=(span,))
            case "<" | "<<":
                return Interval(high=span.low, high_in=False) if span.low is not None else NONE
            case "<=":
                return Interval(high=span.high, high_in=span.high_in)
            case ">" | ">>":
                return Interval(low=span.high, low_in=not span.high_in) if span.high is not None else NONE
            case ">=":
                return Interval(low=span.low)
        if span.low is None:
            return ALL
        return Interval(low=span.low, high=self.end(operator, version), high_in=False)

    def span(self, version: str) -> Interval:
        """All versions that a version in a range stands for: most often one."""
        language = self.language
        wild = _WILD.fullmatch(version) if language.short_spans or "*" in version else None
        numbers = wild["numbers"] if wild else None
        if language.short_spans and not wild and re.fullmatch(r"v?[0-9]+(?:\.[0-9]+)?", version):
            numbers = version.lstrip("v")
        if numbers and language.floor:
            given = numbers_of(numbers)
            return Interval(language.floor(given), True, language.floor(_raised(given, len(given) - 1)), False)
        if wild and language.floor:
            return ALL
        key = self.key(version)
        bounds = language.span(version, key) if language.span else None
        return Interval(bounds[0], True, bounds[1], False) if bounds else Interval(key, True, key, True)

    def key(self, version: str) -> Key:
        key = self.key_or_none(version)
        if key is None:
            raise ValueError(f'"{version[:40]}" is no version there')
        return key

    def end(self, operator: str, version: str) -> Key | None:
        """Where `^`, `~` and `~>` end; None: nowhere."""
        language = self.language
        match = _LEADING.match(version)
        if not match or not language.floor:
            raise ValueError(f"{operator} needs a version that begins with a number")
        numbers = numbers_of(match[1])
        if operator == "^":
            at = next((at for at, number in enumerate(numbers) if number), len(numbers) - 1)
            at = at if language.widest_caret is None else min(at, language.widest_caret)
        elif operator == "~>" and language.raises_last_but_one:
            if len(numbers) == 1 and language.open_when_alone:
                return None
            at = max(len(numbers) - 2, 0)
        else:
            at = min(len(numbers) - 1, 1)
        return language.floor(_raised(numbers, at))


def _raised(numbers: list[int], at: int) -> list[int]:
    return [*numbers[:at], numbers[at] + 1]
