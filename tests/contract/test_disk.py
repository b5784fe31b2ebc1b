"""What the disk alone can promise or meet: the order of syncs, full and broken disks, leftovers of earlier processes."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from noraflask.errors import AlreadyExists, InvalidName, NotFound, StorageFull, StorageReadOnly, Unavailable
from noraflask.keys import Key
from noraflask.storage.disk import DiskStorage
from tests.storage import keys_in

KEY, NEIGHBOUR = Key("docker/app/_tags/1"), Key("docker/app/_tags/0")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "storage"


@pytest.fixture
def open_storage(root: Path) -> Iterator[type]:
    """open_storage() → one more DiskStorage on the same folder, as another process would make it."""
    opened: list[DiskStorage] = []

    def make() -> DiskStorage:
        opened.append(DiskStorage(root))
        return opened[-1]

    yield make
    for storage in opened:
        close(storage)


@pytest.fixture
def storage(open_storage) -> DiskStorage:
    return open_storage()


def close(storage: DiskStorage) -> None:
    storage.close()


def content(storage: DiskStorage, key: Key) -> bytes:
    with storage.open(key) as reader:
        return reader.read()


def spilled(storage: DiskStorage, data: bytes = b"upload"):
    file = open(os.path.join(storage.incoming, "session.upload"), "w+b", buffering=0)  # noqa: SIM115 - close_source() does
    file.write(data)
    return file


def on_tmpfs(storage: DiskStorage, data: bytes = b"upload"):
    file = tempfile.NamedTemporaryFile("w+b", buffering=0, dir="/dev/shm")  # noqa: SIM115
    file.write(data)
    return file


def as_bytes(storage: DiskStorage) -> bytes:
    return b"bytes"


def as_nothing(storage: DiskStorage) -> bytes:
    return b""


# Durability: what is synced, and when.


class Recorder:
    """Wraps the calls of `os` that change or sync the folder, and follows what a power cut would still take.

    A name must not appear before its file's bytes are synced; when a verb returns, no folder may hold a change that is not synced.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, storage: DiskStorage) -> None:
        self.storage = storage
        self.synced_files: set[int] = set()
        self.synced_folders: list[str] = []
        self.unsynced: set[str] = set()
        for name in ("fsync", "fdatasync", "link", "replace", "unlink", "mkdir", "open", "write", "sendfile"):
            monkeypatch.setattr(os, name, self._wrapped(getattr(os, name), getattr(self, f"_{name}")))

    def _wrapped(self, real, note):
        def call(*arguments, **keywords):
            note(*arguments)
            return real(*arguments, **keywords)

        return call

    def _sync(self, descriptor):
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if os.path.isdir(path):
            self.unsynced.discard(path)
            self.synced_folders.append(os.path.relpath(path, self.storage.root))
        else:
            self.synced_files.add(os.fstat(descriptor).st_ino)

    _fsync = _fdatasync = _sync

    def _appears(self, source, target):
        found = os.stat(source)
        assert not found.st_size or found.st_ino in self.synced_files, f"{target} appears before its bytes are on disk"
        self._changes(target)

    _link = _replace = _appears

    def _changes(self, path, *_):
        folder = os.path.dirname(path)
        if folder != self.storage.incoming:
            self.unsynced.add(folder)

    _unlink = _mkdir = _changes

    def _open(self, path, flags, *_):
        if flags & os.O_CREAT:
            self._changes(path)

    def _write(self, descriptor, *_):
        self.synced_files.discard(os.fstat(descriptor).st_ino)

    _sendfile = _write


WRITES = [("create", as_bytes), ("create", as_nothing), ("create", spilled), ("create", on_tmpfs), ("replace", as_bytes), ("replace", as_nothing)]
WRITES += [("replace", spilled), ("replace", on_tmpfs)]
write_table = pytest.mark.parametrize(("verb", "source"), WRITES, ids=[f"{verb}-{source.__name__}" for verb, source in WRITES])


@write_table
@pytest.mark.parametrize("depth", ["key", "new/key", "new/folders/below/key"])
def test_a_write_is_on_disk_before_the_verb_returns(storage, monkeypatch, verb, source, depth):
    given = source(storage)
    recorder = Recorder(monkeypatch, storage)
    getattr(storage, verb)(Key(depth), given)
    assert recorder.unsynced == set()
    assert (os.path.dirname(depth) or ".") in recorder.synced_folders
    monkeypatch.undo()
    assert content(storage, Key(depth)) == (given if isinstance(given, bytes) else b"upload")
    close_source(given)


@write_table
def test_again_in_a_folder_that_is_known(storage, monkeypatch, verb, source):
    storage.create(NEIGHBOUR, b"x")
    given = source(storage)
    recorder = Recorder(monkeypatch, storage)
    getattr(storage, verb)(KEY, given)
    assert recorder.unsynced == set()
    assert recorder.synced_folders == ["docker/app/_tags"]
    close_source(given)


@pytest.mark.parametrize("source", [as_bytes, as_nothing, spilled, on_tmpfs])
def test_already_exists_is_said_when_it_is_on_disk(storage, open_storage, monkeypatch, source):
    """Another process may have linked it a moment ago, and not synced its folders yet: this answer acknowledges the object as well."""
    open_storage().create(KEY, b"there")
    given = source(storage)
    recorder = Recorder(monkeypatch, storage)
    with pytest.raises(AlreadyExists):
        storage.create(KEY, given)
    assert recorder.synced_folders[-1] == "docker/app/_tags"
    assert {".", "docker", "docker/app"} <= set(recorder.synced_folders)
    assert recorder.unsynced == set()
    close_source(given)


def test_folders_that_another_process_made_are_synced_too(storage, open_storage, monkeypatch):
    open_storage().create(NEIGHBOUR, b"x")
    recorder = Recorder(monkeypatch, storage)
    storage.create(KEY, b"x")
    assert set(recorder.synced_folders) == {".", "docker", "docker/app", "docker/app/_tags"}


@pytest.mark.parametrize("is_there", [True, False])
def test_a_delete_is_on_disk_before_the_verb_returns(storage, monkeypatch, is_there):
    """Also when nothing is there: another request may have removed it just now, and this answer says that it is gone."""
    storage.create(NEIGHBOUR, b"x")
    if is_there:
        storage.create(KEY, b"x")
    recorder = Recorder(monkeypatch, storage)
    storage.delete(KEY)
    assert recorder.unsynced == set()
    assert recorder.synced_folders == ["docker/app/_tags"]


def close_source(source) -> None:
    if not isinstance(source, bytes):
        source.close()


def test_a_spilled_upload_is_linked_and_not_copied(storage):
    with spilled(storage) as file:
        storage.create(KEY, file)
        assert os.stat(storage.root + "/" + KEY).st_ino == os.fstat(file.fileno()).st_ino


def test_two_mounts_of_one_device_are_copied_between(storage, monkeypatch):
    """st_dev is the same, but link(2) says EXDEV."""
    link = os.link

    def link_within_one_mount(source, target, **options):
        if source.endswith(".upload"):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        link(source, target, **options)

    monkeypatch.setattr(os, "link", link_within_one_mount)
    with spilled(storage) as file:
        storage.create(KEY, file)
    assert content(storage, KEY) == b"upload"
    assert leftovers(storage) == ["session.upload"]


def test_a_folder_that_was_removed_meanwhile_is_made_again(storage, root):
    storage.create(KEY, b"x")
    storage.delete(KEY)
    for folder in (root / "docker/app/_tags", root / "docker/app", root / "docker"):
        folder.rmdir()
    storage.create(KEY, b"again")
    assert content(storage, KEY) == b"again"


# Full, read-only and broken disks.

CALLS = {
    ("create", as_bytes): ("open", "write", "fdatasync", "link", "mkdir"),
    ("create", as_nothing): ("open", "link", "mkdir"),
    ("create", spilled): ("fdatasync", "link", "mkdir"),
    ("create", on_tmpfs): ("open", "sendfile", "fdatasync", "link", "mkdir"),
    ("replace", as_bytes): ("open", "write", "fdatasync", "replace", "mkdir"),
    ("replace", spilled): ("open", "sendfile", "fdatasync", "replace", "mkdir"),
    ("replace", on_tmpfs): ("open", "sendfile", "fdatasync", "replace", "mkdir"),
}
FAILURES = [(verb, source, call) for (verb, source), calls in CALLS.items() for call in calls]
PROBLEMS = [
    (errno.ENOSPC, StorageFull),
    (errno.EDQUOT, StorageFull),
    (errno.EROFS, StorageReadOnly),
    (errno.EIO, Unavailable),
    (errno.EACCES, Unavailable),
    (errno.EMFILE, Unavailable),
]


def break_call(monkeypatch: pytest.MonkeyPatch, name: str, code: int) -> None:
    """From now on this call of `os` fails; `open` only where it would make a file."""
    real = getattr(os, name)

    def fail(*arguments, **keywords):
        makes = name == "open" and (arguments[1] & os.O_CREAT or arguments[1] & os.O_TMPFILE == os.O_TMPFILE)
        if name == "open" and not makes:
            return real(*arguments, **keywords)
        raise OSError(code, os.strerror(code), "/secret/path")

    monkeypatch.setattr(os, name, fail)


def leftovers(storage: DiskStorage) -> list[str]:
    return sorted(set(os.listdir(storage.incoming)) - {".lock"})


@pytest.mark.parametrize(("code", "kind"), [(errno.ENOSPC, StorageFull), (errno.EROFS, StorageReadOnly), (errno.EIO, Unavailable)])
@pytest.mark.parametrize(("verb", "source", "call"), FAILURES, ids=[f"{verb}-{source.__name__}-{call}" for verb, source, call in FAILURES])
def test_a_write_that_fails_changes_nothing(storage, monkeypatch, verb, source, call, code, kind):
    key = Key("elsewhere/new/key") if call == "mkdir" else KEY
    storage.create(NEIGHBOUR, b"there")
    before = keys_in(storage)
    given = source(storage)
    present = leftovers(storage)
    with monkeypatch.context() as broken:
        break_call(broken, call, code)
        with pytest.raises(Unavailable) as caught:
            getattr(storage, verb)(key, given)
    assert type(caught.value) is kind
    assert "/" not in caught.value.message
    assert keys_in(storage) == before
    assert storage.stat(key) is None
    assert leftovers(storage) == present
    getattr(storage, verb)(key, given)  # the disk is well again
    assert storage.stat(key) is not None
    close_source(given)


@pytest.mark.parametrize(("code", "kind"), PROBLEMS)
@pytest.mark.parametrize("call", ["open", "write", "fdatasync", "replace"])
def test_a_replace_that_fails_leaves_the_old_object(storage, monkeypatch, call, code, kind):
    storage.create(KEY, b"old")
    with monkeypatch.context() as broken:
        break_call(broken, call, code)
        with pytest.raises(kind):
            storage.replace(KEY, b"new")
    assert content(storage, KEY) == b"old"
    assert leftovers(storage) == []


@pytest.mark.parametrize("verb", [lambda s: s.create(KEY, b"x"), lambda s: s.replace(KEY, b"x"), lambda s: s.delete(NEIGHBOUR), lambda s: s.probe()])
def test_what_could_not_be_synced_is_not_acknowledged(storage, monkeypatch, verb):
    storage.create(NEIGHBOUR, b"x")
    break_call(monkeypatch, "fsync", errno.EIO)
    with pytest.raises(Unavailable):
        verb(storage)
    assert leftovers(storage) == []


@pytest.mark.parametrize("call", ["open", "write", "fdatasync"])
@pytest.mark.parametrize(("code", "kind"), PROBLEMS)
def test_probe_tells_and_leaves_nothing(storage, monkeypatch, call, code, kind):
    storage.probe()
    break_call(monkeypatch, call, code)
    with pytest.raises(kind):
        storage.probe()
    assert leftovers(storage) == []


def test_deletes_work_on_a_full_disk(storage, monkeypatch):
    storage.create(KEY, b"x")
    for call in ("open", "write", "sendfile", "fdatasync", "link", "replace", "mkdir"):
        break_call(monkeypatch, call, errno.ENOSPC)
    storage.delete(KEY)
    assert storage.stat(KEY) is None


@pytest.mark.parametrize(("code", "kind"), [(errno.EROFS, StorageReadOnly), (errno.EIO, Unavailable)])
def test_a_delete_that_fails(storage, monkeypatch, code, kind):
    storage.create(KEY, b"x")
    with monkeypatch.context() as broken:
        break_call(broken, "unlink", code)
        with pytest.raises(kind):
            storage.delete(KEY)
    assert content(storage, KEY) == b"x"


@pytest.mark.parametrize("verb", [lambda s, key: s.stat(key), lambda s, key: list(s.list(f"{key}/"))])
def test_reads_of_a_broken_disk(storage, monkeypatch, verb):
    for call in ("stat", "scandir"):
        break_call(monkeypatch, call, errno.EIO)
    with pytest.raises(Unavailable):
        verb(storage, KEY)


def test_a_file_system_with_shorter_names(storage, monkeypatch):
    storage.create(NEIGHBOUR, b"x")
    break_call(monkeypatch, "link", errno.ENAMETOOLONG)
    with pytest.raises(InvalidName):
        storage.create(KEY, b"x")
    assert leftovers(storage) == []


def test_short_writes_are_gone_on_with(storage, monkeypatch):
    write, sendfile = os.write, os.sendfile
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:7]))
    monkeypatch.setattr(os, "sendfile", lambda out, source, offset, count: sendfile(out, source, offset, min(count, 7)))
    storage.create(KEY, b"0123456789" * 5)
    with on_tmpfs(storage, b"abcdefghij" * 5) as file:
        storage.create(NEIGHBOUR, file)
    monkeypatch.undo()
    assert (content(storage, KEY), content(storage, NEIGHBOUR)) == (b"0123456789" * 5, b"abcdefghij" * 5)


def test_an_upload_that_shrinks_while_it_is_copied_is_no_object(storage, monkeypatch):
    monkeypatch.setattr(os, "sendfile", lambda *_: 0)
    with on_tmpfs(storage) as file, pytest.raises(Unavailable):
        storage.create(KEY, file)
    assert storage.stat(KEY) is None
    assert leftovers(storage) == []


# Leftovers of earlier processes, and neighbours.


def test_the_start_removes_what_was_on_its_way(storage, open_storage, root):
    storage.create(KEY, b"x")
    close(storage)
    incoming = root / ".incoming"
    for name in ("a.tmp", "b.tmp", "session.upload", "other"):
        (incoming / name).write_bytes(b"x")
    again = open_storage()
    assert leftovers(again) == ["other", "session.upload"]
    assert keys_in(again) == [KEY]


def test_the_start_leaves_alone_what_a_living_server_has_on_its_way(storage, open_storage, root):
    (root / ".incoming" / "a.tmp").write_bytes(b"x")
    second = open_storage()
    assert leftovers(second) == ["a.tmp"]
    close(storage)
    third = open_storage()
    assert leftovers(third) == ["a.tmp"], "the second one still lives"
    close(second)
    close(third)
    assert leftovers(open_storage()) == []


@pytest.mark.parametrize("lock_is_there", [True, False])
@pytest.mark.parametrize("left", [[], ["a.tmp"]])
def test_a_read_only_disk_serves_what_it_has(storage, open_storage, root, monkeypatch, lock_is_there, left):
    """After a crash the kernel may mount it so (errors=remount-ro): what lies around then cannot be swept, and is no reason to refuse pulls."""
    storage.create(KEY, b"x")
    close(storage)
    if not lock_is_there:
        (root / ".incoming" / ".lock").unlink()
    for name in left:
        (root / ".incoming" / name).write_bytes(b"x")
    make_read_only(monkeypatch)
    again = open_storage()
    assert content(again, KEY) == b"x"
    assert keys_in(again) == [KEY]
    with pytest.raises(StorageReadOnly):
        again.create(NEIGHBOUR, b"x")


def make_read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Linux does it: a file that is there may be opened with O_CREAT, if only to read."""
    really_open = os.open

    def open_only(path, flags, *more):
        if flags & (os.O_WRONLY | os.O_RDWR) or (flags & os.O_CREAT and not os.path.exists(path)):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return really_open(path, flags, *more)

    monkeypatch.setattr(os, "open", open_only)
    for call in ("unlink", "link", "replace", "rename"):
        break_call(monkeypatch, call, errno.EROFS)


def test_the_folder_is_made_and_its_own_names_are_no_keys(root):
    storage = DiskStorage(root / "deep" / "below")
    assert keys_in(storage) == []
    (root / "deep" / "below" / ".stray").write_bytes(b"x")
    assert keys_in(storage) == []
    close(storage)


def test_a_start_without_a_folder_fails(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="Not a directory"):
        DiskStorage(tmp_path / "file" / "storage")


# Laziness and descriptors.


def test_a_list_looks_into_a_folder_only_when_it_gets_there(storage, monkeypatch):
    for number in range(20):
        storage.create(Key(f"names/{number:02}/x"), b"")
    looked, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: (looked.append(folder), scandir(folder))[1])
    listing = storage.list("names/")
    assert looked == []
    assert [next(listing).key, len(looked)] == ["names/00/x", 2]
    looked.clear()
    assert next(storage.list("names/", "names/17/x")).key == "names/18/x"
    assert [os.path.basename(folder.rstrip("/")) for folder in looked] == ["names", "17", "18"]


def test_no_descriptor_is_left_open(storage, monkeypatch):
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    storage.create(NEIGHBOUR, b"x")
    before = descriptors()
    storage.create(KEY, b"x")
    storage.replace(KEY, b"y")
    content(storage, KEY)
    storage.delete(KEY)
    keys_in(storage)
    for call in ("open", "write", "fdatasync", "link", "fsync"):
        with monkeypatch.context() as broken:
            break_call(broken, call, errno.EIO)
            with pytest.raises(Unavailable):
                storage.create(KEY, b"x")
        storage.delete(KEY)
    with pytest.raises(NotFound):
        storage.open(KEY)
    assert descriptors() == before


def test_a_reader_is_a_real_file_for_the_kernel_to_send(storage):
    storage.create(KEY, b"0123456789")
    with storage.open(KEY, 3, 6) as reader:
        assert os.lseek(reader.fileno(), 0, os.SEEK_CUR) == 3
        assert os.fstat(reader.fileno()).st_size == reader.size == 10


def test_folders_made_in_advance_are_durable_once_and_cost_no_sync_later(storage, root, monkeypatch):
    synced = []
    real = os.fsync

    def note(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    storage.abilities.prepare(["blobs/aa", "blobs/bb"])
    assert str(root / "blobs") in synced
    synced.clear()
    storage.create(Key("blobs/aa/one"), b"x")
    assert synced == [str(root / "blobs/aa")]
    assert keys_in(storage) == ["blobs/aa/one"]
    (root / "blobs/bb").rmdir()
    storage.create(Key("blobs/bb/two"), b"x")
    assert content(storage, Key("blobs/bb/two")) == b"x"


def test_folders_that_cannot_be_made_in_advance_are_made_when_needed(storage, monkeypatch):
    with monkeypatch.context() as broken:
        break_call(broken, "mkdir", errno.EROFS)
        storage.abilities.prepare(["blobs/aa"])
    storage.create(Key("blobs/aa/one"), b"x")
    assert content(storage, Key("blobs/aa/one")) == b"x"


# Keys and tokens: for the server's own user alone.


def modes(root: Path, below: str = "") -> dict[str, int]:
    """Of the folder and of all in it."""
    paths = [root / below, *(path for path in (root / below).rglob("*") if not {".incoming", ".shared"} & set(path.parts))]
    return {str(path.relative_to(root)): path.stat().st_mode & 0o777 for path in paths}


def fill_both(storage: DiskStorage, *keys: str) -> None:
    for key in keys:
        storage.create(Key(f"{key}/made"), b"secret")
        storage.create(Key(f"{key}/empty"), b"")
        storage.replace(Key(f"{key}/replaced"), b"first")
        storage.replace(Key(f"{key}/replaced"), b"second")


@pytest.mark.parametrize("nameless", [True, False])
@pytest.mark.parametrize("mask", [0o022, 0o000, 0o077])
def test_what_lies_below_auth_is_for_the_server_alone(root, open_storage, nameless, mask):
    """Whatever the umask lets others do."""
    old = os.umask(mask)
    try:
        storage = open_storage()
        storage._nameless = storage._nameless and nameless
        fill_both(storage, "_auth/keys", "_auth/tokens/used")
    finally:
        os.umask(old)
    found = modes(root, "_auth")
    folders = {"_auth", "_auth/keys", "_auth/tokens", "_auth/tokens/used"}
    assert {name: mode for name, mode in found.items() if name in folders} == dict.fromkeys(folders, 0o700)
    files = {mode for name, mode in found.items() if name not in folders}
    assert len(found) == len(folders) + 6
    assert files == {0o600}
    assert content(storage, Key("_auth/keys/made")) == b"secret"


def test_what_lies_elsewhere_may_be_read_by_the_group(root, storage):
    old = os.umask(0)
    try:
        fill_both(storage, "docker/_auth", "_authors", "_auth.d/x")
    finally:
        os.umask(old)
    found = modes(root)
    del found["."]
    assert {mode for name, mode in found.items() if (root / name).is_dir()} == {0o750}
    assert {mode for name, mode in found.items() if (root / name).is_file()} == {0o640}


def test_all_of_a_private_storage_is_for_the_server_alone(root):
    """As auth.token_storage is."""
    old = os.umask(0)
    try:
        storage = DiskStorage(root, private=True)
        fill_both(storage, "revoked", "a/b")
        storage.create(Key("0123.json"), b"{}")
    finally:
        os.umask(old)
    close(storage)
    found = modes(root)
    assert {mode for name, mode in found.items() if (root / name).is_dir()} == {0o700}
    assert {mode for name, mode in found.items() if (root / name).is_file()} == {0o600}
    assert root.stat().st_mode & 0o777 == 0o700
