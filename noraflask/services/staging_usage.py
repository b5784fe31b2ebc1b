"""The files of uploads: how they are named, whose they are, and how much they take together."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from noraflask.services.staging_counts import NOBODY, OWNERS, Counts, Found

USAGE_FRESH_SECONDS = 1.0
SUFFIX = ".upload"
_OWNER_DIGITS = 4


def file_name(scope: str, session: str) -> str:
    """The scope is in the name, so that a session is known only under the name it was started for."""
    return f"{session}.{hashlib.sha256(scope.encode()).hexdigest()[:16]}{SUFFIX}"


def owner_number(owner: str) -> int:
    """What sessions of an owner are counted under; nobody's, for an empty name."""
    if not owner:
        return NOBODY
    hashed = hashlib.sha256(owner.encode("utf-8", "surrogatepass")).digest()
    return 1 + int.from_bytes(hashed[:8], "big") % (OWNERS - 1)


def owner_mark(owner: int) -> str:
    """What the sessions of an owner end with, so that every process knows whose a file is, also after a restart."""
    return f"{owner:0{_OWNER_DIGITS}x}"


def owner_of(session: str) -> int:
    """By the session, or its file's name. Whatever else lies there is nobody's."""
    try:
        return int(session[32 - _OWNER_DIGITS : 32], 16) % OWNERS
    except ValueError:
        return NOBODY


def uploads_in(folder: str) -> list[os.DirEntry[str]]:
    """Empty when the folder cannot be read."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return [entry for entry in entries if entry.name.endswith(SUFFIX)]
    return []


def _found_in(folder: str) -> Iterator[Found]:
    """All uploads there, by the folder's descriptor, which is quickest. None when it cannot be read."""
    with contextlib.suppress(OSError), contextlib.ExitStack() as opened:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        opened.callback(os.close, descriptor)
        for entry in opened.enter_context(os.scandir(descriptor)):
            if entry.name.endswith(SUFFIX):
                try:
                    size = entry.stat(follow_symlinks=False).st_size
                except OSError:  # it has just ended
                    continue
                yield owner_of(entry.name), size


def modified(entry: os.DirEntry[str]) -> float:
    try:
        return entry.stat(follow_symlinks=False).st_mtime
    except OSError:
        return float("inf")


@dataclass(frozen=True, slots=True)
class Unfinished:
    session: str
    offset: int
    """Bytes that came in so far."""
    modified: float
    """Seconds since the epoch, when somebody wrote to it last."""


def unfinished_in(folders: Iterable[str], scope: str, start: str, end: str = "") -> Iterator[Unfinished]:
    """Uploads of a scope whose sessions begin and end so."""
    for folder in folders:
        for entry in uploads_in(folder):
            session = entry.name.partition(".")[0]
            if session.startswith(start) and session.endswith(end) and entry.name == file_name(scope, session):
                with contextlib.suppress(OSError):  # it has just ended
                    found = entry.stat(follow_symlinks=False)
                    yield Unfinished(session, found.st_size, found.st_mtime)


@dataclass(frozen=True, slots=True)
class Idle:
    """An upload that nobody may be writing to."""

    path: str
    owner: int
    bytes: int
    modified: float


def idle_in(folders: Iterable[str], owner: int | None) -> Iterator[Idle]:
    """Of an owner, or of all."""
    for folder in folders:
        for entry in uploads_in(folder):
            whose = owner_of(entry.name)
            if owner is None or whose == owner:
                with contextlib.suppress(OSError):
                    found = entry.stat(follow_symlinks=False)
                    yield Idle(entry.path, whose, found.st_size, found.st_mtime)


def remove_idle(path: str, modified: float) -> bool:
    """Remove an upload, unless somebody is at work on it, or has been since that time."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found = os.fstat(descriptor)
        if found.st_mtime > modified or not found.st_nlink or not stat.S_ISREG(found.st_mode):
            return False
        os.unlink(path)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


class Usage:
    """How much the uploads of all workers take: a look at the files now and then, plus what the workers counted since.

    Bytes may be behind by what other servers of the same storage wrote meanwhile, and those on the data volume by what anybody did; a full tmpfs is
    met by spilling too, so that is a courtesy to /tmp, not the guard.
    """

    def __init__(self, tmpfs: Callable[[], str | None], incoming: str) -> None:
        self._tmpfs = tmpfs
        self._incoming = incoming
        self.counts = Counts()

    def bytes(self) -> int:
        """Taken on the tmpfs."""
        self._look()
        return self.counts.tmpfs_bytes()

    def sessions(self) -> int:
        """Open uploads, wherever they are."""
        self._look()
        return self.counts.sessions()

    def most_sessions_of_one(self) -> int:
        self._look()
        return self.counts.most_sessions_of_one()

    def volume_bytes_of(self, owner: int) -> int:
        """On the data volume. What lies on the tmpfs is bounded for all together, and beyond that it moves."""
        self._look()
        return self.counts.volume_bytes(owner)

    def room_bytes(self) -> int:
        """Of the data volume: what is free and what uploads take."""
        return self.counts.free_bytes() + self.counts.volume_bytes()

    def begin(self, owner: int, most_of_owner: int, most: int) -> str | None:
        """As Counts.begin()."""
        self._look()
        return self.counts.begin(owner, most_of_owner, most)

    def _look(self) -> None:
        number = self.counts.begin_look(USAGE_FRESH_SECONDS)
        if number is None:
            return
        tmpfs, free = self._tmpfs(), 0
        with contextlib.suppress(OSError):
            volume = os.statvfs(self._incoming)
            free = volume.f_bavail * volume.f_frsize
        self.counts.finish_look(number, _found_in(tmpfs) if tmpfs else (), _found_in(self._incoming), free)


class Share:
    """The usage as one upload sees it."""

    def __init__(self, usage: Usage, session: str, admit: Callable[[int, int], None]) -> None:
        self._usage, self._admit = usage, admit
        self._owner = owner_of(session)
        self.bytes = usage.bytes
        self.grown = usage.counts.grown

    def admit(self, offset: int) -> None:
        """To be asked before a body is taken in for an upload that is so long. Raises TooManyUploads when its owner's others hold all they may."""
        self._admit(self._owner, offset)

    def ended(self, tmpfs_bytes: int) -> None:
        """The upload is gone; so much of it was on the tmpfs."""
        self._usage.counts.ended(self._owner, tmpfs_bytes)
