"""What storage has of files, for those who know no format; requests ask files.py.

A file's name is its path; its one version has no name.
"""

from __future__ import annotations

from collections.abc import Iterator

from noraflask.digest import Digest
from noraflask.formats.raw import files, protocol
from noraflask.services.content import Content
from noraflask.services.curation.explaining import Stored
from noraflask.services.curation.model import Package
from noraflask.services.stock import Judge, StoredVersion


class FileStock:
    def names(self, content: Content, repository: str, after: str = "", limit: int | None = None) -> Iterator[str]:
        """In the order of their keys: what is in folders comes before the files beside them."""
        folder = protocol.files_folder(repository)
        start = protocol.file_key(repository, after)[len(folder) + 1 :] if after else ""
        return map(protocol.path_of_key, content.names(folder, start, limit))

    def versions(self, content: Content, repository: str, name: str) -> Iterator[StoredVersion]:
        pointer = content.pointer(protocol.file_key(repository, name))
        if pointer:
            yield StoredVersion("", pointer.created, pointer.size, (pointer.digest,))

    def references(self, content: Content, repository: str) -> Iterator[Digest]:
        for _, pointer in content.pointers(protocol.files_folder(repository)):
            yield pointer.digest

    def look(self, content: Content, asked: Package, judge: Judge) -> Stored | None:
        pointer = content.pointer(protocol.file_key(asked.repository, asked.name))
        if pointer is None:
            return None
        package = files.package(asked.repository, asked.name, pointer)
        return Stored(asked.name, package, judge(package), ())


STOCK = FileStock()
