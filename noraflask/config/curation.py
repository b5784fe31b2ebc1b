"""The section of curation, and what single formats have of it for themselves."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from noraflask.config.sections import PATH
from noraflask.settings import DAY, Choice, Duration, Listed, Switch, Text, WholeNumber, live_setting
from noraflask.settings.texts import read_on_failure, read_secret, read_uri, read_word


@dataclass(frozen=True)
class FormatCuration:
    """What one format has of its own; None: as for all formats."""

    min_release_age: float | None = live_setting(None, Duration(), "")
    quarantine: str | None = live_setting(None, Choice(("off", "observe", "enforce"), optional=True), "")
    quarantine_ttl: float | None = live_setting(None, Duration(), "")


@dataclass(frozen=True)
class CurationConfig:
    mode: str = live_setting(
        "off",
        Choice(("off", "audit", "enforce")),
        "off: only internal namespaces hold. audit: what would be refused is served and told. enforce: it is refused.",
        env="NORA_CURATION_MODE",
    )
    on_failure: str = live_setting(
        "closed",
        Text("closed", read_on_failure),
        "A gate that cannot decide says no; NORA's word open is refused.",
        env="NORA_CURATION_ON_FAILURE",
    )
    blocklist_path: Path | None = live_setting(None, PATH, "What is refused, in NORA's JSON.", env="NORA_CURATION_BLOCKLIST_PATH")
    allowlist_path: Path | None = live_setting(None, PATH, "What alone is let through, in NORA's JSON.", env="NORA_CURATION_ALLOWLIST_PATH")
    rules_path: Path | None = live_setting(None, PATH, "Rules of all kinds, in TOML.", env="NORA_CURATION_RULES_PATH")
    bypass_token: str | None = live_setting(
        None,
        Text("1 to 1024 printable ASCII characters without spaces", read_secret, optional=True),
        "Who sends it passes blocklist, allowlist and ages. Better in the variable than in the file; best are [[bypass]] tables, which expire.",
        env="NORA_CURATION_BYPASS_TOKEN",
        secret=True,
    )
    require_integrity: bool = live_setting(
        False, Switch(), "Whether entries of the allowlist without a hash let nothing through.", env="NORA_CURATION_REQUIRE_INTEGRITY"
    )
    internal_namespaces: tuple[str, ...] = live_setting(
        (),
        Listed("patterns of 1 to 255 printable characters without spaces", read_word, commas=True),
        "Names of your own, such as @corp/**: served from here whatever the rules say, and never asked of an upstream, in every mode.",
        env="NORA_CURATION_INTERNAL_NS",
    )
    min_release_age: float | None = live_setting(
        None, Duration(), "Versions that are younger are refused. Unset: none are.", env="NORA_CURATION_MIN_RELEASE_AGE"
    )
    hosted: bool = live_setting(False, Switch(), "Whether min_release_age also holds for what was published here.", env="NORA_CURATION_HOSTED")
    unknown_age: str = live_setting(
        "block",
        Choice(("block", "allow")),
        "What becomes of a version with a min_release_age whose date is not known.",
        env="NORA_CURATION_UNKNOWN_AGE",
    )
    trust_upstream_dates: bool = live_setting(
        False,
        Switch(),
        "Whether an upstream is believed when it says when a version was published. false: its age begins when it is first seen here.",
        env="NORA_TRUST_UPSTREAM_DATES",
        key="server.trust_upstream_dates",
    )
    quarantine: str = live_setting(
        "off",
        Choice(("off", "observe", "enforce"), aliases=(("", "off"),)),
        "What becomes of bytes of an upstream until they are here for quarantine_ttl; observe only tells.",
        env="NORA_CURATION_QUARANTINE",
    )
    quarantine_ttl: float = live_setting(
        14.0 * DAY, Duration(empty=14.0 * DAY), "How long new bytes are in quarantine.", env="NORA_CURATION_QUARANTINE_TTL"
    )
    flip_guard_percent: int = live_setting(
        0,
        WholeNumber(0, 100),
        "A reload that would newly refuse more than this share of what was served lately is itself refused; 0 = no guard.",
        env="NORA_CURATION_FLIP_GUARD_PERCENT",
    )
    audit_allows: bool = live_setting(False, Switch(), "Whether the audit log is told of plain allows as well.", env="NORA_CURATION_AUDIT_ALLOWS")
    ledger: bool = live_setting(True, Switch(), "Whether it is written down what was served to whom.", env="NORA_CURATION_LEDGER")
    ledger_path: Path | None = live_setting(None, PATH, "Folder of that. Unset: ledger in the state folder.", env="NORA_CURATION_LEDGER_PATH")
    ledger_days: int = live_setting(90, WholeNumber(1, 3650), "Days that it is kept.", env="NORA_CURATION_LEDGER_DAYS")
    docs_url: str | None = live_setting(
        None, Text("an http:// or https:// address", read_uri, optional=True), "Where refusals send people to read on.", env="NORA_CURATION_DOCS_URL"
    )
    formats: tuple[tuple[str, FormatCuration], ...] = field(default=())
    """By format, of those that have something of their own; from curation.<format>.*, live as all here."""
