"""nora curation and nora reload, each through main(), and the parts of them that a test can ask alone."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from noraflask.cli import main
from noraflask.cli import reload as reloading
from noraflask.cli.curation.sources import ALLOWLIST, BLOCKLIST, RULES, kind_of
from noraflask.cli.reload import State, find_master, state_of, wait
from noraflask.cli.subcommand import Failed
from noraflask.config import ServerConfig, load
from noraflask.digest import Digest
from noraflask.formats.docker.protocol import keys, media_types
from noraflask.pointer import Pointer
from noraflask.services.content import Content
from noraflask.services.curation import explaining
from noraflask.services.curation.compiling import compile
from noraflask.services.curation.explaining import Given, explain, parse_coordinate, parse_name, question_of
from noraflask.services.curation.gate import decision_id
from noraflask.services.curation.ledger import Ledger
from noraflask.services.curation.loading import load_policy
from noraflask.services.curation.model import Kind, Package, Rule, RuleSet
from noraflask.services.curation.policy import Policy, Settings
from noraflask.storage.disk import DiskStorage

NOW = 1_800_000_000.0

CONFIG = """\
[server]
port = 4999
[storage]
path = "{0}/storage"
[state]
path = "{0}/state"
[curation]
mode = "{1}"
blocklist_path = "{0}/blocklist.json"
rules_path = "{0}/rules.toml"
min_release_age = "7d"
"""
BLOCKS = {
    "version": 1,
    "rules": [
        {"registry": "npm", "name": "evil-*", "version": "*", "reason": "malware"},
        {"registry": "docker", "name": "library/nginx", "version": "1.2*", "reason": "old"},
    ],
}
TOML = """\
internal_namespaces = ["@corp/**"]
[[block]]
format = "npm"
name = "left-pad"
range = ">=1.2.0 <1.3.1"
reason = "bad"
owner = "sec"
ticket = "T-1"
[[except]]
format = "npm"
name = "evil-twin"
owner = "sec"
expires = 2099-01-01
[[expect]]
format = "npm"
name = "left-pad"
version = "1.3.0"
result = "block"
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("NORA") or name in ("RUST_LOG", "SUDO_USER")]:
        monkeypatch.delenv(name)
    (tmp_path / "config.toml").write_text(CONFIG.format(tmp_path, "enforce"))
    (tmp_path / "blocklist.json").write_text(json.dumps(BLOCKS, indent=1))
    (tmp_path / "rules.toml").write_text(TOML)
    (tmp_path / "storage").mkdir()
    return tmp_path


@pytest.fixture
def nora(capfd: pytest.CaptureFixture[str]):
    """nora("curation", …) → code, out, err and, where out is JSON, members."""

    def run(*argv: str) -> SimpleNamespace:
        try:
            code = main(list(argv))
        except SystemExit as left:
            code = left.code
        out, err = capfd.readouterr()
        return SimpleNamespace(code=code, out=out, err=err, members=json.loads(out) if out.startswith("{") else None)

    return run


# validate


def test_the_whole_configuration_is_good(nora):
    answer = nora("curation", "validate")
    assert (answer.code, answer.err) == (0, "")
    assert "3 block, 1 except, 1 namespace, 1 expect; policy " in answer.out


@pytest.mark.parametrize(
    ("name", "old", "new", "words"),
    [
        ("rules.toml", 'result = "block"', 'result = "allow"', "rules.toml:14: expect: npm:left-pad@1.3.0 was to be allowed"),
        ("rules.toml", ">=1.2.0 <1.3.1", "][", "rules.toml:"),
        ("rules.toml", "[[except]]", "[[exept]]", "rules.toml:"),
        ("blocklist.json", '"npm"', '"nmp"', "blocklist.json:4: rule 1: registry"),
        ("blocklist.json", "]", "", "blocklist.json:"),
    ],
)
@pytest.mark.parametrize("by_itself", [False, True])
def test_a_mistake_is_told_with_its_file_and_line(nora, name, old, new, words, by_itself):
    path = Path(name)
    path.write_text(path.read_text().replace(old, new))
    answer = nora("curation", "validate", *([name] if by_itself else []))
    assert (answer.code, answer.out) == (1, "")
    assert words in answer.err
    assert "cannot be used: 1 problem" in answer.err
    told = nora("curation", "validate", "--json", *([name] if by_itself else [])).members
    assert (told["valid"], told["good"], len(told["problems"])) == (False, False, 1)


def test_a_broken_configuration_is_another_matter(nora):
    Path("config.toml").write_text("[curation]\nmode = 12\n")
    assert nora("curation", "validate").code == 78
    assert nora("curation", "explain", "npm:x").code == 78
    assert nora("curation", "validate", "rules.toml").code == 0


def test_strict_makes_warnings_failures(nora):
    Path("rules.toml").write_text(TOML.replace("2099-01-01", "2001-01-01"))
    plain, strict = nora("curation", "validate"), nora("curation", "validate", "--strict")
    assert (plain.code, strict.code) == (0, 1)
    assert "warning: rules.toml" in plain.err
    assert "--strict is given" in strict.err
    assert nora("curation", "validate", "--strict", "--json").members["good"] is False


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("a.json", '{"version": 1, "rules": [{"integrity": 1}]}', BLOCKLIST),
        ("a.json", '{"version": 1, "entries": []}', ALLOWLIST),
        ("a.json", '[{"registry": "npm", "integrity": "x"}]', ALLOWLIST),
        ("a.json", '[{"registry": "npm"}]', BLOCKLIST),
        ("a.json", "nonsense", BLOCKLIST),
        ("list", ' {"entries": []}', ALLOWLIST),
        ("a.toml", TOML, RULES),
        ("list", TOML, RULES),
        ("a.toml", "= nonsense", RULES),
        ("a.toml", "[server]\nport = 1\n", None),
        ("a.toml", CONFIG, None),
    ],
)
def test_what_a_file_is(tmp_path, name, text, kind):
    (tmp_path / name).write_text(text)
    assert kind_of(tmp_path / name) == kind


def test_a_configuration_is_no_rule_file(nora):
    answer = nora("curation", "validate", "config.toml")
    assert answer.code == 1
    assert "NORA_CONFIG_PATH=config.toml" in answer.err
    assert nora("curation", "validate", "absent.toml").code == 1


# explain


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("npm:left-pad@1.3.0", ("npm", "left-pad", "1.3.0")),
        ("npm:@scope/name@1.2.3", ("npm", "@scope/name", "1.2.3")),
        ("npm:@scope/name", ("npm", "@scope/name", None)),
        ("NPM:left-pad", ("npm", "left-pad", None)),
        ("maven:org.x:core@1.0", ("maven", "org.x:core", "1.0")),
        ("go:github.com/x/y@v1.2.3", ("go", "github.com/x/y", "v1.2.3")),
        ("docker:library/nginx:1.25", ("docker", "library/nginx", "1.25")),
        ("oci:localhost:5000/x:1", ("docker", "localhost:5000/x", "1")),
        ("docker:nginx:1.25@sha256:ab", ("docker", "nginx", "sha256:ab")),
        ("docker:nginx@sha256:ab", ("docker", "nginx", "sha256:ab")),
    ],
)
def test_coordinates(text, wanted):
    assert parse_coordinate(text) == wanted


@pytest.mark.parametrize("text", ["nginx", "cobol:x", "npm:", "npm:x@", ":x", "docker::1"])
def test_what_is_no_coordinate(nora, text):
    with pytest.raises(ValueError, match=r"lacks|no coordinate|no format"):
        parse_coordinate(text)
    assert nora("curation", "explain", text).code == 2


@pytest.mark.parametrize(
    "words", [("d-damaged",), ("npm", "a", "b"), ("npm:" + "x" * 2000,), ("npm",), ("npm", "x", "--age", "soon"), ("npm:x", "--at", "then")]
)
def test_questions_that_make_no_sense(nora, words):
    answer = nora("curation", "explain", *words)
    assert (answer.code, answer.out) == (2, "")


@pytest.mark.parametrize(
    ("argv", "allowed", "filter", "words"),
    [
        (["npm:left-pad@1.3.0"], False, "blocklist", "bad"),
        (["npm", "left-pad@1.1.0"], True, None, ""),
        (["npm", "left-pad@v1.3.0"], False, "blocklist", "bad"),
        (["npm:evil-one"], False, "blocklist", "malware"),
        (["npm:evil-twin@1.0.0"], True, None, ""),
        (["npm:@corp/x@1.0.0"], True, "namespace", "internal name"),
        (["npm:@corp/x@1.0.0", "--upstream"], False, "namespace", "never comes from an upstream"),
        (["npm:x@1.0.0", "--upstream", "--age", "2d"], False, "min-release-age", "2d old"),
        (["npm:x@1.0.0", "--upstream", "--age", "8d"], True, None, ""),
        (["npm:x@1.0.0", "--upstream"], False, "min-release-age", "not known"),
        (["npm:x@1.0.0", "--upstream", "--published", "2026-01-01", "--at", "2026-01-03"], False, "min-release-age", "2d old"),
        (["docker", "docker.io/library/nginx:1.25"], False, "blocklist", "old"),
        (["docker:nginx"], True, None, ""),
    ],
)
def test_the_verdict_and_the_exit_code(nora, argv, allowed, filter, words):
    answer = nora("curation", "explain", *argv, "--json")
    told = answer.members
    by = told["decided_by"]
    assert (answer.code, told["allowed"], by and by["filter"]) == (0 if allowed else 1, allowed, filter)
    assert words in ((by or {}).get("reason") or "")
    shown = nora("curation", "explain", *argv)
    assert (shown.code, shown.out.startswith("allowed: " if allowed else "blocked: ")) == (answer.code, True)


def test_what_people_see(nora):
    answer = nora("curation", "explain", "npm:left-pad@1.3.0", "--among", "1.1.0 1.2.0 1.10.0", "--among", "latest")
    assert "decided by: blocklist rule rules.toml#1 (rules.toml:2): bad\nowner: sec\nticket: T-1\n" in answer.out
    assert "allowed instead: 1.10.0, 1.1.0\n" in answer.out
    assert [line.split()[0] for line in answer.out.splitlines()[5:11]] == [
        "namespace",
        "blocklist",
        "allowlist",
        "min-release-age",
        "pin",
        "quarantine",
    ]


def test_when_a_held_version_ripens(nora):
    told = nora("curation", "explain", "npm:x@1", "--upstream", "--published", "2026-01-01", "--at", "2026-01-03", "--json").members
    assert told["decided_by"]["until"] == "2026-01-08T00:00:00Z"


@pytest.mark.parametrize(("mode", "allowed", "would_block"), [("enforce", False, False), ("audit", True, True), ("off", True, False)])
def test_modes(nora, folder, mode, allowed, would_block):
    Path("config.toml").write_text(CONFIG.format(folder, mode))
    told = nora("curation", "explain", "npm:left-pad@1.3.0", "--json").members
    assert (told["allowed"], told["would_block"], told["mode"]) == (allowed, would_block, mode)


def test_a_decision_id_is_explained_as_of_its_moment_and_says_that_rules_have_changed(nora):
    policy = Policy.from_buffer(load_policy(load().curation, NOW)[0])
    id = decision_id(policy, Package("npm", "left-pad", "1.3.0", "npm"), NOW)
    told = nora("curation", "explain", id, "--json").members
    assert (told["allowed"], told["at"], told["decision"]) == (
        False,
        "2027-01-15T08:00:00Z",
        {"id": id, "policy": policy.fingerprint, "same_policy": True},
    )
    Path("rules.toml").write_text('[[block]]\nformat = "npm"\nname = "other"\n')
    later = nora("curation", "explain", id)
    assert later.code == 0
    assert f"the decision was made by policy {policy.fingerprint}" in later.out


def test_a_decision_about_an_artifact_of_unknown_version_is_not_explained_as_an_index():
    policy = Policy.from_buffer(compile(Settings("enforce"), RuleSet((Rule("r", Kind.BLOCK, "npm", "x", range="<2.0.0"),))))
    id = decision_id(policy, Package("npm", "x", None, "npm"), NOW)
    assert explain(policy, question_of([id], NOW))["allowed"] is False
    assert explain(policy, question_of(["npm:x"], NOW))["allowed"] is True


def test_nothing_in_a_name_steers_the_terminal(nora):
    assert "\x1b" not in nora("curation", "explain", "npm:\x1b[2Jx@1").out


def test_instead_puts_what_cannot_be_compared_at_the_end():
    policy = Policy.from_buffer(compile(Settings("enforce"), RuleSet((Rule("r", Kind.BLOCK, "npm", "x", "9"),))))
    question = question_of(["npm:x@9"], NOW, given=Given(among=["latest", "1.0.0", "beta", "1.10.0"]))
    assert explain(policy, question)["instead"] == ["1.10.0", "1.0.0", "latest", "beta"]
    assert parse_name("npm", "x@9") == ("x", "9")
    assert explaining.stamp(1e30) == "1e+30"


# explain, of images in storage


def keep_images(folder: Path, images: dict[str, int], name: str = "library/nginx") -> dict[str, str]:
    """Tags, each with the number of the manifest that it leads to; the answer is their digests."""
    content, found = Content(DiskStorage(folder / "storage")), {}
    for tag, number in images.items():
        config = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": f"sha256:{number:064x}", "size": 2}
        body = json.dumps({"schemaVersion": 2, "mediaType": media_types.OCI_MANIFEST, "config": config, "layers": []}).encode()
        digest = Digest.of(body)
        content.keep_bytes(body, digest)
        pointer = Pointer(digest, len(body), media_types.OCI_MANIFEST, time.time())
        for key in (keys.manifest_pointer("docker", name, digest), keys.tag_pointer("docker", name, tag)):
            content.repoint(key, pointer)
        found[tag] = str(digest)
    return found


def test_an_image_is_looked_up_for_its_digest_its_date_and_its_other_tags(nora, folder):
    digests = keep_images(folder, {"1.25": 1, "stable": 1, "2.0": 2, "2.1": 3, "latest": 3})
    told = nora("curation", "explain", "docker:nginx:2.0", "--json").members
    assert (told["allowed"], told["digests"], told["instead"]) == (True, [digests["2.0"]], None)
    assert told["published"]
    blocked = nora("curation", "explain", "docker:nginx:1.25", "--json").members
    assert (blocked["allowed"], blocked["instead"]) == (False, ["2.1", "2.0", "latest"])


@pytest.mark.parametrize("by_digest", [False, True])
def test_what_another_tag_of_the_same_image_blocks_is_blocked(nora, folder, by_digest):
    digests = keep_images(folder, {"1.25": 1, "stable": 1})
    told = nora("curation", "explain", f"docker:nginx@{digests['stable'] if by_digest else 'stable'}", "--json").members
    assert (told["allowed"], told["decided_by"]["filter"], told["decided_by"]["rule"]) == (False, "image", "blocklist.json#2")
    assert told["instead"] == []


def test_what_was_never_stored_has_no_alternatives_to_name(nora):
    assert nora("curation", "explain", "docker:nginx:1.25", "--json").members["instead"] is None


# replay and impact


def serve(folder: Path, *served: tuple[str, str, str], clock=lambda: NOW, **facts) -> None:
    ledger = Ledger(folder / "state/ledger", 90, clock)
    for name, version, who in served:
        ledger.served(Package("npm", name, version, "npm", **facts), "sha256:" + "0" * 64, who, "token", "repository=team/app")
    ledger.stop()


@pytest.fixture
def past(folder, monkeypatch) -> None:
    monkeypatch.setattr("time.time", lambda: NOW + 100)
    serve(folder, ("good", "1.0.0", "alice"), ("left-pad", "1.4.0", "bob"), ("left-pad", "1.1.0", "bob"), ("evil-one", "1.0.0", "eve"))


BAD = '{"version": 1, "rules": [{"registry": "npm", "name": "good", "version": "*", "reason": "recalled"}]}'
RULE = '[[block]]\nformat = "npm"\nname = "left-pad"\n'


@pytest.mark.parametrize(
    ("name", "text", "blocked", "allowed", "code"),
    [
        ("new.json", BAD, {"good"}, {"evil-one"}, 1),
        ("new.toml", RULE, {"left-pad"}, set(), 1),
        ("new.toml", TOML, set(), set(), 0),
        ("config2.toml", '[curation]\nmode = "enforce"\nrules_path = "{0}/new-rules.toml"\n', {"left-pad"}, {"evil-one"}, 1),
        ("config2.toml", '[curation]\nmode = "off"\n', set(), {"evil-one"}, 0),
    ],
)
@pytest.mark.usefixtures("past")
def test_what_a_candidate_would_change(nora, folder, name, text, blocked, allowed, code):
    Path("new-rules.toml").write_text(RULE)
    Path(name).write_text(text.replace("{0}", str(folder)))
    answer = nora("curation", "replay", name, "--json")
    changes = {(change["change"], change["name"]) for change in answer.members["changes"]}
    assert answer.code == code
    assert changes == {("newly blocked", one) for one in blocked} | {("newly allowed", one) for one in allowed}
    assert all(change["consumers"] for change in answer.members["changes"])


@pytest.mark.usefixtures("past")
def test_without_a_candidate_the_rules_of_now_are_compared_with_none(nora, folder):
    assert {change["name"] for change in nora("curation", "replay", "--json").members["changes"]} == {"evil-one"}
    Path("config.toml").write_text(CONFIG.format(folder, "audit"))
    audit, enforced = nora("curation", "replay"), nora("curation", "replay", "--enforce")
    assert (audit.code, enforced.code) == (0, 1)
    assert "1 newly audited" in audit.out
    assert "npm:evil-one@1.0.0" in enforced.out
    assert "eve [repository=team/app]" in enforced.out


@pytest.mark.usefixtures("past")
def test_a_candidate_that_cannot_be_used(nora):
    Path("new.json").write_text("{")
    assert nora("curation", "replay", "new.json").code == 78
    assert nora("curation", "replay", "absent.json").code == 1


@pytest.mark.parametrize(
    ("coordinate", "since", "who"),
    [
        ("npm:left-pad", "1d", {"1.4.0", "1.1.0"}),
        ("npm:left-pad@1.4.0", "1d", {"1.4.0"}),
        ("npm:left-pad@>=1.2.0 <2.0.0", "1d", {"1.4.0"}),
        ("npm:left-*", "1d", {"1.4.0", "1.1.0"}),
        ("*:left-pad", "1d", {"1.4.0", "1.1.0"}),
        ("npm:left-pad@9", "1d", set()),
        ("npm:left-pad", "0h", set()),
    ],
)
@pytest.mark.usefixtures("past")
def test_who_got_it(nora, coordinate, since, who):
    answer = nora("curation", "impact", coordinate, "--since", since, "--json")
    assert (answer.code, {receipt["version"] for receipt in answer.members["receipts"]}) == (0, who)
    assert {receipt["principal"] for receipt in answer.members["receipts"]} <= {"bob"}


@pytest.mark.parametrize(("coordinate", "code"), [("left-pad", 2), ("cobol:x", 1), ("npm:x@", 2), ("*:x@>=1", 1)])
def test_questions_about_the_past_that_make_no_sense(nora, coordinate, code):
    assert nora("curation", "impact", coordinate).code == code


def test_how_far_the_ledger_goes_back_is_said(nora):
    assert "the ledger is kept for" in nora("curation", "impact", "npm:x", "--since", "3650d").err


# import-osv

RECORD = {"id": "MAL-2025-1", "modified": "2025-01-01T00:00:00Z", "summary": "bad", "affected": [{"package": {"ecosystem": "npm", "name": "worm"}}]}


def test_a_feed_becomes_a_list_that_validates(nora):
    Path("feed").mkdir()
    Path("feed/a.json").write_text(json.dumps(RECORD))
    for name in ("feed.json", "feed.toml"):
        answer = nora("curation", "import-osv", "feed", "-o", name)
        assert (answer.code, answer.out.partition(";")[0]) == (0, f"1 rules are in {name}")
        assert nora("curation", "validate", name).code == 0
    assert nora("curation", "import-osv", "feed", "-o", "feed.toml", "--exception", "MAL-2025-1").code == 1  # it would shrink
    assert nora("curation", "import-osv", "feed", "-o", "feed.toml", "--exception", "MAL-2025-1", "--force").code == 0


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["absent", "-o", "x.toml"], 1),
        (["feed"], 2),
        (["feed", "-o", "x.toml", "--min-severity", "7"], 2),
        (["feed", "-o", "x.toml", "--all", "--min-severity", "11"], 2),
        (["feed", "-o", "x.toml", "--ecosystem", "cobol"], 1),
    ],
)
def test_imports_that_cannot_be(nora, argv, code):
    assert nora("curation", "import-osv", *argv).code == code
    assert not Path("x.toml").exists()


# freeze


def test_a_freeze_begins_is_seen_and_is_lifted(nora):
    assert "there is no freeze" in nora("curation", "freeze", "--status").out
    assert nora("curation", "freeze", "--reason", "incident", "--for", "12h", "--json").members["freeze"]["reason"] == "incident"
    status = nora("curation", "freeze", "--status")
    assert (status.code, "by cli, until " in status.out) == (0, True)
    told = nora("curation", "explain", "npm:x@1", "--upstream", "--age", "9d", "--json").members
    assert (told["allowed"], told["decided_by"]["filter"], told["decided_by"]["reason"]) == (False, "freeze", "nothing new is fetched: incident")
    assert nora("curation", "explain", "npm:x@1").code == 0
    assert nora("curation", "freeze", "--lift").code == 0
    assert nora("curation", "freeze", "--status", "--json").members == {"freeze": None}
    records = [json.loads(line) for line in Path("state/audit.jsonl").read_text().splitlines()]
    assert [(record["action"], record["actor"]) for record in records] == [("curation_freeze", "cli"), ("curation_lift", "cli")]
    assert "incident" in records[0]["detail"]


@pytest.mark.parametrize(
    "argv", [["--lift", "--status"], ["--lift", "--reason", "x"], ["--status", "--for", "1h"], ["--for", "0"], ["--reason", "a\nb"]]
)
def test_freezes_that_make_no_sense(nora, argv):
    assert nora("curation", "freeze", *argv).code == 2
    assert "there is no freeze" in nora("curation", "freeze", "--status").out


def test_no_storage_is_made(nora):
    Path("storage").rmdir()
    assert nora("curation", "freeze").code == 1
    assert nora("curation", "explain", "npm:x").code == 0
    assert not Path("storage").exists()


# reload


def processes(folder: Path, *listed: tuple[int, str, int]) -> Path:
    proc = folder / "proc"
    (proc / "sys").mkdir(parents=True)
    for pid, title, parent in listed:
        (proc / str(pid)).mkdir()
        (proc / str(pid) / "cmdline").write_bytes(title.encode() + b"\0\0")
        (proc / str(pid) / "stat").write_text(f"{pid} (a) b) S {parent} 0 0")
    (proc / "99").mkdir()  # gone meanwhile
    return proc


HERE = "nora: master [127.0.0.1:4999]"


@pytest.mark.parametrize(
    ("listed", "found"),
    [
        ([(7, HERE, 1), (8, "nora: worker [127.0.0.1:4999]", 7), (9, "nora: master [127.0.0.1:4000]", 1)], 7),
        ([(7, HERE, 1), (8, HERE, 7)], 7),
        ([], "there is no running server for 127.0.0.1:4999"),
        ([(9, HERE + "0", 1), (10, "x " + HERE, 1)], "there is no running server"),
        ([(7, HERE, 1), (8, HERE, 1)], "several servers for 127.0.0.1:4999, processes 7, 8"),
    ],
)
def test_the_master_is_found_by_its_title(tmp_path, listed, found):
    proc = processes(tmp_path, *listed)
    if isinstance(found, int):
        assert find_master("127.0.0.1:4999", proc) == found
    else:
        with pytest.raises(Failed, match=found):
            find_master("127.0.0.1:4999", proc)


BEFORE = State("old", 4, 4, 100.0, None)


@pytest.mark.parametrize(
    ("answers", "wanted"),
    [
        ([State("new", 4, 4, 101.0, None)], "new"),
        ([BEFORE, BEFORE, State("new", 4, 1, 101.0, None), State("new", 4, 4, 101.0, None)], "new"),
        ([State("old", 4, 4, 101.0, None)], "old"),
        ([BEFORE, State("old", 4, 4, 100.0, 101.0)], "the server refused it and goes on with policy old"),
        ([BEFORE], "has not reloaded"),
        ([State("new", 4, 3, 101.0, None)], "3 of 4 workers have policy new"),
    ],
)
def test_reload_waits_until_every_worker_has_it(answers, wanted):
    waits: list[float] = []

    def ask() -> State:
        return answers[min(len(waits), len(answers) - 1)]

    def run() -> State:
        return wait(ask, BEFORE, 1.0, clock=lambda: sum(waits), pause=waits.append)

    if wanted in ("new", "old"):
        assert run() == answers[-1]
        assert len(waits) == len(answers) - 1
    else:
        with pytest.raises(Failed, match=wanted):
            run()


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"policy": 1}', b'{"policy": {"workers": 1}}'])
def test_what_answers_may_be_another_server(body):
    with pytest.raises(Failed, match="does not tell its policy"):
        state_of(body)


@pytest.fixture
def server(monkeypatch) -> SimpleNamespace:
    """Stands in for a running one."""
    policy = Policy.from_buffer(load_policy(load().curation, NOW)[0])
    seen = SimpleNamespace(signals=[], fingerprint=policy.fingerprint)

    def ask(server: ServerConfig) -> State:
        assert (server.host, server.port) == ("127.0.0.1", 4999)
        return State(seen.fingerprint, 4, 4, 100.0 + len(seen.signals), None)

    monkeypatch.setattr(reloading, "find_master", lambda address: 7 if address == "127.0.0.1:4999" else None)
    monkeypatch.setattr(reloading, "ask_health", ask)
    monkeypatch.setattr(os, "kill", lambda pid, number: seen.signals.append((pid, number)))
    return seen


def test_reload(nora, server):
    answer = nora("reload")
    assert (answer.code, answer.out, answer.err) == (0, f"all 4 workers have policy {server.fingerprint}\n", "")
    assert server.signals == [(7, signal.SIGHUP)]


def test_a_server_that_reads_something_else_is_told(nora, server):
    server.fingerprint = "0" * 16
    answer = nora("reload")
    assert answer.code == 0
    assert "the server has other variables, or another folder" in answer.err


@pytest.mark.parametrize(("name", "text"), [("rules.toml", "= nonsense"), ("config.toml", "= nonsense"), ("blocklist.json", None)])
def test_nothing_is_sent_for_what_the_server_would_refuse(nora, server, name, text):
    Path(name).unlink() if text is None else Path(name).write_text(text)
    answer = nora("reload")
    assert (answer.code, answer.out, server.signals) == (78, "", [])
    assert name in answer.err
    assert "nothing was done" in answer.err


@pytest.mark.parametrize(("problem", "words"), [(PermissionError(), "run this as that user or as root"), (ProcessLookupError(), "has just ended")])
@pytest.mark.usefixtures("server")
def test_a_signal_that_cannot_be_sent(nora, monkeypatch, problem, words):
    def refuse(pid: int, number: int) -> None:
        raise problem

    monkeypatch.setattr(os, "kill", refuse)
    answer = nora("reload")
    assert (answer.code, words in answer.err) == (1, True)


def test_without_a_server_nothing_is_reloaded(nora):
    answer = nora("reload")
    assert answer.code == 1
    assert "there is no running server for 127.0.0.1:4999" in answer.err


@pytest.mark.parametrize("argv", [["--timeout-secs", "0"], ["--timeout-secs", "nan"], ["now"]])
def test_wrong_use_of_reload(nora, argv):
    assert nora("reload", *argv).code == 2
