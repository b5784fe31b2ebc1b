"""Keys of OIDC issuers: found, fetched, kept in memory and in storage, and fetched again without a stampede.

    _auth/jwks/<sha256 of the issuer>    {"fetched": seconds since the epoch, "max_age": seconds or null, "jwks_uri": as configured, "jwks": {…}}

Storage lets workers share what one of them fetched, and lets a start succeed while the issuer is down. Fetches run in threads of their own, one at
a time for each issuer; a request waits for one only when its key is not there yet. Importing this module imports no library; fetching does.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, unquote, urlsplit

from noraflask.config.model import OidcProvider
from noraflask.services.documents import Documents

if TYPE_CHECKING:
    import urllib3

ALGORITHMS = {
    "RS256": ("RSA", None),
    "RS384": ("RSA", None),
    "RS512": ("RSA", None),
    "PS256": ("RSA", None),
    "PS384": ("RSA", None),
    "PS512": ("RSA", None),
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "EdDSA": ("OKP", "Ed25519"),
    "Ed25519": ("OKP", "Ed25519"),
}
"""Signature algorithms and the key each one wants, type and curve. None of them has a secret in common with the issuer: `HS…` is not here."""
MEMBERS = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}
"""What makes a public key (RFC 7518 §6, RFC 8037 §2). Nothing else of a JWK reaches the library, private parts least of all."""
RSA_BITS = range(2048, 16384 + 1)
MAX_KEYS = 200

CONNECT_SECONDS = READ_SECONDS = 5
BODY_SECONDS = 15
MAX_BODY_BYTES = 1024 * 1024
MAX_BEARER_BYTES = 64 * 1024

WAIT_SECONDS = 5.0  # a request, for a fetch that runs
MAX_WAITING = 4  # requests of one issuer that wait at a time, so that a slow issuer cannot take all threads of a worker
REFETCH_SECONDS = 10.0  # between two fetches because of an unknown key
RETRY_SECONDS, MAX_RETRY_SECONDS = 5.0, 300.0  # after a failure, doubling
MIN_FRESH_SECONDS = 60.0  # whatever Cache-Control says
SKEW_SECONDS = 60.0  # between the clocks of servers that share a storage

_BASE64URL = re.compile(r"[A-Za-z0-9_-]*\Z")
_MAX_AGE = re.compile(r'(?:^|[\s,])max-age\s*=\s*"?(\d{1,10})(?!\d)', re.IGNORECASE)
_VISIBLE = re.compile(r"[\x21-\x7e]+\Z")

log = logging.getLogger(__name__)


class KeysUnavailable(Exception):
    """No key for this token, now; the message is for the client."""


class FetchFailed(Exception):
    """The issuer gave no keys; the message is for the log."""


# Hostile bytes.


def decode_base64url(text: str) -> bytes:
    """RFC 7515 §2: no padding, no white space. Raises ValueError, also for a second spelling of the same bytes."""
    if not _BASE64URL.match(text):
        raise ValueError("not base64url")
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if base64.urlsafe_b64encode(data).rstrip(b"=") != text.encode():
        raise ValueError("base64url with bits left over")
    return data


def parse_object(data: bytes) -> dict[str, Any]:
    """A JSON object in UTF-8. Raises ValueError, also for NaN, members that are there twice, and too deep nesting."""
    try:
        found = json.loads(data.decode("utf-8"), object_pairs_hook=_members, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    return found


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member is there twice")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


# Key sets.


@dataclass(frozen=True, slots=True)
class PublicKey:
    kid: str | None
    kty: str
    curve: str | None
    alg: str | None
    key: Any
    """joserfc's."""

    def fits(self, alg: str) -> bool:
        return ALGORITHMS.get(alg) == (self.kty, self.curve) and self.alg in (None, alg)

    def verifies(self, alg: str, signed: bytes, signature: bytes) -> bool:
        from joserfc.jws import JWSRegistry

        try:
            return self.fits(alg) and JWSRegistry.algorithms[alg].verify(signed, signature, self.key)
        except Exception:  # whatever a library makes of hostile bytes, it is no good signature
            return False


@dataclass(frozen=True, slots=True)
class KeySet:
    keys: tuple[PublicKey, ...]

    @classmethod
    def parse(cls, jwks: Any) -> KeySet:
        """RFC 7517 §5. Keys that are not for signatures or not understood are left out. Raises ValueError when it is no key set at all."""
        members = jwks.get("keys") if isinstance(jwks, dict) else None
        if not isinstance(members, list) or len(members) > MAX_KEYS:
            raise ValueError(f"not a JSON Web Key Set of at most {MAX_KEYS} keys")
        return cls(tuple(key for key in map(_public_key, members) if key))

    def find(self, kid: str | None, alg: str) -> tuple[PublicKey, ...]:
        """Keys that may have signed. Without a `kid` there must be no choice."""
        fitting = tuple(key for key in self.keys if key.fits(alg))
        if kid is not None:
            return tuple(key for key in fitting if key.kid == kid)
        return fitting if len(fitting) == 1 else ()


def _public_key(jwk: Any) -> PublicKey | None:
    from joserfc.jwk import ECKey, OKPKey, RSAKey

    kty = jwk.get("kty") if isinstance(jwk, dict) else None
    if not isinstance(kty, str) or kty not in MEMBERS or not _is_for_signatures(jwk):
        return None
    public = {"kty": kty} | {name: jwk.get(name) for name in MEMBERS[kty]}
    if not all(isinstance(value, str) for value in public.values()):
        return None
    try:
        if kty == "RSA" and not _is_sound_rsa(public):
            return None
        importers: dict[str, Callable[[Any], Any]] = {"RSA": RSAKey.import_key, "EC": ECKey.import_key, "OKP": OKPKey.import_key}
        key = importers[kty](public)
    except Exception:  # such as a point that is not on its curve; the other keys may be good
        return None
    return PublicKey(jwk.get("kid"), kty, public.get("crv"), jwk.get("alg"), key)


def _is_for_signatures(jwk: dict[str, Any]) -> bool:
    operations = jwk.get("key_ops", ["verify"])
    texts = all(jwk.get(name) is None or isinstance(jwk[name], str) for name in ("kid", "alg"))
    return texts and jwk.get("use", "sig") == "sig" and isinstance(operations, list) and "verify" in operations


def _is_sound_rsa(jwk: dict[str, Any]) -> bool:
    """Large enough to trust, small enough to compute with."""
    return int.from_bytes(decode_base64url(jwk["n"])).bit_length() in RSA_BITS and len(decode_base64url(jwk["e"])) <= 8


# Keys of one issuer.


@dataclass(frozen=True, slots=True)
class Held:
    keys: KeySet
    fetched: float
    fresh_seconds: float

    def is_fresh(self, now: float) -> bool:
        """False also when the clock was set back by much, or the keys would stay fresh until it comes round again."""
        return abs(now - self.fetched) < self.fresh_seconds


class IssuerKeys:
    """What one worker knows of one issuer's keys. Makes no thread before the first use."""

    def __init__(self, provider: OidcProvider, cache_secs: float, documents: Documents | None, clock: Callable[[], float]) -> None:
        self._provider = provider
        self._cache_secs = cache_secs
        self._documents = documents
        self._clock = clock
        self._name = hashlib.sha256(provider.issuer.encode()).hexdigest()
        self._changed = threading.Condition()
        self._held: Held | None = None
        self._fetching = False
        self._waiting = 0
        self._failures = 0
        self._failed_at = self._forced_at = float("-inf")

    def start(self) -> None:
        """Fetch, unless there are fresh keys; returns at once."""
        with self._changed:
            self._begin(None)

    def find(self, kid: str | None, alg: str) -> tuple[PublicKey, ...]:
        """Keys that may have signed, at least one. Raises KeysUnavailable."""
        with self._changed:
            found = self._matching(kid, alg)
            if found:
                if not self._is_fresh():
                    self._begin(None)
                return found
            give_up = time.monotonic() + WAIT_SECONDS
            for _ in range(2):  # again after a fetch that ran already: it may have begun before the key was published
                if not self._begin(kid):
                    break
                self._wait(lambda: self._matching(kid, alg) or not self._fetching, give_up - time.monotonic())
                found = self._matching(kid, alg)
                if found:
                    return found
            if self._held is None:
                raise KeysUnavailable("the keys of the token's issuer cannot be had now; try again later")
        raise KeysUnavailable("none of the issuer's keys is the one that signed the token; get a new token, and try again a little later")

    def _matching(self, kid: str | None, alg: str) -> tuple[PublicKey, ...]:
        return self._held.keys.find(kid, alg) if self._held else ()

    def _is_fresh(self) -> bool:
        return self._held is not None and self._held.is_fresh(self._clock())

    def _wait(self, done: Callable[[], object], seconds: float) -> None:
        if self._waiting >= MAX_WAITING:
            raise KeysUnavailable("the keys of the token's issuer are being fetched; try again in a few seconds")
        self._waiting += 1
        try:
            self._changed.wait_for(done, seconds)
        finally:
            self._waiting -= 1

    def _begin(self, unknown_kid: str | None) -> bool:
        """Fetch in the background, unless it is too early for that. True when a fetch runs now."""
        if self._fetching:
            return True
        now = self._clock()
        if self._failures and abs(now - self._failed_at) < min(RETRY_SECONDS * 2 ** min(self._failures - 1, 16), MAX_RETRY_SECONDS):
            return False
        unknown_kid = unknown_kid if self._held else None  # without any key each kid is unknown: that is no reason of its own
        if self._held and unknown_kid is None and self._held.is_fresh(now):
            return False
        if unknown_kid is not None:
            if abs(now - self._forced_at) < REFETCH_SECONDS:
                return False
            self._forced_at = now
        self._fetching = True
        try:
            threading.Thread(target=self._run, args=(unknown_kid,), name=f"jwks {self._provider.name}", daemon=True).start()
        except RuntimeError:  # no more threads now
            self._fetching = False
        return self._fetching

    def _run(self, unknown_kid: str | None) -> None:
        problem = None
        try:
            if not self._adopt_stored(unknown_kid):
                self._fetch()
        except Exception as error:  # nobody above this thread could catch it, and requests wait for it
            problem = _problem(error)
        self._tell(problem)
        with self._changed:
            self._failures = self._failures + 1 if problem else 0
            if problem:
                self._failed_at = self._clock()
            self._fetching = False
            self._changed.notify_all()

    def _tell(self, problem: str | None) -> None:
        """Once when failures begin, once when they end."""
        if problem and not self._failures:
            log.warning("no keys from the OIDC issuer %s: %s; keys that are known go on being used", self._provider.issuer, problem)
        elif self._failures and not problem:
            log.warning("the OIDC issuer %s gives its keys again", self._provider.issuer)

    def _adopt(self, held: Held) -> None:
        with self._changed:
            self._held = held
            self._changed.notify_all()

    def _adopt_stored(self, unknown_kid: str | None) -> bool:
        """Take over what another worker, or an earlier run, has fetched. True when that is good enough not to fetch."""
        stored, held, now = self._stored(), self._held, self._clock()
        newer = stored is not None and (held is None or held.fetched < stored.fetched <= now + SKEW_SECONDS)
        if stored and newer:
            self._adopt(stored)
        if unknown_kid is None:
            return self._is_fresh()
        return bool(stored and newer and (now - stored.fetched < REFETCH_SECONDS or any(key.kid == unknown_kid for key in stored.keys.keys)))

    def _fetch(self) -> None:
        jwks, max_age = fetch_jwks(self._provider)
        held = self._hold(jwks, self._clock(), max_age)
        if not held.keys.keys:
            log.warning("the OIDC issuer %s has no key that can be used", self._provider.issuer)
        self._adopt(held)
        self._store(jwks, held.fetched, max_age)

    def _hold(self, jwks: Any, fetched: float, max_age: int | None) -> Held:
        fresh = self._cache_secs if max_age is None else min(self._cache_secs, max(max_age, MIN_FRESH_SECONDS))
        return Held(KeySet.parse(jwks), fetched, max(fresh, REFETCH_SECONDS))

    def _stored(self) -> Held | None:
        """None also when storage cannot be read or holds something else: then the issuer is asked."""
        if self._documents is None:
            return None
        try:
            document = parse_object(self._documents.read(self._name) or b"{}")
            if document["jwks_uri"] != self._provider.jwks_uri:
                return None
            max_age = document["max_age"]
            return self._hold(document["jwks"], float(document["fetched"]), None if max_age is None else int(max_age))
        except Exception:
            return None

    def _store(self, jwks: dict[str, Any], fetched: float, max_age: int | None) -> None:
        if self._documents is None:
            return
        document = {"fetched": fetched, "max_age": max_age, "jwks_uri": self._provider.jwks_uri, "jwks": jwks}
        try:
            self._documents.replace(self._name, json.dumps(document).encode())
        except Exception as error:
            log.warning("the keys of the OIDC issuer %s could not be stored: %s", self._provider.issuer, type(error).__name__)


# The issuer's side.


def fetch_jwks(provider: OidcProvider) -> tuple[dict[str, Any], int | None]:
    """A provider's key set as it is now, and the seconds that its Cache-Control allows. Raises FetchFailed and what urllib3 raises."""
    headers, body = _fetch(provider, provider.jwks_uri or _discover(provider))
    found = _MAX_AGE.search(headers.get("Cache-Control", ""))
    return _document(body), int(found[1]) if found else None


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
    import urllib3

    with _pool(provider, url) as pool:
        timeout = urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS)
        response = pool.request("GET", url, headers=_headers(provider, url), timeout=timeout, retries=False, redirect=False, preload_content=False)
        try:
            if response.status != 200:
                raise (NotThere if response.status == 404 else FetchFailed)(f"it answered {response.status} (redirects are not followed)")
            return response.headers, _read(response)
        finally:
            response.close()


def _read(response: urllib3.BaseHTTPResponse) -> bytes:
    body = bytearray()
    give_up = time.monotonic() + BODY_SECONDS
    while chunk := response.read1(65536, decode_content=False):
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise FetchFailed(f"its answer is larger than {MAX_BODY_BYTES} bytes")
        if time.monotonic() > give_up:
            raise FetchFailed(f"its answer takes longer than {BODY_SECONDS} s")
    return bytes(body)


def _document(body: bytes) -> dict[str, Any]:
    try:
        return parse_object(body)
    except ValueError as error:
        raise FetchFailed(f"its answer cannot be read: {error}") from None


def _pool(provider: OidcProvider, url: str) -> urllib3.PoolManager:
    import ssl
    from urllib.request import getproxies, proxy_bypass

    import urllib3

    target = _parts(url)
    context = ssl.create_default_context(cafile=str(provider.ca_file) if provider.ca_file else None) if target.scheme == "https" else None
    proxy = None if proxy_bypass(target.netloc) else getproxies().get(target.scheme)
    if not proxy:
        return urllib3.PoolManager(ssl_context=context)
    parts = urlsplit(proxy if "//" in proxy else f"http://{proxy}")
    account = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}" if parts.username else None
    return urllib3.ProxyManager(parts.geturl(), proxy_headers=urllib3.make_headers(proxy_basic_auth=account), ssl_context=context)


def _headers(provider: OidcProvider, url: str) -> dict[str, str]:
    headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "noraflask"}
    if provider.bearer_token_file and _origin(url) == _origin(provider.issuer):
        headers["Authorization"] = f"Bearer {_bearer(provider.bearer_token_file)}"
    return headers


def _bearer(path: Path) -> str:
    """Read each time: a cluster replaces it every hour."""
    with path.open("rb") as file:
        text = file.read(MAX_BEARER_BYTES).decode("latin-1").strip()
    if not _VISIBLE.match(text):  # said here: the HTTP library's own message would hold the secret
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


def _problem(error: Exception) -> str:
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, FetchFailed) else f"{type(error).__name__}: {text}"
