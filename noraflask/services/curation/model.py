"""The words of curation: what is asked about, what rules say, what the answer is."""

from __future__ import annotations

import enum
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Package:
    """What somebody wants to have: an artifact, or (without a version) an index. Names and versions in canonical form (ecosystems/)."""

    format: str
    name: str
    version: str | None = None
    """None: an index, or an artifact whose version cannot be told."""
    repository: str = ""
    is_index: bool = False
    digests: tuple[str, ...] = ()
    """Of the bytes, such as "sha256:<hex>"; empty when they are not known yet."""
    published: float | None = None
    """When this version was published, seconds since the epoch, by an index that is trusted or by when it was first seen here."""
    seen: float | None = None
    """When these bytes were first fetched from an upstream."""
    hosted: bool = True
    """It was published here, and not fetched from an upstream."""
    is_part: bool = False
    """Bytes that artifacts are made of, such as a layer: judged with those, and in the ledger so that a direct reader is named."""


class Kind(enum.Enum):
    BLOCK = "block"
    ALLOW = "allow"
    EXCEPT = "except"
    """Takes a version out of what blocks, ages and quarantine say; not out of namespaces, allowlist and pins."""
    AGE = "age"
    PIN = "pin"


@dataclass(slots=True, unsafe_hash=True)
class Rule:
    """Never changed once it is made. It is not declared frozen, because that makes it four times as slow to make, and feeds have very many."""

    id: str
    """Given in the file, else "<file name>#<number from 1>"."""
    kind: Kind
    format: str
    """The id of a format, or "*"."""
    name: str
    """A pattern over canonical names (patterns.py); "*" is all."""
    version: str = "*"
    """A pattern over canonical versions; "*" is all, also an unknown version. Not used when `range` is set."""
    range: str = ""
    """In the format's own range language (Ecosystem.parse_range())."""
    repository: str = "*"
    reason: str = ""
    place: str = ""
    """"blocklist.json:12"."""
    audit_only: bool = False
    """The rule's own mode = "audit": it tells what it would do."""
    expires: float | None = None
    """Seconds since the epoch; from then on the rule counts as absent."""
    owner: str = ""
    ticket: str = ""
    integrity: tuple[str, ...] = ()
    """Of ALLOW and PIN: canonical digests, "sha256:<hex>" or "sha512:<hex>"; the bytes must have one of them."""
    min_age: float | None = None
    """Of AGE, seconds; 0 exempts."""


@dataclass(frozen=True, slots=True)
class Namespace:
    pattern: str
    format: str = "*"
    place: str = ""


@dataclass(frozen=True, slots=True)
class Bypass:
    """A token that lets its bearer past blocklist, allowlist and ages."""

    name: str
    sha256: str
    """Hex, of the token."""
    expires: float | None = None
    place: str = ""


@dataclass(frozen=True, slots=True)
class Expect:
    """A test that the rule file carries: it is checked whenever the file is loaded."""

    format: str
    name: str
    version: str | None
    allowed: bool
    age: float | None = None
    """Seconds since publication; None: not known."""
    hosted: bool = False
    place: str = ""


@dataclass(frozen=True, slots=True)
class RuleSet:
    """All that the rule files say."""

    rules: tuple[Rule, ...] = ()
    namespaces: tuple[Namespace, ...] = ()
    bypasses: tuple[Bypass, ...] = ()
    expects: tuple[Expect, ...] = ()
    has_allowlist: bool = False
    """What no ALLOW rule names is refused, also when there is no such rule at all."""
    flip_until: float | None = None
    """The file says that many new blocks are meant, until then."""
    warnings: tuple[str, ...] = ()
    """One line each: dead patterns, rules that have expired, duplicates."""


@dataclass(frozen=True, slots=True)
class Decision:
    allowed: bool
    filter: str = ""
    """Which one decided: namespace, blocklist, allowlist, allowlist:integrity, min-release-age, pin, quarantine; empty: none of them."""
    rule: Rule | None = None
    reason: str = ""
    until: float | None = None
    """When the answer changes by itself: a version ripens, an exception or a rule expires."""
    would_block: bool = False
    """Allowed although `filter` and `rule` say no, because the mode or the rule is audit."""
    bypassed_by: str = ""
    """The name of the bypass token that was honoured."""
    read_back: bool = False
    """Allowed to whoever is pushing it, although `filter` says that nobody may have it yet."""
