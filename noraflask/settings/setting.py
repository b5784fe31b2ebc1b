"""A setting stands once: beside the field that holds its value, as `port: int = setting(4000, WholeNumber(1, 65535), "TCP port …", env="NORA_PORT")`.

Reading the file and the environment, `nora check-config`, the sample and the documentation all follow what stands there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from typing import Any

from noraflask.settings.setting_types import SettingType

DECLARED = "setting"
"""In a field's metadata."""


@dataclass(frozen=True)
class Setting:
    key: str
    """In the file; empty: it is only a variable."""
    env: tuple[str, ...]
    """Variables; none: it is only in the file."""
    type: SettingType
    meaning: str
    field: str = ""
    """That holds its value, such as "server.port"; empty: none does."""
    is_secret: bool = False
    """Its value is shown nowhere."""
    is_live: bool = False
    """A running server takes over a changed value."""
    per_repository: bool = False
    """A repository may set it for itself."""
    default: Any = None
    is_required: bool = False
    """In its table, which has no default for it."""

    @property
    def name(self) -> str:
        """Under which its value is kept while the sources are read."""
        return self.field or self.key or self.env[0]


@dataclass(frozen=True)
class _Declared:
    type: SettingType
    meaning: str
    env: str
    key: str
    is_secret: bool
    is_live: bool
    per_repository: bool


def setting(
    default: Any,
    type: SettingType,
    meaning: str,
    *,
    env: str = "",
    key: str = "",
    secret: bool = False,
    live: bool = False,
    per_repository: bool = False,
) -> Any:
    """A dataclass field. `key`: in the file, where it is not the section and the field; a repository's own values are live. MISSING: no default."""
    declared = _Declared(type, meaning, env, key, secret, live or per_repository, per_repository)
    return dataclasses.field(default=default, repr=not secret, metadata={DECLARED: declared})


def live_setting(default: Any, type: SettingType, meaning: str, *, env: str = "", key: str = "", secret: bool = False) -> Any:
    """Of which a running server takes over a changed value."""
    return setting(default, type, meaning, env=env, key=key, secret=secret, live=True)


def settings_of(section: type[Any], name: str = "", key: str = "") -> Iterator[Setting]:
    """Of a dataclass: a section whose values Config holds as `name`, or what a table may hold.

    `key`: the section's name in the file, where that is another.
    """
    for entry in fields(section):
        declared: _Declared | None = entry.metadata.get(DECLARED)
        if declared is None:
            continue
        yield Setting(
            key=declared.key or _dotted(key or name, entry.name),
            env=(declared.env,) if declared.env else (),
            type=declared.type,
            meaning=declared.meaning,
            field=_dotted(name, entry.name),
            is_secret=declared.is_secret,
            is_live=declared.is_live,
            per_repository=declared.per_repository,
            default=None if entry.default is MISSING else entry.default,
            is_required=entry.default is MISSING,
        )


def _dotted(section: str, name: str) -> str:
    return f"{section}.{name}" if section else name
