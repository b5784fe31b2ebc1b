"""The pages of / and of /setup/<client>: what a format gives for each of its clients, and the pieces that all of them share.

A page is for a shell: what is no command is a comment.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from html import escape
from urllib.parse import urlsplit

CA_HINT = "Only for a CA of your own, whose certificate is in ca.crt:"


@dataclass(frozen=True, slots=True)
class Place:
    """Where the registry is reached, as its client sees it, and which repository the page is for."""

    url: str
    """Scheme, host, port, sub-path; no slash at the end."""
    repository: str = ""
    """The name of a named repository; empty for the default one of the format."""

    @property
    def is_tls(self) -> bool:
        return self.url.startswith("https://")

    @property
    def host(self) -> str:
        """With the port."""
        return urlsplit(self.url).netloc

    @property
    def origin(self) -> str:
        """Without the sub-path."""
        return f"{urlsplit(self.url).scheme}://{self.host}"

    @property
    def prefix(self) -> str:
        """The sub-path; empty, or with a slash at its beginning."""
        return urlsplit(self.url).path

    def is_loopback(self) -> bool:
        name = urlsplit(self.url).hostname or ""
        return name == "localhost" or name == "::1" or name.startswith("127.")


@dataclass(frozen=True, slots=True)
class Page:
    """How one client is set up."""

    client: str
    """The last segment of its address."""
    title: str
    body: Callable[[Place], Iterable[str]]
    """The parts below the heading."""

    def render(self, place: Place) -> str:
        return "\n\n".join([f"# {self.title} with {place.url}", *self.body(place)]) + "\n"


def steps(**steps: str) -> Iterable[str]:
    """Numbered parts: the name of each, with spaces for underscores, is its heading."""
    return (f"# {number}. {name.replace('_', ' ').capitalize()}\n{text}" for number, (name, text) in enumerate(steps.items(), 1))


def copy_ca(folder: str, note: str = "") -> str:
    """Commands that make a client trust a CA, where it looks for one file for each registry."""
    return f"# {CA_HINT}{f' {note}' if note else ''} As root, on each machine.\nmkdir -p {folder}\ncp ca.crt {folder}/ca.crt"


def render_index(place: Place, pages: Iterable[Page]) -> str:
    rows = "".join(f"{place.url}/setup/{page.client}\n" for page in pages)
    return f"# How clients are set up for {place.url}\n{rows}"


# The page at the root: where each format's clients find their settings.


@dataclass(frozen=True, slots=True)
class Served:
    """A format as that page shows it."""

    format: str
    title: str
    mounts: tuple[str, ...]
    pages: tuple[Page, ...]


def render_home_text(place: Place, served: Iterable[Served]) -> str:
    parts = [f"# noraflask, an artifact registry: {place.url}\n# How its clients are set up:"]
    for one in served:
        rows = [f"{place.url}/setup/{page.client}  # {page.title}" for page in one.pages]
        parts.append("\n".join([f"# {one.title}: {', '.join(place.url + mount + '/' for mount in one.mounts)}", *rows]))
    return "\n\n".join(parts) + "\n"


def render_home_json(place: Place, served: Iterable[Served]) -> str:
    formats = [
        {
            "format": one.format,
            "title": one.title,
            "addresses": [f"{place.url}{mount}/" for mount in one.mounts],
            "setup": [{"client": page.client, "title": page.title, "url": f"{place.url}/setup/{page.client}"} for page in one.pages],
        }
        for one in served
    ]
    return json.dumps({"url": place.url, "formats": formats})


def render_home_html(place: Place, served: Iterable[Served]) -> str:
    """Nothing in it but words and links: the policy that a browser is told for every answer holds for it as well."""
    url = escape(place.url)
    parts = [
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>noraflask</title></head>\n<body>\n<h1>noraflask</h1>\n<p>An artifact registry, at {url}. How its clients are set up:</p>"
    ]
    for one in served:
        addresses = ", ".join(f"<code>{url}{escape(mount)}/</code>" for mount in one.mounts)
        rows = (f'<li><a href="{url}/setup/{escape(page.client)}">{escape(page.title)}</a></li>' for page in one.pages)
        parts.append(f"<h2>{escape(one.title)}</h2>\n<p>{addresses}</p>\n<ul>\n" + "\n".join(rows) + "\n</ul>")
    return "\n".join(parts) + "\n</body>\n</html>\n"
