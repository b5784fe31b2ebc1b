"""Ranges of an upload ("Pushing a blob in chunks")."""

from __future__ import annotations

import re

from noraflask.errors import RangeInvalid

_CONTENT_RANGE = re.compile(r"([0-9]{1,19})-([0-9]{1,19})\Z")


def content_range(header: str | None) -> tuple[int, int] | None:
    """First and last byte offset of a chunk, both inclusive; None when the header is absent.

    The spec's form is `<first>-<last>`, without the unit and total of RFC 9110. Some clients send those too; `bytes ` in front is let pass.
    Raises RangeInvalid for any other form.
    """
    if header is None:
        return None
    found = _CONTENT_RANGE.match(header.removeprefix("bytes ").removeprefix("bytes=").partition("/")[0])
    if not found or int(found[2]) < int(found[1]):
        raise RangeInvalid("Content-Range must be <first>-<last>, two byte offsets, the second not before the first")
    return int(found[1]), int(found[2])


def check_chunk(header: str | None, announced_bytes: int | None, offset: int) -> int | None:
    """How long a chunk's body must be, if that is known.

    Raises RangeInvalid unless a chunk with this Content-Range is the next one, and as long as its body is announced to be.
    """
    found = content_range(header)
    if found is None:
        return announced_bytes
    first, last = found
    if first != offset:
        raise RangeInvalid(f"the chunk begins at {first}, the upload has {offset} bytes; go on from there", detail={"offset": offset})
    if announced_bytes is not None and announced_bytes != last - first + 1:
        raise RangeInvalid(f"Content-Range spans {last - first + 1} bytes, Content-Length is {announced_bytes}", detail={"offset": offset})
    return last - first + 1


def upload_range(size_bytes: int) -> str:
    """What has come in, first to last byte; `0-0` also when there is nothing yet, as clients expect."""
    return f"0-{max(0, size_bytes - 1)}"
