"""Real programs at a server that wants a login: what they may, what they are refused, and what their users get to read.

Each program says it in its own words; where it passes on ours, they must be there whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.client.conftest import Engine
from tests.client.guarded import CONTACT, Guarded, password_of
from tests.client.layout import busybox_files, tarball
from tests.client.logins import ASKS_NOBODY, HTTP, KEEPS_A_WRONG_LOGIN, WORDS, Seat
from tests.client.registry import Registry
from tests.client.tools import Client

Seats = Callable[[str, str], Seat]

every_program = pytest.mark.parametrize("program", WORDS)

NO_LOGIN = {"regctl": "unauthorized", "ctr": "401 UNAUTHORIZED"}
"""What a program shows in place of our own message."""
WRONG_LOGIN = {
    **dict.fromkeys(("podman", "buildah", "skopeo"), "invalid username/password"),
    "regctl": "unauthorized",
    "ctr": "failed to authorize",
}


@every_program
def test_login_push_pull_and_logout(guarded: Guarded, seat: Seats, program: str) -> None:
    own, name = seat(program, guarded.address), f"logins/{program}"
    own.log_in("writer")
    own.push(name)
    assert guarded.tags(own.stored(name)) == [own.tag]
    own.pull(name)
    own.log_out()
    assert not own.keeps("writer", password_of("writer"))
    assert NO_LOGIN.get(program, "authentication is required") in own.pull_refused(name)
    assert own.push_refused(f"{name}/again")
    assert guarded.tags(own.stored(f"{name}/again")) is None


@every_program
def test_a_wrong_password_is_refused_and_not_kept(guarded: Guarded, seat: Seats, program: str) -> None:
    own, name, told = seat(program, guarded.address), f"wrong/{program}", WRONG_LOGIN.get(program, "wrong user name or password")
    if program in ASKS_NOBODY:
        own.log_in("writer", "no-such-password")
        assert told in own.pull_refused(name)
    else:
        assert told in own.login_refused("writer", "no-such-password")
        assert own.keeps("writer", "no-such-password") == (program in KEEPS_A_WRONG_LOGIN)
    assert own.push_refused(name)
    assert guarded.tags(own.stored(name)) is None


@every_program
def test_a_reader_pulls_and_is_told_that_push_is_missing(guarded: Guarded, seat: Seats, program: str) -> None:
    own, name = seat(program, guarded.address), f"readers/{program}"
    own.log_in("writer")
    own.push(name)
    own.log_out()
    own.log_in("reader")
    own.pull(name)
    message = own.push_refused(f"{name}/more")
    if program == "ctr":  # shows the status alone
        assert "403 FORBIDDEN" in message
    else:
        assert f"reader may not push {own.stored(f'{name}/more')}" in message
        assert f"turn to {CONTACT}" in message
    assert guarded.tags(own.stored(f"{name}/more")) is None


@every_program
def test_pull_without_the_right_to_it(guarded: Guarded, seat: Seats, program: str) -> None:
    own, name = seat(program, guarded.address), f"secret/{program}"
    own.log_in("writer")
    own.push(name)
    own.log_out()
    own.log_in("mounter")
    message = own.pull_refused(name)
    assert "denied" in message.lower() or "403" in message, message


@every_program
def test_an_api_token_is_a_password_for_any_user_name(guarded: Guarded, seat: Seats, program: str) -> None:
    own, name = seat(program, guarded.address), f"tokens/{program}"
    own.log_in("whoever", guarded.api_token("writer", role="write"))
    own.push(name)
    own.pull(name)
    assert guarded.audit(action="push", actor="writer", artifact=f"{own.stored(name)}:{own.tag}")


@pytest.mark.parametrize("program", ["docker", "skopeo", "crane", "helm"])
def test_a_token_with_scopes_pushes_to_its_names_alone(guarded: Guarded, seat: Seats, program: str) -> None:
    own = seat(program, guarded.address)
    scopes = [{"actions": ["pull"]}, {"actions": ["push"], "names": [f"inside/{program}/**"]}]
    own.log_in("whoever", guarded.api_token("writer", role="write", scopes=scopes))
    own.push(f"inside/{program}/app")
    message = own.push_refused(f"outside/{program}/app")
    assert "the token's scopes do not include it" in message
    assert guarded.tags(own.stored(f"outside/{program}/app")) is None


@pytest.mark.parametrize("program", ["docker", "podman", "skopeo", "crane", "oras", "helm"])
def test_a_jwt_of_an_issuer_is_a_password(guarded: Guarded, seat: Seats, program: str) -> None:
    own = seat(program, guarded.address)
    own.log_in("oidc", guarded.issuer.token(sub="repo:team/app"))
    own.push(f"ci/{program}")
    own.pull(f"ci/{program}")
    assert "outside of the namespaces that provider ci may write" in own.push_refused(f"team/{program}")
    assert guarded.tags(own.stored(f"team/{program}")) is None


def test_a_jwt_with_each_call(guarded: Guarded, skopeo: Client, seat: Seats) -> None:
    """As a CI job does it that keeps no file: --creds."""
    layout, target = seat("skopeo", guarded.address).goods.layout, f"docker://{guarded.address}/ci/creds:v1"
    token = guarded.issuer.token(sub="repo:team/app")
    skopeo("copy", "--dest-tls-verify=false", f"--dest-creds=oidc:{token}", f"oci:{layout}:v1", target)
    assert guarded.tags("ci/creds") == ["v1"]
    stale = guarded.issuer.token(sub="repo:team/app", iat=1000, exp=1600)
    assert "unauthorized" in skopeo.refused("inspect", HTTP, f"--creds=oidc:{stale}", target).lower()


def test_docker_keeps_an_identity_token_in_place_of_the_password(guarded: Guarded, seat: Seats) -> None:
    own = seat("docker", guarded.address)
    own.log_in("writer")
    kept = json.loads((own.client.home / "docker" / "config.json").read_text())["auths"][guarded.address]
    assert kept["identitytoken"]
    assert not own.keeps("writer", password_of("writer"))
    before = guarded.requests("POST", "/v2/token")
    own.push("docker/identity")
    assert guarded.requests("POST", "/v2/token") > before
    own.pull("docker/identity")
    assert guarded.tags("docker/identity") == ["v1"]


# Layers that another name has already ("Mounting a blob from another repository").


def image_of_own(own: Seat, name: str, text: bytes) -> str:
    reference = f"{own.host}/{name}:v1"
    own.client("import", "--change", 'CMD ["/bin/busybox"]', "-", reference, stdin=tarball(busybox_files() | {"etc/own": text}))
    return reference


@pytest.mark.parametrize(("source", "allowed"), [("open/base", True), ("secret/base", False)])
def test_docker_mounts_only_what_it_may_pull(guarded: Guarded, engine: Engine, seat: Seats, source: str, allowed: bool) -> None:
    """The engine remembers where it has pushed a layer, whoever was logged in then, and asks for it from there."""
    own, target = seat("docker", guarded.address), f"own/from-{source.partition('/')[0]}"
    own.log_in("writer")
    first, second = image_of_own(own, source, source.encode()), f"{guarded.address}/{target}:v1"
    own.client("push", first)
    own.log_out()
    own.log_in("mounter")
    own.client("tag", first, second)
    shown = own.client("push", second)
    assert (f"Mounted from {source}" in shown) == allowed, shown
    assert bool(guarded.audit(action="mount", actor="mounter", detail=f"blob from {source}")) == allowed
    own.client("rmi", first, second)
    own.client("pull", second)


# Wrong passwords that nobody typed.


def test_a_program_that_repeats_a_wrong_password_locks_nobody_out(guarded: Guarded, seat: Seats) -> None:
    """ctr sends it several times in one pull; the same one again is no other guess."""
    own = seat("ctr", guarded.address)
    own.log_in("writer")
    own.push("repeats/ctr")
    before = guarded.failed_logins()
    own.log_in("mistaken", "an-old-password")
    for _ in range(3):
        own.pull_refused("repeats/ctr")
    failures, repeated = (after - earlier for after, earlier in zip(guarded.failed_logins(), before, strict=True))
    assert failures > 4  # as many different ones would have locked the account
    assert failures - repeated == 1
    own.log_in("mistaken")
    own.pull("repeats/ctr")


# Where images may be pulled without a login.


@every_program
def test_open_to_pull(half_open: Guarded, seat: Seats, program: str) -> None:
    own, name = seat(program, half_open.address), f"open/{program}"
    assert own.push_refused(name)
    assert half_open.tags(own.stored(name)) is None
    own.log_in("writer")
    own.push(name)
    own.pull(name)
    own.log_out()
    own.pull(name)


@pytest.mark.parametrize("program", [program for program in WORDS if program not in ASKS_NOBODY])
def test_open_to_pull_and_a_wrong_login_fails_all_the_same(half_open: Guarded, seat: Seats, program: str) -> None:
    own = seat(program, half_open.address)
    assert WRONG_LOGIN.get(program, "wrong user name or password") in own.login_refused("writer", "no-such-password")
    assert Registry(half_open.address).request("GET", "/v2/").status == 401


def test_open_to_pull_with_an_empty_login(half_open: Guarded, seat: Seats) -> None:
    """A name and a password of no characters: skopeo and buildah send them where they have none and are asked for Basic."""
    own, nobody = seat("skopeo", half_open.address), Registry(half_open.address, ":")
    own.log_in("writer")
    own.push("open/empty")
    assert nobody.request("GET", "/v2/token?scope=repository:open/empty:pull").status == 200
    assert nobody.manifest("open/empty", "v1").status == 200
    assert nobody.request("GET", "/v2/").status == 401
