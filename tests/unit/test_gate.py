"""The gate: permits come from it alone, one snapshot for each request, decision ids, refusals in NORA's words and ours, the freeze."""

from __future__ import annotations

import base64
import json
import pickle
import shlex
import zlib
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noraflask.ecosystems import ECOSYSTEMS
from noraflask.errors import CurationDenied, Denied, Unavailable
from noraflask.services.curation.compiling import compile
from noraflask.services.curation.freeze import LOOK_SECONDS, Freeze
from noraflask.services.curation.gate import ID_CHARACTERS, Curation, Permit, Permits, decision_id, is_off, read_decision_id, refusal
from noraflask.services.curation.ledger import Ledger
from noraflask.services.curation.model import Decision, Kind, Namespace, Package, Rule, RuleSet
from noraflask.services.curation.policy import Policy, Settings
from noraflask.services.documents import Documents
from noraflask.storage.memory import MemoryStorage
from tests.protocol.access import Clock

ENFORCE, OFF = Settings(mode="enforce"), Settings()
APP = Package("docker", "team/app", "1", "docker", digests=("sha256:" + "a" * 64,))
PROXIED = Package("npm", "left-pad", "1.3.0", "npm", hosted=False)
RULE = Rule("no-app", Kind.BLOCK, "docker", "team/*", reason="it is known to be bad", place="/etc/nora/rules.toml:7")


def policy(*rules: Rule, settings: Settings = ENFORCE, **more: Any) -> Policy:
    return Policy.from_buffer(compile(settings, RuleSet(rules, **more)))


class Gate:
    def __init__(self, tmp_path, found: Policy) -> None:
        self.clock, self.storage = Clock(), MemoryStorage()
        self.freeze = Freeze(Documents(self.storage, "_curation/"), self.clock)
        self.curation = Curation(Ledger(tmp_path, 1, self.clock), self.freeze, self.clock)
        self.policy = found


@pytest.fixture
def gate(tmp_path):
    return Gate(tmp_path, policy(RULE))


# Permits.


@pytest.mark.parametrize("seal", [None, object(), True, "seal", Permit])
def test_a_permit_cannot_be_made_elsewhere(seal):
    with pytest.raises(RuntimeError, match="check"):
        Permit(seal, APP, Decision(True), policy())


def test_a_permit_cannot_be_copied_out_of_a_pickle(gate):
    granted = gate.curation.check(gate.policy, replace(APP, name="other"))
    with pytest.raises(RuntimeError):
        type(granted)(None, granted.package, granted.decision, granted.policy)
    with pytest.raises((RuntimeError, TypeError, AttributeError, pickle.PicklingError)):
        pickle.loads(pickle.dumps(granted, 0))


def test_check_grants_or_raises(gate):
    here = gate.curation
    granted = here.check(gate.policy, replace(APP, name="other/app"))
    assert (granted.package.name, granted.policy, granted.decision.allowed) == ("other/app", gate.policy, True)
    with pytest.raises(CurationDenied) as caught:
        here.check(gate.policy, APP)
    assert isinstance(caught.value, Denied)
    assert caught.value.status == 403


def test_what_a_format_has_worked_out_counts(gate):
    here = gate.curation
    assert here.check(gate.policy, APP, decision=Decision(True)).package is APP
    with pytest.raises(CurationDenied) as caught:
        here.check(gate.policy, replace(APP, name="other"), decision=Decision(False, "pin", until=5.0))
    assert caught.value.refusal.until == 5.0


def test_a_permit_is_recalled_as_long_as_nothing_it_rests_on_has_changed(gate):
    here, permits = gate.curation, Permits(gate.policy)
    granted = here.check(gate.policy, replace(APP, name="other"))
    here.remember(permits, "with", granted, "state 1")
    here.remember(permits, "without", granted, None)
    assert here.recall(permits, "with", lambda: "state 1") is granted
    assert here.recall(permits, "with", lambda: "state 2") is None
    assert here.recall(permits, "with", lambda: None) is None, "storage cannot tell"
    assert here.recall(permits, "without", lambda: pytest.fail("not asked")) is granted
    assert here.recall(permits, "another", lambda: None) is None
    other = Permits(policy(RULE, replace(RULE, id="more", name="other")))
    assert here.recall(other, "without", lambda: None) is None, "another policy says other things"
    here.remember(other, "x", here.check(other.policy, replace(APP, name="third")), None)
    assert here.recall(permits, "x", lambda: None) is None


def test_a_recalled_permit_ends_when_a_rule_does(gate):
    ending = Permits(policy(replace(RULE, kind=Kind.EXCEPT, name="other", expires=gate.clock.now + 60), replace(RULE, name="other")))
    granted = gate.curation.check(ending.policy, replace(APP, name="other"))
    gate.curation.remember(ending, "key", granted, None)
    gate.clock.now += 59
    assert gate.curation.recall(ending, "key", lambda: None) is granted
    gate.clock.now += 1
    assert gate.curation.recall(ending, "key", lambda: None) is None
    with pytest.raises(CurationDenied):
        gate.curation.check(ending.policy, replace(APP, name="other"))


@pytest.mark.parametrize("decision", [Decision(True, "blocklist", would_block=True), Decision(True, bypassed_by="ci")])
def test_what_is_told_each_time_is_worked_out_each_time(gate, decision):
    here, permits = gate.curation, Permits(gate.policy)
    here.remember(permits, "key", here.check(gate.policy, APP, decision=decision), None)
    assert here.recall(permits, "key", lambda: None) is None


def test_what_a_freeze_may_refuse_at_any_moment_is_asked_each_time(gate):
    here, permits = gate.curation, Permits(gate.policy)
    for seen, remembered in ((None, False), (5.0, True)):
        here.remember(permits, "key", here.check(gate.policy, replace(PROXIED, seen=seen)), None)
        assert (here.recall(permits, "key", None) is not None) is remembered


def test_a_permit_that_rests_on_storage_is_not_given_to_who_cannot_tell_its_state(gate):
    here, permits = gate.curation, Permits(gate.policy)
    here.remember(permits, "key", here.check(gate.policy, replace(APP, name="other")), "state 1")
    assert here.recall(permits, "key", None) is None


def test_recalled_permits_are_bounded(gate, monkeypatch):
    monkeypatch.setattr("noraflask.services.curation.gate.PERMITS_BYTES", 6 * 1500)
    here, permits = gate.curation, Permits(gate.policy)
    for number in range(20):
        here.remember(permits, number, here.check(gate.policy, replace(APP, name="other")), None)
    assert 0 < sum(here.recall(permits, number, lambda: None) is not None for number in range(20)) <= 6
    for number in range(20):
        here.remember(permits, number, here.check(gate.policy, replace(APP, name="other" * 2000)), None)
    assert permits.known.bytes <= 6 * 1500, "long names count for what they are"


def test_the_policy_that_is_asked_is_the_one_that_was_handed_in(gate):
    here, new = gate.curation, policy()
    with pytest.raises(CurationDenied) as caught:
        here.check(gate.policy, APP)
    assert caught.value.refusal.policy == gate.policy.fingerprint
    assert here.check(new, APP).policy is new


@pytest.mark.parametrize(
    ("settings", "more", "off"),
    [
        (OFF, {}, True),
        (OFF, {"rules": (RULE,)}, True),
        (OFF, {"namespaces": (Namespace("internal/*"),)}, False),
        (Settings(quarantine="observe"), {}, False),
        (Settings(quarantine="enforce"), {}, False),
        (Settings(mode="audit"), {}, False),
        (ENFORCE, {}, False),
    ],
)
def test_where_nothing_can_be_refused_nothing_is_asked(settings, more, off):
    found = Policy.from_buffer(compile(settings, RuleSet(**more)))
    assert is_off(found) is off
    assert (Permits(found).open is not None) is off


# Decision ids.


@pytest.mark.parametrize(
    "package",
    [
        APP,
        replace(APP, version=None),
        Package("npm", "@scope/näme", "1.0.0-beta+é", "npm"),
        Package("maven", "org.a:b", '1\'; "$(id)"', "second"),
        Package("raw", "".join(Random(1).choices([chr(code) for code in range(33, 127)], k=1000)), None, "raw"),
    ],
)
def test_a_decision_id_says_what_was_asked(package):
    found = policy(RULE)
    text = decision_id(found, package, 1_800_000_000.7)
    assert text.startswith("d-")
    assert text.isascii()
    assert not set(text) & set(" /+=\"'\\<>&\r\n"), "it goes into headers, addresses and shells"
    fingerprint, when, asked = read_decision_id(text)
    assert (fingerprint, when) == (found.fingerprint, 1_800_000_000)
    assert (asked.format, asked.name, asked.version, asked.repository) == (package.format, package.name, package.version, package.repository)


@given(st.text(min_size=1, max_size=60), st.text(max_size=30), st.sampled_from(list(ECOSYSTEMS)))
def test_there_and_back(name, version, format):
    if not (name + version).isprintable():
        return
    asked = read_decision_id(decision_id(SAMPLE, Package(format, name, version or None, "r"), 5))[2]
    assert (asked.format, asked.name, asked.version) == (format, name, version or None)


SAMPLE = policy()
GOOD = ["0" * 16, 5, "docker", "app", "", "docker"]


def packed(text: str | bytes) -> str:
    data = text.encode() if isinstance(text, str) else text
    return "d-" + base64.urlsafe_b64encode(zlib.compress(data, 9)).rstrip(b"=").decode()


def test_the_form_that_the_hostile_ones_are_made_by_is_good():
    assert read_decision_id(packed(json.dumps(GOOD)))[2].name == "app"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "d-",
        "x",
        "D-abc",
        "d-%%%",
        "d-\u00e4\u00f6",
        "d-\ud800",
        "d-" + "A" * ID_CHARACTERS,
        decision_id(SAMPLE, APP, 5)[:-6],
        decision_id(SAMPLE, APP, 5).replace("d-", "d-AA"),
        packed(b""),
        packed(b"\xff"),
        packed("[" * 8000),
        packed('{"a":' * 1500),
        packed("0" * 8000),
        packed(b"[" + b" " * 10_000_000 + b"]"),
        packed("{}"),
        packed("null"),
        packed('"abcdef"'),
        packed("[1,2,3,4,5,6]"),
        *(packed(json.dumps([*GOOD[:at], wrong, *GOOD[at + 1 :]])) for at in range(6) for wrong in (None, [], {}, True, 1.5, "\ud800")),
        packed(json.dumps([*GOOD, "more"])),
        packed(json.dumps(["0", -1, *GOOD[2:]])),
        packed(json.dumps(["0", 10**30, *GOOD[2:]])),
        packed(json.dumps([*GOOD[:2], "nothing", *GOOD[3:]])),
    ],
    ids=lambda text: ascii(text[:20]),
)
def test_hostile_ids(text):
    with pytest.raises(ValueError, match="decision id"):
        read_decision_id(text)


@given(st.binary(max_size=200))
def test_any_bytes_as_an_id(data):
    for text in ("d-" + base64.urlsafe_b64encode(data).decode(), packed(data)):
        with pytest.raises(ValueError, match="decision id"):
            read_decision_id(text)


# Refusals.


def refused(package: Package = APP, decision: Decision | None = None, **settings: Any) -> Any:
    found = policy(RULE, settings=replace(ENFORCE, **settings))
    return refusal(found, package, decision or Decision(False, "blocklist", RULE, RULE.reason, 1_800_000_500.5), 1_800_000_000.0), found


def test_members():
    told, found = refused(docs_url="https://wiki/curation")
    members = told.members()
    assert members == {
        "error": "blocked_by_policy",
        "error_version": "v1",
        "context": {
            "rule": "blocklist",
            "reason": "it is known to be bad",
            "registry": "docker",
            "package": "team/app",
            "version": "1",
            "rule_id": "no-app",
            "place": "rules.toml:7",
            "policy": found.fingerprint,
            "decision": told.id,
            "until": 1_800_000_500,
        },
        "hint": "Run: nora curation explain docker:team/app@1",
        "docs": "https://wiki/curation",
    }
    assert json.loads(json.dumps(members)) == members
    assert "/etc" not in json.dumps(members), "no path of the server's disk"


def test_members_of_an_index_without_rule_and_docs():
    told, _ = refused(replace(APP, version=None), Decision(False, "allowlist"))
    members = told.members()
    assert members["context"]["version"] == "*"
    assert (members["context"]["rule_id"], members["context"]["place"]) == ("", "")
    assert "until" not in members["context"]
    assert "docs" not in members
    assert members["hint"] == "Run: nora curation explain docker:team/app"


@pytest.mark.parametrize("name", ["a'$(id)", 'a"`id`', "a b; rm", "a\\", "$HOME", "a\nb"])
def test_the_hint_can_be_pasted_into_a_shell(name):
    told, _ = refused(Package("raw", name))
    assert shlex.split(told.members()["hint"])[-1] == f"raw:{name}"
    assert "$(" not in told.members()["hint"].replace(shlex.quote(f"raw:{name}"), "")


def test_headers():
    told, found = refused()
    assert told.headers() == {
        "X-Nora-Decision": "blocked",
        "X-Nora-Rule": "blocklist",
        "X-Nora-Reason": "it is known to be bad",
        "X-Nora-Decision-Id": told.id,
        "X-Nora-Policy": found.fingerprint,
        "Cache-Control": "no-store",
    }


@pytest.mark.parametrize(
    ("reason", "shown"),
    [("", "unknown"), ("böse", "unknown"), ("a\r\nSet-Cookie: x", "unknown"), ("a\tb", "unknown"), ("x" * 900, "x" * 500), ("fine", "fine")],
)
def test_reasons_in_headers(reason, shown):
    told, _ = refused(decision=Decision(False, "blocklist", RULE, reason))
    assert told.headers()["X-Nora-Reason"] == shown


def test_the_message_says_who_to_ask():
    told, _ = refused(docs_url="https://wiki/curation")
    assert told.message == (
        f"docker:team/app@1 is blocked by policy (blocklist no-app): it is known to be bad; "
        f"to ask for an exception, tell the decision {told.id} to the security team, see https://wiki/curation"
    )
    assert "no reason is given" in refused(decision=Decision(False, "allowlist"))[0].message


def test_the_error_carries_what_formats_dress(gate):
    with pytest.raises(CurationDenied) as caught:
        gate.curation.check(gate.policy, APP)
    told = caught.value.refusal
    assert caught.value.headers == told.headers()
    assert caught.value.detail == told.members()["context"]
    assert str(caught.value.args[0]) == told.message
    assert read_decision_id(told.id)[1] == int(gate.clock.now)


# The freeze.


def frozen_answer(gate: Gate, package: Package) -> str:
    return gate.curation.decide(gate.policy, package).filter


def test_a_freeze_stops_what_is_new_from_upstream_and_nothing_else(gate):
    assert frozen_answer(gate, PROXIED) == ""
    gate.freeze.begin("ann", "an incident")
    assert frozen_answer(gate, PROXIED) == "freeze"
    assert frozen_answer(gate, replace(PROXIED, seen=gate.clock.now - 5)) == "", "it is here already"
    assert frozen_answer(gate, replace(PROXIED, hosted=True)) == ""
    with pytest.raises(CurationDenied, match="an incident"):
        gate.curation.check(gate.policy, PROXIED, "any token")
    gate.freeze.lift()
    assert frozen_answer(gate, PROXIED) == ""


@pytest.mark.parametrize("mode", ["off", "audit", "enforce"])
def test_a_freeze_counts_in_every_mode(gate, mode):
    gate.freeze.begin("ann", "an incident")
    gate.policy = policy(settings=Settings(mode=mode))
    assert frozen_answer(gate, PROXIED) == "freeze"


def test_a_freeze_ends_by_itself(gate):
    gate.freeze.begin("ann", "an incident", 60)
    decision = gate.curation.decide(gate.policy, PROXIED)
    assert decision.until == gate.clock.now + 60
    gate.clock.now += 59
    assert frozen_answer(gate, PROXIED) == "freeze"
    gate.clock.now += 1
    assert frozen_answer(gate, PROXIED) == ""


def test_other_workers_see_it_soon(gate):
    other = Freeze(Documents(gate.storage, "_curation/"), gate.clock)
    assert other.current() is None
    gate.freeze.begin("ann", "an incident")
    assert other.current() is None, "it has looked just now"
    gate.clock.now += LOOK_SECONDS
    assert other.current() == gate.freeze.current()
    gate.freeze.lift()
    gate.clock.now += LOOK_SECONDS
    assert other.current() is None


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"{}", b'{"by": "x"}', b'{"by": "x", "reason": "y", "since": "z"}', b"\xff"])
def test_a_damaged_note_freezes(gate, text):
    Documents(gate.storage, "_curation/").replace("freeze", text)
    assert frozen_answer(gate, PROXIED) == "freeze"
    gate.freeze.lift()
    assert frozen_answer(gate, PROXIED) == ""


def test_what_was_known_stays_while_storage_cannot_be_read(gate, monkeypatch, caplog):
    gate.freeze.begin("ann", "an incident")
    assert frozen_answer(gate, PROXIED) == "freeze"

    def broken(*_: object) -> bytes:
        raise Unavailable()

    monkeypatch.setattr(Documents, "read", broken)
    gate.clock.now += 10
    assert frozen_answer(gate, PROXIED) == "freeze"
    assert "cannot be read" in caplog.text


def test_a_clock_that_was_set_back_does_not_keep_an_old_answer(gate):
    assert gate.freeze.current() is None
    other = Freeze(Documents(gate.storage, "_curation/"), gate.clock)
    other.begin("ann", "an incident")
    gate.clock.now -= 3600
    assert gate.freeze.current() is not None
