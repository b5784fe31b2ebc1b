"""The same bytes by sha256 and by sha512 are the same image: no rule is passed by calling it otherwise."""

from __future__ import annotations

import json

import pytest

from noraflask.digest import Digest
from noraflask.errors import Unavailable
from noraflask.formats.docker import twins
from noraflask.formats.docker.protocol.media_types import OCI_MANIFEST
from noraflask.services import rehashing
from tests.protocol.curated import block, table
from tests.protocol.oci import CONFIG_TYPE, LAYER_TYPE, code, descriptor, image

AMD, TWO, BASE = b"amd", b"two", b"base"
LONG = "sha512"


def body_of(curated, reference):
    curated.rules()
    answer = curated.ask("GET", f"app/manifests/{reference}")
    assert answer.status_code == 200
    return answer.data


def push_twin(curated, reference, name="app"):
    """The manifest again, by its sha512."""
    data = body_of(curated, reference)
    digest = Digest.of(data, LONG)
    assert curated.push(name, digest, data).status_code == 201
    return digest


def image_by(*digests: Digest) -> bytes:
    entries = [descriptor(digest, kind) for digest, kind in zip(digests, (CONFIG_TYPE, *[LAYER_TYPE] * 9), strict=False)]
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": entries[0], "layers": entries[1:]}).encode()


@pytest.mark.parametrize("of", ["one", "two"])
def test_the_twin_of_a_blocked_tags_image_is_blocked_with_its_layers(curated, of):
    """Pushed before the rule or after it."""
    tag, layer = ("1", AMD) if of == "one" else ("2", TWO)
    curated.rules(block(tag))
    before = curated.status(f"app/blobs/{Digest.of(layer)}", "GET")
    twin = push_twin(curated, getattr(curated, of))
    curated.rules(block(tag))
    assert before == 403
    assert code(curated.ask("GET", f"app/manifests/{twin}")) == (403, "DENIED")
    assert curated.status(f"app/blobs/{Digest.of(layer)}", "GET") == 403
    curated.rules()
    assert curated.status(f"app/manifests/{twin}", "GET") == 200


def test_a_tag_of_the_twin_counts_for_both(curated):
    twin = push_twin(curated, curated.two)
    assert curated.push("app", twin, body_of(curated, twin), query={"tag": "long"}).status_code == 201
    curated.rules(block("long"))
    assert ":2" not in curated.readable()
    assert "@2" not in curated.readable()
    assert "two" not in curated.readable()
    assert curated.tags("app") == ["1"]


def test_a_platform_of_a_blocked_index_by_its_other_digest(curated):
    twin = push_twin(curated, curated.amd)
    curated.rules(block("1"))
    assert curated.status(f"app/manifests/{twin}", "GET") == 403
    assert curated.status(f"app/blobs/{Digest.of(AMD)}", "GET") == 403


@pytest.mark.parametrize("named", ["sha256", LONG])
def test_a_rule_by_either_digest_of_a_manifest_reaches_it(curated, named):
    """Also by the sha512 of what nobody has pushed by it."""
    digest = Digest.of(body_of(curated, curated.two), named)
    curated.rules(block(str(digest)))
    assert not {":2", "@2", "two"} & curated.readable()
    twin = push_twin(curated, curated.two)
    curated.rules(block(str(digest)))
    assert curated.status(f"app/manifests/{twin}", "GET") == 403


@pytest.mark.parametrize("named", ["sha256", LONG])
@pytest.mark.parametrize("pushed", ["sha256", LONG])
def test_a_rule_by_either_digest_of_a_layer_reaches_it(curated, named, pushed):
    data = b"forbidden" * 100
    config, layer = curated.push_blob("app", b"{}"), curated.push_blob("app", data, pushed)
    assert curated.push("app", "3", image_by(config, layer)).status_code == 201
    curated.rules(block(str(Digest.of(data, named)), name="*"))
    assert curated.status(f"app/blobs/{layer}", "GET") == 403
    curated.rules(block(str(Digest.of(b"another", named)), name="*"))
    assert curated.status(f"app/blobs/{layer}", "GET") == 200


def test_a_layer_of_a_blocked_image_pushed_once_more_by_its_other_digest(curated):
    curated.rules(block("1"), block("2"))
    layer = curated.push_blob("app", TWO, LONG)
    assert curated.status(f"app/blobs/{layer}", "GET") == 403
    curated.rules()
    assert curated.status(f"app/blobs/{layer}", "GET") == 200


def test_a_layer_that_an_image_has_by_sha512_is_blocked_by_sha256_too(curated):
    layer = curated.push_blob("app", b"long layer", LONG)
    assert curated.push("app", "3", image_by(curated.push_blob("app", b"{}"), layer)).status_code == 201
    short = curated.push_blob("app", b"long layer")
    curated.rules(block("3"))
    assert {curated.status(f"app/blobs/{one}", "GET") for one in (layer, short)} == {403}
    curated.ask("DELETE", f"app/blobs/{layer}")
    assert curated.status(f"app/blobs/{short}", "GET") == 403, "the image still names it"


def test_a_mount_keeps_what_is_known_of_the_twin(curated):
    layer = curated.push_blob("app", b"long layer", LONG)
    assert curated.ask("POST", f"copy/blobs/uploads/?mount={layer}&from=app").status_code == 201
    assert twins.noted(curated.services.content, "docker", "copy", layer) == Digest.of(b"long layer")
    curated.rules(block(str(Digest.of(b"long layer")), name="copy"))
    assert curated.status(f"copy/blobs/{layer}", "GET") == 403


def test_an_allowlist_and_pins_take_either_digest(curated):
    twin = push_twin(curated, curated.two)
    curated.rules(table("allow", name="app", version=str(twin)))
    assert curated.readable() == {":2", "@2", "two", "base"}
    assert curated.status(f"app/manifests/{twin}", "GET") == 200
    curated.rules(table("pin", name="app", version="2", integrity=[str(twin)]))
    assert {":2", "@2"} <= curated.readable()
    curated.rules(table("pin", name="app", version="2", integrity=[str(Digest.of(b"other", LONG))]))
    assert not {":2", "@2"} & curated.readable()


def test_a_large_layer_is_hashed_one_at_a_time_and_once(curated, monkeypatch):
    """For a rule by sha512, of what came by sha256; meanwhile others are told to come again, and nobody gets it unjudged."""
    monkeypatch.setattr(rehashing, "AT_ONCE_BYTES", 3)
    monkeypatch.setattr(twins, "NOTED_BYTES", 3)
    data, path = b"large", f"app/blobs/{Digest.of(b'large')}"
    curated.push_blob("app", data)
    curated.rules(block(str(Digest.of(b"none", LONG))))
    with twins.REHASHING.turn(4), pytest.raises(Unavailable):
        twins.other(curated.services.content, "docker", "app", Digest.of(data))
    with twins.REHASHING.turn(4):
        answer = curated.ask("GET", path)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert curated.status(path, "GET") == 200
    hashed = []
    monkeypatch.setattr(twins.REHASHING, "hashes", lambda *of: hashed.append(of))
    twins._found.clear()
    curated.rules(block(str(Digest.of(data, LONG))))
    assert curated.status(path, "GET") == 403, "as it is noted"
    assert hashed == []


def test_nothing_is_hashed_while_no_rule_speaks_of_sha512(curated, monkeypatch):
    monkeypatch.setattr(twins.REHASHING, "hashes", lambda *of: pytest.fail("hashed"))
    curated.rules(block("1"), block(str(curated.amd)), table("pin", name="app", version="2", integrity=[str(curated.two)]))
    assert curated.readable() == {":2", "@2", "two", "base"}


def test_a_refused_push_leaves_no_word_of_a_twin(curated):
    """Otherwise somebody could call a layer by another one's name."""
    claimed = Digest.of(b"victim", LONG)
    answer = curated.ask("POST", "app/blobs/uploads/", query_string={"digest": str(claimed)}, data=b"other bytes")
    assert answer.status_code == 400
    assert twins.noted(curated.services.content, "docker", "app", claimed) is None


def test_what_is_explained_of_a_twin(curated):
    twin = push_twin(curated, curated.two)
    curated.rules(block("2", id="no-two"))
    answer = curated.client.get(f"/api/v1/curation/explain?format=docker&name=app&version={twin}")
    assert (answer.status_code, answer.json["allowed"]) == (200, False)
    assert curated.push("app", "4", image(layers=(b"base",))).status_code == 201
