"""The ledger asked: replay of a candidate policy, the share that flips, who got what; and all of it in bounded memory."""

from __future__ import annotations

import json
import math
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from noraflask.cli.curation.past_tables import render_impact, render_report
from noraflask.services.curation import replay as module
from noraflask.services.curation.ledger import Entry
from noraflask.services.curation.model import Decision, Kind, Package, Rule
from noraflask.services.curation.replay import ALLOWED, AUDITED, BLOCKED, flip_share, impact, impact_as_dict, is_range, replay

NOON = 1_750_075_200  # 2025-06-16T12:00:00Z
DAY = 86400
ONE, TWO = "sha256:" + "1" * 64, "sha256:" + "2" * 64
RULE = Rule("r-7", Kind.BLOCK, "npm", "evil", reason="malware", place="blocklist.json:12")

ALLOW = Decision(True)
BLOCK = Decision(False, "blocklist", RULE, "malware")
AGE = Decision(False, "min-release-age", None, "too young", until=NOON + 5.5)
AUDIT = Decision(True, "blocklist", RULE, "malware", would_block=True)


def entry(name: str = "evil", version: str = "1.0", moment: int = NOON, **fields: Any) -> Entry:
    given = {"format": "npm", "repository": "npm", "digest": ONE, "principal": "joe", "source": "token"} | fields
    return Entry(time=moment, name=name, version=version, **given)


def always(decision: Decision) -> Callable[[Package, float], Decision]:
    return lambda package, now: decision


def only(names: str, decision: Decision) -> Callable[[Package, float], Decision]:
    return lambda package, now: decision if package.name in names.split() else ALLOW


@pytest.mark.parametrize(
    ("old", "new", "kind", "rule"),
    [
        (ALLOW, ALLOW, None, ""),
        (BLOCK, BLOCK, None, ""),
        (BLOCK, AGE, None, ""),
        (ALLOW, BLOCK, BLOCKED, "r-7"),
        (AUDIT, BLOCK, BLOCKED, "r-7"),
        (ALLOW, AGE, BLOCKED, ""),
        (BLOCK, ALLOW, ALLOWED, "r-7"),
        (BLOCK, AUDIT, ALLOWED, "r-7"),
        (ALLOW, AUDIT, AUDITED, "r-7"),
        (AUDIT, AUDIT, None, ""),
        (AUDIT, ALLOW, None, ""),
    ],
)
def test_a_change_is_a_different_answer(old, new, kind, rule):
    report = replay([entry()], always(old), always(new), NOON)
    assert [(change.kind, change.rule) for change in report.changes] == ([(kind, rule)] if kind else [])
    assert report.entries == 1


def test_changes_are_grouped_by_coordinate_and_those_that_hurt_come_first():
    past = [
        entry("evil", "1.0", NOON, principal="joe"),
        entry("evil", "1.0", NOON + 9, principal="ann", digest=TWO),
        entry("evil", "1.0", NOON + 3, principal="joe", repository="npm-two"),
        entry("evil", "2.0", NOON + 4, principal="", ci="gh:org/repo"),
        entry("good", "1.0", NOON),
        entry("freed", "1.0", NOON),
        entry("freed", "1.0", NOON),
        entry("freed", "1.0", NOON),
        entry("freed", "1.0", NOON),
    ]
    report = replay(past, only("freed", AGE), only("evil", BLOCK), NOON)
    found = [(change.kind, change.name, change.version, change.count, change.last, change.consumers) for change in report.changes]
    assert found == [
        (BLOCKED, "evil", "1.0", 3, NOON + 9, {("joe", ""): 2, ("ann", ""): 1}),
        (BLOCKED, "evil", "2.0", 1, NOON + 4, {("", "gh:org/repo"): 1}),
        (ALLOWED, "freed", "1.0", 4, NOON, {("joe", ""): 4}),
    ]
    assert (report.entries, report.omitted) == (9, 0)


def test_the_package_is_judged_as_of_now_with_what_the_ledger_knows():
    asked: list[tuple[Package, float]] = []

    def note(package: Package, now: float) -> Decision:
        asked.append((package, now))
        return ALLOW

    replay([entry(hosted=False, published=5.0, seen=7.0, repository="main"), entry(version="", digest="")], note, always(ALLOW), NOON + 60)
    assert asked == [
        (Package("npm", "evil", "1.0", "main", digests=(ONE,), published=5.0, seen=7.0, hosted=False), NOON + 60),
        (Package("npm", "evil", None, "npm", published=NOON, hosted=True), NOON + 60),
    ]


def test_an_age_that_was_not_noted_counts_from_when_it_was_first_served():
    def young(package: Package, now: float) -> Decision:
        assert package.published == package.seen
        return ALLOW if package.published is not None and now - package.published >= DAY else AGE

    past = [
        entry("old", moment=NOON - 2 * DAY, hosted=False),
        entry("old", moment=NOON - 1, hosted=False),
        entry("new", moment=NOON - 1, hosted=False),
    ]
    assert [change.name for change in replay(past, always(ALLOW), young, NOON).changes] == ["new"]


def test_each_package_is_judged_once():
    asked: list[str] = []

    def note(package: Package, now: float) -> Decision:
        asked.append(package.name)
        return ALLOW

    past = [entry(name, moment=NOON + number, principal=str(number)) for number in range(500) for name in ("a", "b")]
    replay(past, note, always(ALLOW), NOON)
    assert asked == ["a", "b"]


def test_at_most_twenty_are_named_and_all_are_counted():
    past = [entry(principal=f"user-{number:02}") for number in range(30)] + [entry(principal="user-29")]
    (change,) = replay(past, always(ALLOW), always(BLOCK), NOON).changes
    said = change.as_dict()
    assert [consumer["principal"] for consumer in said["consumers"]] == ["user-29", *(f"user-{number:02}" for number in range(19))]
    assert (said["consumers_count"], said["consumers_complete"]) == (30, True)
    assert "and 10 more" in render_report(replay(past, always(ALLOW), always(BLOCK), NOON))


def test_too_many_consumers_are_no_longer_counted_and_the_report_says_so(monkeypatch):
    monkeypatch.setattr(module, "MOST_CONSUMERS", 3)
    past = [entry("a", principal="1"), entry("a", principal="2"), entry("b", principal="1"), entry("b", principal="2"), entry("a", principal="1")]
    report = replay(past, always(ALLOW), always(BLOCK), NOON)
    assert [(change.name, len(change.consumers), change.more_consumers, change.count) for change in report.changes] == [
        ("a", 2, False, 3),
        ("b", 1, True, 2),
    ]
    assert "and others" in render_report(report)


def test_too_many_changes_are_no_longer_listed_and_the_report_says_so(monkeypatch):
    monkeypatch.setattr(module, "MOST_CHANGES", 2)
    report = replay([entry(name) for name in "abcabc"], always(ALLOW), always(BLOCK), NOON)
    assert [change.name for change in report.changes] == ["a", "b"]
    assert report.omitted == 2
    assert "Only 2 changes are listed; 2 of those replayed belong to others." in render_report(report)


@pytest.mark.parametrize(
    ("names", "old", "new", "share"),
    [
        ("", ALLOW, BLOCK, (0, 0)),
        ("a a a b", ALLOW, BLOCK, (1, 2)),
        ("a b c", ALLOW, AUDIT, (0, 3)),
        ("a b c", BLOCK, BLOCK, (0, 3)),
        ("a b c", BLOCK, ALLOW, (0, 3)),
        ("b c d", ALLOW, BLOCK, (0, 3)),
    ],
)
def test_the_share_that_flips_is_over_distinct_coordinates(names, old, new, share):
    assert flip_share([entry(name) for name in names.split()], only("a", old), only("a", new), NOON) == share


def test_a_coordinate_flips_when_it_does_in_any_repository():
    def new(package: Package, now: float) -> Decision:
        return BLOCK if package.repository == "two" else ALLOW

    past = [entry("a", repository=repository) for repository in ("one", "two", "three")]
    assert flip_share(past, always(ALLOW), new, NOON) == (1, 1)


def test_the_share_of_very_many_coordinates_is_a_fair_estimate(monkeypatch):
    monkeypatch.setattr(module, "MOST_COORDINATES", 2000)
    asked: list[str] = []

    def new(package: Package, now: float) -> Decision:
        asked.append(package.name)
        return BLOCK if int(package.name) % 4 == 0 else ALLOW

    blocked, all_of_them = flip_share((entry(str(number)) for number in range(20_000)), always(ALLOW), new, NOON)
    assert 0.8 < all_of_them / 20_000 < 1.2
    assert 0.17 < blocked / all_of_them < 0.33
    assert len(asked) < 12_000


RECEIPTS = [
    entry("left-pad", "1.0.0", NOON, principal="joe", ci="gh:org/a"),
    entry("left-pad", "1.0.0", NOON + 700, principal="joe", ci="gh:org/a"),
    entry("left-pad", "1.1.0", NOON + 5, principal="ann", digest=TWO),
    entry("left-pad", "2.0.0", NOON + 6, principal="bob"),
    entry("left-pad", "", NOON + 7, principal="cid", digest=""),
    entry("left-pads", "1.0.0", NOON + 8, principal="dan"),
    entry("left-pad", "1.0.0", NOON + 9, principal="eve", format="pypi"),
    entry("redis", "latest", NOON + 9, principal="fay", format="docker"),
]


@pytest.mark.parametrize(
    ("format", "name", "version", "certain", "perhaps"),
    [
        ("npm", "left-pad", "*", "joe cid bob ann", ""),
        ("NPM", "left-pad", "1.0.0", "joe", "cid"),
        ("npm", "left-pad", "v1.0.0", "joe", "cid"),
        ("npm", "left-pad", "1.*", "joe ann", "cid"),
        ("npm", "left-*", "1.0.0", "joe dan", "cid"),
        ("npm", "left-pad", ">=1.1.0", "bob ann", "cid"),
        ("npm", "left-pad", TWO, "ann", ""),
        ("npm", "*", ONE.upper().replace("SHA", "sha"), "joe dan bob", ""),
        ("*", "left-pad", "1.0.0", "joe eve", "cid"),
        ("*", "*", TWO, "ann", ""),
        ("python", "Left_Pad", "**", "eve", ""),
        ("oci", "docker.io/library/redis", "latest", "fay", ""),
        ("docker", "redis", ">=7", "", "fay"),
        ("npm", "left", "*", "", ""),
        ("cargo", "left-pad", "*", "", ""),
    ],
)
def test_impact_tells_who_got_it(format, name, version, certain, perhaps):
    receipts = impact(RECEIPTS, format, name, version)
    assert [receipt.principal for receipt in receipts if receipt.certain] == certain.split()
    assert [receipt.principal for receipt in receipts if not receipt.certain] == perhaps.split()


def test_impact_tells_when_first_and_last_how_often_and_which_bytes():
    (receipt,) = impact(reversed(RECEIPTS[:2]), "npm", "left-pad")
    assert receipt.as_dict() == {
        "format": "npm",
        "repository": "npm",
        "name": "left-pad",
        "version": "1.0.0",
        "digest": ONE,
        "principal": "joe",
        "ci": "gh:org/a",
        "first": "2025-06-16T12:00:00Z",
        "last": "2025-06-16T12:11:40Z",
        "count": 2,
        "certain": True,
    }


@pytest.mark.parametrize(
    ("format", "version", "message"),
    [("nmp", "*", "no format; say one of docker, maven"), ("*", ">=1", "name the format instead of"), ("raw", ">=1", "range")],
)
def test_impact_refuses_what_makes_no_sense(format, version, message):
    with pytest.raises(ValueError, match=message):
        impact(RECEIPTS, format, "left-pad", version)


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        *(
            (text, True)
            for text in ("^1.2", "~1.2", "~> 1.2", ">=1,<2", "!=1", "==1.*", "[1.0,2.0)", "(,1]", "1 || 2", "1.0 - 2.0", "<2", ">> 1:2.3")
        ),
        *((text, False) for text in ("*", "1.0", "1.*", "latest", ONE, "1:2.3-4~bpo1", "1.0^git1", "v0.0.0-2020-abc", "1.0+local", "")),
    ],
)
def test_a_range_looks_different_from_a_pattern(version, expected):
    assert is_range(version) is expected


def test_the_report_as_a_table():
    past = [entry("evil", "1.0"), entry("evil", "1.0", principal="", ci="gh:org/repo"), entry("freed", "2.0")]
    assert render_report(replay(past, only("freed", AGE), only("evil", BLOCK), NOON)) == (
        "3 replayed: 1 newly blocked, 1 newly allowed, 0 newly audited\n"
        "\n"
        "Newly blocked:\n"
        "coordinate    times  last                  rule                     reason   for whom\n"
        "npm:evil@1.0  2      2025-06-16T12:00:00Z  r-7 (blocklist.json:12)  malware  (anonymous) [gh:org/repo], joe\n"
        "\n"
        "Newly allowed:\n"
        "coordinate     times  last                  rule             reason                                  for whom\n"
        "npm:freed@2.0  1      2025-06-16T12:00:00Z  min-release-age  too young (until 2025-06-16T12:00:05Z)  joe\n"
    )


def test_the_report_for_machines():
    report = replay([entry(), entry("b", "")], always(ALLOW), only("evil", BLOCK), NOON)
    assert json.loads(json.dumps(report.as_dict())) == {
        "entries": 2,
        "newly_blocked": 1,
        "newly_allowed": 0,
        "newly_audited": 0,
        "omitted_entries": 0,
        "changes": [
            {
                "change": "newly blocked",
                "format": "npm",
                "name": "evil",
                "version": "1.0",
                "filter": "blocklist",
                "rule": "r-7",
                "place": "blocklist.json:12",
                "reason": "malware",
                "until": None,
                "count": 1,
                "last": "2025-06-16T12:00:00Z",
                "consumers": [{"principal": "joe", "ci": "", "count": 1}],
                "consumers_count": 1,
                "consumers_complete": True,
            }
        ],
    }


def test_impact_as_a_table_and_for_machines():
    receipts = impact(RECEIPTS[2:5], "npm", "left-pad", "1.1.0")
    assert render_impact(receipts) == (
        "who  coordinate              repository  times  first                 last                  digest\n"
        f"ann  npm:left-pad@1.1.0      npm         1      2025-06-16T12:00:05Z  2025-06-16T12:00:05Z  {TWO}\n"
        "cid  npm:left-pad (perhaps)  npm         1      2025-06-16T12:00:07Z  2025-06-16T12:00:07Z\n"
    )
    said = json.loads(json.dumps(impact_as_dict(receipts)))
    assert said["consumers_count"] == 2
    assert [(receipt["version"], receipt["digest"], receipt["certain"]) for receipt in said["receipts"]] == [
        ("1.1.0", TWO, True),
        (None, None, False),
    ]


def test_nothing_found_says_what_to_do():
    assert "earlier --since" in render_report(replay([], always(ALLOW), always(BLOCK), NOON))
    assert "earlier --since" in render_impact([])


def test_no_name_can_steer_a_terminal():
    odd = "\x1b[2J\n\u202e\ud800é"
    past = [entry(odd, odd, principal=odd, ci=odd, digest=odd, repository=odd)]
    far = Decision(False, odd, None, odd, until=1e300)
    for text in (render_report(replay(past, always(ALLOW), always(far), NOON)), render_impact(impact(past, "npm", "*"))):
        assert text.isprintable() or text.replace("\n", "").isprintable()
        assert text.encode().decode() == text
        assert r"\x1b[2J\n\u202e\ud800é" in text


@pytest.mark.parametrize("until", [1e300, math.inf, math.nan, -1e300])
def test_a_moment_beyond_the_calendar_is_no_error(until):
    report = replay([entry()], always(ALLOW), always(Decision(False, until=until)), NOON)
    assert report.as_dict()["changes"][0]["until"] == str(until)


def long_past(coordinates: int) -> Iterator[Entry]:
    """As a ledger yields it: each entry is gone when the next one comes. As many principals as coordinates, ten versions of each package."""
    for number in range(coordinates):
        yield entry(f"package-{number // 10}", str(number % 10), NOON + number, principal=f"user-{number}", digest=f"sha256:{number:064}")


@pytest.mark.slow
def test_a_long_past_is_replayed_in_bounded_memory(monkeypatch):
    for bound in ("MOST_CHANGES", "MOST_CONSUMERS", "MOST_REMEMBERED", "MOST_COORDINATES"):
        monkeypatch.setattr(module, bound, getattr(module, bound) // 100)
    new = only("package-7 package-8", BLOCK)

    def peak(count: int) -> int:
        tracemalloc.start()
        try:
            assert len(replay(long_past(count), always(ALLOW), new, NOON).changes) == 20
            flip_share(long_past(count), always(ALLOW), new, NOON)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    if sys.gettrace() is None:  # not under a debugger or a coverage run
        assert peak(8000) < 1_000_000


@pytest.mark.slow
def test_two_hundred_thousand_entries_are_replayed():
    past, new = list(long_past(40_000)) * 5, only("package-7 package-8", BLOCK)
    report = replay(past, always(ALLOW), new, NOON)
    assert report.entries == 200_000
    assert [(change.count, change.kind) for change in report.changes] == [(5, BLOCKED)] * 20
    assert flip_share(past, always(ALLOW), new, NOON) == (20, 40_000)


# What artifacts are made of.


LAYER = "sha256:" + "ab" * 32


def part(version: str = LAYER) -> Entry:
    return entry("app", version, format="docker", digest=version, part=True)


def test_a_part_is_blocked_by_its_own_digest_and_by_no_allowlist():
    listed = always(Decision(False, "allowlist"))
    assert replay([part()], always(ALLOW), listed, NOON).changes == []
    assert [change.kind for change in replay([part()], always(ALLOW), always(BLOCK), NOON).changes] == [BLOCKED]
    assert [change.kind for change in replay([replace(part(), part=False)], always(ALLOW), listed, NOON).changes] == [BLOCKED]


def test_parts_are_no_coordinates_for_the_flip_guard():
    entries = [entry("app", "1"), *(part(f"sha256:{number:064x}") for number in range(50))]
    assert flip_share(entries, always(ALLOW), always(BLOCK), NOON) == (1, 1)


@pytest.mark.parametrize(
    ("version", "digests", "named"),
    [
        (LAYER, (), [True]),
        ("*", (), [True]),
        ("1", (), []),
        ("1", {LAYER}, [True]),
        (">=1 <2", (), []),
        ("sha256:" + "cd" * 32, (), []),
    ],
)
def test_who_read_a_layer_directly(version, digests, named):
    assert [receipt.certain for receipt in impact([part()], "docker", "app", version, digests)] == named
