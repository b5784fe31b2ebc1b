"""What the pages show is what the server takes."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from noraflask.cli import _parser
from noraflask.config import ConfigError, CurationConfig, load
from noraflask.ecosystems import ecosystem_of
from noraflask.formats.docker.protocol import answers
from noraflask.services.curation.deciding import decide
from noraflask.services.curation.files import read_rules
from noraflask.services.curation.gate import refusal
from noraflask.services.curation.ledger import Entry, read
from noraflask.services.curation.loading import load_policy
from noraflask.services.curation.model import Decision, Package
from noraflask.services.curation.policy import Policy
from noraflask.settings.texts import read_duration

DOCS = Path(__file__).parents[2] / "docs"
CURATION = (DOCS / "curation.md").read_text(encoding="utf-8")
NOW = datetime(2026, 12, 1, tzinfo=UTC).timestamp()
"""When the worked examples are asked; their exceptions end in 2027."""


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def is_rules(example: str) -> bool:
    """Of curation.md: a rule file, and not a configuration."""
    return not example.startswith("[curation")


EXAMPLES = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in sorted(DOCS.glob("*.md"))
    for number, block in enumerate(blocks(page.read_text(encoding="utf-8"), "toml"))
    if page.name != "curation.md" or not is_rules(block)
]


def test_there_are_examples():
    assert len(EXAMPLES) >= 3


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_is_a_configuration(example, tmp_path):
    file = tmp_path / "config.toml"
    if "provider =" in example and "[[auth.oidc.providers]]" not in example:
        example += '\n[[auth.oidc.providers]]\nname = "ci"\nissuer = "https://ci.example.com"\naudience = "r"\n'
    (tmp_path / "rules.toml").touch()
    file.write_text(example.replace("/etc/nora/rules.toml", str(tmp_path / "rules.toml")), encoding="utf-8")
    load(file, {})


# ---- curation.md: rule files, packages and verdicts


@dataclass
class Section:
    """A heading's examples: they belong together."""

    title: str
    config: str = ""
    files: dict[str, str] = field(default_factory=dict)
    """Rule files, by name."""
    rows: list[tuple[str, str, str, str]] = field(default_factory=list)


_ROW = re.compile(r"^\| (?P<package>`[^`]+`) \| (?P<of>[^|\n]*)\| (?P<verdict>blocked|allowed|would be blocked) \| (?P<by>[^|\n]*)\|$", re.MULTILINE)
_PART = re.compile(rf"^#+ (?P<title>[^\n]*)$|^```(?P<language>toml|json)\n(?P<body>.*?)^```|{_ROW.pattern}", re.MULTILINE | re.DOTALL)


def sections() -> list[Section]:
    """A new one begins with each heading, and with each example that follows a table of verdicts."""
    found = [Section("")]
    for part in _PART.finditer(CURATION):
        if part["title"] or (part["language"] and found[-1].rows):
            found.append(Section(part["title"] or found[-1].title))
        if part["language"] == "json":
            found[-1].files["blocklist.json" if '"rules"' in part["body"] else "allowlist.json"] = part["body"]
        elif part["language"] and is_rules(part["body"]):
            found[-1].files["rules.toml"] = part["body"]
        elif part["language"]:
            found[-1].config = part["body"]
        elif part["package"]:
            found[-1].rows.append((part["package"].strip("`"), part["of"].strip(), part["verdict"], part["by"].strip()))
    return [section for section in found if section.rows]


def config_of(section: Section, folder: Path) -> CurationConfig:
    config = CurationConfig(mode="enforce")
    for name, text in section.files.items():
        (folder / name).write_text(text, encoding="utf-8")
        config = replace(config, **{f"{name.partition('.')[0]}_path": folder / name})
    if section.config:
        file = folder / "config.toml"
        file.write_text(section.config.replace("/etc/nora/", f"{folder}/"), encoding="utf-8")
        found = load(file, {}).curation
        config = replace(found, **{name: getattr(config, name) for name in ("rules_path", "blocklist_path", "allowlist_path")})
    return config


def package_of(text: str, circumstances: str) -> tuple[Package, str | None]:
    """And the bypass token that is sent."""
    format, _, rest = text.partition(":")
    at = rest.rfind("@")
    name, version = (rest[:at], ecosystem_of(format).same_version(rest[at + 1 :])) if at > 0 else (rest, None)
    members: dict[str, Any] = {}
    token = None
    for word in filter(None, circumstances.split(", ")):
        if word in ("index", "version unknown"):
            members["is_index"] = word == "index"
        elif word == "from upstream":
            members["hosted"] = False
        elif word.startswith("token "):
            token = word.removeprefix("token ").strip("`")
        elif word.startswith("bytes "):
            members["digests"] = (word.removeprefix("bytes ").strip("`"),)
        elif found := re.fullmatch(r"(first fetched )?(\w+) (?:old|ago)", word):
            members["seen" if found[1] else "published"] = NOW - read_duration(found[2])
        else:
            raise AssertionError(f"not understood: {word}")
    return Package(format, ecosystem_of(format).same_name(name), version, **members), token


def verdict_of(decision: Decision) -> tuple[str, str]:
    if decision.allowed and not decision.would_block:
        return "allowed", ""
    return "would be blocked" if decision.allowed else "blocked", decision.rule.id if decision.rule else decision.filter


SECTIONS = sections()


def test_there_are_worked_examples():
    assert len(SECTIONS) >= 12
    assert sum(len(section.rows) for section in SECTIONS) >= 50


@pytest.mark.parametrize("section", [pytest.param(section, id=f"{section.title}-{number}") for number, section in enumerate(SECTIONS)])
def test_a_worked_example(section, tmp_path):
    data, _ = load_policy(config_of(section, tmp_path), NOW)
    policy = Policy.from_buffer(data)
    asked = [(row, package_of(row[0], row[1])) for row in section.rows]
    found = [(row[0], row[1], *verdict_of(decide(policy, package, NOW, token))) for row, (package, token) in asked]
    assert found == section.rows


@pytest.mark.parametrize("number", range(len([block for block in blocks(CURATION, "toml") if is_rules(block)])))
def test_a_rule_file_loads_without_a_warning(number, tmp_path):
    file = tmp_path / "rules.toml"
    file.write_text([block for block in blocks(CURATION, "toml") if is_rules(block)][number], encoding="utf-8")
    rules = read_rules(CurationConfig(mode="enforce", rules_path=file), NOW)
    assert [line for line in rules.warnings if "EX-1" not in line] == []  # whose point it is that it has ended


def test_every_table_and_key_of_rule_files_is_told():
    from noraflask.services.curation import toml_rules, toml_tables

    told = CURATION[CURATION.index("### Our TOML") : CURATION.index("### Patterns")]
    for kind, keys in toml_tables.KEYS.items():
        assert f"`[[{kind}]]`" in told
        assert [key for key in keys if f"`{key}`" not in told] == []
    assert all(f"`{key}`" in told for key in toml_rules._TOP)


_RANGES = re.findall(r"^\| (\w+) \| `([^`]+)` \| ([^|]*`) \| ([^|]*`) \|$", CURATION.replace("\\|", "¦"), re.MULTILINE)


def test_every_range_language_is_told():
    assert {format for format, *_ in _RANGES} >= {"npm", "pypi", "maven", "cargo", "nuget", "go", "gems", "pub", "terraform"}
    assert len(_RANGES) == 15


@pytest.mark.parametrize(("format", "text", "inside", "outside"), _RANGES)
def test_a_range(format, text, inside, outside):
    found = ecosystem_of(format).parse_range(text.replace("¦", "|"))
    for versions, wanted in ((inside, True), (outside, False)):
        for version in re.findall(r"`([^`]+)`", versions):
            assert found.contains(version) is wanted, version


@pytest.mark.parametrize(
    ("line", "names"), re.findall(r"^\| ([a-z]+) \| (?:small letters[^|]*?; )?((?:`[^`]+`(?:, | and )?){4}) are one", CURATION, re.MULTILINE)
)
def test_names_that_are_one(line, names):
    assert len({ecosystem_of(line).same_name(name) for name in re.findall(r"`([^`]+)`", names)}) == 1


def test_a_form_that_is_told_is_the_form():
    told = re.findall(r"`([^`]+)` is `([^`]+)`", CURATION[CURATION.index("## Names and versions") : CURATION.index("`range` is what")])
    assert len(told) >= 8
    forms = ("docker", "pypi", "npm", "cargo", "nuget", "go", "pub")
    for given, wanted in told:
        assert any(wanted in (ecosystem_of(format).same_name(given), ecosystem_of(format).same_version(given)) for format in forms), given


# ---- curation.md: what is told to clients and logs


def test_the_refusal_is_as_it_is_shown(tmp_path):
    """But for ids and fingerprints."""
    section = replace(SECTIONS[0])
    policy = Policy.from_buffer(load_policy(config_of(section, tmp_path), NOW)[0])
    package = Package("docker", "team/app", "1", "docker")
    told = refusal(policy, package, decide(policy, package, NOW), NOW)
    body = answers.render_error(told.as_error())[1].decode()
    shown = next(block for block in blocks(CURATION, "json") if '"DENIED"' in block)
    assert json.loads(body.replace(told.id, "d-…").replace(policy.fingerprint, "…")) == json.loads(shown)
    headers = CURATION[CURATION.index("`context.until`") : CURATION.index("| client | shows |")]
    assert [name for name in told.headers() if name not in headers] == []


def test_a_failed_test_reads_as_it_is_shown(tmp_path):
    section = next(section for section in blocks(CURATION, "toml") if "no-web" in section)
    (tmp_path / "rules.toml").write_text(section.replace('"block"', '"allow"'), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_policy(CurationConfig(mode="enforce", rules_path=tmp_path / "rules.toml"), NOW)
    shown = next(block for block in blocks(CURATION, "text") if "expect:" in block)
    assert shown.strip().rpartition("/")[2] in [line.rpartition("/")[2] for line in caught.value.problems]


def test_the_line_of_the_ledger_is_one(tmp_path):
    line = next(block for block in blocks(CURATION, "json") if block.startswith("["))
    day = tmp_path / datetime.fromtimestamp(json.loads(line)[0], UTC).strftime("%Y-%m-%d")
    day.mkdir()
    (day / "a-1-1.jsonl").write_text(line, encoding="utf-8")
    (entry,) = read(tmp_path, 0)
    assert isinstance(entry, Entry)
    assert (entry.name, entry.version, entry.principal, entry.hosted) == ("team/app", "1", "alice", True)


COMMANDS = [
    line.partition(" #")[0].strip() for block in blocks(CURATION, "sh") for line in block.splitlines() if re.match(r"(NORA_\w+=\S+ )?nora ", line)
]
COMMANDS += re.findall(r"`(nora [^`]+)`", CURATION)


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_is_one(line):
    words = [word for word in shlex.split(line) if not word.startswith("NORA_")]
    assert _parser().parse_args(words[1:]).command == words[1]


def test_the_other_examples_in_json_are_json():
    assert all(json.loads(block.replace("…", "")) for block in blocks(CURATION, "json"))
