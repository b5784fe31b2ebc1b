"""Rate limits as clients meet them: which requests count where, and what a refusal looks like in each format."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask

from noraflask.app import ServedRegistry
from noraflask.services.limits.bucket import TICKS
from tests.clock import Clock

from .access import basic, words_of

TIERS = {"auth": 2, "upload": 3, "general": 4}
"""Bursts in these tests; a second brings one more."""
LIMITS = {"enabled": True} | {f"{tier}_{key}": value for tier, burst in TIERS.items() for key, value in (("burst", burst), ("rps", 1))}
FORGED = "203.0.113.9"

Ask = Callable[..., Any]


@pytest.fixture
def limited(make_app: Callable[..., Flask]) -> Flask:
    return make_app(rate_limit=LIMITS)


@pytest.fixture
def clock(limited: Flask) -> Clock:
    return stop_time(limited)


@pytest.fixture
def ask(limited: Flask) -> Ask:
    return asker(limited)


def stop_time(app: Flask) -> Clock:
    clock = Clock(1000.0)
    app.services.limits._here.buckets._clock = lambda: round(clock.now * TICKS)  # type: ignore[attr-defined]
    return clock


def asker(app: Flask) -> Ask:
    client = app.test_client()
    return lambda path="/v2/", method="GET", **more: client.open(path, method=method, **more)


def passed(ask: Ask, tries: int = 10, **request: Any) -> int:
    return sum(ask(**request).status_code != 429 for _ in range(tries))


@pytest.mark.parametrize(
    ("path", "method", "tier"),
    [
        ("/v2/", "GET", "upload"),
        ("/v2", "GET", "upload"),
        ("/v2/token", "GET", "upload"),
        ("/v2/_catalog", "GET", "upload"),
        ("/v2/a/blobs/uploads/", "POST", "upload"),
        ("/v2/a/manifests/1", "HEAD", "upload"),
        ("/v2/a/manifests/1", "PUT", "upload"),
        ("/v2/a/manifests/1", "DELETE", "upload"),
        ("/v2/nothing/of/the/kind", "PROPFIND", "upload"),
        ("/v2x", "GET", "general"),
        ("/", "GET", "general"),
        ("/favicon.ico", "GET", "general"),
        ("/api/v1/whoami", "GET", "general"),
        ("/api/v1/token/exchange", "POST", "general"),
        ("/api/v1/admin/tokens", "POST", "general"),
        ("/api/tokens", "GET", "general"),
        ("/api/tokens/listed", "POST", "general"),
        ("/api/tokens", "POST", "auth"),
        ("/api/tokens/", "POST", "general"),
        ("/api/tokens/list", "POST", "auth"),
        ("/api/tokens/revoke", "POST", "auth"),
        ("/api/tokens/rotate", "POST", "auth"),
        ("/health", "POST", "general"),
        ("/healthy", "GET", "general"),
    ],
)
def test_what_counts_where(path, method, tier, ask, clock):
    assert passed(ask, path=path, method=method) == TIERS[tier]
    clock.now += 2
    answer = ask(path, method)
    assert answer.status_code != 429
    assert answer.headers["x-ratelimit-limit"] == str(TIERS[tier])
    assert answer.headers["x-ratelimit-remaining"] == "1"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_what_watches_the_server_is_free(path, method, ask):
    answers = [ask(path, method) for _ in range(50)]
    assert {answer.status_code for answer in answers} <= {200, 404}
    assert "x-ratelimit-limit" not in answers[0].headers


def test_requests_for_tokens_count_as_general_ones_too(ask, clock):
    assert passed(ask, path="/api/tokens", method="POST") == 2
    assert passed(ask, path="/") == 0, "all ten counted"
    assert passed(ask) == 3, "the tiers are apart"


def test_every_route_of_the_server_has_a_tier(limited):
    """Whatever is added: it counts, or it is one of the three that are free."""
    ask = asker(limited)
    stop_time(limited)
    for rule in limited.url_map.iter_rules():
        path = (
            rule.rule.replace("<path:name>", "a")
            .replace("<file:name>", "a")
            .replace("<folder:folder>", "a")
            .replace("<repository>", "docker")
            .replace("/.docker", "/v2", 1)
            .replace("/.raw", "/raw", 1)
            .replace("<digest>", "sha256:" + "0" * 64)
            .replace("<reference>", "1")
            .replace("<session>", "x")
            .replace("<client>", "docker")
        )
        assert "<" not in path, rule
        limited.services.limits._here.buckets.reset()  # type: ignore[attr-defined]
        method = sorted(rule.methods or {"GET"})[0]
        counted = "x-ratelimit-limit" in ask(path, method).headers
        assert counted == (path not in ("/health", "/ready", "/metrics")), rule


def test_a_refusal_by_the_docker_format(ask, clock):
    passed(ask, 3)
    answer = ask("/v2/a/manifests/1")
    assert answer.status_code == 429
    message = "too many requests from this address (upload: 1 a second, 3 at once); try again in 1 second"
    detail = {"tier": "upload", "retry_after_seconds": 1}
    assert json.loads(answer.data) == {"errors": [{"code": "TOOMANYREQUESTS", "message": message, "detail": detail}]}
    assert answer.mimetype == "application/json"
    assert answer.headers["Docker-Distribution-Api-Version"] == "registry/2.0"


def test_a_refusal_below_api_is_json(ask, clock):
    passed(ask, 4, path="/api/v1/whoami")
    answer = ask("/api/v1/whoami")
    assert (answer.status_code, answer.mimetype) == (429, "application/json")
    assert json.loads(answer.data)["error"] == "too many requests from this address (general: 1 a second, 4 at once); try again in 1 second"


def test_a_refusal_elsewhere_is_text(ask, clock):
    passed(ask, 4, path="/")
    answer = ask("/")
    assert (answer.status_code, answer.mimetype) == (429, "text/plain")
    assert answer.text == "too many requests from this address (general: 1 a second, 4 at once); try again in 1 second\n"


@pytest.mark.parametrize("path", ["/v2/", "/", "/api/tokens"])
def test_the_headers_of_a_refusal(path, ask, clock):
    for _ in range(5):
        answer = ask(path, "POST" if path == "/api/tokens" else "GET")
    burst = answer.headers["x-ratelimit-limit"]
    assert {name: answer.headers.getlist(name) for name in ("Retry-After", "x-ratelimit-after", "RateLimit-Reset")} == {
        name: ["1"] for name in ("Retry-After", "x-ratelimit-after", "RateLimit-Reset")
    }
    assert {name: answer.headers.getlist(name) for name in ("x-ratelimit-remaining", "RateLimit-Remaining")} == {
        name: ["0"] for name in ("x-ratelimit-remaining", "RateLimit-Remaining")
    }
    assert [answer.headers.getlist(name) for name in ("x-ratelimit-limit", "RateLimit-Limit")] == [[burst], [burst]]
    assert answer.headers["X-Request-Id"]


def test_who_waits_as_long_as_it_was_told_passes(ask, clock):
    for _ in range(20):
        answer = ask()
        if answer.status_code == 429:
            clock.now += int(answer.headers["Retry-After"])
            assert ask().status_code == 200


def test_no_password_is_looked_at_for_a_request_that_is_refused(make_app, monkeypatch):
    app = make_app(rate_limit=LIMITS, auth={"users": {"ann": "hers"}})
    stop_time(app)
    looked: list[object] = []
    monkeypatch.setattr(app.services.live.state.authenticator, "authenticate", looked.append)
    ask = asker(app)
    passed(ask, 3)
    looked.clear()
    assert ask(headers={"Authorization": basic("ann", "wrong")}).status_code == 429
    assert looked == []


def test_the_body_of_a_request_that_is_refused_is_not_read(ask, clock):
    passed(ask, 3)
    body = io.BytesIO(b"x" * 1000)
    answer = ask("/v2/a/blobs/uploads/x", "PATCH", environ_overrides={"wsgi.input": body, "CONTENT_LENGTH": "1000"})
    assert (answer.status_code, body.tell()) == (429, 0)


def test_off_there_are_no_limits_and_no_headers(make_app):
    ask = asker(make_app(rate_limit=LIMITS | {"enabled": False}))
    assert passed(ask, 50) == 50
    assert "x-ratelimit-limit" not in ask().headers


# Who is a client.


def via(ask: Ask, peer: str, forwarded: str | None = None, tries: int = 10) -> int:
    headers = {} if forwarded is None else {"X-Forwarded-For": forwarded}
    return passed(ask, tries, headers=headers, environ_base={"REMOTE_ADDR": peer})


def test_each_client_of_a_trusted_proxy_has_its_own_count(ask, clock):
    assert [via(ask, "127.0.0.1", f"192.0.2.{number}") for number in range(5)] == [3] * 5
    assert via(ask, "::1", "192.0.2.1") == 0, "the same client by another proxy"
    assert via(ask, "127.0.0.1") == 3, "the proxy itself"


def test_what_an_untrusted_peer_says_of_itself_changes_nothing(ask, clock):
    assert via(ask, "198.51.100.7", "192.0.2.1", 2) == 2
    assert via(ask, "198.51.100.7", FORGED) == 1
    assert via(ask, "127.0.0.1", "192.0.2.1") == 3, "whose address it had taken"
    for name in ("X-Real-IP", "Forwarded", "X-Client-IP", "CF-Connecting-IP"):
        headers = {name: f"for={FORGED}" if name == "Forwarded" else FORGED}
        assert ask(headers=headers, environ_base={"REMOTE_ADDR": "198.51.100.7"}).status_code == 429


def test_what_a_client_writes_before_it_reaches_the_proxy_changes_nothing(ask, clock):
    """The rightmost address that is no trusted proxy is the one that a proxy of ours has seen."""
    assert sum(via(ask, "127.0.0.1", f"203.0.113.{number}, 192.0.2.1", 1) for number in range(10)) == 3
    assert via(ask, "127.0.0.1", "203.0.113.1, 192.0.2.1, 127.0.0.1") == 0, "through two proxies of ours"
    assert via(ask, "127.0.0.1", "192.0.2.1, 203.0.113.1") == 3


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("2001:db8::1", "2001:db8::2:3:4:5", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("[2001:db8::1]:4711", "2001:db8::9", True),
        ("192.0.2.1:4711", "192.0.2.1:4712", True),
    ],
)
def test_a_client_is_an_address_or_a_64th_of_ipv6(first, second, same, ask, clock):
    assert via(ask, "127.0.0.1", first) == 3
    assert via(ask, "127.0.0.1", second) == (0 if same else 3)


# Taken over while running.


def test_a_reload_brings_new_limits(limited, ask, clock, monkeypatch):
    assert passed(ask) == 3
    for name, value in {
        "NORA_RATE_LIMIT_UPLOAD_BURST": "7",
        "NORA_RATE_LIMIT_UPLOAD_RPS": "10",
        "NORA_RATE_LIMIT_STORAGE_URL": "redis://:pw@r",
    }.items():
        monkeypatch.setenv(name, value)
    served = ServedRegistry(limited)  # type: ignore[arg-type]
    snapshot, data = served.read_again()
    assert "pw" not in repr(snapshot) + str(vars(snapshot.config.rate_limit))
    served.adopt(snapshot, data)
    clock.now += 3
    answer = ask()
    assert (answer.headers["x-ratelimit-limit"], answer.headers["x-ratelimit-remaining"]) == ("7", "6")
    monkeypatch.setenv("NORA_RATE_LIMIT_ENABLED", "false")
    served.adopt(*served.read_again())
    assert passed(ask, 20) == 20


def test_a_refusal_is_told_once_with_the_message_of_its_tier(ask, clock):
    passed(ask, 9, path="/api/tokens", method="POST", json={})
    clock.now += 1
    answer = [ask("/api/tokens", "POST", json={}) for _ in range(2)][-1]
    assert words_of(answer).startswith("too many requests from this address (general")
