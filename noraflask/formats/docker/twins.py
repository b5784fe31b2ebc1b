"""Twins: the digests that the same bytes have by other algorithms. For the gate they are one thing, called by its sha256.

The sha256 of everything is known: a push by another algorithm computes both and notes it, beside the blob's pointer and before it. The sha512 of what
was pushed by its sha256 is found when a rule speaks of sha512, once, and is noted too (services/rehashing.py): a hot read hashes nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from weakref import WeakKeyDictionary

from noraflask.digest import Digest
from noraflask.errors import NoraError, NotFound
from noraflask.formats.docker.protocol import keys
from noraflask.pointer import Pointer
from noraflask.services.bounded_memory import BoundedMemory
from noraflask.services.content import Content
from noraflask.services.rehashing import Rehashing

CANONICAL, OTHER = "sha256", "sha512"
NOTED_BYTES = 64 * 1024
"""What is smaller is hashed again rather than kept in storage."""
MEMORY_BYTES = 4 * 1024 * 1024
"""Of one process."""
TWIN_BYTES = 500
REHASHING = Rehashing("another large layer is hashed now, for a rule on its digest")

_found: WeakKeyDictionary[Content, BoundedMemory[str, Digest]] = WeakKeyDictionary()


def note(content: Content, repository: str, name: str, digest: Digest, twin: Digest, size: int) -> None:
    """For good: what is deleted may be pushed again, or be part of an image that is still there."""
    content.point(keys.twin_pointer(repository, name, digest), Pointer(twin, size, "application/octet-stream", content.now()))


def canonical(content: Content, repository: str, name: str, digest: Digest) -> Digest:
    """The sha256 of content; the digest itself where its bytes are not there. Raises Unavailable while another large blob is hashed."""
    if digest.algorithm == CANONICAL:
        return digest
    return noted(content, repository, name, digest) or _find(content, repository, name, digest, CANONICAL) or digest


def noted(content: Content, repository: str, name: str, digest: Digest) -> Digest | None:
    """What was found out of it under this name, or by this process under any: equal bytes are equal everywhere."""
    memory = _memory_of(content)
    twin = memory.get(str(digest))
    if twin is None:
        pointer = content.pointer(keys.twin_pointer(repository, name, digest))
        twin = pointer.digest if pointer else None
        if twin is not None:
            memory.put(str(digest), twin, TWIN_BYTES)
    return twin


def noted_of(content: Content, repository: str, name: str, digests: Iterable[Digest]) -> dict[str, str]:
    """Of digests by another algorithm those whose sha256 is noted, with it."""
    others = (digest for digest in digests if digest.algorithm != CANONICAL)
    return {str(digest): str(twin) for digest in others if (twin := noted(content, repository, name, digest))}


def other(content: Content, repository: str, name: str, digest: Digest) -> Digest | None:
    """The sha512 of content that is kept under its sha256; None where its bytes are not there. Raises Unavailable as canonical() does."""
    return noted(content, repository, name, digest) or _find(content, repository, name, digest, OTHER)


def _memory_of(content: Content) -> BoundedMemory[str, Digest]:
    memory = _found.get(content)
    return _found.setdefault(content, BoundedMemory(MEMORY_BYTES)) if memory is None else memory


def _find(content: Content, repository: str, name: str, digest: Digest, algorithm: str) -> Digest | None:
    found = content.stat(digest)
    if found is None:
        return None
    try:
        twin = Digest(algorithm, REHASHING.hashes(content, digest, found.size, (algorithm,))[algorithm])
    except NotFound:
        return None
    _memory_of(content).put(str(digest), twin, TWIN_BYTES)
    if found.size > NOTED_BYTES:
        with contextlib.suppress(NoraError):  # a storage that cannot be written to now does not keep the answer back
            note(content, repository, name, digest, twin, found.size)
    return twin
