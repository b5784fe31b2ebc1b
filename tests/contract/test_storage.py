"""The contract of storage (noraflask/storage/__init__.py): one suite, every backend. A new backend is done when it passes."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from noraflask.errors import AlreadyExists, NotFound
from noraflask.keys import Key
from noraflask.storage import Storage
from noraflask.storage.disk import DiskStorage
from tests.storage import keys_in

KEY = Key("docker/team/app/_tags/1.0")
BIG = os.urandom(3 * 1024 * 1024 + 17)


@pytest.fixture(autouse=True)
def _nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every test of this suite: nothing on its way any more."""
    storage = request.getfixturevalue("storage")
    yield
    if isinstance(storage, DiskStorage):
        assert sorted(os.listdir(storage.incoming)) in ([".lock"], [".lock", "session.upload"])


def content(storage: Storage, key: str, start: int = 0, stop: int | None = None) -> bytes:
    reader = storage.open(Key(key), start, stop)
    try:
        return reader.read()
    finally:
        reader.close()


def from_bytes(storage: Storage, data: bytes) -> bytes:
    return data


def from_a_file_beside(storage: Storage, data: bytes):
    """A finished upload that has spilled: on the storage's own volume, where there is one."""
    return file_in(getattr(storage, "incoming", None), data)


def from_another_file_system(storage: Storage, data: bytes):
    """A finished upload on the tmpfs."""
    file = file_in("/dev/shm", data)
    if isinstance(storage, DiskStorage):
        assert os.fstat(file.fileno()).st_dev != os.stat(storage.root).st_dev
    return file


def file_in(folder: str | None, data: bytes):
    """Its position is at the end, as an upload's is, and its name is taken away at once unless it is in the storage's own folder."""
    if folder and folder.endswith(".incoming"):
        file = open(os.path.join(folder, "session.upload"), "w+b", buffering=0)  # noqa: SIM115 - given_as closes it
    else:
        file = tempfile.NamedTemporaryFile("w+b", buffering=0, dir=folder, suffix=".upload")  # noqa: SIM115
    file.write(data)
    return file


SOURCES = [from_bytes, from_a_file_beside, from_another_file_system]


@pytest.fixture(params=SOURCES, ids=lambda source: source.__name__)
def given_as(request: pytest.FixtureRequest, storage: Storage) -> Iterator[Callable[[bytes], object]]:
    """given_as(data): the same bytes, in each of the forms that a source may have."""
    files = []

    def make(data: bytes):
        source = request.param(storage, data)
        if not isinstance(source, bytes):
            files.append(source)
        return source

    yield make
    for file in files:
        file.close()


# Six verbs.


def test_nothing_is_there(storage):
    assert storage.stat(KEY) is None
    with pytest.raises(NotFound):
        storage.open(KEY)
    assert keys_in(storage) == keys_in(storage, "docker/") == []
    assert storage.delete(KEY) is None


@pytest.mark.parametrize("data", [b"", b"x", b"line\nline\0", BIG], ids=["empty", "one", "some", "big"])
@pytest.mark.parametrize("verb", ["create", "replace"])
def test_what_was_stored_is_there(storage, given_as, verb, data):
    getattr(storage, verb)(KEY, given_as(data))
    assert content(storage, KEY) == data
    assert storage.stat(KEY).size == len(data)
    assert abs(storage.stat(KEY).modified - time.time()) < 60
    assert keys_in(storage) == [KEY]


@pytest.mark.parametrize("old", [b"", b"old"])
@pytest.mark.parametrize("new", [b"", b"newer"])
def test_create_never_overwrites(storage, given_as, old, new):
    storage.create(KEY, old)
    with pytest.raises(AlreadyExists):
        storage.create(KEY, given_as(new))
    assert content(storage, KEY) == old


@pytest.mark.parametrize("old", [b"", b"old and longer"])
@pytest.mark.parametrize("new", [b"", b"new"])
def test_replace_overwrites(storage, given_as, old, new):
    storage.create(KEY, old)
    storage.replace(KEY, given_as(new))
    assert content(storage, KEY) == new
    assert storage.stat(KEY).size == len(new)


def test_delete_is_quiet_and_leaves_the_others(storage):
    other = Key("docker/team/app/_tags/1.0.1")
    storage.create(KEY, b"a")
    storage.create(other, b"b")
    for _ in range(2):
        storage.delete(KEY)
        assert storage.stat(KEY) is None
    for nowhere in ("docker/team/none/x", "none", "docker/team/app/_tags/1.0/below"):
        storage.delete(Key(nowhere))
    assert keys_in(storage) == [other]
    storage.create(KEY, b"again")
    assert content(storage, KEY) == b"again"


@pytest.mark.parametrize(
    "key", ["a", "a" * 255, "/".join(["d" * 100] * 10), "é/ö", "a b/c:d@e", "a/.hidden", "a/x.tmp", "x.tmp", "a/..b", "-", "%2e%2e"]
)
def test_keys_of_every_form(storage, key):
    storage.create(Key(key), b"x")
    assert content(storage, key) == b"x"
    assert keys_in(storage) == [key]
    storage.delete(Key(key))
    assert keys_in(storage) == []


@pytest.mark.parametrize("folder", ["docker", "docker/team", "docker/team/app/_tags"])
def test_a_folder_is_no_object(storage, folder):
    storage.create(KEY, b"x")
    assert storage.stat(Key(folder)) is None
    with pytest.raises(NotFound):
        storage.open(Key(folder))
    storage.delete(Key(folder))
    assert keys_in(storage) == [KEY]


def test_below_an_object_there_is_nothing(storage):
    storage.create(KEY, b"x")
    below = Key(f"{KEY}/below")
    assert storage.stat(below) is None
    with pytest.raises(NotFound):
        storage.open(below)
    assert keys_in(storage, f"{KEY}/") == []


# Ranges.


@pytest.mark.parametrize(
    ("start", "stop", "expected"),
    [
        (0, None, "0123456789"),
        (3, None, "3456789"),
        (0, 4, "0123"),
        (3, 4, "3"),
        (9, 10, "9"),
        (0, 10, "0123456789"),
        (5, 100, "56789"),
        (0, 0, ""),
        (4, 4, ""),
        (10, None, ""),
        (10, 20, ""),
        (50, None, ""),
        (50, 60, ""),
        (6, 3, ""),
    ],
)
def test_ranges(storage, start, stop, expected):
    storage.create(KEY, b"0123456789")
    assert content(storage, KEY, start, stop) == expected.encode()
    reader = storage.open(KEY, start, stop)
    assert reader.size == 10
    assert b"".join(iter(lambda: reader.read(3), b"")) == expected.encode()
    assert reader.read() == reader.read(5) == b""
    reader.close()


@given(data=st.binary(max_size=64), start=st.integers(0, 70), length=st.none() | st.integers(0, 70), piece=st.integers(1, 70))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_range_is_a_slice(storage, data, start, length, piece):
    stop = None if length is None else start + length
    storage.replace(KEY, data)
    reader = storage.open(KEY, start, stop)
    assert b"".join(iter(lambda: reader.read(piece), b"")) == data[start:stop]
    reader.close()


# Atomicity.


@pytest.mark.parametrize("change", [lambda s: s.replace(KEY, b"new"), lambda s: s.delete(KEY)], ids=["replace", "delete"])
def test_an_open_reader_sees_the_whole_old_object(storage, change):
    storage.create(KEY, BIG)
    reader = storage.open(KEY)
    beginning = reader.read(1000)
    change(storage)
    assert (beginning + reader.read(), reader.size) == (BIG, len(BIG))
    reader.close()


def in_threads(count: int, work: Callable[[int], object]) -> list[object]:
    """What each thread returned or raised; all begin at once."""
    start, outcomes = threading.Barrier(count), [None] * count

    def run(number: int) -> None:
        start.wait()
        try:
            outcomes[number] = work(number)
        except Exception as problem:
            outcomes[number] = problem

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


@pytest.mark.parametrize("size", [1, 100_000])
def test_of_sixteen_creators_exactly_one_succeeds(storage, size):
    for turn in range(5):
        key = Key(f"race/{turn}/folder/key")
        outcomes = in_threads(16, lambda number, key=key: storage.create(key, bytes([number]) * size))
        winners = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, str)]
        assert len(winners) == 1
        assert [type(outcome) for outcome in outcomes if not isinstance(outcome, str)] == [AlreadyExists] * 15
        assert content(storage, key) == bytes(winners) * size


def test_of_sixteen_creators_of_nothing_exactly_one_succeeds(storage):
    outcomes = in_threads(16, lambda _: storage.create(KEY, b""))
    assert sum(isinstance(outcome, str) for outcome in outcomes) == 1


def test_readers_see_one_whole_object_while_others_replace_it(storage):
    storage.create(KEY, b"\0" * 50_000)

    def work(number: int) -> set[tuple[int, int]]:
        seen = set()
        for turn in range(20):
            if number < 4:
                storage.replace(KEY, bytes([number]) * (50_000 + number + turn * 4))
            else:
                data = content(storage, KEY)
                seen.add((len(set(data)), len(data) % 4 == data[0]))
        return seen

    for seen in in_threads(8, work)[4:]:
        assert seen == {(1, True)}


def test_eight_threads_make_the_same_folders(storage):
    outcomes = in_threads(8, lambda number: storage.create(Key(f"new/folder/of/all/{number}"), b"x"))
    assert {type(outcome) for outcome in outcomes} == {str}
    assert len(keys_in(storage, "new/folder/of/all/")) == 8


# Lists.

KEYS = ["a-b/c", "a.b", "a/b-c", "a/b.c", "a/b/c", "a0", "ab/c", "b/.x", "b/A", "b/_x", "b/a", "b/z", "b/é", "b/￿", "b/𐀀", "z/y/x/w/v/u"]
"""In the order of their UTF-8 bytes, which is not that of UTF-16 in the last ones; no key of it is a folder of another."""


@pytest.fixture
def tree(storage):
    for key in reversed(KEYS):
        storage.create(Key(key), b"")
    return storage


def test_order_is_that_of_the_bytes(tree):
    assert sorted(KEYS, key=str.encode) == KEYS
    assert keys_in(tree) == KEYS


@pytest.mark.parametrize("prefix", ["", "a/", "a/b/", "b/", "z/", "z/y/x/", "z/y/x/w/v/", "a-b/", "c/", "a.b/", "none/of/it/"])
def test_prefixes(tree, prefix):
    assert keys_in(tree, prefix) == [key for key in KEYS if key.startswith(prefix)]


AFTERS = [*KEYS, "", "a", "a/", "a-", "a-b", "a.", "a/b", "a/b/", "a/b0", "a1", "b", "b/", "b/_", "b/zz", "z", "z/y/", "zz", "\U0010ffff", "b\0"]


@pytest.mark.parametrize("prefix", ["", "a/", "b/", "z/y/"])
def test_after(tree, prefix):
    for after in AFTERS:
        expected = [key for key in KEYS if key.startswith(prefix) and key.encode() > after.encode()]
        assert keys_in(tree, prefix, after) == expected, after


@given(st.sets(st.lists(st.text("a-./0é", min_size=1, max_size=3), min_size=1, max_size=3).map("/".join), max_size=12), st.text("a-./0é", max_size=6))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_any_tree_in_order(storage, names, after):
    base = os.urandom(8).hex()
    wanted = []
    for name in sorted(names):
        parts = name.split("/")
        if not ({"", ".", ".."} & set(parts) or any(other.startswith(name + "/") or name.startswith(other + "/") for other in names)):
            wanted.append(f"{base}/{name}")
            storage.create(Key(wanted[-1]), b"")
    after = f"{base}/{after}"
    assert keys_in(storage, f"{base}/") == sorted(wanted, key=str.encode)
    assert keys_in(storage, f"{base}/", after) == sorted((key for key in wanted if key.encode() > after.encode()), key=str.encode)


def test_a_list_is_an_iterator_that_bears_changes_meanwhile(tree):
    listing = tree.list("")
    assert iter(listing) is listing
    assert next(listing).key == KEYS[0]
    for key in KEYS:
        tree.delete(Key(key))
    list(listing)
    assert keys_in(tree) == []


# ---- watching


@pytest.mark.parametrize("change", ["create", "replace", "the same again", "swap", "delete", "delete and create", "below a file"])
def test_whoever_watches_sees_every_change(storage, change):
    key, data = Key("watched/one"), b"data"
    if change != "create":
        storage.create(key, data)
    look = storage.abilities.watch(key)
    before = look()
    assert look() == before
    storage.create(Key("watched/two"), b"other")
    assert look() == before
    if change == "create":
        storage.create(key, data)
    elif change in ("replace", "the same again"):
        storage.replace(key, data if change == "the same again" else b"atad")
    elif change == "swap":
        storage.swap(key, data, storage.stat(key).version)
    elif change == "below a file":
        assert storage.abilities.watch(Key("watched/one/below"))() is None
        storage.delete(key)
    else:
        storage.delete(key)
        if "create" in change:
            storage.create(key, data)
    assert look() != before


def test_a_watch_is_never_equal_to_one_of_before(storage):
    """However fast one follows the other, and whatever the bytes are."""
    key = Key("watched/one")
    look, seen = storage.abilities.watch(key), []
    for turn in range(300):
        storage.replace(key, b"%d" % (turn % 3))
        seen.append(look())
        if turn % 7 == 0:
            storage.delete(key)
            storage.create(key, b"0")
            seen.append(look())
    assert all(seen.count(one) == 1 for one in seen)


def test_a_link_to_another_version_is_a_change(storage):
    """The same name, held by the same inode again: tag to manifest, and back."""
    key = Key("watched/one")
    look = storage.abilities.watch(key)
    storage.replace(key, b"a")
    first = look()
    storage.replace(key, b"b")
    storage.replace(key, b"a")
    assert look() != first
