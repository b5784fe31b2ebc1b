"""Logging in as clients do it, the token endpoint, identities of other issuers, failed logins, and what the logs say of all that."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Iterator

import pytest

from noraflask.config import RoleRule
from noraflask.digest import Digest
from noraflask.services.auth.authenticator import Authenticator
from noraflask.services.auth.credentials import Password
from noraflask.services.auth.oidc import Oidc
from noraflask.services.auth.principal import Action, Scope
from tests.conftest import write_htpasswd
from tests.live import change
from tests.oidc import Issuer
from tests.protocol.access import ALL, CONTACT, Authorized, Door, basic, bearer, parse_challenge, rule, words_of
from tests.protocol.oci import Registry, code, image

USERS = {"alice": "pw-alice", "limited": "pw-limited", "zoë": "pä:ss wörd"}
ALICE = basic("alice", "pw-alice")
IMAGE = "repository:team/app:pull,push"
API = ("/api/v1/whoami", "/v2/")


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with Issuer() as found:
        yield found


@pytest.fixture
def make_door(app_with, issuer, tmp_path):
    def make(**auth) -> Door:
        rules = (rule(ALL, users=("alice", "zoë")), rule(ALL, users=("limited",), names=("team/**",)), rule(ALL, groups=("dev",), names=("dev/*",)))
        groups = tmp_path / "groups"
        groups.write_text("dev: alice limited\nops: alice\n")
        provider = issuer.provider(role_rules=(RoleRule("repo:team/*", "write"),), namespace_scope=("team/*",))
        usual = {"users": USERS, "groups_file": groups, "oidc_enabled": True, "oidc_providers": (provider,)}
        return Door(app_with(auth={**usual, **auth}, access={"rules": rules, "contact": CONTACT}, audit={"mode": "file"}))

    return make


@pytest.fixture
def door(make_door, monkeypatch) -> Door:
    """What happens to files and in storage is seen at once."""
    monkeypatch.setattr("noraflask.services.auth.users.CHECK_SECONDS", 0)
    return make_door()


@pytest.fixture
def credentials(door, issuer) -> dict[str, str]:
    return {
        "password": "pw-alice",
        "API token": door.api_token("alice"),
        "JWT": issuer.token(),
        "bearer token": door.bearer_token(ALICE, IMAGE),
    }


def whoami(door: Door, authorization: str | None = None, **more) -> tuple[str, str]:
    answer = door.get("/api/v1/whoami", authorization, **more)
    assert answer.status_code == 200, answer.data
    return answer.json["name"], answer.json["source"]


# The Authorization header.


@pytest.mark.parametrize("scheme", ["Basic", "basic", "BASIC", "bAsIc"])
def test_basic_in_any_letter_case(door, scheme):
    assert whoami(door, basic("alice", "pw-alice", scheme)) == ("alice", "password")
    assert whoami(door, basic("alice", "pw-alice", scheme + " ") + "  ") == ("alice", "password")


KNOWN = {"API token": ("alice", "token"), "JWT": ("repo:team/app", "oidc"), "bearer token": ("alice", "password")}


@pytest.mark.parametrize("kind", KNOWN)
@pytest.mark.parametrize("form", ["Bearer {}", "bearer {}", "BEARER {}", "Bearer   {} ", "{}"])
def test_tokens_as_bearer_in_any_letter_case_and_bare(door, credentials, kind, form):
    """Bare is what cargo and gem send."""
    assert whoami(door, form.format(credentials[kind])) == KNOWN[kind]


@pytest.mark.parametrize("kind", KNOWN)
@pytest.mark.parametrize("user", ["__token__", "oauth2accesstoken", "bob", "alice", "", "a" * 1000])
def test_tokens_as_password_of_any_name(door, credentials, kind, user):
    """What netrc, pip, docker login and image pull secrets can hold."""
    assert whoami(door, basic(user, credentials[kind])) == KNOWN[kind]


@pytest.mark.parametrize("kind", KNOWN)
def test_tokens_in_the_header_of_nuget(door, credentials, kind):
    assert whoami(door, headers={"X-NuGet-ApiKey": credentials[kind]}) == KNOWN[kind]
    assert door.get("/v2/", headers={"X-NuGet-ApiKey": "nra_" + "0" * 32}).status_code == 401


def test_authorization_goes_before_the_header_of_nuget(door, credentials):
    assert whoami(door, ALICE, headers={"X-NuGet-ApiKey": "wrong"}) == ("alice", "password")


def test_names_and_passwords_of_other_letters(door):
    assert whoami(door, basic("zoë", "pä:ss wörd")) == ("zoë", "password")
    assert door.get("/v2/", basic("zoë", "pä")).status_code == 401


@pytest.mark.parametrize("header", [None, "Basic Og==", "basic Og==", "Basic", "Basic "])
def test_no_login_is_anonymous(door, header):
    """skopeo and buildah send an empty one where they know nothing."""
    assert whoami(door, header) == ("anonymous", "anonymous")
    answer = door.get("/v2/", header)
    assert code(answer) == (401, "UNAUTHORIZED")
    assert "error" not in parse_challenge(answer)[1]
    assert door.audit() == []


MALFORMED = {
    "empty": "",
    "colon": ":",
    "no base64": "Basic !!!",
    "base64 and more": "Basic YWxpY2U6cHctYWxpY2U=,x",
    "cut base64": "Basic YWxpY2U6cHctYWxpY2",
    "no colon": "Basic YWxpY2U=",
    "no UTF-8": "Basic " + base64.b64encode(b"\xff\xfe:pw").decode(),
    "no user": basic("", "pw-alice"),
    "bearer alone": "Bearer",
    "bearer and space": "Bearer  ",
    "two tokens": "Bearer a b",
    "other scheme": "Digest username=alice",
    "negotiate": "Negotiate abc=",
    "a word": "secret",
    "no hex": "Bearer nra_" + "g" * 32,
    "short token": "Bearer nra_" + "0" * 31,
    "long token": "Bearer nra_" + "0" * 33,
    "upper-case token": "Bearer nra_" + "A" * 32,
    "unknown token": "Bearer nra_" + "0" * 32,
    "no JWT": "Bearer eyJ.e.e",
    "JWT of nothing": "Bearer e.e.",
    "JWT without key": "Bearer " + base64.urlsafe_b64encode(b'{"alg":"none"}').decode().rstrip("=") + ".e30.",
    "JWT with a key of ours": "Bearer " + base64.urlsafe_b64encode(b'{"alg":"ES256","kid":"nora-0"}').decode().rstrip("=") + ".e30.AAAA",
    "JWT with a key of another type": "Bearer " + base64.urlsafe_b64encode(b'{"alg":"ES256","kid":["nora-0"]}').decode().rstrip("=") + ".e30.AAAA",
    "not ASCII": "Bearer é",
    "large token": "Bearer " + "e" * 1_000_000,
    "large JWT": "Bearer e" + ".".join("a" * 6000 for _ in range(3)),
    "large password": basic("alice", "a" * 1_000_000),
    "large name": basic("a" * 1_000_000, "pw"),
    "zero byte": basic("alice", "pw-alice\0"),
    "wrong password": basic("alice", "pw"),
    "wrong letter case": basic("Alice", "pw-alice"),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_what_is_no_good_is_refused_with_words(door, kind):
    for path in API:
        answer = door.get(path, MALFORMED[kind])
        assert answer.status_code == 401
        assert 10 < len(words_of(answer)) < 300
    assert code(answer) == (401, "UNAUTHORIZED")
    scheme, parts = parse_challenge(answer)
    assert (scheme, parts["error"]) == ("Bearer", "invalid_token")
    assert parse_challenge(door.get("/api/v1/whoami", MALFORMED[kind]))[0] == "Basic"


def test_wrong_credentials_are_refused_also_where_all_may_read(make_door):
    door = make_door(docker_anon_pull=True, anonymous_read=True)
    assert door.get("/v2/team/app/tags/list").status_code == 404
    for header in ("Bearer nra_" + "0" * 32, basic("alice", "wrong"), "Basic !"):
        assert door.get("/v2/team/app/tags/list", header).status_code == 401
        assert door.get("/v2/token", header).status_code == 401


def test_the_ones_that_are_gone_and_unknown_are_told_the_same(door):
    """Nobody learns from the answer which users there are."""
    answers = [door.get("/v2/", basic(user, "wrong")) for user in ("alice", "nobody")]
    assert answers[0].data == answers[1].data
    assert answers[0].headers["WWW-Authenticate"] == answers[1].headers["WWW-Authenticate"]


# Who one is, and what one may.


def test_whoami_by_source(door, credentials, issuer):
    members = {kind: door.get("/api/v1/whoami", bearer(credentials[kind])).json for kind in KNOWN}
    members["password"] = door.get("/api/v1/whoami", ALICE).json
    members["nobody"] = door.get("/api/v1/whoami").json
    wanted = {
        "password": {"name": "alice", "source": "password", "groups": ["dev", "ops"], "role": None, "provider": None, "expires_at": None},
        "API token": {"name": "alice", "source": "token", "groups": ["dev", "ops"], "role": "write", "provider": None},
        "JWT": {"name": "repo:team/app", "source": "oidc", "groups": [], "role": "write", "provider": "ci"},
        "bearer token": {"name": "alice", "source": "password", "groups": ["dev", "ops"], "role": None},
        "nobody": {"name": "anonymous", "source": "anonymous", "groups": [], "role": None, "token": None, "rights": [], "limits": []},
    }
    for kind, facts in wanted.items():
        assert {name: members[kind][name] for name in facts} == facts, kind
        assert members[kind]["policy"] == door.state.access.policy.fingerprint
    token_id = door.services.tokens.check(credentials["API token"]).id
    assert members["API token"]["token"] == {"id": token_id, "service": False}
    assert all(members[kind]["expires_at"] > 1_700_000_000 for kind in KNOWN)
    assert members["password"]["rights"][0] == {
        "effect": "allow",
        "actions": ["pull", "push", "delete"],
        "repositories": ["*"],
        "names": ["**"],
        "by": "rule 1 (config.toml:1)",
    }
    assert [limit["by"] for limit in members["API token"]["limits"]] == ["the token's role is write"]
    (limit,) = members["bearer token"]["limits"]
    assert limit["scopes"] == [{"actions": ["pull", "push"], "repositories": ["docker"], "names": ["team/app"]}]


def test_explain_tells_the_rule_that_decides(door):
    admin = bearer(door.api_token("ops", "admin", service=True))

    def explain(**query):
        answer = door.get("/api/v1/access/explain", admin, query_string=query)
        return answer.json if answer.status_code == 200 else answer.status_code

    assert explain(user="limited", action="push", name="team/app") == {
        "user": "limited",
        "groups": ["dev"],
        "action": "push",
        "repository": "docker",
        "name": "team/app",
        "allowed": True,
        "decided_by": "rule 2 (config.toml:1)",
        "policy": door.state.access.policy.fingerprint,
    }
    assert explain(user="limited", action="push", name="dev/x")["decided_by"] == "rule 3 (config.toml:1)"
    asked = explain(user="limited", action="push", name="other")
    assert (asked["allowed"], asked["decided_by"]) == (False, "no rule grants it")
    assert explain(user="stranger", action="pull", name="dev/x")["allowed"] is False
    assert explain(user="stranger", action="pull", name="dev/x", group="dev")["allowed"] is True
    assert explain(user="alice", action="admin")["allowed"] is False
    assert explain(user="anonymous", action="pull", name="team/app")["allowed"] is False
    for query in ({}, {"user": "alice"}, {"action": "push"}, {"user": "alice", "action": "fly"}, {"user": "", "action": "pull"}):
        assert explain(**query) == 400
    assert door.get("/api/v1/access/explain?user=alice&action=pull", ALICE).status_code == 403


# The token endpoint.


def token(door: Door, authorization: str | None = ALICE, **query) -> dict:
    answer = door.get("/v2/token", authorization, query_string=query)
    assert (answer.status_code, answer.content_type, answer.headers["Cache-Control"]) == (200, "application/json", "no-store"), answer.data
    return answer.json


def test_a_bearer_token_as_docker_asks_for_it(door):
    members = token(door, account="alice", service="localhost", client_id="docker", scope=IMAGE)
    assert set(members) == {"token", "access_token", "expires_in", "issued_at", "scope"}
    assert (members["token"], members["expires_in"], members["scope"]) == (members["access_token"], 300, IMAGE)
    assert members["issued_at"].endswith("Z")
    assert door.post("/v2/team/app/blobs/uploads/", bearer(members["token"])).status_code == 202
    assert door.ask("HEAD", "/v2/token", ALICE).status_code == 200


def test_from_the_challenge_to_the_answer(door):
    """All that docker does when it pushes: ask, read the challenge, ask for the token that it names, ask again."""
    scheme, parts = parse_challenge(door.post("/v2/team/app/blobs/uploads/"))
    assert (scheme, parts["scope"]) == ("Bearer", IMAGE)
    assert parts["realm"].startswith("http://localhost/")
    answer = door.get(parts["realm"].removeprefix("http://localhost"), ALICE, query_string={"service": parts["service"], "scope": parts["scope"]})
    assert door.post("/v2/team/app/blobs/uploads/", bearer(answer.json["token"])).status_code == 202
    refused = door.ask("DELETE", "/v2/team/app/manifests/1", bearer(answer.json["token"]))
    assert (refused.status_code, parse_challenge(refused)[1]["scope"]) == (401, "repository:team/app:delete")


def test_the_realm_is_where_the_client_asked(door):
    answer = door.get("/v2/", base_url="http://registry.example:5000")
    _, parts = parse_challenge(answer)
    assert (parts["realm"], parts["service"]) == ("http://registry.example:5000/v2/token", "registry.example:5000")
    proxied = {"X-Forwarded-Host": "hub.example", "X-Forwarded-Proto": "https"}
    assert parse_challenge(door.get("/v2/", headers=proxied))[1]["realm"] == "https://hub.example/v2/token"
    evil = door.get("/v2/", headers={"Host": 'a",realm="http://evil'})
    assert parse_challenge(evil)[1]["realm"] == "http://localhost:80/v2/token", "what is no host does not get into a header"


def test_the_realm_with_a_public_url(make_app):
    door = Door(make_app(auth={"users": USERS}, server={"public_url": "https://hub.example/registry"}))
    assert parse_challenge(door.get("/v2/"))[1]["realm"] == "https://hub.example/registry/v2/token"
    assert parse_challenge(door.get("/api/v1/admin/logins"))[1]["realm"] == "https://hub.example/registry"


@pytest.mark.parametrize("name", ['a"b', "A", "a/../b", "é", "a,b", "a" * 300])
def test_what_is_no_name_is_refused_before_anybody_asks_who(door, name):
    answer = door.get(f"/v2/{name}/tags/list")
    assert (answer.status_code, "WWW-Authenticate" in answer.headers) == (404 if ".." in name else 400, False)


@pytest.mark.parametrize(
    ("user", "asked", "granted"),
    [
        ("alice", "repository:team/app:pull", "repository:team/app:pull"),
        ("alice", "repository:team/app:push,pull", "repository:team/app:pull,push"),
        ("alice", "repository:team/app:*", "repository:team/app:delete,pull,push"),
        ("alice", "repository:a:pull repository:b:push", "repository:a:pull repository:b:push"),
        ("alice", "repository(plugin):a:pull", "repository:a:pull"),
        ("alice", "registry:catalog:*", "registry:catalog:*"),
        ("limited", "repository:team/app:pull,push", "repository:team/app:pull,push"),
        ("limited", "repository:other:pull,push", ""),
        ("limited", "repository:other:pull repository:team/app:pull", "repository:team/app:pull"),
        ("alice", "repository:team/app:admin", ""),
        ("alice", "repository:team/app:", ""),
        ("alice", "repository:Team/App:pull", ""),
        ("alice", "repository:../x:pull", ""),
        ("alice", "repository:**:pull", ""),
        ("alice", "repository::listing:pull", ""),
        ("alice", "repository:a:pull:push", ""),
        ("alice", "registry:admin:*", ""),
        ("alice", "registry:catalog:delete", ""),
        ("alice", "junk", ""),
        ("alice", ":::", ""),
        ("alice", "", ""),
        ("alice", "é", ""),
        ("alice", "repository:a:pull " * 500, " ".join(["repository:a:pull"] * 100)),
    ],
)
def test_scopes_are_cut_to_what_one_may(door, user, asked, granted):
    made = token(door, basic(user, USERS[user]), scope=asked)
    assert made["scope"] == granted
    assert door.get("/v2/", bearer(made["token"])).status_code == 200, "a login that asks for nothing that one may is good all the same"
    form = {"grant_type": "password", "username": user, "password": USERS[user], "scope": asked}
    assert door.post("/v2/token", data=form).json["scope"] == granted


def test_several_scopes_in_one_and_in_several_parameters(door):
    wanted = "repository:a:pull repository:b:pull,push"
    assert token(door, scope=wanted.split())["scope"] == token(door, scope=wanted)["scope"] == wanted
    made = bearer(token(door, scope=wanted)["token"])
    asked = [("GET", "a/tags/list"), ("POST", "a/blobs/uploads/"), ("POST", "b/blobs/uploads/"), ("GET", "c/tags/list")]
    assert [door.ask(method, f"/v2/{path}", made).status_code for method, path in asked] == [404, 401, 202, 401]


def test_scopes_of_an_api_token(door):
    scopes = (Scope(frozenset((Action.PULL,)), names=("team/**",)),)
    header = basic("any", door.api_token("alice", scopes=scopes))
    assert token(door, header, scope=["repository:team/app:pull,push", "repository:other:pull"])["scope"] == "repository:team/app:pull"


def test_the_catalog_needs_a_token_for_it(door):
    Registry(Authorized(door, ALICE)).push_image("team/app", "1")
    assert door.get("/v2/_catalog", bearer(token(door, scope=IMAGE)["token"])).status_code == 401
    made = bearer(token(door, scope="registry:catalog:*")["token"])
    assert door.get("/v2/_catalog", made).json == {"repositories": ["team/app"]}
    assert door.get("/v2/team/app/tags/list", made).status_code == 401


GRANT = {"grant_type": "password", "username": "alice", "password": "pw-alice", "service": "localhost", "client_id": "docker"}


def test_the_password_grant(door, credentials):
    members = door.post("/v2/token", data={**GRANT, "scope": IMAGE}).json
    assert "refresh_token" not in members
    assert door.post("/v2/team/app/blobs/uploads/", bearer(members["access_token"])).status_code == 202
    for kind in ("API token", "JWT"):
        answer = door.post("/v2/token", data={**GRANT, "password": credentials[kind], "scope": "repository:team/app:pull"})
        assert answer.json["scope"] == "repository:team/app:pull"


@pytest.mark.parametrize(
    ("wanted", "form"),
    [
        (415, {}),
        (400, {"scope": IMAGE}),
        (400, {"grant_type": ""}),
        (400, {"grant_type": "client_credentials"}),
        (400, {"grant_type": "authorization_code", "code": "x"}),
        (401, {**GRANT, "password": "wrong"}),
        (401, {**GRANT, "username": ""}),
        (401, {**GRANT, "password": ""}),
        (401, {"grant_type": "password"}),
        (401, {"grant_type": "refresh_token"}),
        (401, {"grant_type": "refresh_token", "refresh_token": "x"}),
        (401, {"grant_type": "refresh_token", "refresh_token": "e30.e30.x"}),
        (401, {"grant_type": "refresh_token", "refresh_token": "nra_" + "0" * 32}),
    ],
)
def test_grants_that_are_refused(door, wanted, form):
    answer = door.post("/v2/token", data=form)
    assert answer.status_code == wanted
    assert code(answer)[0] == wanted
    if wanted == 401:
        assert parse_challenge(answer)[0] == "Basic", "what the token endpoint itself wants"


def test_a_bearer_token_ends(door):
    clock = door.stop_time()
    made = token(door, scope=IMAGE)
    clock.now += made["expires_in"] - 1
    assert door.get("/v2/team/app/tags/list", bearer(made["token"])).status_code == 404
    clock.now += 1
    answer = door.get("/v2/team/app/tags/list", bearer(made["token"]))
    assert (answer.status_code, parse_challenge(answer)[1]["error"]) == (401, "invalid_token")
    assert "expired" in words_of(answer)


def test_a_bearer_token_outlives_no_api_token(door):
    door.stop_time()
    header = basic("any", door.api_token("alice", lifetime=60))
    assert token(door, header, scope=IMAGE)["expires_in"] == 60


def test_a_bearer_token_gets_no_other_one(door):
    """It would live for ever, and a refresh token knows nothing of what it was cut to."""
    made = token(door, scope="repository:team/app:pull")["token"]
    for answer in (
        door.get("/v2/token", bearer(made), query_string={"scope": IMAGE, "offline_token": "true"}),
        door.get("/v2/token", basic("alice", made)),
        door.post("/v2/token", data={**GRANT, "password": made, "access_type": "offline"}),
        door.post("/v2/token", data={"grant_type": "refresh_token", "refresh_token": made}),
    ):
        assert code(answer) == (401, "UNAUTHORIZED")


# Refresh tokens.


def refresh_token(door: Door, authorization: str | None = ALICE) -> str:
    return token(door, authorization, offline_token="true")["refresh_token"]


def refreshed(door: Door, refresh: str, scope: str = IMAGE):
    return door.post("/v2/token", data={"grant_type": "refresh_token", "refresh_token": refresh, "scope": scope})


def test_a_refresh_token_gets_bearer_tokens_and_is_none(door):
    refresh = refresh_token(door)
    assert door.post("/v2/token", data={**GRANT, "access_type": "offline"}).json["refresh_token"]
    assert "refresh_token" not in token(door, offline_token="false")
    for _ in range(2):
        answer = refreshed(door, refresh)
        assert (answer.status_code, answer.json["scope"]) == (200, IMAGE)
        assert door.post("/v2/team/app/blobs/uploads/", bearer(answer.json["token"])).status_code == 202
    assert door.get("/v2/token", bearer(refresh)).status_code == 401
    for header in (bearer(refresh), basic("alice", refresh)):
        assert door.get("/v2/", header).status_code == 401


def by_basic(door: Door, refresh: str, name: str = "alice", **query: str):
    return door.get("/v2/token", basic(name, refresh), query_string={"scope": IMAGE, **query})


def by_form(door: Door, refresh: str, name: str = "alice"):
    return door.post("/v2/token", data={"grant_type": "password", "username": name, "password": refresh, "scope": IMAGE})


WAYS = [refreshed, by_basic, by_form]
"""To a bearer token with a refresh token."""


@pytest.mark.parametrize("name", ["alice", "<token>", "00000000-0000-0000-0000-000000000000"])
@pytest.mark.parametrize("way", [by_basic, by_form])
def test_a_refresh_token_stands_for_the_password_at_the_token_endpoint(door, way, name):
    """Readers of config.json that know no identity token send it so, under any name."""
    refresh = refresh_token(door)
    for _ in range(2):
        answer = way(door, refresh, name)
        assert (answer.status_code, answer.json["scope"]) == (200, IMAGE)
        assert door.post("/v2/team/app/blobs/uploads/", bearer(answer.json["token"])).status_code == 202
    header = basic(name, refresh)
    answers = [door.get("/v2/", header), door.get("/v2/team/app/tags/list", header), door.get("/api/v1/whoami", header)]
    answers += [door.post("/api/tokens", json={"username": name, "password": refresh}), door.post("/api/tokens/list", header, json={})]
    assert [answer.status_code for answer in answers] == [401] * len(answers), "nowhere else, though it was good a moment ago"


def test_a_login_by_a_refresh_token_does_not_outlive_it(door):
    clock = door.stop_time()
    refresh = refresh_token(door)
    clock.now += 29 * 86400
    again = by_basic(door, refresh, offline_token="true").json["refresh_token"]
    assert by_basic(door, again).status_code == 200
    clock.now += 86400
    assert [way(door, token).status_code for way in WAYS for token in (refresh, again)] == [401] * 6


@pytest.mark.parametrize("way", WAYS)
def test_a_refresh_token_that_is_no_good(door, credentials, caplog, way):
    signed = refresh_token(door)
    bad = [signed + "x", f"{signed[:-8]}AAAAAAAA", "e30.e30.x", token(door)["token"]]
    assert [way(door, one).status_code for one in bad[:3]] == [401] * 3
    assert way is not refreshed or way(door, bad[3]).status_code == 401, "a bearer token is none"
    assert not any(part in caplog.text for one in bad for part in one.split(".") if len(part) > 8)


def test_refresh_tokens_are_not_handed_out_where_that_is_switched_off(make_door):
    door = make_door(refresh_tokens=False)
    answers = [door.get("/v2/token", ALICE, query_string={"offline_token": "true", "scope": IMAGE})]
    answers.append(door.post("/v2/token", data={**GRANT, "access_type": "offline"}))
    assert [answer.status_code for answer in answers] == [200, 200]
    assert not any("refresh_token" in answer.json for answer in answers)
    who = door.services.live.state.authenticator.login("alice", "pw-alice", {})
    given = door.services.live.state.authenticator.issue(who, "refresh", 3600)[0]
    assert [way(door, given).status_code for way in WAYS] == [200] * 3, "one from before lives on"
    answer = door.post("/v2/token", data={"grant_type": "refresh_token", "refresh_token": given, "access_type": "offline"})
    assert "refresh_token" not in answer.json


@pytest.mark.parametrize("way", WAYS)
def test_a_refresh_token_ends(door, way):
    clock = door.stop_time()
    refresh = refresh_token(door)
    clock.now += 30 * 86400 - 1
    assert way(door, refresh).status_code == 200
    clock.now += 1
    assert way(door, refresh).status_code == 401


def test_an_identity_of_another_issuer_gets_no_refresh_token(door, credentials):
    assert "refresh_token" not in token(door, basic("ci", credentials["JWT"]), offline_token="true")


@pytest.mark.parametrize("users", [{"alice": "another"}, {"limited": "pw-limited"}], ids=["changed", "removed"])
@pytest.mark.parametrize("way", WAYS)
def test_tokens_end_with_the_password_that_they_were_issued_for(door, tmp_path, users, way):
    refresh, made = refresh_token(door), bearer(token(door, scope=IMAGE)["token"])
    assert [way(door, refresh).status_code, door.get("/v2/", made).status_code, door.get("/v2/", ALICE).status_code] == [200] * 3
    write_htpasswd(tmp_path / "users.htpasswd", users)
    assert [way(door, refresh).status_code, door.get("/v2/", made).status_code, door.get("/v2/", ALICE).status_code] == [401] * 3


def test_tokens_live_on_when_the_password_of_another_changes(door, tmp_path):
    refresh, made = refresh_token(door), bearer(token(door, scope=IMAGE)["token"])
    lines = (tmp_path / "users.htpasswd").read_bytes().splitlines(keepends=True)
    (tmp_path / "users.htpasswd").write_bytes(lines[0])
    assert [refreshed(door, refresh).status_code, door.get("/v2/", made).status_code, door.get("/v2/", ALICE).status_code] == [200] * 3


@pytest.mark.parametrize("way", WAYS)
def test_tokens_end_with_the_api_token_that_they_were_issued_for(door, way):
    api = door.api_token("alice")
    header = basic("any", api)
    refresh, made = refresh_token(door, header), bearer(token(door, header, scope=IMAGE)["token"])
    assert [way(door, refresh).status_code, door.get("/v2/", made).status_code] == [200, 200]
    door.services.tokens.revoke(door.services.tokens.check(api).id)
    assert [way(door, refresh).status_code, door.get("/v2/", made).status_code] == [401, 401]


@pytest.mark.parametrize("way", WAYS)
def test_keys_are_rotated(door, way):
    signer = door.services.logins.signer
    refresh, old = refresh_token(door), bearer(token(door, scope=IMAGE)["token"])
    assert door.get("/v2/", old).status_code == 200
    signer.rotate()
    new = bearer(token(door, scope=IMAGE)["token"])
    assert [door.get("/v2/", made).status_code for made in (old, new)] == [200, 200], "what the old key has signed lives on"
    assert way(door, refresh).status_code == 200
    signer.rotate(drop_old=True)
    assert [door.get("/v2/", made).status_code for made in (old, new)] == [401, 401]
    assert way(door, refresh).status_code == 401
    assert door.get("/v2/", bearer(token(door, scope=IMAGE)["token"])).status_code == 200


@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_bearer_token_that_was_changed(door, part):
    pieces = token(door, scope=IMAGE)["token"].split(".")
    middle = len(pieces[part]) // 2
    pieces[part] = pieces[part][:middle] + ("A" if pieces[part][middle] != "A" else "B") + pieces[part][middle + 1 :]
    assert door.get("/v2/", bearer(".".join(pieces))).status_code == 401


# Without a login.


def test_no_token_for_nobody_where_nothing_is_open(door):
    answer = door.get("/v2/token", query_string={"scope": IMAGE})
    assert code(answer) == (401, "UNAUTHORIZED")
    assert parse_challenge(answer)[0] == "Basic"


def test_anonymous_tokens_to_pull(make_door):
    door = make_door(docker_anon_pull=True)
    Registry(Authorized(door, ALICE)).push_image("team/app", "1")
    for header in (None, basic("", "")):
        made = token(door, header, scope=[IMAGE, "registry:catalog:*"], offline_token="true")
        assert "repository:team/app:pull" in made["scope"].split()
        assert "push" not in made["scope"]
        assert "refresh_token" not in made
        header = bearer(made["token"])
        assert door.get("/v2/", header).status_code == 200, "so that docker, which asks here first, can go on"
        assert door.get("/v2/team/app/manifests/1", header).status_code == 200
        assert door.get("/v2/_catalog", header).status_code == 401
        refused = door.post("/v2/team/app/blobs/uploads/", header)
        assert (refused.status_code, parse_challenge(refused)[1]["error"]) == (401, "insufficient_scope")


# Tokens of other issuers.


def exchange(door: Door, authorization: str | None = None, **more):
    return door.post("/api/v1/token/exchange", authorization, **more)


RFC8693 = "urn:ietf:params:oauth:grant-type:token-exchange"


@pytest.mark.parametrize("form", ["form", "form without grant", "json", "bearer", "password"])
def test_the_exchange_of_a_jwt(door, issuer, form):
    jwt = issuer.token()
    answer = {
        "form": lambda: exchange(door, data={"grant_type": RFC8693, "subject_token": jwt}),
        "form without grant": lambda: exchange(door, data={"subject_token": jwt}),
        "json": lambda: exchange(door, json={"token": jwt}),
        "bearer": lambda: exchange(door, bearer(jwt)),
        "password": lambda: exchange(door, basic("ci", jwt)),
    }[form]()
    assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "no-store")
    members = answer.json
    assert (members["token"], members["token_type"], members["expires_in"]) == (members["access_token"], "Bearer", 900)
    assert members["issued_token_type"] == "urn:ietf:params:oauth:token-type:access_token"
    for header in (bearer(members["token"]), basic("any", members["token"])):
        assert whoami(door, header) == ("repo:team/app", "oidc")
        assert door.post("/v2/team/app/blobs/uploads/", header).status_code == 202
        assert door.post("/v2/other/blobs/uploads/", header).status_code == 403
    again = [exchange(door, bearer(members["token"])), exchange(door, json={"token": members["token"]}), exchange(door, basic("x", members["token"]))]
    assert [answer.status_code for answer in again] == [401] * 3, "an exchanged token cannot be exchanged: it would live for ever"


def test_what_an_exchanged_token_gets_ends_with_it(door, issuer):
    """The issuer's word is that old; docker's bearer token must not stretch it."""
    exchanged = exchange(door, bearer(issuer.token())).json["token"]
    end = door.get("/api/v1/whoami", bearer(exchanged)).json["expires_at"]
    door.authenticator.config = type(door.authenticator.config)(bearer_ttl_secs=7200)
    made = token(door, basic("any", exchanged), scope="repository:team/app:pull")["token"]
    assert door.get("/api/v1/whoami", bearer(made)).json["expires_at"] <= end


def test_an_exchange_by_the_rules_of_now(door, issuer):
    exchanged = exchange(door, bearer(issuer.token())).json["token"]
    assert whoami(door, bearer(exchanged)) == ("repo:team/app", "oidc")
    known = door.authenticator
    change(door.services.live, authenticator=Authenticator(known.config, Oidc((), 60, 3600, None), known.logins))
    assert door.get("/api/v1/whoami", bearer(exchanged)).status_code == 401, "its issuer is no longer accepted"


@pytest.mark.parametrize("wrong", [{"aud": "another"}, {"lifetime": -3600, "iat": 1}, {"sub": "repo:stranger"}, {"iss": "https://evil.example"}])
def test_a_jwt_that_is_not_accepted(door, issuer, wrong):
    jwt = issuer.token(**wrong)
    answers = [exchange(door, bearer(jwt)), exchange(door, json={"token": jwt}), door.get("/v2/", bearer(jwt)), door.get("/v2/", basic("x", jwt))]
    assert [answer.status_code for answer in answers] == [401] * 4
    assert all(words_of(answer) for answer in answers)


@pytest.mark.parametrize(
    ("wanted", "more"),
    [
        (415, {}),
        (422, {"data": {"subject_token": ""}}),
        (400, {"data": {"grant_type": "password", "subject_token": "x"}}),
        (422, {"json": {}}),
        (422, {"json": {"token": 5}}),
        (422, {"json": []}),
        (422, {"data": b"{}", "content_type": "application/x+json"}),
        (401, {"json": {"token": "x"}}),
        (401, {"json": {"token": "nra_" + "0" * 32}}),
        (401, {"data": {"subject_token": "e30.e30.x"}}),
    ],
)
def test_an_exchange_of_nothing(door, wanted, more):
    assert exchange(door, **more).status_code == wanted


def test_other_credentials_are_not_exchanged(door, credentials):
    for header in (ALICE, bearer(credentials["API token"]), bearer(credentials["bearer token"])):
        assert exchange(door, header).status_code == 401
    assert exchange(door, json={"token": credentials["API token"]}).status_code == 401


# Failed logins.


@pytest.fixture
def clock(door):
    return door.stop_time()


def guess(door: Door, count: int, user: str = "alice", **more) -> list[int]:
    return [door.get("/v2/", basic(user, f"guess {number}"), **more).status_code for number in range(count)]


def test_five_different_wrong_passwords_close_the_door(door, clock):
    assert guess(door, 6) == [401] * 5 + [429]
    answer = door.get("/v2/team/app/tags/list", ALICE)
    assert code(answer) == (429, "TOOMANYREQUESTS")
    assert answer.headers["Retry-After"] == "1"
    assert "WWW-Authenticate" not in answer.headers
    for answer in (door.get("/v2/token", ALICE), door.post("/v2/token", data=GRANT)):
        assert code(answer) == (429, "TOOMANYREQUESTS")
    answer = door.get("/api/v1/whoami", ALICE)
    assert (answer.status_code, answer.content_type, list(answer.json)) == (429, "application/json", ["error"])
    clock.now += 1
    assert door.get("/v2/", ALICE).status_code == 200
    assert guess(door, 1) == [401], "the right password starts afresh"


def test_the_same_wrong_password_is_one(door, clock):
    """ctr sends it five times, and a machine with an old password all day."""
    assert [door.get("/v2/", basic("alice", "old")).status_code for _ in range(20)] == [401] * 20
    assert door.get("/v2/", ALICE).status_code == 200


def test_the_right_password_straight_after_wrong_ones(door, clock):
    assert guess(door, 4) == [401] * 4
    assert door.get("/v2/", ALICE).status_code == 200


def test_what_is_no_password_is_not_counted(door, clock):
    for number in range(20):
        for header in (f"Bearer nra_{number:032x}", basic("alice", f"nra_{number:032x}"), f"Basic !{number}", basic("", "")):
            assert door.get("/v2/", header).status_code == 401
    assert door.get("/v2/", ALICE).status_code == 200


def test_nobody_else_is_locked_out(door, clock):
    assert guess(door, 6, client="192.0.2.1")[-1] == 429
    assert door.get("/v2/", ALICE, client="192.0.2.2").status_code == 200, "another client"
    assert door.get("/v2/", ALICE).status_code == 200
    assert door.get("/v2/", basic("limited", "pw-limited"), client="192.0.2.1").status_code == 200, "another account"
    assert door.get("/v2/", ALICE, client="192.0.2.1").status_code == 429


def test_a_client_cannot_hide_behind_a_header(door, clock):
    """A peer that is no trusted proxy names whom it will."""
    peer = {"environ_overrides": {"REMOTE_ADDR": "192.0.2.9"}}
    answers = [door.get("/v2/", basic("alice", f"guess {number}"), client=f"198.51.100.{number}", **peer).status_code for number in range(6)]
    assert answers == [401] * 5 + [429]


def test_a_password_that_was_right_is_not_let_in_from_memory(door, clock):
    assert door.get("/v2/", ALICE).status_code == 200
    guess(door, 5)
    assert door.get("/v2/", ALICE).status_code == 429


def test_tokens_work_for_a_client_that_is_locked_out(door, clock):
    kinds = {"API token": door.api_token("alice"), "bearer token": door.bearer_token(ALICE, IMAGE)}
    guess(door, 6)
    for secret in kinds.values():
        for header in (bearer(secret), basic("alice", secret)):
            assert door.get("/v2/", header).status_code == 200
    assert door.get("/v2/", ALICE).status_code == 429


def test_figures_of_failed_logins(door, clock):
    admin = bearer(door.api_token("ops", "admin", service=True))
    guess(door, 6)
    guess(door, 1, user="limited")
    guess(door, 1, user="limited")
    answer = door.get("/api/v1/admin/logins", admin)
    assert answer.json == {"failed_logins": {"failures": 7, "repeated": 1, "refused": 1}, "audit_records_lost": 0}


# What is written of all that.


def test_no_credential_is_written_anywhere(door, clock, issuer, credentials, caplog, tmp_path):
    """Neither to a log nor to the audit log, and no answer says it again."""
    caplog.set_level(logging.DEBUG)
    refresh = refresh_token(door)
    exchanged = exchange(door, bearer(credentials["JWT"])).json["token"]
    wrong = [
        *(f"wrong-secret-{number}" for number in range(6)),
        "nra_" + "5ec2e7" * 5 + "00",
        "eyJhbGciOiJub25lIn0.c2VjcmV0LXBheWxvYWQ.c2VjcmV0LXNpZ25hdHVyZQ",
        "secret-word",
    ]
    expired = [door.api_token("alice", lifetime=-1), issuer.token(lifetime=-3600, iat=1), issuer.token(aud="elsewhere")]
    secrets = [*credentials.values(), refresh, exchanged, *wrong, *expired]
    answers = []
    for secret in secrets:
        for header in (bearer(secret), secret, basic("alice", secret), f"Digest {secret}", f"Basic {secret}", f"Bearer {secret} x"):
            for method, path in (("GET", "/v2/"), ("POST", "/v2/other/blobs/uploads/"), ("GET", "/api/v1/whoami"), ("GET", "/v2/_catalog")):
                answers.append(door.ask(method, path, header))
        answers.append(door.get("/v2/", headers={"X-NuGet-ApiKey": secret}))
        answers.append(door.post("/api/tokens/list", json={"username": "alice", "password": secret}))
        answers.append(door.post("/api/tokens/revoke", json={"username": "alice", "password": secret, "hash_prefix": secret}))
        answers.append(door.post("/api/tokens", json={"username": "alice", "password": secret, "role": secret}))
        answers.append(door.post("/v2/token", data={"grant_type": secret, "password": secret}))
        answers.append(door.post("/v2/token", data={"grant_type": "refresh_token", "refresh_token": secret + "x"}))
        answers.append(exchange(door, json={"token": secret + "x"}))
    assert {answer.status_code for answer in answers} >= {200, 202, 400, 401, 403, 429}
    written = [caplog.text, json.dumps(door.audit()), *(repr(record.__dict__) for record in caplog.records)]
    written += [repr(list(answer.headers)) + answer.text for answer in answers]
    written += map(repr, (door.services, door.services.logins, door.state, door.authenticator, Password("alice", b"pw-alice")))
    assert len(door.audit()) > 50
    hidden = [*secrets, *(part for secret in secrets for part in secret.split(".")[1:]), *(basic("alice", secret).split()[1] for secret in secrets)]
    for text in written:
        assert [secret for secret in hidden if secret in text] == []


def test_reasons_of_failed_logins_in_the_log_and_the_audit_log(door, clock, issuer, caplog):
    expired, revoked = door.api_token("alice", lifetime=-1), door.api_token("alice")
    door.services.tokens.revoke(door.services.tokens.check(revoked).id)
    asked = {
        basic("alice", "wrong"): ("wrong_password", "alice"),
        basic("nobody", "wrong"): ("wrong_password", "nobody"),
        bearer(expired): ("expired_token", "alice"),
        bearer(revoked): ("unknown_token", ""),
        bearer(door.api_token("gone")): ("owner_gone", "gone"),
        bearer(issuer.token(aud="elsewhere")): ("oidc_audience", ""),
        bearer(refresh_token(door)): ("bearer_type", "alice"),
        "Basic !": ("malformed", ""),
        "Digest x": ("scheme", ""),
    }
    before = len(door.audit())
    for number, header in enumerate(asked):
        door.get("/v2/", header, client="192.0.2.7", headers={"X-Request-Id": f"request-{number}"})
    lines = door.audit()[before:]
    assert [(line["detail"], line["actor"]) for line in lines] == list(asked.values())
    for number, line in enumerate(lines):
        assert line["action"] == "login_failed"
        assert (line["outcome"], line["client"], line["request_id"]) == ("failed", "192.0.2.7", f"request-{number}")
        assert f'reason={line["detail"]} account="{line["actor"]}" client=192.0.2.7\n' in caplog.text


def test_a_client_that_is_locked_out_is_in_the_audit_log(door, clock):
    guess(door, 6)
    assert [line["detail"] for line in door.audit()] == ["wrong_password"] * 5 + ["locked_out"]
    assert door.audit()[-1]["actor"] == "alice"


def test_names_cannot_break_a_line_of_the_log(door, caplog):
    door.get("/v2/", basic('a"\nlogin failed: reason=none\r\x1b[2J', "x"))
    (record,) = [record for record in caplog.records if record.name == "nora.auth"]
    assert record.getMessage().isprintable()
    assert len(door.audit()) == 1


def said(door: Door, action: str) -> dict[str, str]:
    """The last line of the audit log, without its time."""
    line = door.audit()[-1]
    assert line.pop("ts")
    assert line.pop("action") == action
    return {name: value for name, value in line.items() if value}


TOLD = {"client": "192.0.2.7", "request_id": "request-1"}
FROM = {"client": "192.0.2.7", "headers": {"X-Request-Id": "request-1"}}


def test_a_login_is_noted_once_for_a_while(door):
    for _ in range(5):
        door.get("/v2/", ALICE, **FROM)
    assert len(door.audit()) == 1
    assert said(door, "login") == {"actor": "alice", "source": "password", "outcome": "ok", **TOLD}
    door.get("/v2/", ALICE, client="192.0.2.8")
    assert said(door, "login")["client"] == "192.0.2.8", "the same credentials from elsewhere are another login"


def test_a_denial_is_noted(door):
    limited = basic("limited", "pw-limited")
    door.post("/v2/other/blobs/uploads/", limited, **FROM)
    wanted = {"actor": "limited", "source": "password", "registry": "docker", "artifact": "other", "outcome": "denied", **TOLD}
    assert said(door, "denied") == {**wanted, "detail": "push: no rule grants it"}
    door.get("/v2/other/tags/list", bearer(door.bearer_token(limited, "repository:team/app:pull")), **FROM)
    assert said(door, "denied")["detail"] == "pull: no rule grants it"


def test_what_is_done_to_artifacts_is_noted(door):
    client = Authorized(door, ALICE)
    door.get("/v2/", ALICE)
    digest = Registry(client).push_image("team/app", "1")
    assert {**said(door, "push"), "request_id": ""} == {
        "actor": "alice",
        "source": "password",
        "registry": "docker",
        "artifact": "team/app:1",
        "detail": f"manifest {digest}",
        "outcome": "ok",
        "client": "127.0.0.1",
        "request_id": "",
    }
    usual = {"actor": "alice", "source": "password", "registry": "docker", "outcome": "ok", **TOLD}
    blob = Digest.of(b"layer")
    door.get("/v2/", ALICE, **FROM)
    assert door.post(f"/v2/other/blobs/uploads/?mount={blob}&from=team/app", ALICE, **FROM).status_code == 201
    assert said(door, "mount") == {**usual, "artifact": f"other@{blob}", "detail": "blob from team/app"}
    assert door.ask("DELETE", f"/v2/other/blobs/{blob}", ALICE, **FROM).status_code == 202
    assert said(door, "delete") == {**usual, "artifact": f"other@{blob}", "detail": "blob"}
    assert door.ask("DELETE", "/v2/team/app/manifests/1", ALICE, **FROM).status_code == 202
    assert said(door, "delete") == {**usual, "artifact": "team/app:1", "detail": f"manifest {digest}, the tag alone"}
    assert door.ask("DELETE", f"/v2/team/app/manifests/{digest}", ALICE, **FROM).status_code == 202
    line = said(door, "delete")
    assert line["artifact"] == f"team/app@{digest}"
    assert {name: line[name] for name in usual} == usual


def test_each_push_is_noted(door):
    """Each blob, and each tag that a manifest gets: whoever looks for a name and a tag finds who set it."""
    client = Registry(Authorized(door, ALICE))
    door.get("/v2/", ALICE)
    before = len(door.audit())
    blob = client.push_blob("team/app", b"layer")
    location = client.begin("team/app")
    other = Digest.of(b"in two steps")
    assert door.ask("PUT", f"{location}?digest={other}", ALICE, data=b"in two steps").status_code == 201
    assert door.post(f"/v2/other/blobs/uploads/?mount={blob}", ALICE).status_code == 201
    data = image(layers=(b"layer",))
    client.push_blob("team/app", b"{}")
    digest = Digest.of(data)
    assert client.push("team/app", digest, data, query="tag=1&tag=latest").status_code == 201
    assert client.push("team/app", digest, data).status_code == 201
    found = [(line["action"], line["artifact"], line["detail"]) for line in door.audit()[before:]]
    assert found[:2] == [("push", f"team/app@{blob}", "blob"), ("push", f"team/app@{other}", "blob")]
    assert found[2] == ("mount", f"other@{blob}", "blob")
    assert sorted(found[4:6]) == [("push", "team/app:1", f"manifest {digest}"), ("push", "team/app:latest", f"manifest {digest}")]
    assert found[6:] == [("push", f"team/app@{digest}", f"manifest {digest}")]
    assert {line["registry"] for line in door.audit()[before:]} == {"docker"}


def test_what_is_done_to_tokens_is_noted(door):
    door.get("/v2/", ALICE, **FROM)
    usual = {"actor": "alice", "source": "password", "registry": "api", "artifact": "alice", "outcome": "ok", **TOLD}
    made = door.post("/api/tokens", ALICE, json={"ttl_days": 1}, **FROM).json
    assert said(door, "token_mint") == {**usual, "detail": f"role=read ttl_secs=86400 id={made['hash_prefix']}"}
    new = door.post("/api/tokens/rotate", ALICE, json={"hash_prefix": made["hash_prefix"]}, **FROM).json
    assert said(door, "token_rotate") == {**usual, "detail": f"id={made['hash_prefix']} to={new['hash_prefix']}"}
    door.post("/api/tokens/revoke", ALICE, json={"hash_prefix": new["hash_prefix"]}, **FROM)
    assert said(door, "token_revoke") == {**usual, "detail": f"id={new['hash_prefix']}"}
    admin = bearer(door.api_token("ops", "admin", service=True))
    made = door.post("/api/v1/admin/tokens", admin, json={"username": "ci", "ttl_days": 1, "role": "write"}, **FROM).json
    wanted = {**usual, "actor": "ops", "source": "token", "registry": "admin", "artifact": "ci"}
    assert said(door, "token_mint") == {**wanted, "detail": f"role=write ttl_secs=86400 id={made['hash_prefix']}"}
    door.post("/api/tokens/revoke", admin, json={"hash_prefix": made["hash_prefix"]}, **FROM)
    assert said(door, "token_revoke") == {**wanted, "registry": "api", "detail": f"id={made['hash_prefix']}"}
    lines = len(door.audit())
    door.post("/api/tokens", json={"username": "alice", "password": "pw-alice"}, **FROM)
    assert [line["action"] for line in door.audit()[lines:]] == ["login", "token_mint"]
    assert said(door, "token_mint")["actor"] == "alice", "whoever logs in by the body is the actor"


def test_an_exchange_is_noted(door, issuer):
    exchange(door, bearer(issuer.token()), **FROM)
    who = {"actor": "repo:team/app", "source": "oidc", "registry": "api", "artifact": "repo:team/app"}
    assert said(door, "token_mint") == {**who, "detail": "exchange ttl_secs=900", "outcome": "ok", **TOLD}


# Without logins at all, and headers.


def test_where_logins_are_off_all_is_open(client):
    registry = Registry(client)
    registry.push_image("team/app", "1")
    for header in (None, "Basic !", "Bearer nra_" + "0" * 32, ALICE):
        headers = {"Authorization": header} if header else {}
        for method, path in (("GET", "/v2/"), ("GET", "/v2/_catalog"), ("GET", "/v2/team/app/manifests/1"), ("GET", "/api/v1/whoami")):
            assert client.open(path, method=method, headers=headers).status_code == 200
        assert client.post("/v2/team/app/blobs/uploads/", headers=headers).status_code == 202
    assert client.get("/v2/token").status_code == client.post("/v2/token", data=GRANT).status_code == 404
    assert client.post("/api/v1/token/exchange").status_code == 503
    assert client.get("/api/v1/admin/logins").status_code == 503
    assert client.get("/api/v1/whoami").json["name"] == "anonymous"


SAFE = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; sandbox",
}


@pytest.mark.parametrize("header", [None, ALICE, "Basic !"])
def test_every_answer_has_the_headers_that_keep_browsers_safe(door, header):
    for method in ("GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE"):
        for path in ("/", "/health", "/v2/", "/v2/token", "/v2/x/tags/list", "/v2/other/manifests/1", "/api/v1/whoami", "/api/tokens", "/none"):
            answer = door.ask(method, path, header)
            assert {name: answer.headers.getlist(name) for name in SAFE} == {name: [value] for name, value in SAFE.items()}
            assert "Access-Control-Allow-Origin" not in answer.headers
            assert "Set-Cookie" not in answer.headers
