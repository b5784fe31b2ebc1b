"""The settings for people: what `nora check-config` prints, the sample file and the tables of docs/configuration.md.

`python -m noraflask.config.document`, run in the top folder, writes the last two anew.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from noraflask.config.access import PROVIDERS, ROLE_RULES, RULES, AccessRule, Claims, OidcProvider, RoleRule
from noraflask.config.curation import FormatCuration
from noraflask.config.model import Config
from noraflask.config.repositories import REPOSITORIES, RepositoryConfig, own_settings
from noraflask.config.settings import FORMAT_LIST, FORMAT_SETTINGS, KEYS_NOT_YET, NOT_YET, SERVED, SETTINGS, VARIABLES_NOT_YET
from noraflask.config.tables import TableArray
from noraflask.settings import Off, Setting
from noraflask.settings.texts import duration_text

SAMPLE = Path("etc/config.toml")
DOCS = Path("docs/configuration.md")
_EXAMPLES = {
    "server.public_url": "https://registry.example.com",
    "server.accel_redirect": "/_nora/",
    "registries.enable": SERVED[0].id,
    "auth.groups_file": "/etc/nora/groups",
    "auth.token_storage": "/var/lib/nora/tokens",
    "access.default_role": "read",
    "access.contact": "registry@example.com",
    "metrics.token_file": "/etc/nora/scrape-token",
    "audit.path": "/var/log/nora/audit.jsonl",
    "rate_limit.storage_url": "redis://redis.example.com:6379/0",
    "curation.blocklist_path": "/etc/nora/blocklist.json",
    "curation.allowlist_path": "/etc/nora/allowlist.json",
    "curation.rules_path": "/etc/nora/rules.toml",
    "curation.bypass_token": "",
    "curation.min_release_age": "7d",
    "curation.ledger_path": "/var/lib/nora/ledger",
    "curation.docs_url": "https://wiki.example.com/packages",
}
"""Of settings that are unset by default."""

_EXAMPLE_TABLES = {
    "auth.oidc.providers": OidcProvider(
        "ci",
        "https://ci.example.com",
        audience=("https://registry.example.com",),
        role_rules=(RoleRule("repo:team/*:ref:refs/heads/main", "write", ("team/**",)),),
    ),
    "access.rules": AccessRule("", ("pull", "push"), "Developers push to their team", groups=("developers",), names=("team/**",)),
    "repositories": RepositoryConfig(
        "",
        "team-images",
        SERVED[0].id,
        title="Images of the team",
        hosts=("images.example.com",),
        own=tuple((field.key, field.default) for field in own_settings(SERVED[0].id)[:1]),
    ),
}


def effective(config: Config) -> str:
    """Every setting with its value and its source, as TOML that gives the same configuration again."""
    lines, tables = [], []
    for setting in _in_config():
        source = config.sources.get(setting.name, "default")
        value = value_of(config, setting)
        if isinstance(setting.type, TableArray) and value:
            tables += [f"\n# {setting.key}: {len(value)}, from {source}\n", *_tables(setting.type, value)]
            continue
        lines.append(f"{_line(setting, value)}  # from {source}\n")
    for setting in FORMAT_SETTINGS:
        if setting.key in config.sources:
            lines.append(f"{_line(setting, _value_of_format(config, setting))}  # from {config.sources[setting.key]}\n")
    return "".join(lines + tables)


def _line(setting: Setting, value: Any) -> str:
    if value is None:
        return f"# {setting.key} is not set"
    return f"# {setting.key} is set and not shown" if setting.is_secret else f"{setting.key} = {toml(value)}"


def _value_of_format(config: Config, setting: Setting) -> Any:
    _, name, key = setting.key.split(".")
    return getattr(dict(config.curation.formats).get(name, FormatCuration()), key)


def _tables(kind: TableArray, values: Iterable[Any]) -> Iterator[str]:
    """Each value as a table, without the fields that have their defaults."""
    for value in values:
        yield f"[[{kind.header}]]\n"
        given = {field: getattr(value, field.key) for field in kind.fields}
        if isinstance(value, RepositoryConfig):
            given |= {field: dict(value.own)[field.key] for field in own_settings(value.format) if field.key in dict(value.own)}
        for field, content in given.items():
            if _is_told(value, field, content):
                yield f"{field.key} = {_claims(content) if isinstance(field.type, Claims) else toml(content)}\n"
        for field, content in given.items():
            if isinstance(field.type, TableArray):
                yield from _tables(field.type, content)


def _is_told(value: Any, field: Setting, content: Any) -> bool:
    """Arrays inside of a table come after the rest of it; of what it says itself in place of another section, all is told."""
    if isinstance(field.type, TableArray):
        return False
    return field.is_required or field.per_repository or content != field.default


def _claims(pairs: Iterable[tuple[str, str]]) -> str:
    patterns: dict[str, tuple[str, ...]] = {}
    for claim, pattern in pairs:
        patterns[claim] = (*patterns.get(claim, ()), pattern)
    return f"{{ {', '.join(f'{toml(claim)} = {toml(found)}' for claim, found in patterns.items())} }}"


def value_of(config: Config, setting: Setting) -> Any:
    section, dot, name = setting.name.partition(".")
    if not dot:
        return getattr(config, section)
    return getattr(config.formats[section] if section in config.formats else getattr(config, section), name)


def toml(value: Any) -> str:
    """The value as it is written in the file."""
    import tomlkit  # here, because a server writes no TOML

    return tomlkit.item(_plain(value)).as_string()


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):  # no setting has one that is no duration
        return duration_text(value)
    return value if isinstance(value, bool | int) else str(value)


def sample() -> str:
    """A file that says nothing but the defaults, each with its meaning."""
    head = (
        "# Configuration of noraflask. Every value here is the default, so an empty file, or none, means the same.\n"
        "# A NORA_* variable of the environment wins over this file. `nora check-config FILE` shows what is in force, and every mistake.\n"
        "# Written by `python -m noraflask.config.document`; docs/configuration.md tells more.\n"
    )
    return head + "".join(_sample_section(section) for section in _sections()) + _SAMPLE_FORMAT


_SAMPLE_FORMAT = (
    "\n# Ages and quarantine of one format, which win over those of [curation].\n"
    '# [curation.npm]\n# min_release_age = "3d"\n# quarantine = "enforce"\n# quarantine_ttl = "7d"\n'
)


def formats_table() -> str:
    rows = ["| key | variable |", "|---|---|"]
    rows += [f"| `{setting.key}` | `{setting.env[0]}` |" for setting in FORMAT_SETTINGS]
    return "\n".join(rows) + "\n"


def settings_table() -> str:
    rows = ["| key | variable | default | allowed | meaning |", "|---|---|---|---|---|"]
    for setting in SETTINGS:
        key = f"`{setting.key}`" if setting.key else ""
        variable = f"`{setting.env[0]}`" if setting.env else ""
        cells = (key, variable, _default_cell(setting), setting.type.expected, setting.meaning)
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def own_table() -> str:
    """Settings of a format that a repository may have of its own."""
    rows = ["| format | keys |", "|---|---|"]
    rows += [f"| {ecosystem.id} | {', '.join(f'`{field.key}`' for field in own_settings(ecosystem.id))} |" for ecosystem in SERVED]
    return "\n".join(rows) + "\n"


def fields_table(kind: TableArray) -> str:
    rows = ["| key | default | allowed | meaning |", "|---|---|---|---|"]
    for field in kind.fields:
        is_unset = field.default in (None, (), "")
        cell = "required" if field.is_required else "unset" if is_unset else f"`{toml(field.default)}`"
        rows.append(f"| `{field.key}` | {cell} | {field.type.expected} | {field.meaning} |")
    return "\n".join(rows) + "\n"


def not_yet_table() -> str:
    rows = ["| key | variable | accepted | feature |", "|---|---|---|---|"]
    for setting in NOT_YET:
        feature = setting.type.feature if isinstance(setting.type, Off) else ""
        key = f"`{setting.key}`" if setting.key else ""
        rows.append(f"| {key} | {', '.join(f'`{name}`' for name in setting.env)} | {setting.type.expected} | {feature} |")
    keys = ", ".join(f"`{begin}*`" for begin in KEYS_NOT_YET)
    variables = ", ".join(f"`{begin}*`" for begin in VARIABLES_NOT_YET)
    return "\n".join(rows) + f"\n\nRefused whatever they say are all other keys {keys} and all other variables {variables}.\n"


def with_tables(text: str) -> str:
    """The page with its generated parts, which stand between marks, made anew."""
    generated = {
        "settings": settings_table(),
        "rules": fields_table(RULES),
        "providers": fields_table(PROVIDERS),
        "role-rules": fields_table(ROLE_RULES),
        "repositories": fields_table(REPOSITORIES),
        "own-settings": own_table(),
        "curation-formats": formats_table(),
        "not-yet": not_yet_table(),
    }
    for mark, table in generated.items():
        before, begin, rest = text.partition(f"<!-- {mark} -->\n")
        _, end, after = rest.partition(f"<!-- /{mark} -->")
        text = before + begin + table + end + after
    return text


def _in_config() -> list[Setting]:
    """Settings with a key whose value a Config holds; the list of formats ends in the switches of the formats."""
    return [setting for setting in SETTINGS if setting.key and setting is not FORMAT_LIST]


def _default_cell(setting: Setting) -> str:
    value = value_of(Config(), setting) if setting in _in_config() else None
    return "unset" if value is None or isinstance(setting.type, TableArray) else f"`{toml(value)}`"


def _sections() -> list[str]:
    return list(dict.fromkeys(setting.key.rpartition(".")[0] for setting in SETTINGS if setting.key))


def _sample_section(section: str) -> str:
    return (f"\n[{section}]\n" if section else "\n") + "\n".join(_sample_lines(section))


def _sample_lines(section: str) -> Iterator[str]:
    for setting in SETTINGS:
        if setting.key and setting.key.rpartition(".")[0] == section:
            variable = f" Variable: {setting.env[0]}" if setting.env else ""
            comment = f"{setting.meaning} Allowed: {setting.type.expected}.{variable}"
            yield "".join(f"# {part}\n" for part in textwrap.wrap(comment, 136)) + _sample_value(setting)


def _sample_value(setting: Setting) -> str:
    """The line of its default; an example, as a comment, where there is none."""
    if isinstance(setting.type, TableArray):
        return "".join(f"# {line}" for line in _tables(setting.type, [_EXAMPLE_TABLES[setting.key]]))
    name = setting.key.rpartition(".")[2]
    value = None if setting.key in _EXAMPLES else value_of(Config(), setting)
    return f"# {name} = {toml(_EXAMPLES[setting.key])}\n" if value is None else f"{name} = {toml(value)}\n"


if __name__ == "__main__":
    SAMPLE.write_text(sample(), encoding="utf-8")
    DOCS.write_text(with_tables(DOCS.read_text(encoding="utf-8")), encoding="utf-8")
