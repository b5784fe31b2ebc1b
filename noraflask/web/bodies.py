"""Small documents that requests bring."""

from __future__ import annotations

from flask import request

from noraflask.suspension import Steps
from noraflask.web.context import services


def read_body(max_bytes: int) -> Steps[bytes]:
    """The request's body, whole. Raises TooLarge, before the client is waited for where it announces the length, SizeMismatch and ClientGone."""
    return services().staging.document(max_bytes, request.content_length)
