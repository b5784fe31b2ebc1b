"""Feeds of malicious packages: what a record becomes, what is refused, what a file says when it is read again."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import time
import tomllib
import zipfile
from pathlib import Path

import pytest

from noraflask.config import CurationConfig
from noraflask.ecosystems import ecosystem_of
from noraflask.services.curation.files import read_rules
from noraflask.services.curation.osv import feed as feeds
from noraflask.services.curation.osv.blocklist import write_blocklist
from noraflask.services.curation.osv.feed import import_osv
from noraflask.services.curation.osv.values import OsvProblem

DATA = Path(__file__).parent.parent / "data" / "osv"
WHOLE = [("*",)]


def record(name="MAL-2024-1", /, ecosystem="npm", package="bad", **rest):
    affected = {"package": {"ecosystem": ecosystem, "name": package}}
    affected |= {key: rest.pop(key) for key in ("versions", "ranges") if key in rest}
    return {"id": name, "modified": "2024-01-01T00:00:00Z", "summary": "Malicious code", "affected": [affected], **rest}


def span(*events, kind="ECOSYSTEM"):
    """span(introduced="1", ...) with events as single-item dictionaries."""
    return {"type": kind, "events": list(events)}


def feed(folder: Path, *records) -> Path:
    folder.mkdir(exist_ok=True)
    for number, each in enumerate(records):
        (folder / f"{number}.json").write_text(each if isinstance(each, str) else json.dumps(each))
    return folder


def archive(path: Path, members, compression=zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, body in members:
            file.writestr(name, body)
    return path


def said(found):
    return [block.range or block.versions for block in found.blocks]


FROM_ZERO = {"introduced": "0"}


ROWS = [
    ("npm", {"ranges": [span(FROM_ZERO)]}, WHOLE),
    ("npm", {"ranges": [span({"introduced": "0.0.0-0"}, kind="SEMVER")]}, WHOLE),
    ("npm", {"ranges": [span(FROM_ZERO)], "versions": ["1.0.0"]}, WHOLE),
    ("npm", {"ranges": [span(FROM_ZERO, {"limit": "*"})]}, WHOLE),
    ("npm", {}, WHOLE),
    ("npm", {"versions": ["1.0.1", "1.0.0", "1.0.1"]}, [("1.0.0", "1.0.1")]),
    ("npm", {"ranges": [span({"introduced": "1.0.0"}, {"fixed": "1.2.3"})]}, [">=1.0.0 <1.2.3"]),
    ("npm", {"ranges": [span(FROM_ZERO, {"fixed": "1.2.3"})]}, ["<1.2.3"]),
    ("npm", {"ranges": [span(FROM_ZERO, {"last_affected": "1.2.3"})]}, ["<=1.2.3"]),
    ("npm", {"ranges": [span({"introduced": "1.0.0"})]}, [">=1.0.0"]),
    ("npm", {"ranges": [span({"introduced": "1.0.0"}, {"limit": "2.0.0"})]}, [">=1.0.0 <2.0.0"]),
    ("npm", {"ranges": [span({"introduced": "1.0.0", "fixed": "1.2.3"})]}, [">=1.0.0 <1.2.3"]),
    ("npm", {"ranges": [span({"introduced": "1.0.0"}, {"last_affected": "1.0.0"})]}, [("1.0.0",)]),
    ("npm", {"ranges": [span({"introduced": "1.0.0"}, {"fixed": "1.0.0"}), span({"introduced": "2.0.0"})]}, [">=2.0.0"]),
    (
        "npm",
        {"ranges": [span({"introduced": "1.0.0"}, {"fixed": "1.1.0"}, {"introduced": "2.0.0"}, {"fixed": "2.1.0"})], "versions": ["3.0.0"]},
        [">=1.0.0 <1.1.0", ">=2.0.0 <2.1.0", ("3.0.0",)],
    ),
    (
        "npm",
        {"ranges": [span({"fixed": "10.0.0"}, {"introduced": "9.0.0"}, {"fixed": "2.1.0"}, {"introduced": "2.0.0"})]},
        [">=2.0.0 <2.1.0", ">=9.0.0 <10.0.0"],
    ),
    ("npm", {"ranges": [span({"introduced": "1.0.0"}, kind="GIT"), span({"introduced": "2.0.0"})]}, [">=2.0.0"]),
    ("PyPI", {"ranges": [span({"introduced": "1.0"}, {"fixed": "1.2"})]}, [">=1.0,<1.2"]),
    ("crates.io", {"ranges": [span({"introduced": "1.0.0"}, {"fixed": "1.2.0"})]}, [">=1.0.0, <1.2.0"]),
    ("Go", {"ranges": [span({"introduced": "1.0.0"}, {"fixed": "1.2.0"})]}, [">=v1.0.0, <v1.2.0"]),
    ("Go", {"versions": ["1.0.0", "v1.1.0"]}, [("v1.0.0", "v1.1.0")]),
    ("Maven", {"ranges": [span({"introduced": "1.0"}, {"fixed": "1.2"})]}, ["[1.0,1.2)"]),
    ("Maven:https://repo.example/m2", {"ranges": [span(FROM_ZERO, {"last_affected": "1.2"})]}, ["(,1.2]"]),
    ("NuGet", {"ranges": [span({"introduced": "1.0.0"})]}, ["[1.0.0,)"]),
    ("RubyGems", {"ranges": [span({"introduced": "1.0"}, {"fixed": "1.2"})]}, [">= 1.0, < 1.2"]),
    ("RubyGems", {"ranges": [span({"introduced": "1.0"}, {"last_affected": "1.2"})]}, [">= 1.0, <= 1.2"]),
    ("Pub", {"ranges": [span({"introduced": "1.0.0"}, {"fixed": "1.2.0"})]}, [">=1.0.0, <1.2.0"]),
    ("ConanCenter", {"ranges": [span({"introduced": "1.0"}, {"fixed": "1.2"})]}, [">=1.0, <1.2"]),
    ("Debian:12", {"ranges": [span(FROM_ZERO, {"fixed": "1:2.0~rc1-3"})]}, ["<1:2.0~rc1-3"]),
    ("Rocky Linux:9", {"ranges": [span(FROM_ZERO, {"fixed": "0:1.2-3.el9"})]}, ["<0:1.2-3.el9"]),
    ("CPAN", {"versions": ["0.01"]}, [("0.01",)]),
    ("Hugging Face", {"ranges": [span(FROM_ZERO)]}, WHOLE),
    ("docker", {"versions": ["latest"]}, [("latest",)]),
]


@pytest.mark.parametrize(("ecosystem", "rest", "expected"), ROWS)
def test_a_record_becomes_rules(tmp_path, ecosystem, rest, expected):
    found = import_osv(feed(tmp_path, record(ecosystem=ecosystem, **rest)))
    assert sorted(map(str, said(found))) == sorted(map(str, expected))
    assert (found.undecided, found.broken) == (0, 0)


@pytest.mark.parametrize(
    ("ecosystem", "start", "end", "inside", "outside"),
    [
        ("npm", "1.0.0", "1.2.3", ["1.0.0", "1.2.2"], ["0.9.9", "1.2.3", "2.0.0"]),
        ("npm", "0", "1.2.3", ["0.0.1", "1.2.2", "1.2.3-rc.1"], ["1.2.3"]),
        ("PyPI", "1.0", "1.2", ["1.0", "1.1.9", "1.2rc1"], ["0.9", "1.2", "1.2.0"]),
        ("crates.io", "1.0.0", "1.2.0", ["1.0.0", "1.1.9"], ["0.9.0", "1.2.0"]),
        ("Go", "1.0.0", "1.2.0", ["v1.0.0", "v1.1.9"], ["v0.9.0", "v1.2.0"]),
        ("Maven", "1.0", "1.2", ["1.0", "1.1.9"], ["0.9", "1.2"]),
        ("Maven", "0", "1.2", ["0.1", "1.1.9"], ["1.2"]),
        ("NuGet", "1.0.0", "1.2.0", ["1.0.0", "1.1.9"], ["0.9.0", "1.2.0"]),
        ("RubyGems", "1.0", "1.2", ["1.0", "1.1.9"], ["0.9", "1.2"]),
        ("Pub", "1.0.0", "1.2.0", ["1.0.0", "1.1.9"], ["0.9.0", "1.2.0"]),
        ("ConanCenter", "1.0", "1.2", ["1.0", "1.1.9"], ["0.9", "1.2"]),
        ("Debian:12", "0", "2.0-3", ["1.0-1", "2.0~rc1-3"], ["2.0-3", "1:0.1-1"]),
        ("Red Hat:enterprise_linux:9", "0", "1.2-3.el9", ["1.2-2.el9"], ["1.2-3.el9"]),
        ("CPAN", "1.0", "1.2", ["1.0", "1.1"], ["0.9", "1.2"]),
    ],
)
def test_a_range_holds_the_bad_versions_and_not_the_fixed_one(tmp_path, ecosystem, start, end, inside, outside):
    (block,) = import_osv(feed(tmp_path, record(ecosystem=ecosystem, ranges=[span({"introduced": start}, {"fixed": end})]))).blocks
    rule = ecosystem_of(block.format).parse_range(block.range)
    assert [version for version in inside if not rule.contains(version)] == []
    assert [version for version in outside if rule.contains(version) is not False] == []


@pytest.mark.parametrize(
    "rest",
    [
        {"package": "a*"},
        {"package": ""},
        {"package": "a b"},
        {"package": 'a"b'},
        {"package": "a\\b"},
        {"package": "a//b"},
        {"package": "./a"},
        {"versions": ["1.0|2.0"]},
        {"versions": ["1.0^git"]},
        {"package": "a\nb"},
        {"package": "\ud800"},
        {"package": "x" * 513},
        {"versions": ["1.*"]},
        {"versions": ["1.0\n"]},
        {"versions": ["9" * 300]},
        {"versions": [1]},
        {"ranges": [span({"introduced": "1.0.0 || >=0"})]},
        {"ranges": [span({"introduced": "1.0.0"}, {"fixed": "2,*"})]},
        {"ranges": [span({"fixed": "2.0.0"})]},
        {"ranges": [span({"introduced": "1.0.0"}, {"fixed": "v1.0.0"})]},
        {"ranges": [span({"introduced": "no version at all"})]},
        {"ranges": [span({"introduced": "nonsense-éé"})]},
        {"ranges": [span({"introduced": "0"}, {"fixed": "deadbeef"}, kind="GIT")]},
        {"ecosystem": "Hugging Face", "package": "a/b", "ranges": [span({"introduced": "1"})]},
    ],
)
def test_what_no_rule_can_say_is_undecided_and_listed(tmp_path, rest):
    found = import_osv(feed(tmp_path, record(**rest)))
    assert found.blocks == ()
    assert found.undecided == 1
    assert found.undecided_listed[0].startswith("MAL-2024-1 ")
    assert found.undecided_listed[0].isprintable()


@pytest.mark.parametrize(
    ("changes", "settings", "rules", "count"),
    [
        ({"id": "GHSA-1"}, {}, 0, "harmless"),
        ({"id": "GHSA-1", "aliases": ["CVE-1", "MAL-2024-9"]}, {}, 1, None),
        ({"id": "GHSA-1", "database_specific": {"cwe_ids": ["CWE-79", "CWE-506"]}}, {}, 1, None),
        ({"id": "GHSA-1", "database_specific": {"cwes": [{"cweId": "CWE-506"}]}}, {}, 1, None),
        ({"id": "GHSA-1", "database_specific": {"cwe_ids": ["CWE-79"]}}, {}, 0, "harmless"),
        ({"id": "X-1", "database_specific": {"malicious-packages-origins": []}}, {}, 1, None),
        ({"id": "GHSA-1"}, {"only_malicious": False}, 1, None),
        ({"id": "GHSA-1"}, {"only_malicious": False, "min_severity": 7.0}, 0, "no_severity"),
        (
            {"id": "GHSA-1", "severity": [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N"}]},
            {"only_malicious": False, "min_severity": 1.0},
            0,
            "no_severity",
        ),
        ({"id": "GHSA-1", "severity": [{"type": "CVSS_V3", "score": "9.8"}]}, {"only_malicious": False, "min_severity": 9.8}, 1, None),
        ({"id": "GHSA-1", "database_specific": {"severity": "HIGH"}}, {"only_malicious": False, "min_severity": 7.0}, 1, None),
        ({"id": "GHSA-1", "database_specific": {"severity": "moderate"}}, {"only_malicious": False, "min_severity": 7.0}, 0, "harmless"),
        ({"id": "GHSA-1", "database_specific": {"cvss": {"score": 7.5}}}, {"only_malicious": False, "min_severity": 7.0}, 1, None),
        ({"id": "GHSA-1", "database_specific": {"severity": 1e999}}, {"only_malicious": False, "min_severity": 7.0}, 0, "no_severity"),
        ({"id": "MAL-1"}, {"only_malicious": False, "min_severity": 9.0}, 1, None),
        ({"withdrawn": "2024-01-01T00:00:00Z"}, {}, 0, "withdrawn"),
        ({}, {"ecosystems": {"npm"}}, 1, None),
        ({}, {"ecosystems": {"PyPI", "crates.io"}}, 0, "harmless"),
        ({}, {"exceptions": {"MAL-2024-1"}}, 0, "excepted"),
        ({"aliases": ["GHSA-9"]}, {"exceptions": {"GHSA-9"}}, 0, "excepted"),
        ({}, {"exceptions": {"npm:bad"}}, 0, "excepted"),
        ({}, {"exceptions": {"pypi:bad"}}, 1, None),
    ],
)
def test_which_records_count(tmp_path, changes, settings, rules, count):
    found = import_osv(feed(tmp_path, record(versions=["1.0.0"]) | changes), **settings)
    assert len(found.blocks) == rules
    assert count is None or getattr(found, count) == 1


def test_an_exception_that_matches_nothing_is_named(tmp_path):
    found = import_osv(feed(tmp_path, record()), exceptions={"npm:bad", "GHSA-gone"})
    assert found.unused_exceptions == ("GHSA-gone",)
    assert any("GHSA-gone" in line for line in found.summary())


def test_an_ecosystem_that_is_unknown_is_an_error_when_asked_for_and_a_count_when_met(tmp_path):
    source = feed(tmp_path, record(ecosystem="Packagist"), record("MAL-2", ecosystem="Packagist"), record("MAL-3", ecosystem="Hex:x"))
    assert import_osv(source).unknown_ecosystems == (("Hex", 1), ("Packagist", 2))
    with pytest.raises(OsvProblem, match="no such ecosystem: Pakagist"):
        import_osv(source, ecosystems={"Pakagist"})


def test_one_coordinate_has_one_rule_and_a_whole_package_no_other(tmp_path):
    found = import_osv(
        feed(
            tmp_path,
            record("MAL-2", versions=["1.0.0", "1.1.0"]),
            record("MAL-1", versions=["1.0.0"]),
            record("MAL-3", versions=["1.0.0"]),
            record("MAL-4", package="gone", versions=["1.0.0"]),
            record("MAL-5", package="gone", ranges=[span(FROM_ZERO)]),
            record("MAL-6", ecosystem="PyPI", package="A_b", versions=["1.0"]),
            record("MAL-7", ecosystem="PyPI", package="a.B", versions=["1.0"]),
        )
    )
    assert [(block.name, block.versions, block.record) for block in found.blocks] == [
        ("bad", ("1.0.0",), "MAL-1"),
        ("bad", ("1.1.0",), "MAL-2"),
        ("gone", ("*",), "MAL-5"),
        ("a-b", ("1.0",), "MAL-6"),
    ]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_a_record_that_is_there_twice_the_newest_counts(tmp_path, order):
    twice = [record(), record() | {"modified": "2024-02-01T00:00:00Z", "withdrawn": "2024-02-01T00:00:00Z"}]
    found = import_osv(feed(tmp_path, *(twice[index] for index in order)))
    assert (found.records, found.withdrawn, found.blocks, found.newest) == (1, 1, (), "2024-02-01T00:00:00Z")


def test_the_sample_folder():
    found = import_osv(DATA)
    assert [(block.format, block.name, block.range or block.versions) for block in found.blocks] == [
        ("npm", "@scope/parser", ">=0.7.29 <0.7.30"),
        ("npm", "@scope/parser", ("1.0.0",)),
        ("npm", "left-pda", ("*",)),
        ("pypi", "re-quests", ("2.31.1", "2.31.2")),
    ]
    assert (found.records, found.withdrawn, found.harmless, found.broken, found.newest) == (5, 1, 1, 1, "2024-04-02T00:00:00Z")
    assert found.broken_named[0].startswith("other/cut-short.json: not JSON")
    assert found.unknown_ecosystems == (("Packagist", 1), ("VSCode", 1))


def affected(text):
    return f'{{"id": "MAL-1", "affected": [{text}]}}'


NPM = '"package": {"ecosystem": "npm", "name": "x"}'
BROKEN = [
    *("", "[]", "null", '{"id": 1}', '{"id": "a b"}', '{"id": "ä"}', '{"id": "MAL-1", "affected": {}}', '{"id": "MAL-1", "modified": 7}'),
    *("[" * 100_000, "9" * 10_000, "\x00\xff", affected("1"), affected('{"package": []}'), affected('{"package": {"ecosystem": "npm"}}')),
    *(affected(f'{{{NPM}, "ranges": [{{"events": [{{"introduced": 0}}]}}]}}'), affected(f'{{{NPM}, "versions": "1"}}')),
    affected(f'{{{NPM}, "ranges": [1]}}'),
]


@pytest.mark.parametrize("body", BROKEN)
def test_a_broken_record_is_named_and_costs_only_itself(tmp_path, body):
    found = import_osv(feed(tmp_path, body, record("MAL-2")))
    assert (found.broken, len(found.blocks)) == (1, 1)
    assert found.broken_named[0].startswith("0.json: ")
    (tmp_path / "1.json").unlink()
    with pytest.raises(OsvProblem, match="all of its 1 records are broken"):
        import_osv(tmp_path)


def test_only_ten_broken_records_are_named(tmp_path):
    found = import_osv(feed(tmp_path, record(), *["{"] * 30))
    assert (found.broken, len(found.broken_named)) == (30, 10)


@pytest.mark.parametrize("name", ["empty", "missing", "missing.json", "missing.zip", "bad.zip", "empty.zip", "text.json"])
def test_a_source_that_says_nothing_is_refused(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.zip").write_bytes(b"PK\x03\x04 cut")
    (tmp_path / "text.json").write_text("hello")
    archive(tmp_path / "empty.zip", [("README", "no record")])
    with pytest.raises(OsvProblem, match=name):
        import_osv(tmp_path / name)


def test_links_and_pipes_in_a_folder_are_not_followed(tmp_path):
    source = feed(tmp_path / "feed", record())
    (tmp_path / "secret.json").write_text(json.dumps(record("MAL-9")))
    (source / "link.json").symlink_to(tmp_path / "secret.json")
    os.mkfifo(source / "pipe.json")
    (source / ".git").mkdir()
    (source / ".git" / "x.json").write_text("{")
    found = import_osv(source)
    assert (found.records, found.broken) == (1, 2)


# Archives


def test_folder_file_and_archive_say_the_same(tmp_path):
    records = [record(f"MAL-{number}", package=f"p{number}") for number in range(20)]
    folder = import_osv(feed(tmp_path / "feed", *records))
    zipped = import_osv(archive(tmp_path / "feed.zip", [(f"../../{each['id']}.json", json.dumps(each)) for each in reversed(records)]))
    assert (zipped.blocks, zipped.digest, zipped.records) == (folder.blocks, folder.digest, 20)
    assert import_osv(tmp_path / "feed" / "3.json").blocks == (folder.blocks[[b.record for b in folder.blocks].index("MAL-3")],)
    assert not (tmp_path.parent / "MAL-1.json").exists()


def test_a_bomb_in_an_archive_is_not_inflated(tmp_path):
    bomb = b'{"id": "' + b"x" * (feeds.MAX_RECORD_BYTES + 1)
    found = import_osv(archive(tmp_path / "a.zip", [("a.json", bomb), ("b.json", json.dumps(record()))]))
    assert found.broken_named == ("a.json: larger than 8 MB",)


@pytest.mark.parametrize(("bound", "value"), [("MAX_RECORDS", 3), ("MAX_TOTAL_BYTES", 500)])
def test_an_archive_beyond_the_bounds_is_refused(tmp_path, monkeypatch, bound, value):
    monkeypatch.setattr(feeds, bound, value)
    members = [(f"{number}.json", json.dumps(record(f"MAL-{number}"))) for number in range(5)]
    with pytest.raises(OsvProblem, match="import it ecosystem by ecosystem"):
        import_osv(archive(tmp_path / "a.zip", members))
    if bound == "MAX_RECORDS":
        with pytest.raises(OsvProblem, match="import it ecosystem by ecosystem"):
            import_osv(feed(tmp_path / "feed", *(body for _, body in members)))


def test_a_member_that_lies_about_its_size_or_is_damaged_costs_only_itself(tmp_path):
    good, body = json.dumps(record()), json.dumps(record("MAL-2", details="x" * 3000))
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("good.json", good)
        file.writestr("lie.json", body)
    damaged = bytearray(data.getvalue())
    central = damaged.rindex(b"PK\x01\x02")
    damaged[central + 24 : central + 28] = (10).to_bytes(4, "little")
    (tmp_path / "a.zip").write_bytes(damaged)
    found = import_osv(tmp_path / "a.zip")
    assert (found.broken, found.records) == (1, 1)
    assert found.broken_named[0].startswith("lie.json: ")


def test_other_compressions_are_not_opened(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("good.json", json.dumps(record()))
        file.writestr("bad.json", json.dumps(record("MAL-2")), zipfile.ZIP_LZMA)
    assert import_osv(tmp_path / "a.zip").broken_named == ("bad.json: compressed in a way other than deflate",)


# The file


def test_toml_holds_what_the_import_says(tmp_path):
    found = import_osv(DATA)
    path = tmp_path / "feed.toml"
    assert write_blocklist(found, path) == 4
    text = path.read_text()
    rules = tomllib.loads(text)["block"]
    assert [rule["name"] for rule in rules] == [block.name for block in found.blocks]
    assert {"id": "MAL-2024-0001", "format": "npm", "name": "left-pda", "version": "*", "reason": "MAL-2024-0001: Malicious code in left-pda (npm)",
            "ticket": "https://osv.dev/vulnerability/MAL-2024-0001"} in rules  # fmt: skip
    assert [rule["range"] for rule in rules if "range" in rule] == [">=0.7.29 <0.7.30"]
    assert len({rule["id"] for rule in rules}) == 4
    assert f"# source osv, sha256 of its (id, modified) list {found.digest}\n" in text
    assert "newest 2024-04-02T00:00:00Z" in text


@pytest.mark.parametrize(
    ("package", "versions", "summary"),
    [
        ('say-"hi"', ["1.0"], 'a "quote"'),
        ("back\\slash", ["1.0", "1.1"], "C:\\new\\u0041"),
        ("grüße-🦀", ["1.0-ä"], "naïve 🦀 日本語"),
        ("a", ["1.0"], "line\nbreak\r\n[[block]]\nname = '*'\t\x00\x1b[31m\x7f\x85\u2028\u202e\ud800 end"),
        ('"""', ["1.0"], '"""'),
        ("a#b", ["1.0"], "x" * 5000),
    ],
)
@pytest.mark.parametrize("ending", ["toml", "json"])
def test_strings_are_read_as_they_were_written(tmp_path, package, versions, summary, ending):
    found = import_osv(feed(tmp_path / 'fe"ed\n[[block]]', record(summary=summary)))
    found = dataclasses.replace(found, blocks=(found.blocks[0]._replace(name=package, versions=tuple(versions)),))
    path = tmp_path / f"list.{ending}"
    write_blocklist(found, path)
    text = path.read_text(encoding="utf-8")
    rules = tomllib.loads(text)["block"] if ending == "toml" else json.loads(text)["rules"]
    assert {rule["name"] for rule in rules} == {package}
    assert [version for rule in rules for version in rule.get("versions", [rule.get("version")])] == versions
    (reason,) = {rule["reason"] for rule in rules}
    assert reason.startswith("MAL-2024-1: ")
    assert len(reason) <= 200
    assert reason.isprintable()
    if summary.isprintable() and len(summary) < 100:
        assert reason == f"MAL-2024-1: {summary}"


def test_the_server_reads_what_was_written(tmp_path):
    rows = [record(f"MAL-{number}", ecosystem, package=f"p{number}", **rest) for number, (ecosystem, rest, _) in enumerate(ROWS)]
    many = record("MAL-many", package="many", versions=[f"1.0.{number}" for number in range(2500)])
    found = import_osv(feed(tmp_path / "feed", *rows, many))
    write_blocklist(found, tmp_path / "list.toml")
    write_blocklist(found, tmp_path / "list.json")
    ours = read_rules(CurationConfig(rules_path=tmp_path / "list.toml"), 0.0)
    noras = read_rules(CurationConfig(blocklist_path=tmp_path / "list.json"), 0.0)
    assert (ours.warnings, noras.warnings) == ((), ())
    told = {(block.format, block.name, version, "") for block in found.blocks for version in block.versions}
    told |= {(block.format, block.name, "*", block.range) for block in found.blocks if block.range}
    canonical = {(format, name, ecosystem_of(format).same_version(version), span) for format, name, version, span in told}
    assert {(rule.format, rule.name, rule.version, rule.range) for rule in ours.rules} == canonical
    assert {(rule.format, rule.name, rule.version, rule.range) for rule in noras.rules} == {each for each in canonical if not each[3]}


def test_json_is_noras_and_ranges_are_undecided_there(tmp_path):
    path = tmp_path / "blocklist.json"
    assert write_blocklist(import_osv(DATA), path) == 4
    document = json.loads(path.read_text())
    assert document["version"] == 1
    assert [(rule["registry"], rule["name"], rule["version"]) for rule in document["rules"]] == [
        ("npm", "@scope/parser", "1.0.0"),
        ("npm", "left-pda", "*"),
        ("pypi", "re-quests", "2.31.1"),
        ("pypi", "re-quests", "2.31.2"),
    ]
    assert document["undecided"] == ["GHSA-aaaa-bbbb-cccc npm:@scope/parser range >=0.7.29 <0.7.30"]
    assert document["feed"]["undecided"] == 1


@pytest.mark.parametrize("ending", ["toml", "json"])
def test_the_same_feed_gives_the_same_bytes_in_any_order(tmp_path, ending):
    records = [record(f"MAL-{number}", package=f"p{number % 7}", versions=[f"1.0.{number}", "2.0.0"]) for number in range(40)]
    files = []
    for number, ordered in enumerate([records, records[::-1], records]):
        (tmp_path / str(number)).mkdir()
        files.append(tmp_path / str(number) / f"list.{ending}")
        write_blocklist(import_osv(feed(tmp_path / str(number) / "feed", *ordered)), files[-1])
    assert len({file.read_bytes() for file in files}) == 1


@pytest.mark.parametrize("ending", ["toml", "json"])
def test_a_thinner_feed_does_not_replace_a_fuller_one(tmp_path, ending):
    path = tmp_path / f"list.{ending}"
    many = import_osv(feed(tmp_path / "many", *(record(f"MAL-{number}", package=f"p{number}") for number in range(10))))
    half = import_osv(feed(tmp_path / "half", *(record(f"MAL-{number}", package=f"p{number}") for number in range(5))))
    few = import_osv(feed(tmp_path / "few", *(record(f"MAL-{number}", package=f"p{number}") for number in range(4))))
    write_blocklist(many, path)
    path.chmod(0o640)
    before = path.read_bytes()
    with pytest.raises(OsvProblem, match="has 10 rules and this import only 4"):
        write_blocklist(few, path)
    assert path.read_bytes() == before
    assert write_blocklist(half, path) == 5
    assert write_blocklist(few, path) == 4
    write_blocklist(many, path)
    assert write_blocklist(few, path, force=True) == 4
    assert path.stat().st_mode & 0o777 == 0o640
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted(["few", "half", "many", path.name])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rules.toml", '[[block]]\nname = "mine"\n'),
        ("rules.toml", ""),
        ("list.json", '{"version": 1, "rules": []}'),
        ("list.json", "{"),
        ("list.json", "[]"),
    ],
)
def test_a_file_written_by_hand_is_not_replaced(tmp_path, name, text):
    found = import_osv(DATA)
    (tmp_path / name).write_text(text)
    with pytest.raises(OsvProblem, match="was not made by an import"):
        write_blocklist(found, tmp_path / name)
    assert (tmp_path / name).read_text() == text
    assert write_blocklist(found, tmp_path / name, force=True) == 4


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "list.toml"
    found = import_osv(DATA)
    write_blocklist(found, path)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OsvProblem, match="No space left"):
        write_blocklist(found, path, force=True)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["list.toml"]
    with pytest.raises(OsvProblem, match="cannot be written"):
        write_blocklist(found, tmp_path / "nowhere" / "list.toml")


@pytest.mark.slow
def test_twenty_thousand_records_take_seconds(tmp_path):
    bodies = ((f"{number}.json", json.dumps(record(f"MAL-{number}", package=f"p{number}", details="x" * 800))) for number in range(20_000))
    source = archive(tmp_path / "all.zip", bodies)
    began = time.perf_counter()
    found = import_osv(source)
    assert write_blocklist(found, tmp_path / "list.json") == 20_000
    assert time.perf_counter() - began < 20
