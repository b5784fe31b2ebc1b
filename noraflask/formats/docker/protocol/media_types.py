"""Media types of manifests, and which of them a client takes."""

from __future__ import annotations

import re

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
WILDCARDS = ("*/*", "*", "application/*")
_UNWANTED = re.compile(r"q *= *0(?:\.0*)?")


def accepts(header: str | None, media_type: str) -> bool:
    """RFC 9110, 12.5.1, as registries need it: does an Accept header admit this type? None and an empty header admit all."""
    if not header or not header.strip():
        return True
    return not _named(header).isdisjoint((media_type, "*/*", "*", f"{media_type.partition('/')[0]}/*"))


def takes_images_alone(header: str | None) -> bool:
    """Does an Accept header name a type of images, and none of indexes? A tag that leads to an index leads such a client to one of its images.

    What anybody else gets is what is stored, whatever he accepts: types that a client did not think of, or spelt his own way, are no reason to tell
    him that a tag is not there.
    """
    if not header:
        return False
    named = _named(header)
    return not named.isdisjoint(IMAGES) and named.isdisjoint((*INDEXES, *WILDCARDS))


def _named(header: str) -> set[str]:
    """The types of an Accept header that are wanted at all; a weight that cannot be read counts as one."""
    named = set()
    for entry in header.split(","):
        wanted, *parameters = (part.strip().lower() for part in entry.split(";"))
        if not any(_UNWANTED.fullmatch(parameter) for parameter in parameters):
            named.add(wanted)
    return named
