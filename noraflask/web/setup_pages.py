"""The pages of /setup/<client>: what a format gives for each of its clients, and the pieces that all of them share.

A page is for a shell: what is no command is a comment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
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
