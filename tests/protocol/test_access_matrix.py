"""Every route x every method of it x every kind of principal, generated from the URL map: who passes the guard, and what the others are told.

What is expected follows from the action that the view declares, from the name in the address, and from what each principal may do, as WHO below
says in plain words. A route that the rule cannot place fails the test.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from flask import Flask
from werkzeug.routing import Rule
from werkzeug.test import TestResponse

from noraflask.config import RoleRule
from noraflask.digest import Digest
from noraflask.services.auth.principal import Action, Scope
from noraflask.web.targets import INNER
from tests.oidc import Issuer
from tests.protocol.access import ALL, CONTACT, Authorized, Door, basic, bearer, guarded, parse_challenge, rule, words_of
from tests.protocol.oci import Registry, code, image

IN, OUT = "team/app", "other/app"
NAMES = (IN, OUT)
PASSES = "passes the guard"

# What principals there are, and what each may do to which name.

PULL, PUSH, DELETE = Action.PULL, Action.PUSH, Action.DELETE
NOTHING: dict[str, set[Action]] = {IN: set(), OUT: set()}
READS = {IN: {PULL}, OUT: {PULL}}
WRITES = {IN: {PULL, PUSH, DELETE}, OUT: {PULL, PUSH, DELETE}}
ONLY_IN = {IN: {PULL, PUSH, DELETE}, OUT: set()}


@dataclass(frozen=True)
class Who:
    """`may` is without what is open to all. `known`: credentials that are good; None: there are none."""

    may: dict[str, set[Action]]
    known: bool | None = True
    admin: bool = False
    closed: tuple[str, ...] = ()
    """Names that not even what is open to all opens: a deny rule or a limit of the credential is above it."""
    own: dict[str, set[Action]] | None = None
    """Of a bearer token: what its owner may; for that the client has only to ask for another token."""
    listing: bool = True
    """May it see the list of names? A bearer token that was not issued for it may not."""
    mints: bool = False
    """May it make an API token of its own? That takes a password."""


WHO = {
    "anonymous": Who(NOTHING, known=None),
    "bad password": Who(NOTHING, known=False),
    "unknown user": Who(NOTHING, known=False),
    "malformed header": Who(NOTHING, known=False),
    "other scheme": Who(NOTHING, known=False),
    "expired API token": Who(NOTHING, known=False),
    "revoked API token": Who(NOTHING, known=False),
    "API token of a user who is gone": Who(NOTHING, known=False),
    "expired bearer token": Who(NOTHING, known=False),
    "bearer token of another registry": Who(NOTHING, known=False),
    "refresh token as bearer token": Who(NOTHING, known=False),
    "expired OIDC token": Who(NOTHING, known=False),
    "empty Basic login": Who(NOTHING, known=None),
    "reader": Who(READS),
    "writer": Who(WRITES, mints=True),
    "writer token": Who(WRITES),
    "writer token as password": Who(WRITES),
    "scoped writer token": Who(ONLY_IN, closed=(OUT,)),
    "scoped token that only pushes": Who({IN: {PUSH}, OUT: set()}, closed=(IN, OUT), listing=False),
    "user limited by rule": Who(ONLY_IN, mints=True),
    "token of a user limited by rule": Who(ONLY_IN),
    "user without any right": Who(NOTHING, listing=False, mints=True),
    "user with a deny rule": Who({IN: set(), OUT: {PULL, PUSH, DELETE}}, closed=(IN,), mints=True),
    "admin": Who(WRITES, admin=True),
    "OIDC": Who({IN: {PULL, PUSH, DELETE}, OUT: {PULL}}),
    "OIDC as password": Who({IN: {PULL, PUSH, DELETE}, OUT: {PULL}}),
    "OIDC, exchanged": Who({IN: {PULL, PUSH, DELETE}, OUT: {PULL}}),
    "OIDC that a claim rule lets in": Who({IN: {PULL}, OUT: set()}),
    "bearer token": Who(ONLY_IN, closed=(OUT,), own=WRITES, listing=False),
    "bearer token to pull": Who({IN: {PULL}, OUT: set()}, closed=(OUT,), own=WRITES, listing=False),
    "bearer token of a reader": Who({IN: {PULL}, OUT: set()}, closed=(OUT,), own=READS, listing=False),
    "bearer token of one limited by rule": Who(ONLY_IN, closed=(OUT,), own=ONLY_IN, listing=False),
    "bearer token of an OIDC identity": Who(ONLY_IN, closed=(OUT,), own={IN: {PULL, PUSH, DELETE}, OUT: {PULL}}, listing=False),
    "bearer token for the catalog": Who(NOTHING, closed=(IN, OUT), own=WRITES),
}
SETTINGS = {
    "closed": {},
    "anonymous_read": {"anonymous_read": True},
    "docker_anon_pull": {"docker_anon_pull": True},
    "both": {"anonymous_read": True, "docker_anon_pull": True},
}

# What is expected.

SELF_CHECKING = {
    "ops.health": "open",
    "ops.ready": "open",
    "setup.home": "open",
    "setup.clients": "open",
    "setup.client": "open",
    "auth.mint_token": "password",
    "auth.list_tokens": "caller",
    "auth.revoke_token": "caller",
    "auth.rotate_token": "caller",
    "auth.whoami": "credentials",
    "auth.exchange": "exchange",
    "docker.get_token": "token",
    "docker.post_token": "open",  # its credentials are in the form; test_login.py has them
}
"""Views that declare PUBLIC: who is let in by the view itself."""


def expected(action: Action, endpoint: str, name: str | None, who_is: str, is_open: bool) -> int | str:
    """401, 403 or PASSES. `is_open`: docker images may be pulled without a login."""
    who = WHO[who_is]
    if action is Action.PUBLIC:
        return of_public(SELF_CHECKING[endpoint], who_is, is_open)
    if who.known is False:
        return 401
    if action is Action.LOGIN:
        return PASSES if who.known else 401
    if action is Action.ADMIN:
        return 401 if who.known is None else PASSES if who.admin else 403
    if name is None:
        assert action is PULL, "only a listing has no name"
        return of_listing(who, is_open)
    if action in who.may[name] or (is_open and action is PULL and name not in who.closed):
        return PASSES
    if who.known is None:
        return 401
    own = who.own is not None and (action in who.own[name] or (is_open and action is PULL))
    return 401 if own else 403


def of_listing(who: Who, is_open: bool) -> int | str:
    if who.known is None:
        return 401
    if who.own is not None:
        return PASSES if who.listing else 401
    return PASSES if who.listing or (is_open and not who.closed) else 403


def of_public(check: str, who_is: str, is_open: bool) -> int | str:
    who = WHO[who_is]
    if check == "open":
        return PASSES
    if who.known is False:
        return 401
    if check == "credentials":
        return PASSES
    if check == "token":
        return 401 if who.own is not None else PASSES if who.known or is_open else 401  # a bearer token is no login
    if check == "exchange":  # for OIDC tokens of the issuer alone; without credentials the body is asked, and ours is empty
        return PASSES if who_is in ("OIDC", "OIDC as password", "OIDC that a claim rule lets in", "anonymous", "empty Basic login") else 401
    assert check in ("caller", "password"), check
    if who.known is None:
        return 401 if who_is == "empty Basic login" else PASSES  # 422: neither body nor header says who asks
    return PASSES if who.mints or check == "caller" else 403  # a caller finds no token that is not its own


# The cells.


@dataclass(frozen=True)
class Cell:
    rule: Rule
    method: str
    name: str | None


def rules_of(app: Flask) -> list[Rule]:
    """All of docker and of the server itself; those of the other formats differ in nothing but whose challenge they send."""
    return [rule for rule in app.url_map.iter_rules() if rule.rule.startswith("/.docker") or not rule.rule.startswith(INNER)]


def cells_of(app: Flask) -> list[Cell]:
    return [
        Cell(rule, method, name)
        for rule in rules_of(app)
        for method in sorted(rule.methods or ())
        for name in (NAMES if "name" in rule.arguments else (None,))
    ]


ARGUMENTS = {"digest": str(Digest.of(b"nobody has this")), "session": "0123456789", "reference": "1", "client": "docker", "repository": "docker"}


def path_of(cell: Cell) -> str:
    values = {argument: ARGUMENTS[argument] for argument in cell.rule.arguments if argument != "name"}  # KeyError: say how the argument is filled
    path = str(cell.rule.rule).replace("<path:name>", cell.name or "").replace(f"{INNER}docker", "/v2", 1)
    for argument, value in values.items():
        path = path.replace(f"<{argument}>", value)
    assert "<" not in path, f"{cell.rule} has a part that this test cannot fill"
    return path


# The app.

USERS = {"writer": "pw-w", "limited": "pw-l", "powerless": "pw-p", "barred": "pw-b"}


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with Issuer() as found:
        yield found


@pytest.fixture(scope="module", params=SETTINGS)
def setting(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def door(setting, issuer, tmp_path_factory) -> Door:
    rules = (
        rule(ALL, users=("writer", "barred", "gone")),
        rule(ALL, users=("limited",), names=("team/**",)),
        rule(ALL, users=("barred",), names=("team/**",), effect="deny"),
        rule(("pull",), claims=(("pipeline", "nightly"),), names=("team/*",)),
    )
    provider = issuer.provider(role_rules=(RoleRule("repo:team/*", "write"),), namespace_scope=("team/*",))
    auth = {"users": USERS, "oidc_enabled": True, "oidc_providers": (provider,), **SETTINGS[setting]}
    return Door(guarded(tmp_path_factory.mktemp("door"), auth=auth, access={"rules": rules, "contact": CONTACT}))


@pytest.fixture(scope="module")
def headers(door, issuer, tmp_path_factory) -> dict[str, str | None]:
    """The Authorization header of each principal."""
    writer = basic("writer", USERS["writer"])
    scopes = {"scopes": (Scope(frozenset((PULL, PUSH, DELETE)), names=("team/**",)),)}
    only_push = {"scopes": (Scope(frozenset((PUSH,)), names=("team/**",)),)}
    reader = basic("writer", door.api_token("writer", "read"))
    revoked = door.api_token("writer")
    door.services.tokens.revoke(door.services.tokens.check(revoked).id)
    oidc, nightly = issuer.token(sub="repo:team/app"), issuer.token(sub="somebody", pipeline="nightly")
    password = door.authenticator.login("writer", USERS["writer"], {})
    elsewhere = Door(guarded(tmp_path_factory.mktemp("elsewhere"), auth={"users": USERS}))
    image = f"repository:{IN}:pull,push,delete"
    return {
        "anonymous": None,
        "bad password": basic("writer", "wrong"),
        "unknown user": basic("nobody", "pw-w"),
        "malformed header": "Basic !!!",
        "other scheme": "Digest " + base64.b64encode(b"writer:pw-w").decode(),
        "expired API token": bearer(door.api_token("writer", lifetime=-1)),
        "revoked API token": bearer(revoked),
        "API token of a user who is gone": bearer(door.api_token("gone")),
        "expired bearer token": bearer(door.signed(password, -1, scopes=(Scope(frozenset((PULL, PUSH, DELETE)), ("docker",), (IN,)),))),
        "bearer token of another registry": bearer(elsewhere.bearer_token(writer, image)),
        "refresh token as bearer token": bearer(door.signed(password, 600, "refresh", None)),
        "expired OIDC token": bearer(issuer.token(lifetime=-3600, iat=1)),
        "empty Basic login": basic("", ""),
        "reader": reader,
        "writer": writer,
        "writer token": bearer(door.api_token("writer")),
        "writer token as password": basic("whoever", door.api_token("writer")),
        "scoped writer token": bearer(door.api_token("writer", **scopes)),
        "scoped token that only pushes": bearer(door.api_token("writer", **only_push)),
        "user limited by rule": basic("limited", USERS["limited"]),
        "token of a user limited by rule": bearer(door.api_token("limited")),
        "user without any right": basic("powerless", USERS["powerless"]),
        "user with a deny rule": basic("barred", USERS["barred"]),
        "admin": bearer(door.api_token("ops", "admin", service=True)),
        "OIDC": bearer(oidc),
        "OIDC as password": basic("oidc", oidc),
        "OIDC, exchanged": bearer(door.post("/api/v1/token/exchange", bearer(oidc)).json["access_token"]),
        "OIDC that a claim rule lets in": bearer(nightly),
        "bearer token": bearer(door.bearer_token(writer, image)),
        "bearer token to pull": bearer(door.bearer_token(writer, f"repository:{IN}:pull")),
        "bearer token of a reader": bearer(door.bearer_token(reader, image)),
        "bearer token of one limited by rule": bearer(door.bearer_token(basic("limited", USERS["limited"]), image, f"repository:{OUT}:push")),
        "bearer token of an OIDC identity": bearer(door.bearer_token(basic("oidc", oidc), image)),
        "bearer token for the catalog": bearer(door.bearer_token(writer, "registry:catalog:*")),
    }


def ask(door: Door, cell: Cell, authorization: str | None) -> TestResponse:
    body = {"json": {}} if cell.rule.rule.startswith("/api/") and cell.method == "POST" else {}
    return door.ask(cell.method, path_of(cell), authorization, **body)


# The matrix.


def test_every_principal_has_a_header_and_every_public_view_a_place(door, headers):
    assert set(headers) == set(WHO)
    views = {endpoint for endpoint, view in door.app.view_functions.items() if view.access is Action.PUBLIC}
    assert views == set(SELF_CHECKING)


@pytest.mark.parametrize("who_is", WHO)
def test_the_matrix(door, headers, setting, who_is):
    is_open = SETTINGS[setting].get("docker_anon_pull", False)
    asked, wrong = set(), []
    for cell in cells_of(door.app):
        action = door.app.view_functions[cell.rule.endpoint].access
        wanted = expected(action, cell.rule.endpoint, cell.name, who_is, is_open)
        answer = ask(door, cell, headers[who_is])
        found = answer.status_code if answer.status_code in (401, 403) else PASSES
        if found != wanted or answer.status_code >= 500:
            wrong.append((cell.method, path_of(cell), answer.status_code, "expected", wanted, answer.text[:200]))
            continue
        asked.add((cell.rule.endpoint, cell.method, cell.name))
        with contextlib.suppress(KeyError):
            {401: check_401, 403: check_403}[answer.status_code](answer, cell, action, who_is)
    assert wrong == []
    wanted_cells = sum(len(rule.methods or ()) * (2 if "name" in rule.arguments else 1) for rule in rules_of(door.app))
    assert len(asked) == wanted_cells > 50


def test_options_pass_by_no_guard(door, headers):
    """What the framework would answer by itself no guard sees; there is nothing of the kind."""
    assert not any("OPTIONS" in (found.methods or ()) for found in door.app.url_map.iter_rules())
    for path in {path_of(cell) for cell in cells_of(door.app)}:
        assert [door.ask("OPTIONS", path, headers[who_is]).status_code for who_is in ("anonymous", "admin")] == [405, 405]


def check_401(answer: TestResponse, cell: Cell, action: Action, who_is: str) -> None:
    """RFC 9110, 11.6.1: always with a challenge, which is the format's own; the words of the format."""
    scheme, parts = parse_challenge(answer)
    assert answer.headers["WWW-Authenticate"].isascii()
    is_oci = cell.rule.rule.startswith("/.docker")
    if not is_oci or action is Action.PUBLIC:
        assert scheme == "Basic", "the token endpoint itself takes Basic"
        assert parts["realm"]
    else:
        assert (scheme, parts["realm"], parts["service"]) == ("Bearer", "http://localhost/v2/token", "localhost")
        assert parts.get("scope") == scope_of(cell, action)
        usable = WHO[who_is]
        assert parts.get("error") == ("invalid_token" if usable.known is False else "insufficient_scope" if usable.known else None)
    if cell.method != "HEAD":
        assert (code(answer) == (401, "UNAUTHORIZED")) if is_oci else words_of(answer)


def scope_of(cell: Cell, action: Action) -> str | None:
    """What the client is told to ask for; push includes pull, since clients look before they push."""
    if action is Action.LOGIN:
        return None
    if cell.name is None:
        return "registry:catalog:*"
    return f"repository:{cell.name}:{'pull,push' if action is PUSH else action.value}"


def check_403(answer: TestResponse, cell: Cell, action: Action, who_is: str) -> None:
    """Which right is missing, on which name, and whom to ask."""
    assert "WWW-Authenticate" not in answer.headers
    if cell.method == "HEAD":
        return
    words = words_of(answer)
    assert words
    if cell.rule.rule.startswith("/.docker"):
        assert code(answer) == (403, "DENIED")
    if action is Action.PUBLIC:
        return
    assert f"may not {action.value} {cell.name or ('this server' if action is Action.ADMIN else 'anything here')}" in words
    assert f"turn to {CONTACT}" in words
    detail = answer.json["errors"][0]["detail"] if "errors" in answer.json else answer.json["detail"]
    assert (detail["action"], detail["name"]) == (action.value, cell.name)


def test_a_denial_says_by_what(door, headers):
    assert "rule 3" in words_of(door.ask("PUT", f"/v2/{IN}/manifests/1", headers["user with a deny rule"]))
    assert "role is read" in words_of(door.ask("PUT", f"/v2/{IN}/manifests/1", headers["reader"]))
    assert "the token's scopes" in words_of(door.ask("PUT", f"/v2/{OUT}/manifests/1", headers["scoped writer token"]))
    assert "namespaces" in words_of(door.ask("PUT", f"/v2/{OUT}/manifests/1", headers["OIDC"]))
    assert "no rule grants push there" in words_of(door.ask("PUT", f"/v2/{OUT}/manifests/1", headers["user limited by rule"]))


# Mount and copy across repositories.


@pytest.fixture
def secret(door, headers) -> Digest:
    """A blob that `limited` may not read: it is in another namespace only."""
    digest = Digest.of(b"secret")
    answer = door.post(f"/v2/{OUT}/blobs/uploads/?digest={digest}", headers["writer"], data=b"secret")
    assert answer.status_code == 201
    return digest


def forget(door: Door, name: str, digest: Digest, authorization: str | None) -> None:
    door.ask("DELETE", f"/v2/{name}/blobs/{digest}", authorization)


MOUNTS = {
    "user limited by rule": 202,
    "token of a user limited by rule": 202,
    "scoped writer token": 202,
    "bearer token": 401,  # its owner may read the source, so a token for both is to be had
    "bearer token of one limited by rule": 202,
    "writer": 201,
    "writer token": 201,
    "admin": 201,
    "OIDC": 201,  # its namespaces bound what it writes, not what it reads
}
OPENED = {"user limited by rule", "token of a user limited by rule"}
"""For whom docker_anon_pull opens the source: they have a right to pull it then, and nothing cuts it."""


@pytest.mark.parametrize("source", [f"&from={OUT}", ""])
@pytest.mark.parametrize("who_is", MOUNTS)
def test_a_mount_from_a_name_that_one_may_not_read_begins_an_upload(door, headers, setting, secret, who_is, source):
    opened = bool(SETTINGS[setting].get("docker_anon_pull"))
    wanted = 201 if who_is in OPENED and opened else MOUNTS[who_is]
    if who_is == "bearer token" and not source:
        wanted = 202
    if who_is == "bearer token of one limited by rule" and source and opened:
        wanted = 401
    answer = door.post(f"/v2/{IN}/blobs/uploads/?mount={secret}{source}", headers[who_is])
    assert answer.status_code == wanted
    if wanted == 401:
        scope = f'scope="repository:{IN}:pull,push repository:{OUT}:pull",error="insufficient_scope"'
        assert scope in answer.headers["WWW-Authenticate"]
    found = door.get(f"/v2/{IN}/blobs/{secret}", headers["writer"]).status_code
    forget(door, IN, secret, headers["writer"])
    assert found == (200 if wanted == 201 else 404)


@pytest.mark.parametrize("who_is", ["anonymous", "bad password", "reader", "user without any right", "OIDC"])
def test_a_mount_into_a_name_that_one_may_not_write_is_refused(door, headers, secret, who_is):
    forget(door, OUT, secret, headers["writer"])
    door.post(f"/v2/{IN}/blobs/uploads/?digest={secret}", headers["writer"], data=b"secret")
    answer = door.post(f"/v2/{OUT}/blobs/uploads/?mount={secret}&from={IN}", headers[who_is])
    assert answer.status_code == (401 if who_is in ("anonymous", "bad password") else 403)
    assert door.get(f"/v2/{OUT}/blobs/{secret}", headers["writer"]).status_code == 404
    forget(door, IN, secret, headers["writer"])


@pytest.mark.parametrize("source", ["../other/app", "Other", "other/app/", "other//app", "other/app%00"])
def test_a_mount_from_what_is_no_name_finds_nothing(door, headers, secret, source):
    answer = door.post(f"/v2/{IN}/blobs/uploads/?mount={secret}&from={source}", headers["writer"])
    assert answer.status_code in (202, 400)
    assert door.get(f"/v2/{IN}/blobs/{secret}", headers["writer"]).status_code == 404


def test_a_bearer_token_for_both_names_mounts(door, headers, secret):
    token = door.bearer_token(headers["writer"], f"repository:{IN}:pull,push", f"repository:{OUT}:pull")
    assert door.post(f"/v2/{IN}/blobs/uploads/?mount={secret}&from={OUT}", bearer(token)).status_code == 201
    forget(door, IN, secret, headers["writer"])


def test_a_manifest_may_not_name_blobs_of_a_name_that_one_may_not_read(door, headers, secret):
    """A copy by manifest alone: the blob is on the server, and the name that is pushed to does not have it."""
    registry = Registry(Authorized(door, headers["user limited by rule"]))
    registry.push_blob(IN, b"{}")
    assert code(registry.push(IN, "copy", image(layers=(b"secret",)))) == (400, "MANIFEST_BLOB_UNKNOWN")


def test_an_upload_session_belongs_to_its_name(door, headers):
    location = door.post(f"/v2/{OUT}/blobs/uploads/", headers["writer"]).headers["Location"]
    session = location.rpartition("/")[2]
    for method in ("GET", "PATCH", "PUT", "DELETE"):
        path = f"/v2/{IN}/blobs/uploads/{session}?digest={Digest.of(b'x')}"
        assert door.ask(method, path, headers["user limited by rule"], data=b"x").status_code == 404
        assert door.ask(method, location, headers["user limited by rule"], data=b"x").status_code == 403
    assert door.get(location, headers["writer"]).status_code == 204


# Listings.


@pytest.mark.parametrize(
    ("who_is", "closed", "opened"),
    [
        ("writer", [OUT, IN], [OUT, IN]),
        ("reader", [OUT, IN], [OUT, IN]),
        ("admin", [OUT, IN], [OUT, IN]),
        ("user limited by rule", [IN], [OUT, IN]),
        ("scoped writer token", [IN], [IN]),
        ("user with a deny rule", [OUT], [OUT]),
        ("OIDC", [OUT, IN], [OUT, IN]),
        ("OIDC that a claim rule lets in", [IN], [OUT, IN]),
        ("bearer token for the catalog", [OUT, IN], [OUT, IN]),
        ("user without any right", None, [OUT, IN]),
    ],
)
def test_the_catalog_shows_what_one_may_pull(door, headers, setting, who_is, closed, opened):
    for name in NAMES:
        if door.get(f"/v2/{name}/tags/list", headers["admin"]).status_code == 404:
            Registry(Authorized(door, headers["admin"])).push_image(name, "1")
    wanted = opened if SETTINGS[setting].get("docker_anon_pull") else closed
    answer = door.get("/v2/_catalog", headers[who_is])
    assert (answer.json["repositories"] if answer.status_code == 200 else None) == wanted
    if wanted:
        assert door.get("/v2/_catalog?n=1", headers[who_is]).json["repositories"] == wanted[:1]
