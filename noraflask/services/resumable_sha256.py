"""SHA-256 whose state can be taken out in the middle, so that another process goes on from there. hashlib has nothing of the kind.

It calls SHA256_* of the libcrypto that hashlib itself uses: the same code, at the same speed. Their context holds numbers and no pointer, in a layout
that OpenSSL's public header fixes, and that is tried before it is relied on. docs/decisions/0012-shared-hashes.md tells what else there was.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
from functools import cache
from typing import Any, TypeVar

STATE_BYTES = 112
"""Of SHA256_CTX."""
_CONTEXT_BYTES = 2 * STATE_BYTES
_DIGEST_BYTES = 32
_Library = TypeVar("_Library", bound=ctypes.CDLL)
_LEAST_VERSION = 0x30000000
"""Of OpenSSL. In version 1 with the FIPS patches of some distributions, these functions end the process."""


class ResumableSha256:
    """As hashlib's, where is_available() says so."""

    __slots__ = ("_context",)

    def __init__(self, state: bytes | None = None) -> None:
        """`state`: what state() of another one gave."""
        self._context = ctypes.create_string_buffer(state or b"", _CONTEXT_BYTES)
        if state is None:
            _quick().SHA256_Init(self._context)

    def update(self, data: memoryview) -> None:
        """`data`: of a buffer that may be written to. Python's own lock is let go of meanwhile."""
        _slow().SHA256_Update(self._context, ctypes.addressof(ctypes.c_char.from_buffer(data)), data.nbytes)

    def hexdigest(self) -> str:
        digest = ctypes.create_string_buffer(_DIGEST_BYTES)
        _quick().SHA256_Final(digest, ctypes.create_string_buffer(self._context.raw, _CONTEXT_BYTES))
        return digest.raw.hex()

    def state(self) -> bytes:
        return self._context.raw[:STATE_BYTES]


@cache
def is_available() -> bool:
    """Are there the functions, and does a hash that is saved in the middle come to what hashlib says?"""
    try:
        if _quick().OpenSSL_version_num() < _LEAST_VERSION or _of_hashlib().get_fips_mode():
            return False
        return all(_comes_to_the_same(first, second) for first, second in ((0, 0), (1, 200), (63, 1), (64, 64), (100, 4096)))
    except (ImportError, AttributeError, OSError, ValueError):
        return False


def _comes_to_the_same(first: int, second: int) -> bool:
    data = bytearray(index * 7 % 251 for index in range(first + second))
    before = ResumableSha256()
    if first:
        before.update(memoryview(data)[:first])
    after = ResumableSha256(before.state())
    if second:
        after.update(memoryview(data)[first:])
    beyond = before._context.raw[STATE_BYTES:] + after._context.raw[STATE_BYTES:]
    return not any(beyond) and after.hexdigest() == after.hexdigest() == hashlib.sha256(data).hexdigest()


@cache
def _quick() -> ctypes.PyDLL:
    """For calls that are over at once: who lets go of Python's lock may wait for it longer than they take."""
    return _declared(ctypes.PyDLL(_place()))


@cache
def _slow() -> ctypes.CDLL:
    return _declared(ctypes.CDLL(_place()))


def _place() -> str | None:
    """Through hashlib's module the very library is found that it is linked with. None: it is part of the program."""
    return getattr(_of_hashlib(), "__file__", None)


def _of_hashlib() -> Any:
    """Python's own module for what OpenSSL hashes; there are builds without it."""
    return importlib.import_module("_hashlib")


def _declared(library: _Library) -> _Library:
    library.SHA256_Init.argtypes = [ctypes.c_void_p]
    library.SHA256_Update.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
    library.SHA256_Final.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    library.OpenSSL_version_num.argtypes, library.OpenSSL_version_num.restype = [], ctypes.c_ulong
    return library
