"""The gate cannot be forgotten: every route that serves is walked under a policy that blocks everything, and a second format tries to get by."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest
from flask import Blueprint, Flask, Response, request
from flask.ctx import RequestContext
from flask.testing import EnvironBuilder

from noraflask.digest import Digest
from noraflask.errors import CurationDenied, NotFound
from noraflask.formats.docker.protocol.media_types import OCI_MANIFEST
from noraflask.services.auth.principal import Action
from noraflask.services.curation.compiling import compile
from noraflask.services.curation.gate import Permit
from noraflask.services.curation.model import Decision, Kind, Package, Rule, RuleSet
from noraflask.services.curation.policy import Policy, Settings
from noraflask.storage.memory import MemoryStorage
from noraflask.web import gate
from noraflask.web.access import PULL, PUSH, access
from noraflask.web.context import FORMATS as SERVED
from noraflask.web.context import STATE, services, state
from noraflask.web.gate import PERMIT, decide
from noraflask.web.responses import Answer, send
from noraflask.web.targets import INNER, Targets
from tests.live import enforce
from tests.protocol.oci import Registry, descriptor, image
from tests.toy import app_of, toy_format

EVERYTHING = '[[block]]\nname = "*"\nreason = "closed for today"\n'
ONE_TAG = '[[block]]\nformat = "docker"\nname = "*"\nversion = "1"\n'
LAYER = Digest.of(b"layer")
LISTS = {"docker.catalog": "repositories", "raw.list_top": "files", "raw.list_folder": "files"}
"""What lists names leaves them out instead: of this member."""
TOLD_TO_PUSHERS = {("HEAD", "docker.get_blob"), ("HEAD", "docker.get_manifest")}
"""Who may push is told whether a blob or a manifest is there, or no push of what is there could succeed. No bytes leave."""


@pytest.fixture
def storage():
    return MemoryStorage()


@pytest.fixture
def filled(app_with, storage) -> dict[str, str]:
    """Values for the arguments of all routes, of things that are there."""
    registry = Registry(app_with(storage).test_client())
    digest = registry.push_image("app", "1")
    registry.push_image("app", layers=(b"layer",), subject=descriptor(digest, OCI_MANIFEST))
    for path in ("app", "reports/2026"):
        assert registry.client.put(f"/raw/{path}", data=b"a file").status_code == 200
    return {"name": "app", "reference": "1", "manifest": str(digest), "digest": str(LAYER), "folder": "reports"}


def addresses(app: Flask, values: dict[str, str]) -> list[tuple[str, str, str]]:
    """Endpoint, method and address of each way to pull; routes of a new format fail here until they have their values."""
    found = []
    outer = {f"{INNER}{format.id}": format.mounts[0] for format in app.extensions[SERVED].values()}
    for rule in app.url_map.iter_rules():
        if app.view_functions[rule.endpoint].access is not Action.PULL:
            continue
        own = {**values, "digest": values["manifest"]} if "referrers" in rule.rule else values
        inner, slash, address = rule.rule[1:].partition("/")
        for argument in rule.arguments:
            address = re.sub(f"<([a-z]+:)?{argument}>", own[argument], address)
        found += [(rule.endpoint, method, f"{outer[f'/{inner}']}{slash}{address}") for method in sorted(rule.methods & {"GET", "HEAD"})]
    return found


def test_every_way_to_pull_is_walked(app, filled):
    ways = addresses(app, filled)
    assert {endpoint for endpoint, *_ in ways} == {
        "docker.get_blob",
        "docker.get_manifest",
        "docker.list_tags",
        "docker.catalog",
        "docker.list_referrers",
        "raw.get_file",
        "raw.list_folder",
        "raw.list_top",
    }
    assert len(ways) == 16


@pytest.mark.parametrize("rules", [EVERYTHING, EVERYTHING + '[[block]]\nformat = "docker"\nname = "app"\nversion = "1"\n'])
def test_no_way_to_pull_forgets_the_gate(app_with, storage, filled, rules):
    app = app_with(storage)
    ways = [way for way in addresses(app, filled) if app.test_client().open(way[2], method=way[1]).status_code < 300]
    assert ways == addresses(app, filled), "all of them answer when nothing is blocked"
    client = app_with(storage, curation={"mode": "enforce", "rules": rules}).test_client()
    for endpoint, method, address in ways:
        answer = client.open(address, method=method)
        if endpoint in LISTS:
            assert answer.status_code == 200
            assert method == "HEAD" or answer.json[LISTS[endpoint]] == []
        elif (method, endpoint) in TOLD_TO_PUSHERS:
            assert (answer.status_code, answer.data) == (200, b"")
        else:
            assert answer.status_code == 403, (method, address)
            assert answer.headers["X-Nora-Decision"] == "blocked"
        assert answer.headers["X-Nora-Policy"] == app.services.live.state.policy.fingerprint


@pytest.mark.parametrize("header", ["If-None-Match", "Range", "If-Range"])
def test_conditions_do_not_get_by(app_with, storage, filled, header):
    app = app_with(storage, curation={"mode": "enforce", "rules": EVERYTHING})
    for endpoint, method, address in addresses(app, filled):
        answer = app.test_client().open(address, method=method, headers={header: "bytes=0-0" if header == "Range" else "*"})
        if endpoint not in LISTS and (method, endpoint) not in TOLD_TO_PUSHERS:
            assert answer.status_code == 403


def test_the_gate_is_asked_on_every_way(app_with, storage, filled, monkeypatch):
    """Whatever the rules are: a way that takes its permit from the open door alone is found here."""
    app = app_with(storage, curation={"mode": "enforce", "rules": ONE_TAG})
    formats: list[str] = []
    check = type(app.services.curation).check

    def noted(self: object, policy: Policy, package: Package, *more: object) -> Permit:
        formats.append(package.format)
        return check(self, policy, package, *more)

    monkeypatch.setattr(type(app.services.curation), "check", noted)
    for endpoint, method, address in addresses(app, filled):
        formats.clear()
        app.services.live.state.permits.known.clear()
        app.test_client().open(address, method=method)
        assert endpoint.partition(".")[0] in formats, (method, address)


def test_what_is_no_pull_serves_nothing_that_is_stored(app):
    """All views of another kind. A new one has to be put on this list by somebody who has looked at what it serves."""
    views = {rule.endpoint for rule in app.url_map.iter_rules() if app.view_functions[rule.endpoint].access is not Action.PULL}
    formats = {endpoint for endpoint in views if endpoint.startswith(("docker.", "raw."))}
    assert formats == {
        "docker.ping",
        "docker.get_token",
        "docker.post_token",
        "docker.delete_blob",
        "docker.delete_manifest",
        "docker.put_manifest",
        "docker.start_upload",
        "docker.get_upload",
        "docker.patch_upload",
        "docker.put_upload",
        "docker.cancel_upload",
        "raw.put_file",
        "raw.delete_file",
    }
    assert {endpoint.partition(".")[0] for endpoint in views - formats} <= {"ops", "auth", "curation", "repositories", "setup"}


def test_answers_to_pushes_hold_nothing_of_what_is_stored(registry):
    registry.push_image("app", "1", layers=(b"the secret",))
    digest = Digest.of(b"the secret")
    location = registry.begin("app")
    for method, path in (
        ("POST", f"other/blobs/uploads/?mount={digest}&from=app"),
        ("POST", f"app/blobs/uploads/?digest={digest}"),
        ("GET", location),
        ("PATCH", location),
        ("PUT", f"{location}?digest={digest}"),
        ("DELETE", "app/manifests/1"),
        ("DELETE", f"app/blobs/{digest}"),
    ):
        assert b"the secret" not in registry.ask(method, path, data=b"x" if method != "GET" else None).data


# A second format, whose author forgets.

TEXT = b"a stored note"
bp = Blueprint("notes", __name__)


def stored() -> Digest:
    services().content.keep_bytes(TEXT, Digest.of(TEXT))
    return Digest.of(TEXT)


def serve(granted: Permit) -> Response:
    return send(granted, stored(), len(TEXT), "text/plain", NotFound, {"ETag": f'"{stored().hex}"'})


@bp.get("/no-permit/<name>")
@access(PULL)
def no_permit(name: str) -> Response:
    return serve(None)  # type: ignore[arg-type]


@bp.get("/own-permit/<name>")
@access(PULL)
def own_permit(name: str) -> Response:
    return serve(Permit(object(), Package("notes", name), Decision(True), state().policy))


@bp.get("/look-alike/<name>")
@access(PULL)
def look_alike(name: str) -> Response:
    class Mine(Permit):
        def __init__(self) -> None:
            self.package = Package("notes", name)

    request.environ[PERMIT] = object()
    serve(Mine())
    return Answer(TEXT, content_type="text/plain")


@bp.get("/plain/<name>")
@access(PULL)
def plain(name: str) -> Response:
    return Answer(TEXT, content_type="text/plain")


@bp.get("/stream/<name>")
@access(PULL)
def stream(name: str) -> Response:
    return Answer(iter([TEXT]), content_type="text/plain")


@bp.get("/not-modified/<name>")
@access(PULL)
def not_modified(name: str) -> Response:
    return Answer(status=304)


@bp.get("/elsewhere/<name>")
@access(PULL)
def elsewhere(name: str) -> Response:
    return Answer(status=307, headers={"Location": "https://bucket.example/a-stored-note?signature=x"})


@bp.get("/only-decides/<name>")
@access(PULL)
def only_decides(name: str) -> Response:
    decide(Package("notes", name))
    return Answer(TEXT, content_type="text/plain")


@bp.get("/other-bytes/<name>")
@access(PULL)
def other_bytes(name: str) -> Response:
    return serve(gate.once(None, None, lambda: Package("notes", name, digests=(str(Digest.of(b"harmless")),))))


@bp.get("/proper/<name>")
@access(PULL)
def proper(name: str) -> Response:
    return serve(gate.once(None, None, lambda: Package("notes", name, repository="notes", digests=(str(stored()),))))


@bp.get("/quick/<name>")
@access(PULL)
def quick(name: str) -> Response:
    return serve(gate.once(name, None, lambda: Package("notes", name, repository="notes")))


@bp.get("/folder/<name>")
@access(PULL)
def folder(name: str) -> Response:
    found = gate.shown(Package("notes", name, repository="notes", is_index=True), ("good", "bad", "fine"), lambda entry: Package("notes", entry))
    return Answer(json.dumps(list(found)), content_type="application/json")


@bp.put("/new/<name>")
@access(PUSH)
def put(name: str) -> Response:
    return Answer(status=201)


FORGETFUL = ["no-permit", "own-permit", "look-alike", "plain", "stream", "not-modified", "elsewhere", "only-decides"]


@pytest.fixture
def notes(tmp_path, monkeypatch) -> Callable[..., Flask]:
    return lambda **curation: app_of(tmp_path, monkeypatch, toy_format(bp), curation=curation)


BLOCK_BAD = '[[block]]\nid = "no-bad"\nformat = "notes"\nname = "bad"\n'


@pytest.mark.parametrize("curation", [{}, {"mode": "audit"}, {"mode": "enforce", "rules": BLOCK_BAD}], ids=["off", "audit", "enforce"])
@pytest.mark.parametrize("forgetful", FORGETFUL)
def test_a_format_that_forgets_serves_nothing(notes, forgetful, curation, caplog):
    """Also where nothing is blocked, so that its author finds out at once."""
    for method in ("GET", "HEAD"):
        answer = notes(**curation).test_client().open(f"/notes/{forgetful}/good", method=method)
        assert answer.status_code == 500
        assert b"stored" not in answer.data
        assert "Location" not in answer.headers
        assert "signature" not in str(answer.headers)
    if forgetful in ("plain", "stream", "elsewhere", "only-decides"):
        assert 'GET "/notes/plain/good" was to be served without asking the gate'.replace("plain", forgetful) in caplog.text


@pytest.mark.parametrize("curation", [{"mode": "audit"}, {"mode": "enforce", "rules": BLOCK_BAD}], ids=["audit", "enforce"])
def test_whoever_asked_for_certain_bytes_sends_no_others(notes, curation):
    """Where nothing can be refused, nobody says which bytes are meant."""
    for method in ("GET", "HEAD"):
        answer = notes(**curation).test_client().open("/notes/other-bytes/good", method=method)
        assert answer.status_code == 500
        assert b"stored" not in answer.data


@pytest.mark.parametrize("way", ["proper", "quick"])
def test_a_format_that_asks_is_filtered(notes, way):
    app = notes(mode="enforce", rules=BLOCK_BAD)
    good, bad = (app.test_client().get(f"/notes/{way}/{name}") for name in ("good", "bad"))
    assert (good.status_code, good.data) == (200, TEXT)
    assert good.headers["X-Nora-Policy"] == bad.headers["X-Nora-Policy"] == app.services.live.state.policy.fingerprint
    assert bad.status_code == 403
    assert bad.json["detail"]["rule_id"] == "no-bad"
    assert bad.headers["X-Nora-Rule"] == "blocklist"
    assert app.test_client().get(f"/notes/{way}/bad", headers={"If-None-Match": "*"}).status_code == 403


def test_an_index_shows_what_can_be_had(notes):
    curated = notes(mode="enforce", rules=BLOCK_BAD).test_client()
    assert curated.get("/notes/folder/any").json == ["good", "fine"]
    assert curated.get("/notes/folder/bad").status_code == 403
    assert notes().test_client().get("/notes/folder/bad").json == ["good", "bad", "fine"]


# A permit is worked out once.


def asked(app: Flask, path: str) -> RequestContext:
    """Within a request, as the envelope begins it."""
    state = app.services.live.state
    environ = EnvironBuilder(app, path).get_environ() | {STATE: state}
    Targets(app.extensions[SERVED].values()).locate(environ, state.repositories)
    return app.request_context(environ)


class Work:
    """Counts how often the gate has it done."""

    def __init__(self, name: str = "good", decision: Decision | None = None) -> None:
        self.package, self.decision, self.done = Package("notes", name, "1", "notes"), decision, 0

    def __call__(self) -> gate.Asked:
        self.done += 1
        return (self.package, self.decision) if self.decision else self.package


ONE_VERSION = BLOCK_BAD + '[[block]]\nformat = "notes"\nname = "good"\nversion = "2"\n'


@pytest.mark.parametrize(
    ("rules", "decision", "states", "done"),
    [
        (BLOCK_BAD, None, ["a", "a", "a"], 1),
        (BLOCK_BAD, None, ["a", "b", None], 1),  # no rule tells versions of the name apart, so storage has no say
        (ONE_VERSION, None, ["a", "a", "a"], 1),
        (ONE_VERSION, None, ["a", "b", "b"], 2),
        (ONE_VERSION, None, [None, None], 2),
        (BLOCK_BAD, Decision(True), ["a", "a", "b"], 2),
        (BLOCK_BAD, Decision(True), ["a", None, "a"], 2),
        (BLOCK_BAD, Decision(True, "blocklist", would_block=True), ["a", "a"], 2),
        (BLOCK_BAD, Decision(True, bypassed_by="ci"), ["a", "a"], 2),
    ],
)
def test_a_permit_is_worked_out_once_for_each_state_that_it_rests_on(notes, rules, decision, states, done):
    app, work = notes(mode="enforce", rules=rules), Work(decision=decision)
    for revision in states:
        with asked(app, "/notes/quick/good"):
            granted = gate.once("key", lambda revision=revision: revision, work)
            assert request.environ[PERMIT] is granted
            assert granted.package is work.package
    assert work.done == done


def test_what_changes_while_the_work_is_done_counts_as_changed(notes):
    app, state = notes(mode="enforce", rules=ONE_VERSION), ["before"]

    class Slow(Work):
        def __call__(self) -> gate.Asked:
            state[0] = "after"
            return super().__call__()

    work = Slow()
    for _ in range(3):
        with asked(app, "/notes/quick/good"):
            gate.once("key", lambda: state[0], work)
    assert work.done == 2


def test_permits_are_remembered_by_key_and_repository_and_a_refusal_is_not(notes):
    app = notes(mode="enforce", rules=BLOCK_BAD)
    works = {(key, path): Work() for key in ("one", "other", None) for path in ("/notes/quick/x", "/v2/x/tags/list")}
    for _ in range(2):
        for (key, path), work in works.items():
            with asked(app, path):
                gate.once(key, None, work)
    assert {place: work.done for place, work in works.items()} == {place: 1 if place[0] else 2 for place in works}
    bad = Work("bad")
    for _ in range(2):
        with asked(app, "/notes/quick/bad"), pytest.raises(CurationDenied):
            gate.once("bad", None, bad)
    assert bad.done == 2


def test_a_new_policy_asks_anew(notes):
    app, work = notes(mode="enforce", rules=BLOCK_BAD), Work()
    for policy in (None, Policy.from_buffer(compile(Settings(mode="enforce"), RuleSet((Rule("x", Kind.BLOCK, "notes", "y"),))))):
        if policy:
            enforce(app.services.live, policy)
        with asked(app, "/notes/quick/good"):
            gate.once("key", None, work)
    assert work.done == 2


def test_where_nothing_can_be_blocked_nothing_is_asked(notes):
    answer = notes().test_client().get("/notes/quick/bad")
    assert (answer.status_code, answer.data) == (200, TEXT)
    assert "X-Nora-Policy" not in answer.headers


def test_errors_and_pushes_need_no_permit(notes):
    client = notes(mode="enforce", rules=BLOCK_BAD).test_client()
    assert client.put("/notes/new/bad").status_code == 201
    assert client.get("/notes/nothing/bad").status_code == 404


def test_a_header_cannot_stand_in_for_a_permit(notes):
    headers = {"nora.permit": "x", "Nora-Permit": "x", "X-Nora-Permit": "x", "X-Nora-Policy": "x", "X-Nora-Decision": "allowed"}
    assert notes().test_client().get("/notes/plain/good", headers=headers).status_code == 500


@pytest.mark.parametrize("header", ["X-HTTP-Method-Override", "X-Method-Override", "X-Original-URL", "X-Rewrite-URL", "X-Original-Method"])
def test_headers_that_other_servers_obey_change_neither_method_nor_address(app_with, storage, filled, header):
    app = app_with(storage, curation={"mode": "enforce", "rules": EVERYTHING})
    for value in ("PUT", "HEAD", "/health", "/v2/"):
        answer = app.test_client().get("/v2/app/manifests/1", headers={header: value})
        assert answer.status_code == 403
        assert json.loads(answer.data)["errors"][0]["code"] == "DENIED"


def test_a_manifest_in_place_of_a_layer(app_with, storage, filled):
    """The bytes of a manifest, pushed as a blob too, are no way around its tag."""
    app = app_with(storage, curation={"mode": "enforce", "rules": ONE_TAG})
    registry = Registry(app.test_client())
    digest = registry.push_blob("app", image())
    assert str(digest) == filled["manifest"]
    assert registry.status(f"app/blobs/{digest}", "GET") == 403
