"""Configuration that was written to be slow to read: it takes as long as its length says, and ends in a line that names the place."""

from __future__ import annotations

import json
import re
import signal

import pytest

from noraflask.config import ConfigError, CurationConfig, load
from noraflask.config.tables import MOST_PROBLEMS
from noraflask.services.curation.files import read_rules

SIZE = 200_000
"""Characters: what is quadratic takes minutes with them."""
GENEROUS_SECONDS = 30


@pytest.fixture(autouse=True)
def in_time():
    def give_up(*_):
        raise TimeoutError(f"it takes more than {GENEROUS_SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(GENEROUS_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


TEXTS = {
    "open text": ('x = """' + '\\"' * (SIZE // 2), ":1:5: not valid TOML: a string is not closed"),
    "open text of quotes": ('\nx = """' + '"" ' * (SIZE // 3), ":2:5: not valid TOML: a string is not closed"),
    "open literal": ("x = '''" + "'' " * (SIZE // 3), ":1:5: not valid TOML: a string is not closed"),
    "open string": ('\n\nx = "' + "\\\\" * (SIZE // 2), ":3:5: not valid TOML: a string is not closed"),
    "open array": ("x = [" + "\n" * SIZE, ":1:5: not valid TOML: a bracket is not closed"),
    "quotes": ('"""' * (SIZE // 3), ":1:3: not valid TOML: Expected '=' after a key in a key/value pair"),
    "deep array": ("x = " + "[" * (SIZE // 2) + "]" * (SIZE // 2), ":1:5: nested more than 64 levels deep"),
    "rather deep array": ("x = " + "[" * 300 + "]" * 300, ":1:5: nested more than 64 levels deep"),
    "deep inline table": ("x = " + "{a=" * 300 + "1" + "}" * 300, ":1:5: nested more than 64 levels deep"),
    "long dotted key": ("a" + ".a" * (SIZE // 2) + " = 1", ":1:1: a key has more than 64 parts"),
    "long dotted key of an inline table": ("x = { a" + ".a" * (SIZE // 2) + " = 1 }", ":1:6: a key has more than 64 parts"),
    "long header": ("[a" + ".a" * (SIZE // 4) + "]\n" + "b = 1\n" * 10 + "c = 1\n" * (SIZE // 12), ":1:2: a key has more than 64 parts"),
    "long key": ("a" * SIZE + " = 1", ':1: "aaaaaaa'),
    "number": ("x = " + "1" * SIZE, ":1: not valid TOML: a number is too large, or there is no such day or time"),
    "number below others": ("y = 1\n[b]\nz = 2\nx = " + "1" * 5000, ":4: not valid TOML: a number is too large"),
    "day": ("y = 1\nx = 2026-02-31", ":2"),
    "zero": ('x = "\0"', ":1:6: not valid TOML: Illegal character"),
    "blanks": ("[[block]]\n" + " " * SIZE + "x", ":2"),
    "blanks in a header": ("[[block" + " " * SIZE, ":1"),
}


@pytest.mark.parametrize(("text", "message"), TEXTS.values(), ids=TEXTS)
def test_settings(tmp_path, text, message):
    file = tmp_path / "config.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file, {})
    assert caught.value.problems[0].startswith(f"{file}{message}")


@pytest.mark.parametrize(("text", "message"), TEXTS.values(), ids=TEXTS)
def test_rules(tmp_path, text, message):
    file = tmp_path / "rules.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_rules(CurationConfig(mode="enforce", rules_path=file), 0)
    assert caught.value.problems[0].startswith(f"{file}{message}")
    assert all(len(problem) < 1000 for problem in caught.value.problems)


MANY = {
    "keys": "".join(f"k{number} = 1\n" for number in range(SIZE // 12)),
    "tables": "".join(f"[t{number}]\n" for number in range(SIZE // 12)),
    "tables between tables": "".join(f"[[block]]\n[u{number}]\n" for number in range(SIZE // 20)),
    "keys of a table": "[[block]]\n" + "".join(f"k{number} = 1\n" for number in range(SIZE // 12)),
}


@pytest.mark.parametrize("text", MANY.values(), ids=MANY)
def test_mistakes_without_number(tmp_path, text):
    file = tmp_path / "x.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file, {})
    assert len(caught.value.problems) <= MOST_PROBLEMS + 1
    with pytest.raises(ConfigError) as caught:
        read_rules(CurationConfig(mode="enforce", rules_path=file), 0)
    assert all(re.match(r".*x\.toml:[0-9]+: |and [0-9]+ more problems", problem) for problem in caught.value.problems)


def test_mistakes_without_number_in_a_table_of_an_array(tmp_path):
    file = tmp_path / "config.toml"
    file.write_text("[[access.rules]]\n" + "".join(f"k{number} = 1\n" for number in range(50_000)))
    with pytest.raises(ConfigError) as caught:
        load(file, {})
    assert len(caught.value.problems) <= MOST_PROBLEMS + 1


def list_of(rules: str) -> str:
    return f'{{"version": 1, "rules": [\n{rules}\n]}}'


LISTS = {
    "key twice behind very many": (list_of("{" + "".join(f'"k{n}": 1, ' for n in range(30_000)) + '"a": 1, "a": 2}'), ":2: the key "),
    "deep array": (list_of("[" * SIZE), ":2: not valid JSON: nested too deeply"),
    "deep object": (list_of('{"a":' * (SIZE // 5)), ":2: not valid JSON: nested too deeply"),
    "number": (list_of("1" * SIZE), ":2: not valid JSON: a number is too large"),
    "open string": (list_of('"' + "\\\\" * (SIZE // 2))[:-5], ":2:1: not valid JSON: Unterminated string"),
    "blanks": (list_of(" " * SIZE + "x"), f":2:{SIZE + 1}: not valid JSON"),
}


@pytest.mark.parametrize(("text", "message"), LISTS.values(), ids=LISTS)
def test_lists(tmp_path, text, message):
    file = tmp_path / "blocklist.json"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_rules(CurationConfig(mode="enforce", blocklist_path=file), 0)
    assert caught.value.problems[0].startswith(f"{file}{message}")


@pytest.mark.parametrize("format", ["docker", "npm", "pypi", "maven", "cargo", "gems", "nuget", "go"])
@pytest.mark.parametrize("text", ["*a" * 250, "1." * 100_000, ">=1 " * 50_000, "1" * 100_000, "[1," * 50_000, "-" * 100_000, "a-1" * 50_000])
def test_patterns_and_ranges(tmp_path, format, text):
    """Whatever it says; here it counts that it says it soon."""
    file = tmp_path / "blocklist.json"
    rules = [{"registry": format, "name": text}, {"registry": format, "name": "x", "versions": [text]}]
    file.write_text(json.dumps(rules))
    problems: list[str] = []
    try:
        read_rules(CurationConfig(mode="enforce", blocklist_path=file), 0)
    except ConfigError as error:
        problems = error.problems
    assert all(problem.startswith(f"{file}:1: ") for problem in problems)
