"""What a recorded request reads: nothing that came in the moment between the look and the read may be taken for what the look saw."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from noraflask.keys import Key
from noraflask.recording import CURRENT, Recording
from noraflask.services.watched_storage import WatchedStorage
from noraflask.storage.memory import MemoryStorage

KEY = Key("docker/app/tags/one")


class Late(MemoryStorage):
    """The object appears after the look, and before it is read."""

    def whole(self, key: Key) -> bytes:
        self.create(key, b"late")
        return super().whole(key)


@pytest.fixture
def recording() -> Iterator[Recording]:
    token = CURRENT.set(Recording())
    current = CURRENT.get()
    assert current is not None
    yield current
    CURRENT.reset(token)


def test_what_came_while_it_was_read_makes_no_plan(recording: Recording) -> None:
    """Its plan would hold whenever the object is gone, and serve it then."""
    assert WatchedStorage(Late()).whole(KEY) == b"late"
    assert recording.spoiled_by


def test_what_was_absent_at_first_and_found_later_makes_no_plan(recording: Recording) -> None:
    storage = MemoryStorage()
    watched = WatchedStorage(storage)
    assert watched.stat(KEY) is None
    storage.create(KEY, b"late")
    assert watched.stat(KEY) is not None
    assert recording.spoiled_by


@pytest.mark.parametrize("made", [lambda storage: storage.create(KEY, b"there"), lambda storage: None], ids=["there", "absent"])
def test_what_stays_as_it_is_can_be_planned(made: Callable[[MemoryStorage], object], recording: Recording) -> None:
    storage = MemoryStorage()
    made(storage)
    WatchedStorage(storage).stat(KEY)
    assert not recording.spoiled_by
    assert [look() == seen for look, seen in recording.looks.values()] == [True]
