"""From the sources to a Config: which source wins, which names are known, and one line for each problem on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from noraflask.config.curation import FormatCuration
from noraflask.config.environment import ignored
from noraflask.config.model import Config
from noraflask.config.problem_lines import described, got, nearest
from noraflask.config.repositories import with_settings
from noraflask.config.sections import StagingConfig
from noraflask.config.settings import (
    BY_ENV,
    BY_KEY,
    FORMAT_LIST,
    FORMAT_SETTINGS,
    SECTIONS,
    SECTIONS_OF_CONFIG,
    SERVED,
    SETTINGS,
    is_not_yet,
)
from noraflask.config.tables import MOST_PROBLEMS, BadTables, places
from noraflask.config.text_file import FileProblem, label_of, place
from noraflask.config.toml_file import Node, Table, dotted, read_nodes
from noraflask.settings import Bad, Setting
from noraflask.settings.setting_types import KEEP

_SURE = 0.87  # of a nearest name: so near that it is a slip of the pen and not another name of NORA's


@dataclass(frozen=True)
class Value:
    value: Any
    source: str  # "config.toml:12" or "NORA_PORT"
    place: str  # how a problem line begins: "config.toml:12: server.port" or "NORA_PORT"
    tables: tuple[str, ...] = ()  # of an array of tables: the place of each


class Reading:
    """What the sources said so far."""

    def __init__(self) -> None:
        self.values: dict[str, Value] = {}
        self.problems: list[str] = []
        self.warnings: list[str] = []
        self.doubtful: set[str] = set()  # names of settings with a problem: what is compared with them would be guessed

    def take_file(self, path: Path) -> None:
        label = label_of(path)
        try:
            nodes = read_nodes(path)
        except FileProblem as problem:
            self.problems.append(f"{label}{problem}")
            return
        before = len(self.problems)
        closed: set[str] = set()  # what has its problem already and is not looked into
        for node in nodes:
            parts = node.key.split(".")
            if closed & {".".join(parts[:n]) for n in range(1, len(parts) + 1)}:
                continue
            if not self._take_node(label, node):
                closed.add(node.key)
            if len(self.problems) - before >= MOST_PROBLEMS:
                self.problems.append(f"{place(label, node.line)}: and perhaps more; the rest of the file was not looked at")
                return

    def take_environment(self, environ: Mapping[str, str]) -> None:
        left_alone, warnings = ignored(environ)
        self.warnings += warnings
        mine = sorted(name for name in environ if name.startswith("NORA_") and name not in left_alone)
        for name in ["RUST_LOG"] * ("RUST_LOG" in environ) + mine:
            setting = BY_ENV.get(name)
            if setting is None:
                self.problems.append(_unknown_variable(name))
            else:
                self._take(setting, Value(environ[name], name, name), setting.type.from_text)

    def config(self) -> Config:
        """The values over the defaults; a list of formats wins over the switches of the single formats."""
        values = dict(self.values)
        self._choose_formats(values)
        _fit_default_share(values)
        sources: dict[str, str] = {}
        sections = {name: _filled(section, name, values, sources) for name, section in SECTIONS_OF_CONFIG.items()}
        formats = {ecosystem.id: _filled(ecosystem.section, ecosystem.id, values, sources) for ecosystem in SERVED}
        sections["curation"] = replace(sections["curation"], formats=_formats(values, sources))
        listed = values.get("repositories")
        sources["repositories"] = listed.source if listed else "default"
        repositories = tuple(with_settings(repository, formats) for repository in listed.value) if listed else ()
        return Config(**sections, formats=formats, repositories=repositories, sources=sources)

    def _choose_formats(self, values: dict[str, Value]) -> None:
        chosen = values.get(FORMAT_LIST.name)
        if chosen is None:
            return
        for name, id in ((f"{ecosystem.id}.enabled", ecosystem.id) for ecosystem in SERVED):
            is_on = id in chosen.value
            if name in values and values[name].value != is_on:
                effect = "on" if is_on else "off"
                self.warnings.append(f"{values[name].place}: has no effect, because {chosen.source} switches the format {effect}")
            values[name] = replace(chosen, value=is_on)

    def _take_node(self, label: str, node: Node) -> bool:
        """Whether what lies below the node may be looked at."""
        source = place(label, node.line)
        begin = f"{source}: {node.key}"
        setting = BY_KEY.get(node.key)
        if setting is not None:
            if node.value is Table:
                self.doubtful.add(setting.name)
                self.problems.append(f"{begin}: expected {setting.type.expected}, got a table")
                return False
            self._take(setting, Value(node.value, source, begin), setting.type.from_toml)
            return True
        if node.key in SECTIONS:
            if node.value is Table:
                return True
            self.problems.append(f"{begin}: expected a table [{node.key}], got {described(node.value)}")
            return False
        self.problems.append(f"{begin}: {_unknown_key(node)}")
        return False

    def _take(self, setting: Setting, given: Value, convert: Any) -> None:
        try:
            value = convert(given.value)
        except BadTables as bad:
            self.doubtful.add(setting.name)
            self.problems += [f"{one.place or given.source}: {setting.key}{one.path}: {one.text}" for one in bad.problems]
            return
        except Bad as bad:
            self.doubtful.add(setting.name)
            names = (setting.key, *setting.env)
            self.problems.append(f"{given.place}: {bad.text}{got(given.value, bad, setting.type, names, of_variable=given.source in setting.env)}")
            return
        if value is not KEEP:
            self.values[setting.name] = replace(given, value=value, tables=places(given.value))


def _filled(section: Any, name: str, values: Mapping[str, Value], sources: dict[str, str]) -> Any:
    """The section with the values that were given; each of its fields gets a source."""
    names = {entry.name: f"{name}.{entry.name}" for entry in fields(section)}
    sources |= {full: values[full].source if full in values else "default" for full in names.values()}
    return section(**{short: values[full].value for short, full in names.items() if full in values})


def _formats(values: Mapping[str, Value], sources: dict[str, str]) -> tuple[tuple[str, FormatCuration], ...]:
    """What curation.<format>.* said; each key that was there gets a source of its own beside that of them all."""
    found: dict[str, dict[str, Any]] = {}
    for setting in FORMAT_SETTINGS:
        given = values.get(setting.key)
        if given is not None:
            _, name, key = setting.key.split(".")
            found.setdefault(name, {})[key] = given.value
            sources[setting.key] = given.source
    places = dict.fromkeys(sources[s.key] for s in FORMAT_SETTINGS if s.key in sources)
    sources["curation.formats"] = ", ".join(places) or "default"
    made = {name: FormatCuration(**given) for name, given in found.items()}
    return tuple((name, own) for name, own in made.items() if own != FormatCuration())


def _fit_default_share(values: dict[str, Value]) -> None:
    """Who only lowers the budget of all uploads means a smaller share of one as well."""
    budget = values.get("staging.budget_bytes")
    if budget and "staging.share_bytes" not in values and budget.value < StagingConfig.share_bytes:
        values["staging.share_bytes"] = Value(budget.value, "default", "staging.share_bytes")


def _unknown_key(node: Node) -> str:
    what = "unknown section" if node.value is Table else "unknown key"
    candidates = sorted(SECTIONS) if node.value is Table else sorted(BY_KEY)
    last = node.key.rpartition(".")[2]
    same_end = [key for key in candidates if key.rpartition(".")[2] == last]
    near = nearest(node.key, candidates, _SURE if is_not_yet(node.key) else 0.75)
    if near is None and is_not_yet(node.key):
        return "belongs to a feature of NORA that is not supported by this version; remove it"
    if near is None and len(same_end) == 1:
        near = same_end[0]
    if near is not None:
        return f"{what}, did you mean {near}?"
    section = node.key.rpartition(".")[0]
    in_section = [s.key for s in SETTINGS if section and s.key.rpartition(".")[0] == section]
    valid = in_section or sorted({s.key.split(".")[0] for s in SETTINGS if s.key})
    return f"{what}, valid are {', '.join(valid)}"


def _unknown_variable(name: str) -> str:
    begin = dotted((name,))
    near = nearest(name, sorted(BY_ENV), _SURE if is_not_yet(name) else 0.75)
    if near is not None:
        return f"{begin}: unknown variable, did you mean {near}?"
    if is_not_yet(name):
        return f"{begin}: belongs to a feature of NORA that is not supported by this version; remove it"
    return f"{begin}: unknown variable; docs/configuration.md lists the valid ones"
