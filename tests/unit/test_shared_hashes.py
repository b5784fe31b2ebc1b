"""Running hashes that the workers share. Each request comes to a process of its own here, the worst way in which chunks can be spread."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import io
import mmap
import os
import signal
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from noraflask.config import StagingConfig
from noraflask.digest import Digest
from noraflask.errors import ClientGone, StorageFull, UploadUnknown
from noraflask.services import hashing, resumable_sha256
from noraflask.services import upload as upload_module
from noraflask.services.hashing import HashCache, RunningHash
from noraflask.services.resumable_sha256 import STATE_BYTES, ResumableSha256, is_available
from noraflask.services.shared_hashes import SLOTS, SharedHashes
from noraflask.services.staging import Staging
from noraflask.suspension import drive

pytestmark = [
    pytest.mark.skipif(not is_available(), reason="needs the SHA256_* of OpenSSL 3"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]

SCOPE, LIMIT, AHEAD = "docker/app", 1 << 30, 500
PATIENCE = 60
"""Seconds, for a process that should hang."""


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> memoryview:
    """A few hundred bytes are a large body; in the cell is counted how many bytes all processes hash."""
    cell = memoryview(mmap.mmap(-1, 8)).cast("Q")
    follow = RunningHash.follow

    def counting(self: RunningHash, descriptor: int, stop: int) -> None:
        before = self.offset
        try:
            follow(self, descriptor, stop)
        finally:
            cell[0] += self.offset - before

    monkeypatch.setattr(RunningHash, "follow", counting)
    for where, name, size in ((upload_module, "PIECE_BYTES", 100), (hashing, "PIECE_BYTES", 100), (hashing, "HASH_AHEAD_BYTES", AHEAD)):
        monkeypatch.setattr(where, name, size)
    return cell


def in_a_process(work: Callable[[], object]) -> int:
    """What a forked process ends with: 0, or the signal that killed it. What it asserts, it asserts for us."""
    child = os.fork()
    if not child:
        code = 1
        try:
            signal.alarm(PATIENCE)
            hashing._hashers.cache_clear()  # the threads of this process are not in that one
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code <= 0, "the process failed; what it raised stands on stderr"
    return -code


class Body(io.BytesIO):
    """`end`: what comes after the last byte."""

    def __init__(self, data: bytes, end: Callable[[], bytes | None]) -> None:
        super().__init__(data)
        self._end = end

    def read(self, size: int | None = -1) -> bytes:
        piece = super().read(size)
        return piece or self._end() or b""


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def gone() -> None:
    raise ClientGone()


def disk_full() -> bytes:
    """For one byte more."""

    def write(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    upload_module._write = write  # of a process that ends with this request
    return b"!"


class Workers:
    """Requests for one upload, each of which comes to a worker that has just started."""

    def __init__(self, folder: Path, **config: int) -> None:
        incoming = folder / "incoming"
        incoming.mkdir()
        self.staging = Staging(StagingConfig(folder / "tmpfs", **{"share_bytes": 3000, "budget_bytes": 1 << 20, **config}), str(incoming), 100)
        self.session = self.staging.begin(SCOPE)
        self.bytes = b""

    def append(self, data: bytes, end: Callable[[], bytes | None] = bytes) -> int:
        def request() -> None:
            with self.staging.resume(SCOPE, self.session) as upload, contextlib.suppress(ClientGone, StorageFull):
                drive(upload.receive(LIMIT), Body(data, end))

        return in_a_process(request)

    def take_back(self, data: bytes) -> None:
        """A part whose digest is not the one announced."""

        def request() -> None:
            with self.staging.resume(SCOPE, self.session) as upload:
                drive(upload.receive(LIMIT), io.BytesIO(data))
                upload.cut(len(self.bytes))

        assert in_a_process(request) == 0

    def look(self) -> int:
        """The file's length, once its digest proved to be right."""
        size = self.staging.offset(SCOPE, self.session)

        def request() -> None:
            with self.staging.resume(SCOPE, self.session) as upload:
                assert upload.digest("sha256") == Digest.of(self.bytes)

        self.bytes = self.bytes[:size]
        assert in_a_process(request) == 0
        return size


# ------------------------------------------------------------------------------------------------------ each byte once


@pytest.mark.parametrize("share_bytes", [0, 3000, 1 << 20], ids=["volume", "spilled", "tmpfs"])
def test_each_byte_is_hashed_once_however_many_workers_take_the_chunks(tmp_path: Path, counted: memoryview, share_bytes: int) -> None:
    workers = Workers(tmp_path, share_bytes=share_bytes)
    for turn in range(12):
        data = os.urandom(AHEAD + 37 * turn)
        assert workers.append(data) == 0
        workers.bytes += data
    assert workers.look() == counted[0] == len(workers.bytes)


def test_a_worker_that_is_killed_in_mid_chunk_costs_no_more_than_that_chunk(tmp_path: Path, counted: memoryview) -> None:
    workers = Workers(tmp_path)
    for end in (bytes, die, bytes, die):
        data = os.urandom(2000)
        assert workers.append(data, end) == (signal.SIGKILL if end is die else 0)
        workers.bytes += data
    assert workers.look() == 8000
    assert 8000 <= counted[0] <= 8000 + 2 * 2000


def test_a_worker_that_is_killed_while_it_saves_a_hash_spoils_no_upload(tmp_path: Path, counted: memoryview, monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers(tmp_path)
    workers.bytes = os.urandom(5000)
    assert workers.append(workers.bytes) == 0
    record = SharedHashes._record

    class Half:
        def __init__(self, place: memoryview) -> None:
            self._place = place

        def __setitem__(self, _: slice, data: bytes) -> None:
            self._place[: len(data) // 2] = data[: len(data) // 2]
            die()

    with monkeypatch.context() as torn:
        torn.setattr(SharedHashes, "_record", lambda self, slot: Half(record(self, slot)))
        torn.setattr(SharedHashes, "take", lambda self, session, size: RunningHash())
        more = os.urandom(1000)
        assert workers.append(more) == signal.SIGKILL
    workers.bytes += more
    assert workers.look() == 6000
    workers.bytes += more
    assert workers.append(more) == 0, "the lock that it held is free again"
    assert workers.look() == 7000


@pytest.mark.parametrize("way", ["part taken back", "write failed"])
def test_what_was_taken_back_is_in_no_hash_and_the_rest_is_not_hashed_again(tmp_path: Path, counted: memoryview, way: str) -> None:
    workers = Workers(tmp_path)
    for turn in range(3):
        data = os.urandom(2000)
        assert workers.append(data) == 0
        workers.bytes += data
        if way == "write failed":
            assert workers.append(b"x" * 1000, disk_full) == 0
        else:
            workers.take_back(b"x" * 1000)
        assert workers.look() == 2000 * (turn + 1)
    assert counted[0] <= len(workers.bytes) + 3 * (1000 + 2 * AHEAD)


ENDS: dict[str, Callable[[], bytes | None]] = {"whole": bytes, "gone": gone, "killed": die, "full": disk_full}
STEPS = st.lists(st.tuples(st.sampled_from(["whole", *ENDS, "part taken back", "look"]), st.integers(0, 1500)), max_size=10)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, share_bytes=st.sampled_from([0, 3000, 1 << 20]))
def test_the_digest_is_right_after_any_history(counted: memoryview, steps: list[tuple[str, int]], share_bytes: int) -> None:
    counted[0] = lost = 0  # bytes that may have been hashed in vain
    behind = 0  # bytes of broken requests that perhaps nobody has hashed yet, beside the last few
    with tempfile.TemporaryDirectory(prefix="nora-hashes-") as folder:
        workers = Workers(Path(folder), share_bytes=share_bytes)
        for number, (step, size) in enumerate(steps):
            data = hashlib.shake_128(f"{number}".encode()).digest(size)
            if step == "look":
                workers.look()
                lost += AHEAD  # less is not saved
            elif step == "part taken back":
                workers.take_back(data)
            else:
                workers.append(data, ENDS[step])
            if step in ("part taken back", "full", "killed"):
                lost += AHEAD + behind + size  # what an earlier request has hashed is not hashed again
            behind = 0 if step in ("whole", "look") else behind + size
            if step in ("whole", "gone", "killed"):
                workers.bytes += data
        size = workers.look()
        assert size == len(workers.bytes)
        assert size <= counted[0] <= size + lost
        workers.staging.cancel(SCOPE, workers.session)
        with pytest.raises(UploadUnknown):
            workers.staging.resume(SCOPE, workers.session)
        assert not any(workers.staging._hashes._keys), "its place is free"  # type: ignore[attr-defined]


# ------------------------------------------------------------------------------------------------------------ the table


def saved(table: SharedHashes, session: str, data: bytes) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        running = RunningHash()
        running.follow(file.fileno(), len(data))
    table.put(session, running)


@pytest.fixture
def table(counted: memoryview) -> SharedHashes:
    return SharedHashes(16)


DATA = os.urandom(AHEAD)


def test_a_hash_goes_on_from_where_it_was_saved(table: SharedHashes) -> None:
    saved(table, "a", DATA)
    for _ in range(2):  # it stays for whoever comes next, should this one be killed
        found = table.take("a", AHEAD)
        assert (found.offset, found.hexdigest()) == (AHEAD, hashlib.sha256(DATA).hexdigest())
    assert table.take("b", AHEAD).offset == 0


@pytest.mark.parametrize("byte", range(0, 136, 5))
def test_a_spoiled_hash_is_not_taken(table: SharedHashes, byte: int) -> None:
    saved(table, "a", DATA)
    slot = table._table.slot_of(max(table._keys))
    assert slot is not None
    table._record(slot)[byte] ^= 1
    assert table.take("a", 1 << 60).offset == 0


def test_a_hash_of_another_session_is_not_taken(table: SharedHashes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where the keys of both are the same."""
    monkeypatch.setattr("noraflask.services.shared_hashes.keyed_hash", lambda secret, session: 7)
    saved(table, "a", DATA)
    assert table.take("b", AHEAD).offset == 0
    assert table.take("a", AHEAD).offset == AHEAD


def test_a_hash_of_more_bytes_than_the_file_has_is_not_taken(table: SharedHashes) -> None:
    saved(table, "a", DATA)
    assert table.take("a", AHEAD - 1).offset == 0


def test_of_a_full_table_the_hash_goes_that_was_saved_longest_ago(table: SharedHashes) -> None:
    sessions = [f"{number}" for number in range(17)]
    for session in sessions[:16]:
        saved(table, session, DATA)
    saved(table, sessions[0], DATA)
    saved(table, sessions[16], DATA)
    assert [session for session in sessions if not table.take(session, AHEAD).offset] == ["1"]
    table.forget("4", AHEAD)
    table.forget("5", AHEAD - 1)
    saved(table, "1", DATA)
    assert [session for session in sessions if not table.take(session, AHEAD).offset] == ["5"]


def test_it_takes_no_more_than_a_megabyte() -> None:
    table = SharedHashes()
    assert table._keys.nbytes + table._saved_at.nbytes + table._records.nbytes <= 1 << 20
    assert len(table._keys) == SLOTS


# ------------------------------------------------------------------------------------------------------ the state itself


@pytest.mark.parametrize("at", [0, 1, 55, 56, 63, 64, 65, 128, 1000])
def test_a_state_goes_on_to_the_digest_of_hashlib(at: int) -> None:
    data = bytearray(os.urandom(1000))
    before = ResumableSha256()
    if at:
        before.update(memoryview(data)[:at])
    state = before.state()
    assert len(state) == STATE_BYTES
    after = ResumableSha256(state)
    if at < 1000:
        after.update(memoryview(data)[at:])
    assert after.hexdigest() == after.hexdigest() == hashlib.sha256(data).hexdigest()


@pytest.fixture
def asked_anew() -> Iterator[None]:
    is_available.cache_clear()
    yield
    is_available.cache_clear()


def other_library(**functions: Any) -> Callable[[], SimpleNamespace]:
    """libcrypto, but for some functions."""
    own = resumable_sha256._quick()
    names = ("SHA256_Init", "SHA256_Update", "SHA256_Final", "OpenSSL_version_num")
    library = SimpleNamespace(**({name: getattr(own, name) for name in names} | functions))
    return lambda: library


def larger_context(context: Any, *_: Any) -> int:
    resumable_sha256._slow().SHA256_Init(context)
    ctypes.memset(ctypes.addressof(context) + STATE_BYTES, 1, 1)
    return 1


UNFIT: dict[str, dict[str, Any]] = {
    "older": {"OpenSSL_version_num": lambda: 0x1010117F},
    "hashes otherwise": {"SHA256_Init": lambda context: 1},
    "a larger context": {"SHA256_Init": larger_context},
    "cannot": {"SHA256_Final": lambda *_: 0},
}


@pytest.mark.usefixtures("asked_anew")
@pytest.mark.parametrize("functions", UNFIT.values(), ids=UNFIT)
def test_a_library_that_does_not_fit_is_not_used(functions: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(resumable_sha256, "_quick", other_library(**functions))
    assert not is_available()
    staging = Staging(StagingConfig(tmp_path), str(tmp_path), 10)
    assert isinstance(staging._hashes, HashCache)
    assert RunningHash().hexdigest() == hashlib.sha256().hexdigest()


@pytest.mark.usefixtures("asked_anew")
@pytest.mark.parametrize("missing", ["module", "function"])
def test_without_the_functions_it_is_not_used(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_it() -> None:
        raise ImportError("_hashlib") if missing == "module" else AttributeError("SHA256_Init")

    monkeypatch.setattr(resumable_sha256, "_quick", raise_it)
    assert not is_available()
