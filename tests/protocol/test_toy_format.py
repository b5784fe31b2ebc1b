"""A format that lives here alone, made of the contract: beside the others it gets all that the frame gives, without a line elsewhere.

Its packages are `<name>@<version>`; a name is one in any letter case, with `_` or `-`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Blueprint, Response, request

from noraflask.app import ServedRegistry
from noraflask.cli import doctor
from noraflask.digest import Digest
from noraflask.ecosystems import Ecosystem, Names
from noraflask.errors import NotFound
from noraflask.keys import Key
from noraflask.pointer import Pointer
from noraflask.services.auth.principal import Action, Scope
from noraflask.services.content import Content
from noraflask.services.curation.explaining import Stored
from noraflask.services.curation.model import Package
from noraflask.services.doctor.format_checks import Check, FormatChecks
from noraflask.services.stock import Judge
from noraflask.web import gate
from noraflask.web.access import DELETE, PULL, PUSH, access, may_by_right
from noraflask.web.context import note, repository, services
from noraflask.web.format import Format, Login
from noraflask.web.responses import Answer, send
from noraflask.web.setup_pages import Page
from tests.protocol.access import Door, basic, rule
from tests.toy import Nothing, Section, app_of, config_with, toy_format

ECOSYSTEM = Ecosystem("toy", "Toys", section=Section, names=Names(same=lambda text: text.replace("_", "-"), folds_case=True))
bp = Blueprint("toy", __name__)


def key_of(repository_name: str, name: str) -> Key:
    return Key(f"{repository_name}/toys/{name}")


def names_in(content: Content, repository_name: str) -> Iterator[str]:
    return content.names(f"{repository_name}/toys")


@bp.get("/")
@access(PULL)
def index() -> Response:
    here = repository()
    names = (name for name in names_in(services().content, here.name) if may_by_right(PULL, name))
    shown = gate.shown(Package("toy", "", repository=here.name, is_index=True), names, lambda name: Package("toy", name, repository=here.name))
    return Answer("".join(f"{name}\n" for name in shown), content_type="text/plain")


@bp.get("/forgets/<path:name>")
@access(PULL)
def forget(name: str) -> Response:
    return Answer(b"a secret", content_type="text/plain")


@bp.get("/<path:name>")
@access(PULL)
def get(name: str) -> Response:
    pointer = services().content.pointer(key_of(repository().name, name))
    if pointer is None:
        raise NotFound()
    permit = gate.once((name, pointer.digest), None, lambda: Package("toy", name, repository=repository().name, digests=(str(pointer.digest),)))
    gate.served(permit, pointer.digest)
    return send(permit, pointer.digest, pointer.size, pointer.media_type, NotFound, {"ETag": f'"{pointer.digest.hex}"'})


@bp.put("/<path:name>")
@access(PUSH)
def put(name: str) -> Response:
    data, content = request.get_data(), services().content
    digest = Digest.of(data)
    with content.lease(digest):
        content.keep_bytes(data, digest)
        content.point(key_of(repository().name, name), Pointer(digest, len(data), "text/plain", content.now()))
    note("push", name)
    return Answer(status=201)


@bp.delete("/<path:name>")
@access(DELETE)
def delete(name: str) -> Response:
    services().content.change(key_of(repository().name, name), lambda pointer: None)
    return Answer(status=204)


class Toys(Nothing):
    def names(self, content: Content, repository: str, after: str = "", limit: int | None = None) -> Iterator[str]:
        return content.names(f"{repository}/toys", after, limit)

    def look(self, content: Content, asked: Package, judge: Judge) -> Stored | None:
        pointer = content.pointer(key_of(asked.repository, asked.name))
        package = Package("toy", asked.name, repository=asked.repository, digests=(str(pointer.digest),) if pointer else ())
        return Stored(asked.name, package, judge(package), ()) if pointer else None


CHECKS = FormatChecks(checks=(Check("toys", lambda context: ()),))
TOY: Format = toy_format(
    bp,
    ecosystem=ECOSYSTEM,
    id="toy",
    stock=Toys(),
    render_error=lambda problem: ("text/toy", f"toy trouble: {problem.args[0]}".encode()),
    login=Login(lambda action, name, error: f'Toy realm="{action.value} {name}"', ("/toy/login",)),
    headers=(("X-Toy", "1"),),
    setup=(Page("toybox", "Toybox", lambda place: [f"toybox use {place.url}/toy"]),),
    checks=lambda: CHECKS,
)
ANN, BOB = basic("ann", "pw"), basic("bob", "pw")
BLOCK = '[[block]]\nid = "no-bears"\nformat = "toy"\nname = "Teddy_Bear"\n'
SPELLINGS = ("teddy-bear", "Teddy_Bear", "TEDDY-BEAR")
MOUNTS = {"/toy": "toy", "/repository/toy": "toy", "/repository/attic": "attic"}
everywhere = pytest.mark.parametrize("mount", MOUNTS)


@pytest.fixture
def door(tmp_path, monkeypatch):
    def build(**sections: Any) -> Door:
        return Door(app_of(tmp_path, monkeypatch, TOY, repositories=({"name": "attic", "format": "toy"},), **sections))

    return build


@everywhere
def test_what_is_pushed_in_one_spelling_is_pulled_in_any(door, mount):
    here = door()
    assert here.ask("PUT", f"{mount}/Teddy_Bear", data=b"fur").status_code == 201
    for name in SPELLINGS:
        answer = here.get(f"{mount}/{name}")
        assert (answer.status_code, answer.data, answer.headers["X-Toy"]) == (200, b"fur", "1")
    assert here.get(f"{mount}/").text == "teddy-bear\n"
    other = "/toy" if MOUNTS[mount] == "attic" else "/repository/attic"
    assert here.get(f"{other}/teddy-bear").status_code == 404, "repositories live apart"


@everywhere
def test_logins(door, mount):
    here = door(auth={"users": {"ann": "pw", "bob": "pw"}}, access={"default_role": "none", "rules": (rule(("pull", "push"), users=("ann",)),)})
    for login in (None, basic("ann", "wrong")):
        answer = here.get(f"{mount}/Teddy_Bear", login)
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, 'Toy realm="pull teddy-bear"')
    assert here.get(f"{mount}/teddy", BOB).status_code == 403
    assert here.ask("PUT", f"{mount}/teddy", ANN, data=b"x").status_code == 201
    assert here.ask("DELETE", f"{mount}/teddy", ANN).status_code == 403


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_rights_hold_for_every_spelling(door, spelling):
    rules = (rule(("pull", "push"), users=("*",)), rule(("pull",), users=("bob",), names=("Teddy_*",), effect="deny"))
    here = door(auth={"users": {"ann": "pw", "bob": "pw"}}, access={"default_role": "none", "rules": rules})
    for name in (spelling, "car"):
        here.ask("PUT", f"/toy/{name}", ANN, data=b"x")
    assert [here.get(f"/toy/{spelling}", who).status_code for who in (ANN, BOB)] == [200, 403]
    assert here.get("/toy/", BOB).text == "car\n"
    token = here.api_token("ann", scopes=(Scope(frozenset((Action.PULL,)), ("toy",), ("TEDDY_BEAR",)),))
    assert here.get(f"/toy/{spelling}", f"Bearer {token}").status_code == 200
    assert here.get("/toy/car", f"Bearer {token}").status_code == 403
    assert here.get(f"/repository/attic/{spelling}", f"Bearer {token}").status_code == 403


def test_rights_are_by_repository(door):
    here = door(auth={"users": {"ann": "pw"}}, access={"default_role": "none", "rules": (rule(("push",), users=("ann",), repositories=("attic",)),)})
    assert {mount: here.ask("PUT", f"{mount}/x", ANN, data=b"x").status_code for mount in MOUNTS} == {
        "/toy": 403,
        "/repository/toy": 403,
        "/repository/attic": 201,
    }


@everywhere
def test_the_gate(door, mount):
    here = door(curation={"mode": "enforce", "rules": BLOCK})
    for name in ("teddy-bear", "car"):
        assert here.ask("PUT", f"{mount}/{name}", data=b"x").status_code == 201
    for name in SPELLINGS:
        answer = here.get(f"{mount}/{name}")
        assert (answer.status_code, answer.headers["X-Nora-Decision"], answer.mimetype) == (403, "blocked", "text/toy")
    assert here.get(f"{mount}/car").status_code == 200
    assert here.get(f"{mount}/").text == "car\n"
    forgotten = here.get(f"{mount}/forgets/car")
    assert forgotten.status_code == 500
    assert b"secret" not in forgotten.data


@everywhere
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "absent", 404),
        ("POST", "car", 405),
        ("PUT", "", 405),
        ("GET", "a//b", 404),
        ("GET", "a%2Fb", 404),
        ("GET", "a/../b", 404),
        ("PUT", "a*", 400),
    ],
)
def test_errors_are_in_its_own_form(door, mount, method, path, status):
    address = f"{mount}/{path}"
    answer = door().ask(method, address, environ_overrides={"RAW_URI": address})
    assert (answer.status_code, answer.mimetype) == (status, "text/toy")
    assert answer.text.startswith("toy trouble: ")
    assert answer.headers["X-Toy"] == "1"


@everywhere
def test_log_audit_and_metrics_name_repository_and_name(door, mount, monkeypatch):
    lines: list[dict[str, Any]] = []
    monkeypatch.setattr("noraflask.app.EventLog", lambda config: SimpleNamespace(write=lines.append))
    here = door(logging={"access": True}, audit={"mode": "file"}, metrics={"enabled": True})
    here.ask("PUT", f"{mount}/Teddy_Bear", data=b"x", buffered=True)
    assert (lines[-1]["registry"], lines[-1]["name"], lines[-1]["path"]) == (MOUNTS[mount], "teddy-bear", f"{mount}/Teddy_Bear")
    record = here.audit()[-1]
    assert (record["action"], record["registry"], record["artifact"]) == ("push", MOUNTS[mount], "teddy-bear")
    assert f'nora_http_requests_total{{method="PUT",registry="{MOUNTS[mount]}",status="201"}} 1.0' in here.get("/metrics").text
    here.services.inventory.take()
    assert f'nora_artifacts_total{{registry="{MOUNTS[mount]}"}} 1.0' in here.get("/metrics").text


@everywhere
def test_limits_count_it_among_transfers(door, mount):
    here = door(rate_limit={"enabled": True, "upload_burst": 77})
    assert here.get(f"{mount}/").headers["x-ratelimit-limit"] == "77"


def test_it_is_listed(door):
    here = door()
    assert "/setup/toybox" in here.get("/setup").text
    assert "toybox use http://localhost/toy" in here.get("/setup/toybox").text
    assert {"toy", "attic", "docker", "raw"} == set(here.get("/health").json["registries"])
    listed = {one["name"]: one["addresses"] for one in here.get("/api/v1/repositories").json["repositories"]}
    assert listed["toy"] == ["http://localhost/toy/", "http://localhost/repository/toy/"]
    assert listed["attic"] == ["http://localhost/repository/attic/"]
    assert "/toy/login" in ServedRegistry(here.app).password_paths


def test_the_doctor_asks_its_checks(tmp_path, monkeypatch):
    monkeypatch.setattr("noraflask.formats.FORMATS", (TOY,))
    assert doctor._format_checks(config_with(tmp_path, TOY)) == [CHECKS]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_what_is_stored_is_explained(door, spelling):
    here = door(curation={"mode": "enforce", "rules": BLOCK})
    here.ask("PUT", "/toy/Teddy_Bear", data=b"x")
    told = here.get("/api/v1/curation/explain", query_string={"format": "toy", "name": spelling}).json
    assert told["allowed"] is False
    assert "no-bears" in json.dumps(told)
    assert str(Digest.of(b"x")) in json.dumps(told)
