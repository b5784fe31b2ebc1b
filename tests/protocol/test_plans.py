"""Which answers are given again, and until when (noraflask/web/plans.py, docs/decisions/0013-plans.md)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Blueprint, Response, request

from noraflask.config import LoggingConfig
from noraflask.digest import Digest
from noraflask.errors import NotFound
from noraflask.keys import Key
from noraflask.log import EventLog, setup
from noraflask.services.auth.users import hash_password
from noraflask.services.curation.model import Package
from noraflask.services.metrics import catalogue
from noraflask.storage.memory import MemoryStorage
from noraflask.web import gate
from noraflask.web.access import PULL, access
from noraflask.web.context import note, services
from noraflask.web.envelope import UPSTREAM_SECONDS
from noraflask.web.responses import send
from tests.clock import Clock
from tests.live import change
from tests.plans import Planner, Seen
from tests.protocol.access import basic, bearer
from tests.protocol.curated import NOW, Curated, block, table, when
from tests.protocol.oci import Registry, descriptor, index
from tests.toy import app_of, toy_format

TEXT = b"0123456789"
DIGEST = Digest.of(TEXT)


@pytest.fixture
def registry(make_app) -> SimpleNamespace:
    """An image app:1 and a file, and a planner."""
    app = make_app()
    oci = Registry(app.test_client())
    image = oci.push_image("app", "1")
    app.test_client().put("/raw/a/file.txt", data=TEXT)
    return SimpleNamespace(app=app, oci=oci, image=image, planner=Planner(app), services=app.services)


HOT = [
    ("/v2/app/manifests/1", "GET", {}, 200),
    ("/v2/app/manifests/1", "HEAD", {}, 200),
    ("/v2/app/manifests/{image}", "GET", {}, 200),
    ("/v2/app/manifests/{image}", "HEAD", {}, 200),
    ("/v2/app/manifests/1", "GET", {"If_None_Match": '"{image}"'}, 304),
    ("/v2/app/manifests/1", "GET", {"Range": "bytes=1-3"}, 206),
    ("/v2/app/manifests/1", "GET", {"Range": "bytes=1-3,5-7"}, 206),
    ("/v2/app/blobs/{layer}", "GET", {}, 200),
    ("/v2/app/blobs/{layer}", "HEAD", {}, 200),
    ("/v2/app/blobs/{layer}", "GET", {"Range": "bytes=1-"}, 206),
    ("/repository/docker/v2/app/manifests/1", "GET", {}, 200),
    ("/raw/a/file.txt", "GET", {}, 200),
    ("/raw/a/file.txt", "HEAD", {}, 200),
    ("/raw/a/file.txt", "GET", {"Range": "bytes=2-4"}, 206),
]


def ask(registry: Any, path: str, method: str = "GET", headers: dict[str, str] | None = None) -> Seen:
    known = {"image": registry.image, "layer": Digest.of(b"layer")}
    given = {name: value.format(**known) for name, value in (headers or {}).items()}
    return registry.planner.ask(path.format(**known), method, **given)


@pytest.mark.parametrize(("path", "method", "headers", "status"), HOT)
def test_a_read_of_stored_bytes_is_answered_again(registry, path, method, headers, status):
    seen = ask(registry, path, method, headers)
    assert (seen.status, seen.plan is not None) == (status, True)
    assert seen.plan.body == seen.body
    assert dict(seen.plan.varying)["X-Request-Id"] == seen.headers["X-Request-Id"]
    assert seen.again()
    assert seen.again()


@pytest.mark.parametrize(
    ("path", "method"),
    [
        ("/v2/", "GET"),
        ("/v2/app/tags/list", "GET"),
        ("/v2/_catalog", "GET"),
        ("/v2/app/manifests/none", "GET"),
        ("/v2/app/referrers/{image}", "GET"),
        ("/raw/a/", "GET"),
        ("/raw/a/file.txt.sha256", "GET"),
        ("/health", "GET"),
        ("/api/v1/repositories", "GET"),
    ],
)
def test_all_else_is_run_each_time(registry, path, method):
    assert ask(registry, path, method).plan is None


CHANGES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "the tag is moved": ("/v2/app/manifests/1", lambda r: r.oci.push_image("app", "1", layers=(b"other",))),
    "the tag is pushed again": ("/v2/app/manifests/1", lambda r: r.oci.push_image("app", "1")),
    "the tag is deleted": ("/v2/app/manifests/1", lambda r: r.oci.ask("DELETE", "app/manifests/1")),
    "its manifest is deleted": ("/v2/app/manifests/1", lambda r: r.oci.ask("DELETE", f"app/manifests/{r.image}")),
    "the manifest is deleted": ("/v2/app/manifests/{image}", lambda r: r.oci.ask("DELETE", f"app/manifests/{r.image}")),
    "the blob is deleted": ("/v2/app/blobs/{layer}", lambda r: r.oci.ask("DELETE", f"app/blobs/{Digest.of(b'layer')}")),
    "the file is overwritten": (
        "/raw/a/file.txt",
        lambda r: r.app.test_client().put("/raw/a/file.txt", data=b"new", headers={"If-Match": f'"{DIGEST.hex}"'}),
    ),
    "the file is deleted": ("/raw/a/file.txt", lambda r: r.app.test_client().delete("/raw/a/file.txt")),
    "anything is reloaded": ("/v2/app/manifests/1", lambda r: change(r.services.live, when=1.0)),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_ends_it(registry, what):
    path, make = CHANGES[what]
    seen = ask(registry, path)
    assert seen.again()
    make(registry)
    assert not seen.again()


def test_a_change_of_something_else_does_not(registry):
    seen = ask(registry, "/v2/app/manifests/1")
    registry.oci.push_image("app", "2", layers=(b"two",))
    registry.oci.push_image("other", "1")
    assert seen.again()


def test_an_image_for_a_client_that_takes_no_index_rests_on_the_index_too(make_app):
    app = make_app()
    curated = Registry(app.test_client())
    amd = curated.push_image("app")
    one = index({**descriptor(amd, "application/vnd.oci.image.manifest.v1+json"), "platform": {"os": "linux", "architecture": "amd64"}})
    assert curated.push("app", "1", one).status_code == 201
    seen = Planner(app).ask("/v2/app/manifests/1", Accept="application/vnd.oci.image.manifest.v1+json")
    assert (seen.headers["Docker-Content-Digest"], seen.again()) == (str(amd), True)
    curated.push_image("app", "1", layers=(b"new",))
    assert not seen.again()


# What a view may do besides, in any format.

bp = Blueprint("notes", __name__)
BESIDES: dict[str, Callable[[], Any]] = {}


@bp.get("/<name>")
@access(PULL)
def get(name: str) -> Response:
    if services().content.stat(DIGEST) is None:
        services().content.keep_bytes(TEXT, DIGEST)
    before, _, after = request.args.get("do", "").partition("/")
    BESIDES.get(before, bool)()
    permit = gate.once((name, DIGEST), None, lambda: Package("notes", name, digests=(str(DIGEST),)))
    answer = send(permit, DIGEST, len(TEXT), "text/plain", NotFound, {"ETag": f'"{DIGEST.hex}"'})
    BESIDES.get(after, bool)()
    if request.args.get("body"):
        answer.set_data(request.args["body"])
    return answer


def besides(action: Callable[[], Any]) -> Callable[[], Any]:
    BESIDES[action.__name__] = action
    return action


@besides
def audited() -> None:
    note("read")


@besides
def logged() -> None:
    logging.getLogger("nora.notes").error("told")


@besides
def counted() -> None:
    services().metrics.count(catalogue.UPLOADS, "notes")


@besides
def measured() -> None:
    services().metrics.observe(catalogue.STORAGE_GET_BYTES, 1.0, "notes")


@besides
def listed() -> None:
    list(services().content.names("notes/x"))


@besides
def opened() -> None:
    services().content.open(DIGEST).close()


@besides
def timed() -> None:
    services().content.now()


@besides
def leased() -> None:
    with services().content.lease(DIGEST):
        pass


@besides
def written() -> None:
    services().content.remove(Key("notes/nothing"))


@besides
def changing() -> None:
    with services().content.changing("notes"):
        pass


@besides
def judged() -> None:
    gate.decide(Package("notes", "other"))


@besides
def frozen() -> None:
    services().curation.freeze.current()


@besides
def staged() -> None:
    services().staging.unfinished("notes", "0")


@besides
def waited_for() -> None:
    request.environ[UPSTREAM_SECONDS] = 0.1


@besides
def read_much() -> None:
    for number in range(20):
        services().content.exists(Key(f"notes/{number}"))


@pytest.fixture
def toy(tmp_path, monkeypatch):
    app = app_of(tmp_path, monkeypatch, toy_format(bp, "notes"), MemoryStorage(), metrics={"enabled": True})
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    setup(LoggingConfig())
    return Planner(app)


def test_a_format_gets_it_without_a_line_of_its_own(toy):
    assert toy.ask("/notes/a").again()


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("what", BESIDES)
def test_whatever_a_view_does_besides_is_done_each_time(toy, what, where):
    seen = toy.ask(f"/notes/a?do={what}" if where == "before" else f"/notes/a?do=/{what}")
    assert (seen.status, seen.body, seen.plan) == (200, TEXT, None)


def test_what_a_view_reads_besides_is_looked_at(toy):
    BESIDES["looked"] = lambda: services().content.exists(Key("notes/looked"))
    seen = toy.ask("/notes/a?do=looked")
    assert seen.again()
    toy.app.services.content._storage.create(Key("notes/looked"), b"x")
    assert not seen.again()


def test_who_may_push_is_promised_each_time_that_what_is_there_stays(registry):
    """A blob that is asked about is touched; a plan answers as long as that was lately."""
    content = registry.services.content
    seen = ask(registry, "/v2/app/blobs/{layer}", "HEAD")
    assert seen.again()
    content._touched.clear()
    assert not seen.again()
    assert ask(registry, "/v2/app/blobs/{layer}", "HEAD").again()


def test_a_body_that_is_not_the_stored_one_is_not_the_plans(toy):
    seen = toy.ask("/notes/a?body=other")
    assert seen.body == b"other"
    assert seen.plan.body != seen.body  # so the server keeps none (serve/plans.py)


# Credentials.


@pytest.fixture
def guarded(make_app, tmp_path, monkeypatch):
    for place in ("users.CHECK_SECONDS", "tokens.FRESH_SECONDS", "signing.LOOK_SECONDS"):  # a busy machine makes none of them pass
        monkeypatch.setattr(f"noraflask.services.auth.{place}", 60.0)
    app = make_app(auth={"users": {"ann": "ann"}}, audit={"mode": "file"})
    client = app.test_client()
    registry = Registry(client)
    client.environ_base["HTTP_AUTHORIZATION"] = basic("ann", "ann")
    registry.push_image("app", "1")
    return SimpleNamespace(app=app, planner=Planner(app), services=app.services, folder=tmp_path)


def with_token(guarded: Any) -> tuple[str, Seen]:
    token, record = guarded.services.tokens.mint("ann", "read", 3600)
    return record.id, guarded.planner.ask("/v2/app/manifests/1", Authorization=bearer(token))


def test_a_token_that_is_revoked_ends_it(guarded):
    id, seen = with_token(guarded)
    assert (seen.status, seen.again()) == (200, True)
    guarded.services.tokens.revoke(id)
    assert not seen.again()


def test_each_use_of_a_token_is_noted(guarded):
    id, seen = with_token(guarded)
    guarded.services.tokens._used.clear()
    assert seen.again()
    assert id in guarded.services.tokens._used


def test_a_login_that_is_due_to_be_noted_is_a_login(guarded):
    """A quarter of an hour later it is told of again in the audit log."""
    seen = with_token(guarded)[1]
    guarded.services.logins.seen.clear()
    assert not seen.again()


def test_a_credential_is_looked_at_as_a_whole_again_after_a_minute(guarded):
    seen = with_token(guarded)[1]
    guarded.planner.envelope.scene = guarded.planner.envelope.scene._replace(clock=lambda: time.time() + 61)
    assert seen.again()  # its plan was made with the other clock
    later = guarded.planner.ask("/v2/app/manifests/1", Authorization=basic("ann", "ann"))
    assert not later.again()


def test_a_changed_password_ends_it(guarded, monkeypatch):
    seen = guarded.planner.ask("/v2/app/manifests/1", Authorization=basic("ann", "ann"))
    assert seen.again()
    path = guarded.services.logins.users._files[0].path
    path.write_text(f"ann:{hash_password('other', 4)}\n")
    monkeypatch.setattr(guarded.services.logins.users, "_next_check", -1e9)
    guarded.services.logins.users.current()
    assert not seen.again()


@pytest.mark.parametrize("kind", ["password", "token", "signed for a password", "signed for a token"])
@pytest.mark.parametrize("what", ["users", "tokens", "signer"])
def test_what_has_to_be_read_is_not_read_by_the_leading_thread(guarded, monkeypatch, kind, what):
    """A large htpasswd takes a second, and a disk as long as it likes; meanwhile nobody would be answered, not even /health."""
    services = guarded.services
    header = basic("ann", "ann") if kind.endswith("password") else bearer(services.tokens.mint("ann", "read", 3600)[0])
    if kind.startswith("signed"):
        authenticator = services.live.state.authenticator
        principal = authenticator.authenticate({"HTTP_AUTHORIZATION": header, "REMOTE_ADDR": "127.0.0.1"})
        header = bearer(authenticator.issue(principal, "bearer", 300)[0])
    seen = guarded.planner.ask("/v2/app/manifests/1", Authorization=header)
    assert seen.again()
    looked: list[str] = []
    if what == "users":
        monkeypatch.setattr(services.logins.users, "_next_check", -1e9)
        monkeypatch.setattr(type(services.logins.users), "_look", lambda self: looked.append("users"))
    else:
        monkeypatch.setattr(f"noraflask.services.auth.{'tokens.FRESH_SECONDS' if what == 'tokens' else 'signing.LOOK_SECONDS'}", 0.0)
        monkeypatch.setattr(services.tokens, "_load", lambda id: looked.append("tokens"))
        monkeypatch.setattr(services.logins.signer, "_stored", lambda: looked.append("signer") or {})
    rests_on = {"users": True, "tokens": kind.endswith("token"), "signer": kind.startswith("signed")}[what]
    assert (seen.again(), looked) == (not rests_on, [])


def test_a_password_is_not_taken_while_somebody_guesses(guarded, monkeypatch):
    seen = guarded.planner.ask("/v2/app/manifests/1", Authorization=basic("ann", "ann"))
    monkeypatch.setattr(type(guarded.services.logins.lockout), "active", True)
    assert not seen.again()


def test_a_storage_that_fails_ends_it(guarded, monkeypatch):
    seen = with_token(guarded)[1]

    def fail(id):
        raise NotFound()

    monkeypatch.setattr(guarded.services.tokens, "still_known", fail)
    assert not seen.again()


# The gate.


@pytest.fixture
def curated(tmp_path, make_app):
    found = Curated(tmp_path, make_app).fill()
    found.planner = Planner(found.app)
    found.planner.envelope.scene = found.planner.envelope.scene._replace(clock=found.clock)
    return found


def test_ages_ripen(curated):
    """What is too young is asked about each time, and what is old enough is so for good."""
    curated.rules(min_release_age=100, hosted=True)
    assert curated.planner.ask("/v2/app/manifests/2").status == 403
    curated.clock.now = NOW + 200
    assert curated.planner.ask("/v2/app/manifests/2").again()


def test_a_rule_that_ends_or_begins_ends_it(curated):
    curated.rules(table("allow", name="*", version="*", expires=when(100)), block(name="none"))
    seen = curated.planner.ask("/v2/app/manifests/2")
    assert seen.again()
    curated.clock.now = NOW + 101
    assert not seen.again()


def test_a_permit_that_rests_on_the_name_ends_with_any_change_of_it(curated):
    curated.rules(block("1"))
    seen = curated.planner.ask("/v2/app/manifests/2")
    assert seen.again()
    curated.push_image("app", "3", layers=(b"three",))
    assert not seen.again()


def test_other_rules_end_it(curated):
    seen = curated.planner.ask("/v2/app/manifests/2")
    assert seen.again()
    curated.rules(block("2"))
    assert not seen.again()
    assert curated.planner.ask("/v2/app/manifests/2").plan is None


@pytest.mark.parametrize("settings", [{"mode": "audit"}, {"audit_allows": True}])
def test_what_is_told_of_is_told_each_time(curated, settings):
    curated.rules(block("2"), **settings)
    assert curated.planner.ask("/v2/app/manifests/2").plan is None


def test_what_is_bypassed_is_told_each_time(curated):
    token = "b" * 32
    curated.rules(block("2"), bypass_token=token)
    seen = curated.planner.ask("/v2/app/manifests/2", X_Nora_Bypass_Token=token)
    assert (seen.status, seen.plan) == (200, None)


def test_the_ledger_knows_each_reader(curated):
    curated.rules(block("1"))
    seen = curated.planner.ask("/v2/app/manifests/2")
    assert len(curated.ledger()) == 1
    curated.clock.now = NOW + 601  # the same is recorded once in ten minutes
    seen.again()
    assert len(curated.ledger()) == 2


# Limits, metrics, log.


@pytest.fixture
def limited(make_app):
    app = make_app(rate_limit={"enabled": True, "upload_rps": 1, "upload_burst": 20}, metrics={"enabled": True})
    Registry(app.test_client()).push_image("app", "1")
    return Planner(app)


def test_each_answer_takes_its_token(limited, monkeypatch):
    monkeypatch.setattr(limited.app.services.limits._here.buckets, "_clock", Clock(10**18).__call__)
    seen = limited.ask("/v2/app/manifests/1")
    left = int(dict(seen.plan.varying)["x-ratelimit-remaining"])
    for number in range(1, left + 1):
        turn = seen.plan.again("")
        assert turn.values[1] == str(left - number)
        turn.done()
    assert seen.plan.again("") is None
    assert limited.app.test_client().get("/v2/app/manifests/1").status_code == 429


def samples(planner: Planner) -> dict[tuple[str, ...], float]:
    """All but what tells of times, of storage and of plans."""
    found = {}
    for family in planner.app.services.metrics.collect():
        if family.name.startswith(("nora_storage", "nora_http_repeated")):
            continue
        for sample in family.samples:
            if not sample.name.endswith(("_sum", "_bucket")):
                found[(sample.name, *map(str, sample.labels.items()))] = sample.value
    return found


@pytest.mark.parametrize(("method", "headers"), [("GET", {}), ("HEAD", {}), ("GET", {"Range": "bytes=0-9"}), ("GET", {"If_None_Match": "*"})])
def test_each_answer_is_counted_as_if_it_had_been_run(limited, method, headers):
    def growth(act: Callable[[], Any]) -> dict[Any, float]:
        before = samples(limited)
        act()
        return {name: value - before.get(name, 0) for name, value in samples(limited).items() if value != before.get(name, 0)}

    seen = limited.ask("/v2/app/manifests/1", method, **headers)
    run = growth(lambda: limited._once("/v2/app/manifests/1", method, headers))
    assert growth(seen.again) == run
    assert any(name[0] == "nora_http_requests_total" for name in run)


def test_while_nobody_reads_the_log_requests_are_run(limited, monkeypatch):
    """The leading thread must not wait for stdout; those that run requests may."""
    seen = limited.ask("/v2/app/manifests/1")
    if seen.plan._scene.events is None:
        seen.plan._scene = seen.plan._scene._replace(events=EventLog(LoggingConfig()))
    seen.plan._line = seen.plan._scene.events.line_of({"ms": 1.0, "request_id": "x"}, ("ms", "request_id"))
    before = samples(limited)
    monkeypatch.setattr(EventLog, "can_hold", lambda self: False)
    assert seen.plan.again("") is None
    assert samples(limited) == before
    monkeypatch.setattr(EventLog, "can_hold", lambda self: True)
    assert seen.plan.again("") is not None


def test_an_answer_that_goes_on_later_is_counted_as_any_other(limited):
    seen = limited.ask("/v2/app/manifests/1")
    before = samples(limited)
    turn = seen.plan.again("")
    turn.goes_on()
    in_flight = ("nora_http_requests_in_flight",)
    assert samples(limited)[in_flight] == before[in_flight] + 1
    turn.ended("the client is gone", 17)
    after = samples(limited)
    assert after[in_flight] == before[in_flight]
    sent = ("nora_http_response_bytes_total", "('registry', 'docker')")
    cut = ("nora_http_responses_cut_total", "('registry', 'docker')")
    assert (after[sent] - before[sent], after[cut] - before[cut]) == (17, 1)


def test_without_limits_the_id_alone_varies(registry):
    assert [name for name, _ in ask(registry, "/v2/app/manifests/1").plan.varying] == ["X-Request-Id"]
