"""A folder's listing: one model, two renderings. Pure.

What is listed was named by others: each name is escaped for HTML and percent-encoded in links.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote

from noraflask.errors import InvalidPage

PAGE = 1000
"""Entries of a page, where the client does not ask for fewer."""
SCANNED = 20_000
"""Entries that are looked through for one page, with those that the caller may not see."""
JSON, HTML = "application/json", "text/html; charset=utf-8"

_QUALITY = re.compile(r"q=(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)\Z")
_SIZES = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or, with a slash at its end and nothing else, a folder."""

    name: str
    size: int = 0
    modified: float = 0.0
    """Seconds since the epoch."""
    sha256: str = ""
    media_type: str = ""

    @property
    def is_folder(self) -> bool:
        return self.name.endswith("/")


@dataclass(frozen=True, slots=True)
class Page:
    path: str
    """From the repository on: empty, or with a slash at its end."""
    entries: Sequence[Entry]
    size: int
    """How many entries it may have."""
    is_last: bool = True
    last: str = ""
    """Behind which entry the page that follows begins, if not behind the last one of this page."""

    @property
    def next_query(self) -> str:
        """Of the page that follows."""
        return f"n={self.size}&last={quote(self.last or self.entries[-1].name, safe='')}"


def parse_page_size(text: str | None) -> int:
    """`n` of a listing, as if absent when it is empty; at most PAGE. Raises InvalidPage."""
    if not text:
        return PAGE
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text)):
        raise InvalidPage("n must be a whole number, 1 or more")
    return min(int(text), PAGE)


def wants_html(accept: str | None) -> bool:
    """People's browsers name text/html; programs that name nothing get JSON."""
    return _quality(accept, "text/html") > _quality(accept, JSON)


def _quality(accept: str | None, media_type: str) -> float:
    """RFC 9110, 12.5.1: the most specific entry counts."""
    kind = media_type.partition("/")[0]
    found = {}
    for entry in (accept or "*/*")[:1024].split(","):
        wanted, *parameters = (part.strip().lower() for part in entry.split(";"))
        found[wanted] = next((float(word[2:]) for word in parameters if _QUALITY.match(word)), 1.0)
    return next((found[wanted] for wanted in (media_type, f"{kind}/*", "*/*") if wanted in found), 0.0)


def render_json(page: Page) -> bytes:
    files = [
        {
            "name": entry.name,
            "size": entry.size,
            "modified": _moment(entry.modified),
            "sha256": entry.sha256,
            "content_type": entry.media_type,
        }
        for entry in page.entries
        if not entry.is_folder
    ]
    folders = [entry.name[:-1] for entry in page.entries if entry.is_folder]
    members = {"path": page.path, "folders": folders, "files": files, "next": None if page.is_last else f"?{page.next_query}"}
    return json.dumps(members, ensure_ascii=False).encode()


def render_html(page: Page, repository: str) -> bytes:
    """Works without scripts and styles, which no answer of this server may have."""
    title = html.escape(f"{repository}: /{page.path}")
    rows = [_row("../", "../", "", "")] if page.path else []
    rows += [_row(_link(entry.name), entry.name, *_facts(entry)) for entry in page.entries]
    more = "" if page.is_last else f'<p><a rel="next" href="?{html.escape(page.next_query)}">more</a></p>\n'
    none = "" if page.entries else "<p>There is nothing here.</p>\n"
    return (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{title}</title></head>\n<body>\n<h1>{title}</h1>\n'
        '<table border="0" cellpadding="4">\n'
        '<tr><th align="left">Name</th><th align="right">Size</th><th align="left">Modified</th><th align="left">SHA-256</th></tr>\n'
        f"{''.join(rows)}</table>\n{none}{more}</body>\n</html>\n"
    ).encode()


def _row(link: str, name: str, size: str, modified: str, sha256: str = "") -> str:
    return (
        f'<tr><td><a href="{html.escape(link)}">{html.escape(name)}</a></td><td align="right">{size}</td>'
        f"<td>{modified}</td><td>{f'<code>{sha256}</code>' if sha256 else ''}</td></tr>\n"
    )


def _link(name: str) -> str:
    """Relative, and never taken for a scheme: "a:b" would be one."""
    return f"./{quote(name, safe='/')}"


def _facts(entry: Entry) -> tuple[str, str, str]:
    return ("", "", "") if entry.is_folder else (_size(entry.size), _moment(entry.modified), entry.sha256)


def _size(size: int) -> str:
    amount, unit = float(size), 0
    while amount >= 1024 and unit < len(_SIZES) - 1:
        amount, unit = amount / 1024, unit + 1
    return f"{amount:.1f} {_SIZES[unit]}" if unit else f"{size} B"


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).isoformat().replace("+00:00", "Z")
