"""Listings, page by page ("Listing Tags", "Listing Referrers")."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from urllib.parse import quote

from noraflask.errors import InvalidPage

REFERRERS_PAGE = 1000
LONGEST_PAGE = 10_000
"""Tags or names of a page, also where a client asks for more, or for all."""
SCANNED = 20_000
"""Entries that are looked through for one page, with those that a filter hides."""
REFERRERS_BYTES = 1024 * 1024
"""Of the descriptors of a page, if it has more than one. Clients take 4 MiB."""
REFERRERS_READ_BYTES = 8 * 1024 * 1024
"""Of what is read for one page, with what is of another artifact type."""


@dataclass(frozen=True, slots=True)
class Page:
    entries: list[str]
    more: bool
    last: str = ""
    """Where the next page begins, if not behind the last entry."""


class Scan:
    """Entries as they are looked through for one page: at most so many, whether they are shown or not."""

    def __init__(self, entries: Iterable[str], most: int = SCANNED) -> None:
        self._entries, self._most = entries, most
        self._last, self._was_cut = "", False

    def __iter__(self) -> Iterator[str]:
        for number, entry in enumerate(self._entries):
            if number == self._most:
                self._was_cut = True
                return
            self._last = entry
            yield entry

    def cut(self, page: Page) -> Page:
        """The page that was taken from it. Where the scan came to its end before the page was full, the next one goes on from there."""
        return replace(page, more=True, last=self._last) if self._was_cut and not page.more else page


def page_size(text: str | None) -> int | None:
    """The query parameter n; None when absent or empty. Raises InvalidPage."""
    if not text:
        return None
    if not re.fullmatch(r"[0-9]{1,30}", text):
        raise InvalidPage(detail={"n": text[:80]})
    return int(text)


def page_length(size: int | None) -> int:
    """How many entries a page of tags or names may have, of how many the client asks for."""
    return LONGEST_PAGE if size is None else min(size, LONGEST_PAGE)


def take_page(entries: Iterable[str], size: int) -> Page:
    """The first `size` entries; none and nothing more when it is 0."""
    taken: list[str] = []
    for entry in entries:
        if len(taken) == size:
            return Page(taken, size > 0)
        taken.append(entry)
    return Page(taken, False)


def next_link(url: str, page: Page, size: int, **filters: str) -> dict[str, str]:
    """The Link header of RFC 8288 for the page that follows; none when there is no such page."""
    last = page.last or (page.entries[-1] if page.entries else "")
    if not page.more or not last:
        return {}
    parameters = {**filters, "n": str(size), "last": last}
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in parameters.items())
    return {"Link": f'<{url}?{query}>; rel="next"'}
