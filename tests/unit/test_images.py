"""Which images may be seen, as tables: graphs of tags, indexes, manifests and blobs, and what rules on some of them do to the others."""

from __future__ import annotations

import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noraflask.digest import Digest
from noraflask.errors import Unavailable
from noraflask.formats.docker import graphs, twins
from noraflask.formats.docker.graphs import Graph, Graphs, Holders, graph_of
from noraflask.formats.docker.images import ALLOWED, TOO_LARGE, Images, combined, is_block, package
from noraflask.formats.docker.protocol import keys
from noraflask.formats.docker.protocol.kept import FEW_PARTS, Parts, has_many_parts, manifest_members
from noraflask.formats.docker.protocol.manifests import parse_manifest
from noraflask.formats.docker.protocol.media_types import OCI_INDEX, OCI_MANIFEST
from noraflask.formats.docker.stock import _own
from noraflask.pointer import Pointer
from noraflask.services.content import Content
from noraflask.services.curation.compiling import compile
from noraflask.services.curation.deciding import decide
from noraflask.services.curation.model import Decision, Kind, Package, Rule, RuleSet
from noraflask.services.curation.policy import DAY, Policy, Settings
from noraflask.storage.disk import DiskStorage
from noraflask.storage.memory import MemoryStorage

NOW = 1_800_000_000.0
ENFORCE, AUDIT = Settings(mode="enforce"), Settings(mode="audit")


def digest(name: str) -> str:
    return str(Digest.of(name.encode()))


INDEX, AMD, ARM, SOLO = map(digest, ("index", "amd", "arm", "solo"))
BASE, TOP, LONE, CONFIG = map(digest, ("base", "top", "lone", "config"))
NAMES = {value: name for name, value in {"index": INDEX, "amd": AMD, "arm": ARM, "solo": SOLO, "base": BASE, "top": TOP, "lone": LONE}.items()}
GRAPH = Graph(
    tags={INDEX: ["1", "1.0"], SOLO: ["2"]},
    parents={AMD: [INDEX], ARM: [INDEX]},
    holders={BASE: [AMD, ARM, SOLO], TOP: [AMD], LONE: [SOLO]},
    digests=frozenset({INDEX, AMD, ARM, SOLO}),
)
"""Tags 1 and 1.0: an index of amd (layers base, top) and arm (base). Tag 2: solo (base, lone)."""


def rule(kind: str, version: str = "*", **more: Any) -> Rule:
    return Rule(**{"id": f"{kind}-{version[:12]}", "kind": Kind(kind), "format": "docker", "name": "app", "version": version, **more})


def policy(*rules: Rule, settings: Settings = ENFORCE) -> Policy:
    return Policy.from_buffer(compile(settings, RuleSet(rules, has_allowlist=any(one.kind is Kind.ALLOW for one in rules))))


def images(*rules: Rule, graph: Graph = GRAPH, settings: Settings = ENFORCE, age: float | None = None, name: str = "app") -> Images:
    found = policy(*rules, settings=settings)
    return Images("docker", name, graph, lambda asked: decide(found, asked, NOW), lambda _: None if age is None else NOW - age)


def free(found: Images) -> set[str]:
    """Names of all that may be read, of GRAPH."""
    manifests = {one for one in (INDEX, AMD, ARM, SOLO) if found.manifest(one).allowed}
    blobs = {one for one in (BASE, TOP, LONE) if found.blob(one, is_read=True).allowed}
    leads = {tag: to for to, tags in GRAPH.tags.items() for tag in tags}
    return {NAMES[one] for one in manifests | blobs} | {tag for tag, to in leads.items() if found.tag(tag, to).allowed}


FIRST, SECOND = {"1", "1.0", "index", "amd", "arm"}, {"2", "solo", "lone"}


@pytest.mark.parametrize(
    ("rules", "blocked"),
    [
        ([], set()),
        ([("block", "1")], FIRST | {"top"}),
        ([("block", "1.0")], FIRST | {"top"}),
        ([("block", "2")], SECOND),
        ([("block", "1*"), ("block", "2")], FIRST | SECOND | {"top", "base"}),
        ([("block", INDEX)], FIRST | {"top"}),
        ([("block", AMD)], {"amd", "top"}),
        ([("block", ARM)], {"arm"}),
        ([("block", BASE)], {"base"}),
        ([("block", "*")], FIRST | SECOND | {"top", "base"}),
        ([("block", "1"), ("except", "1")], set()),
        ([("block", "1"), ("except", INDEX)], FIRST | {"top"}),
        ([("block", AMD.upper().replace("SHA256", "sha256"))], set()),
    ],
)
def test_what_a_rule_on_one_thing_blocks(rules, blocked):
    everything = FIRST | SECOND | {"top", "base"}
    assert free(images(*(rule(*one) for one in rules))) == everything - blocked


@pytest.mark.parametrize(
    ("allowed", "readable"),
    [
        ([], set()),
        (["1"], FIRST | {"top", "base"}),
        ([INDEX], FIRST | {"top", "base"}),
        (["2"], SECOND | {"base"}),
        ([SOLO], SECOND | {"base"}),
        ([AMD], {"amd", "top", "base"}),
        ([BASE], {"base"}),
        (["1", "2"], FIRST | SECOND | {"top", "base"}),
    ],
)
def test_what_an_allowlist_lets_through(allowed, readable):
    rules = [rule("allow", version) for version in allowed] or [rule("allow", "none")]
    assert free(images(*rules)) == readable


def test_a_block_goes_before_an_allowlist():
    assert free(images(rule("allow", "*"), rule("block", "1"))) == SECOND | {"base"}
    assert free(images(rule("allow", "1"), rule("block", AMD))) == {"1", "1.0", "index", "arm", "base"}


def test_wrong_integrity_in_an_allowlist_is_a_block():
    found = images(rule("allow", "1", integrity=(SOLO,)))
    assert found.tag("1", INDEX).filter == found.manifest(INDEX).filter == found.manifest(AMD).filter == "allowlist:integrity"
    assert not found.blob(TOP, is_read=True).allowed


def test_a_child_with_a_tag_of_its_own_stays_when_its_index_is_blocked():
    graph = Graph({INDEX: ["1"], AMD: ["amd"]}, GRAPH.parents, GRAPH.holders, GRAPH.digests)
    found = images(rule("block", "1"), graph=graph)
    assert found.tag("amd", AMD).allowed
    assert found.blob(TOP, is_read=True).allowed
    assert not found.manifest(ARM).allowed


def test_a_child_of_two_indexes_stays_with_the_one_that_may_be_seen():
    other = digest("other")
    graph = Graph({INDEX: ["1"], other: ["2"]}, {AMD: [INDEX, other]}, {TOP: [AMD]}, frozenset({INDEX, AMD, other}))
    found = images(rule("block", "1"), graph=graph)
    assert found.manifest(AMD).allowed
    assert found.blob(TOP, is_read=True).allowed
    assert not images(rule("block", "1"), rule("block", "2"), graph=graph).blob(TOP, is_read=True).allowed


def test_ranges_are_about_tags():
    """A digest is a version that nobody can compare; it would be blocked by every range."""
    found = images(rule("block", "*", range="<2"))
    assert free(found) == SECOND | {"base"}


@pytest.mark.parametrize("tag", ["latest", "edge"])
def test_a_tag_that_no_range_can_place_is_blocked(tag):
    graph = Graph({INDEX: [tag]}, {AMD: [INDEX]})
    found = images(rule("block", "*", range="<2"), graph=graph)
    assert "cannot be compared" in found.tag(tag, INDEX).reason
    assert not found.manifest(AMD).allowed


@pytest.mark.parametrize(("age", "allowed"), [(0.0, False), (6 * DAY, False), (7 * DAY, True), (None, False)])
def test_ages_of_what_was_pushed_here(age, allowed):
    found = images(settings=Settings(mode="enforce", min_release_age=7 * DAY, hosted=True), age=age)
    assert bool(free(found)) is allowed
    assert found.tag("2", SOLO).allowed is found.blob(LONE, is_read=True).allowed is allowed
    if age is not None and not allowed:
        assert found.tag("2", SOLO).until == NOW - age + 7 * DAY


def test_ages_do_not_count_for_what_was_pushed_here_unless_asked():
    assert "lone" in free(images(settings=Settings(mode="enforce", min_release_age=7 * DAY), age=0.0))


def test_pins_hold_a_tag_to_its_digests():
    pins = [rule("pin", "1", integrity=(SOLO,)), rule("pin", "2", integrity=(INDEX,)), rule("pin", "2", integrity=(SOLO,))]
    assert free(images(*pins)) == SECOND | {"base"}


def test_blobs_that_no_manifest_holds():
    """A push asks whether they are there before there is a manifest; and they have no image that could be blocked."""
    stray = digest("stray")
    assert images(rule("block", "1")).blob(stray, is_read=True).allowed
    assert images(rule("allow", "1")).blob(stray, is_read=False).allowed
    assert not images(rule("allow", "1")).blob(stray, is_read=True).allowed
    assert not images(rule("block", stray)).blob(stray, is_read=False).allowed


def test_a_manifest_cannot_be_read_as_a_blob():
    assert not images(rule("block", "1")).blob(INDEX, is_read=True).allowed
    assert not images(rule("block", "1")).blob(AMD, is_read=True).allowed
    assert images(rule("block", "1")).blob(SOLO, is_read=True).allowed


# Nesting.


def chain(length: int) -> tuple[Graph, list[str]]:
    """Indexes in indexes; the outermost has the tag 1."""
    links = [digest(f"link {number}") for number in range(length)]
    parents = {inner: [outer] for outer, inner in itertools.pairwise(links)}
    return Graph({links[0]: ["1"]}, parents, {TOP: [links[-1]]}, frozenset(links)), links


@pytest.mark.parametrize("length", [2, 9, 10, 5000])
def test_however_deep_indexes_are_nested(length):
    graph, links = chain(length)
    blocked, listed = images(rule("block", "1"), graph=graph), images(rule("allow", "1"), graph=graph)
    assert not blocked.manifest(links[-1]).allowed
    assert not blocked.blob(TOP, is_read=True).allowed
    assert listed.manifest(links[-1]).allowed
    assert listed.blob(TOP, is_read=True).allowed


def test_asking_from_inside_first_makes_no_difference():
    graph, links = chain(20)
    found = images(rule("block", "1"), graph=graph)
    assert {found.manifest(link).allowed for link in (links[10], links[19], links[0], *links)} == {False}


def test_indexes_in_a_circle_do_not_loop():
    """Digests cannot make one; damaged storage might."""
    graph = Graph({INDEX: ["1"]}, {INDEX: [AMD], AMD: [ARM], ARM: [AMD, INDEX]}, {TOP: [ARM]}, frozenset({INDEX, AMD, ARM}))
    assert not images(rule("block", "1"), graph=graph).manifest(INDEX).allowed
    assert images(rule("block", "9"), graph=graph).blob(TOP, is_read=True).allowed


def test_many_paths_to_one_manifest_are_walked_once():
    """Each of 40 layers of indexes has two that hold both of the next: 2 ** 40 paths."""
    layers = [[digest(f"{depth} {side}") for side in "ab"] for depth in range(40)]
    parents = {child: upper for upper, lower in itertools.pairwise(layers) for child in lower}
    graph = Graph({layers[0][0]: ["1"], layers[0][1]: ["2"]}, parents, {TOP: layers[-1]}, frozenset())
    asked: list[Package] = []
    found = policy(rule("block", "1"), rule("block", "2"))

    def judge(package: Package) -> Decision:
        asked.append(package)
        return decide(found, package, NOW)

    assert not Images("docker", "app", graph, judge, lambda _: None).blob(TOP, is_read=True).allowed
    assert len(asked) < 100


# Telling what would be blocked.


@pytest.mark.parametrize("how", [{"settings": AUDIT}, {}])
@pytest.mark.parametrize("blocked", [("1",), ("1.0",), (INDEX,), (AMD,), ("1", "2"), (BASE,)])
def test_audit_tells_of_what_enforce_blocks_and_of_nothing_else(how, blocked):
    def verdicts(found: Images) -> list[Decision]:
        blobs = [found.blob(one, is_read=True) for one in (BASE, TOP, LONE)]
        return [*blobs, *map(found.manifest, (INDEX, AMD, ARM, SOLO)), found.tag("1", INDEX), found.tag("1.0", INDEX), found.tag("2", SOLO)]

    audit_only = not how
    would = verdicts(images(*(rule("block", one, audit_only=audit_only) for one in blocked), **how))
    really = verdicts(images(*(rule("block", one) for one in blocked)))
    assert {one.allowed for one in would} == {True}
    assert [one.would_block for one in would] == [not one.allowed for one in really]
    assert [one.rule and one.rule.id for one in would] == [one.rule and one.rule.id for one in really]


def test_audit_of_an_allowlist():
    found = images(rule("allow", "2"), settings=AUDIT)
    assert [found.blob(one, is_read=True).would_block for one in (BASE, TOP, LONE)] == [False, True, False]
    assert found.tag("1", INDEX).filter == "allowlist"


def test_a_rule_in_audit_beside_one_in_force():
    found = images(rule("block", "1", audit_only=True), rule("block", AMD))
    assert [found.manifest(one).allowed for one in (INDEX, AMD, ARM)] == [True, False, True]
    assert found.manifest(ARM).would_block


# Pieces.

NO, UNLISTED = Decision(False, "blocklist"), Decision(False, "allowlist")


@pytest.mark.parametrize(
    ("own", "above", "tagged", "expected"),
    [
        ([ALLOWED], [], False, ALLOWED),
        ([ALLOWED], [NO], False, NO),
        ([ALLOWED], [NO], True, ALLOWED),
        ([ALLOWED], [NO, ALLOWED], False, ALLOWED),
        ([ALLOWED], [UNLISTED], False, ALLOWED),
        ([ALLOWED], [UNLISTED, NO], False, NO),
        ([UNLISTED], [], True, UNLISTED),
        ([UNLISTED], [UNLISTED, ALLOWED], False, ALLOWED),
        ([UNLISTED], [UNLISTED, NO], False, NO),
        ([UNLISTED, ALLOWED], [], False, ALLOWED),
    ],
)
def test_combined(own, above, tagged, expected):
    assert combined(own, above, tagged) is expected


@pytest.mark.parametrize(
    ("decision", "expected"),
    [(ALLOWED, False), (NO, True), (UNLISTED, False), (Decision(False, "allowlist:integrity"), True), (Decision(True, would_block=True), False)],
)
def test_is_block(decision, expected):
    assert is_block(decision) is expected


@pytest.mark.parametrize(
    "name", ["app", "library/app", "docker.io/app", "docker.io/library/app", "index.docker.io/library/app", "registry-1.docker.io/app"]
)
def test_rules_reach_every_spelling_of_a_name(name):
    assert package("docker", name).name == "app"
    assert not images(rule("block", "1"), name=name).blob(TOP, is_read=True).allowed


def test_packages():
    assert package("docker", "app").is_index
    found = package("docker", "team/app", "1", INDEX, 5.0)
    assert (found.repository, found.name, found.version, found.digests, found.published, found.hosted) == (
        "docker",
        "team/app",
        "1",
        (INDEX,),
        5.0,
        True,
    )


# Graphs, as storage has them.


def keep(content: Content, body: dict[str, Any], *tags: str, algorithm: str = "sha256", is_told: bool = True) -> str:
    """`is_told`: the pointers say what the manifest is made of."""
    data = json.dumps(body).encode()
    found = Digest.of(data, algorithm)
    pointer = Pointer(found, len(data), body["mediaType"], content.now())
    manifest = parse_manifest(data, body["mediaType"])
    own = manifest_members(manifest, found, Digest.of(data), Parts.of(manifest)) if is_told else {}
    with content.changing("docker/app"):
        content.keep_bytes(data, found)
        if is_told and has_many_parts(manifest):
            content.repoint(keys.parts_pointer("docker", "app", found), replace(pointer, own=Parts.of(manifest).members()))
        content.repoint(keys.manifest_pointer("docker", "app", found), replace(pointer, own=own))
        for tag in tags:
            content.repoint(keys.tag_pointer("docker", "app", tag), pointer)
    return str(found)


def solo(*layers: str) -> dict[str, Any]:
    entries = [{"mediaType": "x/y", "digest": one, "size": 1} for one in (CONFIG, *layers)]
    return {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": entries[0], "layers": entries[1:]}


def index(*children: str) -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [{"mediaType": OCI_MANIFEST, "digest": one, "size": 1} for one in children]}


@pytest.fixture(params=["memory", "disk"])
def content(request, tmp_path):
    return Content(MemoryStorage() if request.param == "memory" else DiskStorage(tmp_path), clock=lambda: NOW)


def test_a_graph_is_what_storage_holds(content):
    amd, arm = keep(content, solo(BASE, TOP)), keep(content, solo(BASE))
    both = keep(content, index(amd, arm), "1", "1.0")
    found = Graphs().of(content, "docker", "app")
    assert {to: sorted(tags) for to, tags in found.tags.items()} == {both: ["1", "1.0"]}
    assert found.parents == {amd: [both], arm: [both]}
    assert {blob: set(holders) for blob, holders in found.holders.items()} == {BASE: {amd, arm}, TOP: {amd}, CONFIG: {amd, arm}}
    assert found.digests == set(found.created) == {amd, arm, both}
    assert set(found.created.values()) == {NOW}


def test_what_was_pushed_counts_at_once(content):
    known = Graphs()
    one = keep(content, solo(BASE), "1")
    assert known.of(content, "docker", "app").tags == {one: ["1"]}
    two = keep(content, solo(TOP), "1")
    assert known.of(content, "docker", "app").tags == {two: ["1"]}
    with content.changing("docker/app"):
        content.remove(keys.tag_pointer("docker", "app", "1"))
        content.remove(keys.manifest_pointer("docker", "app", Digest.parse(two)))
    assert replace(known.of(content, "docker", "app"), created={}) == Graph({}, {}, {CONFIG: [one], BASE: [one]}, frozenset({one}))


def test_a_graph_is_kept_until_somebody_changes_the_name(content):
    known = Graphs()
    keep(content, solo(BASE), "1")
    first = known.of(content, "docker", "app")
    assert known.of(content, "docker", "app") is first
    with content.changing("docker/app"):
        second = known.of(content, "docker", "app")
        assert known.of(content, "docker", "app") is not second
    third = known.of(content, "docker", "app")
    assert third is not first
    assert third is not second
    assert known.of(content, "docker", "app") is third


def test_no_more_bytes_of_graphs_are_kept_than_said(content):
    known = Graphs(limit_bytes=1000)
    for number in range(10):
        known.of(content, "docker", f"app{number}")
        assert known._known.bytes <= 1000
        assert len(known._known) in (1, 2, 3)


def test_a_name_that_holds_more_than_is_kept_of_one_is_refused_as_a_whole(content):
    """And read once for each state, like any other: its pusher shall not make each request read all of it."""
    keep(content, solo(BASE, TOP), "1")
    graph = Graphs(limit_bytes=500).of(content, "docker", "app")
    assert graph.is_too_large
    found = images(graph=graph)
    assert [found.tag("1", SOLO), found.manifest(SOLO), found.blob(TOP, is_read=True)] == [TOO_LARGE] * 3
    assert not Graphs(limit_bytes=5000).of(content, "docker", "app").is_too_large
    for number in range(20):
        content.repoint(keys.tag_pointer("docker", "tags", str(number)), Pointer(Digest.of(b"gone"), 1, OCI_MANIFEST, NOW))
    assert Graphs(limit_bytes=5000).of(content, "docker", "tags").is_too_large


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("layers", [0, 1, FEW_PARTS + 1])
def test_a_graph_is_the_same_where_pointers_do_not_say_what_manifests_are_made_of(content, layers, algorithm):
    """As after a restore of some documents, or a power cut."""
    names = [digest(f"layer {number}") for number in range(layers)]
    graphs_of_both = []
    for is_told in (True, False):
        one = keep(content, solo(*names), "1", algorithm=algorithm, is_told=is_told)
        keep(content, index(one), "2", is_told=is_told)
        if not is_told:
            with content.changing("docker/app"):
                content.remove(keys.parts_pointer("docker", "app", one))
        graphs_of_both.append(Graphs().of(content, "docker", "app"))
    assert graphs_of_both[0] == graphs_of_both[1]
    assert graphs_of_both[0].holders == {blob: [graphs_of_both[0].same(one)] for blob in (CONFIG, *names)}


def test_manifests_are_not_parsed_for_a_graph(content, monkeypatch):
    keep(content, solo(BASE), "1")
    keep(content, solo(*(digest(f"layer {number}") for number in range(FEW_PARTS + 1))), "2")
    monkeypatch.setattr(content, "read", lambda _: pytest.fail("a manifest was read"))
    assert len(Graphs().of(content, "docker", "app").digests) == 2


def test_after_a_push_what_is_new_is_read_alone(content, monkeypatch):
    known, asked = Graphs(), []
    for number in range(20):
        keep(content, solo(digest(f"{number}")), f"{number}")
    first = known.of(content, "docker", "app")
    pointer = content.pointer
    monkeypatch.setattr(content, "pointer", lambda key: asked.append(key) or pointer(key))
    new = keep(content, solo(BASE), "7")
    asked.clear()
    second = known.of(content, "docker", "app")
    assert asked == [keys.manifest_pointer("docker", "app", Digest.parse(new)), keys.tag_pointer("docker", "app", "7")]
    anew = Graphs().of(content, "docker", "app")
    assert replace(second, holders={}) == replace(anew, holders={})
    assert {blob: set(found) for blob, found in second.holders.items()} == {blob: set(found) for blob, found in anew.holders.items()}
    assert new not in first.digests
    assert not first.holders.get(BASE)


def test_what_was_deleted_or_written_anew_leaves_the_graph(content):
    known = Graphs()
    one, two = keep(content, solo(BASE), "1"), keep(content, solo(TOP), "2")
    both = keep(content, index(one, two), "3")
    assert known.of(content, "docker", "app").parents == {one: [both], two: [both]}
    with content.changing("docker/app"):
        content.remove(keys.manifest_pointer("docker", "app", Digest.parse(both)))
        content.remove(keys.manifest_pointer("docker", "app", Digest.parse(two)))
        content.remove(keys.tag_pointer("docker", "app", "3"))
    assert known.of(content, "docker", "app") == Graphs().of(content, "docker", "app")
    assert known.of(content, "docker", "app").holders == {CONFIG: [one], BASE: [one]}
    content.now = lambda: NOW + 5
    keep(content, solo(TOP), "2")
    keep(content, solo(BASE), "1")
    assert known.of(content, "docker", "app").created == {one: NOW + 5, two: NOW + 5}


@given(st.lists(st.lists(st.integers(0, 12), max_size=6), max_size=12), st.sampled_from(["sha256", "sha512"]))
def test_who_holds_a_blob_is_found_as_in_a_dict(made_of, algorithm):
    """Digests here have bytes in common, so that one may seem to begin within another."""
    rows = [bytes([number % 3] * 30 + [number] * (2 if algorithm == "sha256" else 34)) for number in range(13)]
    texts = [f"{algorithm}:{row.hex()}" for row in rows]
    holders, expected = Holders(), {}
    for place, blobs in enumerate(made_of):
        blobs = list(dict.fromkeys(blobs))
        holders.add(f"{place}", {algorithm: b"".join(rows[number] for number in blobs)})
        for number in blobs:
            expected.setdefault(texts[number], set()).add(f"{place}")
    assert {blob: set(found) for blob, found in holders.items()} == expected
    for number in range(13):
        assert set(holders.get(texts[number], ())) == expected.get(texts[number], set())
        assert len(holders.get(texts[number], ())) == len(expected.get(texts[number], set()))


def test_names_that_take_long_are_read_one_at_a_time_and_others_do_not_wait(content, monkeypatch):
    monkeypatch.setattr(graphs, "SHORT_READS", 3)
    monkeypatch.setattr(graphs, "LONG_SECONDS", 0.01)
    known = Graphs()
    keep(content, solo(BASE), "1")
    with known._long:
        assert known.of(content, "docker", "app").digests
        keep(content, solo(TOP), "2", "3", "4")
        with pytest.raises(Unavailable):
            known.of(content, "docker", "app")
    assert len(known.of(content, "docker", "app").digests) == 2
    assert not known._long.locked()


def test_a_name_that_is_being_read_holds_up_no_other(content, monkeypatch):
    monkeypatch.setattr(graphs, "WAIT_SECONDS", 0.01)
    known = Graphs()
    with known._locks.hold(("docker", "slow")):
        assert known.of(content, "docker", "app") == Graph()
        with ThreadPoolExecutor(1) as pool, pytest.raises(Unavailable):
            pool.submit(known.of, content, "docker", "slow").result()
    assert known.of(content, "docker", "slow") == Graph()
    assert len(known._locks) == 0


def test_threads_that_want_the_same_graph_read_it_once(content, monkeypatch):
    known, reads = Graphs(), []
    read = known._read
    monkeypatch.setattr(known, "_read", lambda *of: reads.append(of) or read(*of))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: known.of(content, "docker", "app"), range(50)))
    assert len(reads) == 1
    assert all(graph is found[0] for graph in found)


def test_requests_and_explanations_share_one_memory(content):
    assert graph_of(content, "docker", "app") is graph_of(content, "docker", "app")
    assert graph_of(Content(MemoryStorage()), "docker", "app") is not graph_of(content, "docker", "app")


def test_lost_bytes_cost_a_manifest_its_part_in_the_graph_alone(content):
    kept = keep(content, solo(BASE), "1")
    lost = keep(content, solo(TOP), "2", is_told=False)
    known = Graphs()
    content._storage.delete(f"blobs/sha256/{lost[7:9]}/{lost[7:]}")
    content._remembered.clear()
    found = known.of(content, "docker", "app")
    assert found.holders == {CONFIG: [kept], BASE: [kept]}
    assert found.digests == {kept, lost}


def test_a_rule_by_sha256_reaches_a_manifest_that_was_pushed_by_sha512(content):
    body = solo(TOP)
    long, short = keep(content, body, "1", algorithm="sha512"), str(Digest.of(json.dumps(body).encode()))
    graph = Graphs().of(content, "docker", "app")
    assert graph.aliases == {long: short}
    for version in (long, short):
        found = images(rule("block", version), graph=graph)
        assert not found.tag("1", long).allowed
        assert not found.manifest(long).allowed
        assert not found.blob(TOP, is_read=True).allowed
    assert images(rule("pin", "1", integrity=(short,)), graph=graph).tag("1", long).allowed


# Twins.


LONG, TWIN = str(Digest.of(b"long", "sha512")), str(Digest.of(b"solo", "sha512"))
TWINS = replace(GRAPH, aliases={TWIN: SOLO})


@pytest.mark.parametrize("version", [SOLO, TWIN, "2"])
def test_a_rule_on_one_twin_reaches_the_other(version):
    found = images(rule("block", version), graph=TWINS)
    assert [found.manifest(one).allowed for one in (SOLO, TWIN)] == [False, False]
    assert not found.tag("2", TWIN).allowed
    assert not found.blob(LONE, is_read=True).allowed
    assert images(rule("allow", version), graph=TWINS).manifest(TWIN).allowed


def test_the_age_of_twins_is_that_of_the_first():
    moments = {SOLO: NOW - 8 * DAY, TWIN: NOW}
    found = policy(settings=Settings(mode="enforce", min_release_age=7 * DAY, hosted=True))
    assert Images("docker", "app", TWINS, lambda asked: decide(found, asked, NOW), moments.get).manifest(TWIN).allowed


def test_a_stray_blob_is_judged_as_its_twin():
    stray = str(Digest.of(b"lone again", "sha512"))
    for version in ("2", LONE, stray):
        found = images(rule("block", version))
        assert found.blob(stray, True, LONE).allowed is False
        assert found.blob(BASE, True).allowed
    assert images(rule("block", "1")).blob(stray, True, LONE).allowed


def test_the_other_digest_is_found_only_where_it_is_wanted():
    asked: list[str] = []

    def other(digest: str) -> str:
        asked.append(digest)
        return LONG if digest == TOP else digest.replace("sha256", "sha512") + digest[7:]

    found = policy(rule("block", LONG))
    assert not Images("docker", "app", GRAPH, lambda one: decide(found, one, NOW), lambda _: None, other).blob(TOP, True).allowed
    assert asked.count(TOP) == 1


def test_twins_in_a_graph(content):
    body = solo(BASE, LONG)
    long, short = keep(content, body, "long", algorithm="sha512"), keep(content, body, "short")
    inside = Digest.parse(LONG)
    with content.changing("docker/app"):
        twins.note(content, "docker", "app", inside, Digest.of(b"long"), 4)
    both = keep(content, index(long), "all")
    found = Graphs().of(content, "docker", "app")
    assert found.aliases == {long: short, LONG: digest("long")}
    assert {one: sorted(tags) for one, tags in found.tags.items()} == {short: ["long", "short"], both: ["all"]}
    assert found.parents == {short: [both]}
    assert set(found.holders[digest("long")]) == {short}
    assert found.digests == {short, both}


# What was deleted.


@pytest.mark.parametrize(
    ("gone", "rules", "blocked"),
    [
        ({SOLO: ["3"]}, [("block", "3")], SECOND),
        ({SOLO: ["3"]}, [("block", "4")], set()),
        ({SOLO: ["3"]}, [("block", "3"), ("except", "3")], set()),
        ({INDEX: ["0"]}, [("block", "0")], FIRST | {"top"}),
        ({INDEX: []}, [("block", "0")], set()),
    ],
)
def test_a_deleted_tag_blocks_what_it_led_to(gone, rules, blocked):
    everything = FIRST | SECOND | {"top", "base"}
    assert free(images(*(rule(*one) for one in rules), graph=replace(GRAPH, gone=gone))) == everything - blocked


GONE = Graph({SOLO: ["2"]}, {AMD: [INDEX], ARM: [INDEX]}, GRAPH.holders, frozenset({AMD, ARM, SOLO}), gone={INDEX: ["1"]})
"""As GRAPH, where the index was deleted."""


def test_a_deleted_index_blocks_its_platforms_and_allows_none():
    assert not images(rule("block", "1"), graph=GONE).manifest(AMD).allowed
    assert not images(rule("block", INDEX), graph=GONE).blob(TOP, is_read=True).allowed
    assert images(rule("block", "1"), graph=GONE).blob(BASE, is_read=True).allowed, "an allowed image has it too"
    assert images(graph=GONE).manifest(AMD).allowed
    for version in ("1", INDEX):
        assert not images(rule("allow", version), graph=GONE).manifest(AMD).allowed
        assert images(rule("allow", version), graph=GRAPH).manifest(AMD).allowed


def test_a_deleted_platform_cannot_be_read_as_a_blob():
    graph = replace(GRAPH, digests=frozenset({INDEX, ARM, SOLO}), gone={AMD: []})
    assert not images(rule("block", "1"), graph=graph).blob(AMD, is_read=True).allowed
    assert images(graph=graph).blob(AMD, is_read=True).allowed
    assert not images(rule("allow", "1"), graph=graph).blob(AMD, is_read=True).allowed


def test_a_deleted_tag_allows_nothing():
    gone = replace(GRAPH, gone={SOLO: ["3"]})
    assert not images(rule("allow", "3"), graph=gone).manifest(SOLO).allowed
    assert not images(rule("allow", "3"), rule("block", "3", audit_only=True), graph=gone).manifest(SOLO).allowed


def test_audit_tells_of_deleted_ones_too():
    told = images(rule("block", "1"), graph=GONE, settings=AUDIT).manifest(AMD)
    assert (told.allowed, told.would_block) == (True, True)


def test_a_graph_of_what_was_deleted(content):
    first = keep(content, solo(BASE), "1")
    pointer = content.pointer(keys.manifest_pointer("docker", "app", Digest.parse(first)))
    with content.changing("docker/app"):
        content.repoint(keys.gone_pointer("docker", "app", Digest.parse(first)), replace(pointer, own={"tags": ["0", 5]}))
    known = Graphs()
    here = known.of(content, "docker", "app")
    assert (here.gone, here.digests, {*here.holders[BASE]}) == ({first: ["0"]}, {first}, {first})
    with content.changing("docker/app"):
        content.remove(keys.manifest_pointer("docker", "app", Digest.parse(first)))
    gone = known.of(content, "docker", "app")
    assert (gone.gone, gone.digests, gone.holders[BASE]) == ({first: ["0"]}, frozenset(), [first])


# What an image alone is made of.


def holders_of(found: dict[str, list[str]]) -> Holders:
    """By manifest its blobs."""
    holders = Holders()
    for manifest, blobs in found.items():
        holders.add(manifest, {"sha256": bytes.fromhex("".join(blob[7:] for blob in blobs))})
    return holders


@given(st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=4), min_size=1, max_size=6), st.data())
def test_what_only_some_manifests_hold(layers, data):
    manifests = {digest(f"m{number}"): [digest(f"b{blob}") for blob in dict.fromkeys(blobs)] for number, blobs in enumerate(layers)}
    holders, some = holders_of(manifests), set(data.draw(st.lists(st.sampled_from(sorted(manifests)))))
    assert set(holders.only_of(some)) == {blob for blob, owners in holders.items() if some.issuperset(owners)}


def test_an_image_alone():
    held = holders_of({AMD: [BASE, TOP], ARM: [BASE], SOLO: [BASE, LONE]})
    graph = replace(GRAPH, holders=held)
    assert _own(graph, INDEX) == {INDEX, AMD, ARM, TOP}
    assert _own(graph, SOLO) == {SOLO, LONE}
    assert _own(replace(graph, tags={**GRAPH.tags, AMD: ["amd"]}), INDEX) == {INDEX, ARM}
    assert _own(replace(graph, parents={AMD: [INDEX, INDEX], ARM: [INDEX, SOLO]}), INDEX) == {INDEX, AMD, TOP}


def test_deep_images_and_long_ones_are_looked_through_once(monkeypatch):
    """Who may push decides how deep indexes are nested and how many layers there are, and anybody may ask for an explanation."""
    chain = [digest(str(number)) for number in range(2000)]
    looks = []
    monkeypatch.setattr(Holders, "__getitem__", lambda self, blob: looks.append(blob))
    graph = Graph(parents=dict(zip(chain, ([parent] for parent in chain[1:]), strict=False)), holders=holders_of({chain[0]: chain}))
    assert _own(graph, chain[-1]) == set(chain)
    assert not looks
