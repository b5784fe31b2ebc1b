"""OCI Distribution 1.1 over HTTP: all views, by the nouns of the spec. Sections named in them are those of the OCI distribution-spec."""

from __future__ import annotations

from noraflask.formats.docker import blobs, listings, manifests, tokens, uploads
from noraflask.formats.docker.blueprint import bp

__all__ = ["blobs", "bp", "listings", "manifests", "tokens", "uploads"]
