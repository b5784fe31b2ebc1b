"""What single values of rule files may be, and where readers put what they find. Functions return the canonical value or raise ValueError."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

from noraflask.config.text_file import shown
from noraflask.ecosystems import ECOSYSTEMS, ecosystem_of, find
from noraflask.services.curation import patterns
from noraflask.services.curation.model import Bypass, Expect, Namespace, Rule

MOST_PROBLEMS = 200
"""Problems that one load reports; a file that is wrong in every line is wrong in one way."""
MOST_REASON = 1000
MAX_LENGTH = patterns.MAX_LENGTH

_LENGTHS = {"sha256": 32, "sha512": 64}
_EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
_RANGE_SIGNS = re.compile(r"[<>=~^|,()\[\] ]")

CLEAN = re.compile(rf"(?!.{{{MAX_LENGTH + 1}}})[A-Za-z0-9@._+~:-]++(?:/[A-Za-z0-9@._+~:-]++)*+").fullmatch
"""Texts of the usual characters, without a star: nothing is to be said against them."""


class Notes:
    """Problems and warnings, one line each; of very many only the first are kept."""

    def __init__(self) -> None:
        self._lines: tuple[list[str], list[str]] = ([], [])
        self._counts = [0, 0]

    @property
    def has_problems(self) -> bool:
        return self._counts[0] > 0

    @property
    def is_full(self) -> bool:
        """Further problems are only counted."""
        return self._counts[0] >= MOST_PROBLEMS

    def problem(self, place: str, text: str) -> None:
        self._add(0, place, text)

    def warn(self, place: str, text: str) -> None:
        self._add(1, place, text)

    def all_problems(self) -> list[str]:
        return self._all(0, "problems")

    def all_warnings(self) -> list[str]:
        return self._all(1, "warnings")

    def _add(self, sort: int, place: str, text: str) -> None:
        self._counts[sort] += 1
        if self._counts[sort] <= MOST_PROBLEMS:
            self._lines[sort].append(f"{place}: {text}")

    def _all(self, sort: int, word: str) -> list[str]:
        more = self._counts[sort] - MOST_PROBLEMS
        return [*self._lines[sort], f"and {more} more {word}"] if more > 0 else self._lines[sort]


@dataclass
class Sink:
    """What was read so far."""

    notes: Notes = field(default_factory=Notes)
    rules: list[Rule] = field(default_factory=list)
    suspects: list[Rule] = field(default_factory=list)
    """Of the rules: those that may never match."""
    namespaces: list[Namespace] = field(default_factory=list)
    bypasses: list[Bypass] = field(default_factory=list)
    expects: list[Expect] = field(default_factory=list)
    has_allow_table: bool = False
    flip_until: float | None = None

    def add(self, rule: Rule) -> None:
        self.rules.append(rule)
        if never_matches(rule.format, rule.name) or (rule.version != "*" and patterns.dead(rule.version)):
            self.suspects.append(rule)


def format_of(text: Any) -> str:
    """The id of a format, or "*"."""
    if text == "*":
        return "*"
    ecosystem = find(text) if isinstance(text, str) else None
    if ecosystem is None:
        raise ValueError(f"{described(text)} is no format; expected * or one of {', '.join(sorted(ECOSYSTEMS))}")
    return ecosystem.id


def name_of(format: str, text: Any) -> str:
    return text if is_for_all(format, text) else ecosystem_of(format).name_pattern(text)


def version_of(format: str, text: Any) -> str:
    return text if is_for_all(format, text) else ecosystem_of(format).version_pattern(text)


def is_for_all(format: str, text: Any) -> bool:
    """Whether a pattern stays as it is written: one for all formats, or for all names and versions. Raises ValueError when it is none."""
    if text == "*":
        return True
    if not isinstance(text, str):
        raise ValueError(f"expected a string, got {described(text)}")
    problem = None if is_clean(text) else patterns.invalid(text)
    if problem:
        raise ValueError(f"{shown(text)}: {problem}")
    return format == "*"


def range_of(format: str, text: Any) -> str:
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"expected a range as a string, got {described(text)}")
    if format == "*":
        raise ValueError("each format has a range language of its own; set format, or formats")
    ecosystem_of(format).parse_range(text)
    return text


def is_range(text: str) -> bool:
    """Of the published guide's `versions`, which take both."""
    return bool(_RANGE_SIGNS.search(text))


def namespaces_of(text: Any, format: Any, place: str) -> list[Namespace]:
    canonical = format_of(format)
    return [Namespace(name_of(canonical, text), canonical, place)]


def digests_of(value: Any) -> tuple[str, ...]:
    """Hashes as `sha256:<hex>`, and as in Subresource Integrity: `sha512-<base64>`, several in a text parted by spaces."""
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list) or not given or not all(isinstance(text, str) and text.strip() for text in given):
        raise ValueError("expected a hash, or an array of hashes, such as sha256:<64 hex digits>")
    return tuple(dict.fromkeys(_digest_of(part) for text in given for part in text.split()))


def _digest_of(text: str) -> str:
    name, sign, rest = text.partition(":") if ":" in text else text.partition("-")
    name = name.lower()
    length = _LENGTHS.get(name)
    if length is None:
        raise ValueError(f"{shown(text)}: expected sha256:<64 hex digits>, sha512:<128 hex digits>, sha256-<base64> or sha512-<base64>")
    digits = rest.lower() if sign == ":" else _hex_of(rest.partition("?")[0])  # SRI: options follow a question mark
    if not re.fullmatch(f"[0-9a-f]{{{2 * length}}}", digits):
        raise ValueError(f"{shown(text)}: {name} has {2 * length} hex digits, or as many as that in base64")
    return f"{name}:{digits}"


def _hex_of(text: str) -> str:
    try:
        return base64.b64decode(text, validate=True).hex()
    except (ValueError, binascii.Error):
        return ""


def sha256_of(value: Any) -> str:
    digits = value.lower().removeprefix("sha256:") if isinstance(value, str) else ""
    if not re.fullmatch(r"[0-9a-f]{64}", digits):
        raise ValueError("expected the sha256 of the token, 64 hex digits (printf %s TOKEN | sha256sum)")
    if digits == _EMPTY:
        raise ValueError("is the sha256 of nothing at all, so the token was empty when it was made")
    return digits


def seconds_of(value: Any) -> float:
    """When: a day begins at 00:00 UTC, a time without an offset is one of UTC."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            value = None
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day, tzinfo=UTC)
    if not isinstance(value, datetime):
        raise ValueError("expected a day or a time such as 2026-12-31 or 2026-12-31T18:00:00Z")
    try:
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise ValueError("is a time that no clock here can show") from None


def reason_of(value: Any) -> str:
    """One line for people; it ends in answers and headers."""
    if not isinstance(value, str):
        raise ValueError(f"expected a string, got {described(value)}")
    if len(value) > MOST_REASON:
        raise ValueError(f"has {len(value)} characters, at most {MOST_REASON} are taken")
    if value.isprintable():
        return value
    return "".join(sign if sign.isprintable() else "?" for sign in " ".join(value.split()))


def word_of(value: Any) -> str:
    """For headers and logs, so ASCII without spaces."""
    if not isinstance(value, str) or not re.fullmatch(r"[!-~]{1,128}", value):
        raise ValueError("expected 1 to 128 printable ASCII characters without spaces")
    return value


def text_of(value: Any) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= 255 or not value.isprintable() or not value.strip():
        raise ValueError("expected 1 to 255 printable characters")
    return value


def is_clean(text: str) -> bool:
    """Raises TypeError when it is no string."""
    return CLEAN(text) is not None


def never_matches(format: str, name: str) -> str:
    """Why no name of the format is like this pattern; empty: there may be one."""
    names = ecosystem_of(format).names
    stranger = names.strangers.search(name)
    if stranger is not None:
        return f"{shown(name)} has {shown(stranger[0])}, and {names.rule}"
    return "" if CLEAN(name) else patterns.dead(name) or ""


def described(value: Any) -> str:
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return "a number"
    return "nothing" if value is None else "a list" if isinstance(value, list) else "a table" if isinstance(value, dict) else "a date or time"
