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
