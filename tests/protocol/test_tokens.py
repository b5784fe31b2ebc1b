"""The token API: NORA's calls and statuses, and what is ours: scopes, rotation, and what a token may do to tokens."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from noraflask.config import RoleRule
from noraflask.errors import Unavailable
from noraflask.services.auth.principal import Action, Scope
from noraflask.services.auth.rules import Access, Policy
from noraflask.services.auth.tokens import FORM
from noraflask.storage.memory import MemoryStorage
from tests.conftest import write_htpasswd
from tests.live import change
from tests.oidc import Issuer
from tests.protocol.access import Door, basic, bearer, parse_challenge, rule

DAY = 86400
USERS = {"alice": "pw-a", "bob": "pw-b", "root": "pw-r"}
ALICE = {"username": "alice", "password": "pw-a"}
BOB = {"username": "bob", "password": "pw-b"}
ROOT = {"username": "root", "password": "pw-r"}
TOKEN_ROUTES = ["/api/tokens", "/api/tokens/list", "/api/tokens/revoke", "/api/tokens/rotate"]


@pytest.fixture
def door(app_with) -> Door:
    return Door(app_with(auth={"users": USERS, "admin_users": ("root",)}))


def call(door: Door, path: str, authorization: str | None = None, **members):
    return door.post(path, authorization, json=members)


def mint(door: Door, authorization: str | None = None, **members) -> dict:
    answer = call(door, "/api/tokens", authorization, **members)
    assert (answer.status_code, answer.content_type, answer.headers["Cache-Control"]) == (200, "application/json", "no-store"), answer.data
    assert FORM.match(answer.json["token"])
    return answer.json


def listed(door: Door, **members) -> list[dict]:
    answer = call(door, "/api/tokens/list", **members)
    assert (answer.status_code, answer.headers["Cache-Control"], list(answer.json)) == (200, "no-store", ["tokens"])
    return answer.json["tokens"]


def status(door: Door, token: str, method: str = "GET", path: str = "/v2/") -> int:
    return door.ask(method, path, bearer(token)).status_code


PUSH = ("POST", "/v2/team/app/blobs/uploads/")

# Making.


def test_a_token_is_made_with_name_and_password_in_the_body(door):
    made = mint(door, **ALICE, description="laptop")
    assert (made["expires_in_days"], made["expires_in_secs"]) == (30, 30 * DAY)
    assert status(door, made["token"]) == 200
    assert status(door, made["token"], *PUSH) == 403, "the role is read if nothing is said"
    assert door.get("/v2/", basic("anyone", made["token"])).status_code == 200
    assert door.get("/api/v1/whoami", bearer(made["token"])).json["name"] == "alice"


@pytest.mark.parametrize(("ttl_days", "seconds"), [(1, DAY), (3650, 3650 * DAY), (3651, 3650 * DAY), (1 << 53, 3650 * DAY), (0, 0)])
def test_how_long_a_token_lives(door, ttl_days, seconds):
    made = mint(door, **ALICE, ttl_days=ttl_days)
    assert (made["expires_in_days"], made["expires_in_secs"]) == (seconds // DAY, seconds)
    assert status(door, made["token"]) == (200 if seconds else 401)


def test_a_token_ends_in_time(door):
    clock = door.stop_time()
    token = mint(door, **ALICE, ttl_days=1)["token"]
    clock.now += DAY - 1
    assert status(door, token) == 200
    clock.now += 1
    answer = door.get("/v2/", bearer(token))
    assert answer.status_code == 401
    assert "expired" in answer.text


BAD = [
    (401, {**ALICE, "password": "wrong"}),
    (401, {"username": "nobody", "password": "pw-a"}),
    (401, {"username": "", "password": "pw-a"}),
    (401, {"username": "\ud800", "password": "\ud800"}),
    (422, {}),
    (422, {"username": "alice"}),
    (422, {"password": "pw-a"}),
    (422, {"username": None, "password": "pw-a"}),
    (422, {"username": "alice", "password": 5}),
    (422, {"username": ["alice"], "password": "pw-a"}),
]
BAD_WISHES = [
    (400, {"role": "owner"}),
    (400, {"role": ""}),
    (422, {"role": ["read"]}),
    (422, {"role": None}),
    (422, {"role": 5}),
    (422, {"ttl_days": -1}),
    (400, {"ttl_days": 10**30}),
    (422, {"ttl_days": "30"}),
    (422, {"ttl_days": 1.5}),
    (422, {"ttl_days": True}),
    (422, {"ttl_days": None}),
    (422, {"description": 5}),
    (400, {"description": "a" * 4097}),
    (403, {"role": "admin"}),
]
BAD_SCOPES = [
    [],
    {},
    "read",
    ["read"],
    [{}],
    [{"actions": []}],
    [{"actions": "pull"}],
    [{"actions": ["fly"]}],
    [{"actions": [1]}],
    [{"actions": ["login"]}],
    [{"actions": ["pull"], "names": []}],
    [{"actions": ["pull"], "names": ["a b"]}],
    [{"actions": ["pull"], "names": ["{user}/x"]}],
    [{"actions": ["pull"], "names": ["a**"]}],
    [{"actions": ["pull"], "names": [""]}],
    [{"actions": ["pull"], "repositories": "docker"}],
    [{"actions": ["pull"], "else": 1}],
    [{"actions": ["pull"]}] * 101,
]


@pytest.mark.parametrize("path", TOKEN_ROUTES)
@pytest.mark.parametrize(("wanted", "members"), BAD)
def test_who_asks_must_be_known(door, path, wanted, members):
    answer = call(door, path, **members)
    assert (answer.status_code, answer.content_type) == (wanted, "application/json")
    assert answer.json["error"]
    if wanted == 401:
        assert parse_challenge(answer)[0] == "Basic"


@pytest.mark.parametrize(("wanted", "members"), BAD_WISHES)
def test_wishes_that_cannot_be_met(door, wanted, members):
    answer = call(door, "/api/tokens", **ALICE, **members)
    assert (answer.status_code, list(answer.json)) == (wanted, ["error"])
    assert listed(door, **ALICE) == []


@pytest.mark.parametrize("scopes", BAD_SCOPES)
def test_scopes_that_are_none(door, scopes):
    assert call(door, "/api/tokens", **ALICE, scopes=scopes).status_code == 400
    assert call(door, "/api/v1/admin/tokens", admin(door), username="ci", scopes=scopes).status_code == 400


@pytest.mark.parametrize(
    ("scope", "message"),
    [
        ({"repositories": ["Docker"]}, 'scopes: repositories: "Docker" can never match: '),
        ({"repositories": ["docker"], "names": ["Team/**"]}, 'scopes: names: "Team/**" can never match: '),
        ({"names": ["a/../b"]}, 'scopes: names: "a/../b" can never match: '),
    ],
)
def test_a_scope_that_can_never_match_is_refused(door, scope, message):
    answer = call(door, "/api/tokens", **ALICE, scopes=[{"actions": ["pull"], **scope}])
    assert answer.status_code == 400
    assert message in answer.get_json()["error"] if isinstance(answer.get_json(), dict) else False


@pytest.mark.parametrize("path", [*TOKEN_ROUTES, "/api/v1/admin/tokens"])
@pytest.mark.parametrize(
    ("wanted", "body"),
    [
        (400, b""),
        (400, b"{"),
        (422, b"[]"),
        (422, b'"text"'),
        (422, b"null"),
        (400, b"\xff\xfe"),
        (400, b"[" * 60000),
        (400, b'{"a":' * 10000),
        (400, b"9" * 60000),
        (413, b" " * (64 * 1024 + 1)),
    ],
    ids=["empty", "open", "list", "text", "null", "no UTF-8", "deep", "deep object", "long number", "large"],
)
def test_a_body_that_is_no_json_object(door, path, wanted, body):
    answer = door.post(path, admin(door), data=body, content_type="application/json")
    assert (answer.status_code, answer.content_type) == (wanted, "application/json")


@pytest.mark.parametrize("path", [*TOKEN_ROUTES, "/api/v1/admin/tokens"])
@pytest.mark.parametrize(
    "content_type",
    [None, "", "text/plain", "application/x-www-form-urlencoded", "application/jsonx", "multipart/form-data", "json", "application/x+jsonx"],
)
def test_a_body_of_another_type(door, path, content_type):
    """A form of a foreign page can send these without asking; JSON it cannot."""
    assert door.post(path, admin(door), data=json.dumps(ALICE), content_type=content_type).status_code == 415


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON", "application/vnd.api+json", "text/x+json; v=1"])
def test_other_spellings_of_json(door, content_type):
    assert door.post("/api/tokens", data=json.dumps(ALICE), content_type=content_type).status_code == 200


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
MEMBERS = ["ttl_days", "description", "role", "scopes", "hash_prefix", "overlap_secs", "username", "password"]


@hypothesis_settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.sampled_from([*TOKEN_ROUTES, "/api/v1/admin/tokens"]), members=st.dictionaries(st.sampled_from(MEMBERS), JSON), known=st.booleans())
def test_no_json_is_the_servers_fault(door, path, members, known):
    answer = door.post(path, admin(door), json={**members, **(ALICE if known else {})})
    assert answer.status_code < 500 or answer.status_code == 503


@pytest.mark.parametrize("path", TOKEN_ROUTES)
def test_where_there_are_no_passwords_a_login_in_the_body_is_no_service(app_with, path):
    """NORA has no such calls then. A token is a login all the same, in the body or in the header."""
    door = Door(app_with(auth={"users": {}}))
    for members in (ALICE, {"username": "", "password": ""}):
        answer = call(door, path, **members, hash_prefix="0" * 16)
        assert (answer.status_code, answer.content_type) == (503, "application/json")
        assert "send a token" in answer.json["error"]
    assert call(door, path).status_code == 422
    token = door.api_token("ci", service=True)
    wanted = {"/api/tokens": 403, "/api/tokens/list": 200}.get(path, 404)
    assert call(door, path, bearer(token), hash_prefix="0" * 16).status_code == wanted
    assert call(door, path, username="any", password=token, hash_prefix="0" * 16).status_code == wanted


def test_the_login_may_stand_in_the_header(door):
    token = mint(door, basic("alice", "pw-a"), role="write")["token"]
    assert status(door, token, *PUSH) == 202
    assert len(call(door, "/api/tokens/list", basic("alice", "pw-a")).json["tokens"]) == 1
    assert call(door, "/api/tokens", basic("alice", "wrong")).status_code == 401
    assert call(door, "/api/tokens", basic("", "")).status_code == 401
    assert call(door, "/api/tokens", basic("alice", "pw-a"), **BOB, role="read").status_code == 200
    assert [len(listed(door, **who)) for who in (ALICE, BOB)] == [1, 1], "the body goes before the header"
    assert call(door, "/api/tokens", basic("alice", "pw-a"), username="alice", password="wrong").status_code == 401


@pytest.mark.parametrize("role", ["read", "write", "admin"])
def test_an_admin_by_name_makes_tokens_of_all_roles(door, role):
    token = mint(door, **ROOT, role=role)["token"]
    assert status(door, token, *PUSH) == (403 if role == "read" else 202)
    assert status(door, token, path="/api/v1/admin/logins") == (200 if role == "admin" else 403)


def test_the_password_alone_is_no_admin(door):
    assert door.get("/api/v1/admin/logins", basic("root", "pw-r")).status_code == 403


def test_too_many_wrong_passwords(door):
    door.stop_time()
    for number in range(5):
        assert call(door, "/api/tokens", username="alice", password=f"wrong {number}").status_code == 401
    for path in TOKEN_ROUTES:
        answer = call(door, path, **ALICE)
        assert (answer.status_code, answer.content_type, answer.headers["Retry-After"]) == (429, "application/json", "1")
        assert "try again in 1 second" in answer.json["error"]
    assert call(door, "/api/tokens", **BOB).status_code == 200


def test_no_tokens_where_there_are_no_logins(app_with):
    door = Door(app_with())
    for path in [*TOKEN_ROUTES, "/api/v1/admin/tokens"]:
        for members in ({}, ALICE):
            answer = call(door, path, **members)
            assert (answer.status_code, answer.content_type) == (503, "application/json")
            assert "switched off" in answer.json["error"]


class Broken(MemoryStorage):
    """Tokens cannot be read or written."""

    broken = False

    def open(self, key, *arguments):
        return self._tried(super().open, key, *arguments)

    def create(self, key, *arguments):
        return self._tried(super().create, key, *arguments)

    def _tried(self, verb, key, *arguments):
        if self.broken and "_auth/tokens" in key:
            raise Unavailable("the storage does not answer")
        return verb(key, *arguments)


def test_tokens_that_cannot_be_read_are_neither_good_nor_bad(app_with):
    storage = Broken()
    door = Door(app_with(storage, auth={"users": USERS}))
    clock = door.stop_time()
    token = mint(door, **ALICE)["token"]
    storage.broken = True
    clock.now += 1
    answer = door.get("/v2/", bearer(token))
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "30")
    assert door.get("/v2/", basic("alice", "pw-a")).status_code == 200
    assert call(door, "/api/tokens", **ALICE).status_code == 503
    storage.broken = False
    assert status(door, token) == 200


# Listing and ending.


def test_the_list_is_ones_own_newest_first(door):
    clock = door.stop_time()
    made = []
    for number in range(3):
        made.append(mint(door, **ALICE, description=f"number {number}", role="write", ttl_days=number))
        clock.now += 10
    mint(door, **BOB)
    found = listed(door, **ALICE)
    assert [entry["description"] for entry in found] == ["number 2", "number 1", "number 0"]
    assert found[0] == {
        "hash_prefix": made[2]["hash_prefix"],
        "created_at": 1_800_000_020,
        "expires_at": 1_800_000_020 + 2 * DAY,
        "last_used": None,
        "description": "number 2",
        "role": "write",
    }
    assert made[2]["token"] not in json.dumps(found)


def test_when_a_token_was_last_used(door):
    clock = door.stop_time()
    token = mint(door, **ALICE)["token"]
    assert listed(door, **ALICE)[0]["last_used"] is None
    clock.now += 100
    for _ in range(3):
        assert status(door, token) == 200
        clock.now += 10
    assert listed(door, **ALICE)[0]["last_used"] == 1_800_000_100, "not noted at each use"
    clock.now += 100
    status(door, token)
    door.services.tokens.flush()
    assert listed(door, **ALICE)[0]["last_used"] == 1_800_000_230


def test_a_token_is_revoked_at_once(door):
    made, other = mint(door, **ALICE), mint(door, **ALICE)
    assert status(door, made["token"]) == 200
    answer = call(door, "/api/tokens/revoke", **ALICE, hash_prefix=made["hash_prefix"])
    assert (answer.status_code, answer.mimetype, answer.text.strip()) == (200, "text/plain", "Token revoked")
    assert [status(door, made["token"]), status(door, other["token"])] == [401, 200]
    assert [entry["hash_prefix"] for entry in listed(door, **ALICE)] == [other["hash_prefix"]]
    assert call(door, "/api/tokens/revoke", **ALICE, hash_prefix=made["hash_prefix"]).status_code == 404


@pytest.mark.parametrize("path", ["/api/tokens/revoke", "/api/tokens/rotate"])
def test_only_ones_own_tokens(door, path):
    made = mint(door, **ALICE)
    answers = [call(door, path, **BOB, hash_prefix=prefix) for prefix in (made["hash_prefix"], "0" * 16)]
    assert [answer.status_code for answer in answers] == [404, 404]
    texts = {answer.text.replace(made["hash_prefix"], "0" * 16) for answer in answers}
    assert len(texts) == 1, "whether a token is somebody else's is not told"
    assert status(door, made["token"]) == 200


@pytest.mark.parametrize("path", ["/api/tokens/revoke", "/api/tokens/rotate"])
@pytest.mark.parametrize(
    ("wanted", "prefix"),
    [
        *((422, prefix) for prefix in (None, 5, True, ["0" * 16], {})),
        *((404, prefix) for prefix in ("", "0" * 15, "0" * 17, "A" * 16, "../" + "0" * 13, "0" * 16 + "\n", "x" * 60000, "0000000000000000.json")),
    ],
)
def test_a_prefix_that_is_none(door, path, wanted, prefix):
    answer = call(door, path, **ALICE, hash_prefix=prefix)
    assert (answer.status_code, list(answer.json)) == (wanted, ["error"])
    assert len(answer.data) < 200
    assert call(door, path, **ALICE).status_code == 422


def test_an_admin_reaches_all_tokens(door):
    service = call(door, "/api/v1/admin/tokens", admin(door), username="alice", role="write").json
    for made in (mint(door, **ALICE), service):
        new = rotate(door, admin(door), hash_prefix=made["hash_prefix"]).json
        assert [status(door, made["token"]), status(door, new["token"])] == [401, 200]
        assert call(door, "/api/tokens/revoke", admin(door), hash_prefix=new["hash_prefix"]).status_code == 200
        assert status(door, new["token"]) == 401


def test_an_admin_by_rule_reaches_all_tokens_by_password(app_with):
    rules = (rule(("pull", "push", "delete", "admin"), users=("root",)),)
    door = Door(app_with(auth={"users": USERS}, access={"rules": rules}))
    service = call(door, "/api/v1/admin/tokens", basic("root", "pw-r"), username="ci").json
    assert call(door, "/api/tokens/revoke", **ROOT, hash_prefix=service["hash_prefix"]).status_code == 200
    assert status(door, service["token"]) == 401
    made = mint(door, **ALICE)
    bearer_of_root = bearer(door.bearer_token(basic("root", "pw-r"), "repository:team/app:pull"))
    assert call(door, "/api/tokens/revoke", bearer_of_root, hash_prefix=made["hash_prefix"]).status_code == 404, "it was issued to pull"


def test_a_password_does_not_reach_what_an_admin_made_in_the_users_name(door):
    service = call(door, "/api/v1/admin/tokens", admin(door), username="alice", role="admin").json
    own = mint(door, **ALICE)
    assert [entry["hash_prefix"] for entry in listed(door, **ALICE)] == [own["hash_prefix"]]
    for path in ("/api/tokens/revoke", "/api/tokens/rotate"):
        for who in (ALICE, ROOT, BOB):
            assert call(door, path, **who, hash_prefix=service["hash_prefix"]).status_code == 404
    assert status(door, service["token"]) == 200


def test_tokens_end_with_their_owner(app_with, tmp_path, monkeypatch):
    monkeypatch.setattr("noraflask.services.auth.users.CHECK_SECONDS", 0)
    door = Door(app_with(auth={"users": USERS}))
    token = mint(door, **ALICE)["token"]
    assert status(door, token) == 200
    write_htpasswd(tmp_path / "users.htpasswd", {"bob": "pw-b"})
    assert status(door, token) == 401


# Administration.


def admin(door: Door, **more) -> str:
    return bearer(door.api_token("ops", "admin", service=True, **more))


def test_an_admin_makes_tokens_for_names_that_need_not_exist(door):
    answer = call(door, "/api/v1/admin/tokens", admin(door), username="ci", role="write", ttl_days=7, description="nightly")
    assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "no-store")
    assert (answer.json["expires_in_days"], answer.json["expires_in_secs"]) == (7, 7 * DAY)
    who = door.get("/api/v1/whoami", bearer(answer.json["token"])).json
    assert (who["name"], who["role"], who["token"]["service"]) == ("ci", "write", True)
    assert status(door, answer.json["token"], *PUSH) == 202
    usual = call(door, "/api/v1/admin/tokens", admin(door), username="ci").json
    assert usual["expires_in_days"] == 30
    assert status(door, usual["token"], *PUSH) == 403


@pytest.mark.parametrize(
    ("wanted", "members"),
    [
        (422, {}),
        (422, {"username": 5}),
        (422, {"username": None}),
        (400, {"username": ""}),
        (400, {"username": "a:b"}),
        (400, {"username": "a\nb"}),
        (400, {"username": "\ud800"}),
        (400, {"username": "a" * 256}),
        (400, {"username": "ci", "ttl_days": 0}),
        (400, {"username": "ci", "role": "root"}),
        (422, {"username": "ci", "role": None}),
        (422, {"username": "ci", "ttl_days": -1}),
        (422, {"username": "ci", "ttl_days": "7"}),
    ],
)
def test_what_an_admin_may_not_ask_for(door, wanted, members):
    answer = call(door, "/api/v1/admin/tokens", admin(door), **members)
    assert (answer.status_code, list(answer.json)) == (wanted, ["error"])


def test_only_admins_make_tokens_for_others(door):
    write, expired = bearer(door.api_token("alice")), admin(door, lifetime=-1)
    ask = [None, basic("alice", "pw-a"), basic("root", "pw-r"), write, expired, "Basic !"]
    assert [call(door, "/api/v1/admin/tokens", who, username="ci").status_code for who in ask] == [401, 403, 403, 403, 401, 401]


def test_a_limited_admin_makes_no_tokens_for_others(door):
    """They would be worth more than what they were made with."""
    scopes = (Scope(frozenset(Action(word) for word in ("pull", "push", "delete", "admin")), names=("team/**",)),)
    limited = admin(door, scopes=scopes)
    assert call(door, "/api/v1/admin/tokens", limited, username="ci", role="admin").status_code == 403
    assert call(door, "/api/tokens", limited).status_code == 403


@pytest.mark.parametrize(
    ("namespaces", "enforcement", "wanted"),
    [(("*",), "enforce", 200), (("team/*",), "enforce", 403), (("*",), "audit", 200), (("team/*",), "audit", 403), ((), "audit", 403)],
)
def test_an_identity_that_is_bound_to_a_namespace_makes_no_tokens_for_others(app_with, namespaces, enforcement, wanted):
    """Not even where the binding is only watched: the token would live on when it binds."""
    with Issuer() as issuer:
        rules = (RoleRule("*", "admin"),)
        provider = issuer.provider(role_rules=rules, namespace_scope=namespaces, namespace_scope_enforcement=enforcement)
        door = Door(app_with(auth={"oidc_enabled": True, "oidc_providers": (provider,)}))
        assert call(door, "/api/v1/admin/tokens", bearer(issuer.token()), username="ci").status_code == wanted


def test_an_identity_has_no_tokens_of_its_own(app_with):
    """Its name may look like a user's."""
    with Issuer() as issuer:
        provider = issuer.provider(role_rules=(RoleRule("*", "write"),))
        door = Door(app_with(auth={"users": USERS, "oidc_enabled": True, "oidc_providers": (provider,)}))
        made, identity = mint(door, **ALICE), bearer(issuer.token(sub="alice"))
        wanted = {"/api/tokens": 403, "/api/tokens/list": 200, "/api/tokens/revoke": 404, "/api/tokens/rotate": 404}
        assert {path: call(door, path, identity, hash_prefix=made["hash_prefix"]).status_code for path in TOKEN_ROUTES} == wanted
        assert call(door, "/api/tokens/list", identity).json == {"tokens": []}
        assert status(door, made["token"]) == 200


@pytest.mark.parametrize(("rest", "ttl_days", "lives"), [(600, 30, 600), (600, 3650, 600), (7200, 1, 7200), (DAY + 100, 1, DAY)])
def test_a_token_that_an_identity_makes_ends_with_it(app_with, rest, ttl_days, lives):
    """A job of a minute must not leave an account of ten years."""
    with Issuer(clock=lambda: 1_800_000_000) as issuer:
        provider = issuer.provider(role_rules=(RoleRule("*", "admin"),), max_token_lifetime_secs=10 * DAY)
        door = Door(app_with(auth={"oidc_enabled": True, "oidc_providers": (provider,)}))
        clock = door.stop_time()
        door.authenticator.oidc._clock = clock
        made = call(door, "/api/v1/admin/tokens", bearer(issuer.token(lifetime=rest)), username="ci", ttl_days=ttl_days).json
        assert made["expires_in_secs"] == lives
        clock.now += lives - 1
        assert status(door, made["token"]) == 200
        clock.now += 1
        assert status(door, made["token"]) == 401


# Records of NORA's own.


@pytest.mark.parametrize(
    ("user", "role", "service", "may_push"), [("bob", "write", False, False), ("ci", "write", True, True), ("ci", "read", True, False)]
)
def test_a_token_of_noras(app_with, user, role, service, may_push):
    """It does not say who made it. That of a user of ours is bound by the user's rights; another stands for itself, as it did there."""
    storage = MemoryStorage()
    door = Door(app_with(storage, auth={"users": USERS}, access={"rules": (rule(("pull",), users=("bob",)),)}))
    token = door.api_token(user, role)
    id = door.services.tokens.check(token).id
    members = json.loads(storage.whole(f"_auth/tokens/{id}.json"))
    storage.replace(f"_auth/tokens/{id}.json", json.dumps({name: members[name] for name in members if name not in ("service", "lifetime")}).encode())
    door.services.tokens._read.clear()
    assert door.get("/api/v1/whoami", bearer(token)).json["token"]["service"] is service
    assert status(door, token, *PUSH) == (202 if may_push else 403)


# Scopes.


def test_a_token_with_scopes_is_cut_to_them(door):
    scopes = [{"actions": ["read"], "names": ["team/**"]}, {"actions": ["push"], "repositories": ["docker"], "names": ["team/app"]}]
    token = mint(door, **ALICE, role="write", scopes=scopes)["token"]
    asked = [("GET", "team/lib/tags/list"), ("POST", "team/lib/blobs/uploads/"), ("POST", "team/app/blobs/uploads/"), ("GET", "other/tags/list")]
    assert [status(door, token, method, f"/v2/{path}") for method, path in asked] == [404, 403, 202, 403]
    assert listed(door, **ALICE)[0]["scopes"] == [
        {"actions": ["pull"], "repositories": ["*"], "names": ["team/**"]},
        {"actions": ["push"], "repositories": ["docker"], "names": ["team/app"]},
    ]


def test_scopes_give_nothing_that_the_role_does_not(door):
    token = mint(door, **ALICE, role="read", scopes=[{"actions": ["write", "admin"]}])["token"]
    assert [status(door, token, *PUSH), status(door, token, path="/api/v1/admin/logins")] == [403, 403]


def test_scopes_of_another_repository(door):
    token = mint(door, **ALICE, role="write", scopes=[{"actions": ["write"], "repositories": ["npm"]}])["token"]
    assert [status(door, token, *PUSH), status(door, token)] == [403, 200]


# What a token may do to tokens.


SCOPED = [{"actions": ["write"], "names": ["team/**"]}]


@pytest.mark.parametrize("role", ["read", "write", "admin"])
@pytest.mark.parametrize("more", [{}, {"scopes": SCOPED}], ids=["whole", "scoped"])
def test_a_token_makes_none(door, role, more):
    """What was stolen would live on after it was revoked."""
    token = mint(door, **ROOT, role=role, **more)["token"]
    for answer in (call(door, "/api/tokens", bearer(token)), call(door, "/api/tokens", username="root", password=token, role="read")):
        assert (answer.status_code, list(answer.json)) == (403, ["error"])
        assert "log in with a password" in answer.json["error"]
    assert len(listed(door, **ROOT)) == 1
    assert call(door, "/api/tokens", bearer(door.api_token("ci", role, service=True))).status_code == 403


@pytest.mark.parametrize("more", [{}, {"scopes": SCOPED}], ids=["whole", "scoped"])
def test_a_token_reaches_itself_alone(door, more):
    own, other = mint(door, **ALICE, role="write", **more), mint(door, **ALICE)
    header = bearer(own["token"])
    assert [entry["hash_prefix"] for entry in call(door, "/api/tokens/list", header).json["tokens"]] == [own["hash_prefix"]]
    for path in ("/api/tokens/revoke", "/api/tokens/rotate"):
        assert call(door, path, header, hash_prefix=other["hash_prefix"]).status_code == 404
    assert status(door, other["token"]) == 200
    new = call(door, "/api/tokens/rotate", header, hash_prefix=own["hash_prefix"]).json
    assert [status(door, own["token"]), status(door, new["token"])] == [401, 200]
    assert call(door, "/api/tokens/revoke", username="any", password=new["token"], hash_prefix=new["hash_prefix"]).status_code == 200
    assert [status(door, new["token"]), status(door, other["token"])] == [401, 200]


def test_a_bearer_token_reaches_none(door):
    made = mint(door, **ALICE)
    for login in (basic("alice", "pw-a"), basic("any", made["token"])):
        token = door.bearer_token(login, "repository:team/app:pull")
        wanted = {"/api/tokens": 403, "/api/tokens/list": 200, "/api/tokens/revoke": 404, "/api/tokens/rotate": 404}
        for path in TOKEN_ROUTES:
            for answer in (
                call(door, path, bearer(token), hash_prefix=made["hash_prefix"]),
                call(door, path, username="alice", password=token, hash_prefix=made["hash_prefix"]),
            ):
                assert answer.status_code == wanted[path]
                assert answer.status_code != 200 or answer.json == {"tokens": []}
    assert status(door, made["token"]) == 200


def test_an_admins_token_by_name_ends_as_admin_with_the_name(door):
    """admin_users counts when a token is used, not only when it is made."""
    token = mint(door, **ROOT, role="admin")["token"]
    assert status(door, token, path="/api/v1/admin/logins") == 200
    change(door.services.live, access=Access(Policy(enabled=True)))
    assert status(door, token, path="/api/v1/admin/logins") == 403


# Rotation.


def rotate(door: Door, authorization: str | None = None, **members):
    return call(door, "/api/tokens/rotate", authorization, **members)


def test_a_rotated_token_is_replaced_at_once(door):
    scopes = [{"actions": ["pull"], "repositories": ["*"], "names": ["team/**"]}]
    old = mint(door, **ALICE, ttl_days=7, role="write", description="ci", scopes=scopes)
    answer = rotate(door, **ALICE, hash_prefix=old["hash_prefix"])
    assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "no-store")
    assert answer.json["expires_in_secs"] == 7 * DAY
    assert [status(door, old["token"]), status(door, answer.json["token"])] == [401, 200]
    (entry,) = listed(door, **ALICE)
    assert (entry["hash_prefix"], entry["role"], entry["description"], entry["scopes"]) == (answer.json["hash_prefix"], "write", "ci", scopes)


def test_a_rotation_with_overlap_lets_both_live_for_a_while(door):
    clock = door.stop_time()
    old = mint(door, **ALICE)
    new = rotate(door, **ALICE, hash_prefix=old["hash_prefix"], overlap_secs=600).json
    clock.now += 599
    assert [status(door, old["token"]), status(door, new["token"])] == [200, 200]
    clock.now += 1
    assert [status(door, old["token"]), status(door, new["token"])] == [401, 200]
    assert new["token"] != old["token"]


def test_an_overlap_gives_the_old_token_no_more_time(door):
    clock = door.stop_time()
    old = mint(door, **ALICE, ttl_days=1)
    assert rotate(door, **ALICE, hash_prefix=old["hash_prefix"], overlap_secs=10 * DAY).status_code == 200
    clock.now += DAY
    assert status(door, old["token"]) == 401


@pytest.mark.parametrize(
    ("overlap", "wanted"), [("5", 422), (1.5, 422), (True, 422), (None, 422), (-1, 422), (30 * DAY + 1, 400), (30 * DAY, 200), (0, 200)]
)
def test_overlaps(door, overlap, wanted):
    prefix = mint(door, **ALICE)["hash_prefix"]
    assert rotate(door, **ALICE, hash_prefix=prefix, overlap_secs=overlap).status_code == wanted


def test_an_expired_token_is_not_rotated(door):
    assert rotate(door, **ALICE, hash_prefix=mint(door, **ALICE, ttl_days=0)["hash_prefix"]).status_code == 404


def test_a_token_that_rotates_itself_keeps_its_end_and_a_password_gives_a_new_one(door):
    """Else whoever has found a token has it for ever."""
    clock = door.stop_time()
    made = mint(door, **ALICE, ttl_days=10, role="write")
    clock.now += 4 * DAY
    made = rotate(door, bearer(made["token"]), hash_prefix=made["hash_prefix"]).json
    assert made["expires_in_secs"] == 6 * DAY
    clock.now += DAY
    made = rotate(door, username="any", password=made["token"], hash_prefix=made["hash_prefix"], overlap_secs=60).json
    assert made["expires_in_secs"] == 5 * DAY
    first = mint(door, **ALICE, ttl_days=10)
    clock.now += 9 * DAY
    assert rotate(door, **ALICE, hash_prefix=first["hash_prefix"]).json["expires_in_secs"] == 10 * DAY


def test_an_admins_token_that_rotates_itself_begins_anew(door):
    clock = door.stop_time()
    made = call(door, "/api/v1/admin/tokens", admin(door), username="ops", role="admin", ttl_days=10).json
    clock.now += DAY
    assert rotate(door, bearer(made["token"]), hash_prefix=made["hash_prefix"]).json["expires_in_secs"] == 10 * DAY


def test_a_token_that_was_rotated_is_gone_for_the_next(door):
    made = mint(door, **ALICE)
    assert rotate(door, **ALICE, hash_prefix=made["hash_prefix"]).status_code == 200
    assert rotate(door, **ALICE, hash_prefix=made["hash_prefix"]).status_code == 404
