"""Key: the name of a stored object, valid once it exists."""

from __future__ import annotations

import re

from noraflask.errors import InvalidName

_SEGMENT = re.compile(r"[^\x00-\x1f\x7f/\\]{1,255}\Z")
MAX_BYTES = 1024


class Key(str):
    """A relative path of 1 to 255 byte segments between single slashes, 1024 bytes in all, as text.

    No empty, `.` or `..` segment, no control character, no backslash, no leading dot in the first segment (those names are the storage's own),
    nothing that UTF-8 cannot write. Raises InvalidName.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Key:
        segments = text.split("/")
        try:
            fits = len(text.encode()) <= MAX_BYTES and all(len(s.encode()) <= 255 for s in segments)
        except UnicodeEncodeError:
            fits = False
        if not fits or text.startswith(".") or any(s in (".", "..") or not _SEGMENT.match(s) for s in segments):
            raise InvalidName("the name cannot be stored: it is too long or holds an empty, dot or control part", detail={"name": text[:200]})
        return super().__new__(cls, text)

    @classmethod
    def trusted(cls, text: str) -> Key:
        """A key put together from parts that were checked before: the hot path's way to skip checking them again."""
        return str.__new__(cls, text)
