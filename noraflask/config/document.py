"""The settings for people: what `nora check-config` prints, the sample file and the tables of docs/configuration.md.

`python -m noraflask.config.document`, run in the top folder, writes the last two anew.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from noraflask.config.kinds import Off
from noraflask.config.model import Config
from noraflask.config.settings import KEYS_NOT_YET, NOT_YET, SETTINGS, VARIABLES_NOT_YET, Setting

SAMPLE = Path("etc/config.toml")
DOCS = Path("docs/configuration.md")
_EXAMPLES = {"server.public_url": "https://registry.example.com", "registries.enable": "docker"}  # of settings that are unset by default


def effective(config: Config) -> str:
    """Every setting with its value and its source, as TOML that gives the same configuration again."""
    lines = []
    for setting in _in_config():
        field = setting.field or setting.key
        value = value_of(config, setting)
        text = f"# {setting.key} is not set" if value is None else f"{setting.key} = {toml(value)}"
        lines.append(f"{text}  # from {config.sources.get(field, 'default')}\n")
    return "".join(lines)


def value_of(config: Config, setting: Setting) -> Any:
    section, name = (setting.field or setting.key).split(".")
    return getattr(getattr(config, section), name)


def toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(toml(entry) for entry in value)}]"
    return str(value) if isinstance(value, int) else json.dumps(str(value), ensure_ascii=False)


def sample() -> str:
    """A file that says nothing but the defaults, each with its meaning."""
    head = (
        "# Configuration of noraflask. Every value here is the default, so an empty file, or none, means the same.\n"
        "# A NORA_* variable of the environment wins over this file. `nora check-config FILE` shows what is in force, and every mistake.\n"
        "# Written by `python -m noraflask.config.document`; docs/configuration.md tells more.\n"
    )
    return head + "".join(_sample_section(section) for section in _sections())


def settings_table() -> str:
    rows = ["| key | variable | default | allowed | meaning |", "|---|---|---|---|---|"]
    for setting in SETTINGS:
        key = f"`{setting.key}`" if setting.key else ""
        cells = (key, f"`{setting.env[0]}`", _default_cell(setting), setting.kind.expected, setting.meaning)
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def not_yet_table() -> str:
    rows = ["| key | variable | accepted | feature |", "|---|---|---|---|"]
    for setting in NOT_YET:
        feature = setting.kind.feature if isinstance(setting.kind, Off) else ""
        key = f"`{setting.key}`" if setting.key else ""
        rows.append(f"| {key} | {', '.join(f'`{name}`' for name in setting.env)} | {setting.kind.expected} | {feature} |")
    keys = ", ".join(f"`{begin}*`" for begin in KEYS_NOT_YET)
    variables = ", ".join(f"`{begin}*`" for begin in VARIABLES_NOT_YET)
    return "\n".join(rows) + f"\n\nRefused whatever they say are all other keys {keys} and all other variables {variables}.\n"


def with_tables(text: str) -> str:
    """The page with its generated parts, which stand between marks, made anew."""
    for mark, table in (("settings", settings_table()), ("not-yet", not_yet_table())):
        before, begin, rest = text.partition(f"<!-- {mark} -->\n")
        _, end, after = rest.partition(f"<!-- /{mark} -->")
        text = before + begin + table + end + after
    return text


def _in_config() -> list[Setting]:
    """Settings with a key whose value a Config holds; registries.enable ends in docker.enabled."""
    return [setting for setting in SETTINGS if setting.key and setting.key != "registries.enable"]


def _default_cell(setting: Setting) -> str:
    value = value_of(Config(), setting) if setting in _in_config() else None
    return "unset" if value is None else f"`{toml(value)}`"


def _sections() -> list[str]:
    return list(dict.fromkeys(setting.key.partition(".")[0] for setting in SETTINGS if setting.key))


def _sample_section(section: str) -> str:
    return f"\n[{section}]\n" + "\n".join(_sample_lines(section))


def _sample_lines(section: str) -> Iterator[str]:
    for setting in SETTINGS:
        if setting.key.partition(".")[0] == section:
            comment = f"{setting.meaning} Allowed: {setting.kind.expected}. Variable: {setting.env[0]}"
            name = setting.key.partition(".")[2]
            value = None if setting.key in _EXAMPLES else value_of(Config(), setting)
            line = f"# {name} = {toml(_EXAMPLES[setting.key])}" if value is None else f"{name} = {toml(value)}"
            yield "".join(f"# {part}\n" for part in textwrap.wrap(comment, 136)) + line + "\n"


if __name__ == "__main__":
    SAMPLE.write_text(sample(), encoding="utf-8")
    DOCS.write_text(with_tables(DOCS.read_text(encoding="utf-8")), encoding="utf-8")
