"""Docker under curation, by protocol: what is refused and how, what stays open, who gets past, and what is written down."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from noraflask.digest import Digest
from noraflask.formats.docker.protocol.media_types import DOCKER_MANIFEST, OCI_MANIFEST
from noraflask.services.curation.compiling import compile
from noraflask.services.curation.files import read_rules
from noraflask.services.curation.gate import read_decision_id
from noraflask.services.curation.ledger import read
from noraflask.services.curation.policy import DAY, Policy, Settings
from noraflask.services.state import State
from noraflask.web import gate
from tests.conftest import config_of
from tests.live import enforce
from tests.protocol.access import basic
from tests.protocol.curated import NOW, Curated, block, table, when, with_logins
from tests.protocol.oci import code, descriptor, image, index

TOKEN, NAMED = "the-token", "ann's token"
INDEX, SOLO = {":1", "@1", "@amd", "@arm", "amd", "arm"}, {":2", "@2", "two"}
ALL = INDEX | SOLO | {"base"}


# What a rule reaches.


def test_without_rules_all_is_there(curated):
    curated.rules()
    assert curated.readable() == ALL


@pytest.mark.parametrize(
    "name", ["app", "library/app", "docker.io/app", "docker.io/library/app", "index.docker.io/library/app", "APP", "a*", "*", "*pp"]
)
def test_a_rule_by_name_reaches_all_of_it(curated, name):
    curated.rules(block(name=name))
    assert curated.readable() == set()


def test_a_rule_by_tag_reaches_digest_children_and_layers_and_not_what_is_shared(curated):
    curated.rules(block("1"))
    assert curated.readable() == SOLO | {"base"}
    curated.rules(block("2"))
    assert curated.readable() == INDEX | {"base"}
    curated.rules(block("1"), block("2"))
    assert curated.readable() == set()


@pytest.mark.parametrize(("of", "gone"), [("one", INDEX), ("amd", {"@amd", "amd"}), ("two", SOLO)])
def test_a_rule_by_digest(curated, of, gone):
    digest = str(getattr(curated, of))
    curated.rules(block(digest))
    assert curated.readable() == ALL - gone
    curated.rules(block(digest.replace("sha256:", "SHA256:").upper()))
    assert curated.readable() == ALL - gone


def test_a_rule_by_the_digest_of_a_layer_blocks_it_for_every_image(curated):
    curated.rules(block(str(Digest.of(b"base")), name="*"))
    assert curated.readable() == ALL - {"base"}
    assert curated.status(f"other/blobs/{Digest.of(b'base')}", "GET") == 403


def test_a_rule_by_tag_reaches_the_blobs_of_an_index(curated):
    """BuildKit's older caches are indexes of layers."""
    layer, config, base = (curated.push_blob("app", blob) for blob in (b"cached", b"cache", b"base"))
    entries = [descriptor(blob, "application/vnd.oci.image.layer.v1.tar+gzip") for blob in (b"cached", b"base")]
    body = index(*entries, descriptor(b"cache", "application/vnd.buildkit.cacheconfig.v0"))
    assert curated.push("app", "cache", body).status_code == 201
    curated.rules(block("cache"))
    for path in ("manifests/cache", f"manifests/{Digest.of(body)}", f"blobs/{layer}", f"blobs/{config}"):
        assert curated.status(f"app/{path}", "GET") == 403
    assert curated.status(f"app/blobs/{base}", "GET") == 200  # of other images too
    assert curated.tags("app") == ["1", "2"]


def test_a_range_reaches_the_tags_in_it_and_the_digests_they_lead_to(curated):
    curated.rules(table("block", name="app", range="<2"))
    assert curated.readable() == SOLO | {"base"}


def test_a_rule_of_another_format_or_repository_is_none_of_ours(curated):
    curated.rules(table("block", format="npm", name="*"), table("block", name="*", repository="second"))
    assert curated.readable() == ALL
    curated.rules(table("block", name="*", repository="dock*"))
    assert curated.readable() == set()


@pytest.mark.parametrize("headers", [{}, {"Range": "bytes=0-0"}, {"If-None-Match": "*"}, {"Accept": "*/*"}, {"Accept": DOCKER_MANIFEST}])
def test_neither_range_nor_condition_helps(curated, headers):
    etags = f'"{curated.one}", "{Digest.of(b"amd")}"'
    headers = {**headers, "If-None-Match": etags} if "If-None-Match" in headers else headers
    curated.rules(block("1"))
    for path in ("app/manifests/1", f"app/manifests/{curated.one}"):
        assert curated.ask("GET", path, headers=headers).status_code == 403
    assert curated.ask("GET", f"app/blobs/{Digest.of(b'amd')}", headers=headers).status_code == 403


def test_the_default_image_of_a_blocked_index_is_blocked(curated):
    """For clients that take no index."""
    answer = curated.ask("GET", "app/manifests/1", headers={"Accept": OCI_MANIFEST})
    assert answer.headers["Docker-Content-Digest"] == str(curated.amd)
    for version in ("1", str(curated.one), str(curated.amd)):
        curated.rules(block(version))
        assert curated.ask("GET", "app/manifests/1", headers={"Accept": OCI_MANIFEST}).status_code == 403


def test_manifests_that_are_not_there_are_unknown_all_the_same(curated):
    curated.rules(block())
    assert code(curated.ask("GET", "app/manifests/none")) == (404, "MANIFEST_UNKNOWN")


# Pushes.


def test_who_may_push_is_told_that_a_layer_is_there_and_gets_no_bytes(curated):
    curated.rules(block("1"))
    answer = curated.ask("HEAD", f"app/blobs/{Digest.of(b'amd')}")
    assert (answer.status_code, answer.data) == (200, b"")


def test_who_may_only_pull_is_not_told(tmp_path, app_with):
    curated = Curated(tmp_path, app_with, **with_logins()).as_user("root").fill()
    curated.rules(block("1"))
    path = f"app/blobs/{Digest.of(b'amd')}"
    assert curated.status(path) == 200
    curated.as_user("joe")
    assert curated.status(path) == 403
    assert curated.status(f"app/blobs/{Digest.of(b'base')}") == 200


def test_access_is_asked_first(tmp_path, app_with):
    """Who may not even ask learns nothing of the rules."""
    curated = Curated(tmp_path, app_with, auth={"users": {"joe": "j"}}, access={"default_role": "none"})
    curated.rules(block())
    answer = curated.ask("GET", "app/manifests/1")
    assert code(answer) == (401, "UNAUTHORIZED")
    answer = curated.ask("GET", "app/manifests/1", headers={"Authorization": basic("joe", "j")})
    assert code(answer) == (403, "DENIED")
    assert "X-Nora" not in str(answer.headers)
    assert curated.audit("curation_block") == []


@pytest.mark.parametrize("blocked", ["1", "*"])
@pytest.mark.parametrize("query", ["mount={}&from=app", "mount={}"])
def test_a_mount_of_a_blocked_layer_becomes_an_upload(curated, blocked, query):
    curated.rules(block(blocked))
    answer = curated.ask("POST", f"copy/blobs/uploads/?{query.format(Digest.of(b'amd'))}")
    assert answer.status_code == 202
    assert curated.status(f"copy/blobs/{Digest.of(b'amd')}", "GET") == 404


def test_a_mount_of_what_is_free(curated):
    curated.rules(block("1"))
    assert curated.ask("POST", f"copy/blobs/uploads/?mount={Digest.of(b'base')}&from=app").status_code == 201
    assert curated.ask("GET", f"copy/blobs/{Digest.of(b'base')}").data == b"base"


def test_without_a_source_nothing_is_mounted_while_anything_might_be_blocked(curated):
    curated.rules(block("none"))
    assert curated.ask("POST", f"copy/blobs/uploads/?mount={Digest.of(b'base')}").status_code == 202


def test_a_mount_by_bypass_token_is_written_down(curated):
    curated.rules(block("1"), bypass_token=TOKEN)
    asked = f"copy/blobs/uploads/?mount={Digest.of(b'amd')}&from=app"
    assert curated.ask("POST", asked, headers={"X-Nora-Bypass-Token": TOKEN}).status_code == 201
    assert len(curated.audit("curation_bypass")) == 1


def test_a_rule_by_tag_follows_the_tag(curated):
    """It says what the tag may not lead to: whoever may push can let it lead elsewhere. Rules by digest stay with the bytes."""
    curated.rules(block("2"))
    assert curated.push("app", "3", image(layers=(b"base", b"two"))).status_code == 201
    assert curated.status("app/manifests/3", "GET") == 403, "another tag of what a blocked one leads to"
    curated.push_image("app", "2", layers=(b"base",))
    assert curated.status("app/manifests/2", "GET") == 403
    assert curated.status("app/manifests/3", "GET") == 200
    curated.rules(block(str(curated.two)))
    assert curated.status("app/manifests/3", "GET") == 403
    assert curated.status("app/manifests/2", "GET") == 200


def test_what_another_image_is_made_of_too_is_free(curated):
    """A fixed image is mostly made of the layers of the bad one. To keep a layer from everybody takes a rule by its digest."""
    curated.rules(block("1"))
    curated.push_image("app", "3", layers=(b"base", b"amd"))
    assert "amd" in curated.readable()
    curated.rules(block("1"), block(str(Digest.of(b"amd"))))
    assert "amd" not in curated.readable()


# Listings.


def test_tags_that_are_blocked_are_not_listed_and_pages_stay_whole(curated):
    for tag in ("0", "3", "4", "5", "6"):
        curated.push_image("app", tag, layers=(tag.encode(),))
    curated.rules(block("1"), block("3"), block("5"))
    assert curated.tags("app") == ["0", "2", "4", "6"]
    for size in (1, 2, 3, 4):
        assert curated.follow(f"app/tags/list?n={size}", "tags") == ["0", "2", "4", "6"]
    assert "Link" not in curated.ask("GET", "app/tags/list?n=4").headers
    assert curated.ask("GET", "app/tags/list?last=2").json["tags"] == ["4", "6"]


def test_tags_of_a_blocked_digest_are_not_listed(curated):
    curated.push("app", "same", image(layers=(b"base", b"two")))
    curated.rules(block(str(curated.two)))
    assert curated.tags("app") == ["1"]


def test_the_tags_of_a_blocked_name_are_refused(curated):
    curated.rules(block())
    assert code(curated.ask("GET", "app/tags/list")) == (403, "DENIED")


def test_the_catalog_leaves_blocked_names_out(curated):
    for name in ("a", "b", "c"):
        curated.push_image(name, "1")
    curated.rules(block(name="b"), block(name="other"), block("1", name="c"))
    for query in ("", "?n=1", "?n=2"):
        assert curated.follow(f"_catalog{query}", "repositories") == ["a", "app", "c"]


def test_referrers(curated):
    body = {"layers": (b"sbom",), "subject": descriptor(curated.one, OCI_MANIFEST)}
    good, bad = (curated.push_image("app", artifactType=f"x/{kind}", **body) for kind in ("good", "bad"))
    curated.rules(block(str(bad)))
    assert [entry["digest"] for entry in curated.referrers("app", curated.one)] == [str(good)]
    assert curated.referrers("app", curated.one, artifactType="x/bad") == []
    assert curated.status(f"app/manifests/{bad}", "GET") == 403
    for one in (block("1"), block(str(curated.one)), block()):
        curated.rules(one)
        assert code(curated.ask("GET", f"app/referrers/{curated.one}")) == (403, "DENIED")


def test_what_says_something_about_a_blocked_image_is_not_it(curated):
    """Signatures and SBOMs help to find out why; only the list of them goes with the image."""
    about = curated.push_image("app", layers=(b"sbom",), subject=descriptor(curated.one, OCI_MANIFEST))
    curated.rules(block("1"))
    assert curated.status(f"app/manifests/{about}", "GET") == 200


# The allowlist.


@pytest.mark.parametrize(
    ("allowed", "readable"),
    [
        (["1"], INDEX | {"base"}),
        (["2"], SOLO | {"base"}),
        (["1", "2"], ALL),
        (["@one"], INDEX | {"base"}),
        (["@two"], SOLO | {"base"}),
        (["@amd"], {"@amd", "amd", "base"}),
        (["none"], set()),
        (["*"], ALL),
    ],
)
def test_an_allowed_image_can_be_pulled_whole(curated, allowed, readable):
    """NORA wants the tag, each digest and each layer to be listed."""
    versions = [str(getattr(curated, one[1:])) if one.startswith("@") else one for one in allowed]
    curated.rules(table("allow", name="app", versions=versions))
    assert curated.readable() == readable
    assert curated.tags("app") == [tag for tag in "12" if f":{tag}" in readable]
    assert curated.status("other/manifests/1", "GET") == 403


def test_under_an_allowlist_no_stray_blob_is_read_and_pushes_go_on(curated):
    curated.rules(table("allow", name="app", version="3"))
    curated.push_image("app", "3", layers=(b"new",))
    assert curated.status(f"app/blobs/{Digest.of(b'new')}", "GET") == 200
    curated.push_blob("app", b"stray")
    assert curated.status(f"app/blobs/{Digest.of(b'stray')}", "GET") == 403


def test_integrity(curated):
    curated.rules(table("allow", name="app", version="2", integrity=[str(curated.one)]))
    assert curated.ask("GET", "app/manifests/2").headers["X-Nora-Rule"] == "allowlist:integrity"
    assert curated.readable() == set()
    curated.rules(table("allow", name="app", version="2", integrity=[str(curated.one), str(curated.two)]))
    assert curated.readable() == SOLO | {"base"}
    curated.rules(table("allow", name="app", version="2"), require_integrity=True)
    assert curated.readable() == set()


# Ages, pins, exceptions.


def test_images_ripen_only_when_hosted_ones_are_meant(curated):
    curated.rules(min_release_age=7 * DAY)
    assert curated.readable() == ALL
    curated.rules(min_release_age=7 * DAY, hosted=True)
    assert curated.readable() == set()
    answer = curated.ask("GET", "app/manifests/1")
    assert answer.headers["X-Nora-Rule"] == "min-release-age"
    assert answer.json["context"]["until"] == int(NOW + 7 * DAY)
    curated.clock.now += 7 * DAY - 1
    assert curated.readable() == set()
    curated.clock.now += 1
    assert curated.readable() == ALL


def test_an_age_rule_for_one_name(curated):
    curated.rules(table("age", name="other", min_release_age="1d"), hosted=True)
    assert curated.readable() == ALL
    assert curated.status("other/manifests/1", "GET") == 403


def test_pins(curated):
    curated.rules(table("pin", name="app", version="2", integrity=[str(curated.one)]))
    assert curated.ask("GET", "app/manifests/2").headers["X-Nora-Rule"] == "pin"
    assert curated.readable() == INDEX | {"base"}
    curated.rules(*(table("pin", name="app", version="2", integrity=[str(digest)]) for digest in (curated.one, curated.two)))
    assert curated.readable() == ALL
    curated.push_image("app", "2", layers=(b"another",))
    assert curated.status("app/manifests/2", "GET") == 403, "the tag was moved"


def test_an_exception_ends(curated):
    curated.rules(block("1"), table("except", name="app", version="1", expires=when(60)))
    assert curated.readable() == ALL
    curated.clock.now += 60
    assert curated.readable() == SOLO | {"base"}


def test_a_rule_ends(curated):
    curated.rules(block("1", expires=when(60)))
    answer = curated.ask("GET", "app/manifests/1")
    assert answer.json["context"]["until"] == int(NOW + 60)
    curated.clock.now += 60
    assert curated.readable() == ALL


# Modes.


def test_mode_off_blocks_nothing_and_says_nothing(curated):
    curated.rules(block(), mode="off")
    assert curated.readable() == ALL
    assert "X-Nora-Policy" not in curated.ask("GET", "app/manifests/1").headers
    assert "immutable" in curated.ask("GET", f"app/manifests/{curated.one}").headers["Cache-Control"]


@pytest.mark.parametrize("mode", ["off", "enforce"])
def test_internal_names_are_ones_own(curated, mode):
    """What was published here is always served, whatever other rules say."""
    curated.rules(block(), mode=mode, internal_namespaces=("app", "team/**"))
    assert curated.readable() == ALL
    assert curated.status("other/manifests/1", "GET") == 200


@pytest.mark.parametrize("own", [{"mode": "audit"}, {}])
def test_audit_serves_and_tells(curated, own):
    """The mode, or the rule's own."""
    curated.rules(block("1", id="no-one", **({} if own else {"mode": "audit"})), **own)
    assert curated.readable() == ALL
    told = {line["artifact"] for line in curated.audit("curation_would_block")}
    assert told == {"app@1", *(f"app@{digest}" for digest in (curated.one, curated.amd, curated.arm, Digest.of(b"amd"), Digest.of(b"arm")))}
    assert {line["outcome"] for line in curated.audit("curation_would_block")} == {"ok"}
    assert all("no-one" in line["detail"] for line in curated.audit("curation_would_block"))
    assert curated.tags("app") == ["1", "2"]


def test_plain_allows_are_audited_when_that_is_wanted(curated):
    curated.rules(block("1"))
    curated.readable()
    assert not curated.audit("curation_allow")
    curated.rules(block("1"), audit_allows=True)
    for _ in range(2):
        assert curated.ask("GET", "app/manifests/2").status_code == 200
    assert [line["artifact"] for line in curated.audit("curation_allow")] == ["app@2", "app@2"]


# Bypass tokens.


def sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


@pytest.mark.parametrize("header", ["X-Nora-Bypass-Token", "X-Nora-Bypass", "x-nora-bypass-token"])
@pytest.mark.parametrize("token", [TOKEN, NAMED])
def test_a_bypass_token_lets_past_and_is_written_down(curated, header, token):
    curated.rules(block("1"), table("bypass", name="ann", token_sha256=sha256(NAMED)), bypass_token=TOKEN)
    assert curated.readable(headers={header: token}) == ALL
    past = curated.audit("curation_bypass")
    assert {line["artifact"] for line in past} >= {"app@1", f"app@{curated.one}"}
    assert ("ann" in past[0]["detail"]) is (token == NAMED)
    assert token not in json.dumps(past)


@pytest.mark.parametrize(
    "token",
    ["", " ", "wrong", TOKEN.upper(), f"{TOKEN} ", f"Bearer {TOKEN}", f"{TOKEN},{TOKEN}", f"x, {TOKEN}", "*", sha256(TOKEN), "\xe4", "x" * 4000],
)
def test_what_is_no_token(curated, token):
    curated.rules(block("1"), bypass_token=TOKEN)
    if token.strip() == TOKEN:
        token = f"{token}."
    for header in ("X-Nora-Bypass-Token", "X-Nora-Bypass"):
        assert curated.readable(headers={header: token}) == SOLO | {"base"}
    assert curated.audit("curation_bypass") == []


@pytest.mark.parametrize("token", ["", "x"])
def test_where_no_token_is_set_none_is_good(curated, token):
    curated.rules(block("1"))
    assert curated.readable(headers={"X-Nora-Bypass-Token": token}) == SOLO | {"base"}


@pytest.mark.parametrize("path", ["app/manifests/1?bypass_token={}", "app/manifests/1?X-Nora-Bypass-Token={}", "app/manifests/1?token={}"])
def test_a_token_in_the_address_is_none(curated, path):
    curated.rules(block("1"), bypass_token=TOKEN)
    assert curated.status(path.format(TOKEN), "GET") == 403


def test_a_token_ends(curated):
    curated.rules(block("1"), table("bypass", name="ann", token_sha256=sha256(NAMED), expires=when(60)))
    headers = {"X-Nora-Bypass-Token": NAMED}
    assert curated.readable(headers=headers) == ALL
    curated.clock.now += 60
    assert curated.readable(headers=headers) == SOLO | {"base"}


def test_a_token_does_not_lift_pins_and_integrity(curated):
    headers = {"X-Nora-Bypass-Token": TOKEN}
    curated.rules(table("pin", name="app", version="2", integrity=[str(curated.one)]), bypass_token=TOKEN)
    assert curated.ask("GET", "app/manifests/2", headers=headers).status_code == 403
    curated.rules(table("allow", name="app", version="2", integrity=[str(curated.one)]), bypass_token=TOKEN)
    assert curated.ask("GET", "app/manifests/2", headers=headers).status_code == 403
    assert curated.ask("GET", "app/manifests/1", headers=headers).status_code == 200


def test_a_token_is_no_login(tmp_path, app_with):
    curated = Curated(tmp_path, app_with, auth={"users": {"joe": "j"}}, access={"default_role": "none"})
    curated.rules(bypass_token=TOKEN)
    assert curated.ask("GET", "app/manifests/1", headers={"X-Nora-Bypass-Token": TOKEN}).status_code == 401


# Answers.


def test_a_refusal_is_in_the_form_of_oci_with_the_members_of_nora(curated):
    found = curated.rules(block("1", id="no-one", reason="known to be bad", ticket="SEC-1"), docs_url="https://wiki/curation")
    answer = curated.ask("GET", "app/manifests/1")
    assert (answer.status_code, answer.content_type) == (403, "application/json")
    (entry,) = answer.json["errors"]
    assert entry["code"] == "DENIED"
    assert {"no-one", "bad"} <= set(entry["message"].replace(")", " ").replace(":", " ").replace(";", " ").split())
    assert entry["detail"] == answer.json["context"]
    context = answer.json["context"]
    assert {key: context[key] for key in ("rule", "reason", "registry", "package", "version", "rule_id", "place", "policy")} == {
        "rule": "blocklist",
        "reason": "known to be bad",
        "registry": "docker",
        "package": "app",
        "version": "1",
        "rule_id": "no-one",
        "place": "rules.toml:1",
        "policy": found.fingerprint,
    }
    assert (answer.json["error"], answer.json["error_version"], answer.json["docs"]) == ("blocked_by_policy", "v1", "https://wiki/curation")
    assert answer.headers["X-Nora-Decision"] == "blocked"
    assert answer.headers["X-Nora-Rule"] == "blocklist"
    assert answer.headers["X-Nora-Reason"] == "known to be bad"
    assert answer.headers["X-Nora-Policy"] == found.fingerprint
    assert answer.headers["Cache-Control"] == "no-store"
    assert "Retry-After" not in answer.headers
    assert "ETag" not in answer.headers
    assert str(curated.folder) not in answer.text


def test_a_head_has_the_headers_alone(tmp_path, app_with):
    """To those who may only pull; who may push is told what is there (test_curation_pushes.py)."""
    curated = Curated(tmp_path, app_with, **with_logins()).as_user("root").fill()
    curated.rules(block("1"))
    answer = curated.as_user("joe").ask("HEAD", "app/manifests/1")
    assert (answer.status_code, answer.data) == (403, b"")
    assert answer.headers["X-Nora-Decision"] == "blocked"
    assert "Docker-Content-Digest" not in answer.headers


def test_the_decision_id_leads_back_to_the_question(curated):
    found = curated.rules(block("1"))
    answer = curated.ask("GET", "app/manifests/1")
    assert answer.headers["X-Nora-Decision-Id"] == answer.json["context"]["decision"]
    fingerprint, time, package = read_decision_id(answer.json["context"]["decision"])
    assert (fingerprint, time) == (found.fingerprint, int(NOW))
    assert (package.format, package.name, package.version, package.repository) == ("docker", "app", "1", "docker")
    assert answer.json["context"]["decision"] in curated.audit("curation_block")[0]["detail"]


@pytest.mark.parametrize("path", ["app/manifests/2", "app/manifests/{two}", "app/blobs/{base}", "app/tags/list", "_catalog", "app/referrers/{two}"])
def test_answers_name_the_policy_and_are_asked_for_again(curated, path):
    """A cache in between must not serve tomorrow what is blocked by then."""
    found = curated.rules(block("1"))
    answer = curated.ask("GET", path.format(two=curated.two, base=Digest.of(b"base")))
    assert answer.status_code == 200
    assert answer.headers["X-Nora-Policy"] == found.fingerprint
    assert "immutable" not in answer.headers.get("Cache-Control", "")
    assert "max-age" not in answer.headers.get("Cache-Control", "")
    if "{" in path and "referrers" not in path:
        assert answer.headers["Cache-Control"] == "private, no-cache"
        again = curated.ask("GET", path.format(two=curated.two, base=Digest.of(b"base")), headers={"If-None-Match": answer.headers["ETag"]})
        assert (again.status_code, again.headers["X-Nora-Policy"]) == (304, found.fingerprint)


def test_each_refusal_is_written_down(curated):
    curated.rules(block("1", id="no-one"))
    curated.ask("GET", "app/manifests/1")
    (line,) = curated.audit("curation_block")
    assert (line["actor"], line["artifact"], line["registry"], line["outcome"]) == ("anonymous", "app@1", "docker", "denied")
    assert "no-one" in line["detail"]


# The ledger.


def ledger(curated: Curated) -> list[tuple[str, str, str]]:
    return [(entry.name, entry.version, entry.digest) for entry in curated.ledger() if not entry.part]


def test_what_was_served_is_in_the_ledger(curated):
    curated.rules(block("1"))
    curated.readable()
    curated.ask("HEAD", "other/manifests/1")
    curated.ask("GET", "app/tags/list")
    assert ledger(curated) == [("app", "2", str(curated.two)), ("app", str(curated.two), str(curated.two))]
    (first, *_) = read(curated.folder / "state" / "ledger", NOW - 1)
    assert (first.format, first.repository, first.principal, first.source, first.hosted) == ("docker", "docker", "anonymous", "anonymous", True)


def test_who_got_it_is_in_the_ledger(tmp_path, app_with):
    curated = Curated(tmp_path, app_with, auth={"users": {"root": "r"}, "admin_users": ("root",)})
    curated.client.environ_base["HTTP_AUTHORIZATION"] = basic("root", "r")
    curated.fill().rules()
    curated.ask("GET", "library/app/manifests/1")
    curated.ask("GET", "app/manifests/1")
    curated.curation.ledger.flush()
    assert [(entry.principal, entry.source) for entry in read(tmp_path / "state" / "ledger", NOW - 1)] == [("root", "password")]


# One snapshot for each request.


@pytest.mark.parametrize("path", ["app/manifests/2", "app/blobs/{base}", "app/tags/list", "_catalog", "app/referrers/{two}"])
def test_a_policy_that_comes_during_a_request_waits_for_the_next(curated, path, monkeypatch):
    old = curated.rules(block("1"))
    new = Policy.from_buffer(compile(Settings(mode="enforce", hosted=True, min_release_age=DAY), read_rules(_rules(curated, block(name="*")), NOW)))
    real = gate.state

    def then_reload() -> State:
        state = real()
        enforce(curated.services.live, new)
        return state

    path = path.format(two=curated.two, base=Digest.of(b"base"))
    with monkeypatch.context() as patch:
        patch.setattr(gate, "state", then_reload)
        answer = curated.ask("GET", path)
    assert answer.status_code == 200
    assert answer.headers["X-Nora-Policy"] == old.fingerprint
    assert curated.services.live.state.policy is new
    answer = curated.ask("GET", path)
    assert answer.headers["X-Nora-Policy"] == new.fingerprint
    assert answer.status_code == 403 or answer.json == {"repositories": []}


def _rules(curated: Curated, text: str) -> Any:
    return config_of(curated.folder, curation={"mode": "enforce", "rules": text}).curation
