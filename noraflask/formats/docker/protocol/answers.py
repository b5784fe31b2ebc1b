"""What every answer has, and errors in their dress ("Error Codes": the spec's closed list, by the class of what was raised)."""

from __future__ import annotations

import json

API_HEADERS = (("Docker-Distribution-Api-Version", "registry/2.0"),)
"""On every answer: old clients take a server without it for another kind."""

PROTOCOL_HEADERS = (
    *("Docker-Content-Digest", "Docker-Distribution-Api-Version", "Docker-Upload-UUID", "OCI-Chunk-Min-Length", "OCI-Filters-Applied"),
    *("OCI-Subject", "OCI-Tag", "Range"),
)
"""Of some answers; clients that run in a browser must be let read them."""

CODES = {
    "InvalidName": "NAME_INVALID",
    "InvalidTag": "MANIFEST_INVALID",
    "InvalidDigest": "DIGEST_INVALID",
    "DigestMismatch": "DIGEST_INVALID",
    "SizeMismatch": "SIZE_INVALID",
    "ClientGone": "BLOB_UPLOAD_INVALID",
    "ManifestInvalid": "MANIFEST_INVALID",
    "ManifestBlobUnknown": "MANIFEST_BLOB_UNKNOWN",
    "Unauthenticated": "UNAUTHORIZED",
    "Denied": "DENIED",
    "RepositoryUnknown": "NAME_UNKNOWN",
    "BlobUnknown": "BLOB_UNKNOWN",
    "ManifestUnknown": "MANIFEST_UNKNOWN",
    "UploadUnknown": "BLOB_UPLOAD_UNKNOWN",
    "UploadBusy": "BLOB_UPLOAD_INVALID",
    "TooLarge": "SIZE_INVALID",
    "RangeInvalid": "BLOB_UPLOAD_INVALID",
    "TooManyUploads": "TOOMANYREQUESTS",
    "TooManyLogins": "TOOMANYREQUESTS",
    "RateLimited": "TOOMANYREQUESTS",
    "Unavailable": "TOOMANYREQUESTS",
    "StorageFull": "STORAGE_FULL",  # the list has none; clients show it, and nobody is told to look for a limit of requests
    "NoraError": "UNSUPPORTED",
}


def render_error(problem: Exception) -> tuple[str, bytes]:
    """Content type and body. The code is that of the nearest ancestor that has one."""
    code = next(CODES[kind.__name__] for kind in type(problem).__mro__ if kind.__name__ in CODES)
    entry = {"code": code, "message": str(problem.args[0]), "detail": getattr(problem, "detail", None)}
    refusal = getattr(problem, "refusal", None)
    return "application/json", json.dumps({"errors": [entry], **(refusal.members() if refusal else {})}).encode()
