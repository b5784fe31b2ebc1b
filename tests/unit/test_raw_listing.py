"""Listings of folders: for people and for programs, and that no name in them does harm."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from urllib.parse import parse_qs, unquote, urljoin

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noraflask.errors import InvalidPage
from noraflask.formats.raw.listing import PAGE, Entry, Page, parse_page_size, render_html, render_json, wants_html

FILE = Entry("app.tar.gz", 1536, 1_000_000_000.5, "ab" * 32, "application/gzip")
NAMES = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="/\\"), min_size=1, max_size=40)


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.found += [value or "" for name, value in attrs if name == "href"]

    def handle_data(self, data: str) -> None:
        self.text += data


def read(body: bytes) -> Links:
    links = Links()
    links.feed(body.decode())
    return links


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        (None, False),
        ("", False),
        ("*/*", False),
        ("text/html", True),
        ("text/*", True),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8", True),
        ("application/json, text/html", False),
        ("application/json, text/html;q=0.9", False),
        ("text/html, application/json;q=0.9", True),
        ("text/html;q=0", False),
        ("application/json;q=0, */*", True),
        ("nonsense;;;,,", False),
    ],
)
def test_who_gets_html(accept, html):
    assert wants_html(accept) is html


@pytest.mark.parametrize(("text", "size"), [(None, PAGE), ("", PAGE), ("1", 1), ("1000", PAGE), ("999999999", PAGE), ("007", 7)])
def test_page_sizes(text, size):
    assert parse_page_size(text) == size


@pytest.mark.parametrize("text", [" ", "0", "-1", "1.5", "x", "1_0", "9" * 10, "\u0661"])
def test_other_page_sizes_are_bad(text):
    with pytest.raises(InvalidPage):
        parse_page_size(text)


def test_json():
    assert json.loads(render_json(Page("tools/", (FILE, Entry("old/")), 2, is_last=False))) == {
        "path": "tools/",
        "folders": ["old"],
        "files": [
            {"name": "app.tar.gz", "size": 1536, "modified": "2001-09-09T01:46:40Z", "sha256": "ab" * 32, "content_type": "application/gzip"},
        ],
        "next": "?n=2&last=old%2F",
    }


def test_html_for_people():
    body = render_html(Page("tools/", (FILE, Entry("old/")), 2, is_last=False), "raw")
    links = read(body)
    assert links.found == ["../", "./app.tar.gz", "./old/", "?n=2&last=old%2F"]
    for text in ("raw: /tools/", "app.tar.gz", "1.5 KiB", "2001-09-09T01:46:40Z", "ab" * 32, "more"):
        assert text in links.text


def test_the_top_has_no_parent_and_an_empty_folder_says_so():
    links = read(render_html(Page("", (), 2), "raw"))
    assert links.found == []
    assert "nothing here" in links.text


@given(NAMES, st.booleans())
def test_a_link_leads_to_the_entry_and_nowhere_else(name, folder):
    entry = Entry(name + "/" if folder else name)
    links = read(render_html(Page("a b/", (entry,), 1, is_last=False), "raw"))
    assert unquote(urljoin("http://host/raw/a%20b/", links.found[1])) == f"http://host/raw/a b/{entry.name}" or name in (".", "..")
    assert parse_qs(links.found[2][1:])["last"] == [entry.name]


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "&lt;b&gt;", "javascript:alert(1)", "</title><b>"])
def test_no_name_becomes_markup(name):
    links = read(render_html(Page(name + "/", (Entry(name), Entry(name + "/")), 1, is_last=False), name))
    assert not {"script", "img", "b"} & set(links.tags)
    assert not any(link.startswith("javascript:") for link in links.found)
    assert name in links.text
