"""The blueprint that all views of the format are on, and what several of them share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from flask import Blueprint

from noraflask.digest import Digest
from noraflask.formats.docker.protocol import names
from noraflask.services.auth.principal import Action
from noraflask.web import access as guard
from noraflask.web.addresses import outside
from noraflask.web.context import repository

IMMUTABLE = {"Cache-Control": "max-age=31536000, immutable"}
JSON = "application/json"

bp = Blueprint("docker", __name__)

View = Callable[..., Any]


def access(action: Action, listing: bool = False) -> Callable[[View], View]:
    """The guard of web/access.py. Behind it, the one place where an image's name is parsed; views see none that is not valid."""

    def declare(view: View) -> View:
        @functools.wraps(view)
        def with_parsed_name(**arguments: Any) -> Any:
            if "name" in arguments:
                names.parse_name(arguments["name"])
            return view(**arguments)

        return guard.access(action, listing)(with_parsed_name)

    return declare


def address(path: str) -> str:
    """Of something in this repository, as the client must write it."""
    return outside(f"{repository().mount}/{path}")


def content_headers(digest: Digest, more: dict[str, str]) -> dict[str, str]:
    text = str(digest)
    return {"Docker-Content-Digest": text, "ETag": f'"{text}"', **more}
