"""OIDC tokens: what is accepted, what it becomes, and every way to be refused."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc.jwk import ECKey, OctKey, RSAKey
from joserfc.jws import JWSRegistry

from noraflask.config import OidcProvider, RoleRule
from noraflask.json_document import parse_object
from noraflask.services.auth.key_sets import ALGORITHMS, KeySet
from noraflask.services.auth.oidc import MAX_TOKEN_BYTES, REFUSALS, Oidc, OidcRefused, flatten, looks_like_jwt
from noraflask.services.auth.principal import Source
from tests.oidc import Issuer, base64url, private_key, sign

NOW = 1_800_000_000
ALL = tuple(ALGORITHMS)


@pytest.fixture(scope="module")
def issuer():
    with Issuer(clock=lambda: NOW) as running:
        yield running


@pytest.fixture(scope="module")
def oidc(issuer):
    return oidc_of(issuer.provider())


def oidc_of(*providers, now=NOW, **options):
    return Oidc(providers, 60, 3600, None, clock=lambda: now, **options)


def refusal(oidc, token):
    with pytest.raises(OidcRefused) as caught:
        oidc.verify(token)
    assert caught.value.status == 401
    assert caught.value.reason in REFUSALS
    assert len(token) < 20 or token not in caught.value.message
    return caught.value.reason


# Accepted.


@pytest.mark.parametrize("alg", ["RS256", "RS512", "PS256", "ES256", "EdDSA", "Ed25519"])
def test_a_sound_token_is_its_subject(issuer, alg):
    principal = oidc_of(issuer.provider(algorithms=ALL)).verify(issuer.token(alg, lifetime=600, ref="main"))
    assert (principal.name, principal.source, principal.provider, principal.role) == ("repo:team/app", Source.OIDC, "ci", "write")
    assert principal.expires_at == NOW + 600
    assert ("ref", "main") in principal.claims
    assert principal.namespace_scopes == (("*",),)


def test_what_a_header_says_of_keys_is_not_looked_at(issuer, oidc):
    other = RSAKey.generate_key(2048)
    lies = {"jwk": other.as_dict(private=False), "jku": "http://127.0.0.1:1/", "x5u": "http://127.0.0.1:1/", "x5c": ["AAAA" * 500]}
    assert oidc.verify(issuer.token(header=lies)).name == "repo:team/app"
    header = {"alg": "RS256", "kid": issuer.kid(), **lies}
    assert refusal(oidc, sign(header, issuer.claims(), other, "RS256")) == "jwt_invalid"


@pytest.mark.parametrize(("claims", "pairs"), [
    ({"a": "x", "n": 7, "nothing": None, "half": 0.5}, [("a", "x"), ("n", "7"), ("half", "0.5")]),
    ({"yes": True, "no": False}, [("yes", "true"), ("no", "false")]),
    ({"aud": ["a", "b"]}, [("aud", "a"), ("aud", "b")]),
    ({"kubernetes.io": {"pod": {"name": "p"}, "groups": ["g", {"h": 1}]}},
     [("kubernetes.io.pod.name", "p"), ("kubernetes.io.groups", "g"), ("kubernetes.io.groups.h", "1")]),
    ({"long": "x" * 5000, "n" * 600: 1}, [("long", "x" * 5000), ("n" * 600, "1")]),
    ({"a": [[[[[[["seven"]]]]]]], "b": 1}, [("a", "seven"), ("b", "1")]),
    ({"half": "a\ud800b", "\udfff": {"\ud800": 1}, "inf": float("inf"), "ok": "é"}, [("half", "a?b"), ("?.?", "1"), ("ok", "é")]),
    ({"z": 1, "many": [*range(496), "a", "a"], "b": 1}, [("z", "1"), *(("many", str(i)) for i in range(496)), *[("many", "a")] * 2, ("b", "1")]),
])  # fmt: skip
def test_claims_become_pairs_of_text(claims, pairs):
    assert flatten(claims) == tuple(pairs)


@pytest.mark.parametrize("claims", [
    {"groups": [*range(500), "contractors"]},
    {"a": {str(i): i for i in range(250)}, "b": list(range(251))},
    {"a": [[[[[[[["eight"]]]]]]]]},
    {"a": {"b": {"c": {"d": {"e": {"f": {"g": {"h": {}}}}}}}}},
    {"kept": 1, "a": [[[[[[[[]]]]]]]]},
])  # fmt: skip
def test_claims_that_cannot_all_be_kept_refuse_the_token(issuer, claims):
    """A rule that denies by a claim which was left out would let pass."""
    with pytest.raises(OidcRefused) as caught:
        flatten(claims)
    assert caught.value.reason == "claims"
    assert refusal(oidc_of(issuer.provider()), issuer.token(**claims)) == "claims"


def test_claims_reach_the_principal_in_their_order(issuer, oidc):
    claims = oidc.verify(issuer.token(zeta=1, alpha=["b", "a", "b"], long="x" * 2000, half="\ud800")).claims
    assert claims[-6:] == (("zeta", "1"), ("alpha", "b"), ("alpha", "a"), ("alpha", "b"), ("long", "x" * 2000), ("half", "?"))


@pytest.mark.parametrize(("rules", "role", "scopes"), [
    ((RoleRule("repo:team/*", "read"), RoleRule("*", "admin")), "read", (("team/**",),)),
    ((RoleRule("repo:other/*", "read"), RoleRule("*app", "admin")), "admin", (("team/**",),)),
    ((RoleRule("repo:*/app", "write", ("team/a",)),), "write", (("team/**",), ("team/a",))),
    ((RoleRule("repo:team/app", "write", ()),), "write", (("team/**",), ())),
])  # fmt: skip
def test_the_first_rule_of_the_subject_gives_role_and_scope(issuer, rules, role, scopes):
    provider = issuer.provider(role_rules=rules, namespace_scope=("team/**",))
    principal = oidc_of(provider).verify(issuer.token())
    assert (principal.role, principal.namespace_scopes) == (role, scopes)


def test_scopes_that_are_only_audited_do_not_bind(issuer):
    provider = issuer.provider(namespace_scope=("team/**",), namespace_scope_enforcement="audit")
    assert oidc_of(provider).verify(issuer.token()).namespace_scopes == ()


def test_an_identity_without_a_role_comes_in_when_an_access_rule_names_it(issuer):
    provider = issuer.provider(role_rules=(RoleRule("repo:other/*", "read"),))
    asked = []
    principal = oidc_of(provider, accepts=lambda principal: asked.append(principal) or True).verify(issuer.token(team="blue"))
    assert asked == [principal]
    assert principal.role is None
    assert ("team", "blue") in principal.claims
    assert refusal(oidc_of(provider), issuer.token()) == "no_role_rule"
    assert refusal(oidc_of(issuer.provider(role_rules=())), issuer.token()) == "no_role_rule"


def test_an_identity_of_before_is_judged_by_the_rules_of_now(issuer):
    oidc = oidc_of(issuer.provider(role_rules=(RoleRule("repo:a", "read"),)), OidcProvider("off", "http://off", enabled=False))
    assert oidc.identity("ci", "repo:a", (("x", "y"),), NOW + 5.0).role == "read"
    for provider, subject, reason in (("ci", "repo:b", "no_role_rule"), ("off", "repo:a", "disabled"), ("gone", "repo:a", "no_provider")):
        with pytest.raises(OidcRefused) as caught:
            oidc.identity(provider, subject, (), NOW + 5.0)
        assert caught.value.reason == reason


def test_a_refusal_names_the_provider_and_only_a_proven_subject(issuer):
    oidc = oidc_of(issuer.provider(role_rules=()))
    with pytest.raises(OidcRefused) as caught:
        oidc.verify(issuer.token())
    assert (caught.value.provider, caught.value.subject) == ("ci", "repo:team/app")
    with pytest.raises(OidcRefused) as caught:
        oidc.verify(sign({"alg": "RS256", "kid": issuer.kid()}, issuer.claims(), private_key("rsa", 99), "RS256"))
    assert (caught.value.provider, caught.value.subject) == ("ci", "")


# Times.


@pytest.mark.parametrize(("offset", "reason"), [
    (-61, "jwt_invalid"), (-60, None), (0, None), (659, None), (660, "expired"),
])  # fmt: skip
def test_a_clock_that_is_off_by_the_leeway_is_borne(issuer, offset, reason):
    oidc = oidc_of(issuer.provider(), now=NOW + offset)
    token = issuer.token(lifetime=600)
    assert (refusal(oidc, token) if reason else oidc.verify(token) and None) == reason


TIMES = {
    "no exp": ({"exp": None}, "jwt_invalid"),
    "expired": ({"exp": NOW - 60, "iat": NOW - 100}, "expired"),
    "issued later": ({"iat": NOW + 61}, "jwt_invalid"),
    "not yet": ({"nbf": NOW + 61}, "jwt_invalid"),
    "not yet, without iat": ({"nbf": NOW + 61, "iat": None}, "jwt_invalid"),
    "a second too long": ({"exp": NOW + 7201}, "lifetime_exceeded"),
    "a second too long since nbf": ({"exp": NOW + 7201, "iat": None, "nbf": NOW}, "lifetime_exceeded"),
    "iat long ago": ({"iat": NOW - 7200, "exp": NOW + 1}, "lifetime_exceeded"),
    "neither iat nor nbf": ({"iat": None}, "lifetime_exceeded"),
    "exp a text": ({"exp": str(NOW + 60)}, "jwt_invalid"),
    "exp a bool": ({"exp": True}, "jwt_invalid"),
    "exp a list": ({"exp": [NOW + 60]}, "jwt_invalid"),
    "exp huge": ({"exp": 10**400}, "jwt_invalid"),
    "exp negative": ({"exp": -1}, "jwt_invalid"),
    "iat a bool": ({"iat": False}, "jwt_invalid"),
    "iat negative": ({"iat": -(10**400)}, "jwt_invalid"),
    "nbf a text": ({"nbf": "0"}, "jwt_invalid"),
}
OTHERS = {
    "no sub": ({"sub": None}, "jwt_invalid"),
    "sub empty": ({"sub": ""}, "jwt_invalid"),
    "sub too long": ({"sub": "x" * 1025}, "jwt_invalid"),
    "sub with a line feed": ({"sub": "a\nb"}, "jwt_invalid"),
    "sub with half a pair": ({"sub": "\ud800"}, "jwt_invalid"),
    "sub a number": ({"sub": 7}, "jwt_invalid"),
    "no aud": ({"aud": None}, "audience"),
    "aud another": ({"aud": "Registry"}, "audience"),
    "aud others": ({"aud": ["a", "b", 7, ["registry"]]}, "audience"),
    "aud an object": ({"aud": {"registry": 1}}, "audience"),
    "iss another": ({"iss": "https://else.example"}, "no_provider"),
    "iss with a slash more": ({"iss": "SLASH"}, "no_provider"),
    "no iss": ({"iss": None}, "no_provider"),
    "iss a list": ({"iss": ["x"]}, "no_provider"),
}


@pytest.mark.parametrize(("changes", "reason"), (TIMES | OTHERS).values(), ids=(TIMES | OTHERS).keys())
def test_claims_that_are_refused(issuer, oidc, changes, reason):
    changes = {name: issuer.url + "/" if value == "SLASH" else value for name, value in changes.items()}
    assert refusal(oidc, issuer.token(**changes)) == reason


@pytest.mark.parametrize("changes", [
    {"aud": ["a", "registry"]}, {"sub": "x" * 1024},
    {"nbf": NOW - 5}, {"iat": NOW + 60, "exp": NOW + 600.5}, {"iat": None, "nbf": NOW}, {"exp": NOW + 7200},
])  # fmt: skip
def test_claims_at_the_edge_are_accepted(issuer, oidc, changes):
    oidc.verify(issuer.token(**changes))


def test_any_audience(issuer):
    oidc_of(issuer.provider(audience=(), any_audience=True)).verify(issuer.token(aud=None))
    assert refusal(oidc_of(issuer.provider(audience=())), issuer.token(aud=[])) == "audience"
    both = oidc_of(issuer.provider(any_audience=True))
    both.verify(issuer.token())
    assert refusal(both, issuer.token(aud="another")) == "audience", "an audience that is set is checked, whatever else is set"
    several = oidc_of(issuer.provider(audience=("a", "b")))
    several.verify(issuer.token(aud=["b", "c"]))
    assert refusal(several, issuer.token()) == "audience"


# Headers, keys and bytes.


HEADERS = {
    "alg none": ({"alg": "none"}, "algorithm"),
    "alg NONE": ({"alg": "nOnE"}, "algorithm"),
    "alg HS256": ({"alg": "HS256"}, "algorithm"),
    "alg of another key": ({"alg": "ES256"}, "jwks"),
    "alg not configured": ({"alg": "RS512"}, "algorithm"),
    "alg unknown": ({"alg": "XX256"}, "algorithm"),
    "alg a list": ({"alg": ["RS256"]}, "algorithm"),
    "no alg": ({"alg": None}, "algorithm"),
    "crit": ({"crit": ["exp"]}, "jwt_invalid"),
    "crit empty": ({"crit": []}, "jwt_invalid"),
    "b64": ({"b64": False, "crit": ["b64"]}, "jwt_invalid"),
    "kid unknown": ({"kid": "other"}, "jwks"),
    "kid too long": ({"kid": "k" * 256}, "jwt_invalid"),
    "kid a number": ({"kid": 1}, "jwt_invalid"),
    "kid of another kind": ({"kid": "ec-1"}, "jwks"),
}


@pytest.mark.parametrize(("changes", "reason"), HEADERS.values(), ids=HEADERS.keys())
def test_headers_that_are_refused(issuer, oidc, changes, reason):
    assert refusal(oidc, issuer.token(header=changes)) == reason


@pytest.mark.parametrize("alg", ["none", "HS256", "HS384", "HS512"])
def test_no_algorithm_without_a_key_of_the_issuers_own_even_if_configured(issuer, alg):
    """Algorithm confusion: the public key, which all know, as the secret of an HMAC."""
    oidc = oidc_of(issuer.provider(algorithms=(alg, "RS256")))
    oidc.verify(issuer.token())
    for secret in (issuer.key().as_pem(private=False), json.dumps(issuer.jwks()["keys"][0]).encode()):
        key = OctKey(secret, secret)
        assert refusal(oidc, sign({"alg": alg, "kid": issuer.kid()}, issuer.claims(), key, alg)) == "algorithm"


def test_a_key_is_not_asked_for_an_algorithm_that_it_does_not_fit():
    rsa = {**private_key("rsa", 1).as_dict(private=False), "kid": "k"}
    key = KeySet.parse({"keys": [rsa]}).keys[0]
    secret = OctKey(b"x" * 32, b"x" * 32)
    assert not key.verifies("HS256", b"m", JWSRegistry.algorithms["HS256"].sign(b"m", secret))
    assert not key.verifies("none", b"m", b"")
    assert key.verifies("RS256", b"m", JWSRegistry.algorithms["RS256"].sign(b"m", private_key("rsa", 1)))


def broken(token, part, change):
    parts = token.split(".")
    parts[part] = change(parts[part])
    return ".".join(parts)


def hostile(issuer, payload):
    return sign({"alg": "RS256", "kid": issuer.kid()}, payload, issuer.key(), "RS256")


def claims_with(issuer, more):
    return json.dumps(issuer.claims()).encode()[:-1] + b", " + more + b"}"


MANIPULATED = {
    "empty": lambda i: "",
    "no parts": lambda i: "x",
    "two parts": lambda i: i.token().rpartition(".")[0],
    "four parts": lambda i: i.token() + ".x",
    "line feed": lambda i: i.token() + "\n",
    "space before": lambda i: " " + i.token(),
    "padding": lambda i: i.token() + "==",
    "no signature": lambda i: broken(i.token(), 2, lambda s: ""),
    "half a signature": lambda i: broken(i.token(), 2, lambda s: s[:100]),
    "another signature": lambda i: broken(i.token(), 2, lambda s: i.token(sub="other").split(".")[2]),
    "signature spelled otherwise": lambda i: i.token()[:-1] + {"A": "B", "Q": "R", "g": "h", "w": "x"}[i.token()[-1]],
    "claims changed": lambda i: broken(i.token(), 1, lambda s: base64url(json.dumps(i.claims(sub="admin")).encode())),
    "another's key": lambda i: sign({"alg": "RS256", "kid": i.kid()}, i.claims(), private_key("rsa", 99), "RS256"),
    "too long": lambda i: i.token(much="x" * MAX_TOKEN_BYTES),
    "not ASCII": lambda i: i.token()[:-1] + "é",
    "header no object": lambda i: sign(b"[1]", i.claims(), i.key(), "RS256"),
    "header member twice": lambda i: sign(b'{"alg": "RS256", "alg": "RS256", "kid": "rsa-1"}', i.claims(), i.key(), "RS256"),
    "payload no object": lambda i: hostile(i, b'"text"'),
    "payload no JSON": lambda i: hostile(i, b"{"),
    "payload no UTF-8": lambda i: hostile(i, b'{"iss": "\xff"}'),
    "payload with a mark": lambda i: hostile(i, b"\xef\xbb\xbf" + json.dumps(i.claims()).encode()),
    "member twice": lambda i: hostile(i, claims_with(i, b'"sub": "admin"')),
    "member twice, deeper": lambda i: hostile(i, claims_with(i, b'"a": {"b": 1, "b": 2}')),
    "NaN": lambda i: hostile(i, claims_with(i, b'"a": NaN')),
    "huge int": lambda i: hostile(i, claims_with(i, b'"a": ' + b"9" * 5000)),
    "nested lists": lambda i: hostile(i, b"[" * 11000),
    "nested objects": lambda i: hostile(i, b'{"a":' * 2000),
}  # fmt: skip


@pytest.mark.parametrize("make", MANIPULATED.values(), ids=MANIPULATED.keys())
def test_bytes_that_are_refused(issuer, oidc, make):
    assert refusal(oidc, make(issuer)) == "jwt_invalid"


def test_infinity_by_exponent_is_no_time(issuer, oidc):
    payload = json.dumps(issuer.claims(exp="E")).replace('"E"', "1e999").encode()
    assert refusal(oidc, hostile(issuer, payload)) == "jwt_invalid"


def test_disabled_and_unknown_providers(issuer):
    off = oidc_of(issuer.provider(enabled=False))
    assert refusal(off, issuer.token()) == "disabled"
    assert not off.knows(issuer.url)
    assert refusal(oidc_of(), issuer.token()) == "no_provider"
    both = oidc_of(issuer.provider(name="off", enabled=False), issuer.provider(name="on"))
    assert both.knows(issuer.url)
    assert both.verify(issuer.token()).provider == "on"


@given(st.one_of(st.text(), st.binary().map(lambda data: data.decode("latin-1")), st.lists(st.binary(), min_size=3, max_size=3).map(
    lambda parts: ".".join(base64url(part) for part in parts))))  # fmt: skip
def test_arbitrary_text_is_refused_and_nothing_else(oidc, text):
    refusal(oidc, text)


VALUES = st.recursive(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()), lambda inner: st.one_of(
    st.lists(inner), st.dictionaries(st.text(), inner)), max_leaves=4)  # fmt: skip
CLAIMS = st.sampled_from(["exp", "nbf", "iat", "aud", "sub", "iss", "other"])


@settings(max_examples=40)
@given(st.dictionaries(st.sampled_from(["alg", "kid", "crit", "typ", "jwk"]), VALUES), st.dictionaries(CLAIMS, VALUES))
def test_arbitrary_signed_json_is_refused_or_a_principal(issuer, oidc, header, claims):
    token = sign({"alg": "ES256", "kid": issuer.kid("ES256"), **header}, {**issuer.claims(), **claims}, issuer.key("ES256"), "ES256")
    try:
        principal = oidc.verify(token)
    except OidcRefused:
        return
    assert principal.name
    assert all(isinstance(name, str) and isinstance(value, str) for name, value in principal.claims)


# Key sets.


def jwk(kind="rsa", **changes):
    found = {**private_key(kind, 1).as_dict(private=False), "kid": "k", **changes}
    return {name: value for name, value in found.items() if value is not None}


UNUSABLE = {
    "for encryption": jwk(use="enc"),
    "use a list": jwk(use=["sig"]),
    "another algorithm": jwk(alg="RS512"),
    "for encryption by alg": jwk(alg="RSA-OAEP"),
    "key_ops without verify": jwk(key_ops=["sign"]),
    "no modulus": jwk(n=None),
    "modulus a number": jwk(n=5),
    "modulus no base64url": jwk(n="a+b="),
    "modulus short": jwk(n=base64url(b"\xff" * 128)),
    "modulus long": jwk(n=base64url(b"\xff" * 2049)),
    "exponent long": jwk(e=base64url(b"\xff" * 9)),
    "exponent even": jwk(e="Ag"),
    "a secret": {"kty": "oct", "k": "AAAA", "kid": "k"},
    "kty another": jwk(kty="EC"),
    "kty a list": jwk(kty=["RSA"]),
    "kid a number": jwk(kid=1),
    "not a point": {"kty": "EC", "crv": "P-256", "x": base64url(b"\1" * 32), "y": base64url(b"\1" * 32), "kid": "k"},
    "no object": "key",
}


@pytest.mark.parametrize("member", UNUSABLE.values(), ids=UNUSABLE.keys())
def test_a_key_that_is_not_for_this_is_not_used_and_does_not_hide_others(member):
    assert not KeySet.parse({"keys": [member]}).find("k", "RS256")
    assert not KeySet.parse({"keys": [member]}).find("k", "ES256")
    assert not KeySet.parse({"keys": [member]}).find(None, "RS256")
    assert len(KeySet.parse({"keys": [member, jwk(kid="good")]}).find("good", "RS256")) == 1


def test_what_is_private_in_a_published_key_does_not_matter():
    assert KeySet.parse({"keys": [private_key("rsa", 1).as_dict(private=True) | {"kid": "k", "x5c": 5}]}).find("k", "RS256")


def test_without_kid_there_must_be_no_choice():
    one = KeySet.parse({"keys": [jwk(), jwk("ec"), jwk("ed"), jwk(use="enc", kid="e")]})
    assert len(one.find(None, "RS256")) == len(one.find(None, "ES256")) == 1
    two = KeySet.parse({"keys": [jwk(), jwk(kid="k2"), jwk("ec", alg="ES256")]})
    assert not two.find(None, "RS256")
    assert two.find(None, "ES256")
    assert not two.find("K2", "RS256")


def test_a_curve_belongs_to_its_algorithm():
    p384 = KeySet.parse({"keys": [ECKey.generate_key("P-384").as_dict(private=False)]})
    assert p384.find(None, "ES384")
    assert not p384.find(None, "ES256")


@pytest.mark.parametrize("jwks", [None, [], {}, {"keys": {}}, {"keys": [jwk()] * 201}])
def test_what_is_no_key_set(jwks):
    with pytest.raises(ValueError, match="not a JSON Web Key Set"):
        KeySet.parse(jwks)


# Small things.


@pytest.mark.parametrize(("text", "expected"), [
    ("eyJhbGciOiJub25lIn0.e30.", True), ("ewp9.e30.c2ln", True), ("nra_0123", False), ("a.b.c", False), ("eyJ.b", False), ("eyJ.b.c.d", False),
    ("eyJ.b.c\n", False), ("eyJ.b c.d", False), ("", False), ("e..", False),
])  # fmt: skip
def test_what_looks_like_a_jwt(text, expected):
    assert looks_like_jwt(text) == expected


def test_an_object_is_parsed():
    assert parse_object(b'{"a": [1, {"b": null}]}') == {"a": [1, {"b": None}]}


def test_importing_and_making_it_costs_nothing():
    """No library is imported and no thread is made before the first use: the master forks after this."""
    code = (
        "import sys, threading; from noraflask.services.auth.oidc import Oidc; from noraflask.config import OidcProvider\n"
        "Oidc((OidcProvider('ci', 'https://issuer.example'),), 60, 3600, None)\n"
        "print(sorted({'joserfc', 'authlib', 'urllib3', 'cryptography'} & set(sys.modules)), threading.active_count())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] 1"
