"""The blueprint that all views of the format are on, and what several of them share."""

from __future__ import annotations

from flask import Blueprint

from noraflask.digest import Digest
from noraflask.ecosystems.docker import ECOSYSTEM
from noraflask.services.repositories import Repository
from noraflask.web.addresses import outside
from noraflask.web.context import repository, state, target

IMMUTABLE = {"Cache-Control": "max-age=31536000, immutable"}
JSON = "application/json"

bp = Blueprint("docker", __name__)


def address(path: str) -> str:
    """Of something in this repository, as the client must write it."""
    return outside(f"{target().base}/{path}")


def named(text: str) -> tuple[Repository, str]:
    """The repository, and the canonical name in it, of what a client calls by that name at this address: in scopes and mounts.

    Raises what parse_name() raises.
    """
    at, own = target(), repository()
    first, slash, rest = text.partition("/")
    other = state().repositories.get(first) if at.is_shared and slash else None
    if other is not None and other.format == own.format and not other.is_default:
        return other, ECOSYSTEM.parse_name(rest)
    default = state().repositories.default(own.format) if at.is_shared else own
    return default or own, ECOSYSTEM.parse_name(text)


def content_headers(digest: Digest, more: dict[str, str]) -> dict[str, str]:
    text = str(digest)
    return {"Docker-Content-Digest": text, "ETag": f'"{text}"', **more}
