"""The value by which a format's own world declares itself: its words, its section of the configuration, its names and its versions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from noraflask.ecosystems.names import Names
from noraflask.ecosystems.ranges import Language, Range, parse_range, render_interval
from noraflask.ecosystems.versions import MAX_VERSION, Key, as_written, cached_key, is_readable
from noraflask.settings import Setting


def _no_key(version: str) -> Key | None:
    return None


def split_at_sign(text: str) -> tuple[str, str | None]:
    """`NAME@VERSION` in its parts; None: there is no @. One at the beginning is that of a scope."""
    at = text.rfind("@")
    return (text[:at], text[at + 1 :]) if at > 0 else (text, None)


@dataclass(frozen=True)
class Versions:
    """Without a key they do not compare, and without a language there are no ranges."""

    same: Callable[[str], str] = as_written
    """The one spelling of what is equal; as written when it is no version."""
    pattern: Callable[[str], str] = as_written
    """A pattern, with a star, in the same form."""
    key: Callable[[str], Key | None] = _no_key
    language: Language | None = None
    is_version: Callable[[str], bool] | None = None
    """Where that is not what has a key."""
    from_osv: Callable[[str], str] = as_written
    """A version as records in the OSV format write it, in the ecosystem's own form."""


@dataclass(frozen=True, eq=False)
class Ecosystem:
    """All methods but parse_name() and parse_range() are total: whatever a client or a rule file sends, the answer comes in linear time."""

    id: str
    """NORA's word: the one in configuration, rules, labels, keys, audit and the names of folders."""
    title: str
    """For people."""
    aliases: tuple[str, ...] = ()
    """Other spellings that files and commands may use, in any letter case."""
    section: type[Any] | None = None
    """The frozen dataclass of its section of the configuration; None: this version does not serve it."""
    config_name: str = ""
    """Of that section, and as NORA's list of formats has it; empty: the id."""
    variable: str = ""
    """In NORA_<variable>_ENABLED; empty: the id in capitals."""
    not_yet: tuple[Setting, ...] = ()
    """Of NORA's section, what this version takes only switched off."""
    keys_not_yet: tuple[str, ...] = ()
    """Beginnings of keys of NORA's section that belong to features this version lacks, without the section."""
    reserved: tuple[str, ...] = ()
    """Words that name no repository, beside the id and the aliases: in the addresses of its clients they mean something else."""
    has_ages: bool = True
    """Ages and quarantine of its own may be set for it."""
    osv: tuple[str, ...] = ()
    """Its names in the OSV format, in small letters, without the suffix after ":"."""
    opened_by: str = "anonymous_read"
    """The setting of [auth] that opens its repositories for reading to everybody."""
    credential_headers: tuple[str, ...] = ()
    """Where its clients put a bare secret, beside the Authorization header; as the environ spells them, HTTP_X_…."""
    names: Names = field(default_factory=Names)
    versions: Versions = field(default_factory=Versions)
    split_reference: Callable[[str], tuple[str, str | None]] = split_at_sign
    """Name and version of what people write; the version is None when there is none, and empty when its sign is there alone."""

    @property
    def section_name(self) -> str:
        """Of its section in the file."""
        return self.config_name or self.id

    @property
    def variables(self) -> str:
        """What the variables of its section begin with."""
        return f"NORA_{self.variable or self.id.upper()}_"

    def parse_name(self, text: str) -> str:
        """What a client sent, as the canonical name. Raises InvalidName."""
        return self.names.parse(text)

    def same_name(self, text: str) -> str:
        """The one spelling of all names that are held for equal."""
        return self.names.same_name(text)

    def name_pattern(self, text: str) -> str:
        return self.names.pattern_of(text)

    def access_patterns(self, text: str) -> tuple[str, ...]:
        return self.names.access_patterns(text)

    def same_version(self, text: str) -> str:
        return self.versions.same(text) if is_readable(text) else text

    def version_pattern(self, text: str) -> str:
        return self.versions.pattern(text) if "*" in text else self.same_version(text)

    def version_key(self, version: str) -> Key | None:
        """A value that sorts as the ecosystem sorts its versions; None when it cannot be compared."""
        return cached_key(self.versions.key, version)

    def is_version(self, version: str) -> bool:
        """The ecosystem could have it."""
        if not version or len(version) > MAX_VERSION:
            return False
        return self.versions.is_version(version) if self.versions.is_version else self.version_key(version) is not None

    def compare(self, a: str, b: str) -> int | None:
        """-1, 0 or 1; None when one of them cannot be compared."""
        left, right = self.version_key(a), self.version_key(b)
        if left is None or right is None:
            return None
        return (left > right) - (left < right)

    def parse_range(self, text: str) -> Range:
        """Raises ValueError, whose text says what is wrong and shows a range of that format."""
        if self.versions.language is None:
            raise ValueError(f"{self.id} has no ranges; name versions one by one, or with a pattern such as 1.2*")
        return parse_range(self.id, self.versions.language, self.version_key, text)

    def render_interval(self, low: str | None, high: str | None, high_in: bool) -> str:
        """The range from `low` on and up to `high`, itself in it or not; None: without an end on that side."""
        return render_interval(self.versions.language or Language(""), low, high, high_in)
