"""[curation]: every setting, what is refused together, what is warned of, and that the token is shown nowhere."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from noraflask.config import Config, ConfigError, CurationConfig, FormatCuration, is_live, load, reload, restart_only
from noraflask.config import document as doc
from noraflask.config.settings import CURATED, FORMAT_SETTINGS, SETTINGS
from noraflask.ecosystems import ECOSYSTEMS
from noraflask.settings.texts import duration_text, read_duration

DAY = 86400.0
TOKEN = "hunter2-hunter2-hunter2"


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def problems(environ: dict[str, str], text: str | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        taken(environ, text)
    return caught.value.problems


def taken(environ: dict[str, str], text: str | None = None) -> CurationConfig:
    return config_of(environ, text).curation


def config_of(environ: dict[str, str], text: str | None = None) -> Config:
    if text is not None:
        Path("config.toml").write_text(text)
    return load(environ=environ)


TAKEN = [
    ("MODE", "audit", "mode", "audit"),
    ("MODE", "OFF", "mode", "off"),
    ("ON_FAILURE", "Closed", "on_failure", "closed"),
    ("BLOCKLIST_PATH", "b.json", "blocklist_path", Path("b.json")),
    ("BLOCKLIST_PATH", "", "blocklist_path", None),
    ("ALLOWLIST_PATH", "a.json", "allowlist_path", Path("a.json")),
    ("RULES_PATH", "r.toml", "rules_path", Path("r.toml")),
    ("BYPASS_TOKEN", TOKEN, "bypass_token", TOKEN),
    ("BYPASS_TOKEN", "", "bypass_token", None),
    ("REQUIRE_INTEGRITY", "false", "require_integrity", False),
    ("INTERNAL_NS", " @corp/** , com.corp.**", "internal_namespaces", ("@corp/**", "com.corp.**")),
    ("INTERNAL_NS", "", "internal_namespaces", ()),
    ("MIN_RELEASE_AGE", "7d", "min_release_age", 7 * DAY),
    ("MIN_RELEASE_AGE", "1w2d", "min_release_age", 9 * DAY),
    ("MIN_RELEASE_AGE", "36h", "min_release_age", 1.5 * DAY),
    ("MIN_RELEASE_AGE", "", "min_release_age", None),
    ("HOSTED", "true", "hosted", True),
    ("UNKNOWN_AGE", "Allow", "unknown_age", "allow"),
    ("QUARANTINE", "observe", "quarantine", "observe"),
    ("QUARANTINE", "", "quarantine", "off"),
    ("QUARANTINE_TTL", "2d", "quarantine_ttl", 2 * DAY),
    ("QUARANTINE_TTL", "", "quarantine_ttl", 14 * DAY),
    ("FLIP_GUARD_PERCENT", "100", "flip_guard_percent", 100),
    ("LEDGER", "off", "ledger", False),
    ("AUDIT_ALLOWS", "yes", "audit_allows", True),
    ("LEDGER_PATH", "/l", "ledger_path", Path("/l")),
    ("LEDGER_DAYS", "3650", "ledger_days", 3650),
    ("DOCS_URL", "https://h/x?y=1", "docs_url", "https://h/x?y=1"),
    ("NPM_MIN_RELEASE_AGE", "1h", "formats", (("npm", FormatCuration(min_release_age=3600.0)),)),
    ("NPM_MIN_RELEASE_AGE", "", "formats", ()),
    ("HF_QUARANTINE", "Enforce", "formats", (("hf", FormatCuration(quarantine="enforce")),)),
    ("TERRAFORM_QUARANTINE_TTL", "1w", "formats", (("terraform", FormatCuration(quarantine_ttl=7 * DAY)),)),
]


@pytest.mark.parametrize(("name", "text", "field", "value"), TAKEN)
def test_variable_is_taken(name, text, field, value):
    assert getattr(taken({f"NORA_CURATION_{name}": text}), field) == value


def test_every_variable_is_tried():
    names = {name for setting in SETTINGS if setting.name.startswith("curation.") for name in setting.env}
    tried = {f"NORA_CURATION_{row[0]}" for row in TAKEN}
    assert names - tried == {"NORA_TRUST_UPSTREAM_DATES"}
    assert taken({"NORA_TRUST_UPSTREAM_DATES": "1"}).trust_upstream_dates


def test_nothing_set_is_off():
    assert taken({}) == CurationConfig()
    assert taken({}).mode == "off"


def test_file_is_taken_and_the_environment_wins():
    text = """
server.trust_upstream_dates = true
[curation]
mode = "Audit"
internal_namespaces = ["@corp/**"]
min_release_age = "7d"
[curation.npm]
quarantine = "observe"
min_release_age = "1d"
[curation.docker]
quarantine_ttl = "2h"
"""
    config = config_of({"NORA_CURATION_NPM_MIN_RELEASE_AGE": "2d"}, text)
    assert config.curation == CurationConfig(
        mode="audit",
        internal_namespaces=("@corp/**",),
        min_release_age=7 * DAY,
        trust_upstream_dates=True,
        formats=(("docker", FormatCuration(quarantine_ttl=7200.0)), ("npm", FormatCuration(2 * DAY, "observe"))),
    )
    assert config.sources["curation.mode"] == "config.toml:4"
    assert config.sources["curation.npm.min_release_age"] == "NORA_CURATION_NPM_MIN_RELEASE_AGE"
    assert config.sources["curation.formats"] == "config.toml:11, NORA_CURATION_NPM_MIN_RELEASE_AGE, config.toml:8"
    assert "config.toml:9" not in config.sources["curation.formats"]


REFUSED = [
    ("MODE", "on", 'expected off, audit or enforce, got "on"'),
    ("MODE", "", "expected off, audit or enforce, got nothing"),
    ("ON_FAILURE", "open", "open is refused: a gate that cannot decide says no; expected closed"),
    ("ON_FAILURE", "x", 'expected closed, got "x"'),
    ("MIN_RELEASE_AGE", "0d", "must be longer than 0; leave it out to have none"),
    ("MIN_RELEASE_AGE", "0", "must be longer than 0"),
    *(
        ("MIN_RELEASE_AGE", text, "expected a duration of weeks, days and hours such as 7d, 1w2d or 36h, got ")
        for text in ("7", "d", "7 d", "7m", "-1d", "1.5d", "7d ", "3651d", "9999999d", "٣d", "1d" * 1000 + "x")
    ),
    ("QUARANTINE", "on", "expected off, observe or enforce"),
    ("QUARANTINE_TTL", "x", "expected a duration"),
    ("UNKNOWN_AGE", "skip", "expected block or allow"),
    ("FLIP_GUARD_PERCENT", "101", "expected a whole number from 0 to 100"),
    ("LEDGER_DAYS", "0", "expected a whole number from 1 to 3650"),
    ("DOCS_URL", "wiki", "expected an http:// or https:// address"),
    ("BYPASS_TOKEN", "a b", "expected 1 to 1024 printable ASCII characters without spaces, got a value that is not shown"),
    ("NPM_QUARANTINE", "on", "expected off, observe or enforce"),
    ("NPM_MIN_RELEASE_AGE", "0h", "must be longer than 0"),
    ("BLOCKLIST_FILE", "x", "unknown variable, did you mean NORA_CURATION_BLOCKLIST_PATH?"),
    ("RAW_QUARANTINE", "off", "unknown variable, did you mean NORA_CURATION_"),
]


@pytest.mark.parametrize(("name", "text", "message"), REFUSED)
def test_variable_is_refused(name, text, message):
    (line,) = problems({f"NORA_CURATION_{name}": text})
    assert line.startswith(f"NORA_CURATION_{name}: {message}")


REFUSED_LINES = [
    ("[curation]\nmodes = 1", "config.toml:2: curation.modes: unknown key, did you mean curation.mode?"),
    ("[curation]\nmin_release_age = 7", "config.toml:2: curation.min_release_age: expected a duration of weeks, days and hours"),
    ("[curation.npm]\nquarantine = true", "config.toml:2: curation.npm.quarantine: expected off, observe or enforce, as a string, got true"),
    ("[curation.npn]\nquarantine = 1", "config.toml:1: curation.npn: unknown section, did you mean curation.npm?"),
    ("[curation]\nnpm = 1", "config.toml:2: curation.npm: expected a table [curation.npm], got the number 1"),
    ('curation.mode = "enforce"', "config.toml:1: curation.mode: enforce, and nothing is set that could refuse anything; set rules_path"),
    ("curation.require_integrity = true", "config.toml:1: curation.require_integrity: is about the allowlist; set curation.allowlist_path or"),
    (
        '[curation]\nmode = "audit"\nrules_path = "gone/rules.toml"',
        "config.toml:3: curation.rules_path: gone/rules.toml is not there; put it there, or take the setting out",
    ),
    ('[curation]\nmode = "enforce"\nmin_release_age = "x"', "config.toml:3: curation.min_release_age: expected a duration"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED_LINES)
def test_line_is_refused(text, message):
    (line,) = problems({}, text)
    assert line.startswith(message)


@pytest.mark.parametrize(
    "control",
    [
        {"RULES_PATH": "/dev/null"},
        {"BLOCKLIST_PATH": "/dev/null"},
        {"ALLOWLIST_PATH": "/dev/null"},
        {"ALLOWLIST_PATH": "/dev/null", "REQUIRE_INTEGRITY": "true"},
        {"INTERNAL_NS": "a"},
        {"MIN_RELEASE_AGE": "1d"},
        {"GO_MIN_RELEASE_AGE": "1d"},
        {"QUARANTINE": "observe"},
        {"DEB_QUARANTINE": "enforce"},
    ],
)
def test_any_control_is_enough_to_enforce(control):
    assert taken({"NORA_CURATION_MODE": "enforce"} | {f"NORA_CURATION_{name}": text for name, text in control.items()}).mode == "enforce"


def test_quarantine_off_is_no_control():
    assert len(problems({"NORA_CURATION_MODE": "enforce", "NORA_CURATION_DEB_QUARANTINE": "off"})) == 1


WARNED = [
    ({"MODE": "audit", "INTERNAL_NS": "a"}, []),
    ({"INTERNAL_NS": "a", "QUARANTINE": "enforce"}, []),
    ({"BYPASS_TOKEN": TOKEN}, []),
    ({"BYPASS_TOKEN": "short"}, ["curation.bypass_token: is shorter than 16 characters"]),
    ({"BLOCKLIST_PATH": "gone"}, ["curation.blocklist_path = gone: is not there; with another", "curation.mode = off: rule files and ages have no"]),
    ({"MIN_RELEASE_AGE": "1d"}, ["curation.mode = off: rule files and ages"]),
    ({"MIN_RELEASE_AGE": "1d", "MODE": "enforce", "UNKNOWN_AGE": "allow"}, ["curation.unknown_age = allow: a version whose date"]),
    ({"MIN_RELEASE_AGE": "1d", "MODE": "enforce"}, []),
]


@pytest.mark.parametrize(("variables", "begins"), WARNED)
def test_warnings(variables, begins):
    found = config_of({f"NORA_CURATION_{name}": text for name, text in variables.items()}).warnings
    assert len(found) == len(begins)
    assert all(line.startswith(begin) for line, begin in zip(found, begins, strict=True))


def test_token_in_the_file_is_warned_of_and_shown_nowhere():
    config = config_of({}, f'[storage]\npath = "/s"\n[state]\npath = "/t"\n[curation]\nbypass_token = "{TOKEN}"\n')
    assert config.warnings == ("curation.bypass_token: stands in config.toml:6 for all to read; set NORA_CURATION_BYPASS_TOKEN instead",)
    assert TOKEN not in repr(config)
    assert TOKEN not in doc.effective(config)
    assert "# curation.bypass_token is set and not shown  # from config.toml:6\n" in doc.effective(config)


def test_all_of_it_is_taken_over_by_a_reload():
    before = config_of({}, 'curation.mode = "off"')
    Path("config.toml").write_text('[curation]\nmode = "audit"\nmin_release_age = "1d"\nledger = false\n[curation.npm]\nquarantine = "enforce"\n')
    after = reload(before, {"NORA_TRUST_UPSTREAM_DATES": "true"})
    assert after.curation.mode == "audit"
    assert restart_only(before, after) == []
    assert is_live("curation.formats")


def test_what_is_printed_is_the_same_configuration_again():
    environ = {
        "NORA_CURATION_MIN_RELEASE_AGE": "36h",
        "NORA_CURATION_QUARANTINE_TTL": "1w",
        "NORA_CURATION_MODE": "audit",
        "NORA_CURATION_NPM_MIN_RELEASE_AGE": "1w2d",
        "NORA_CURATION_CPAN_QUARANTINE": "off",
        "NORA_TRUST_UPSTREAM_DATES": "true",
    }
    config = config_of(environ)
    assert config_of({}, doc.effective(config)) == config


def test_any_duration_is_written_as_it_is_read():
    chance = random.Random(5)
    for _ in range(500):
        seconds = chance.randrange(0, 87600) * 3600.0
        assert read_duration(duration_text(seconds)) == seconds


def test_every_format_has_its_settings():
    assert len(FORMAT_SETTINGS) == 3 * len(CURATED) == 48
    assert set(ECOSYSTEMS) - {ecosystem.id for ecosystem in CURATED} == {"raw"}
