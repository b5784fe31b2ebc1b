"""Listings: pages, folders and infos are those of the whole tree, and one page costs what it shows."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from noraflask.keys import Key
from noraflask.storage import Storage
from noraflask.storage.disk import DiskStorage
from tests.storage import keys_in

names = st.lists(st.text("a-./0é\U00010000\uffff", min_size=1, max_size=3), min_size=1, max_size=4).map("/".join)


def shown(keys: list[str], prefix: str, after: str, delimiter: str) -> list[str]:
    """What a listing shows, said once more in another way."""
    found = set()
    for key in keys:
        if key.startswith(prefix):
            name, slash, _ = key[len(prefix) :].partition("/") if delimiter else (key[len(prefix) :], "", "")
            found.add(prefix + name + slash)
    return sorted((key for key in found if key.encode() > after.encode()), key=str.encode)


def filled(storage: Storage, wanted: set[str]) -> tuple[str, list[str]]:
    """A folder of its own, and the keys in it: those of the wanted ones that can be there together."""
    base = os.urandom(8).hex()
    keys = []
    for name in wanted:
        parts = name.split("/")
        if not ({"", ".", ".."} & set(parts) or any(other.startswith(name + "/") or name.startswith(other + "/") for other in wanted)):
            keys.append(f"{base}/{name}")
            storage.create(Key(keys[-1]), name.encode())
    return base, keys


@given(st.sets(names, max_size=12), st.text("a-./0é", max_size=6), st.sampled_from(["", "/"]), st.none() | st.integers(0, 14))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
def test_any_listing_of_any_tree(storage, wanted, after, delimiter, limit):
    base, keys = filled(storage, wanted)
    prefixes = {f"{base}/"} | {key[: key.rindex("/") + 1] for key in keys}
    for prefix in prefixes:
        for behind in ("", prefix + after, f"{base}/{after}"):
            expected = shown(keys, prefix, behind, delimiter)[:limit]
            assert keys_in(storage, prefix, behind, limit=limit, delimiter=delimiter) == expected, (prefix, behind)


@given(st.sets(names, max_size=12), st.sampled_from(["", "/"]), st.integers(1, 4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
def test_pages_make_the_whole(storage, wanted, delimiter, size):
    base, keys = filled(storage, wanted)
    found: list[str] = []
    while page := keys_in(storage, f"{base}/", found[-1] if found else "", limit=size, delimiter=delimiter):
        assert len(page) <= size
        found += page
    assert found == shown(keys, f"{base}/", "", delimiter)


def test_entries_have_the_info_of_their_objects_and_folders_have_none(storage):
    for key, data in (("x/a", b"1"), ("x/b/c", b"22"), ("x/b/d", b""), ("x/c", b"333")):
        storage.create(Key(key), data)
    assert [(entry.key, entry.info) for entry in storage.list("x/")] == [(key, storage.stat(key)) for key in ("x/a", "x/b/c", "x/b/d", "x/c")]
    assert [(entry.key, entry.info and entry.info.size) for entry in storage.list("x/", delimiter="/")] == [("x/a", 1), ("x/b/", None), ("x/c", 3)]


def test_an_object_that_was_deleted_since_has_an_info_or_none(storage):
    storage.create(Key("x/a"), b"1")
    (entry,) = storage.list("x/")
    storage.delete(Key("x/a"))
    assert entry.info is None or entry.info.size == 1


def test_a_folder_goes_with_its_last_object(storage):
    for key in ("x/a/b/c", "x/a/d", "x/e/f/g"):
        storage.create(Key(key), b"")
    assert keys_in(storage, "x/", delimiter="/") == ["x/a/", "x/e/"]
    storage.delete(Key("x/a/d"))
    storage.delete(Key("x/e/f/g"))
    assert keys_in(storage, "x/", delimiter="/") == ["x/a/"]
    storage.delete(Key("x/a/b/c"))
    assert keys_in(storage, "x/", delimiter="/") == keys_in(storage, "", delimiter="/") == []


@pytest.mark.parametrize("delimiter", ["", "/"])
def test_a_page_looks_at_nothing_beside_it(tmp_path, monkeypatch, delimiter):
    """Neither into folders that are not shown nor at objects nobody asked about."""
    storage = DiskStorage(tmp_path / "storage")
    for number in range(20):
        storage.create(Key(f"names/{number:02}/x"), b"")
    looked, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: (looked.append(os.path.basename(str(folder).rstrip("/"))), scandir(folder))[1])
    monkeypatch.setattr(DiskStorage, "stat", None)
    end = "/" if delimiter else "/x"
    assert keys_in(storage, "names/", f"names/04{end}", limit=3, delimiter=delimiter) == [f"names/{number:02}{end}" for number in (5, 6, 7)]
    assert looked == ["names", *(["04"] if not delimiter else []), "05", "06", "07"]
    storage.close()
