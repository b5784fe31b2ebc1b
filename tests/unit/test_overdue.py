"""Who may not wait for a disk goes on with what is known while somebody else looks, and not for long (noraflask/services/auth/overdue.py)."""

from __future__ import annotations

import pytest

from noraflask.services.auth import overdue, tokens, users
from noraflask.services.auth.overdue import MOST_KEPT, OVERDUE_SECONDS, Overdue
from noraflask.services.auth.tokens import FRESH_SECONDS, Tokens
from noraflask.services.auth.users import Users, hash_password
from noraflask.services.documents import Documents
from noraflask.storage.memory import MemoryStorage
from tests.clock import Clock


def test_the_first_one_is_told_and_the_others_have_a_moment() -> None:
    known = Overdue()
    assert [known.may_go_on("a", 10.0, 10.0 + seconds) for seconds in (0.0, 0.01, 0.09, OVERDUE_SECONDS + 0.01, 5.0)] == [
        False,
        True,
        True,
        False,
        False,
    ]
    assert not known.may_go_on("b", 10.0, 10.0)
    assert [known.may_go_on("a", 10.5, 10.5), known.may_go_on("a", 10.5, 10.51)] == [False, True]
    assert not known.may_go_on("a", 10.5, 10.4)  # the clock was set back


def test_what_it_remembers_is_bounded() -> None:
    known = Overdue()
    for number in range(3 * MOST_KEPT):
        known.may_go_on(number, 1.0, 1.0)
    assert len(known._told) <= MOST_KEPT


def test_a_token_that_is_revoked_elsewhere_is_known_no_longer_than_that(monkeypatch: pytest.MonkeyPatch) -> None:
    storage, clock = MemoryStorage(), Clock()
    here, elsewhere = (Tokens(Documents(storage), clock=clock) for _ in range(2))
    record = here.find(here.mint("ann", "read", 3600)[1].id)
    assert record is not None
    assert here.still_known(record)
    elsewhere.revoke(record.id)
    assert here.still_known(record)  # without having asked storage
    clock.now += FRESH_SECONDS
    assert [here.still_known(record), here.still_known(record)] == [False, True]
    clock.now += OVERDUE_SECONDS + 0.001
    assert [here.still_known(record), here.still_known(record)] == [False, False]
    assert here.find(record.id) is None
    assert not here.still_known(record)


def test_a_look_that_is_made_is_good_for_all(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    clock, path = Clock(), tmp_path / "users"
    path.write_bytes(b"ann:" + hash_password("ann", 4) + b"\n")
    found = Users(path, clock=clock)
    directory = found.current()
    assert found.still_current(directory)
    clock.now += users.CHECK_SECONDS
    assert [found.still_current(directory), found.still_current(directory)] == [False, True]
    assert found.current() is directory
    assert [found.still_current(directory), found.still_current(directory)] == [True, True]
    clock.now += users.CHECK_SECONDS
    path.write_bytes(b"bob:" + hash_password("bob", 4) + b"\n")
    assert found.current() is not directory
    assert not found.still_current(directory)


def test_the_moment_is_short_beside_the_second_that_was_promised() -> None:
    assert tokens.FRESH_SECONDS + overdue.OVERDUE_SECONDS < 0.7
    assert users.CHECK_SECONDS + overdue.OVERDUE_SECONDS < 0.7
