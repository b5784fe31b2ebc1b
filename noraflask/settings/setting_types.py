"""Types of setting: how the text of a variable and a value of the file become a Python value, and what is said when they cannot."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from noraflask.settings.texts import Bad, read_duration

TRUE_WORDS = ("true", "1", "yes", "on")
FALSE_WORDS = ("false", "0", "no", "off")
KEEP = object()
"""What a variable gives that is set but says nothing about its setting: the value from before stays."""


class SettingType(Protocol):
    @property
    def expected(self) -> str: ...  # in words, as in "expected a whole number from 1 to 65535"

    def from_text(self, text: str) -> Any: ...  # an environment variable; raises Bad

    def from_toml(self, value: Any) -> Any: ...  # a plain Python value of the file; raises Bad


@dataclass(frozen=True)
class WholeNumber:
    low: int
    high: int

    @property
    def expected(self) -> str:
        return f"a whole number from {self.low} to {self.high}"

    def from_text(self, text: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,18}", text, re.ASCII):
            raise Bad(f"expected {self.expected}")
        return self.from_toml(int(text))

    def from_toml(self, value: Any) -> int:
        if type(value) is not int or not self.low <= value <= self.high:
            raise Bad(f"expected {self.expected}")
        return value


@dataclass(frozen=True)
class Switch:
    expected: str = "true or false"

    def from_text(self, text: str) -> bool:
        word = text.lower()
        if word not in TRUE_WORDS + FALSE_WORDS:
            raise Bad("expected one of true, false, 1, 0, yes, no, on, off")
        return word in TRUE_WORDS

    def from_toml(self, value: Any) -> bool:
        if type(value) is not bool:
            raise Bad("expected true or false, without quotes")
        return value


@dataclass(frozen=True)
class Choice:
    words: tuple[str, ...]
    aliases: tuple[tuple[str, str], ...] = ()
    not_yet: tuple[str, ...] = ()  # words that NORA knows and this version does not
    optional: bool = False  # an empty text is None

    @property
    def expected(self) -> str:
        return " or ".join([", ".join(self.words[:-1]), self.words[-1]]) if len(self.words) > 1 else self.words[0]

    def from_text(self, text: str) -> str | None:
        if self.optional and not text:
            return None
        word = text.lower()
        if word in self.not_yet:
            raise Bad(f"{word} is not supported by this version, expected {self.expected}", show_value=False)
        word = dict(self.aliases).get(word, word)
        if word not in self.words:
            raise Bad(f"expected {self.expected}")
        return word

    def from_toml(self, value: Any) -> str | None:
        return self.from_text(_string(value, self.expected))


@dataclass(frozen=True)
class Text:
    """A text that `read` accepts and changes into the value; `read` raises ValueError for others."""

    expected: str
    read: Callable[[str], Any]
    optional: bool = False  # an empty text is None

    def from_text(self, text: str) -> Any:
        if self.optional and not text:
            return None
        try:
            return self.read(text)
        except Bad:
            raise
        except ValueError:
            raise Bad(f"expected {self.expected}") from None

    def from_toml(self, value: Any) -> Any:
        return self.from_text(_string(value, self.expected))


@dataclass(frozen=True)
class Duration:
    """Seconds, written as NORA does; an empty text is `empty`."""

    empty: float | None = None
    expected: str = "a duration of weeks, days and hours such as 7d, 1w2d or 36h"

    def from_text(self, text: str) -> float | None:
        if not text:
            return self.empty
        try:
            seconds = read_duration(text)
        except ValueError:
            raise Bad(f"expected {self.expected}") from None
        if not seconds:
            raise Bad("must be longer than 0; leave it out to have none")
        return seconds

    def from_toml(self, value: Any) -> float | None:
        return self.from_text(_string(value, self.expected))


@dataclass(frozen=True)
class Addresses:
    """IP addresses and networks: `a,b` or, in the file, also an array. Nothing at all means nobody."""

    expected: str = "IP addresses and networks such as 127.0.0.1,10.0.0.0/8"

    def from_text(self, text: str) -> tuple[str, ...]:
        return self.from_toml([entry.strip() for entry in text.split(",") if entry.strip()])

    def from_toml(self, value: Any) -> tuple[str, ...]:
        if isinstance(value, str):
            return self.from_text(value)
        if not isinstance(value, list):
            raise Bad(f"expected {self.expected}")
        for number, entry in enumerate(value, 1):
            if not _is_network(entry):
                raise Bad(f"expected {self.expected}; entry {number} is neither", show_value=False)
        return tuple(value)


@dataclass(frozen=True)
class Listed:
    """Texts that `read` takes. In the file, a single string is a list of one; with `commas` it is parted as in a variable."""

    expected: str
    read: Callable[[str], str]
    least: int = 0
    commas: bool = False

    def from_text(self, text: str) -> tuple[str, ...]:
        return self.from_toml([entry.strip() for entry in text.split(",") if entry.strip()])

    def from_toml(self, value: Any) -> tuple[str, ...]:
        if isinstance(value, str):
            if self.commas:
                return self.from_text(value)
            return (self._entry(value, ""),) if value or self.least else ()
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            raise Bad(f"expected {self.expected}, as a string or an array of strings")
        if len(value) < self.least:
            raise Bad(f"expected {self.expected}, at least one")
        return tuple(dict.fromkeys(self._entry(entry, f"entry {number}: ") for number, entry in enumerate(value, 1)))

    def _entry(self, text: str, begin: str) -> str:
        try:
            return self.read(text)
        except Bad as bad:
            raise Bad(begin + bad.text, show_value=False) from None
        except ValueError:
            raise Bad(f"{begin}expected {self.expected}", show_value=not begin) from None


@dataclass(frozen=True)
class FormatList:
    """NORA's list of formats: names, or `all`, or `all` with exclusions written `-name`. The value: the ids of those that are chosen."""

    served: tuple[str, ...]
    """Ids."""
    id_of: Callable[[str], str | None]
    """The id of a format, served or not, by any of its names."""

    @property
    def expected(self) -> str:
        return " or ".join([", ".join(self.served), "all"])

    def from_text(self, text: str) -> Any:
        return self.from_toml(text.split(",")) if text.strip() else KEEP

    def from_toml(self, value: Any) -> frozenset[str]:
        if isinstance(value, str):
            value = value.split(",")
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise Bad(f"expected {self.expected}, as a string or an array of strings")
        names = [name.strip().lower() for name in value]
        ids = {name: self._id_of(name) for name in names}
        named = {ids[name] for name in names if not name.startswith("-") and name != "all"}
        if "all" in names and named:
            raise Bad("expected either all or the names of formats, not both")
        chosen = set(self.served) if "all" in names else named
        chosen -= {ids[name] for name in names if name.startswith("-")}
        if not chosen:
            raise Bad(f"no format is left, expected at least {' or '.join(self.served)}")
        return frozenset(chosen)

    def _id_of(self, name: str) -> str:
        """Of `name` or `-name`."""
        plain = name.removeprefix("-")
        if plain == "all" and plain == name:
            return ""
        id = self.id_of(plain)
        if id is None:
            raise Bad(f"expected {self.expected}")
        if id not in self.served and plain == name:
            raise Bad(f"the format {name} is not supported by this version, expected {self.expected}", show_value=False)
        return id


@dataclass(frozen=True)
class RustLog:
    """The plain level of a filter such as `info,hyper=debug`; directives for single targets are the other programs' business."""

    expected: str = "a level such as info, alone or in a list such as info,target=debug"

    def from_text(self, text: str) -> Any:
        directives = [part.strip() for part in text.split(",") if part.strip()]
        levels = [RUST_LEVELS[part.lower()] for part in directives if part.lower() in RUST_LEVELS]
        if levels:
            return levels[-1]
        if directives and not any("=" in part or "::" in part for part in directives):
            raise Bad(f"expected {self.expected}")
        return KEEP

    def from_toml(self, value: Any) -> Any:
        return self.from_text(_string(value, self.expected))


RUST_LEVELS = {word: word for word in ("trace", "debug", "info", "warn", "error")} | {"warning": "warn", "off": "error"}


@dataclass(frozen=True)
class Off:
    """A feature of NORA that this version lacks: a value that says "off" is taken, everything else is refused."""

    feature: str
    words: tuple[str, ...] = ()  # texts that say "off"; none: it is a switch

    @property
    def expected(self) -> str:
        return " or ".join(word or "empty" for word in self.words) or "false"

    def from_text(self, text: str) -> None:
        """Of a switch only a word that switches it on is refused: NORA takes all others for off."""
        word = text.strip().lower()
        if word in TRUE_WORDS if not self.words else word not in ("", *self.words):
            raise self._refusal()

    def from_toml(self, value: Any) -> None:
        off = value in self.words if isinstance(value, str) else value is False and not self.words
        if not off and not (value == [] and "" in self.words):
            raise self._refusal()

    def _refusal(self) -> Bad:
        return Bad(f"{self.feature} is not supported by this version, expected {self.expected}", show_value=False)


def _string(value: Any, expected: str) -> str:
    if not isinstance(value, str):
        raise Bad(f"expected {expected}, as a string")
    return value


def _is_network(entry: Any) -> bool:
    try:
        ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False
    return isinstance(entry, str)
