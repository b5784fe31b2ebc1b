"""Small bodies of forms, read within bounds: the framework's own parser would spool a file part of any size to disk, for anybody."""

from __future__ import annotations

from urllib.parse import parse_qs

from flask import request

from noraflask.errors import BadRequest, UnsupportedMediaType
from noraflask.suspension import Steps
from noraflask.web.bodies import read_body

FORM_BYTES = 64 * 1024
FORM_FIELDS = 200


def read_form_lists() -> Steps[dict[str, list[str]]]:
    """`application/x-www-form-urlencoded` (RFC 6749, appendix B). Raises UnsupportedMediaType, TooLarge, BadRequest."""
    if request.mimetype != "application/x-www-form-urlencoded":
        raise UnsupportedMediaType("the request body must be a form: Content-Type: application/x-www-form-urlencoded")
    data = yield from read_body(FORM_BYTES)
    try:
        return parse_qs(data.decode(), keep_blank_values=True, max_num_fields=FORM_FIELDS)
    except ValueError:
        raise BadRequest("the request body is not a form in UTF-8 of a sound size") from None


def read_form() -> Steps[dict[str, str]]:
    """Of several values of a name the first."""
    return {name: values[0] for name, values in (yield from read_form_lists()).items()}
