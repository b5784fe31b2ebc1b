"""What storage has of a repository's files, and what the gate is asked about them. Shared by the views."""

from __future__ import annotations

from noraflask.digest import Digest
from noraflask.errors import NotFound
from noraflask.formats.raw import protocol
from noraflask.formats.raw.conditions import File
from noraflask.pointer import Pointer
from noraflask.services.content import Content
from noraflask.services.curation.gate import Permit
from noraflask.services.curation.model import Package
from noraflask.web import gate
from noraflask.web.context import repository, services


class FileUnknown(NotFound):
    default_message = "there is no such file here; a folder's address ends with a slash and lists what is there"


def find(path: str) -> Pointer | None:
    return services().content.pointer(protocol.file_key(repository().name, path))


def as_file(pointer: Pointer | None) -> File | None:
    """As conditions see it."""
    return File(pointer.digest, pointer.size, pointer.created) if pointer else None


def is_folder(content: Content, repository_name: str, path: str) -> bool:
    return any(content.list(protocol.folder_key(repository_name, path), limit=1))


def package(repository_name: str, path: str, pointer: Pointer | None = None) -> Package:
    """In the form that rules know. A file has no version."""
    if pointer is None:
        return Package("raw", path, repository=repository_name)
    return Package("raw", path, repository=repository_name, digests=(str(pointer.digest),), published=pointer.created)


def permit(path: str, pointer: Pointer) -> Permit:
    """Raises CurationDenied."""
    return gate.once((path, pointer.digest, pointer.created), None, lambda: package(repository().name, path, pointer))


def facts(digest: Digest) -> dict[str, str]:
    """What every answer about a file says of its bytes."""
    return {"ETag": f'"{digest.hex}"', "Repr-Digest": protocol.render_digest_field(digest)}
