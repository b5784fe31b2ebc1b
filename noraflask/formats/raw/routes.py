"""Files by name over HTTP: read and delete. The pure part is in `protocol.py` and `conditions.py`; uploads.py takes files in."""

from __future__ import annotations

from flask import Response, request

from noraflask.formats.raw import folders, protocol, sidecars, uploads
from noraflask.formats.raw.blueprint import bp
from noraflask.formats.raw.conditions import check_state, parse_conditions
from noraflask.formats.raw.files import FileUnknown, as_file, facts, find, is_folder, permit
from noraflask.pointer import Pointer
from noraflask.web import gate
from noraflask.web.access import DELETE, PULL, PUSH, access, may
from noraflask.web.context import note, repository, services
from noraflask.web.responses import Answer, send

__all__ = ["bp", "folders", "uploads"]


@bp.get("/<file:name>")
@access(PULL)
def get_file(name: str) -> Response:
    """A file; else the checksum of the file whose sidecar the name is."""
    pointer = find(name)
    if pointer is None:
        sidecar = sidecars.find(name)
        if sidecar is None:
            raise missing(name)
        return sidecars.send(name, sidecar)
    granted = permit(name, pointer)
    gate.served(granted, pointer.digest)
    headers = {
        **facts(pointer.digest),
        "Cache-Control": repository().settings.cache_control,
        "Content-Disposition": protocol.disposition(name),
    }
    return send(granted, pointer.digest, pointer.size, pointer.media_type, FileUnknown, headers, pointer.created)


def missing(name: str) -> FileUnknown:
    """Who may push is told how far an upload came that broke off."""
    if is_folder(services().content, repository().name, name):
        return FileUnknown(f"this is a folder: ask for {name.rpartition('/')[2]}/ with a slash at its end")
    unfinished = uploads.unfinished(name) if request.method == "HEAD" and may(PUSH, name) else None
    return FileUnknown(headers=protocol.offset_headers(unfinished.offset) if unfinished else None)


@bp.delete("/<file:name>")
@access(DELETE)
def delete_file(name: str) -> Response:
    conditions = parse_conditions(request.environ)
    deleted: list[Pointer] = []

    def remove(pointer: Pointer | None) -> None:
        check_state(conditions, as_file(pointer))
        if pointer is None:
            raise FileUnknown(f"there is no such file here{_of_folder(name)}")
        deleted[:] = [pointer]

    services().content.change(protocol.file_key(repository().name, name), remove)
    note("delete", name, f"file {deleted[0].digest}")
    return Answer(status=204)


def _of_folder(name: str) -> str:
    return "; this is a folder, which goes when the last file in it is deleted" if is_folder(services().content, repository().name, name) else ""
