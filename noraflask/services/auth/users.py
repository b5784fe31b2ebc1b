"""Users: names and passwords of an htpasswd file, groups of a groups file. Both are read again when they change.

    users.htpasswd    alice:$2y$10$…          one user a line; bcrypt only
    groups            dev: alice bob          one group a line; the same group may have several lines

A line that cannot be used is told with its number and costs that user alone; a file that vanishes leaves what was known.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from noraflask.config.other_users import planted
from noraflask.config.text_file import FileProblem, read_bytes, without_mark
from noraflask.services.atomic_file import replace_file
from noraflask.services.auth.overdue import Overdue

CHECK_SECONDS = 0.5
"""A change of a file takes effect within this time in every worker."""
YOUNG_SECONDS = 2.0
"""A file this young may change again without a new time stamp."""
VERDICTS_KEPT = 4096
PASSWORD_BYTES = 72
"""bcrypt looks at no more."""
MAX_FILE_BYTES = 16 * 1024 * 1024
"""Of either file: some 200,000 users."""
MOST_PROBLEMS = 50
"""Lines of a file that are told."""

_BCRYPT = re.compile(rb"\$2[aby]\$([0-9]{2})\$[./A-Za-z0-9]{53}\Z")
COSTS = range(4, 18)
"""Beyond it one login would take half a minute."""
_USUAL_COST = 12
_NAME = re.compile(r"[^:\x00-\x1f\x7f]{1,255}\Z")
_GROUP = re.compile(r"[^:\s\x00-\x1f\x7f]{1,255}\Z")
KINDS = {
    b"$apr1$": "Apache MD5",
    b"{SHA}": "SHA-1",
    b"$5$": "SHA-256 crypt",
    b"$6$": "SHA-512 crypt",
    b"$1$": "MD5 crypt",
    b"$argon2": "Argon2",
    b"$2x$": "of a broken bcrypt",
}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Directory:
    """Who there is, at one moment."""

    hashes: Mapping[str, bytes] = field(default_factory=dict)
    groups: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Of each user."""
    problems: tuple[str, ...] = ()
    """Lines that cannot be used, each with its place and reason."""
    generation: int = 0

    def groups_of(self, name: str) -> frozenset[str]:
        return self.groups.get(name, frozenset())


def parse_htpasswd(data: bytes, label: str) -> tuple[dict[str, bytes], list[str]]:
    """Hashes by name, and a line for each problem. A name that is there twice counts as its last line says, as in NORA."""
    hashes: dict[str, bytes] = {}
    problems = []
    for number, line in enumerate(without_mark(data).splitlines(), 1):
        line = line.strip()
        if not line or line.startswith(b"#"):
            continue
        name, problem = _parse_user(line)
        if problem:
            problems.append(f"{label}:{number}: {problem}")
            hashes.pop(name, None)  # a broken later line must not leave the password of an earlier one in force
        else:
            if name in hashes:
                problems.append(f"{label}:{number}: {name} is there twice; this line counts")
            hashes[name] = line.partition(b":")[2]
    return hashes, _first(problems)


def _first(problems: list[str]) -> list[str]:
    more = len(problems) - MOST_PROBLEMS
    return [*problems[:MOST_PROBLEMS], f"and {more} more lines that cannot be used"] if more > 0 else problems


def _parse_user(line: bytes) -> tuple[str, str]:
    """Name and, if the line cannot be used, why."""
    raw, colon, hashed = line.partition(b":")
    name = raw.decode(errors="replace")
    if not colon:
        return "", "expected name:hash"
    if not _NAME.match(name) or "\ufffd" in name:
        return name, "the user name is not valid: 1 to 255 characters of UTF-8 without colon and control characters"
    if name == "anonymous":
        return name, "anonymous is the name of those without a login; no user can have it"
    parts = _BCRYPT.match(hashed)
    if not parts:
        kind = next((kind for start, kind in KINDS.items() if hashed.startswith(start)), "none of $2a$, $2b$ and $2y$")
        return name, f"the password hash of {name} is {kind}, and only bcrypt is accepted; set it anew with: nora user passwd {name}"
    if int(parts[1]) not in COSTS:
        return name, f"the bcrypt cost of {name} is {int(parts[1])}, accepted are {COSTS.start} to {COSTS.stop - 1}; set it anew"
    return name, ""


def parse_groups(data: bytes, label: str) -> tuple[dict[str, frozenset[str]], list[str]]:
    """The groups of each user, and a line for each problem."""
    members: dict[str, set[str]] = {}
    problems = []
    for number, raw in enumerate(without_mark(data).splitlines(), 1):
        line = raw.decode(errors="replace").strip()
        if not line or line.startswith("#"):
            continue
        group, colon, users = line.partition(":")
        if not colon or not _GROUP.match(group.strip()):
            problems.append(f"{label}:{number}: expected group: user user")
            continue
        for user in users.replace(",", " ").split():
            members.setdefault(user, set()).add(group.strip())
    return {user: frozenset(groups) for user, groups in members.items()}, _first(problems)


class Users:
    def __init__(
        self, htpasswd: Path, groups: Path | None = None, remember_seconds: float = 300, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`remember_seconds`: how long a password that was right needs no bcrypt."""
        self._files = [_File(htpasswd), *([_File(groups)] if groups else [])]
        self._remember_seconds = remember_seconds
        self._clock = clock
        self._secret = secrets.token_bytes(32)
        self._directory = Directory()
        self._next_check = -1.0
        self._lock = threading.Lock()
        self._overdue = Overdue()
        self._right: dict[bytes, tuple[bytes, float]] = {}
        self._wrong: dict[bytes, bytes | None] = {}
        self._bcrypt = threading.BoundedSemaphore(max(1, (os.cpu_count() or 2) // 2))

    def start(self) -> None:
        """In the master: read the files, and load what a login needs, so that the workers share its memory."""
        _check(b"-", None, COSTS.start)
        self.current()

    def still_current(self, directory: Directory) -> bool:
        """Would current() give it? Without a look at the files: False where that is due (overdue.py)."""
        if directory is not self._directory:
            return False
        now, due = self._clock(), self._next_check
        return now < due or self._overdue.may_go_on("users", due, now)

    def current(self) -> Directory:
        if self._clock() >= self._next_check:
            self._look()
        return self._directory

    def _look(self) -> None:
        overdue = self._clock() - self._next_check > CHECK_SECONDS  # a worker that had nothing to do: what it knows may be of any age
        if not self._lock.acquire(blocking=overdue):
            return  # another thread is looking
        try:
            if self._clock() < self._next_check:
                return
            changed = [file.changed() for file in self._files]
            if any(changed):
                self._directory = self._parse(self._directory.generation + 1)
            self._next_check = self._clock() + CHECK_SECONDS
        finally:
            self._lock.release()

    def _parse(self, generation: int) -> Directory:
        hashes, problems = parse_htpasswd(self._files[0].data, self._files[0].path.name)
        groups: dict[str, frozenset[str]] = {}
        if len(self._files) > 1:
            groups, more = parse_groups(self._files[1].data, self._files[1].path.name)
            problems += more
        for problem in problems:
            log.error("%s", problem)
        return Directory(hashes, groups, tuple(problems), generation)

    def verify(self, name: str, password: bytes, before: Callable[[], None] = lambda: None) -> bytes | None:
        """The user's hash, if that is the password; else None. An unknown user costs as much time as a wrong password.

        What was found out is remembered until it changes. `before` is called when it is this password's turn to be looked at, and may raise.
        """
        mark = blake2b(name.encode(errors="surrogatepass") + b"\0" + password, key=self._secret, digest_size=16).digest()
        known, hashed = self._remembered(mark, name)
        if known:
            return hashed
        with self._bcrypt:
            known, hashed = self._remembered(mark, name)  # while this thread waited, another one may have found out
            if known:
                return hashed
            before()
            hashed = self.current().hashes.get(name)
            right = _check(password, hashed, self._cost_for(name))
            self._remember(mark, hashed, right)  # before the next thread gets in, which may wait with the same password
        return hashed if right else None

    def _remembered(self, mark: bytes, name: str) -> tuple[bool, bytes | None]:
        """Whether there is a verdict, and the hash if the password is right."""
        hashed = self.current().hashes.get(name)
        right = self._right.get(mark)
        if right is not None and right[0] == hashed and right[1] > self._clock():
            return True, hashed
        return mark in self._wrong and self._wrong[mark] == hashed, None

    def _remember(self, mark: bytes, hashed: bytes | None, right: bool) -> None:
        for verdicts in (self._right, self._wrong):
            if len(verdicts) >= VERDICTS_KEPT:
                verdicts.clear()
        if right and hashed is not None:
            self._right[mark] = (hashed, self._clock() + self._remember_seconds)
        else:
            self._wrong[mark] = hashed

    def _cost_for(self, name: str) -> int:
        """For a name that is unknown: the cost of some user, always the same one for a name, so that time does not tell known from unknown."""
        hashes = list(self._directory.hashes.values())
        if not hashes:
            return _USUAL_COST
        pick = int.from_bytes(blake2b(name.encode(errors="surrogatepass"), key=self._secret, digest_size=8).digest(), "big") % len(hashes)
        return int(hashes[pick][4:6])


def _check(password: bytes, hashed: bytes | None, cost: int) -> bool:
    import bcrypt  # here, because a server without logins does without it

    usable = b"\0" not in password
    against = hashed if hashed is not None else b"$2b$%02d$" % cost + b"." * 53
    right = bcrypt.checkpw(password[:PASSWORD_BYTES] if usable else b"-", against)
    return right and usable and hashed is not None


class _File:
    """A small file, and whether it has changed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = b""
        self._seen: tuple[int, ...] | None = None
        self._missing = False

    def changed(self) -> bool:
        """Look; True when `data` is new. What cannot be read leaves what was read before."""
        try:
            info = os.stat(self.path)
            signature = (info.st_mtime_ns, info.st_size, info.st_ino, info.st_dev, info.st_ctime_ns)
            if signature == self._seen and time.time() - max(info.st_mtime, info.st_ctime) > YOUNG_SECONDS:
                return False
            data = read_bytes(self.path, MAX_FILE_BYTES)
        except (OSError, FileProblem) as problem:
            if not self._missing:
                self._missing = True
                then = "what was known stays" if self._seen else "it counts as empty"
                why = f": cannot be read: {problem.strerror}" if isinstance(problem, OSError) else str(problem)
                log.warning("%s%s; %s", self.path.name, why.replace(": cannot", " cannot", 1), then)
            return False
        if self._missing:
            self._missing = False
            log.info("%s can be read again", self.path.name)
        first, self._seen = self._seen is None, signature
        if data == self.data and not first:
            return False
        self.data = data
        return True


# Editing, for `nora user`.


class UserFileProblem(Exception):
    """The change cannot be made; the text says why and what to do."""


def hash_password(password: str, cost: int = 12) -> bytes:
    """Raises UserFileProblem for a password that bcrypt cannot tell from others."""
    import bcrypt

    data = password.encode()
    if not data:
        raise UserFileProblem("the password is empty")
    if len(data) > PASSWORD_BYTES or b"\0" in data:
        raise UserFileProblem(f"the password must be at most {PASSWORD_BYTES} bytes long and hold no zero byte: bcrypt ignores the rest")
    return bcrypt.hashpw(data, bcrypt.gensalt(cost))


def check_name(name: str) -> None:
    """Raises UserFileProblem."""
    if not _NAME.match(name) or name != name.strip() or name.startswith("#"):
        raise UserFileProblem("a user name has 1 to 255 characters, no colon, no control character, no space at its ends and no # in front")


def set_user(path: Path, name: str, hashed: bytes, *, must_exist: bool | None = None) -> None:
    """Add a user, or give one another password. Raises UserFileProblem when it must (not) be there already and is not (is)."""
    check_name(name)
    line = name.encode() + b":" + hashed

    def change(lines: list[bytes]) -> list[bytes]:
        places = [number for number, text in enumerate(lines) if _name_of(text) == name]
        if must_exist is not None and bool(places) != must_exist:
            raise UserFileProblem(f"{name} is not in {path}" if must_exist else f"{name} is in {path} already; see: nora user passwd")
        if not places:
            return [*lines, line]
        return [line if number == places[-1] else text for number, text in enumerate(lines) if number not in places[:-1]]

    _edit(path, change)


def remove_user(path: Path, name: str) -> None:
    """Raises UserFileProblem when there is no such user."""

    def change(lines: list[bytes]) -> list[bytes]:
        rest = [text for text in lines if _name_of(text) != name]
        if len(rest) == len(lines):
            raise UserFileProblem(f"{name} is not in {path}")
        return rest

    _edit(path, change)


def _name_of(line: bytes) -> str | None:
    text = line.strip()
    return None if not text or text.startswith(b"#") else text.partition(b":")[0].decode(errors="replace")


def _edit(path: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    """Change the file's lines, all or nothing, also beside another `nora user`."""
    stranger = planted(path)
    if stranger:
        raise UserFileProblem(f"{path} is not changed: {stranger}")
    path = Path(os.path.realpath(path))
    with _locked(path):
        old = path.read_bytes() if path.exists() else b""
        replace_file(path, (line + b"\n" for line in change(without_mark(old).splitlines())), new_mode=0o600)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """On the folder, since the file itself is replaced and may not be there yet."""
    try:
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as problem:
        raise UserFileProblem(f"the folder {path.parent} cannot be used: {problem.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
