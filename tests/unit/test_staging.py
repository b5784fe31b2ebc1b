"""Staging: an upload is its file. Real folders for the tmpfs and the data volume; a second Staging on them is another worker."""

from __future__ import annotations

import errno
import gc
import io
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from noraflask.config import StagingConfig
from noraflask.digest import Digest
from noraflask.errors import (
    ClientGone,
    DigestMismatch,
    SizeMismatch,
    StorageFull,
    StorageReadOnly,
    TooLarge,
    TooManyUploads,
    Unavailable,
    UploadBusy,
    UploadUnknown,
)
from noraflask.services import hashing
from noraflask.services import staging as staging_module
from noraflask.services import staging_usage as usage_module
from noraflask.services import upload as upload_module
from noraflask.services.content import Content, content_key
from noraflask.services.staging import Staging
from noraflask.services.upload import read_document
from noraflask.storage.memory import MemoryStorage
from noraflask.suspension import drive
from tests.storage import keys_in

SCOPE, LIMIT = "docker/app", 1 << 30


@pytest.fixture(autouse=True)
def _fresh_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the folder each time, and do not wait for a busy upload."""
    monkeypatch.setattr(usage_module, "USAGE_FRESH_SECONDS", -1)
    monkeypatch.setattr(staging_module, "LOCK_WAIT_SECONDS", -1)


class Worker:
    """One worker's Staging, and what a request does with it."""

    def __init__(
        self, folder: Path, clock: Callable[[], float] = time.time, max_sessions: int = 100, path: Path | None = None, **config: int
    ) -> None:
        self.tmpfs_parent, self.incoming = path or folder / "tmpfs", folder / "storage" / ".incoming"
        self.incoming.mkdir(parents=True, exist_ok=True)
        settings = StagingConfig(self.tmpfs_parent, **{"share_bytes": 1000, "budget_bytes": 3000, **config})
        self.staging = Staging(settings, str(self.incoming), max_sessions, clock)

    def begin(self, data: bytes = b"") -> str:
        session = self.staging.begin(SCOPE)
        if data:
            self.append(session, data)
        return session

    def append(self, session: str, data: bytes, announced: int | None = None, limit: int = LIMIT) -> int:
        with self.staging.resume(SCOPE, session) as upload:
            return drive(upload.receive(limit, announced), io.BytesIO(data))

    def digest(self, session: str, algorithm: str = "sha256") -> Digest:
        with self.staging.resume(SCOPE, session) as upload:
            return upload.digest(algorithm)

    def offset(self, session: str) -> int:
        return self.staging.offset(SCOPE, session)

    def data(self, session: str) -> bytes:
        with self.staging.resume(SCOPE, session) as upload:
            return Path(upload.file.name).read_bytes()

    def on_tmpfs(self) -> list[str]:
        return [path.name.partition(".")[0] for path in self.tmpfs_parent.rglob("*.upload")]

    def on_volume(self) -> list[str]:
        return [path.name.partition(".")[0] for path in self.incoming.iterdir()]


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    return Worker(tmp_path)


@pytest.fixture
def other(tmp_path: Path) -> Worker:
    return Worker(tmp_path)


# One upload.


def test_an_upload_from_begin_to_end(worker):
    session = worker.begin()
    assert worker.offset(session) == 0
    assert (worker.append(session, b"hello "), worker.append(session, b"world", announced=5)) == (6, 5)
    assert (worker.offset(session), worker.data(session)) == (11, b"hello world")
    assert worker.digest(session) == Digest.of(b"hello world")
    assert worker.digest(session, "sha512") == Digest.of(b"hello world", "sha512")
    worker.staging.cancel(SCOPE, session)
    assert worker.on_tmpfs() == worker.on_volume() == []
    with pytest.raises(UploadUnknown):
        worker.offset(session)


def test_an_upload_without_a_byte(worker):
    session = worker.begin()
    assert worker.append(session, b"", announced=0) == 0
    assert worker.digest(session) == Digest.of(b"")


def test_any_worker_can_go_on(worker, other):
    session = worker.begin(b"a" * 10)
    other.append(session, b"b" * 10)
    assert worker.offset(session) == other.offset(session) == 20
    worker.append(session, b"c" * 2000)  # spills
    assert (other.offset(session), other.data(session)) == (2020, b"a" * 10 + b"b" * 10 + b"c" * 2000)
    assert other.digest(session) == worker.digest(session)


def test_a_restart_loses_no_upload(worker, tmp_path):
    small, large = worker.begin(b"x" * 10), worker.begin(b"y" * 2000)
    again = Worker(tmp_path)
    assert (again.data(small), again.data(large)) == (b"x" * 10, b"y" * 2000)


ENDS = [lambda w, s: w.staging.cancel(SCOPE, s), lambda w, s: w.staging.offset(SCOPE, s), lambda w, s: w.append(s, b"x"), lambda w, s: w.digest(s)]


@pytest.mark.parametrize("act", ENDS)
def test_a_session_is_known_in_its_own_scope_alone(worker, act):
    session = worker.staging.begin("docker/other")
    with pytest.raises(UploadUnknown):
        act(worker, session)
    assert worker.staging.offset("docker/other", session) == 0


@pytest.mark.parametrize(
    "session",
    [
        "",
        "x",
        "0" * 31,
        "0" * 32,
        "0" * 33,
        "../" + "0" * 29,
        "0" * 31 + "/",
        "0" * 31 + "\0",
        "0" * 31 + "\n",
        "é" * 32,
        "٣" * 32,
        "\ud800" * 32,
        "." * 32,
        "*" * 32,
        "0" * 100_000,
    ],
)
def test_a_session_that_never_was(worker, session):
    worker.begin(b"data")
    for act in ENDS:
        with pytest.raises(UploadUnknown):
            act(worker, session)


# Where an upload lies.


@pytest.mark.parametrize(
    ("pieces", "announced", "is_on_tmpfs"),
    [
        ([b""], None, True),
        ([b"x" * 1000], None, True),
        ([b"x" * 1000], 1000, True),
        ([b"x" * 1001], None, False),
        ([b"x" * 1001], 1001, False),
        ([b"x" * 500] * 2, None, True),
        ([b"x" * 500] * 3, None, False),
        ([b"x" * 400, b"y" * 601], 601, False),
    ],
)
def test_beyond_its_share_an_upload_spills(worker, pieces, announced, is_on_tmpfs):
    session = worker.begin()
    for piece in pieces:
        worker.append(session, piece, announced if piece == pieces[-1] else None)
    assert (worker.on_tmpfs(), worker.on_volume()) == (([session], []) if is_on_tmpfs else ([], [session]))
    assert worker.data(session) == b"".join(pieces)
    assert worker.digest(session) == Digest.of(b"".join(pieces))


def test_a_large_body_that_is_announced_goes_to_the_volume_at_once(worker):
    session = worker.begin()
    seen = []

    class Watched(io.BytesIO):
        def read(self, size):
            seen.append((worker.on_tmpfs(), worker.on_volume()))
            return super().read(size)

    with worker.staging.resume(SCOPE, session) as upload:
        drive(upload.receive(LIMIT, 5000), Watched(b"x" * 5000))
    assert seen[0] == ([], [session])


def test_beyond_the_budget_of_all_uploads_they_spill(worker, other):
    sessions = [[worker, other][number % 2].begin(bytes([number]) * 900) for number in range(6)]
    assert len(worker.on_tmpfs()) == 3
    assert sorted(worker.on_tmpfs() + worker.on_volume()) == sorted(sessions)
    assert [worker.data(session) for session in sessions] == [bytes([number]) * 900 for number in range(6)]


def test_between_two_looks_a_worker_counts_what_it_writes(worker, monkeypatch):
    monkeypatch.setattr(usage_module, "USAGE_FRESH_SECONDS", 3600)
    for _ in range(6):
        worker.begin(b"x" * 900)
    assert len(worker.on_tmpfs()) == 3


def full_folder(monkeypatch: pytest.MonkeyPatch, folder: Path, free_bytes: int, code: int = errno.ENOSPC) -> None:
    """Writes below a folder fail once so many bytes went there, the last one after a part of it."""
    left, write = [free_bytes], upload_module._write

    def limited(file, piece):
        if Path(os.path.realpath(file.name)).is_relative_to(folder):
            taken = min(left[0], len(piece))
            left[0] -= taken
            write(file, piece[:taken])
            if taken < len(piece):
                raise OSError(code, os.strerror(code))
        else:
            write(file, piece)

    monkeypatch.setattr(upload_module, "_write", limited)


@pytest.mark.parametrize("free_bytes", [0, 1, 99, 100, 150, 299])
def test_a_full_tmpfs_is_met_by_spilling(worker, monkeypatch, free_bytes):
    full_folder(monkeypatch, worker.tmpfs_parent, free_bytes)
    session = worker.begin(b"a" * 100)
    worker.append(session, b"b" * 100)
    worker.append(session, b"c" * 100)
    assert worker.on_volume() == [session]
    assert worker.data(session) == b"a" * 100 + b"b" * 100 + b"c" * 100
    assert worker.digest(session) == Digest.of(b"a" * 100 + b"b" * 100 + b"c" * 100)


@pytest.mark.parametrize(("code", "kind"), [(errno.ENOSPC, StorageFull), (errno.EROFS, StorageReadOnly), (errno.EIO, Unavailable)])
@pytest.mark.parametrize("free_bytes", [0, 50, 1000, 1500])
def test_a_full_volume_ends_the_request_and_not_the_upload(worker, monkeypatch, code, kind, free_bytes):
    session = worker.begin(b"a" * 100)
    with monkeypatch.context() as full:
        full_folder(full, worker.incoming, free_bytes, code)
        with pytest.raises(kind):
            worker.append(session, b"b" * 2000)
    assert worker.data(session) == b"a" * 100, "no answer has acknowledged more"
    assert len(worker.on_tmpfs() + worker.on_volume()) == 1
    worker.append(session, b"c" * 2000)
    assert worker.digest(session) == Digest.of(b"a" * 100 + b"c" * 2000)


# The staging folder.


def test_nothing_uploaded_is_readable_by_others(worker):
    worker.begin(b"secret")
    (folder,) = worker.tmpfs_parent.iterdir()
    assert folder.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("trouble", ["a file", "under a file", "somebody else's", "a link", "gone"])
def test_a_staging_folder_that_cannot_be_used(tmp_path, monkeypatch, trouble):
    path = tmp_path / "tmpfs"
    if trouble == "a file":
        path.write_bytes(b"")
    elif trouble == "under a file":
        (tmp_path / "file").write_bytes(b"")
        path = tmp_path / "file" / "tmpfs"
    elif trouble == "somebody else's":
        another = os.geteuid() + 1
        monkeypatch.setattr(os, "geteuid", lambda: another)
    elif trouble == "a link":
        Worker(tmp_path)
        (folder,) = path.iterdir()
        folder.rmdir()
        (tmp_path / "elsewhere").mkdir()
        folder.symlink_to(tmp_path / "elsewhere")
    worker = Worker(tmp_path, path=path)
    if trouble == "gone":
        break_os(monkeypatch, "makedirs", errno.EACCES)
        (folder,) = path.iterdir()
        folder.rmdir()
    session = worker.begin(b"hello")
    assert worker.on_volume() == [session]
    assert not (tmp_path / "elsewhere").exists() or not list((tmp_path / "elsewhere").iterdir())
    assert worker.digest(session) == Digest.of(b"hello")
    worker.staging.probe()


def test_a_missing_staging_folder_is_made_also_later(worker, tmp_path):
    """Cleaners of /tmp remove what lies idle."""
    (folder,) = worker.tmpfs_parent.iterdir()
    folder.rmdir()
    worker.tmpfs_parent.rmdir()
    session = worker.begin(b"hello")
    assert worker.on_tmpfs() == [session]
    again = Worker(tmp_path, path=tmp_path / "deep" / "below")
    again.begin()
    assert len(again.on_tmpfs()) == 1


def test_two_storages_share_a_tmpfs_without_meeting(tmp_path):
    one, two = Worker(tmp_path / "one", path=tmp_path / "tmpfs"), Worker(tmp_path / "two", path=tmp_path / "tmpfs")
    session = one.begin(b"x")
    with pytest.raises(UploadUnknown):
        two.offset(session)


def break_os(monkeypatch: pytest.MonkeyPatch, name: str, code: int) -> None:
    def fail(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, name, fail)


@pytest.mark.parametrize(("code", "kind"), [(errno.ENOSPC, StorageFull), (errno.EROFS, StorageReadOnly), (errno.EACCES, Unavailable)])
def test_when_no_folder_takes_a_new_upload(worker, monkeypatch, code, kind):
    monkeypatch.setattr(staging_module, "_create_in", lambda folder, name: (_ for _ in ()).throw(OSError(code, os.strerror(code))))
    with pytest.raises(kind):
        worker.begin()
    with pytest.raises(kind):
        worker.staging.probe()


# Bodies that are too large, too short, broken.


class Broken:
    """A body whose connection breaks, as the server's own stream and as werkzeug's tell it."""

    def __init__(self, data: bytes, problem: Exception) -> None:
        self.stream, self.problem = io.BytesIO(data), problem

    def read(self, size: int) -> bytes:
        piece = self.stream.read(min(size, 30))
        if not piece:
            raise self.problem
        return piece


@pytest.mark.parametrize("problem", [ClientGone(), ConnectionResetError(), TimeoutError("timed out"), ValueError("bad chunk")])
def test_a_broken_connection_keeps_what_came(worker, problem):
    session = worker.begin(b"a" * 10)
    with worker.staging.resume(SCOPE, session) as upload, pytest.raises(ClientGone):
        drive(upload.receive(LIMIT, 500), Broken(b"b" * 100, problem))
    assert worker.offset(session) == 110
    worker.append(session, b"c")
    assert worker.digest(session) == Digest.of(b"a" * 10 + b"b" * 100 + b"c")


def test_a_body_shorter_than_announced_keeps_what_came(worker):
    session = worker.begin()
    with pytest.raises(SizeMismatch) as caught:
        worker.append(session, b"abc", announced=5)
    assert caught.value.detail == {"announced_bytes": 5, "received_bytes": 3}
    worker.append(session, b"de")
    assert worker.digest(session) == Digest.of(b"abcde")


@pytest.mark.parametrize("size", [11, 5000])
def test_more_than_the_limit_ends_the_upload(worker, size):
    session = worker.begin(b"a" * 5)
    with pytest.raises(TooLarge) as caught:
        worker.append(session, b"b" * size, limit=15)
    assert caught.value.detail == {"limit_bytes": 15}
    with pytest.raises(UploadUnknown):
        worker.offset(session)
    assert worker.on_tmpfs() == worker.on_volume() == []


def test_more_than_the_limit_is_not_even_read_when_it_is_announced(worker):
    session, body = worker.begin(b"a" * 5), io.BytesIO(b"b" * 11)
    with worker.staging.resume(SCOPE, session) as upload, pytest.raises(TooLarge):
        drive(upload.receive(15, 11), body)
    assert (body.tell(), worker.offset(session)) == (0, 5)
    worker.append(session, b"b" * 10, announced=10, limit=15)


@pytest.mark.parametrize(("data", "announced"), [(b"", None), (b"", 0), (b"abc", None), (b"abc", 3), (b"x" * 10, 10)])
def test_read_body(data, announced):
    assert drive(read_document(tempfile.gettempdir(), 10, announced), io.BytesIO(data)) == data


@pytest.mark.parametrize(
    ("data", "announced", "kind"),
    [
        (b"x" * 11, None, TooLarge),
        (b"x" * 11, 11, TooLarge),
        (b"x" * 11, 5, TooLarge),
        (b"x", 2, SizeMismatch),
        (b"xyz", 2, SizeMismatch),
        (b"", 1, SizeMismatch),
    ],
)
def test_read_body_refuses(data, announced, kind):
    with pytest.raises(kind):
        drive(read_document(tempfile.gettempdir(), 10, announced), io.BytesIO(data))


def test_read_body_does_not_even_read_what_is_announced_too_large():
    body = io.BytesIO(b"x" * 11)
    with pytest.raises(TooLarge):
        drive(read_document(tempfile.gettempdir(), 10, 11), body)
    assert body.tell() == 0


def test_read_body_of_a_broken_connection():
    with pytest.raises(ClientGone):
        drive(read_document(tempfile.gettempdir(), 10, 5), Broken(b"abc", ConnectionResetError()))


class Spliced(io.BytesIO):
    """A body that the kernel can move, as the server's own."""

    def into_file(self, descriptor: int, size: int) -> int:
        return os.write(descriptor, self.read(min(size, 700)))


@pytest.mark.parametrize("limit", [5000, 6000, LIMIT])
def test_a_body_that_the_kernel_moves(worker, monkeypatch, limit):
    monkeypatch.setattr(upload_module, "PIECE_BYTES", 1000)
    session = worker.begin()
    with worker.staging.resume(SCOPE, session) as upload:
        assert drive(upload.receive(limit, 5000), Spliced(b"0123456789" * 500)) == 5000
    assert worker.digest(session) == Digest.of(b"0123456789" * 500)
    with worker.staging.resume(SCOPE, session) as upload, pytest.raises(TooLarge):
        drive(upload.receive(6000, None), Spliced(b"x" * 5000))


# Two at a time.


def test_two_writers_on_one_session(worker, other):
    session = worker.begin()
    with worker.staging.resume(SCOPE, session) as upload:
        drive(upload.receive(LIMIT), io.BytesIO(b"first"))
        for second in (worker, other):
            with pytest.raises(UploadBusy):
                second.append(session, b"second")
            assert second.offset(session) == 5
    other.append(session, b"+second")
    assert worker.data(session) == b"first+second"


def test_a_spilled_upload_stays_its_writers(worker, other):
    session = worker.begin()
    with worker.staging.resume(SCOPE, session) as upload:
        drive(upload.receive(LIMIT), io.BytesIO(b"x" * 2000))
        with pytest.raises(UploadBusy):
            other.append(session, b"second")


def test_one_may_look_while_another_writes(worker, other):
    session, seen = worker.begin(), []

    class Watched(io.BytesIO):
        def read(self, size):
            seen.append(other.offset(session))
            return super().read(min(size, 600))

    with worker.staging.resume(SCOPE, session) as upload:
        drive(upload.receive(LIMIT), Watched(b"x" * 2400))
    assert seen == [0, 600, 1200, 1800, 2400]


@pytest.mark.parametrize("size", [10, 2000])
def test_who_writes_to_a_cancelled_upload_learns_it(worker, other, size):
    session = worker.begin()

    class Cancelling(io.BytesIO):
        def read(self, amount):
            piece = super().read(amount)
            if not piece:
                other.staging.cancel(SCOPE, session)
            return piece

    with worker.staging.resume(SCOPE, session) as upload, pytest.raises(UploadUnknown):
        drive(upload.receive(LIMIT), Cancelling(b"x" * size))
    assert worker.on_tmpfs() == worker.on_volume() == []


def test_an_upload_cancelled_before_it_spills(worker, other):
    session = worker.begin(b"x" * 10)
    with worker.staging.resume(SCOPE, session) as upload:
        other.staging.cancel(SCOPE, session)
        with pytest.raises(UploadUnknown):
            drive(upload.receive(LIMIT, 2000), io.BytesIO(b"x" * 2000))
    assert worker.on_tmpfs() == worker.on_volume() == []


def test_a_file_that_was_linked_before_a_crash_is_no_upload_any_more(worker, tmp_path):
    """Its bytes are kept content by then; to append to them would change a blob."""
    session = worker.begin(b"x" * 2000)
    (path,) = worker.incoming.iterdir()
    os.link(path, tmp_path / "blob")
    with pytest.raises(UploadUnknown):
        worker.append(session, b"more")
    assert (tmp_path / "blob").read_bytes() == b"x" * 2000
    assert worker.on_volume() == []


# Digests: computed while bytes come in, remembered between requests, never wrong.

STEPS = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from(["append", "append", "digest", "sha512", "broken", "full", "cold"]), st.integers(0, 900)),
    max_size=10,
)


@given(STEPS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_a_digest_is_right_in_all_orders(tmp_path, steps):
    """Two workers take turns on one session; caches are behind, cold, or ahead of bytes that were given back."""
    workers = [Worker(tmp_path), Worker(tmp_path)]
    session, expected = workers[0].begin(), b""
    for number, (who, what, size) in enumerate(steps):
        worker, data = workers[who], bytes([number + 1]) * size
        if what == "append":
            worker.append(session, data)
        elif what == "broken":
            with worker.staging.resume(SCOPE, session) as upload, pytest.raises(ClientGone):
                drive(upload.receive(LIMIT), Broken(data, ClientGone()))
        elif what == "full":
            with pytest.MonkeyPatch.context() as full:
                full_folder(full, tmp_path, size // 2)
                with worker.staging.resume(SCOPE, session) as upload, pytest.raises(StorageFull):
                    drive(upload.receive(LIMIT), io.BytesIO(data + b"!"))
            continue
        elif what == "cold":
            workers[who] = Worker(tmp_path)
            continue
        else:
            algorithm = "sha512" if what == "sha512" else "sha256"
            assert worker.digest(session, algorithm) == Digest.of(expected, algorithm)
            continue
        expected += data
    for worker in workers:
        assert worker.digest(session) == Digest.of(expected)
        assert worker.data(session) == expected
    workers[0].staging.cancel(SCOPE, session)


def in_small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few kilobytes are a large body."""
    for where, name, size in (
        (upload_module, "PIECE_BYTES", 100),
        (upload_module, "WRITE_BACK_BYTES", 700),
        (hashing, "PIECE_BYTES", 100),
        (hashing, "HASH_AHEAD_BYTES", 500),
        (hashing, "HASH_LAG_BYTES", 300),
    ):
        monkeypatch.setattr(where, name, size)


def test_a_large_body_is_hashed_beside_its_arrival(worker, monkeypatch):
    in_small_steps(monkeypatch)
    data = os.urandom(20_000)
    session = worker.begin()
    worker.append(session, data[:7000])
    worker.append(session, data[7000:7100])
    worker.append(session, data[7100:])
    cached = worker.staging._hashes.take(session, len(data))
    assert cached.offset > 19_000, "most of it was hashed while it came in"
    worker.staging._hashes.put(session, cached)
    assert worker.digest(session) == Digest.of(data)


def test_a_read_error_beside_the_arrival_ends_the_request(worker, monkeypatch):
    in_small_steps(monkeypatch)
    session = worker.begin(b"x" * 100)
    with monkeypatch.context() as broken:
        break_os(broken, "preadv", errno.EIO)
        with pytest.raises(Unavailable):
            worker.append(session, b"y" * 5000)
    assert worker.data(session) == b"x" * 100
    worker.append(session, b"z")
    assert worker.digest(session) == Digest.of(b"x" * 100 + b"z")


def test_only_so_many_hashes_are_remembered(worker, monkeypatch):
    monkeypatch.setattr(worker.staging, "_hashes", hashing.HashCache())
    monkeypatch.setattr(hashing, "HASHES_KEPT", 3)
    monkeypatch.setattr(hashing, "HASH_AHEAD_BYTES", 1)
    sessions = [worker.begin(bytes([number]) * 100) for number in range(6)]
    assert len(worker.staging._hashes._entries) == 3
    assert [worker.digest(session) for session in sessions] == [Digest.of(bytes([number]) * 100) for number in range(6)]


# Sessions that nobody ends.


def test_abandoned_uploads_are_swept(tmp_path):
    now = time.time()
    worker = Worker(tmp_path, clock=lambda: now, session_ttl_seconds=3600)
    uploads = {age: (worker.begin(b"s" * 10), worker.begin(b"l" * 2000)) for age in (0, 3500, 3700, 1_000_000)}
    for path in [*worker.tmpfs_parent.rglob("*.upload"), *worker.incoming.iterdir()]:
        age = next(age for age, sessions in uploads.items() if path.name.startswith(sessions))
        os.utime(path, (now - age, now - age))
    (worker.incoming / "other.tmp").write_bytes(b"")
    os.utime(worker.incoming / "other.tmp", (0, 0))
    assert worker.staging.sweep() == 4
    assert worker.staging.sweep() == 0
    assert {*worker.on_tmpfs(), *worker.on_volume()} == {*uploads[0], *uploads[3500], "other"}
    with pytest.raises(UploadUnknown):
        worker.offset(uploads[3700][0])


def test_a_sweep_goes_on_when_one_of_them_ends_meanwhile(worker, monkeypatch):
    sessions = [worker.begin(b"x") for _ in range(4)]
    for path in worker.tmpfs_parent.rglob("*.upload"):
        os.utime(path, (0, 0))
    unlink, ended = os.unlink, []

    def unlink_too_late_once(path):
        unlink(path)
        if not ended:
            ended.append(path)
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    monkeypatch.setattr(os, "unlink", unlink_too_late_once)
    worker.staging.sweep()
    assert worker.on_tmpfs() == [], f"of {len(sessions)} abandoned uploads some were left"


@pytest.mark.parametrize("fresh_seconds", [-1, 3600])
def test_no_more_than_so_many_sessions(tmp_path, monkeypatch, fresh_seconds):
    monkeypatch.setattr(usage_module, "USAGE_FRESH_SECONDS", fresh_seconds)
    worker = Worker(tmp_path, max_sessions=3)
    sessions = [worker.begin(b"x"), worker.begin(b"x" * 2000), worker.begin()]
    with pytest.raises(TooManyUploads) as caught:
        worker.begin()
    assert int(caught.value.headers["Retry-After"]) > 0
    assert len(worker.on_tmpfs() + worker.on_volume()) == 3
    worker.staging.cancel(SCOPE, sessions[0])
    monkeypatch.setattr(usage_module, "USAGE_FRESH_SECONDS", -1)
    worker.begin()


def test_probe_leaves_nothing(worker):
    worker.staging.probe()
    assert worker.on_tmpfs() == worker.on_volume() == []


def test_no_descriptor_is_left_open(worker):
    gc.collect()  # what other tests left
    before = len(os.listdir("/proc/self/fd"))
    for size in (10, 2000):
        session = worker.begin(b"x" * size)
        with pytest.raises(TooLarge):
            worker.append(session, b"y" * 100, limit=size + 1)
        with worker.staging.resume(SCOPE, worker.begin()), pytest.raises(UploadUnknown):
            worker.digest("0" * 32)
    session = worker.begin()
    with worker.staging.resume(SCOPE, session), pytest.raises(UploadBusy):
        worker.append(session, b"")
    assert len(os.listdir("/proc/self/fd")) == before


# Content: a finished upload is kept, or its session goes on, or it ends.


@pytest.mark.parametrize("size", [0, 10, 2000])
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_keep(worker, size, algorithm):
    storage = MemoryStorage()
    content, digest = Content(storage), Digest.of(b"x" * size, algorithm)
    for _ in range(2):  # the same bytes twice is no error
        with worker.staging.resume(SCOPE, worker.begin(b"x" * size)) as upload:
            content.keep(upload, digest)
        assert content.open(digest).read() == b"x" * size
        assert worker.on_tmpfs() == worker.on_volume() == []
    assert keys_in(storage) == [f"blobs/{algorithm}/{digest.hex[:2]}/{digest.hex}"] == [content_key(digest)]


def test_keep_refuses_other_bytes_and_ends_the_session(worker):
    storage = MemoryStorage()
    with worker.staging.resume(SCOPE, worker.begin(b"abc")) as upload, pytest.raises(DigestMismatch) as caught:
        Content(storage).keep(upload, Digest.of(b"abd"))
    assert caught.value.detail == {"expected": str(Digest.of(b"abd")), "received": str(Digest.of(b"abc")), "bytes": 3}
    assert keys_in(storage) == worker.on_tmpfs() == []


class FullStorage(MemoryStorage):
    def create(self, key, source):
        raise StorageFull()


def test_a_full_storage_ends_the_request_and_not_the_upload(worker):
    session = worker.begin(b"abc")
    with worker.staging.resume(SCOPE, session) as upload, pytest.raises(StorageFull):
        Content(FullStorage()).keep(upload, Digest.of(b"abc"))
    assert worker.offset(session) == 3
    with worker.staging.resume(SCOPE, session) as upload:
        Content(MemoryStorage()).keep(upload, Digest.of(b"abc"))


def test_a_cancelled_upload_is_not_kept(worker, other):
    storage, session = MemoryStorage(), worker.begin(b"abc")
    with worker.staging.resume(SCOPE, session) as upload:
        other.staging.cancel(SCOPE, session)
        with pytest.raises(UploadUnknown):
            Content(storage).keep(upload, Digest.of(b"abc"))
    assert keys_in(storage) == []


@pytest.mark.parametrize(
    ("after", "names"), [("", ["a", "b", "b/c"]), ("a", ["b", "b/c"]), ("aa", ["b", "b/c"]), ("b", ["b/c"]), ("z", []), ("\0", ["a", "b", "b/c"])]
)
def test_names(after, names):
    storage = MemoryStorage()
    for key in ("x/a", "x/b", "x/b/c", "x-y/z", "x", "w/a", "y/a"):
        storage.create(key, b"")
    assert list(Content(storage).names("x", after)) == names


# Uploads that are found again by who began them, and not by a session that was told.


def test_unfinished_uploads_are_found_by_what_their_sessions_begin_with(tmp_path):
    worker = Worker(tmp_path)
    sessions = [worker.staging.begin(SCOPE, start) for start in ("aaaa", "aaaa", "bbbb")]
    worker.staging.begin("another/scope", "aaaa")
    for session, data in zip(sessions, (b"1", b"x" * 2000, b"333"), strict=True):  # the second one spills
        worker.append(session, data)
    (older,) = worker.tmpfs_parent.rglob(f"{sessions[0]}.*")
    os.utime(older, (1, 1))
    found = Worker(tmp_path).staging.unfinished(SCOPE, "aaaa")
    assert [(upload.session, upload.offset) for upload in found] == [(sessions[1], 2000), (sessions[0], 1)]
    assert len(worker.staging.unfinished(SCOPE)) == 3
    assert worker.staging.unfinished(SCOPE, "cccc") == []
    worker.staging.cancel(SCOPE, sessions[1])
    assert [upload.session for upload in worker.staging.unfinished(SCOPE, "aaaa")] == [sessions[0]]


def test_what_came_last_can_be_taken_back(tmp_path):
    worker = Worker(tmp_path)
    session = worker.begin(b"first")
    with worker.staging.resume(SCOPE, session) as upload:
        drive(upload.receive(LIMIT), io.BytesIO(b"second"))
        assert upload.digest_from(5, "sha512") == Digest.of(b"second", "sha512")
        assert upload.digest("sha256") == Digest.of(b"firstsecond")
        upload.cut(5)
        assert upload.offset == 5
        drive(upload.receive(LIMIT), io.BytesIO(b"again"))
        assert upload.digest("sha256") == upload.digest("sha256") == Digest.of(b"firstagain")


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_small_upload_in_one_piece_is_not_read_back(worker, monkeypatch, algorithm):
    session = worker.begin()
    monkeypatch.setattr(os, "preadv", None)
    with worker.staging.resume(SCOPE, session) as upload:
        drive(upload.receive(LIMIT, 5), io.BytesIO(b"small"))
        assert upload.digest(algorithm) == Digest.of(b"small", algorithm)


@pytest.mark.parametrize("kept", [0, 1, 5])
@pytest.mark.parametrize("body", [io.BytesIO, Spliced])
@pytest.mark.parametrize("on_volume", [False, True])
def test_what_follows_a_piece_that_was_taken_back_counts(worker, monkeypatch, kept, body, on_volume):
    if on_volume:
        monkeypatch.setattr(worker.staging._private, "current", lambda: None)
    with worker.staging.resume(SCOPE, worker.begin()) as upload:
        drive(upload.receive(LIMIT), io.BytesIO(b"small"))
        upload.cut(kept)
        assert upload.digest("sha256") == Digest.of(b"small"[:kept])
        drive(upload.receive(LIMIT), body(b"other"[kept:]))
        assert upload.digest("sha256") == Digest.of(b"small"[:kept] + b"other"[kept:])
