"""The one exception tree. A class says what happened, carries facts as fields and knows its status; `web/errors.py` dresses it.

Messages are for the person who reads them in a terminal: they say what to do next and hold no secret and no path of the server's disk.
"""

from __future__ import annotations

from typing import Any


class NoraError(Exception):
    """Something the server did not expect. `status` is the HTTP status, `detail` is JSON-ready facts for the client."""

    status = 500
    default_message = "the server met a condition it did not expect; its log has the request id of this answer"

    def __init__(self, message: str | None = None, detail: Any = None, headers: dict[str, str] | None = None) -> None:
        super().__init__(message or self.default_message)
        self.detail = detail
        self.headers = headers or {}

    @property
    def message(self) -> str:
        return str(self.args[0])


class BadRequest(NoraError):
    status = 400
    default_message = "the request is not valid"


class InvalidName(BadRequest):
    default_message = "the name is not valid"


class InvalidTag(BadRequest):
    default_message = "the tag is not valid: it starts with a letter, digit or _, then up to 127 of letters, digits, _ . -"


class InvalidDigest(BadRequest):
    default_message = "the digest is not valid: expected sha256:<64 lower-case hex digits> or sha512:<128 lower-case hex digits>"


class DigestMismatch(BadRequest):
    default_message = "the bytes received do not have the digest that was announced; send them again"


class SizeMismatch(BadRequest):
    default_message = "the request body was shorter than announced; ask for the upload's offset and go on from there"


class ManifestInvalid(BadRequest):
    default_message = "the manifest is not valid"


class ManifestBlobUnknown(BadRequest):
    """A manifest names content that its repository does not hold."""

    default_message = "the manifest refers to content that this repository does not hold; push it first"


class InvalidPage(BadRequest):
    default_message = "n must be a whole number, 0 or more"


class Unauthenticated(NoraError):
    """Credentials are missing or not valid. `web/access.py` adds the challenge, which RFC 9110, 11.6.1, demands."""

    status = 401
    default_message = "authentication is required"


class Denied(NoraError):
    """The principal is known and may not do this."""

    status = 403
    default_message = "access is denied"


class CurationDenied(Denied):
    """The policy says no. `refusal` holds the facts (services/curation/gate.py); formats dress them."""

    default_message = "the policy of this registry blocks it"

    def __init__(self, message: str | None = None, detail: Any = None, headers: dict[str, str] | None = None, refusal: Any = None) -> None:
        super().__init__(message, detail, headers)
        self.refusal = refusal


class NotGated(NoraError):
    """A view has served something without asking the gate: a defect of this server, so nothing is served."""

    default_message = "the server was about to serve this without asking its policy, and did not; its log has the request id of this answer"


class UnsupportedMediaType(NoraError):
    status = 415
    default_message = "the request body must be JSON, with Content-Type: application/json"


class Unprocessable(NoraError):
    """JSON without what is needed, or with something of another type."""

    status = 422
    default_message = "a member of the request body is missing or of another type"


class PreconditionFailed(NoraError):
    """A condition of the request, such as If-Match, does not hold (RFC 9110, 15.5.13)."""

    status = 412
    default_message = "what is stored is not what the request's conditions name; look at it again and decide anew"


class NotFound(NoraError):
    status = 404
    default_message = "there is nothing at this address"


class RepositoryUnknown(NotFound):
    default_message = "the repository is not known to this registry"


class BlobUnknown(NotFound):
    default_message = "the blob is not in this repository"


class ManifestUnknown(NotFound):
    default_message = "the manifest is not in this repository"


class UploadUnknown(NotFound):
    default_message = "the upload is not known: it was finished, cancelled or has expired; start a new one"


class MethodNotAllowed(NoraError):
    status = 405
    default_message = "this address does not support the method"


class AlreadyExists(NoraError):
    status = 409
    default_message = "it exists already"


class Changed(NoraError):
    """What was to be replaced is no longer what it was when it was read."""

    status = 409
    default_message = "somebody else changed it at the same moment; look at it again and repeat the change"


class UploadBusy(NoraError):
    status = 409
    default_message = "another request is writing to this upload; wait for it, ask for the offset and go on from there"


class TooLarge(NoraError):
    status = 413
    default_message = "the request body is larger than this server accepts"


class RangeInvalid(NoraError):
    status = 416
    default_message = "the range is not valid; ask for the offset and go on from there"


class TooManyUploads(NoraError):
    status = 429
    default_message = "too many uploads are open; try again later"

    def __init__(self, message: str | None = None, detail: Any = None, retry_after_seconds: int = 10) -> None:
        super().__init__(message, detail, {"Retry-After": str(retry_after_seconds)})


class TooManyLogins(NoraError):
    status = 429
    default_message = "too many failed logins from this address; try again later, or log in with an API token"

    def __init__(self, message: str | None = None, detail: Any = None, retry_after_seconds: int = 1) -> None:
        super().__init__(message, detail, {"Retry-After": str(retry_after_seconds)})


class RateLimited(NoraError):
    """More requests than the client may send; the limiter says when there will be room, in words and in `headers`."""

    status = 429
    default_message = "too many requests from this address; try again later"


class Unavailable(NoraError):
    """The server cannot write now, for a reason that passes: the client should come again."""

    status = 503
    default_message = "the server cannot do this now; try again later"
    retry_after_seconds = 30

    def __init__(self, message: str | None = None, detail: Any = None, retry_after_seconds: int | None = None) -> None:
        super().__init__(message, detail, {"Retry-After": str(retry_after_seconds or self.retry_after_seconds)})


class RateLimiterAway(Unavailable):
    default_message = "the server cannot count requests for its rate limits now, and takes none meanwhile; try again later"
    retry_after_seconds = 5


class StorageReadOnly(Unavailable):
    default_message = "the server's storage is read-only; nothing was stored. Tell its operator and try again later"


class StorageFull(Unavailable):
    status = 507
    default_message = "the server's storage is full; nothing was stored. Tell its operator and try again later"


class ClientGone(NoraError):
    """The peer broke off or sent nothing for too long while its body was read. Nobody is left to read the answer."""

    status = 400
    default_message = "the request body ended early"
