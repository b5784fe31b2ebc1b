"""Manifests: what parse_manifest reads, and what it refuses (image-spec "Image Manifest", "Image Index", "Content Descriptors")."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noraflask.digest import Digest
from noraflask.errors import ManifestInvalid
from noraflask.formats.docker.protocol.kept import (
    ANNOTATIONS_BYTES,
    ARTIFACT_TYPE_CHARACTERS,
    FEW_PARTS,
    Parts,
    default_child,
    descriptor_of,
    digests_in,
    manifest_members,
    referrer_members,
    render_referrers,
    subject_of,
    tag_members,
)
from noraflask.formats.docker.protocol.manifests import MANIFEST_BYTES, parse_manifest
from noraflask.formats.docker.protocol.media_types import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    GENERIC_TYPES,
    INDEXES,
    MANIFEST_TYPES,
    OCI_ARTIFACT,
    OCI_INDEX,
    OCI_MANIFEST,
    accepts,
    takes_images_alone,
)
from noraflask.pointer import Pointer

CONFIG, LAYER, OTHER = Digest.of(b"config"), Digest.of(b"layer"), Digest.of(b"other", "sha512")
CONFIG_TYPE, LAYER_TYPE = "application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.layer.v1.tar+gzip"
SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+prettyjws"
ABSENT = object()


def descriptor(digest=LAYER, media_type=LAYER_TYPE, **more):
    return {"mediaType": media_type, "digest": str(digest), "size": 5, **more}


def without_absent(members):
    return {name: value for name, value in members.items() if value is not ABSENT}


def image(**changes):
    return without_absent({"schemaVersion": 2, "config": descriptor(CONFIG, CONFIG_TYPE), "layers": [descriptor()], **changes})


def index(**changes):
    return without_absent({"schemaVersion": 2, "manifests": [descriptor(CONFIG, OCI_MANIFEST)], **changes})


def artifact(**changes):
    return without_absent({"mediaType": OCI_ARTIFACT, "artifactType": "a/b", "blobs": [descriptor()], **changes})


def parse(members, content_type=""):
    data = members if isinstance(members, bytes) else members.encode() if isinstance(members, str) else json.dumps(members).encode()
    return parse_manifest(data, content_type)


def refused(members, content_type=""):
    with pytest.raises(ManifestInvalid) as caught:
        parse(members, content_type)
    assert len(caught.value.message) < 1000
    return caught.value.message


# What is read.


@pytest.mark.parametrize("media_type", [OCI_MANIFEST, DOCKER_MANIFEST])
def test_an_image(media_type):
    found = parse(image(mediaType=media_type, layers=[descriptor(LAYER), descriptor(OTHER), descriptor(LAYER)], annotations={"a": "b"}), media_type)
    assert (found.media_type, found.blobs, found.children) == (media_type, (CONFIG, LAYER, OTHER), ())
    assert (found.subject, found.artifact_type, found.annotations) == (None, CONFIG_TYPE, {"a": "b"})


@pytest.mark.parametrize("media_type", INDEXES)
def test_an_index(media_type):
    children = [
        descriptor(CONFIG, OCI_MANIFEST, platform={"os": "linux", "architecture": "amd64"}),
        descriptor(LAYER, DOCKER_MANIFEST),
        descriptor(OTHER, OCI_MANIFEST, platform="nonsense"),
    ]
    found = parse(index(mediaType=media_type, manifests=children), media_type)
    assert (found.media_type, found.blobs, found.children) == (media_type, (), (CONFIG, LAYER, OTHER))
    assert (found.artifact_type, found.subject, found.annotations) == (None, None, None)


def test_an_artifact():
    found = parse(artifact(blobs=[descriptor(LAYER), descriptor(OTHER)], subject=descriptor(CONFIG, OCI_MANIFEST)), OCI_ARTIFACT)
    assert (found.media_type, found.blobs, found.subject, found.artifact_type) == (OCI_ARTIFACT, (LAYER, OTHER), CONFIG, "a/b")
    assert parse(artifact(blobs=ABSENT), OCI_ARTIFACT).blobs == ()


@pytest.mark.parametrize(
    ("media_type", "is_exempt"),
    [
        ("application/vnd.oci.image.layer.nondistributable.v1.tar", True),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", True),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", True),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", True),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", False),
        ("application/vnd.oci.image.layer.v1.tar+zstd", False),
        ("x/application/vnd.oci.image.layer.nondistributable.v1.tar", False),
        ("application/octet-stream", False),
    ],
)
def test_a_non_distributable_layer_need_not_be_there(media_type, is_exempt):
    found = parse(image(layers=[descriptor(LAYER, media_type, urls=["https://example.com/layer"])]))
    assert (LAYER not in found.blobs) == is_exempt
    assert CONFIG in found.blobs


@pytest.mark.parametrize("members", [image(layers=[]), image(layers=ABSENT), image(layers=None), image(subject=None), image(annotations=None)])
def test_what_an_image_may_lack(members):
    assert parse(members).media_type == OCI_MANIFEST


@pytest.mark.parametrize("value", [[], None])
@pytest.mark.parametrize("content_type", ["", OCI_INDEX])
def test_an_index_may_be_empty(value, content_type):
    found = parse(index(manifests=value), content_type)
    assert (found.media_type, found.children, found.blobs) == (OCI_INDEX, (), ())


@pytest.mark.parametrize(
    ("members", "media_type"),
    [
        (image(manifests=None), OCI_MANIFEST),
        (image(manifests=None, blobs=None, layers=None), OCI_MANIFEST),
        (index(config=None, layers=None, blobs=None), OCI_INDEX),
        (index(manifests=None, config=None), OCI_INDEX),
    ],
)
def test_members_that_are_null_say_nothing_of_what_it_is(members, media_type):
    assert parse(members).media_type == media_type


def test_an_index_may_list_blobs():
    """As BuildKit's older caches do; the gate finds them among its blobs."""
    entries = [
        descriptor(LAYER),
        descriptor(CONFIG, "application/vnd.buildkit.cacheconfig.v0"),
        descriptor(OTHER, f"{OCI_MANIFEST};a=b".upper()),
        descriptor(LAYER),
        descriptor(Digest.of(b"far"), "application/vnd.oci.image.layer.nondistributable.v1.tar"),
    ]
    found = parse(index(manifests=entries))
    assert (found.blobs, found.images) == ((LAYER, CONFIG), (OTHER,))
    assert found.children == (LAYER, CONFIG, OTHER, LAYER, Digest.of(b"far"))


@pytest.mark.parametrize(
    ("members", "artifact_type"),
    [
        (image(), CONFIG_TYPE),
        (image(artifactType="a/b"), "a/b"),
        (image(artifactType=""), CONFIG_TYPE),
        (image(artifactType=None), CONFIG_TYPE),
        (index(artifactType="a/b"), "a/b"),
        (index(), None),
    ],
)
def test_artifact_type_falls_back_to_the_config(members, artifact_type):
    assert parse(members).artifact_type == artifact_type


# Content-Type and mediaType.


@pytest.mark.parametrize("media_type", [OCI_MANIFEST, DOCKER_MANIFEST])
@pytest.mark.parametrize("form", ["{}", "{}; charset=utf-8", " {} ;x=y", "{};"])
@pytest.mark.parametrize("in_body", [True, False])
def test_content_type_with_and_without_media_type(media_type, form, in_body):
    assert parse(image(mediaType=media_type if in_body else ABSENT), form.format(media_type)).media_type == media_type
    assert parse(image(mediaType=media_type if in_body else ABSENT), form.format(media_type.upper())).media_type == media_type


@pytest.mark.parametrize("content_type", [*GENERIC_TYPES, "application/json; charset=utf-8", "TEXT/PLAIN"])
@pytest.mark.parametrize(
    ("members", "media_type"),
    [
        (image(mediaType=DOCKER_MANIFEST), DOCKER_MANIFEST),
        (index(mediaType=DOCKER_LIST), DOCKER_LIST),
        (artifact(), OCI_ARTIFACT),
        (image(), OCI_MANIFEST),
        (index(), OCI_INDEX),
    ],
)
def test_where_the_client_does_not_say_what_it_pushes_the_body_counts(content_type, members, media_type):
    assert parse(members, content_type).media_type == media_type


@pytest.mark.parametrize(
    ("members", "content_type"),
    [
        (image(mediaType=OCI_MANIFEST), DOCKER_MANIFEST),
        (image(mediaType=DOCKER_MANIFEST), OCI_MANIFEST),
        (index(mediaType=OCI_INDEX), OCI_MANIFEST),
        (index(mediaType=OCI_INDEX), DOCKER_LIST),
        (image(mediaType=OCI_MANIFEST.upper()), OCI_MANIFEST),
        (image(), "text/html"),
        (image(), "application/vnd.oci.image.config.v1+json"),
        (image(), "application/vnd.oci.image.manifest.v2+json"),
        (image(mediaType="x/y"), "x/y"),
        (image(mediaType="x/y"), ""),
        (image(mediaType="x" * 100_000), ""),
        (image(), "x" * 100_000),
        (image(), SCHEMA_1),
        (image(mediaType=SCHEMA_1), SCHEMA_1),
    ],
)
def test_contradictory_and_unknown_types(members, content_type):
    refused(members, content_type)


@pytest.mark.parametrize("version", [1, 3, 0, -2, "2", None, ABSENT, True, [2], {}])
@pytest.mark.parametrize("make", [image, index])
def test_schema_version(make, version):
    assert "schemaVersion" in refused(make(schemaVersion=version))


# Documents that could be read as another type.


@pytest.mark.parametrize(
    ("members", "content_type"),
    [
        (image(manifests=[]), OCI_MANIFEST),
        (image(manifests=[descriptor()]), ""),
        (index(layers=[]), OCI_INDEX),
        (index(layers=[descriptor()]), ""),
        (index(config=descriptor()), OCI_INDEX),
        (index(config={}), DOCKER_LIST),
        (index(blobs=[]), OCI_INDEX),
        (artifact(manifests=[]), OCI_ARTIFACT),
    ],
)
def test_ambiguous_documents(members, content_type):
    refused(members, content_type)


def text_of(members, old, new):
    text = json.dumps(members)
    assert text.count(old) == 1
    return text.replace(old, new)


@pytest.mark.parametrize(
    "text",
    [
        text_of(image(), '"schemaVersion": 2', '"schemaVersion": 2, "schemaVersion": 2'),
        text_of(image(), '"layers": [', '"layers": [], "layers": ['),
        text_of(image(layers=[]), '"size": 5', '"size": 5, "size": 5'),
        text_of(image(annotations={"a": "b"}), '"a": "b"', '"a": "b", "a": "c"'),
        text_of(image(), '"schemaVersion": 2', '"schemaVersion": 2, "x": {"y": 1, "y": 1}'),
        text_of(image(), '"schemaVersion": 2', '"schemaVersion": 2, "layer\\u0073": []'),
    ],
)
def test_a_member_that_appears_twice(text):
    assert "appears twice" in refused(text)


@pytest.mark.parametrize(
    "members",
    [
        image(Layers=[]),
        image(LAYERS=[descriptor(OTHER)]),
        image(Config=descriptor(OTHER)),
        image(SchemaVersion=2),
        image(Manifests=[]),
        image(Subject=descriptor(OTHER)),
        image(layers=[descriptor(Size=1)]),
        image(mediaType=OCI_MANIFEST, MediaType=DOCKER_MANIFEST),
        image(MediaType=OCI_MANIFEST),
        image(ArtifactType="a/b"),
        image(layers=[descriptor(Digest=str(OTHER))]),
        image(layers=[descriptor(DIGEST=str(OTHER))]),
        image(config=descriptor(CONFIG, CONFIG_TYPE, Digest=str(OTHER))),
        image(layers=[descriptor(MediaType="application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")]),
        index(manifests=[descriptor(CONFIG, OCI_MANIFEST, Digest=str(OTHER))]),
        image() | {"layer\u017f": [descriptor(OTHER)]},  # Go's decoder folds the long s
    ],
)
def test_a_member_in_another_letter_case_which_go_clients_would_read_as_the_same(members):
    refused(members)


@pytest.mark.parametrize("name", ["Size", "Digest", "URLs", "MediaType", "config"])
def test_annotations_may_have_any_name(name):
    assert parse(image(annotations={name: "x"})).annotations == {name: "x"}
    assert parse(image(layers=[descriptor(annotations={name: "x"})])).blobs == (CONFIG, LAYER)


# Wrong types, field by field.

NO_OBJECT = [1, 0, True, "x", [], [1], 1.5]
NO_TEXT = [1, 0, True, [], {}, 1.5]
NO_LIST = [1, True, "x", {}, {"0": 1}]


@pytest.mark.parametrize("value", [*NO_OBJECT, None, ABSENT, {}])
def test_config_of_a_wrong_type(value):
    assert "config" in refused(image(config=value))


@pytest.mark.parametrize("value", NO_LIST)
def test_layers_of_a_wrong_type(value):
    assert "layers" in refused(image(layers=value))


@pytest.mark.parametrize("value", [*NO_LIST, ABSENT])
def test_manifests_of_a_wrong_type(value):
    assert "manifests" in refused(index(manifests=value), OCI_INDEX)


@pytest.mark.parametrize("value", NO_LIST)
def test_blobs_of_a_wrong_type(value):
    assert "blobs" in refused(artifact(blobs=value), OCI_ARTIFACT)


@pytest.mark.parametrize("value", [*NO_OBJECT, None])
@pytest.mark.parametrize(
    ("make", "where"), [(image, "layers"), (index, "manifests"), (artifact, "blobs")], ids=["image.layers", "index.manifests", "artifact.blobs"]
)
def test_a_list_holds_descriptors_alone(make, where, value):
    assert f"{where}[1]" in refused(make(**{where: [descriptor(), value]}))


@pytest.mark.parametrize("value", [*NO_OBJECT, {}])
@pytest.mark.parametrize("make", [image, index, artifact])
def test_subject_of_a_wrong_type(make, value):
    assert "subject" in refused(make(subject=value))


@pytest.mark.parametrize("value", NO_TEXT)
@pytest.mark.parametrize("make", [image, index, artifact])
@pytest.mark.parametrize("name", ["mediaType", "artifactType"])
def test_text_members_of_a_wrong_type(make, name, value):
    assert name in refused(make(**{name: value}))


@pytest.mark.parametrize("value", [*NO_OBJECT, {"a": 1}, {"a": None}, {"a": "b", "c": ["d"]}])
@pytest.mark.parametrize("make", [image, index, artifact])
def test_annotations_of_a_wrong_type(make, value):
    assert "annotations" in refused(make(annotations=value))


PLACES = {
    "config": lambda bad: image(config=bad),
    "layers[0]": lambda bad: image(layers=[bad]),
    "manifests[0]": lambda bad: index(manifests=[bad]),
    "blobs[0]": lambda bad: artifact(blobs=[bad]),
    "subject": lambda bad: image(subject=bad),
}


@pytest.mark.parametrize(
    ("name", "value"),
    [("mediaType", value) for value in [*NO_TEXT, None, ABSENT]]
    + [("size", value) for value in ["5", True, False, None, ABSENT, -1, 1.5, 5.0, [], {}, 10**30, 2**63]]
    + [("digest", value) for value in [*NO_TEXT, None, ABSENT, "", "sha256:", "md5:" + "0" * 32, str(LAYER).upper(), str(LAYER) + "\n", "../x"]],
)
def test_descriptor_fields_of_a_wrong_type(name, value):
    for where, place in PLACES.items():
        assert refused(place(without_absent(descriptor() | {name: value}))).startswith(f"{where}.{name}")


# What is not JSON in UTF-8.


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"null",
        b"[]",
        b"2",
        b'"x"',
        b"{",
        b"{}x",
        b"{} {}",
        b"<html>",
        b"{'a': 1}",
        b'{"a": 1,}',
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": -Infinity}',
        b'{"a": "\x00"}',
        b'{"a": "\xff"}',
        b'{"a": "\xed\xa0\x80"}',  # a surrogate in UTF-8
        b'{"a": "\xc0\xaf"}',  # overlong
        b'{"a": 01}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b"\xef\xbb\xbf" + json.dumps(image()).encode(),
        json.dumps(image()).encode("utf-16"),
        json.dumps(image()).encode("utf-16-le"),
        json.dumps(image()).encode("utf-32"),
        b"[" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b"\x1f\x8b\x08" + b"\0" * 100,
    ],
    ids=lambda data: repr(data[:24]),
)
def test_what_is_not_json(data):
    for content_type in ("", OCI_MANIFEST, OCI_INDEX):
        refused(data, content_type)


def test_surrogates_are_kept_out_of_answers():
    """JSON can spell half a character; it must neither break an answer's encoding nor pass for a type."""
    assert refused('{"mediaType": "\\ud800"}').encode()
    found = parse(json.dumps(image(artifactType="\ud800", annotations={"\udfff": "\ud800"}, subject=descriptor())))
    stored = Pointer.parse(Pointer(OTHER, 1, OCI_MANIFEST, 0.0, referrer_members(found)).render())
    assert json.loads(render_referrers([json.dumps(descriptor_of(stored)).encode()]))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8) | st.just(str(LAYER)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["mediaType", "digest", "size", "a"]), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ["schemaVersion", "mediaType", "artifactType", "config", "layers", "blobs", "manifests", "subject", "annotations"]


@given(
    base=st.sampled_from([image(), index(), artifact()]),
    changes=st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=3),
    content_type=st.text(),
)
def test_a_manifest_or_the_right_error_and_nothing_else(base, changes, content_type):
    for header in ("", content_type, *MANIFEST_TYPES):
        try:
            found = parse(base | changes, header)
        except ManifestInvalid:
            continue
        assert found.media_type in MANIFEST_TYPES
        assert all(isinstance(digest, Digest) for digest in (*found.blobs, *found.children))


@given(st.binary())
def test_bytes_or_the_right_error_and_nothing_else(data):
    with pytest.raises(ManifestInvalid):
        parse_manifest(data, "")


# Accept.


@pytest.mark.parametrize(
    ("header", "is_admitted"),
    [
        (None, True),
        ("", True),
        ("  ", True),
        ("*/*", True),
        ("application/*", True),
        (OCI_INDEX, True),
        (OCI_INDEX.upper(), True),
        (f"{OCI_INDEX};q=0.5", True),
        (f"{OCI_INDEX}; charset=utf-8", True),
        (f"text/html, {OCI_INDEX}", True),
        (f"text/html,{OCI_INDEX} ,x/y", True),
        (f"{OCI_INDEX};q=0.001", True),
        ("text/html, */*;q=0.1", True),
        (OCI_MANIFEST, False),
        ("text/*", False),
        ("text/html, application/json", False),
        (f"{OCI_INDEX};q=0", False),
        (f"{OCI_INDEX}; q=0.000", False),
        (f"{OCI_MANIFEST}, */*;q=0", False),
        (OCI_INDEX + "x", False),
        (",", False),
        (";;;,=", False),
    ],
)
def test_accepts(header, is_admitted):
    assert accepts(header, OCI_INDEX) == is_admitted


@pytest.mark.parametrize(
    ("header", "alone"),
    [
        (None, False),
        ("", False),
        ("*/*", False),
        (OCI_MANIFEST, True),
        (f"{DOCKER_MANIFEST} ; q=0.5,text/html", True),
        (f"{OCI_MANIFEST}, {OCI_INDEX};q=0, {DOCKER_LIST}; q=0.00, */*;q=0", True),
        (f"{OCI_MANIFEST}, {OCI_INDEX}", False),
        (f"{OCI_MANIFEST}, {DOCKER_LIST};q=0.1", False),
        (f"{OCI_MANIFEST}, *", False),
        (f"{OCI_MANIFEST}, application/*", False),
        (f"{OCI_MANIFEST};q=0", False),
        (OCI_ARTIFACT, False),
        ("application/json", False),
    ],
)
def test_takes_images_alone(header, alone):
    assert takes_images_alone(header) is alone


@given(st.text())
def test_accepts_takes_any_header(header):
    assert accepts(header, OCI_INDEX) in (True, False)


def platform(digest, system, architecture, media_type=OCI_MANIFEST):
    return descriptor(digest, media_type, platform={"os": system, "architecture": architecture})


AMD64 = platform(CONFIG, "linux", "amd64")
ARM64 = platform(LAYER, "linux", "arm64")


@pytest.mark.parametrize(
    ("children", "accept", "found"),
    [
        ([ARM64, AMD64], OCI_MANIFEST, CONFIG),
        ([AMD64, platform(LAYER, "linux", "amd64")], OCI_MANIFEST, CONFIG),
        ([AMD64], f"{DOCKER_MANIFEST}, {OCI_MANIFEST}", CONFIG),
        ([AMD64], DOCKER_MANIFEST, None),
        ([AMD64, platform(LAYER, "linux", "amd64", DOCKER_MANIFEST)], DOCKER_MANIFEST, LAYER),
        ([ARM64, platform(OTHER, "windows", "amd64")], OCI_MANIFEST, None),
        ([descriptor(CONFIG, OCI_MANIFEST)], OCI_MANIFEST, None),
        ([descriptor(CONFIG, OCI_MANIFEST, platform=["linux", "amd64"])], OCI_MANIFEST, None),
        ([descriptor(CONFIG, OCI_MANIFEST, platform={"os": ["linux"], "architecture": 64})], OCI_MANIFEST, None),
        ([], OCI_MANIFEST, None),
        ([AMD64, platform(CONFIG, "linux", "arm64")], OCI_MANIFEST, CONFIG),  # one image for several platforms
    ],
)
def test_default_child(children, accept, found):
    manifest = parse(index(manifests=children))
    stored = Pointer.parse(Pointer(OTHER, 7, OCI_INDEX, 0.0, tag_members(manifest)).render())
    assert default_child(stored, accept) == found


# What is written.


SUBJECT = {"subject": descriptor(CONFIG, OCI_MANIFEST)}


@pytest.mark.parametrize(
    ("members", "more"),
    [
        (image(**SUBJECT), {"artifactType": CONFIG_TYPE}),
        (image(**SUBJECT, artifactType="a/b"), {"artifactType": "a/b"}),
        (image(**SUBJECT, annotations={"a": "b"}), {"artifactType": CONFIG_TYPE, "annotations": {"a": "b"}}),
        (image(**SUBJECT, annotations={}), {"artifactType": CONFIG_TYPE}),
        (index(**SUBJECT), {}),
        (index(**SUBJECT, artifactType="a/b", annotations={"a": "b"}), {"artifactType": "a/b", "annotations": {"a": "b"}}),
    ],
)
def test_render_referrer(members, more):
    manifest = parse(members)
    pointer = Pointer.parse(Pointer(OTHER, 7, manifest.media_type, 0.0, referrer_members(manifest)).render())
    assert descriptor_of(pointer) == {"mediaType": manifest.media_type, "digest": str(OTHER), "size": 7, **more}


@pytest.mark.parametrize("descriptors", [[], [descriptor()], [descriptor(), descriptor(OTHER)]])
def test_render_referrers_is_an_index(descriptors):
    body = render_referrers(json.dumps(entry).encode() for entry in descriptors)
    assert json.loads(body) == {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": descriptors}
    assert parse(body, OCI_INDEX).children == tuple(Digest.parse(entry["digest"]) for entry in descriptors)


# What is kept of a manifest for those who read.


def test_the_parts_of_a_manifest_are_kept_once_each():
    manifest = parse(image(layers=[descriptor(), descriptor(OTHER), descriptor()]))
    own = Pointer.parse(Pointer(LAYER, 1, OCI_MANIFEST, 0.0, manifest_members(manifest, LAYER, LAYER, Parts.of(manifest))).render()).own
    found = Parts.read(own)
    assert [list(digests_in(rows)) for rows in found] == [[], [str(CONFIG), str(LAYER), str(OTHER)]]
    assert len(found.blobs["sha512"]) == 64
    many = parse(index(manifests=[descriptor(CONFIG, OCI_MANIFEST), descriptor(OTHER, OCI_INDEX)] * 20_000))
    assert [list(digests_in(rows)) for rows in Parts.of(many)] == [[str(CONFIG), str(OTHER)], []]


def test_what_a_pointer_holds_of_a_manifest_is_small_whatever_the_manifest_is():
    entries = [platform(Digest.of(b"%d" % number), "linux", "amd64") for number in range(15_000)]
    manifest = parse(index(manifests=entries, **SUBJECT, annotations={"a": "x" * 1_000_000}))
    own = manifest_members(manifest, OTHER, LAYER, Parts.of(manifest))
    assert own == {"default": {OCI_MANIFEST: entries[0]["digest"]}, "subject": str(CONFIG), "sha256": str(LAYER)}
    assert subject_of(Pointer(OTHER, 1, OCI_INDEX, 0.0, own)) == CONFIG
    few = parse(index(manifests=entries[:FEW_PARTS]))
    assert len(json.dumps(manifest_members(few, LAYER, LAYER, Parts.of(few)))) < 100 * FEW_PARTS


@pytest.mark.parametrize(
    "parts",
    [None, [], 1, {}, {"children": {}}, {"children": {}, "blobs": []}, {"children": {"md5": "00"}, "blobs": {}}]
    + [{"children": {}, "blobs": {"sha256": digits}} for digits in ("0", "00", "xx", 1, None, "0" * 66)],
)
def test_parts_that_are_damaged_are_none(parts):
    assert Parts.read({"parts": parts}) is None
    assert Parts.read({}) is None


@pytest.mark.parametrize("subject", [None, 1, "", "x", []])
def test_a_damaged_subject_is_none(subject):
    assert subject_of(Pointer(OTHER, 1, OCI_MANIFEST, 0.0, {"subject": subject})) is None


def test_what_the_list_of_referrers_has_of_one_is_bounded():
    small, large = {f"{number}": "y" * 100 for number in range(5)}, {"large": "x" * ANNOTATIONS_BYTES, "quotes": '"' * (ANNOTATIONS_BYTES - 100)}
    members = referrer_members(parse(image(**SUBJECT, annotations=large | small, artifactType="a/b")))
    assert members == {"artifactType": "a/b", "annotations": small}
    many = referrer_members(parse(image(**SUBJECT, annotations={f"{number}": "\u20ac" * 10 for number in range(50_000)}, artifactType="a/b")))
    assert 0 < len(json.dumps(many)) < ANNOTATIONS_BYTES + 1000
    assert "artifactType" not in referrer_members(parse(image(**SUBJECT, artifactType="a/" + "b" * ARTIFACT_TYPE_CHARACTERS)))


# Manifests that would take much memory or time.


LIMIT = MANIFEST_BYTES - 100


@pytest.mark.parametrize(
    "filling",
    [
        b"[" + b"[]," * (LIMIT // 3) + b"1]",
        b"[" + b"{}," * (LIMIT // 3) + b"1]",
        b"[" + b"1," * (LIMIT // 2) + b"1]",
        b"{" + b",".join(b'"%x":1' % number for number in range(400_000)) + b"}",
        b"[" * (LIMIT // 2) + b"]" * (LIMIT // 2),
        b"[" * (LIMIT // 2),
        b'{"a":' * 100 + b"1" + b"}" * 100,
        b'["' + b'","' * (LIMIT // 3) + b'"]',
    ],
    ids=["lists", "objects", "numbers", "members", "deep", "open", "nested", "strings"],
)
def test_a_manifest_of_too_many_values_is_refused_before_it_is_parsed(filling, monkeypatch):
    monkeypatch.setattr("noraflask.json_document.json.loads", lambda *_, **__: pytest.fail("it was parsed"))
    refused(b'{"schemaVersion": 2, "x": ' + filling + b"}")


@pytest.mark.parametrize("text", [",[]{}" * 200_000, '"[,' * 200_000, "[" * 1_000_000, "\\" * 500_000])
def test_what_is_in_strings_counts_for_nothing(text):
    assert parse(image(annotations={"a": text})).annotations == {"a": text}


def test_an_index_of_4_mib_is_taken():
    entries = [descriptor(CONFIG, OCI_MANIFEST)] * 27_000
    body = json.dumps(index(manifests=entries), separators=(",", ":")).encode()
    assert MANIFEST_BYTES * 0.9 < len(body) < MANIFEST_BYTES
    assert len(parse_manifest(body, "").children) == 27_000
