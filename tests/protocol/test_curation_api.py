"""Curation over HTTP: the policy in force, explanations, who got what, reload and freeze; who may ask, and what an unsound request is told."""

from __future__ import annotations

import json
import os
import signal
from types import SimpleNamespace

import pytest

from noraflask.services.auth.principal import Principal, Scope, Source
from noraflask.services.curation.gate import decision_id
from noraflask.services.curation.model import Package
from noraflask.services.reloads import Reloads
from noraflask.web import curation as module
from noraflask.web.context import PRINCIPAL
from noraflask.web.curation import RELOAD_SECONDS, NoMaster, ReloadFailed, find_master, wait_for_reload
from tests.protocol.access import ALL, Door, basic, bearer, rule
from tests.protocol.oci import Registry, image

RULES = """\
internal_namespaces = ["@corp/**"]
[[block]]
format = "npm"
name = "left-pad"
range = ">=1.2.0 <1.3.1"
reason = "bad"
[[block]]
format = "docker"
name = "library/app"
version = "1.*"
reason = "old"
"""
CURATION = {"mode": "enforce", "rules": RULES, "min_release_age": 7 * 86400.0}
USERS = {"reader": "pw-r", "boss": "pw-b"}


@pytest.fixture
def door(app_with) -> Door:
    return Door(app_with(curation=CURATION))


@pytest.fixture
def guarded_door(app_with, tmp_path) -> Door:
    audit = {"mode": "file", "path": tmp_path / "audit.jsonl"}
    return Door(app_with(curation=CURATION, auth={"users": USERS, "docker_anon_pull": True, "admin_users": ("boss",)}, audit=audit))


READER = basic("reader", "pw-r")

PATHS = [
    ("GET", "/api/v1/policy", "login"),
    ("GET", "/api/v1/curation/explain?format=npm&name=x", "login"),
    ("GET", "/api/v1/admin/curation/impact?coordinate=npm:x", "admin"),
    ("POST", "/api/v1/admin/reload", "admin"),
    ("POST", "/api/v1/admin/curation/freeze", "admin"),
    ("DELETE", "/api/v1/admin/curation/freeze", "admin"),
]


@pytest.mark.parametrize(("method", "path", "needs"), PATHS)
def test_who_may_ask(guarded_door, method, path, needs):
    nobody = Principal("anonymous", Source.ANONYMOUS, bearer=(Scope(frozenset(), ("docker",), ("app",)),))
    admin = bearer(guarded_door.api_token("ops", "admin", service=True))
    body = {"json": {}} if method == "POST" else {}
    assert guarded_door.ask(method, path, **body).status_code == 401
    assert guarded_door.ask(method, path, basic("reader", "wrong"), **body).status_code == 401
    assert guarded_door.client.open(path, method=method, environ_overrides={PRINCIPAL: nobody}, **body).status_code == 401
    assert guarded_door.ask(method, path, READER, **body).status_code == (200 if needs == "login" else 403)
    assert guarded_door.ask(method, path, admin, **body).status_code == (409 if path.endswith("/reload") else 200)


def test_without_logins_anybody_may_ask(door):
    answers = [door.ask(method, path).status_code for method, path, _ in PATHS]
    assert answers == [200, 200, 200, 409, 200, 200]


# The policy.


def test_the_policy(door):
    here = door.services
    here.reloads.adopted(here.live.state.policy.fingerprint, here.live.state.fingerprint)
    answer = door.ask("GET", "/api/v1/policy")
    assert answer.headers["Cache-Control"] == "no-store"
    told = answer.json
    worker = told.pop("workers")
    assert [(one["pid"], one["current"]) for one in worker] == [(os.getpid(), True)]
    assert (worker[0]["fingerprint"], worker[0]["state"]) == (here.live.state.policy.fingerprint, here.live.state.fingerprint)
    assert 0 <= worker[0]["age_seconds"] < 60
    assert told == {
        "fingerprint": here.live.state.policy.fingerprint,
        "mode": "enforce",
        "rules": 2,
        "counts": {"block": 2, "allow": 0, "except": 0, "age": 0, "pin": 0, "namespace": 1, "bypass": 0},
        "has_allowlist": False,
        "warnings": 0,
        "adopted": told["adopted"],
        "reloads": {
            "succeeded": 0,
            "failed": 0,
            "last_success": told["reloads"]["last_success"],
            "last_failure": None,
            "fingerprint": here.live.state.policy.fingerprint,
            "state": here.live.state.fingerprint,
        },
        "freeze": None,
    }


def test_health_tells_how_far_a_reload_is(door):
    here = door.services
    fingerprint = here.live.state.policy.fingerprint
    here.reloads.adopted(fingerprint, here.live.state.fingerprint)
    before = door.ask("GET", "/health").json["policy"]
    assert before == {"fingerprint": fingerprint, "workers": 1, "current": 1, "last_reload": before["last_reload"], "failed_reload": None}
    here.reloads.succeeded("f" * 16, "f" * 16)
    here.reloads.failed()
    during = door.ask("GET", "/health").json["policy"]
    assert (during["fingerprint"], during["workers"], during["current"]) == ("f" * 16, 1, 0)
    assert during["failed_reload"] >= during["last_reload"] > before["last_reload"]
    here.reloads.adopted("f" * 16, "f" * 16)
    assert door.ask("GET", "/health").json["policy"]["current"] == 1


# Explanations.


@pytest.mark.parametrize(
    ("query", "allowed", "filter"),
    [
        ("format=npm&name=left-pad&version=1.3.0", False, "blocklist"),
        ("format=NPM&name=left-pad@1.3.0", False, "blocklist"),
        ("format=npm&name=left-pad&version=1.4.0", True, None),
        ("format=npm&name=@corp/x&upstream=true", False, "namespace"),
        ("format=npm&name=x&version=1.0.0&upstream=true&age=2d", False, "min-release-age"),
        ("format=npm&name=x&version=1.0.0&upstream=true&published=2026-01-01&at=2026-01-09", True, None),
        ("format=npm&name=x&version=1.0.0&upstream=true&published=2026-01-01&at=2026-01-02", False, "min-release-age"),
    ],
)
def test_explanations(door, query, allowed, filter):
    told = door.ask("GET", f"/api/v1/curation/explain?{query}").json
    assert (told["allowed"], told["decided_by"] and told["decided_by"]["filter"]) == (allowed, filter)
    assert [step["filter"] for step in told["filters"]] == ["namespace", "blocklist", "allowlist", "min-release-age", "pin", "quarantine"]
    assert told["policy"] == door.services.live.state.policy.fingerprint


def test_rules_are_placed_without_folders(door, tmp_path):
    answer = door.ask("GET", "/api/v1/curation/explain?format=npm&name=left-pad&version=1.3.0&among=1.1.0&among=1.2.0")
    assert (answer.json["decided_by"]["place"], answer.json["instead"]) == ("rules.toml:2", ["1.1.0"])
    assert str(tmp_path) not in answer.text


def test_a_decision_is_explained(door):
    id = decision_id(door.services.live.state.policy, Package("npm", "left-pad", "1.3.0", "npm"), 1_800_000_000)
    told = door.ask("GET", f"/api/v1/curation/explain?decision={id}").json
    assert (told["allowed"], told["at"], told["decision"]["same_policy"]) == (False, "2027-01-15T08:00:00Z", True)


def test_the_decision_that_a_refusal_tells_leads_to_the_same_rule(door):
    registry = Registry(door.client)
    pushed = registry.push_image("library/app", "1.0")
    registry.push("library/app", "stable", image())
    other = registry.push_image("library/app", "2.0", layers=(b"other",))
    refused = door.ask("GET", "/v2/library/app/manifests/stable")
    assert refused.status_code == 403
    told = door.ask("GET", f"/api/v1/curation/explain?decision={refused.headers['X-Nora-Decision-Id']}").json
    assert (told["allowed"], told["decided_by"]["reason"].rpartition(": ")[2], told["instead"]) == (False, "old", ["2.0"])
    assert told["digests"] == [str(pushed)]
    assert door.ask("GET", "/api/v1/curation/explain?format=docker&name=app&version=2.0").json["digests"] == [str(other)]


@pytest.mark.parametrize(("user", "sees"), [("insider", True), ("outsider", False)])
def test_what_storage_has_is_told_to_those_who_may_pull_it(app_with, user, sees):
    rules = (rule(ALL, users=("insider",), names=("library/*",)),)
    auth = {"users": {"insider": "pw", "outsider": "pw"}}
    door = Door(app_with(curation=CURATION, auth=auth, access={"rules": rules}))
    insider = Registry(As(door, basic("insider", "pw")))
    insider.push_image("library/app", "1.0")
    insider.push_image("library/app", "2.0", layers=(b"other",))
    told = door.ask("GET", "/api/v1/curation/explain?format=docker&name=app&version=1.0", basic(user, "pw")).json
    assert (told["allowed"], told["decided_by"]["reason"]) == (False, "old")
    assert (told["digests"] != [], told["published"] is not None, told["instead"]) == (sees, sees, ["2.0"] if sees else None)


class As:
    """A client that logs in."""

    def __init__(self, door: Door, authorization: str) -> None:
        self.door, self.authorization = door, authorization

    def open(self, path, **more):
        return self.door.ask(more.pop("method"), path, self.authorization, **more)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("", "'' is no format"),
        ("format=npm", "lacks a name"),
        ("format=cobol&name=x", "'cobol' is no format"),
        ("decision=d-nonsense", "the decision id is damaged"),
        ("decision=npm", "no coordinate"),
        ("format=npm&name=x&age=soon", "age: "),
        ("format=npm&name=x&at=then", "at: expected a day or a time"),
        ("format=npm&name=x&digest=md5:1", "sha256"),
        (f"format=npm&name={'x' * 2000}", "more than 1024 characters"),
        (f"format=npm&name=x&version={'1' * 2000}", "more than 1024 characters"),
    ],
)
def test_questions_that_make_no_sense(door, query, words):
    answer = door.ask("GET", f"/api/v1/curation/explain?{query}")
    assert (answer.status_code, words in answer.json["error"]) == (400, True)


# Who got it.


def test_impact(door):
    registry = Registry(door.client)
    registry.push_image("library/app", "2.0")
    assert door.ask("GET", "/v2/library/app/manifests/2.0").status_code == 200
    for query in ("coordinate=docker:app@2.0", "format=docker&name=app&version=>=1.9", "coordinate=docker:app&since=1d"):
        told = door.ask("GET", f"/api/v1/admin/curation/impact?{query}").json
        assert (told["consumers_count"], told["receipts_count"], told["receipts"][0]["version"]) == (1, 1, "2.0")
        assert told["receipts"][0]["principal"] == "anonymous"
    assert door.ask("GET", "/api/v1/admin/curation/impact?coordinate=docker:app@3.0").json["receipts"] == []


@pytest.mark.parametrize("query", ["", "coordinate=x", "coordinate=cobol:x", "coordinate=npm:x&since=soon", "format=npm&name=x&version=]["])
def test_impacts_that_make_no_sense(door, query):
    answer = door.ask("GET", f"/api/v1/admin/curation/impact?{query}")
    assert (answer.status_code, "ask with coordinate=" in answer.json["error"]) == (400, True)


# Reload.


def test_a_process_that_is_no_master_gets_no_signal(door, monkeypatch):
    sent = []
    monkeypatch.setattr(os, "kill", lambda *signal: sent.append(signal))
    assert "not started by" in door.ask("POST", "/api/v1/admin/reload").json["error"]
    monkeypatch.setattr(type(door.services.health), "is_started", True)
    assert door.ask("POST", "/api/v1/admin/reload").status_code == 409  # pytest's parent is none either
    assert sent == []
    with door.app.app_context(), pytest.raises(NoMaster):
        find_master()


@pytest.fixture
def master(door, monkeypatch) -> SimpleNamespace:
    """Stands in for one; `answer` is what a SIGHUP makes of the reloads."""
    seen = SimpleNamespace(signals=[], answer=lambda reloads: None)
    reloads = door.services.reloads
    reloads.adopted(door.services.live.state.policy.fingerprint, door.services.live.state.fingerprint)

    def kill(pid: int, number: int) -> None:
        if number:  # 0 only asks whether it is there
            seen.signals.append((pid, number))
            seen.answer(reloads)

    monkeypatch.setattr(module, "find_master", lambda: 4711)
    monkeypatch.setattr(os, "kill", kill)
    monkeypatch.setattr(module.wait_for_reload, "__defaults__", (iter(range(1000)).__next__, lambda seconds: None))
    return seen


def test_a_reload(door, master):
    def good(reloads: Reloads) -> None:
        reloads.succeeded("f" * 16, "f" * 16)
        reloads.adopted("f" * 16, "f" * 16)

    master.answer = good
    answer = door.ask("POST", "/api/v1/admin/reload")
    assert answer.status_code == 200
    assert (answer.json["reloads"]["succeeded"], answer.json["reloads"]["fingerprint"], answer.json["workers"][0]["current"]) == (1, "f" * 16, True)
    assert master.signals == [(4711, signal.SIGHUP)]


def test_a_reload_that_the_master_refuses(door, master):
    master.answer = Reloads.failed
    answer = door.ask("POST", "/api/v1/admin/reload")
    assert (answer.status_code, answer.json) == (409, {"error": "the reload failed; the log says why"})


@pytest.mark.parametrize(("answer", "words"), [(lambda reloads: None, "1 of 1"), (lambda reloads: reloads.succeeded("f" * 16, "f" * 16), "0 of 1")])
def test_a_reload_that_takes_too_long(door, master, answer, words):
    master.answer = answer
    told = door.ask("POST", "/api/v1/admin/reload")
    assert (told.status_code, f"{words} workers have the new policy" in told.json["error"]) == (409, True)


def test_a_worker_counts_when_it_has_taken_over_what_was_read_last(monkeypatch):
    """Also when the fingerprint is as before: access rules are not in it."""
    clock = SimpleNamespace(now=0.0)
    reloads = Reloads(lambda: clock.now)
    reloads.succeeded("a", "a", at_start=True)
    reloads.adopted("a", "a")
    before = reloads.figures()
    clock.now = 1.0
    reloads.succeeded("a", "a")
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            reloads.adopted("a", "a")

    assert wait_for_reload(reloads, before, lambda: sum(pauses), pause).succeeded == 1
    assert len(pauses) == 3
    with pytest.raises(ReloadFailed):
        wait_for_reload(reloads, reloads.figures(), lambda: sum(pauses), lambda seconds: pauses.append(RELOAD_SECONDS))


# Freeze.


def test_a_freeze(guarded_door, tmp_path):
    admin = bearer(guarded_door.api_token("ops", "admin", service=True))
    path = "/api/v1/admin/curation/freeze"
    begun = guarded_door.ask("POST", path, admin, json={"reason": "incident", "for": "12h"}).json["freeze"]
    assert (begun["by"], begun["reason"], begun["until"] is None) == ("ops", "incident", False)
    assert guarded_door.ask("GET", "/api/v1/policy", READER).json["freeze"] == begun
    told = guarded_door.ask("GET", "/api/v1/curation/explain?format=npm&name=x&version=1&upstream=true&age=9d", READER).json
    assert (told["allowed"], told["decided_by"]["filter"]) == (False, "freeze")
    assert guarded_door.ask("POST", path, admin).json["freeze"]["until"] is None  # without a body: until it is lifted
    assert guarded_door.ask("DELETE", path, admin).json == {"freeze": None}
    assert guarded_door.ask("DELETE", path, admin).json == {"freeze": None}
    assert guarded_door.ask("GET", "/api/v1/policy", READER).json["freeze"] is None
    actions = [json.loads(line)["action"] for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [action for action in actions if action != "login"] == ["curation_freeze", "curation_freeze", "curation_lift", "curation_lift"]


@pytest.mark.parametrize(
    "members", [{"reason": 1}, {"reason": " "}, {"reason": "a\nb"}, {"reason": "x" * 501}, {"for": 12}, {"for": "soon"}, {"for": "0"}]
)
def test_freezes_that_make_no_sense(door, members):
    assert door.ask("POST", "/api/v1/admin/curation/freeze", json=members).status_code == 422
    assert door.services.curation.freeze.current() is None
