"""GET /api/v1/repositories: which repositories there are, where clients reach them, and how they are set; for those who may pull something there."""

from __future__ import annotations

import json
from collections.abc import Iterator

from flask import Blueprint, Response

from noraflask.errors import RepositoryUnknown
from noraflask.services.auth.principal import Action
from noraflask.services.repositories import Repository, describe
from noraflask.web.access import LOGIN, access
from noraflask.web.addresses import absolute
from noraflask.web.context import formats, principal, state
from noraflask.web.format import Format
from noraflask.web.responses import Answer
from noraflask.web.targets import REPOSITORY

bp = Blueprint("repositories", __name__)


@bp.get("/api/v1/repositories")
@access(LOGIN)
def list_repositories() -> Response:
    return _json({"repositories": [_members(repository) for repository in state().repositories if _may_see(repository)]})


@bp.get("/api/v1/repositories/<repository>")
@access(LOGIN)
def show_repository(repository: str) -> Response:
    """The answer for a repository that the caller may not see is the answer for one that is not there."""
    one = state().repositories.get(repository)
    if one is None or not _may_see(one):
        raise RepositoryUnknown(
            f"there is no repository {repository[:100]} here, or it is not yours to see; GET /api/v1/repositories lists those that are"
        )
    return _json(_members(one))


def _may_see(repository: Repository) -> bool:
    return state().access.allowed(principal(), Action.PULL, repository.name, None)


def _members(repository: Repository) -> dict[str, object]:
    format = formats()[repository.format]
    return {**describe(repository), "addresses": [absolute(path) for path in addresses_of(repository, format)]}


def addresses_of(repository: Repository, format: Format) -> Iterator[str]:
    """Paths at which its clients reach it on this server's own host, the usual one first."""
    if repository.is_default:
        yield from (f"{mount}/" for mount in format.mounts)
    elif format.names_begin_with_repository:
        yield from (f"{mount}/{repository.name}/" for mount in format.mounts)
    yield f"/{REPOSITORY}/{repository.name}{format.root}/"


def _json(members: dict[str, object]) -> Response:
    return Answer(json.dumps(members), content_type="application/json", headers={"Cache-Control": "no-store"})
