"""Names of images, tags and references ("Pulling manifests")."""

from __future__ import annotations

import re

from noraflask.digest import Digest
from noraflask.errors import InvalidTag

NAME_CHARACTERS = 255
_NAME = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*\Z")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}\Z")


def is_name(text: str) -> bool:
    """In any spelling that fits into a scope; which image it is says ecosystems/docker.py."""
    return len(text) <= NAME_CHARACTERS and _NAME.match(text) is not None


def parse_tag(text: str) -> str:
    """Raises InvalidTag."""
    if not _TAG.match(text):
        raise InvalidTag(detail={"tag": text[:200]})
    return text


def parse_reference(text: str) -> Digest | str:
    """A digest, or a tag. Raises InvalidDigest, InvalidTag."""
    return Digest.parse(text) if ":" in text else parse_tag(text)
