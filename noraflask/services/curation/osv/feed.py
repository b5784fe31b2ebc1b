"""The records of a feed: a folder, an archive or one file, within bounds."""

from __future__ import annotations

import os
import stat
import zipfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path

from noraflask.services.curation.osv.records import Reader, formats_named
from noraflask.services.curation.osv.values import MAX_NAME, Import, OsvProblem, clean

MAX_RECORD_BYTES = 8 << 20
MAX_TOTAL_BYTES = 32 << 30
MAX_RECORDS = 2_000_000


def import_osv(
    source: Path,
    *,
    only_malicious: bool = True,
    min_severity: float | None = None,
    ecosystems: Collection[str] | None = None,
    exceptions: Collection[str] = (),
) -> Import:
    """Read a folder of records, one record (.json) or an archive of them (.zip; nothing is extracted, its paths are not used).

    `min_severity` counts for records that are not malicious, so only with only_malicious=False. `ecosystems` are OSV's names or our formats.
    `exceptions` are ids or aliases of records ("GHSA-…"), or packages as "format:name".
    Raises OsvProblem when the source cannot be read, holds no record or none that is whole.
    """
    reading = Reader(only_malicious, min_severity, formats_named(ecosystems), frozenset(exceptions))
    try:
        for place, body in _bodies(source, reading):
            reading.take(place, body)
    except (OSError, zipfile.BadZipFile) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise OsvProblem(f"{source} cannot be read ({reason}): nothing was imported; get the feed again") from error
    return reading.result(clean(source.name, MAX_NAME) or "-")


def _bodies(source: Path, reading: Reader) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each record that fits the bounds; the others are noted as broken."""
    total = 0
    for count, (place, size, body) in enumerate(_zipped(source, reading) if zipfile.is_zipfile(source) else _files(source, reading), 1):
        total += len(body)
        if count > MAX_RECORDS or total > MAX_TOTAL_BYTES:
            raise OsvProblem(f"{source} is larger than {MAX_RECORDS} records or {MAX_TOTAL_BYTES >> 30} GB: import it ecosystem by ecosystem")
        if size > MAX_RECORD_BYTES or len(body) > MAX_RECORD_BYTES:
            reading.note_broken(place, f"larger than {MAX_RECORD_BYTES >> 20} MB")
        else:
            yield place, body


def _files(source: Path, reading: Reader) -> Iterator[tuple[str, int, bytes]]:
    if not source.is_dir():
        if source.suffix.lower() == ".zip":
            raise zipfile.BadZipFile("not a zip archive")
        with source.open("rb") as file:
            yield source.name, 0, file.read(MAX_RECORD_BYTES + 1)
        return
    for folder, folders, names in os.walk(source, onerror=_raise):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.endswith(".json") and not name.startswith("."):
                yield from _file(Path(folder, name), str(Path(folder, name).relative_to(source)), reading)


def _file(path: Path, place: str, reading: Reader) -> Iterator[tuple[str, int, bytes]]:
    """A link or a pipe in a feed is no record: it could lead anywhere, or never end."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(0, "not a regular file")
            body = file.read(MAX_RECORD_BYTES + 1)
    except OSError as error:
        reading.note_broken(place, error.strerror or "cannot be read")
        return
    yield place, 0, body


def _raise(error: OSError) -> None:
    raise error


def _zipped(source: Path, reading: Reader) -> Iterator[tuple[str, int, bytes]]:
    """What a member claims about its size is not believed: no more than the bound is inflated."""
    with zipfile.ZipFile(source) as archive:
        members = archive.infolist()
        if len(members) > MAX_RECORDS:
            raise OsvProblem(f"{source} has {len(members)} members, more than {MAX_RECORDS}: import it ecosystem by ecosystem")
        for member in members:
            if not member.filename.lower().endswith(".json"):
                continue
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                reading.note_broken(member.filename, "compressed in a way other than deflate")
                continue
            try:
                with archive.open(member) as file:
                    body = file.read(MAX_RECORD_BYTES + 1)
            except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, ValueError) as error:
                reading.note_broken(member.filename, str(error) or "cut short")
                continue
            yield member.filename, member.file_size, body
