"""Manifests ("Pushing Manifests"; image-spec "Image Manifest", "Image Index", "Content Descriptors")."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from noraflask import json_document
from noraflask.digest import Digest
from noraflask.errors import InvalidDigest, ManifestInvalid
from noraflask.formats.docker.protocol.media_types import GENERIC_TYPES, INDEXES, MANIFEST_TYPES, OCI_ARTIFACT, OCI_INDEX, OCI_MANIFEST

MANIFEST_BYTES = 4 * 1024 * 1024
"""Pushing Manifests: "registries SHOULD enforce some limit … at least 4 megabytes"."""
_FOREIGN = re.compile(r"application/vnd\.(?:oci\.image\.layer\.nondistributable\.|docker\.image\.rootfs\.foreign\.)")


@dataclass(frozen=True, slots=True)
class Manifest:
    media_type: str
    blobs: tuple[Digest, ...] = ()
    """Config and layers that must be in the repository; non-distributable layers are not among them. Of an index: entries of no manifest's type."""
    children: tuple[Digest, ...] = ()
    """All entries of an index, of whatever type."""
    platforms: tuple[tuple[str, str, str], ...] = ()
    """Of each child in turn: media type, operating system, architecture."""
    subject: Digest | None = None
    artifact_type: str | None = None
    annotations: Mapping[str, str] | None = None

    @property
    def images(self) -> tuple[Digest, ...]:
        """Children that only a manifest can be. BuildKit's older caches are indexes whose entries are layers and a cache configuration: blobs."""
        return tuple(digest for digest, (media_type, *_) in zip(self.children, self.platforms, strict=True) if media_type in MANIFEST_TYPES)


def parse_manifest(data: bytes, content_type: str) -> Manifest:
    """Check a manifest's form. `content_type` is the request's header, parameters allowed. Raises ManifestInvalid."""
    members = _parse_json(data)
    media_type = _media_type(members, content_type)
    version = members.get("schemaVersion")
    if media_type != OCI_ARTIFACT and not (version == 2 and isinstance(version, int)):
        raise ManifestInvalid("schemaVersion must be 2; schema 1 images are not supported, push with a newer client")
    if media_type in INDEXES:
        return _parse_index(members, media_type)
    return _parse_image(members, media_type)


def _parse_json(data: bytes) -> dict[str, Any]:
    try:
        members = json_document.parse_object(data)
    except ValueError as problem:
        raise ManifestInvalid(f"the manifest cannot be read as a JSON object in UTF-8: {str(problem)[:200]}") from None
    return _plainly_spelt(members, "the manifest")


_MEMBERS = {
    name.casefold(): name
    for name in (
        "schemaVersion",
        "mediaType",
        "artifactType",
        "config",
        "layers",
        "blobs",
        "manifests",
        "subject",
        "digest",
        "size",
        "urls",
    )
}


def _plainly_spelt(members: dict[str, Any], where: str) -> dict[str, Any]:
    """Clients written in Go take members in any letter case, the last one wins; they would see another manifest than the one checked here."""
    for name in members:
        if _MEMBERS.get(name.casefold(), name) != name:
            raise ManifestInvalid(f"{where}: the member {name[:80]!r} must be spelt {_MEMBERS[name.casefold()]!r}")
    return members


def _media_type(members: Mapping[str, Any], content_type: str) -> str:
    header = content_type.partition(";")[0].strip().lower()
    body = _text(members, "mediaType")
    if header in GENERIC_TYPES:
        is_index = _has(members, "manifests") or ("manifests" in members and not _has(members, "config"))
        header = body or (OCI_INDEX if is_index else OCI_MANIFEST)
    if body and body != header:
        raise ManifestInvalid(f"Content-Type says {header[:120]!r}, the manifest's mediaType says {body[:120]!r}; they must be the same")
    if header not in MANIFEST_TYPES:
        raise ManifestInvalid(f"the media type {header[:120]!r} is not one of a manifest; known are: {', '.join(MANIFEST_TYPES)}")
    return header


def _parse_index(members: Mapping[str, Any], media_type: str) -> Manifest:
    _refuse_members(members, ("config", "layers", "blobs"), media_type)
    blobs, children, platforms = [], [], []
    for descriptor in _descriptors(members, "manifests"):
        kind, digest = descriptor["mediaType"].partition(";")[0].strip().lower(), _digest(descriptor)
        children.append(digest)
        platform = descriptor.get("platform")
        platform = platform if isinstance(platform, dict) else {}
        platforms.append((kind, str(platform.get("os")), str(platform.get("architecture"))))
        if kind not in MANIFEST_TYPES and not _FOREIGN.match(kind):
            blobs.append(digest)
    return Manifest(
        media_type,
        blobs=tuple(dict.fromkeys(blobs)),
        children=tuple(children),
        platforms=tuple(platforms),
        subject=_subject(members),
        artifact_type=_text(members, "artifactType"),
        annotations=_annotations(members),
    )


def _parse_image(members: Mapping[str, Any], media_type: str) -> Manifest:
    _refuse_members(members, ("manifests",), media_type)
    blobs, config_type = [], None
    if media_type != OCI_ARTIFACT:
        config = _descriptor(members.get("config"), "config")
        config_type = config["mediaType"]
        blobs.append(_digest(config))
    for layer in _descriptors(members, "blobs" if media_type == OCI_ARTIFACT else "layers"):
        if not _FOREIGN.match(layer["mediaType"]):
            blobs.append(_digest(layer))
    return Manifest(
        media_type,
        blobs=tuple(dict.fromkeys(blobs)),
        subject=_subject(members),
        artifact_type=_text(members, "artifactType") or config_type,
        annotations=_annotations(members),
    )


def _refuse_members(members: Mapping[str, Any], names: Iterable[str], media_type: str) -> None:
    """image-spec security advisory on ambiguous documents: one that could be read as another type is refused."""
    for name in names:
        if _has(members, name):
            raise ManifestInvalid(f"a document of type {media_type} must not have the member {name!r}")


def _has(members: Mapping[str, Any], name: str) -> bool:
    """What is null is not there: programs in Go write an empty list so."""
    return members.get(name) is not None


def _descriptors(members: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    values = members.get(name)
    if values is None and (name in members or name != "manifests"):
        values = []  # an artifact may have none; an index must say so
    if not isinstance(values, list):
        raise ManifestInvalid(f"{name} must be a list of descriptors")
    return [_descriptor(value, f"{name}[{index}]") for index, value in enumerate(values)]


def _descriptor(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ManifestInvalid(f"{where} must be a descriptor: an object with mediaType, digest and size")
    _plainly_spelt(value, where)
    if not isinstance(value.get("mediaType"), str):
        raise ManifestInvalid(f"{where}.mediaType must be a string")
    size = value.get("size")
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size < 1 << 63:
        raise ManifestInvalid(f"{where}.size must be a whole number of bytes, below 2^63")
    try:
        _digest(value)
    except InvalidDigest as problem:
        raise ManifestInvalid(f"{where}.digest: {problem.message}") from None
    return value


def _digest(descriptor: Mapping[str, Any]) -> Digest:
    text = descriptor.get("digest")
    return Digest.parse(text if isinstance(text, str) else None)


def _subject(members: Mapping[str, Any]) -> Digest | None:
    value = members.get("subject")
    return None if value is None else _digest(_descriptor(value, "subject"))


def _text(members: Mapping[str, Any], name: str) -> str | None:
    value = members.get(name)
    if value is not None and not isinstance(value, str):
        raise ManifestInvalid(f"{name} must be a string")
    return value or None


def _annotations(members: Mapping[str, Any]) -> Mapping[str, str] | None:
    value = members.get("annotations")
    if value is None:
        return None
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ManifestInvalid("annotations must be an object of strings")
    return value
