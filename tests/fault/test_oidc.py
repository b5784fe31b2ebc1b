"""Keys of an OIDC issuer: rotation, floods, outages, slowness, and answers that are no keys."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from itertools import pairwise

import pytest

from noraflask.errors import StorageReadOnly
from noraflask.http_client import Bounds
from noraflask.services.auth import discovery, issuer_keys
from noraflask.services.auth.oidc import Oidc, OidcRefused
from noraflask.services.documents import Documents
from noraflask.storage.memory import MemoryStorage
from tests.clock import Clock
from tests.oidc import DISCOVERY, JWKS, Issuer, private_key, sign
from tests.server import free_port, wait_until

START = 1_800_000_000.0


@pytest.fixture
def clock():
    return Clock(START)


@pytest.fixture
def issuer(clock):
    with Issuer(clock=clock) as running:
        yield running


@pytest.fixture
def documents():
    return Documents(MemoryStorage())


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def worker(issuer, clock, documents=None, **changes):
    return Oidc((issuer.provider(**changes),), 60, 3600, documents, clock)


def keys_of(oidc):
    return next(iter(oidc._keys.values()))


def settle(oidc):
    """Until no fetch runs."""
    wait_until(lambda: not keys_of(oidc)._fetching, 20, "the fetch to end")


def refusal(oidc, token):
    with pytest.raises(OidcRefused) as caught:
        oidc.verify(token)
    return caught.value.reason


# Fetches: when, and how many.


def test_keys_are_fetched_once_and_stay_for_their_time(issuer, clock):
    oidc = worker(issuer, clock)
    assert not issuer.requests
    oidc.start()
    wait_until(issuer.count, 20, "the fetch at the start")
    for _ in range(3):
        oidc.verify(issuer.token())
    clock.now += 3599
    oidc.verify(issuer.token())
    settle(oidc)
    assert (issuer.count(), issuer.count(DISCOVERY)) == (1, 1)
    clock.now += 1
    oidc.verify(issuer.token())
    settle(oidc)
    assert issuer.count() == 2


@pytest.mark.parametrize(("header", "seconds"), [
    ("public, max-age=300", 300), ("max-age=1", 60), ("max-age=0, no-store", 60), ("max-age=9999", 3600), ("s-maxage=5", 3600), ("max-age=x", 3600),
])  # fmt: skip
def test_cache_control_may_shorten_the_time(issuer, clock, header, seconds):
    issuer.headers["Cache-Control"] = header
    oidc = worker(issuer, clock)
    oidc.verify(issuer.token())
    settle(oidc)
    clock.now += seconds - 1
    oidc.verify(issuer.token())
    settle(oidc)
    assert issuer.count() == 1
    clock.now += 1
    oidc.verify(issuer.token())
    settle(oidc)
    assert issuer.count() == 2


def test_a_new_key_in_mid_run_leads_to_one_fetch(issuer, clock):
    oidc = worker(issuer, clock)
    old = issuer.token()
    oidc.verify(old)
    issuer.rotate()
    for _ in range(3):
        oidc.verify(issuer.token())
        oidc.verify(old)
    assert issuer.count() == 2


def test_a_key_that_is_new_while_a_fetch_ends_is_fetched_too(issuer, clock):
    """The fetch that a request finds running may have got its answer before the key was published."""
    stored, may_end = threading.Event(), threading.Event()

    class Slow(MemoryStorage):
        def replace(self, key, source):
            stored.set()
            may_end.wait(20)

    oidc = worker(issuer, clock, Documents(Slow()))
    oidc.verify(issuer.token())
    assert stored.wait(20)
    issuer.rotate()
    results = []
    asking = threading.Thread(target=lambda: results.append(oidc.verify(issuer.token()).name))
    asking.start()
    wait_until(lambda: keys_of(oidc)._waiting, 20, "the request to wait")
    may_end.set()
    asking.join(20)
    assert results == ["repo:team/app"]


def test_a_key_that_is_withdrawn_is_gone_with_the_next_fetch(issuer, clock):
    oidc = worker(issuer, clock)
    old = issuer.token()
    oidc.verify(old)
    issuer.rotate(keep=False)
    oidc.verify(issuer.token())
    assert refusal(oidc, old) == "jwks"


def test_a_flood_of_unknown_keys_leads_to_one_fetch(issuer, clock):
    oidc = worker(issuer, clock)
    oidc.verify(issuer.token())
    stranger = private_key("ec", 99)
    for number in range(200):
        forged = sign({"alg": "ES256", "kid": f"forged-{number}"}, issuer.claims(), stranger, "ES256")
        assert refusal(oidc, forged) == "jwks"
    settle(oidc)
    assert issuer.count() == 2
    oidc.verify(issuer.token())
    clock.now += 10
    issuer.rotate()
    oidc.verify(issuer.token())
    assert issuer.count() == 3


def test_a_token_without_kid_forces_no_fetch(issuer, clock):
    oidc = worker(issuer, clock)
    oidc.verify(issuer.token(header={"kid": None}))
    settle(oidc)
    issuer.rotate()
    oidc.verify(issuer.token())
    settle(oidc)
    before = issuer.count()
    clock.now += 100
    assert refusal(oidc, issuer.token(header={"kid": None})) == "jwks"
    settle(oidc)
    assert issuer.count() == before


def test_workers_share_what_one_has_fetched(issuer, clock, documents):
    first, second = worker(issuer, clock, documents), worker(issuer, clock, documents)
    first.verify(issuer.token())
    settle(first)
    second.verify(issuer.token())
    assert issuer.count() == 1
    issuer.rotate()
    clock.now += 1
    first.verify(issuer.token())
    settle(first)
    clock.now += 30
    second.verify(issuer.token())
    settle(second)
    assert issuer.count() == 2
    document = json.loads(documents.read(hashlib.sha256(issuer.url.encode()).hexdigest()))
    assert (document["fetched"], document["jwks"]) == (START + 1, issuer.jwks())


def test_a_flood_at_two_workers_leads_to_one_fetch(issuer, clock, documents):
    first, second = worker(issuer, clock, documents), worker(issuer, clock, documents)
    for oidc in (first, second):
        oidc.verify(issuer.token())
        settle(oidc)
    clock.now += 30
    for oidc in (first, second):
        assert refusal(oidc, issuer.token(header={"kid": "other"})) == "jwks"
        settle(oidc)
    assert issuer.count() == 2


# Outages.


def test_keys_go_on_being_used_while_the_issuer_is_down(issuer, clock, caplog):
    caplog.set_level(logging.INFO, "noraflask")
    oidc = worker(issuer, clock)
    oidc.verify(issuer.token())
    settle(oidc)
    issuer.down()
    for _ in range(5):
        clock.now += 4000
        oidc.verify(issuer.token())
        settle(oidc)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert issuer.url in caplog.text
    issuer.up()
    clock.now += 4000
    oidc.verify(issuer.token())
    settle(oidc)
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "gives its keys again" in caplog.records[1].getMessage()


def test_a_restart_during_an_outage_works_with_stored_keys(issuer, clock, documents):
    first = worker(issuer, clock, documents)
    first.verify(issuer.token())
    settle(first)
    issuer.down()
    clock.now += 86400
    second = worker(issuer, clock, documents)
    second.start()
    second.verify(issuer.token())
    assert refusal(worker(issuer, clock), issuer.token()) == "jwks"


def test_keys_stored_for_another_address_or_from_the_future_are_not_used(issuer, clock, documents):
    first = worker(issuer, clock, documents)
    first.verify(issuer.token())
    settle(first)
    issuer.down()
    assert refusal(worker(issuer, clock, documents, jwks_uri=issuer.url + "/others"), issuer.token()) == "jwks"
    clock.now -= 4000
    held = worker(issuer, clock, documents)
    held.verify(issuer.token())
    settle(held)
    assert keys_of(held)._failures == 1, "taken for fresh although the clock says that they are not fetched yet"


@pytest.mark.parametrize("document", [b"", b"[]", b"{", b'{"fetched": "x", "max_age": null, "jwks_uri": null, "jwks": {"keys": []}}', b"\xff", b"{}"])
def test_a_stored_document_that_cannot_be_read_is_as_none(issuer, clock, documents, document):
    documents.replace(hashlib.sha256(issuer.url.encode()).hexdigest(), document)
    worker(issuer, clock, documents).verify(issuer.token())
    assert issuer.count() == 1


def test_storage_that_fails_costs_only_the_sharing(issuer, clock, caplog):
    class Broken(MemoryStorage):
        def replace(self, key, source):
            raise StorageReadOnly

        def whole(self, key):
            raise OSError(5, "Input/output error")

    oidc = worker(issuer, clock, Documents(Broken()))
    oidc.verify(issuer.token())
    settle(oidc)
    oidc.verify(issuer.token())
    assert "could not be stored: StorageReadOnly" in caplog.text


def test_after_failures_the_issuer_is_asked_less_and_less(issuer, clock):
    issuer.down(500)
    oidc = worker(issuer, clock)
    tries = []
    while len(tries) < 10:
        asked = len(issuer.requests)
        assert refusal(oidc, issuer.token()) == "jwks"
        settle(oidc)
        if len(issuer.requests) > asked:
            tries.append(clock.now)
        clock.now += 5
    assert [later - sooner for sooner, later in pairwise(tries)] == [5, 10, 20, 40, 80, 160, 300, 300, 300]
    issuer.up()
    clock.now += 300
    oidc.verify(issuer.token())


def test_a_slow_issuer_takes_few_threads(issuer, clock, monkeypatch):
    issuer.slow(30)
    oidc = worker(issuer, clock)
    results = []
    waiting = [threading.Thread(target=lambda: results.append(oidc.verify(issuer.token()).name)) for _ in range(issuer_keys.MAX_WAITING)]
    for thread in waiting:
        thread.start()
    wait_until(lambda: keys_of(oidc)._waiting == issuer_keys.MAX_WAITING, 10, "all of them to wait")
    monkeypatch.setattr(issuer_keys, "WAIT_SECONDS", 3600)  # one that waited now would hang here
    for _ in range(20):
        assert refusal(oidc, issuer.token()) == "jwks"
    assert not results
    issuer.slow(0)
    for thread in waiting:
        thread.join(20)
    assert results == ["repo:team/app"] * issuer_keys.MAX_WAITING
    assert issuer.count() == 1


def test_a_request_waits_for_a_while_only(issuer, clock, monkeypatch):
    monkeypatch.setattr(issuer_keys, "WAIT_SECONDS", 0.05)
    issuer.slow(30)
    oidc = worker(issuer, clock)
    assert refusal(oidc, issuer.token()) == "jwks"
    assert keys_of(oidc)._fetching
    assert keys_of(oidc)._waiting == 0


def test_a_slow_issuer_delays_nobody_whose_key_is_known(issuer, clock, monkeypatch):
    oidc = worker(issuer, clock)
    oidc.verify(issuer.token())
    settle(oidc)
    monkeypatch.setattr(issuer_keys, "WAIT_SECONDS", 3600)
    issuer.slow(30)
    clock.now += 3600
    oidc.verify(issuer.token())
    assert keys_of(oidc)._fetching


def test_an_issuer_that_says_nothing_is_given_up(issuer, clock, monkeypatch, caplog):
    monkeypatch.setattr(discovery, "BOUNDS", Bounds(read_seconds=0.05))
    issuer.slow(30)
    oidc = worker(issuer, clock)
    assert refusal(oidc, issuer.token()) == "jwks"
    assert "timed out" in caplog.text


# Answers.


def ok(document):
    return 200, {}, document if isinstance(document, bytes) else json.dumps(document).encode()


BAD_ANSWERS = {
    "discovery names another issuer": (DISCOVERY, lambda i: ok({"issuer": i.url + "/", "jwks_uri": i.url + JWKS})),
    "discovery without issuer": (DISCOVERY, lambda i: ok({"jwks_uri": i.url + JWKS})),
    "discovery without jwks_uri": (DISCOVERY, lambda i: ok({"issuer": i.url})),
    "jwks_uri a list": (DISCOVERY, lambda i: ok({"issuer": i.url, "jwks_uri": [i.url + JWKS]})),
    "jwks_uri a file": (DISCOVERY, lambda i: ok({"issuer": i.url, "jwks_uri": "file:///etc/hostname"})),
    "jwks_uri with a name": (DISCOVERY, lambda i: ok({"issuer": i.url, "jwks_uri": i.url.replace("//", "//me:secret@") + JWKS})),
    "discovery 500": (DISCOVERY, lambda i: (500, {}, b"")),
    "discovery redirects": (DISCOVERY, lambda i: (302, {"Location": i.url + "/elsewhere"}, b"")),
    "keys redirect": (JWKS, lambda i: (307, {"Location": i.url + "/elsewhere"}, b"")),
    "keys 404": (JWKS, lambda i: (404, {}, b"")),
    "keys 204": (JWKS, lambda i: (204, {}, b"")),
    "no JSON": (JWKS, lambda i: ok(b"<html>")),
    "no key set": (JWKS, lambda i: ok({"kty": "RSA"})),
    "a member twice": (JWKS, lambda i: ok(b'{"keys": [], ' + json.dumps(i.jwks()).encode()[1:])),
    "too large": (JWKS, lambda i: ok({**i.jwks(), "more": "x" * discovery.BOUNDS.max_bytes})),
    "cut off": (JWKS, lambda i: (200, {"Content-Length": "99999"}, json.dumps(i.jwks()).encode())),
    "nested": (JWKS, lambda i: ok(b"[" * 100000)),
}


@pytest.mark.parametrize(("path", "make"), BAD_ANSWERS.values(), ids=BAD_ANSWERS.keys())
def test_an_answer_that_is_no_keys_is_a_failure(issuer, clock, caplog, path, make):
    issuer.answers[path] = make(issuer)
    issuer.answers["/elsewhere"] = ok(issuer.jwks())
    oidc = worker(issuer, clock)
    assert refusal(oidc, issuer.token()) == "jwks"
    settle(oidc)
    assert "no keys from the OIDC issuer" in caplog.text
    assert not any(word in caplog.text for word in ("secret", "AttributeError", "TypeError"))
    issuer.answers.clear()
    clock.now += 5
    oidc.verify(issuer.token())


def test_a_bad_answer_does_not_displace_good_keys(issuer, clock):
    oidc = worker(issuer, clock)
    oidc.verify(issuer.token())
    settle(oidc)
    issuer.answers[JWKS] = ok(b"oops")
    clock.now += 3600
    oidc.verify(issuer.token())
    settle(oidc)
    oidc.verify(issuer.token())
    assert issuer.count() == 2


def test_an_issuer_without_discovery_has_its_keys_at_the_usual_place(issuer, clock):
    issuer.answers = {DISCOVERY: (404, {}, b""), "/.well-known/jwks.json": ok(issuer.jwks())}
    worker(issuer, clock).verify(issuer.token())
    assert [path for path, _ in issuer.requests] == [DISCOVERY, "/.well-known/jwks.json"]


def test_a_configured_address_needs_no_discovery(issuer, clock):
    worker(issuer, clock, jwks_uri=issuer.url + JWKS).verify(issuer.token())
    assert [path for path, _ in issuer.requests] == [JWKS]


# The way to the issuer.


def test_the_bearer_token_is_read_each_time_and_stays_with_the_issuer(issuer, clock, tmp_path, caplog):
    file = tmp_path / "bearer"
    with Issuer(clock=clock) as other:
        other.answers[JWKS] = ok(issuer.jwks())
        issuer.answers[DISCOVERY] = ok({"issuer": issuer.url, "jwks_uri": other.url + JWKS})
        oidc = worker(issuer, clock, bearer_token_file=file)
        for secret in ("first-secret", "second-secret"):
            file.write_text(secret + "\n")
            oidc.verify(issuer.token())
            settle(oidc)
            clock.now += 3600
            oidc.verify(issuer.token())
            settle(oidc)
        sent = [headers.get("Authorization") for _, headers in issuer.requests]
        assert sent[0] == "Bearer first-secret"
        assert sent[-1] == "Bearer second-secret"
        assert [headers.get("Authorization") for _, headers in other.requests] == [None] * other.count()
    assert "secret" not in caplog.text


@pytest.mark.parametrize("data", [b"", b"two words-secret", b"secret\r\nX-Other: 1", b"\xff\xfesecret"])
def test_a_bearer_file_that_holds_no_token_is_told_without_its_text(issuer, clock, tmp_path, caplog, data):
    file = tmp_path / "bearer"
    file.write_bytes(data)
    assert refusal(worker(issuer, clock, bearer_token_file=file), issuer.token()) == "jwks"
    assert "bearer_token_file holds no token" in caplog.text
    assert "secret" not in caplog.text
    assert not issuer.requests


def test_a_private_ca_is_trusted_when_it_is_configured(clock, tmp_path, caplog):
    with Issuer(tls=tmp_path, clock=clock) as issuer:
        assert refusal(worker(issuer, clock, ca_file=None), issuer.token()) == "jwks"
        assert "CERTIFICATE_VERIFY_FAILED" in caplog.text
        assert refusal(worker(issuer, clock, ca_file=tmp_path / "absent"), issuer.token()) == "jwks"
        assert not issuer.requests
        worker(issuer, clock).verify(issuer.token())


def test_keys_of_an_https_issuer_are_not_fetched_in_the_clear(clock, tmp_path, caplog):
    with Issuer(tls=tmp_path, clock=clock) as issuer:
        issuer.answers[DISCOVERY] = ok({"issuer": issuer.url, "jwks_uri": "http://issuer.example/keys"})
        assert refusal(worker(issuer, clock), issuer.token()) == "jwks"
        assert 'MUST use "https"' in caplog.text


def test_a_proxy_is_used_unless_the_host_is_exempt(issuer, clock, monkeypatch):
    with Issuer(clock=clock) as proxy:
        proxy.answers = {issuer.url + DISCOVERY: ok({"issuer": issuer.url, "jwks_uri": issuer.url + JWKS}), issuer.url + JWKS: ok(issuer.jwks())}
        monkeypatch.setenv("http_proxy", proxy.url.replace("//", "//me:pass%40word@"))
        worker(issuer, clock).verify(issuer.token())
        assert not issuer.requests
        assert [path for path, _ in proxy.requests] == [issuer.url + DISCOVERY, issuer.url + JWKS]
        assert proxy.requests[0][1]["Proxy-Authorization"] == "Basic bWU6cGFzc0B3b3Jk"
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        worker(issuer, clock).verify(issuer.token())
        assert len(issuer.requests) == len(proxy.requests) == 2


def test_a_proxy_that_is_down_is_told_without_its_password(issuer, clock, monkeypatch, caplog):
    monkeypatch.setenv("http_proxy", f"http://me:secret@127.0.0.1:{free_port()}")
    assert refusal(worker(issuer, clock), issuer.token()) == "jwks"
    assert "refused" in caplog.text
    assert "secret" not in caplog.text


def test_one_issuer_that_is_down_does_not_hold_up_another(issuer, clock):
    with Issuer(clock=clock) as other:
        other.down()
        oidc = Oidc((other.provider(name="other"), issuer.provider()), 60, 3600, None, clock)
        oidc.start()
        assert refusal(oidc, other.token()) == "jwks"
        oidc.verify(issuer.token())
