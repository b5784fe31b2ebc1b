"""Keys of OIDC issuers: kept in memory and in storage, and fetched again without a stampede.

    _auth/jwks/<sha256 of the issuer>    {"fetched": seconds since the epoch, "max_age": seconds or null, "jwks_uri": as configured, "jwks": {…}}

Storage lets workers share what one of them fetched, and lets a start succeed while the issuer is down. Fetches run in threads of their own, one at
a time for each issuer; a request waits for one only when its key is not there yet. Importing this module imports no library; fetching does.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from noraflask.config import OidcProvider
from noraflask.json_document import parse_object
from noraflask.services.auth.discovery import FetchFailed, fetch_jwks
from noraflask.services.auth.key_sets import KeySet, PublicKey
from noraflask.services.documents import Documents

WAIT_SECONDS = 5.0  # a request, for a fetch that runs
MAX_WAITING = 4  # requests of one issuer that wait at a time, so that a slow issuer cannot take all threads of a worker
REFETCH_SECONDS = 10.0  # between two fetches because of an unknown key
RETRY_SECONDS, MAX_RETRY_SECONDS = 5.0, 300.0  # after a failure, doubling
MIN_FRESH_SECONDS = 60.0  # whatever Cache-Control says
SKEW_SECONDS = 60.0  # between the clocks of servers that share a storage

log = logging.getLogger(__name__)


class KeysUnavailable(Exception):
    """No key for this token, now; the message is for the client."""


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
            keys = self._matching(kid, alg)
            if keys:
                if not self._is_fresh():
                    self._begin(None)
                return keys
            give_up = time.monotonic() + WAIT_SECONDS
            for _ in range(2):  # again after a fetch that ran already: it may have begun before the key was published
                if not self._begin(kid):
                    break
                self._wait(lambda: self._matching(kid, alg) or not self._fetching, give_up - time.monotonic())
                keys = self._matching(kid, alg)
                if keys:
                    return keys
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


def _problem(error: Exception) -> str:
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, FetchFailed) else f"{type(error).__name__}: {text}"
