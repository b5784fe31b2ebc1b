"""Failed logins as a table of stories: who has to wait, for how long, and who never has to."""

from __future__ import annotations

import mmap

import pytest

from noraflask.services.auth.lockout import LockedOut, Lockout
from noraflask.services.client_network import network_of
from noraflask.services.shared_table import SET_SLOTS
from tests.clock import Clock

HERE, THERE = "192.0.2.1", "198.51.100.7"


@pytest.fixture
def clock() -> Clock:
    return Clock(1000.0)


@pytest.fixture
def lockout(clock: Clock) -> Lockout:
    return Lockout(clock, b"secret")


def wait(lockout: Lockout, client: str = HERE, account: str = "joe") -> int:
    """Seconds that this login has to wait; 0: none."""
    try:
        lockout.check(client, account)
    except LockedOut as error:
        return error.retry_after_seconds
    return 0


def guess(lockout: Lockout, count: int, client: str = HERE, account: str = "joe", first: int = 0) -> None:
    for number in range(first, first + count):
        lockout.failed(client, account, f"guess {number}")


def crowd(lockout: Lockout, count: int, account: str = "joe") -> None:
    """Wrong passwords for one account, each from a client of its own."""
    for number in range(count):
        lockout.failed(f"203.0.{number // 250}.{number % 250}", account, "guess")


@pytest.mark.parametrize(
    ("guesses", "seconds"), [(0, 0), (4, 0), (5, 1), (6, 2), (7, 4), (8, 8), (14, 512), (15, 900), (16, 900), (49, 900), (2000, 900)]
)
def test_different_wrong_passwords_of_a_client_for_an_account(guesses, seconds, lockout):
    guess(lockout, guesses)
    assert wait(lockout) == seconds


@pytest.mark.parametrize(("accounts", "seconds"), [(49, 0), (50, 1), (51, 2), (59, 512), (60, 900), (70, 900)])
def test_different_wrong_passwords_of_a_client_for_any_accounts(accounts, seconds, lockout):
    for number in range(accounts):
        guess(lockout, 1, account=f"user {number}")
    assert wait(lockout, account="joe") == seconds
    assert wait(lockout, client=THERE, account="joe") == 0


def test_a_lock_ends_when_it_said(lockout, clock):
    guess(lockout, 7)
    clock.now += 3.5
    assert wait(lockout) == 1
    clock.now += 0.5
    assert wait(lockout) == 0


def test_a_shorter_lock_of_another_does_not_end_a_longer_one(lockout, clock):
    guess(lockout, 10)
    guess(lockout, 5, THERE)
    clock.now += 2
    assert wait(lockout) == 30


def test_the_longer_of_two_locks_is_told(lockout):
    guess(lockout, 8)
    for number in range(45):
        guess(lockout, 1, account=f"user {number}")
    assert wait(lockout, account="other") == 8  # 53 of this client
    guess(lockout, 1, first=100)
    assert wait(lockout) == 16


def test_the_same_wrong_password_counts_once(lockout):
    for _ in range(1000):
        guess(lockout, 4)
    assert wait(lockout) == 0
    assert lockout.counters() == {"failures": 4000, "repeated": 3996, "refused": 0}
    guess(lockout, 1, first=4)
    assert wait(lockout) == 1


def test_eight_wrong_passwords_are_remembered(lockout):
    guess(lockout, 8)
    assert wait(lockout) == 8
    guess(lockout, 8)
    assert wait(lockout) == 8
    guess(lockout, 1, first=8)
    guess(lockout, 1, first=0)  # pushed out by the ninth
    assert wait(lockout) == 32


@pytest.mark.parametrize("other", [(THERE, "joe"), (HERE, "ann"), (THERE, "ann")])
def test_a_locked_pair_keeps_out_nobody_else(other, lockout):
    guess(lockout, 40)
    assert wait(lockout) == 900
    assert wait(lockout, *other) == 0


def test_the_right_password_clears_the_pair_and_not_the_client(lockout):
    for number in range(49):
        guess(lockout, 1, account=f"user {number % 12}", first=number)
    guess(lockout, 4)
    assert wait(lockout, account="other") == 8  # 53
    lockout.succeeded(HERE, "joe")
    assert wait(lockout, account="other") == 8
    guess(lockout, 4)
    assert wait(lockout, account="other") == 128  # the same words again are new to a pair that started afresh
    assert wait(lockout) == 128


def test_the_right_password_ends_a_lock_of_the_pair(lockout):
    guess(lockout, 6)
    lockout.succeeded(HERE, "joe")
    assert wait(lockout) == 0
    guess(lockout, 4)
    assert wait(lockout) == 0


def test_the_right_password_clears_the_pair_of_one_that_is_known_already(lockout):
    lockout.succeeded(HERE, "joe")
    guess(lockout, 4)
    lockout.succeeded(HERE, "joe")
    guess(lockout, 4, first=10)
    assert wait(lockout) == 0


def test_a_pair_is_forgotten_half_an_hour_after_its_last_failure(lockout, clock):
    guess(lockout, 4)
    clock.now += 1800
    guess(lockout, 1, first=4)
    assert wait(lockout) == 1
    clock.now += 1800.5
    guess(lockout, 1, first=5)
    assert wait(lockout) == 0


def test_a_repeated_password_is_a_failure_too_and_keeps_the_count(lockout, clock):
    for _ in range(10):
        guess(lockout, 4)
        clock.now += 1700
    guess(lockout, 1, first=4)
    assert wait(lockout) == 1


def test_a_client_is_counted_in_half_an_hour_only(lockout, clock):
    """An office behind one address, whose people mistype now and then, is never locked."""
    for number in range(500):
        guess(lockout, 1, account=f"user {number}")
        clock.now += 45
        assert wait(lockout) == 0


def test_a_client_that_is_faster_than_that_is_locked_and_stays_so(lockout, clock):
    for number in range(120):
        guess(lockout, 1, account=f"user {number}")
        clock.now += 20
    assert wait(lockout) > 800


@pytest.mark.parametrize(
    ("first", "second"),
    [("2001:db8::1", "2001:db8::ffff:0:0:2"), ("::ffff:192.0.2.1", HERE), ("2001:DB8:0:0::1", "2001:db8::2"), ("fe80::1%eth0", "fe80::2")],
)
def test_addresses_of_one_client(first, second, lockout):
    assert network_of(first) == network_of(second)
    guess(lockout, 5, client=first)
    assert wait(lockout, client=second) == 1


@pytest.mark.parametrize(
    ("first", "second"),
    [("2001:db8::1", "2001:db8:0:1::1"), (HERE, THERE), ("::ffff:192.0.2.1", "::ffff:192.0.2.2"), ("::1", "127.0.0.1"), ("", HERE)],
)
def test_addresses_of_two_clients(first, second, lockout):
    guess(lockout, 5, client=first)
    assert wait(lockout, client=second) == 0


@pytest.mark.parametrize(("client", "account", "password"), [("", "", ""), ("unix", "\ud800", "\udfff"), (HERE, "a\0b" * 9999, "😀" * 9999)])
def test_any_text_is_a_name(client, account, password, lockout):
    lockout.succeeded(client, account)
    for number in range(5):
        lockout.failed(client, account, password + str(number))
    assert wait(lockout, client, account) == 1


def test_names_that_look_alike_when_joined_are_different(lockout):
    guess(lockout, 5, client="a", account="bc")
    assert wait(lockout, client="ab", account="c") == 0


def test_a_hundred_clients_at_one_account_make_nobody_wait(lockout):
    crowd(lockout, 96)
    guess(lockout, 4)
    assert wait(lockout) == 0
    guess(lockout, 1, THERE)
    assert wait(lockout, THERE) == 1, "the 101st is one too many"


@pytest.mark.parametrize(("guesses", "seconds"), [(0, 0), (1, 1), (2, 2), (4, 8), (11, 900)])
def test_under_a_crowd_a_new_client_has_one_guess_and_then_waits(guesses, seconds, lockout):
    crowd(lockout, 101)
    guess(lockout, guesses)
    assert wait(lockout) == seconds
    assert wait(lockout, account="ann") == 0


def test_under_a_crowd_nobody_takes_the_turn_of_a_user(lockout, clock):
    """Whoever guesses, at whatever pace: a client that is new and knows the password is looked at at once, and waits for nobody."""
    crowd(lockout, 101)
    for number in range(200):
        clock.now += 0.1
        assert [wait(lockout, HERE) for _ in range(3)] == [0] * 3
        lockout.failed(f"198.18.0.{number}", "joe", "guess")
        assert wait(lockout, f"198.18.0.{number}") == 1
        guess(lockout, 1, THERE, first=number)
    assert wait(lockout, THERE) > 1
    lockout.succeeded(HERE, "joe")
    assert wait(lockout, HERE) == 0


def test_a_crowd_keeps_out_nobody_who_logged_in_before(lockout):
    lockout.succeeded(HERE, "joe")
    crowd(lockout, 1000)
    guess(lockout, 4)
    assert wait(lockout) == 0
    guess(lockout, 1, first=4)
    assert wait(lockout) == 1, "by the usual count"
    guess(lockout, 1, THERE)
    assert wait(lockout, THERE) == 1


def test_who_mistyped_once_under_a_crowd_and_then_knew_the_password_is_known(lockout, clock):
    crowd(lockout, 101)
    guess(lockout, 1)
    clock.now += 1
    assert wait(lockout) == 0
    lockout.succeeded(HERE, "joe")
    guess(lockout, 4)
    assert wait(lockout) == 0


@pytest.mark.parametrize(("days", "waits"), [(29, 0), (31, 1)])
def test_a_client_is_known_for_thirty_days(days, waits, lockout, clock):
    lockout.succeeded(HERE, "joe")
    clock.now += days * 86400
    crowd(lockout, 101)
    guess(lockout, 1)
    assert wait(lockout) == waits


def test_each_login_makes_a_client_known_anew(lockout, clock):
    for _ in range(2):
        lockout.succeeded(HERE, "joe")
        clock.now += 20 * 86400
    crowd(lockout, 101)
    guess(lockout, 1)
    assert wait(lockout) == 0


def test_a_crowd_is_forgotten_after_a_quarter_of_an_hour(lockout, clock):
    crowd(lockout, 101)
    clock.now += 901
    guess(lockout, 4)
    assert wait(lockout) == 0


def test_a_crowd_that_comes_slowly_is_none(lockout, clock):
    for number in range(300):
        lockout.failed(f"203.0.{number // 250}.{number % 250}", "joe", "guess")
        clock.now += 10
    guess(lockout, 4)
    assert wait(lockout) == 0


def test_one_client_with_an_old_password_is_no_crowd(lockout):
    for _ in range(200):
        guess(lockout, 1)
    guess(lockout, 4, THERE)
    assert wait(lockout, THERE) == 0


def test_active_from_the_first_lock_until_the_last_one_ends(lockout, clock):
    guess(lockout, 4)
    lockout.succeeded(THERE, "joe")
    assert not lockout.active
    guess(lockout, 2, first=4)
    assert lockout.active
    clock.now += 1.9
    assert lockout.active
    clock.now += 0.1
    assert not lockout.active


def test_a_crowd_locks_no_one_but_its_own(lockout, clock):
    crowd(lockout, 100)
    assert not lockout.active
    crowd(lockout, 101)
    guess(lockout, 1)
    assert lockout.active
    clock.now += 1
    assert not lockout.active, "a credential that is remembered is good again without a look at the table"


def test_without_a_lock_of_anybody_check_and_success_take_no_lock(lockout, monkeypatch):
    lockout.succeeded(HERE, "joe")
    monkeypatch.setattr(lockout, "_lock", None)
    assert wait(lockout) == 0
    lockout.succeeded(HERE, "joe")


def test_counters(lockout):
    guess(lockout, 6)
    guess(lockout, 6)
    for _ in range(3):
        wait(lockout)
    wait(lockout, THERE)
    assert lockout.counters() == {"failures": 12, "repeated": 6, "refused": 3}
    crowd(lockout, 101, account="ann")
    guess(lockout, 1, THERE, "ann")
    for _ in range(2):
        wait(lockout, THERE, "ann")
        wait(lockout, "198.18.0.1", "ann")
    assert lockout.counters() == {"failures": 114, "repeated": 6, "refused": 5}


@pytest.mark.parametrize(("seconds", "header"), [(0.0, "1"), (0.2, "1"), (1, "1"), (1.01, "2"), (900, "900")])
def test_the_error_tells_when_to_come_again(seconds, header):
    error = LockedOut(retry_after_seconds=seconds)
    assert (error.status, error.headers) == (429, {"Retry-After": header})
    assert error.retry_after_seconds == int(header)
    assert f"try again in {header} second" in error.message


def test_the_message_of_a_locked_client(lockout):
    guess(lockout, 7)
    with pytest.raises(LockedOut, match=r"^too many failed logins from this address; try again in 4 seconds, or log in with an API token$"):
        lockout.check(HERE, "joe")


def test_a_full_table_keeps_its_size_and_works(clock):
    lockout = Lockout(clock, b"secret", slots=64)
    size = len(lockout._wrong._memory)
    guess(lockout, 6, client="2001:db8::", account="locked")
    for number in range(2000):
        lockout.failed(f"2001:db8:0:{number:x}::", f"user {number}", "guess")
    assert len(lockout._wrong._memory) == size
    assert wait(lockout, "2001:db8::", "locked") == 2
    guess(lockout, 5, client=HERE, account="new")
    assert wait(lockout, account="new") == 1


def test_a_set_that_is_full_of_locks_gives_up_the_one_least_recently_used(clock):
    lockout = Lockout(clock, b"secret", slots=SET_SLOTS)
    for number in range(40):
        clock.now += 0.01
        guess(lockout, 10, client=f"10.0.0.{number}", account=f"user {number}")
    waits = [wait(lockout, f"10.0.0.{number}", f"user {number}") for number in range(40)]
    assert waits == [0] * 25 + [32] * 15  # one slot of the 16 is left for counts that lock nobody


def test_forgotten_entries_make_room_first(clock):
    lockout = Lockout(clock, b"secret", slots=SET_SLOTS)
    guess(lockout, 4)
    clock.now += 1
    guess(lockout, 4, client=THERE)
    clock.now += 1799.5  # the first pair and its client are forgotten, the second is not
    for number in range(4):
        guess(lockout, 1, client=f"10.0.0.{number}", account="ann")
    guess(lockout, 1, client=THERE, first=4)
    assert wait(lockout, client=THERE) == 1


def torn(lockout: Lockout, before: bytes, after: bytes, length: int) -> None:
    """As if a process had been killed when so many bytes of each record were written."""
    size = lockout._wrong.RECORD.size
    for start in range(0, len(after), size):
        lockout._wrong._memory[start : start + size] = after[start : start + length] + before[start + length : start + size]


@pytest.mark.parametrize("length", range(0, 97, 3))
def test_a_torn_record_does_no_lasting_harm(length, clock):
    lockout = Lockout(clock, b"secret", slots=SET_SLOTS)
    guess(lockout, 3, client=THERE)
    before = bytes(lockout._wrong._memory)
    clock.now += 123.456
    guess(lockout, 30, account="other")
    guess(lockout, 12, client=THERE)
    torn(lockout, before, bytes(lockout._wrong._memory), length)
    for client in (HERE, THERE):
        assert wait(lockout, client) <= 900
        guess(lockout, 1, client, first=50)
    clock.now += 1801
    for client in (HERE, THERE):
        assert wait(lockout, client) == 0
        guess(lockout, 5, client)
        assert wait(lockout, client) == 1


def test_records_that_were_torn_into_the_future_give_way(clock):
    lockout = Lockout(clock, b"secret", slots=SET_SLOTS)
    for slot in range(SET_SLOTS):
        lockout._wrong.RECORD.pack_into(lockout._wrong._memory, slot * lockout._wrong.RECORD.size, slot + 1, 1e18, 1e18, 99, *range(8))
    for number in range(50):
        guess(lockout, 1, account=f"user {number % 3}", first=number)
    assert wait(lockout, account="other") == 1


def test_a_lock_that_no_count_could_cause_is_none(lockout, clock):
    guess(lockout, 15)
    entry = lockout._wrong.find(lockout._keys(HERE, "joe").pair, clock.now)
    entry.until = clock.now + 1e9
    lockout._wrong.keep(entry, clock.now)
    assert wait(lockout) == 0


def test_no_password_and_no_name_is_in_memory(lockout):
    lockout.failed(HERE, "joe-in-clear", "word-in-clear")
    memory: mmap.mmap = lockout._wrong._memory
    assert memory.find(b"in-clear") == -1
    assert memory.find(HERE.encode()) == -1


def test_marks_depend_on_the_secret(clock):
    assert Lockout(clock)._hash("password", "word") != Lockout(clock)._hash("password", "word")
