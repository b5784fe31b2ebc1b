"""OCI Distribution, the pure part: names, keys, manifests, ranges, listings. Sections named are those of the OCI distribution-spec 1.1.

Keys of a repository, all below its own name, here `docker`, and an image name, here `team/app`:

    docker/team/app/_blobs/sha256:<hex>                     pointer: the blob may be read under this name
    docker/team/app/_manifests/sha256:<hex>                 pointer
    docker/team/app/_tags/1.0                               pointer
    docker/team/app/_referrers/sha256:<subject>/sha256:<x>  pointer, with what the referrers API lists besides
    docker/.names/team:app                                  empty: the image name exists; a flat folder, so that the catalog need not walk a tree

An image name's parts begin with a letter or digit, so a part that begins with `_` or `.` is never one of them. The bytes are in services/content.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from noraflask.digest import Digest
from noraflask.errors import InvalidDigest, InvalidName, InvalidPage, InvalidTag, ManifestInvalid, RangeInvalid
from noraflask.keys import Key
from noraflask.pointer import Pointer

MANIFEST_BYTES = 4 * 1024 * 1024
"""Pushing Manifests: "registries SHOULD enforce some limit … at least 4 megabytes"."""
REFERRERS_PAGE = 1000

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_ARTIFACT = "application/vnd.oci.artifact.manifest.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
IMAGES = (OCI_MANIFEST, DOCKER_MANIFEST)
INDEXES = (OCI_INDEX, DOCKER_LIST)
MANIFEST_TYPES = (*IMAGES, *INDEXES, OCI_ARTIFACT)
GENERIC_TYPES = ("", "application/json", "application/octet-stream", "text/plain", "application/x-www-form-urlencoded")
"""What clients send that do not say what they push; the body's own mediaType counts then."""

_NAME = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*\Z")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}\Z")
_CONTENT_RANGE = re.compile(r"([0-9]{1,19})-([0-9]{1,19})\Z")
_FOREIGN = re.compile(r"application/vnd\.(?:oci\.image\.layer\.nondistributable\.|docker\.image\.rootfs\.foreign\.)")
NAME_CHARACTERS = 255


API_HEADERS = (("Docker-Distribution-Api-Version", "registry/2.0"),)
"""On every answer: old clients take a server without it for another kind."""


# Names and references ("Pulling manifests").


def parse_name(text: str) -> str:
    """An image name. Raises InvalidName."""
    if len(text) > NAME_CHARACTERS or not _NAME.match(text):
        raise InvalidName(
            "the repository name is not valid: lower-case letters and digits, parted by one of . _ __ - within a part, and / between parts; "
            f"at most {NAME_CHARACTERS} characters",
            detail={"name": text[:NAME_CHARACTERS]},
        )
    return text


def parse_tag(text: str) -> str:
    """Raises InvalidTag."""
    if not _TAG.match(text):
        raise InvalidTag(detail={"tag": text[:200]})
    return text


def parse_reference(text: str) -> Digest | str:
    """A digest, or a tag. Raises InvalidDigest, InvalidTag."""
    return Digest.parse(text) if ":" in text else parse_tag(text)


# Keys.


def blob_pointer(repository: str, name: str, digest: Digest) -> Key:
    return Key.trusted(f"{repository}/{name}/_blobs/{digest.algorithm}:{digest.hex}")


def manifest_pointer(repository: str, name: str, digest: Digest) -> Key:
    return Key.trusted(f"{repository}/{name}/_manifests/{digest.algorithm}:{digest.hex}")


def tag_pointer(repository: str, name: str, tag: str) -> Key:
    return Key.trusted(f"{tags_folder(repository, name)}/{tag}")


def tags_folder(repository: str, name: str) -> str:
    return f"{repository}/{name}/_tags"


def manifests_folder(repository: str, name: str) -> str:
    return f"{repository}/{name}/_manifests"


def referrers_folder(repository: str, name: str, subject: Digest) -> str:
    return f"{repository}/{name}/_referrers/{subject}"


def referrer_pointer(repository: str, name: str, subject: Digest, digest: Digest) -> Key:
    return Key.trusted(f"{referrers_folder(repository, name, subject)}/{digest}")


def names_folder(repository: str) -> str:
    return f"{repository}/.names"


def name_pointer(repository: str, name: str) -> Key:
    """`:` stands for `/`: it is in no image name, and a name of 255 characters still fits into a file name."""
    return Key.trusted(f"{names_folder(repository)}/{name.replace('/', ':')}")


def name_of_pointer(pointer: str) -> str:
    return pointer.replace(":", "/")


# Manifests ("Pushing Manifests"; image-spec "Image Manifest", "Image Index", "Content Descriptors").


@dataclass(frozen=True, slots=True)
class Manifest:
    media_type: str
    blobs: tuple[Digest, ...] = ()
    """Config and layers that must be in the repository; non-distributable layers are not among them."""
    children: tuple[Digest, ...] = ()
    platforms: tuple[tuple[str, str, str], ...] = ()
    """Of each child in turn: media type, operating system, architecture."""
    subject: Digest | None = None
    artifact_type: str | None = None
    annotations: Mapping[str, str] | None = None


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


def referrer_members(manifest: Manifest) -> dict[str, Any]:
    """What the pointer to a manifest with a subject says besides, for the list of referrers."""
    members: dict[str, Any] = {}
    if manifest.artifact_type:
        members["artifactType"] = manifest.artifact_type
    if manifest.annotations:
        members["annotations"] = dict(manifest.annotations)
    return members


def descriptor_of(referrer: Pointer) -> dict[str, Any]:
    """The descriptor that "Listing Referrers" returns."""
    return {"mediaType": referrer.media_type, "digest": str(referrer.digest), "size": referrer.size, **referrer.own}


def render_referrers(descriptors: Iterable[Mapping[str, Any]]) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(descriptors)}).encode()


def _parse_json(data: bytes) -> dict[str, Any]:
    try:
        members = json.loads(data.decode("utf-8"), object_pairs_hook=_members, parse_constant=_refuse_constant)
    except RecursionError:
        raise ManifestInvalid("the manifest is nested too deeply") from None
    except ValueError as problem:
        raise ManifestInvalid(f"the manifest is not valid JSON in UTF-8: {str(problem)[:200]}") from None
    if not isinstance(members, dict):
        raise ManifestInvalid("the manifest must be a JSON object")
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


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object without a member that appears twice: some clients would read the first one, some the last."""
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member appears twice in one object")
    return members


def _plainly_spelt(members: dict[str, Any], where: str) -> dict[str, Any]:
    """Clients written in Go take members in any letter case, the last one wins; they would see another manifest than the one checked here."""
    for name in members:
        if _MEMBERS.get(name.casefold(), name) != name:
            raise ManifestInvalid(f"{where}: the member {name[:80]!r} must be spelt {_MEMBERS[name.casefold()]!r}")
    return members


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _media_type(members: Mapping[str, Any], content_type: str) -> str:
    header = content_type.partition(";")[0].strip().lower()
    body = _text(members, "mediaType")
    if header in GENERIC_TYPES:
        header = body or (OCI_INDEX if "manifests" in members else OCI_MANIFEST)
    if body and body != header:
        raise ManifestInvalid(f"Content-Type says {header[:120]!r}, the manifest's mediaType says {body[:120]!r}; they must be the same")
    if header not in MANIFEST_TYPES:
        raise ManifestInvalid(f"the media type {header[:120]!r} is not one of a manifest; known are: {', '.join(MANIFEST_TYPES)}")
    return header


def _parse_index(members: Mapping[str, Any], media_type: str) -> Manifest:
    _refuse_members(members, ("config", "layers", "blobs"), media_type)
    children, platforms = [], []
    for descriptor in _descriptors(members, "manifests"):
        children.append(_digest(descriptor))
        platform = descriptor.get("platform")
        platform = platform if isinstance(platform, dict) else {}
        platforms.append((str(descriptor.get("mediaType")), str(platform.get("os")), str(platform.get("architecture"))))
    return Manifest(
        media_type,
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
        if name in members:
            raise ManifestInvalid(f"a document of type {media_type} must not have the member {name!r}")


def _descriptors(members: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    values = members.get(name)
    if values is None and name != "manifests":
        values = []  # an artifact may have none
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


# Content negotiation.


def accepts(header: str | None, media_type: str) -> bool:
    """RFC 9110, 12.5.1, as registries need it: does an Accept header admit this type? None and an empty header admit all."""
    if not header or not header.strip():
        return True
    kind = media_type.partition("/")[0]
    for entry in header.split(","):
        wanted, *parameters = (part.strip().lower() for part in entry.split(";"))
        if wanted in (media_type, "*/*", f"{kind}/*") and not any(re.fullmatch(r"q=0(\.0*)?", parameter) for parameter in parameters):
            return True
    return False


def default_child(index: Manifest, accept: str | None) -> Digest | None:
    """What a client that knows no index gets for a tag that leads to one: the linux/amd64 image, if the client takes its type."""
    for digest, (media_type, system, architecture) in zip(index.children, index.platforms, strict=True):
        if (system, architecture) == ("linux", "amd64") and accepts(accept, media_type):
            return digest
    return None


# Upload ranges ("Pushing a blob in chunks").


def content_range(header: str | None) -> tuple[int, int] | None:
    """First and last byte offset of a chunk, both inclusive; None when the header is absent.

    The spec's form is `<first>-<last>`, without the unit and total of RFC 9110. Some clients send those too; `bytes ` in front is let pass.
    Raises RangeInvalid for any other form.
    """
    if header is None:
        return None
    found = _CONTENT_RANGE.match(header.removeprefix("bytes ").removeprefix("bytes=").partition("/")[0])
    if not found or int(found[2]) < int(found[1]):
        raise RangeInvalid("Content-Range must be <first>-<last>, two byte offsets, the second not before the first")
    return int(found[1]), int(found[2])


def check_chunk(header: str | None, announced_bytes: int | None, offset: int) -> int | None:
    """How long a chunk's body must be, if that is known.

    Raises RangeInvalid unless a chunk with this Content-Range is the next one, and as long as its body is announced to be.
    """
    found = content_range(header)
    if found is None:
        return announced_bytes
    first, last = found
    if first != offset:
        raise RangeInvalid(f"the chunk begins at {first}, the upload has {offset} bytes; go on from there", detail={"offset": offset})
    if announced_bytes is not None and announced_bytes != last - first + 1:
        raise RangeInvalid(f"Content-Range spans {last - first + 1} bytes, Content-Length is {announced_bytes}", detail={"offset": offset})
    return last - first + 1


def upload_range(size_bytes: int) -> str:
    """What has come in, first to last byte; `0-0` also when there is nothing yet, as clients expect."""
    return f"0-{max(0, size_bytes - 1)}"


# Listings ("Listing Tags").


@dataclass(frozen=True, slots=True)
class Page:
    entries: list[str]
    more: bool


def page_size(text: str | None) -> int | None:
    """The query parameter n; None when absent. Raises InvalidPage."""
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,30}", text):
        raise InvalidPage(detail={"n": text[:80]})
    return int(text)


def take_page(entries: Iterable[str], size: int | None) -> Page:
    """The first `size` entries, all when it is None, none and nothing more when it is 0."""
    if size is None:
        return Page(list(entries), False)
    taken: list[str] = []
    for entry in entries:
        if len(taken) == size:
            return Page(taken, size > 0)
        taken.append(entry)
    return Page(taken, False)


def next_link(url: str, page: Page, size: int | None, **filters: str) -> dict[str, str]:
    """The Link header of RFC 8288 for the page that follows; none when there is no such page."""
    if not page.more or not page.entries:
        return {}
    parameters = {**filters, "n": str(size), "last": page.entries[-1]}
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in parameters.items())
    return {"Link": f'<{url}?{query}>; rel="next"'}


# Bearer tokens (distribution, "Token Authentication Specification" and "Token Scope Documentation").


@dataclass(frozen=True, slots=True)
class Wanted:
    """A scope that a client asks a token for. `name` None: the list of all names."""

    name: str | None
    actions: frozenset[str]


MAX_SCOPES = 100
ACTIONS = ("pull", "push", "delete")
_SCOPE = re.compile(r"([a-z0-9]+(?:\([a-z0-9]+\))?):(.+):([a-z*,]*)\Z")


def parse_scopes(texts: Iterable[str]) -> list[Wanted]:
    """`repository:team/app:pull,push registry:catalog:*`, several in one text or in several. What is of no known kind is left out: nobody gets it."""
    found: list[Wanted] = []
    for scope in " ".join(texts).split()[:MAX_SCOPES]:
        parts = _SCOPE.match(scope)
        if parts is None:
            continue
        kind, name, words = parts[1].partition("(")[0], parts[2], set(parts[3].split(","))
        if kind == "registry" and name == "catalog" and words & {"*", "pull"}:
            found.append(Wanted(None, frozenset(("pull",))))
        elif kind == "repository" and len(name) <= NAME_CHARACTERS and _NAME.match(name):
            found.append(Wanted(name, frozenset(action for action in ACTIONS if action in words or "*" in words)))
    return found


def render_scope(name: str, actions: Iterable[str]) -> str:
    """`name` that is no image name: the list of all names."""
    return f"repository:{name}:{','.join(sorted(actions))}" if _NAME.match(name) else "registry:catalog:*"


def wanted_scope(name: str | None, action: str) -> str:
    """The scope that a client shall ask for; None is the list of all names. Empty for what is no image name: it must not get into a header."""
    if name is None:
        return "registry:catalog:*"
    if len(name) > NAME_CHARACTERS or not _NAME.match(name):
        return ""
    return f"repository:{name}:{'pull,push' if action == 'push' else action}"


def render_challenge(realm: str, service: str, scope: str, error: str) -> str:
    """The WWW-Authenticate header; `scope` is empty for a login."""
    parts = [f'realm="{realm}"', f'service="{service}"']
    if scope:
        parts.append(f'scope="{scope}"')
    if error:
        parts.append(f'error="{error}"')
    return f"Bearer {','.join(parts)}"


# Errors ("Error Codes"): the spec's closed list, by the class of what was raised.

CODES = {
    "InvalidName": "NAME_INVALID",
    "InvalidTag": "MANIFEST_INVALID",
    "InvalidDigest": "DIGEST_INVALID",
    "DigestMismatch": "DIGEST_INVALID",
    "SizeMismatch": "SIZE_INVALID",
    "ClientGone": "BLOB_UPLOAD_INVALID",
    "ManifestInvalid": "MANIFEST_INVALID",
    "ManifestBlobUnknown": "MANIFEST_BLOB_UNKNOWN",
    "Unauthenticated": "UNAUTHORIZED",
    "Denied": "DENIED",
    "RepositoryUnknown": "NAME_UNKNOWN",
    "BlobUnknown": "BLOB_UNKNOWN",
    "ManifestUnknown": "MANIFEST_UNKNOWN",
    "UploadUnknown": "BLOB_UPLOAD_UNKNOWN",
    "UploadBusy": "BLOB_UPLOAD_INVALID",
    "TooLarge": "SIZE_INVALID",
    "RangeInvalid": "BLOB_UPLOAD_INVALID",
    "TooManyUploads": "TOOMANYREQUESTS",
    "TooManyLogins": "TOOMANYREQUESTS",
    "RateLimited": "TOOMANYREQUESTS",
    "Unavailable": "TOOMANYREQUESTS",
    "NoraError": "UNSUPPORTED",
}


def render_error(problem: Exception) -> tuple[str, bytes]:
    """Content type and body. The code is that of the nearest ancestor that has one."""
    code = next(CODES[kind.__name__] for kind in type(problem).__mro__ if kind.__name__ in CODES)
    entry = {"code": code, "message": str(problem.args[0]), "detail": getattr(problem, "detail", None)}
    refusal = getattr(problem, "refusal", None)
    return "application/json", json.dumps({"errors": [entry], **(refusal.members() if refusal else {})}).encode()
