"""The blueprint that all views of the format are on. A path with a slash at its end is a folder's, one without is a file's."""

from __future__ import annotations

from flask import Blueprint
from flask.blueprints import BlueprintSetupState
from werkzeug.routing import PathConverter

bp = Blueprint("raw", __name__)


class FilePath(PathConverter):
    regex = "[^/](?:.*[^/])?"
    weight = PathConverter.weight - 1
    """Before the folders'."""


class FolderPath(PathConverter):
    regex = "[^/](?:.*[^/])?"


@bp.record_once
def add_converters(state: BlueprintSetupState) -> None:
    state.app.url_map.converters.update(file=FilePath, folder=FolderPath)
