"""Listings, page by page ("Listing Tags", "Listing Referrers")."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote

from noraflask.errors import InvalidPage

REFERRERS_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Page:
    entries: list[str]
    more: bool


def page_size(text: str | None) -> int | None:
    """The query parameter n; None when absent or empty. Raises InvalidPage."""
    if not text:
        return None
    if not re.fullmatch(r"[0-9]{1,30}", text):
        raise InvalidPage(detail={"n": text[:80]})
    return int(text)


def take_page(entries: Iterable[str], size: int | None) -> Page:
    """The first `size` entries, all when it is None, none and nothing more when it is 0."""
    if size is None:
        return Page(list(entries), False)
    taken: list[str] = []
    for entry in entries:
        if len(taken) == size:
            return Page(taken, size > 0)
        taken.append(entry)
    return Page(taken, False)


def next_link(url: str, page: Page, size: int | None, **filters: str) -> dict[str, str]:
    """The Link header of RFC 8288 for the page that follows; none when there is no such page."""
    if not page.more or not page.entries:
        return {}
    parameters = {**filters, "n": str(size), "last": page.entries[-1]}
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in parameters.items())
    return {"Link": f'<{url}?{query}>; rel="next"'}
