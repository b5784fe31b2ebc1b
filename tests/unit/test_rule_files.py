"""Rule files: every form that is taken, every mistake with its line, warnings, and that large files are read in linear time."""

from __future__ import annotations

import hashlib
import json
import tomllib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noraflask.config import ConfigError, CurationConfig
from noraflask.config.text_file import FileProblem
from noraflask.ecosystems import ECOSYSTEMS
from noraflask.services.curation import toml_tables
from noraflask.services.curation.files import read_rules
from noraflask.services.curation.model import Bypass, Expect, Kind, Namespace, Rule, RuleSet

NOW = datetime(2026, 6, 1, tzinfo=UTC).timestamp()
HEX, HEX512 = "ab" * 32, "cd" * 64
SRI = "sha512-" + "zc3N" * 21 + "zQ=="
LIVE = CurationConfig(mode="enforce")


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(name: str, text: str | bytes) -> Path:
    path = Path(name)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def from_toml(text: str | bytes) -> RuleSet:
    return read_rules(replace(LIVE, rules_path=write("rules.toml", text)), NOW)


def from_blocklist(text: str | bytes) -> RuleSet:
    return read_rules(replace(LIVE, blocklist_path=write("blocklist.json", text)), NOW)


def from_allowlist(text: str | bytes) -> RuleSet:
    return read_rules(replace(LIVE, allowlist_path=write("allowlist.json", text)), NOW)


def problems(read, text: str | bytes) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(text)
    return caught.value.problems


# ---- NORA's JSON

BLOCKLIST = """{
  "version": 1,
  "comment": "ignored",
  "rules": [
    {"registry": "npm", "name": "evil", "version": "*", "reason": "malware"},
    {
      "registry": "PyPI", "name": "Foo_Bar",
      "version": "1.0.0",
      "reason": ""
    },
    {"registry": "*", "name": "Any*", "version": "1.*", "reason": "a\\nb"},{"registry": "oci", "name": "library/nginx", "version": "1", "reason": "r"}
  ]
}
"""


def test_blocklist():
    found = from_blocklist(BLOCKLIST).rules
    assert [(rule.kind, rule.format, rule.name, rule.version, rule.reason, rule.place, rule.id) for rule in found] == [
        (Kind.BLOCK, "npm", "evil", "*", "malware", "blocklist.json:5", "blocklist.json#1"),
        (Kind.BLOCK, "pypi", "foo-bar", ECOSYSTEMS["pypi"].same_version("1.0.0"), "", "blocklist.json:6", "blocklist.json#2"),
        (Kind.BLOCK, "*", "Any*", "1.*", "a b", "blocklist.json:11", "blocklist.json#3"),
        (Kind.BLOCK, "docker", "nginx", "1", "r", "blocklist.json:11", "blocklist.json#4"),
    ]


def test_allowlist():
    entry = {"registry": "npm", "name": "@a/b", "version": "v1.0.0", "integrity": f"SHA256:{HEX.upper()}", "integrity_source": "local"}
    found = from_allowlist(json.dumps({"entries": [entry, {**entry, "integrity": None}, {**entry, "integrity": [SRI, HEX_OF]}], "version": 1}))
    assert found.has_allowlist
    assert [(rule.kind, rule.name, rule.version, rule.integrity) for rule in found.rules] == [
        (Kind.ALLOW, "@a/b", "1.0.0", (f"sha256:{HEX}",)),
        (Kind.ALLOW, "@a/b", "1.0.0", ()),
        (Kind.ALLOW, "@a/b", "1.0.0", (f"sha512:{HEX512}", f"sha256:{HEX}")),
    ]
    assert found.warnings == ()


HEX_OF = f"sha256:{HEX}"


def test_bare_array_of_the_published_guide():
    text = '[{"registry": "npm", "name": "a", "versions": ["<1.0.0", "2.0.0"], "reason": "r"},\n{"registry": "npm", "name": "b"}]'
    assert [(rule.name, rule.version, rule.range, rule.place) for rule in from_blocklist(text).rules] == [
        ("a", "*", "<1.0.0", "blocklist.json:1"),
        ("a", "2.0.0", "", "blocklist.json:1"),
        ("b", "*", "", "blocklist.json:2"),
    ]
    assert [(rule.kind, rule.version) for rule in from_allowlist('[{"registry": "npm", "name": "b"}]').rules] == [(Kind.ALLOW, "*")]


@pytest.mark.parametrize("text", ['{"version": 1, "rules": []}', "[]", '\ufeff { "rules" : [ ] , "version" : 1 } \n'])
def test_no_rules(text):
    assert from_blocklist(text) == RuleSet()


def test_star_in_nora_allowlist_goes_on_to_match_nothing():
    found = from_allowlist(
        '{"version": 1, "entries": [{"registry": "npm", "name": "*", "version": "1"}, {"registry": "npm", "name": "a", "version": "*"}]}'
    )
    assert found.rules == ()
    assert [line.partition(" so ")[0] for line in found.warnings] == [
        f"allowlist.json:1: rule {number}: a star stands for itself here, as in NORA," for number in (1, 2)
    ]


def test_unknown_key_is_told_once():
    rule = '{"registry": "npm", "name": "a", "version": "1", "integrty": "x"}'
    again = rule.replace('"a"', '"b"')
    found = from_allowlist('{"version": 1, "entries": [\n' + f"{rule},\n{again}]}}")
    assert found.warnings == (
        'allowlist.json:2: rule 1: the key "integrty" is not known and ignored, here and in other rules; did you mean integrity?',
    )


def one(rule: str) -> str:
    return '{"version": 1, "rules": [\n' + rule + "]}"


BAD_BLOCKLISTS = [
    ("", "blocklist.json:1:1: not valid JSON: Expecting an object"),
    ("7", "blocklist.json:1:1: not valid JSON: Expecting an object"),
    ("{", "blocklist.json:1:2: not valid JSON: Expecting value"),
    ('{"version": 1,\n "rules": [}', "blocklist.json:2:12: not valid JSON: Expecting value"),
    ('{"version": 1,\n "rules": [],}', "blocklist.json:2:14: not valid JSON: Expecting value"),
    ('{"version": 1, "rules": []', "blocklist.json:1:27: not valid JSON: Expecting ',' or '}'"),
    ('{"version": 1, "rules": []]', "blocklist.json:1:27: not valid JSON: Expecting ',' or '}'"),
    ('{"version": 1, "rules": []} x', "blocklist.json:1:29: not valid JSON: Extra data"),
    ('{"version" 1}', "blocklist.json:1:11: not valid JSON: Expecting ':'"),
    ('{1: 1, "rules": []}', "blocklist.json:1:3: not valid JSON: Expecting a key in double quotes"),
    (one('{"registry": "npm", "name": "a", "version": "*", "name": "b"}'), 'blocklist.json:2: the key "name" is there twice; remove one'),
    ('{"version": 1, "rules": [], "rules": []}', 'blocklist.json:1: the key "rules" is there twice'),
    ("[" * 100_000, "blocklist.json:1: not valid JSON: nested too deeply"),
    (f'{{"version": {"9" * 5000}}}', "blocklist.json:1: not valid JSON: a number is too large"),
    ('{"version": 2, "rules": []}', 'blocklist.json: expected "version": 1, got a number'),
    ('{"version": true, "rules": []}', 'blocklist.json: expected "version": 1, got true'),
    ('{"rules": []}', 'blocklist.json: expected "version": 1, got nothing'),
    ('{"version": 1, "entries": []}', 'blocklist.json: expected an array "rules", got nothing; "entries" belongs to the other list'),
    ('{"version": 1, "rules": {}}', 'blocklist.json: expected an array "rules", got a table'),
    (one("7"), "blocklist.json:2: rule 1: expected an object, got a number"),
    (one('{"name": "a", "version": "*"}'), "blocklist.json:2: rule 1: registry: is missing"),
    (one('{"registry": "npm", "version": "*"}'), "blocklist.json:2: rule 1: name: is missing"),
    (one('{"registry": "npm", "name": "a"}'), "blocklist.json:2: rule 1: version: is missing; * stands for all"),
    (
        one('{"registry": "nmp", "name": "a", "version": "*"}'),
        'blocklist.json:2: rule 1: registry: "nmp" is no format; expected * or one of ansible, ',
    ),
    (one('{"registry": ["npm"], "name": "a", "version": "*"}'), "blocklist.json:2: rule 1: registry: a list is no format"),
    (one('{"registry": "npm", "name": "", "version": "*"}'), 'blocklist.json:2: rule 1: name: "": '),
    (one('{"registry": "npm", "name": 7, "version": "*"}'), "blocklist.json:2: rule 1: name: expected a string, got a number"),
    (one('{"registry": "npm", "name": "a", "version": "1", "versions": []}'), "blocklist.json:2: rule 1: versions: stands beside version"),
    (one('{"registry": "npm", "name": "a", "versions": []}'), "blocklist.json:2: rule 1: versions: expected an array of versions or ranges"),
    (one('{"registry": "npm", "name": "a", "versions": ["<<<"]}'), "blocklist.json:2: rule 1: versions: "),
    (one('{"registry": "npm", "name": "a", "version": "1", "reason": 7}'), "blocklist.json:2: rule 1: reason: expected a string, got a number"),
    (one('{"registry": "npm", "name": "a", "version": "1", "reason": {}}'), "blocklist.json:2: rule 1: reason: expected a string, got a table"),
    (b'{"version": 1,\n"rules": "\xff"}', "blocklist.json:2: is not UTF-8 text: byte 0xff"),
]


@pytest.mark.parametrize(("text", "message"), BAD_BLOCKLISTS, ids=range(len(BAD_BLOCKLISTS)))
def test_blocklist_is_refused(text, message):
    (line,) = problems(from_blocklist, text)
    assert line.startswith(message)
    assert "\n" not in line


BAD_ENTRIES = [
    ({"integrity": "md5:00"}, 'integrity: "md5:00": expected sha256:<64 hex digits>'),
    ({"integrity": "sha256:00"}, 'integrity: "sha256:00": sha256 has 64 hex digits'),
    ({"integrity": "sha512-!!!"}, "integrity: "),
    ({"integrity": []}, "integrity: expected a hash"),
    ({"integrity": ""}, "integrity: expected a hash"),
    ({"registry": "*"}, "registry: an entry is about one format; name it"),
]


@pytest.mark.parametrize(("change", "message"), BAD_ENTRIES)
def test_entry_is_refused(change, message):
    entry = {"registry": "npm", "name": "a", "version": "1", **change}
    (line,) = problems(from_allowlist, json.dumps({"version": 1, "entries": [entry]}))
    assert line.startswith(f"allowlist.json:1: rule 1: {message}")


def test_all_problems_of_all_files_come_at_once_and_not_too_many():
    rules = ",\n".join(['{"registry": "x"}'] * 300)
    config = replace(
        LIVE,
        blocklist_path=write("b.json", f"[{rules}]"),
        allowlist_path=Path("gone.json"),
        rules_path=write("r.toml", "[[block]]\nnam = 1\n"),
        internal_namespaces=("",),
    )
    with pytest.raises(ConfigError) as caught:
        read_rules(config, NOW)
    found = caught.value.problems
    assert found[0].startswith('curation.internal_namespaces: "": ')
    assert found[1].startswith("b.json:1: rule 1: registry")
    assert found[-1] == "and 104 more problems"
    config = replace(config, blocklist_path=None, internal_namespaces=())
    with pytest.raises(ConfigError) as caught:
        read_rules(config, NOW)
    assert caught.value.problems == [
        "gone.json: cannot be read: No such file or directory",
        "r.toml:1: block 1: nam: unknown key, did you mean name?",
        "r.toml:1: block 1: name: is missing",
    ]


@pytest.mark.parametrize("key", ["blocklist_path", "allowlist_path", "rules_path"])
def test_missing_file_is_no_problem_when_the_mode_is_off(key):
    assert read_rules(CurationConfig(**{key: Path("gone")}), NOW).rules == ()


# ---- our TOML

TABLES = f'''
flip_until = 2026-07-01
internal_namespaces = ["@corp/**", {{ pattern = "Corp_*", format = "pypi" }}]

[[block]]
id = "evil"
formats = ["npm", "python"]
names = ["Evil_A", "b*"]
version = "1.0"
reason = """
[[block]]
not a header"""
owner = "ann"
ticket = "SEC-1"
expires = 2026-12-31
mode = "audit"

[[block]] # of a range
format = "npm"
name = "c"
range = ">=1.0.0 <2.0.0"
repository = "npm-*"

[[allow]]
name = "d"
integrity = ["{SRI}", "sha256:{HEX}"]
[[except]]
format = "docker"
name = "docker.io/library/nginx"
versions = ["1", "2"]
owner = "ann"
expires = "2026-07-01T12:00:00+02:00"
  [[ age ]]
min_release_age = "0d"
format = "go"
[[pin]]
format = "docker"
name = "x"
version = "1"
integrity = "sha256:{HEX}"
[[bypass]]
name = "ci"
token_sha256 = "{HEX.upper()}"
expires = 2026-06-02T00:00:00
[[expect]]
format = "npm"
name = "evil"
result = "block"
[[expect]]
format = "pypi"
name = "Foo_Bar"
version = "1.0.0"
result = "allow"
age = "2d"
hosted = true
'''


def lines_of(text: str, begin: str) -> list[int]:
    return [number for number, line in enumerate(text.splitlines(), 1) if line.startswith(begin)]


def test_every_kind_of_table():
    found = from_toml(TABLES)
    blocks = [rule for rule in found.rules if rule.kind is Kind.BLOCK]
    day = datetime(2026, 12, 31, tzinfo=UTC).timestamp()
    shared = {"reason": "[[block]] not a header", "owner": "ann", "ticket": "SEC-1", "expires": day, "audit_only": True, "place": "rules.toml:5"}
    assert blocks == [
        Rule("evil", Kind.BLOCK, "npm", "Evil_A", "1.0", **shared),
        Rule("evil", Kind.BLOCK, "npm", "b*", "1.0", **shared),
        Rule("evil", Kind.BLOCK, "pypi", "evil-a", ECOSYSTEMS["pypi"].same_version("1.0"), **shared),
        Rule("evil", Kind.BLOCK, "pypi", "b*", ECOSYSTEMS["pypi"].same_version("1.0"), **shared),
        Rule("rules.toml#2", Kind.BLOCK, "npm", "c", range=">=1.0.0 <2.0.0", repository="npm-*", place="rules.toml:18"),
    ]
    allow, first, second, age, pin = (rule for rule in found.rules if rule.kind is not Kind.BLOCK)
    assert (allow.kind, allow.format, allow.name, allow.version, allow.integrity) == (
        Kind.ALLOW,
        "*",
        "d",
        "*",
        (f"sha512:{HEX512}", f"sha256:{HEX}"),
    )
    assert (first.kind, first.name, first.version, second.version) == (Kind.EXCEPT, "nginx", "1", "2")
    assert first.expires == datetime(2026, 7, 1, 10, tzinfo=UTC).timestamp()
    assert (age.kind, age.format, age.name, age.min_age) == (Kind.AGE, "go", "*", 0.0)
    assert (pin.kind, pin.name, pin.integrity) == (Kind.PIN, "x", (f"sha256:{HEX}",))
    assert found.has_allowlist
    assert found.flip_until == datetime(2026, 7, 1, tzinfo=UTC).timestamp()
    assert found.namespaces == (Namespace("@corp/**", "*", "rules.toml"), Namespace("corp-*", "pypi", "rules.toml"))
    (bypass,) = found.bypasses
    assert bypass == Bypass("ci", HEX, datetime(2026, 6, 2, tzinfo=UTC).timestamp(), bypass.place)
    assert [replace(expect, place="") for expect in found.expects] == [
        Expect("npm", "evil", None, allowed=False),
        Expect("pypi", "foo-bar", ECOSYSTEMS["pypi"].same_version("1"), allowed=True, age=172800.0, hosted=True),
    ]
    places = [int(one.place.split(":")[1]) for one in (allow, first, age, pin, bypass, *found.expects)]
    assert places == [number for word in ("[[allow", "[[except", "  [[ age", "[[pin", "[[bypass", "[[expect") for number in lines_of(TABLES, word)]
    assert found.warnings == ()


SAME = [
    '[[block]]\nname = "a"\n[[block]]\nname = "b"\n',
    '[[block]]\r\nname = "a"\r\n\r\n[[block]]\r\nname = "b"',
    "x = '''\n[[block]]\n'''\n[[block]]\nname = 'a'\n# [[block]]\n[[block]] # \"\nname = \"b\"",
    'x = """a\\""""\n[[block]]\nname = """a"""\ny = """""""" # x\n[[block]]\nname = "b"',
    'x = [\n[["block"]],\n]\n[[block]]\nname = "a"\n[block.z]\n[[block]]\nname = "b"\n[[block.y]]\n',
    '[[block]]\nname = "a"\n[other]\nx = 1\n[[block]]\nname = "b"\n[more]\n',
    '[["block"]]\nname = "a"\n[[block]]\nname = "b"\n',
    'block = [\n{ name = "a" }, { name = "b" }]',
]


@pytest.mark.parametrize("text", SAME)
def test_cutting_at_the_headers_gives_what_tomllib_gives(text):
    found = toml_tables.parse(text)
    whole = tomllib.loads(text)
    assert [table.values for table in found.tables] == whole.pop("block")
    assert found.top == whole
    for table in found.tables:
        assert table.line == 0 or "block" in text.splitlines()[table.line - 1]


PIECES = st.sampled_from(
    [
        "[[block]]\n",
        "[[pin]]\n",
        "[other]\n",
        'a = "x"\n',
        "b = '''\n[[block]]\n'''\n",
        'c = "\\""\n',
        '# [[pin]] "\n',
        'd = [[\n"x"\n]]\n',
        "e.f = 1\n",
        '"',
        "\n",
        "[[",
    ]
)


@settings(deadline=None)  # a busy machine is no failure
@given(picks=st.lists(PIECES, max_size=12))
def test_any_text_is_read_as_tomllib_reads_it(picks):
    text = "".join(picks)
    try:
        whole = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        with pytest.raises(FileProblem):
            toml_tables.parse(text)
        return
    found = toml_tables.parse(text)
    for kind in ("block", "pin"):
        assert [table.values for table in found.tables if table.kind == kind] == whole.pop(kind, [])
    assert found.top == whole


BAD_TABLES = [
    ("a = 1\nb = \n", "rules.toml:2:5: not valid TOML: Invalid value"),
    ("[[block]]\nname = 'a'\nname = 'b'\n", "rules.toml:3: block.name: is set twice"),
    ('[[block]]\nname = "a"\nname = "b"\n', "rules.toml:3: block.name: is set twice"),
    ('[block]\nname = "a"', "rules.toml: block: expected [[block]] tables, in double brackets"),
    ("blocks = 1", "rules.toml:1: blocks: unknown key, did you mean block?"),
    ("[[deny]]\nname = 'a'", "rules.toml:1: deny: unknown key"),
    ("flip_until = 7", "rules.toml:1: flip_until: expected a day or a time such as 2026-12-31"),
    ("internal_namespaces = [7]", "rules.toml:1: internal_namespaces: entry 1: expected a string"),
    ("internal_namespaces = [{ patern = 'a' }]", "rules.toml:1: internal_namespaces: entry 1: expected a pattern, or a table"),
    ("internal_namespaces = [{ pattern = 'a', format = 'x' }]", 'rules.toml:1: internal_namespaces: entry 1: "x" is no format'),
    ("\n[[block]]", "rules.toml:2: block 1: name: is missing"),
    ('[[block]]\nname = "a"\ninteg = 1', "rules.toml:1: block 1: integ: unknown key"),
    ('[[block]]\nname = "a"\nintegrity = "x"', "rules.toml:1: block 1: integrity: unknown key, valid are id, format"),
    ('[[block]]\nname = "a"\nverison = "1"', "rules.toml:1: block 1: verison: unknown key, did you mean version?"),
    ('[[block]]\nname = "a"\n[[block]]\nname = "b"\nformat = "x"', 'rules.toml:3: block 2: format: "x" is no format'),
    ('[[block]]\nname = "a"\nformat = "npm"\nformats = ["npm"]', "rules.toml:1: block 1: formats: stands beside format"),
    ('[[block]]\nname = "a"\nformats = []', "rules.toml:1: block 1: formats: expected a string, or an array"),
    ('[[block]]\nname = "a"\nformats = "npm"', "rules.toml:1: block 1: formats: expected an array of strings"),
    ("[[block]]\nname = 1", "rules.toml:1: block 1: name: expected a string"),
    ('[[block]]\nname = ""', 'rules.toml:1: block 1: name: "": '),
    ('[[block]]\nname = "a"\nrange = "<1"', "rules.toml:1: block 1: range: each format has a range language of its own; set format"),
    ('[[block]]\nname = "a"\nformat = "npm"\nrange = "<<"', "rules.toml:1: block 1: range: "),
    ('[[block]]\nname = "a"\nformat = "npm"\nrange = ""', "rules.toml:1: block 1: range: expected a range"),
    ('[[block]]\nname = "a"\nformat = "npm"\nrange = "<1"\nversion = "1"', "rules.toml:1: block 1: range: stands beside version"),
    ('[[block]]\nname = "a"\nmode = "off"', 'rules.toml:1: block 1: mode: expected audit or enforce, got "off"'),
    ('[[block]]\nname = "a"\nexpires = 07:00:00', "rules.toml:1: block 1: expires: expected a day or a time"),
    ('[[block]]\nname = "a"\nexpires = "soon"', "rules.toml:1: block 1: expires: expected a day or a time"),
    ('[[block]]\nname = "a"\nid = "a b"', "rules.toml:1: block 1: id: expected 1 to 128 printable ASCII characters without spaces"),
    ('[[block]]\nname = "a"\nid = "i"\n[[pin]]\nid = "i"\nname = "a"\nversion = "1"\nintegrity = "%"', 'rules.toml:4: pin 1: integrity: "%"'),
    ('[[block]]\nname = "a"\nid = "i"\n[[allow]]\nid = "i"\nname = "a"', 'rules.toml:4: allow 1: id: "i" is that of rules.toml:1 as well'),
    ('[[block]]\nname = "a"\nreason = 1', "rules.toml:1: block 1: reason: expected a string, got a number"),
    (f'[[block]]\nname = "a"\nreason = "{"x" * 1001}"', "rules.toml:1: block 1: reason: has 1001 characters, at most 1000 are taken"),
    ('[[block]]\nname = "a"\nowner = ""', "rules.toml:1: block 1: owner: expected 1 to 255 printable characters"),
    (f"[[block]]\nnames = {['a'] * 1001}\nversions = {['1'] * 10}", "rules.toml:1: block 1: makes more than 10000 rules"),
    ('[[allow]]\nname = "a"\nmode = "audit"', "rules.toml:1: allow 1: mode: unknown key"),
    ('[[age]]\nname = "a"', "rules.toml:1: age 1: min_release_age: is missing"),
    ('[[age]]\nmin_release_age = "7"', "rules.toml:1: age 1: min_release_age: expected a duration"),
    ("[[age]]\nmin_release_age = 7", "rules.toml:1: age 1: min_release_age: expected a duration"),
    (f'[[pin]]\nname = "a"\nintegrity = "sha256:{HEX}"', "rules.toml:1: pin 1: version: is missing; a hash belongs to one version"),
    ('[[pin]]\nname = "a"\nversion = "1"', "rules.toml:1: pin 1: integrity: is missing"),
    ('[[bypass]]\ntoken_sha256 = "x"', "rules.toml:1: bypass 1: name: expected 1 to 128"),
    ('[[bypass]]\nname = "ci"', "rules.toml:1: bypass 1: expected either token_sha256 or token_file"),
    ('[[bypass]]\nname = "ci"\ntoken_sha256 = "x"', "rules.toml:1: bypass 1: token_sha256: expected the sha256 of the token, 64 hex digits"),
    (f'[[bypass]]\nname = "ci"\ntoken_sha256 = "{hashlib.sha256().hexdigest()}"', "rules.toml:1: bypass 1: token_sha256: is the sha256 of nothing"),
    ('[[bypass]]\nname = "ci"\ntoken_file = "gone"', "rules.toml:1: bypass 1: token_file: gone: cannot be read: No such file"),
    ('[[bypass]]\nname = "ci"\ntoken_file = "/dev/null"', "rules.toml:1: bypass 1: token_file: /dev/null: expected one token"),
    ('[[bypass]]\nname = "ci"\ntoken = "hunter2"', "rules.toml:1: bypass 1: token: unknown key, valid are name, token_sha256, token_file"),
    ('[[expect]]\nname = "a"\nresult = "block"', "rules.toml:1: expect 1: format: nothing is no format"),
    ('[[expect]]\nformat = "*"\nname = "a"\nresult = "block"', "rules.toml:1: expect 1: format: a test is about one package"),
    ('[[expect]]\nformat = "npm"\nname = "a*"\nresult = "block"', "rules.toml:1: expect 1: name: a test is about one package and takes no star"),
    ('[[expect]]\nformat = "npm"\nname = "a"\nresult = "deny"', 'rules.toml:1: expect 1: result: expected block or allow, got "deny"'),
    ('[[expect]]\nformat = "npm"\nname = "a"\nresult = "block"\nhosted = 1', "rules.toml:1: expect 1: hosted: expected true or false"),
    (b"#\n\xff", "rules.toml:2: is not UTF-8 text: byte 0xff"),
]


@pytest.mark.parametrize(("text", "message"), BAD_TABLES, ids=range(len(BAD_TABLES)))
def test_table_is_refused(text, message):
    (line,) = problems(from_toml, text)
    assert line.startswith(message)
    assert "\n" not in line
    assert "hunter2" not in line


def test_token_file_is_read():
    write("token", " s3cret-s3cret \n")
    (bypass,) = from_toml('[[bypass]]\nname = "ci"\ntoken_file = "token"\nexpires = 2026-12-31\nowner = "ann"').bypasses
    assert bypass.sha256 == hashlib.sha256(b"s3cret-s3cret").hexdigest()


def test_settings_become_rules_as_well():
    found = read_rules(CurationConfig(bypass_token="hunter2", internal_namespaces=("@corp/**",)), NOW)
    assert found == RuleSet(
        namespaces=(Namespace("@corp/**", "*", "configuration"),),
        bypasses=(Bypass("configuration", hashlib.sha256(b"hunter2").hexdigest(), place="configuration"),),
    )


@pytest.mark.parametrize(("text", "has"), [("#", False), ('[[block]]\nname = "a"', False), ('[[allow]]\nname = "a"\nexpires = 2020-01-01', True)])
def test_any_allow_table_makes_an_allowlist(text, has):
    assert from_toml(text).has_allowlist is has


def test_integrity_wants_an_allowlist():
    with pytest.raises(ConfigError) as caught:
        read_rules(replace(LIVE, rules_path=write("rules.toml", "# none"), require_integrity=True), NOW)
    assert caught.value.problems[0].startswith("curation.require_integrity: is about the allowlist")


def test_blocklist_comes_before_the_rules_file():
    config = replace(LIVE, blocklist_path=write("b.json", one('{"registry": "npm", "name": "a", "version": "1"}')))
    found = read_rules(replace(config, rules_path=write("r.toml", '[[block]]\nname = "b"')), NOW)
    assert [rule.name for rule in found.rules] == ["a", "b"]


# ---- warnings

WARNED = [
    ('[[block]]\nname = "a"\nexpires = 2026-05-01', "rules.toml:1: block rules.toml#1: has expired on 2026-05-01 00:00"),
    (f'[[bypass]]\nname = "ci"\ntoken_sha256 = "{HEX}"\nexpires = 2026-06-01', "rules.toml:1: bypass ci: has expired on 2026-06-01 00:00"),
    ("flip_until = 2026-05-01", "flip_until = 2026-05-01 00:00: is over; remove it"),
    ('[[block]]\nname = "a"\n[[block]]\nname = "a"', "rules.toml:3: block rules.toml#2: says the same as rules.toml:1, which comes first"),
    ('[[block]]\nname = "A_b"\nformat = "pypi"\n[[block]]\nname = "a-B"\nformat = "python"', "rules.toml:4: block rules.toml#2: says the same"),
    (f'[[bypass]]\nname = "ci"\ntoken_sha256 = "{HEX}"', "rules.toml:1: bypass ci: has no expires; a token that never ends"),
    ('[[except]]\nname = "a"', "rules.toml:1: except rules.toml#1: has no owner and expires;"),
    ('[[except]]\nname = "a"\nexpires = 2026-12-31', "rules.toml:1: except rules.toml#1: has no owner;"),
    ('[[block]]\nname = "a b*"\nformat = "npm"', 'rules.toml:1: block rules.toml#1: can never match: "a b*" has " ", and names of npm packages'),
    ('[[block]]\nname = "Corp+/*"\nformat = "docker"', 'rules.toml:1: block rules.toml#1: can never match: "corp+/*" has "+", and names of images'),
]


@pytest.mark.parametrize(("text", "begin"), WARNED)
def test_warning(text, begin):
    (line,) = from_toml(text).warnings
    assert line.startswith(begin)


def test_hashes_of_one_coordinate_are_no_duplicates():
    pin = '[[pin]]\nname = "a"\nversion = "1"\nintegrity = "sha256:{}"\n'
    assert from_toml(pin.format("00" * 32) + pin.format("11" * 32)).warnings == ()


def test_warnings_are_bounded():
    found = from_toml('[[block]]\nname = "a"\n' * 100).warnings
    assert len(found) == 51
    assert found[-1] == "and 49 more that are there twice"


# ---- large files


def test_lines_of_a_large_list():
    rules = ",\n".join(f'{{"registry": "npm", "name": "a{n}", "version": "*", "reason": "r"}}' for n in range(20_000))
    found = from_blocklist('{"version": 1, "rules": [\n' + rules + "]}").rules
    assert [rule.place for rule in found] == [f"blocklist.json:{n + 2}" for n in range(20_000)]
    assert found[0].reason is found[-1].reason


def test_lines_of_a_large_rules_file():
    found = from_toml("".join(f'[[block]]\nformat = "npm"\nname = "a{n}"\n' for n in range(5_000))).rules
    assert [rule.place for rule in found] == [f"rules.toml:{3 * n + 1}" for n in range(5_000)]


NAMES = st.sampled_from(["a", "@a/b", "A_b", "a*", "a b", "/a", "x" * 513, "", "*", "ü", "library/x"])


@settings(deadline=None)  # a busy machine is no failure
@given(
    names=st.lists(NAMES, max_size=4),
    format=st.sampled_from(["npm", "pypi", "docker", "*", "raw"]),
    version=st.sampled_from(["*", "1.0", "v1*", "[1"]),
)
def test_the_quick_way_says_what_the_other_says(names, format, version):
    """A key that feeds do not write sends a rule the slow way."""
    rules = [{"registry": format, "name": name, "version": version, "reason": "r"} for name in ["first", *names]]
    slow = [{**rule, "_": 1} for rule in rules]
    assert outcome(from_blocklist, json.dumps(rules)) == outcome(from_blocklist, json.dumps(slow))
    tables = "".join(
        f'[[block]]\nid = "i{number}"\nformat = "{format}"\nname = "{rule["name"]}"\nversion = "{version}"\n\n' for number, rule in enumerate(rules)
    )
    assert outcome(from_toml, tables) == outcome(from_toml, tables.replace("\n\n", '\nrepository = "*"\n'))


def outcome(read, text: str) -> object:
    try:
        found = read(text)
    except ConfigError as error:
        return error.problems
    return found.rules, [line for line in found.warnings if "ignored" not in line]


@pytest.mark.parametrize("text", ["", "\n", "  \n\n"])
def test_a_file_without_a_word_is_no_policy(tmp_path, text):
    """An editor that writes in place shows a reload an empty file for a moment: it would let everything through."""
    path = tmp_path / "rules.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_rules(CurationConfig(mode="enforce", rules_path=path), 0.0)
    assert "is empty" in caught.value.problems[0]
    path.write_text("# nothing yet\n")
    assert read_rules(CurationConfig(mode="enforce", rules_path=path), 0.0).rules == ()
