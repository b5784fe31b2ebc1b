"""The parts of a multipart/byteranges body, read as clients read them."""

from __future__ import annotations

import email.parser

from werkzeug.test import TestResponse


def read_parts(content_type: str, body: bytes) -> list[tuple[str, str, bytes]]:
    """Of each part: Content-Type, Content-Range and bytes. Neither before nor behind the parts there is anything."""
    kind, _, boundary = content_type.partition("; boundary=")
    assert kind == "multipart/byteranges"
    mark = f"\r\n--{boundary}".encode()
    first, *parts, last = (b"\r\n" + body).split(mark)
    assert (first, last) == (b"", b"--\r\n")
    found = []
    for part in parts:
        head, _, data = part.partition(b"\r\n\r\n")
        fields = email.parser.BytesParser().parsebytes(head.lstrip(b"\r\n"))
        assert sorted(fields) == ["Content-Range", "Content-Type"]
        found.append((str(fields["Content-Type"]), str(fields["Content-Range"]), data))
    return found


def parts_of(answer: TestResponse) -> list[tuple[str, bytes]]:
    """Content-Range and bytes of each."""
    return [(content_range, data) for _, content_range, data in read_parts(answer.headers["Content-Type"], answer.data)]
