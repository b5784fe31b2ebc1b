"""Where an issuer has its keys, and what they are now (OpenID Connect Discovery 1.0)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from noraflask import http_client
from noraflask.config import OidcProvider
from noraflask.config.text_file import FileProblem, read_bytes, without_mark
from noraflask.json_document import parse_object

BOUNDS = http_client.Bounds()
MAX_BEARER_BYTES = 64 * 1024

_MAX_AGE = re.compile(r'(?:^|[\s,])max-age\s*=\s*"?(\d{1,10})(?!\d)', re.IGNORECASE)
_VISIBLE = re.compile(r"[\x21-\x7e]+\Z")


class FetchFailed(Exception):
    """The issuer gave no keys; the message is for the log."""


def fetch_jwks(provider: OidcProvider) -> tuple[dict[str, Any], int | None]:
    """A provider's key set as it is now, and the seconds that its Cache-Control allows. Raises FetchFailed."""
    headers, body = _fetch(provider, provider.jwks_uri or _discover(provider))
    max_age = _MAX_AGE.search(headers.get("Cache-Control", ""))
    return _document(body), int(max_age[1]) if max_age else None


def _discover(provider: OidcProvider) -> str:
    """OpenID Connect Discovery 1.0 §4: where the keys are. An issuer without the document has them where NORA looks for them."""
    from authlib.oidc.discovery import OpenIDProviderMetadata, get_well_known_url  # type: ignore[import-untyped]

    try:
        _, body = _fetch(provider, get_well_known_url(provider.issuer, external=True))
    except NotThere:
        return f"{provider.issuer.rstrip('/')}/.well-known/jwks.json"
    metadata = OpenIDProviderMetadata(_document(body))
    uri = metadata.get("jwks_uri")
    if metadata.get("issuer") != provider.issuer:
        raise FetchFailed("its discovery document names another issuer")
    if not isinstance(uri, str):
        raise FetchFailed("its discovery document has no jwks_uri")
    if urlsplit(provider.issuer).scheme == "https":
        metadata.validate_jwks_uri()  # https as well; an issuer on plain http is the operator's choice
    return uri


class NotThere(FetchFailed):
    """The answer was 404."""


def _fetch(provider: OidcProvider, url: str) -> tuple[Mapping[str, str], bytes]:
    _parts(url)  # before it is asked
    headers = _headers(provider, url)
    try:
        answer = http_client.get(url, headers, BOUNDS, ca_file=provider.ca_file, use_proxy=True)
    except http_client.NoAnswer as problem:
        raise FetchFailed(str(problem)) from None
    if answer.status != 200:
        raise (NotThere if answer.status == 404 else FetchFailed)(f"it answered {answer.status} (redirects are not followed)")
    return answer.headers, answer.body


def _document(body: bytes) -> dict[str, Any]:
    try:
        return parse_object(body)
    except ValueError as error:
        raise FetchFailed(f"its answer cannot be read: {error}") from None


def _headers(provider: OidcProvider, url: str) -> dict[str, str]:
    headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "noraflask"}
    if provider.bearer_token_file and _origin(url) == _origin(provider.issuer):
        headers["Authorization"] = f"Bearer {_bearer(provider.bearer_token_file)}"
    return headers


def _bearer(path: Path) -> str:
    """Read each time: a cluster replaces it every hour."""
    try:
        text = without_mark(read_bytes(path)).decode("latin-1").strip()
    except FileProblem as problem:
        raise FetchFailed(f"bearer_token_file{problem}") from None
    if len(text) > MAX_BEARER_BYTES or not _VISIBLE.match(text):  # said here: the HTTP library's own message would hold the secret
        raise FetchFailed("bearer_token_file holds no token")
    return text


def _parts(url: str) -> SplitResult:
    parts = urlsplit(url)
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.username is not None:
        raise FetchFailed("the address of its keys is no http(s) address of a host")
    return parts


def _origin(url: str) -> tuple[str, str | None, int]:
    parts = _parts(url)
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
