"""Files by name, the pure part: keys, sidecars, digests, upload ranges, media types. RFC 9110 (HTTP), RFC 9530 (digest fields).

Keys of a repository, all below its own name, here `raw`, and the path `tools/linux/app.tar.gz`:

    raw/files/+tools/+linux/=app.tar.gz     the pointer to the bytes (services/pointers.py); its own part: other checksums, once somebody asked

A folder's name begins with `+` and a file's with `=`, so that a file and what is below a folder never want the same key, whatever the storage is, and
folders come first in listings. A folder is there as long as there is a file in it.
"""

from __future__ import annotations

import base64
import binascii
import mimetypes
import re
from dataclasses import dataclass
from urllib.parse import quote

from noraflask.digest import ALGORITHMS, Digest
from noraflask.errors import BadRequest, DigestMismatch, InvalidDigest, RangeInvalid
from noraflask.keys import Key

# Keys.


def files_folder(repository: str) -> str:
    return f"{repository}/files"


def folder_key(repository: str, folder: str) -> str:
    """`folder`: its path, empty for the top; no slash at the end here, nor there."""
    return "/+".join((files_folder(repository), *folder.split("/"))) if folder else files_folder(repository)


def file_key(repository: str, path: str) -> Key:
    """Raises InvalidName for a path that does not fit into a key."""
    folder, _, name = path.rpartition("/")
    return Key(f"{folder_key(repository, folder)}/={name}")


def mark_entry(name: str) -> str:
    """A name in a listing, a folder's with a slash at its end, as part of a key."""
    return f"+{name}" if name.endswith("/") else f"={name}"


def path_of_key(key: str) -> str:
    """The path of a key without what files_folder() is."""
    return "/".join(part[1:] for part in key.split("/"))


def folders_above(path: str) -> list[str]:
    """`a/b/c` lies in `a` and `a/b`: none of them can be a file."""
    segments = path.split("/")
    return ["/".join(segments[:count]) for count in range(1, len(segments))]


# Sidecars: a file's checksum, below the file's own name.

SIDECARS = {".sha256": "sha256", ".sha512": "sha512", ".sha1": "sha1", ".md5": "md5"}
SUMS = ("sha1", "md5", "sha512")
"""What is computed when somebody asks for one of them; the SHA-256 is known."""


def parse_sidecar(path: str) -> tuple[str, str] | None:
    """The file and the algorithm of `<file>.sha256` and the like; None for another name."""
    base, dot, suffix = path.rpartition(".")
    algorithm = SIDECARS.get(dot + suffix)
    return (base, algorithm) if algorithm and base and not base.endswith("/") else None


def render_sidecar(path: str, checksum: str) -> bytes:
    """One line as `sha256sum -c` reads it, two spaces: the file's name without its folders, as that is where the download lies."""
    return f"{checksum}  {path.rpartition('/')[2]}\n".encode()


# Digests.

DIGEST_FIELDS = {"sha-256": "sha256", "sha-512": "sha512"}
"""RFC 9530, 7.2, without the algorithms that it calls insecure."""

_SHA256 = re.compile(r"[0-9A-Fa-f]{64}\Z")
_MEMBER = re.compile(r"[ \t]*([a-z*][a-z0-9_.*-]*)=:([A-Za-z0-9+/=]*):[ \t]*\Z")


def parse_digest_field(name: str, header: str | None) -> tuple[Digest, ...]:
    """Repr-Digest and Content-Digest: the digests that we can check. Raises InvalidDigest when there is none, or one is malformed."""
    if header is None:
        return ()
    found: dict[str, Digest] = {}
    for member in header.split(","):
        match = _MEMBER.match(member)
        if not match:
            raise InvalidDigest(f"{name} is not valid: expected sha-256=:<base64>: or sha-512=:<base64>:")
        algorithm = DIGEST_FIELDS.get(match[1])
        if algorithm:
            found[algorithm] = Digest(algorithm, _hex(name, algorithm, match[2]))
    if not found:
        raise InvalidDigest(f"{name} has no digest that is known here; send sha-256 or sha-512")
    return tuple(found.values())


def _hex(name: str, algorithm: str, text: str) -> str:
    try:
        value = base64.b64decode(text, validate=True).hex()
    except binascii.Error:
        value = ""
    if len(value) != ALGORITHMS[algorithm]:
        raise InvalidDigest(f"{name} is not valid: {algorithm} must be the base64 of {ALGORITHMS[algorithm] // 2} bytes")
    return value


def parse_checksum(header: str | None) -> tuple[Digest, ...]:
    """X-Checksum-Sha256, in hex. Raises InvalidDigest."""
    if header is None:
        return ()
    if not _SHA256.match(header.strip()):
        raise InvalidDigest("X-Checksum-Sha256 is not valid: expected 64 hex digits")
    return (Digest("sha256", header.strip().lower()),)


def one_of_each(announced: tuple[Digest, ...]) -> tuple[Digest, ...]:
    """Raises DigestMismatch when two headers announce different digests of one algorithm: no bytes have both."""
    found: dict[str, Digest] = {}
    for digest in announced:
        if found.setdefault(digest.algorithm, digest) != digest:
            raise DigestMismatch(f"the request announces two different {digest.algorithm} digests of the same bytes")
    return tuple(found.values())


def render_digest_field(digest: Digest) -> str:
    name = next(name for name, algorithm in DIGEST_FIELDS.items() if algorithm == digest.algorithm)
    return f"{name}=:{base64.b64encode(bytes.fromhex(digest.hex)).decode()}:"


# Upload ranges: RFC 9110, 14.5 (partial PUT), as `curl -C <offset> -T` sends them.

_CONTENT_RANGE = re.compile(r"bytes[ \t]+(?:([0-9]{1,18})-([0-9]{1,18})|(\*))/([0-9]{1,18})\Z", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a file that is uploaded in several requests."""

    first: int
    size: int
    """Bytes; 0: the client only asks how far the upload is."""
    total: int

    @property
    def is_last(self) -> bool:
        return self.size > 0 and self.first + self.size == self.total


def parse_part(header: str | None, length: int | None) -> Part | None:
    """`length`: the announced one of the body, None when it comes in chunks. None: the request carries the whole file.

    Raises BadRequest for what is no range of a file whose size is known, or another one than the body's length.
    """
    if header is None:
        return None
    match = _CONTENT_RANGE.match(header.strip())
    if not match:
        raise BadRequest("Content-Range must be bytes <first>-<last>/<size of the file>, or bytes */<size of the file> to ask how far an upload is")
    total = int(match[4])
    if match[3]:
        if length:
            raise BadRequest("Content-Range: bytes */<size> asks how far an upload is; it takes no body")
        return Part(0, 0, total)
    first, last = int(match[1]), int(match[2])
    if not first <= last < total:
        raise BadRequest("Content-Range is not valid: the first byte must not lie behind the last one, and the last one must lie in the file")
    if length is not None and length != last - first + 1:
        raise BadRequest(f"Content-Range names {last - first + 1} bytes, and the body has {length}")
    return Part(first, last - first + 1, total)


def offset_headers(offset: int) -> dict[str, str]:
    """How far an upload is; `Range` says the same in the words of RFC 9110, which has none for nothing."""
    return {"Upload-Offset": str(offset), **({"Range": f"bytes=0-{offset - 1}"} if offset else {})}


def check_offset(part: Part, offset: int) -> None:
    """Raises RangeInvalid for a part that is not the next one; the first byte begins anew."""
    if part.first not in (0, offset):
        raise RangeInvalid(
            f"the upload has {offset} bytes, so the next part begins there and not at {part.first}; send Content-Range: bytes {offset}-…",
            {"offset": offset},
            offset_headers(offset),
        )


# Media types.

OCTETS = "application/octet-stream"
GENERIC_TYPES = ("", OCTETS, "binary/octet-stream", "application/x-www-form-urlencoded", "application/unknown")
"""What clients send that do not say what they send."""
LONGEST_TYPE = 255

_TYPE = re.compile(
    r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+(?:[ \t]*;[ \t]*[A-Za-z0-9!#$&^_.+-]+=(?:[A-Za-z0-9!#$&^_.+-]+|\"[ !#-\[\]-~]*\"))*\Z"
)
_KNOWN = mimetypes.MimeTypes(())
_KNOWN.types_map[True].update(
    {
        ".7z": "application/x-7z-compressed",
        ".bz2": "application/x-bzip2",
        ".deb": "application/vnd.debian.binary-package",
        ".gz": "application/gzip",
        ".iso": "application/x-iso9660-image",
        ".jar": "application/java-archive",
        ".md": "text/markdown",
        ".rpm": "application/x-rpm",
        ".svg": "image/svg+xml",
        ".tgz": "application/gzip",
        ".toml": "application/toml",
        ".wasm": "application/wasm",
        ".xz": "application/x-xz",
        ".yaml": "application/yaml",
        ".yml": "application/yaml",
        ".zst": "application/zstd",
    }
)


def media_type(path: str, content_type: str | None) -> str:
    """The client's, unless it says nothing; then by the name's last extension, the same on every machine."""
    told = (content_type or "").strip()
    if told.partition(";")[0].strip().lower() not in GENERIC_TYPES and len(told) <= LONGEST_TYPE and _TYPE.match(told):
        return told
    dot = path.rpartition("/")[2].rfind(".")
    extension = path.rpartition("/")[2][dot:].lower() if dot > 0 else ""
    return _KNOWN.types_map[True].get(extension, OCTETS)


# Answers.

_PLAIN = re.compile(r"[^A-Za-z0-9 !#$&+.^_`{}~()@,;=\[\]'-]")


def disposition(path: str) -> str:
    """Content-Disposition (RFC 6266): saved, not shown, under the file's own name. Old clients get one in ASCII."""
    name = path.rpartition("/")[2]
    plain = _PLAIN.sub("_", name)
    extended = f"; filename*=UTF-8''{quote(name, safe='')}" if plain != name else ""
    return f'attachment; filename="{plain}"{extended}'


def address_of(path: str) -> str:
    """A path as part of an address."""
    return quote(path, safe="/~!$&'()*+,;=:@")
