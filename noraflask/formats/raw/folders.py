"""Listings of folders: what of a folder the caller may see, page by page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from flask import Response, request

from noraflask.ecosystems import raw as ecosystem
from noraflask.errors import NotFound
from noraflask.formats.raw import files, listing, protocol
from noraflask.formats.raw.blueprint import bp
from noraflask.formats.raw.listing import Entry, Page
from noraflask.keys import Key
from noraflask.pointer import Pointer
from noraflask.services.curation.model import Decision
from noraflask.web import gate
from noraflask.web.access import PULL, access, may_below, may_by_right
from noraflask.web.addresses import outside
from noraflask.web.context import repository, services, target
from noraflask.web.envelope import SAFE, safe_with
from noraflask.web.responses import Answer

SHOWN = safe_with("default-src 'none'; frame-ancestors 'none'; sandbox allow-downloads")
"""In place of the usual policy: a browser that shows a listing must be able to save what it lists."""


ALLOWED = Decision(True)


class FolderUnknown(NotFound):
    default_message = "there is no such folder here, or nothing in it that you may see"


@bp.get("/")
@access(PULL)
def list_top() -> Response:
    return list_folder_at("")


@bp.get("/<folder:folder>/")
@access(PULL)
def list_folder(folder: str) -> Response:
    return list_folder_at(ecosystem.ECOSYSTEM.parse_name(folder))


def list_folder_at(path: str) -> Response:
    """`path`: empty for the top."""
    if not repository().settings.listing:
        raise FolderUnknown("this repository does not list its folders; ask for a file by its path")
    size, last = listing.parse_page_size(request.args.get("n")), request.args.get("last", "")
    scan = Scan()
    entries = list(islice(visible(path, last, scan), size + 1))
    if not entries and path and not last and not (may_below(PULL, path) and files.is_folder(services().content, repository().name, path)):
        raise FolderUnknown()
    goes_on = len(entries) > size
    page = Page(f"{path}/" if path else "", entries[:size], size, not (goes_on or scan.was_cut), "" if goes_on else scan.last)
    return render(page)


@dataclass
class Scan:
    """How far a folder was looked through for a page."""

    last: str = ""
    was_cut: bool = False


def render(page: Page) -> Response:
    headers = {"Cache-Control": "no-cache", "Vary": "Accept"}
    if not page.is_last:
        headers["Link"] = f'<{outside(f"{target().base}/{protocol.address_of(page.path)}")}?{page.next_query}>; rel="next"'
    if listing.wants_html(request.headers.get("Accept")):
        request.environ[SAFE] = SHOWN
        return Answer(listing.render_html(page, repository().name), content_type=listing.HTML, headers=headers)
    return Answer(listing.render_json(page), content_type=listing.JSON, headers=headers)


def visible(path: str, last: str, scan: Scan) -> Iterator[Entry]:
    """Folders, then files, behind the entry `last`. Raises CurationDenied."""
    repository_name = repository().name
    may_be_had = gate.shown(
        (files.package(repository_name, path), ALLOWED),
        stored(path, last, scan),
        lambda found: files.package(repository_name, below(path, found[0]), found[1]) if found[1] else ALLOWED,
    )
    for name, pointer in may_be_had:
        yield Entry(name, pointer.size, pointer.created, pointer.digest.hex, pointer.media_type) if pointer else Entry(name)


def stored(path: str, last: str, scan: Scan) -> Iterator[tuple[str, Pointer | None]]:
    """Of what is in a folder that which the caller has a right to: names of folders, with a slash, and files with their pointers."""
    content = services().content
    folder = protocol.folder_key(repository().name, path)
    for number, entry in enumerate(content.list(folder, protocol.mark_entry(last) if last else "", delimiter="/")):
        if number == listing.SCANNED:
            scan.was_cut = True
            return
        name = scan.last = entry.key[len(folder) + 2 :]
        if name.endswith("/"):
            if may_below(PULL, below(path, name[:-1])):
                yield name, None
        elif may_by_right(PULL, below(path, name)):
            pointer = content.pointer(Key.trusted(entry.key))
            if pointer:
                yield name, pointer


def below(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name
