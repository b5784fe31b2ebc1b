"""What is kept of a manifest when it is pushed, in the documents that lead to it, so that nobody who reads needs to parse it again:

pointer of a tag          `default`: what clients get that know no index
pointer of the manifest   `default`; `subject`; `sha256` where the digest is of another algorithm; `parts`, if they are few
_parts/sha256:<hex>       `parts`, if they are many: a pointer stays a small document
pointer of a referrer     `artifactType` and `annotations`, as far as they are small: what the referrers API lists besides
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from noraflask.digest import ALGORITHMS, Digest
from noraflask.errors import InvalidDigest
from noraflask.formats.docker.protocol.manifests import Manifest
from noraflask.formats.docker.protocol.media_types import IMAGES, OCI_INDEX, accepts
from noraflask.pointer import Pointer

WIDTHS = {algorithm: digits // 2 for algorithm, digits in ALGORITHMS.items()}
"""Bytes of a digest."""
FEW_PARTS = 100
ARTIFACT_TYPE_CHARACTERS = 255
"""A media type has less (RFC 6838, 4.2). A longer one is not listed."""
ANNOTATIONS_BYTES = 16 * 1024
"""Of one referrer's annotations, as JSON in a listing: those that fit, in their order. All of them are in the manifest."""


class Parts(NamedTuple):
    """What a manifest is made of: by algorithm the bytes of all digests in one row, which is read and kept at little cost."""

    children: Mapping[str, bytes]
    blobs: Mapping[str, bytes]

    @classmethod
    def of(cls, manifest: Manifest, names: Mapping[str, str] | None = None) -> Parts:
        """`names`: of blobs, what they are called instead."""
        return cls(_rows(manifest.children), renamed(_rows(manifest.blobs), names or {}))

    @classmethod
    def read(cls, own: Mapping[str, Any]) -> Parts | None:
        """None: they are not there, or damaged."""
        try:
            parts = cls(*({algorithm: bytes.fromhex(digits) for algorithm, digits in own["parts"][name].items()} for name in cls._fields))
            if any(len(row) % WIDTHS[algorithm] for rows in parts for algorithm, row in rows.items()):
                return None
        except (KeyError, TypeError, ValueError, AttributeError):
            return None
        return parts

    def members(self) -> dict[str, Any]:
        return {"parts": {name: {algorithm: row.hex() for algorithm, row in rows.items()} for name, rows in zip(self._fields, self, strict=True)}}


def digests_in(rows: Mapping[str, bytes]) -> Iterator[str]:
    for algorithm, row in rows.items():
        width = WIDTHS[algorithm]
        for start in range(0, len(row), width):
            yield f"{algorithm}:{row[start : start + width].hex()}"


def renamed(rows: Mapping[str, bytes], names: Mapping[str, str]) -> Mapping[str, bytes]:
    """With other names of some digests in their place."""
    if not names or rows.keys() <= {"sha256"}:
        return rows
    return _rows(Digest.parse(names.get(digest, digest)) for digest in digests_in(rows))


def _rows(digests: Iterable[Digest]) -> dict[str, bytes]:
    rows: dict[str, bytearray] = {}
    for digest in dict.fromkeys(digests):
        rows.setdefault(digest.algorithm, bytearray()).extend(bytes.fromhex(digest.hex))
    return {algorithm: bytes(row) for algorithm, row in rows.items()}


def tag_members(manifest: Manifest) -> dict[str, Any]:
    """For the pointer of a tag."""
    default: dict[str, str] = {}
    for digest, (media_type, system, architecture) in zip(manifest.children, manifest.platforms, strict=True):
        if (system, architecture) == ("linux", "amd64") and media_type in IMAGES:
            default.setdefault(media_type, str(digest))
    return {"default": default} if default else {}


def manifest_members(manifest: Manifest, digest: Digest, sha256: Digest, parts: Parts) -> dict[str, Any]:
    """For the pointer of the manifest. Without `parts` where there are many: those go into a document of their own."""
    members = tag_members(manifest)
    if manifest.subject:
        members["subject"] = str(manifest.subject)
    if sha256 != digest:
        members["sha256"] = str(sha256)
    return members if has_many_parts(manifest) else members | parts.members()


def has_many_parts(manifest: Manifest) -> bool:
    return len(manifest.children) + len(manifest.blobs) > FEW_PARTS


def default_child(stored: Pointer, accept: str | None) -> Digest | None:
    """What a client that knows no index gets for a tag that leads to one: the linux/amd64 image, if the client takes its type."""
    for media_type, digest in stored.own.get("default", {}).items():
        if accepts(accept, media_type):
            return Digest.parse(digest)
    return None


def subject_of(stored: Pointer) -> Digest | None:
    """Of a manifest, by its pointer."""
    try:
        return Digest.parse(stored.own["subject"]) if "subject" in stored.own else None
    except (InvalidDigest, TypeError):
        return None


def referrer_members(manifest: Manifest) -> dict[str, Any]:
    """For the pointer of a manifest with a subject in the list of referrers: bounded, whatever the manifest holds."""
    members: dict[str, Any] = {}
    if manifest.artifact_type and len(manifest.artifact_type) <= ARTIFACT_TYPE_CHARACTERS:
        members["artifactType"] = manifest.artifact_type
    annotations, room = {}, ANNOTATIONS_BYTES
    for name, text in (manifest.annotations or {}).items():
        if len(name) + len(text) < room and (size := len(json.dumps({name: text}))) <= room:
            annotations[name] = text
            room -= size
    return members | ({"annotations": annotations} if annotations else {})


def descriptor_of(referrer: Pointer) -> dict[str, Any]:
    """The descriptor that "Listing Referrers" returns."""
    return {"mediaType": referrer.media_type, "digest": str(referrer.digest), "size": referrer.size, **referrer.own}


def render_referrers(descriptors: Iterable[bytes]) -> bytes:
    """The list, of descriptors that are rendered already."""
    head = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}).encode()
    return head.removesuffix(b"]}") + b", ".join(descriptors) + b"]}"
