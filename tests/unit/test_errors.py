"""Every class of errors.py through every renderer: status, code, words and facts end where they belong."""

from __future__ import annotations

import inspect
import json

import pytest

from noraflask import errors
from noraflask.formats import FORMATS
from noraflask.formats.docker.protocol import answers
from noraflask.services.auth.lockout import LockedOut
from noraflask.services.auth.oidc import OidcRefused
from noraflask.web.auth import NoLogins
from noraflask.web.errors import render_json, render_text

SPEC_CODES = {
    "BLOB_UNKNOWN",
    "BLOB_UPLOAD_INVALID",
    "BLOB_UPLOAD_UNKNOWN",
    "DIGEST_INVALID",
    "MANIFEST_BLOB_UNKNOWN",
    "MANIFEST_INVALID",
    "MANIFEST_UNKNOWN",
    "NAME_INVALID",
    "NAME_UNKNOWN",
    "SIZE_INVALID",
    "UNAUTHORIZED",
    "DENIED",
    "UNSUPPORTED",
    "TOOMANYREQUESTS",
}
"""distribution-spec 1.1, "Error Codes", the whole list."""
OWN_CODES = {"STORAGE_FULL"}
"""For what that list lacks."""

TABLE = {
    "NoraError": (500, "UNSUPPORTED"),
    "BadRequest": (400, "UNSUPPORTED"),
    "InvalidName": (400, "NAME_INVALID"),
    "InvalidTag": (400, "MANIFEST_INVALID"),
    "InvalidDigest": (400, "DIGEST_INVALID"),
    "DigestMismatch": (400, "DIGEST_INVALID"),
    "SizeMismatch": (400, "SIZE_INVALID"),
    "ManifestInvalid": (400, "MANIFEST_INVALID"),
    "ManifestBlobUnknown": (400, "MANIFEST_BLOB_UNKNOWN"),
    "InvalidPage": (400, "UNSUPPORTED"),
    "Unauthenticated": (401, "UNAUTHORIZED"),
    "Denied": (403, "DENIED"),
    "CurationDenied": (403, "DENIED"),
    "NotGated": (500, "UNSUPPORTED"),
    "UnsupportedMediaType": (415, "UNSUPPORTED"),
    "Unprocessable": (422, "UNSUPPORTED"),
    "PreconditionFailed": (412, "UNSUPPORTED"),
    "NotFound": (404, "UNSUPPORTED"),
    "RepositoryUnknown": (404, "NAME_UNKNOWN"),
    "BlobUnknown": (404, "BLOB_UNKNOWN"),
    "ManifestUnknown": (404, "MANIFEST_UNKNOWN"),
    "UploadUnknown": (404, "BLOB_UPLOAD_UNKNOWN"),
    "MethodNotAllowed": (405, "UNSUPPORTED"),
    "AlreadyExists": (409, "UNSUPPORTED"),
    "Changed": (409, "UNSUPPORTED"),
    "UploadBusy": (409, "BLOB_UPLOAD_INVALID"),
    "TooLarge": (413, "SIZE_INVALID"),
    "RangeInvalid": (416, "BLOB_UPLOAD_INVALID"),
    "TooManyUploads": (429, "TOOMANYREQUESTS"),
    "TooManyLogins": (429, "TOOMANYREQUESTS"),
    "RateLimited": (429, "TOOMANYREQUESTS"),
    "RateLimiterAway": (503, "TOOMANYREQUESTS"),
    "Unavailable": (503, "TOOMANYREQUESTS"),
    "StorageReadOnly": (503, "TOOMANYREQUESTS"),
    "StorageFull": (507, "STORAGE_FULL"),
    "ClientGone": (400, "BLOB_UPLOAD_INVALID"),
}
KINDS = {name: kind for name, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.NoraError)}
RENDERERS = [render_text, render_json, *(format.render_error for format in FORMATS)]
RETRIED = {"TooManyUploads": "10", "TooManyLogins": "1", "RateLimiterAway": "5", "Unavailable": "30", "StorageReadOnly": "30", "StorageFull": "30"}


def test_the_table_has_every_class_and_the_codes_are_the_specs():
    assert set(TABLE) == set(KINDS)
    assert {code for _, code in TABLE.values()} <= SPEC_CODES | OWN_CODES
    assert set(answers.CODES.values()) <= SPEC_CODES | OWN_CODES
    assert set(answers.CODES) <= set(KINDS)


@pytest.mark.parametrize("name", TABLE)
def test_status_and_default_words(name):
    problem = KINDS[name]()
    assert problem.status == TABLE[name][0]
    assert problem.message == KINDS[name].default_message == str(problem)
    assert problem.detail is None
    assert problem.headers == ({"Retry-After": RETRIED[name]} if name in RETRIED else {})


def test_each_class_has_words_of_its_own():
    said = [kind.default_message for kind in KINDS.values()]
    assert len(set(said)) == len(said)
    assert not [words for words in said if not words or "/" in words.replace("application/json", "")], "a path, or no words at all"


@pytest.mark.parametrize("name", TABLE)
def test_given_words_and_facts_are_kept_apart(name):
    problem = KINDS[name]("the words", {"the": "facts"})
    assert (problem.message, problem.detail) == ("the words", {"the": "facts"})
    assert ("Retry-After" in problem.headers) == (name in RETRIED)


@pytest.mark.parametrize("name", [name for name in TABLE if name not in RETRIED])
def test_given_headers(name):
    assert KINDS[name](headers={"Allow": "GET"}).headers == {"Allow": "GET"}
    KINDS[name]().headers["X"] = "y"
    assert KINDS[name]().headers == {}, "headers of one error show up in the next"


@pytest.mark.parametrize("name", RETRIED)
def test_given_patience(name):
    assert KINDS[name](retry_after_seconds=7).headers == {"Retry-After": "7"}


@pytest.mark.parametrize("name", TABLE)
def test_as_oci_json(name):
    for detail in (None, {"digest": "sha256:x"}, "text", ["a"], {"bad": "\ud800"}):
        content_type, body = answers.render_error(KINDS[name]("the words \ud800 é", detail))
        assert content_type == "application/json"
        assert json.loads(body) == {"errors": [{"code": TABLE[name][1], "message": "the words \ud800 é", "detail": detail}]}


@pytest.mark.parametrize("name", TABLE)
def test_every_renderer_takes_every_class(name):
    for render in RENDERERS:
        for problem in (KINDS[name](), KINDS[name]("the words \ud800"), KINDS[name](None, {"a": 1})):
            content_type, body = render(problem)
            assert content_type.partition(";")[0] in ("application/json", "text/plain")
            assert problem.message.partition(" \ud800")[0].encode() in body


def test_a_class_that_comes_later_takes_its_parents_code():
    class Fresh(errors.BlobUnknown):
        pass

    assert json.loads(answers.render_error(Fresh())[1])["errors"][0]["code"] == "BLOB_UNKNOWN"


def test_what_is_raised_elsewhere_is_one_of_them():
    """Whoever catches a class of the tree catches those; and they have a code that the specification knows."""
    for kind, status in ((LockedOut, 429), (OidcRefused, 401), (NoLogins, 503)):
        assert kind.status == status
        assert issubclass(kind, errors.NoraError)
    locked = LockedOut(retry_after_seconds=2.5)
    assert isinstance(locked, errors.TooManyLogins)
    assert locked.headers == {"Retry-After": "3"}
    assert json.loads(answers.render_error(locked)[1])["errors"][0]["code"] == "TOOMANYREQUESTS"
    assert json.loads(answers.render_error(OidcRefused("expired"))[1])["errors"][0]["code"] == "UNAUTHORIZED"


@pytest.mark.parametrize("name", TABLE)
def test_as_json_of_the_api(name):
    assert render_json(KINDS[name]("the words \ud800")) == ("application/json", b'{"error": "the words \\ud800"}')
    assert json.loads(render_json(KINDS[name]("the words", {"a": 1}))[1]) == {"error": "the words", "detail": {"a": 1}}


@pytest.mark.parametrize("name", TABLE)
def test_as_text(name):
    assert render_text(KINDS[name]("the words")) == ("text/plain; charset=utf-8", b"the words\n")
