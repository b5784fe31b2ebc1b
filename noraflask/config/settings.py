"""All settings, collected from the sections where they stand, and NORA's that this version lacks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

from noraflask.config.curation import FormatCuration
from noraflask.config.model import Config
from noraflask.config.repositories import REPOSITORIES
from noraflask.ecosystems import ECOSYSTEMS, find
from noraflask.settings import FormatList, Off, RustLog, Setting, Switch, Text, settings_of

SERVED = tuple(ecosystem for ecosystem in ECOSYSTEMS.values() if ecosystem.section)
NOT_SERVED = tuple(ecosystem for ecosystem in ECOSYSTEMS.values() if not ecosystem.section)
CURATED = tuple(ecosystem for ecosystem in ECOSYSTEMS.values() if ecosystem.has_ages)
"""Those that may have ages and quarantine of their own."""


def _id_of(word: str) -> str | None:
    ecosystem = find(word)
    return ecosystem.id if ecosystem else None


FORMAT_LIST = Setting(
    "registries.enable",
    ("NORA_REGISTRIES_ENABLE",),
    FormatList(tuple(ecosystem.id for ecosystem in SERVED), _id_of),
    "Formats to serve, as in NORA: a list, or all; set, it wins over the switch `enabled` of each format.",
)

SECTIONS_OF_CONFIG: dict[str, Any] = {entry.name: entry.default_factory for entry in fields(Config) if is_dataclass(entry.default_factory)}
"""The sections that are no formats, by their fields in Config."""


def _settings() -> Iterator[Setting]:
    for name, section in SECTIONS_OF_CONFIG.items():
        yield from settings_of(section, name)
    for ecosystem in SERVED:
        yield from settings_of(ecosystem.section, ecosystem.id, ecosystem.section_name)  # type: ignore[arg-type]
    yield Setting(
        REPOSITORIES.header, (), REPOSITORIES, "Repositories beside the default ones; see Repositories.", "repositories", is_live=True, default=()
    )
    yield FORMAT_LIST
    yield Setting(
        "",
        ("RUST_LOG",),
        RustLog(),
        "Sets logging.level as in NORA: the plain level of a list such as info,target=debug; NORA_LOG_LEVEL wins over it.",
        "logging.level",
    )
    yield Setting(
        "",
        ("NORA_CONFIG_PATH",),
        Text("a path", str, optional=True),
        "The configuration file. Unset: config.toml of the working folder, when it is there.",
    )
    yield Setting("", ("NORA_CONFIG_STRICT",), Switch(), "Accepted for NORA's sake and without effect: unknown names are always refused.")


SETTINGS = tuple(_settings())
"""What this version obeys. RUST_LOG is asked before all other variables."""

FORMAT_SETTINGS = tuple(
    replace(entry, env=(f"NORA_CURATION_{ecosystem.id.upper()}_{entry.key.rpartition('.')[2].upper()}",), meaning=f"{entry.field} of {ecosystem.id}.")
    for ecosystem in CURATED
    for entry in settings_of(FormatCuration, f"curation.{ecosystem.id}")
)
"""Of curation.formats; documented once for all formats."""


def _formats_not_yet() -> Iterator[Setting]:
    for ecosystem in NOT_SERVED:
        name = ecosystem.section_name
        yield Setting(f"{name}.enabled", (f"{ecosystem.variables}ENABLED",), Off(f"the format {name}"), "")


NOT_YET: tuple[Setting, ...] = (
    Setting("gc.enabled", ("NORA_GC_ENABLED",), Off("garbage collection"), ""),
    Setting("retention.enabled", ("NORA_RETENTION_ENABLED",), Off("retention"), ""),
    Setting("circuit_breaker.enabled", ("NORA_CB_ENABLED",), Off("the circuit breaker"), ""),
    Setting("signing.enabled", ("NORA_SIGNING_ENABLED",), Off("signing of package indexes"), ""),
    *(setting for ecosystem in SERVED for setting in ecosystem.not_yet),
    Setting("", ("NORA_LOG_FILE",), Off("a log file (all lines go to stdout; send that where you want them)", ("",)), ""),
    *_formats_not_yet(),
)
"""NORA's features that this version lacks: "off" is accepted, so that an existing environment works; "on" is refused, never ignored."""

_OWNERS = [setting for setting in NOT_YET if setting.key.endswith((".enabled", ".mode"))]  # gc.enabled stands for gc.* and NORA_GC_*

KEYS_NOT_YET = (
    *(setting.key[: setting.key.rindex(".") + 1] for setting in _OWNERS),
    *("tls.", "secrets.", "storage.s3_", "storage.gcs_", "storage.bucket", "server.proxy_coalesce"),
    *(f"{ecosystem.section_name}.{key}" for ecosystem in SERVED for key in ecosystem.keys_not_yet),
)
"""Beginnings of keys of NORA that belong to features this version lacks."""

VARIABLES_NOT_YET = (
    *(setting.env[0][: setting.env[0].rindex("_") + 1] for setting in _OWNERS),
    *("NORA_TLS_", "NORA_SECRETS_", "NORA_STORAGE_S3_", "NORA_STORAGE_GCS_", "NORA_STORAGE_BUCKET", "NORA_IMPORT_AUTH"),
    *(f"{ecosystem.variables}{key.upper()}" for ecosystem in SERVED for key in ecosystem.keys_not_yet),
)
"""Beginnings of such variables."""

_ALL = (*SETTINGS, *FORMAT_SETTINGS, *NOT_YET)
BY_KEY = {setting.key: setting for setting in _ALL if setting.key}
BY_ENV = {name: setting for setting in _ALL for name in setting.env}
SECTIONS = {key.rpartition(".")[0] for key in BY_KEY} - {""}
_LIVE = {setting.field for setting in SETTINGS if setting.is_live} | {"curation.formats"}


def is_live(name: str) -> bool:
    """Does a running server take over a changed value of this field, such as "access.rules"?"""
    return name in _LIVE


def is_not_yet(name: str) -> bool:
    """Whether a key, a section or a variable that is not in the tables belongs to a feature of NORA that this version lacks."""
    return name.startswith(KEYS_NOT_YET + VARIABLES_NOT_YET) or f"{name}." in KEYS_NOT_YET
