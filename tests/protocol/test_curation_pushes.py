"""Pushes under a policy: who may push is told what is there, may read back what it pushes, and gets no bytes that a puller would be refused.

The sequences are those that helm 4.3, oras 1.3, crane 0.22, regctl 0.11 and ctr 1.6 send; tests/client/test_curation_pushes.py runs the programs.
"""

from __future__ import annotations

import pytest

from noraflask.digest import Digest
from noraflask.formats.docker.readback import READ_BACK_SECONDS
from noraflask.services.curation.policy import DAY
from tests.protocol.access import basic, rule
from tests.protocol.curated import Curated, block, table, with_logins
from tests.protocol.oci import image

PLAIN, HELM, CRANE, DOCKER = "", "Helm/4.3", "crane/v0.22.1 go-containerregistry/v0.22.1", "docker/20.10.24 go/go1.19.8"
REFUSALS = {
    "allowlist": lambda: ([table("allow", name="other")], {}),
    "age": lambda: ([], {"min_release_age": 7 * DAY, "hosted": True}),
    "tag": lambda: ([block("1"), block("new")], {}),
    "name": lambda: ([block()], {}),
}
NOT_YET = ["allowlist", "age"]


def body(layer: bytes = b"new") -> bytes:
    return image(layers=(layer,))


@pytest.fixture
def team(tmp_path, app_with):
    """root and ann may push, joe may pull; nobody may have app:1."""
    return Curated(tmp_path, app_with, **with_logins()).as_user("root").fill()


def refuse(curated, why):
    tables, settings = REFUSALS[why]()
    return curated.rules(*tables, **settings)


@pytest.mark.parametrize("why", REFUSALS)
def test_a_head_tells_pushers_what_is_there_and_pullers_nothing(team, why):
    refuse(team, why)
    paths = ("app/manifests/1", f"app/manifests/{team.one}")
    for path in paths:
        answer = team.as_user("ann").ask("HEAD", path)
        assert (answer.status_code, answer.data, answer.headers["Docker-Content-Digest"]) == (200, b"", str(team.one))
        assert "immutable" not in answer.headers.get("Cache-Control", "")
        assert team.status(path, "GET") == 403
        assert team.as_user("joe").status(path) == 403
        assert team.status(path, "GET") == 403
    assert team.as_user("ann").status("app/manifests/none") == 404
    assert team.audit("curation_block")


def test_a_pusher_of_another_name_is_a_puller_here(tmp_path, app_with):
    logins = with_logins()
    logins["access"]["rules"] = (*logins["access"]["rules"], rule(("push",), users=("joe",), names=("own/**",)))
    curated = Curated(tmp_path, app_with, **logins).as_user("root").fill()
    curated.rules(block("1", name="*"))
    assert curated.as_user("joe").status("app/manifests/1") == 403


@pytest.mark.parametrize("mode", ["off", "audit", "enforce"])
def test_without_logins_everybody_may_push(curated, mode):
    curated.rules(block("1"), mode=mode)
    assert curated.status("app/manifests/1") == 200
    assert curated.status("app/manifests/1", "GET") == (403 if mode == "enforce" else 200)


@pytest.mark.parametrize("agent", [PLAIN, HELM, DOCKER])
@pytest.mark.parametrize("why", NOT_YET)
def test_helm_reads_back_what_it_pushed_by_digest_before_it_tags(team, why, agent):
    refuse(team, why)
    team.as_program(agent)
    team.push_blob("app", b"{}")
    team.push_blob("app", b"new")
    digest = Digest.of(body())
    path = f"app/manifests/{digest}"
    assert team.status(path) == 404
    assert team.push("app", digest, body()).status_code == 201
    answer = team.ask("GET", path)
    assert (answer.status_code, answer.data) == (200, body())
    assert team.status(f"app/blobs/{Digest.of(b'new')}", "GET") == 403, "no layer is read back"
    for other in ("ann", "joe"):
        assert team.as_user(other).status(path, "GET") == 403
    assert team.as_user("root").push("app", "new", body()).status_code == 201
    assert team.status(path, "GET") == (200 if agent == HELM else 403), "from now on it is a pull, but for those who retag by reading"
    assert team.as_user("joe").status(path, "GET") == 403
    assert [line["artifact"] for line in team.audit("curation_read_back")][:1] == [f"app@{digest}"]


@pytest.mark.parametrize("why", REFUSALS)
def test_crane_tags_what_it_has_just_pushed(team, why):
    refuse(team, why)
    team.as_program(CRANE).push_image("app", "new", layers=(b"new",))
    assert team.ask("GET", "app/manifests/new").data == body()
    assert team.push("app", "v2", body()).status_code == 201
    assert team.status("app/manifests/1", "GET") == 403, "somebody else pushed it, long ago"
    assert team.status(f"app/blobs/{Digest.of(b'new')}", "GET") == 403
    assert team.as_program(DOCKER).status("app/manifests/new", "GET") == 403
    assert team.as_program(CRANE).as_user("joe").status("app/manifests/new", "GET") == 403
    assert team.as_user("ann").status("app/manifests/new", "GET") == 403


def test_a_read_back_is_over_after_a_while_and_with_another_policy(team):
    refuse(team, "allowlist")
    team.as_program(CRANE).push_image("app", "new", layers=(b"new",))
    team.clock.now += READ_BACK_SECONDS - 1
    assert team.status("app/manifests/new", "GET") == 200
    team.clock.now += 1
    assert team.status("app/manifests/new", "GET") == 403
    team.push("app", "new", body())
    assert team.status("app/manifests/new", "GET") == 200
    team.rules(table("allow", name="other"), block("new"))
    assert team.status("app/manifests/new", "GET") == 403


@pytest.mark.parametrize("reference", ["digest", "tag", "sha512"])
@pytest.mark.parametrize("agent", [PLAIN, DOCKER, "python-requests/2.32", "Mozilla/5.0"])
def test_what_a_rule_blocks_is_not_read_back(curated, reference, agent):
    """But by those programs; a pull right after a push is told what is in the way."""
    curated.as_program(agent).rules(block("1"), block("new"))
    data = curated._index()
    name = {"digest": Digest.of(data), "tag": "1", "sha512": Digest.of(data, "sha512")}[reference]
    assert curated.push("app", name, data).status_code == 201
    assert curated.status(f"app/manifests/{name}", "GET") == 403


@pytest.mark.parametrize("agent", [PLAIN, DOCKER])
def test_a_pull_after_a_push_is_refused_where_the_image_is_not_allowed_yet(curated, agent):
    curated.as_program(agent).rules(table("allow", name="other"))
    curated.push_image("app", "new", layers=(b"new",))
    assert curated.status("app/manifests/new", "GET") == 403


def test_clients_without_a_name_are_told_apart_by_their_address(curated):
    curated.rules(table("allow", name="other"))
    digest = curated.push_image("app", layers=(b"new",))
    path = f"app/manifests/{digest}"
    assert curated.status(path, "GET") == 200
    assert curated.ask("GET", path, environ_overrides={"REMOTE_ADDR": "192.0.2.7"}).status_code == 403
    assert curated.ask("GET", path, headers={"User-Agent": "another"}).status_code == 403


RESOLVED = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json, */*"
PUSHED = "application/vnd.oci.image.index.v1+json, */*"


@pytest.mark.parametrize(
    ("agent", "accept", "status"),
    [
        (DOCKER, RESOLVED, 403),
        ("containerd/1.6.20~ds1", RESOLVED, 403),
        ("containerd/1.6.20~ds1", PUSHED, 200),
        (f"{DOCKER} containerd-client/1.7.25", RESOLVED, 403),
        (f"{DOCKER} containerd-client/1.7.25", PUSHED, 200),
        ("buildkit/v0.20", RESOLVED, 403),
        ("buildkit/v0.20", PUSHED, 200),
        (CRANE, RESOLVED, 200),
        (PLAIN, RESOLVED, 200),
    ],
)
def test_a_head_with_which_a_pull_begins_is_refused_as_the_pull(curated, agent, accept, status):
    """An engine that has the image already would call it up to date."""
    curated.as_program(agent).rules(block("1"))
    assert curated.ask("HEAD", "app/manifests/1", headers={"Accept": accept}).status_code == status
    curated.rules(block("none"))
    assert curated.ask("HEAD", "app/manifests/1", headers={"Accept": f"{accept}, application/vnd.oci.image.index.v1+json"}).status_code == 200


def token(curated: Curated, user: str, actions: str) -> dict[str, str]:
    answer = curated.client.get(f"/v2/token?scope=repository:app:{actions}", headers={"Authorization": basic(user, user)})
    return {"Authorization": f"Bearer {answer.json['token']}"}


@pytest.mark.parametrize("why", REFUSALS)
def test_a_token_for_pushing_reads_what_is_only_not_allowed_yet(team, why):
    """The second push of a chart: it is there, so that nothing is pushed before it is read. No layer, and nothing that a rule blocks."""
    refuse(team, why)
    pushing, pulling, joes = token(team, "ann", "pull,push"), token(team, "ann", "pull"), token(team, "joe", "pull,push")
    path = f"app/manifests/{team.one}"
    assert team.ask("HEAD", path, headers=pulling).status_code == 200
    assert team.ask("GET", path, headers=pushing).status_code == (200 if why in NOT_YET else 403)
    assert team.ask("GET", path, headers=pulling).status_code == 403
    assert team.ask("HEAD", path, headers=joes).status_code == 403
    assert team.ask("GET", path, headers=joes).status_code == 403
    assert team.ask("GET", f"app/blobs/{Digest.of(b'amd')}", headers=pushing).status_code == 403


def test_what_is_read_back_is_not_remembered_for_others(team):
    refuse(team, "allowlist")
    digest = team.push_image("app", layers=(b"new",))
    path = f"app/manifests/{digest}"
    for _ in range(2):
        assert team.as_user("root").status(path, "GET") == 200
        assert team.as_user("joe").status(path, "GET") == 403


# Who may push forbidden layers, docs/curation.md.


@pytest.mark.parametrize(
    ("rules", "stops"),
    [
        ([block("2")], False),
        ([block("@two")], False),
        ([block("2"), block("@two")], False),
        ([table("block", name="app", range="<3")], False),
        ([table("pin", name="app", version="2", integrity=["@two"])], False),
        ([table("allow", name="app", version="9")], False),
        ([block("@layer")], True),
        ([block("@layer", name="*")], True),
        ([block()], True),
        ([table("allow", name="app", version="1")], True),
        ([table("allow", name="app", version="9", integrity=["@one"])], True),
        ([block("2"), table("pin", name="app", version="9", integrity=["@one"])], True),
        ([block("2"), table("pin", name="app", version="8", integrity=["@one"])], False),
    ],
)
def test_which_rule_stops_forbidden_layers_in_a_new_manifest(curated, rules, stops):
    """Who may push can make another image of the layers of a blocked one, under the tag 9."""
    names = {"@two": str(curated.two), "@one": str(curated.one), "@layer": str(Digest.of(b"two"))}
    for name, digest in names.items():
        rules = [one.replace(f'"{name}"', f'"{digest}"') for one in rules]
    curated.rules(*rules)
    curated.push_image("app", "9", layers=(b"base", b"two"), annotations={"is": "another"})
    assert (curated.status(f"app/blobs/{Digest.of(b'two')}", "GET") == 403) is stops


def test_a_rule_for_one_name_says_nothing_of_another(curated):
    curated.rules(block(str(Digest.of(b"two"))))
    assert curated.status(f"other/blobs/{Digest.of(b'two')}", "GET") == 200
    curated.rules(block(str(Digest.of(b"two")), name="*"))
    assert curated.status(f"other/blobs/{Digest.of(b'two')}", "GET") == 403


# The ledger.


def test_a_blob_that_is_read_is_in_the_ledger(team):
    team.rules(block("1"))
    layer = str(Digest.of(b"two"))
    for _ in range(2):
        assert team.as_user("joe").status(f"app/blobs/{layer}", "GET") == 200
    team.status(f"app/blobs/{layer}")
    team.status(f"app/blobs/{Digest.of(b'amd')}", "GET")
    (entry,) = team.ledger()
    assert (entry.principal, entry.name, entry.version, entry.digest, entry.part) == ("joe", "app", layer, layer, True)
    assert entry.published is not None


@pytest.mark.parametrize("version", ["2", "{two}", "{layer}", "*"])
def test_impact_names_who_read_a_layer_directly(tmp_path, app_with, version):
    """And for a tag only those who read what that image alone is made of."""
    curated = Curated(tmp_path, app_with, **with_logins()).as_user("root").fill()
    curated.rules()
    layer = Digest.of(b"two")
    assert curated.as_user("joe").status(f"app/blobs/{layer}", "GET") == 200
    assert curated.as_user("ann").status(f"app/blobs/{Digest.of(b'base')}", "GET") == 200
    version = version.format(two=curated.two, layer=layer)
    answer = curated.as_user("root").client.get(f"/api/v1/admin/curation/impact?format=docker&name=app&version={version}")
    assert {receipt["principal"] for receipt in answer.json["receipts"]} == ({"joe", "ann"} if version == "*" else {"joe"})


def test_impact_names_who_pulled_the_same_image_by_another_tag(tmp_path, app_with):
    curated = Curated(tmp_path, app_with, **with_logins()).as_user("root").fill()
    curated.rules()
    curated.push("app", "2.0", image(layers=(b"base", b"two")))
    curated.as_user("joe").status("app/manifests/2.0", "GET")
    answer = curated.as_user("root").client.get("/api/v1/admin/curation/impact?coordinate=docker:app@2")
    assert [(receipt["principal"], receipt["version"]) for receipt in answer.json["receipts"]] == [("joe", "2.0")]
