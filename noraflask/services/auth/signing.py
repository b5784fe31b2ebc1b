"""Bearer tokens that this registry signs for itself (JWT, RFC 7519, ES256), and the keys they are signed with.

    <kid>.json    JSON: a private key (RFC 7517) and when it was made

The newest key signs; older ones verify what they have signed, until that has ended. Keys are made on the first start, and by `nora keys rotate`.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from noraflask.errors import NoraError
from noraflask.services.auth.overdue import Overdue
from noraflask.services.documents import Documents

ISSUER = "noraflask"
ALGORITHM = "ES256"
KID_START = "nora-"
LOOK_SECONDS = 0.5
"""A rotation takes effect within this time in every worker."""
AGAIN_SECONDS = 0.05
"""Between two looks for a key that is not known."""
EARLY_SECONDS = 5.0
"""Another node's clock may be ahead by this much."""

log = logging.getLogger(__name__)


class BadToken(Exception):
    """The token is ours and is not good. `reason`: expired, signature or malformed."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Signer:
    def __init__(self, documents: Documents, longest_seconds: float, clock: Callable[[], float] = time.time) -> None:
        """`longest_seconds`: how long the longest-lived token lives, so how long an old key must be kept."""
        self._documents = documents
        self._longest_seconds = longest_seconds
        self._clock = clock
        self._keys: dict[str, tuple[float, Any]] = {}  # kid -> when it was made, the key
        self._looked = -LOOK_SECONDS
        self._lock = threading.Lock()
        self._overdue = Overdue()

    def start(self) -> None:
        """In the master, before the workers are forked: see to it that there is a key. On storage that cannot be written, one of this start alone."""
        self._look()
        if not self._keys:
            self._make_first()
        token, _, _ = self.sign({}, EARLY_SECONDS)  # loads what signing needs, so that the workers share its memory
        self.read(token, self.keys()[0][0])

    def _make_first(self) -> None:
        try:
            self.rotate()
        except NoraError as problem:
            log.warning("no signing key could be stored (%s); bearer tokens of this start end with it", problem)
            kid, key = _new_key()
            self._keys[kid] = (self._clock(), key)

    def rotate(self, drop_old: bool = False) -> str:
        """A new key, which signs from now on; its kid. `drop_old`: tokens that older keys have signed end at once."""
        kid, key = _new_key()
        members = {"created_at": self._clock(), "key": key.as_dict(private=True)}
        self._documents.create(f"{kid}.json", json.dumps(members).encode())
        for old, (made, _) in list(self._stored().items()):
            newer = [other for other, _ in self._stored().values() if other > made]
            if old != kid and (drop_old or (newer and self._clock() - min(newer) > self._longest_seconds)):
                self._documents.delete(f"{old}.json")
        self._looked = -LOOK_SECONDS
        self._look()
        return kid

    def keys(self) -> list[tuple[str, float]]:
        """Kid and time of each key, the newest, which signs, first."""
        self._look()
        return sorted(((kid, made) for kid, (made, _) in self._keys.items()), key=lambda entry: -entry[1])

    def still_holds(self, kid: str) -> bool:
        """As holds(), without asking storage: False where that has to be asked (overdue.py)."""
        looked, now = self._looked, self._clock()
        return kid in self._keys and (0 <= now - looked < LOOK_SECONDS or self._overdue.may_go_on("keys", looked + LOOK_SECONDS, now))

    def holds(self, kid: str) -> bool:
        self._look()
        return kid in self._keys

    def sign(self, members: Mapping[str, Any], lifetime: float) -> tuple[str, int, int]:
        """A token with these claims, when it was issued and how many seconds it lives."""
        from joserfc import jwt

        self._look()
        now, kid = int(self._clock()), max(self._keys, key=lambda kid: self._keys[kid][0])
        claims = {"iss": ISSUER, "iat": now, "exp": now + int(lifetime), "jti": secrets.token_hex(8), **members}
        token = jwt.encode({"alg": ALGORITHM, "kid": kid, "typ": "JWT"}, claims, self._keys[kid][1], algorithms=[ALGORITHM])
        return token, now, int(lifetime)

    def read(self, token: str, kid: str) -> dict[str, Any]:
        """The claims of a token that one of our keys has signed and that has not ended. Raises BadToken."""
        from joserfc import jwt
        from joserfc.errors import JoseError

        self._look()
        if kid not in self._keys:
            self._look(AGAIN_SECONDS)  # another worker may have made it a moment ago
        known = self._keys.get(kid)
        if known is None:
            raise BadToken("unknown key")
        try:
            claims: dict[str, Any] = dict(jwt.decode(token, known[1], algorithms=[ALGORITHM]).claims)
        except (JoseError, ValueError, TypeError, RecursionError):
            raise BadToken("signature") from None
        end = claims.get("exp")
        if claims.get("iss") != ISSUER or type(end) is not int or type(claims.get("iat")) is not int:
            raise BadToken("malformed")
        if end <= self._clock() or claims["iat"] > self._clock() + EARLY_SECONDS:
            raise BadToken("expired")
        return claims

    def _look(self, every: float = LOOK_SECONDS) -> None:
        """See which keys there are, now and then; while storage cannot be read, those that were known stay."""
        since = self._clock() - self._looked
        if 0 <= since < every:
            return
        overdue = not self._keys or not 0 <= since < 2 * LOOK_SECONDS  # a worker that had nothing to do: what it knows may be of any age
        if not self._lock.acquire(blocking=overdue):
            return
        now = self._clock()
        try:
            if 0 <= now - self._looked < every:
                return
            stored = self._stored()
            if stored:
                self._keys = stored
        except NoraError as problem:
            log.error("signing keys cannot be read: %s", problem)
        finally:
            self._looked = now  # not before: until then the others would take the old keys for fresh ones
            self._lock.release()

    def _stored(self) -> dict[str, tuple[float, Any]]:
        from joserfc.jwk import ECKey

        keys: dict[str, tuple[float, Any]] = {}
        for name in self._documents.names():
            kid = name.removesuffix(".json")
            if kid in self._keys:
                keys[kid] = self._keys[kid]
                continue
            data = self._documents.read(name) if kid.startswith(KID_START) else None
            if data is None:
                continue
            try:
                members = json.loads(data)
                keys[kid] = (float(members["created_at"]), ECKey.import_key(members["key"]))
            except Exception as problem:  # whatever it is, the other keys are good
                log.error("the signing key %s cannot be read and is not used: %s", kid, type(problem).__name__)
        return keys


def _new_key() -> tuple[str, Any]:
    from joserfc.jwk import ECKey

    return KID_START + secrets.token_hex(8), ECKey.generate_key("P-256", private=True)
