"""Users: what the files say, line by line, what is remembered, and what is forgotten when they change."""

from __future__ import annotations

import os
from pathlib import Path

import bcrypt
import pytest

from noraflask.services.auth import users as module
from noraflask.services.auth.users import (
    Directory,
    UserFileProblem,
    Users,
    check_name,
    hash_password,
    parse_groups,
    parse_htpasswd,
    remove_user,
    set_user,
)
from tests.clock import Clock

SECRET = bcrypt.hashpw(b"secret", b"$2b$04$" + b"." * 22)
OTHER = bcrypt.hashpw(b"other", b"$2b$05$" + b"." * 22)


@pytest.fixture
def clock() -> Clock:
    return Clock(1000.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "users.htpasswd"


@pytest.fixture
def users(path: Path, tmp_path: Path, clock: Clock) -> Users:
    path.write_bytes(b"alice:" + SECRET + b"\n")
    (tmp_path / "groups").write_text("dev: alice bob\n")
    return Users(path, tmp_path / "groups", 300, clock)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The hashes that bcrypt was run on."""
    found: list[bytes] = []
    check = bcrypt.checkpw

    def checkpw(password: bytes, hashed: bytes) -> bool:
        found.append(hashed)
        return check(password, hashed)

    monkeypatch.setattr(bcrypt, "checkpw", checkpw)
    return found


# Files.


@pytest.mark.parametrize("prefix", [b"$2a$", b"$2b$", b"$2y$"])
def test_every_spelling_of_bcrypt_is_taken(prefix):
    hashes, problems = parse_htpasswd(b"# people\n\n  alice:" + prefix + SECRET[4:] + b"  \r\n", "f")
    assert (set(hashes), problems) == ({"alice"}, [])


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"bob:$apr1$x$0123456789012345678901", "Apache MD5"),
        (b"bob:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "SHA-1"),
        (b"bob:$6$salt$hash", "SHA-512 crypt"),
        (b"bob:$argon2id$v=19$x", "Argon2"),
        (b"bob:plain", "none of $2a$, $2b$ and $2y$"),
        (b"bob:", "none of $2a$, $2b$ and $2y$"),
        (b"bob:" + SECRET[:-1], "none of $2a$, $2b$ and $2y$"),
        (b"bob:$2x$" + SECRET[4:], "of a broken bcrypt"),
        (b"anonymous:" + SECRET, "without a login"),
        (b"bob", "name:hash"),
        (b":" + SECRET, "user name"),
        (b"b\xffb:" + SECRET, "user name"),
        (b"b\x01b:" + SECRET, "user name"),
        (b"bob:$2b$31$" + SECRET[7:], "cost of bob is 31"),
        (b"bob:$2b$03$" + SECRET[7:], "cost of bob is 3"),
    ],
)
def test_a_line_that_cannot_be_used_costs_its_user_alone(line, told):
    hashes, problems = parse_htpasswd(b"alice:" + SECRET + b"\n\n" + line + b"\ncarol:" + OTHER, "users.htpasswd")
    assert set(hashes) == {"alice", "carol"}
    (problem,) = problems
    assert problem.startswith("users.htpasswd:3: ")
    assert told in problem


def test_the_last_line_of_a_name_counts():
    hashes, problems = parse_htpasswd(b"alice:" + SECRET + b"\nalice:" + OTHER, "f")
    assert hashes == {"alice": OTHER}
    assert problems == ["f:2: alice is there twice; this line counts"]
    hashes, _ = parse_htpasswd(b"alice:" + SECRET + b"\nalice:broken", "f")
    assert hashes == {}, "an older password does not come to life again"


def test_groups():
    groups, problems = parse_groups(b"# x\ndev: alice, bob\nops:alice\n\nbroken line\ndev: carol\nempty:\n", "groups")
    assert groups == {"alice": {"dev", "ops"}, "bob": {"dev"}, "carol": {"dev"}}
    assert problems == ["groups:5: expected group: user user"]


def test_the_groups_of_a_user(users):
    assert users.current().groups_of("alice") == {"dev"}
    assert users.current().groups_of("nobody") == frozenset()


# Verdicts.


@pytest.mark.parametrize(
    ("name", "password", "right"),
    [
        ("alice", b"secret", True),
        ("alice", b"Secret", False),
        ("alice", b"", False),
        ("alice", b"secret\0", False),
        ("alice", b"\0", False),
        ("alice", b"x" * 5000, False),
        ("bob", b"secret", False),
        ("", b"secret", False),
        ("al\udcffice", b"secret", False),
    ],
)
def test_verify(users, name, password, right):
    assert [users.verify(name, password) for _ in range(2)] == [SECRET if right else None] * 2


def test_bcrypt_sees_no_more_than_72_bytes_as_everywhere(path, clock):
    path.write_bytes(b"alice:" + bcrypt.hashpw(b"a" * 72, bcrypt.gensalt(4)))
    assert Users(path, None, 300, clock).verify("alice", b"a" * 80)


def test_verdicts_are_remembered(users, computed, clock):
    for _ in range(5):
        assert users.verify("alice", b"secret")
        assert not users.verify("alice", b"wrong")
        assert not users.verify("bob", b"secret")
    assert len(computed) == 3
    clock.now += 301
    users.verify("alice", b"secret")
    assert len(computed) == 4


def test_a_remembered_verdict_is_gone_with_the_password(users, path, clock, computed):
    assert users.verify("alice", b"secret")
    assert not users.verify("alice", b"other")
    set_user(path, "alice", OTHER)
    clock.now += module.CHECK_SECONDS
    assert not users.verify("alice", b"secret")
    assert users.verify("alice", b"other")
    remove_user(path, "alice")
    clock.now += module.CHECK_SECONDS
    assert not users.verify("alice", b"other")


def test_another_users_line_costs_nobody_a_bcrypt(users, path, clock, computed):
    users.verify("alice", b"secret")
    set_user(path, "bob", OTHER)
    clock.now += module.CHECK_SECONDS
    assert users.verify("alice", b"secret")
    assert users.verify("bob", b"other")
    assert computed == [SECRET, OTHER]


def test_an_unknown_user_costs_what_some_user_costs(users, path, clock, computed):
    path.write_bytes(b"alice:" + SECRET + b"\ncarol:" + OTHER)
    clock.now += module.CHECK_SECONDS
    for number in range(40):
        assert not users.verify(f"nobody{number}", b"secret")
    costs = {int(hashed[4:6]) for hashed in computed}
    assert len(computed) == 40
    assert costs == {4, 5}
    fresh = Users(path, None, 300, clock)
    fresh._secret = users._secret
    before = [hashed[4:6] for hashed in computed]
    computed.clear()
    for number in range(40):
        fresh.verify(f"nobody{number}", b"again")
    assert [hashed[4:6] for hashed in computed] == before, "a name always costs the same"


def test_a_verdict_is_about_the_hash_that_was_looked_at(users, path, clock, monkeypatch):
    """The password changes while bcrypt is at work: what comes back is the old hash, so whoever is let in by it is known by the old password."""
    check = bcrypt.checkpw

    def change_meanwhile(password: bytes, hashed: bytes) -> bool:
        set_user(path, "alice", OTHER)
        clock.now += module.CHECK_SECONDS
        return check(password, hashed)

    monkeypatch.setattr(bcrypt, "checkpw", change_meanwhile)
    assert users.verify("alice", b"secret") == SECRET
    assert users.current().hashes["alice"] == OTHER
    monkeypatch.setattr(bcrypt, "checkpw", check)
    assert users.verify("alice", b"secret") is None


class Wait(Exception):
    pass


def test_what_is_asked_before_a_password_is_looked_at_may_refuse_it(users, computed):
    asked = []
    assert users.verify("alice", b"secret", lambda: asked.append("alice")) == SECRET
    users.verify("alice", b"secret", lambda: asked.append("again"))
    assert asked == ["alice"], "a verdict that is remembered is given at once"

    def refuse() -> None:
        raise Wait

    for _ in range(2):
        with pytest.raises(Wait):
            users.verify("alice", b"another", refuse)
    assert computed == [SECRET], "no bcrypt for what was refused, and no verdict"
    assert users.verify("alice", b"another") is None


def test_memory_is_bounded(users, monkeypatch, computed):
    monkeypatch.setattr(module, "VERDICTS_KEPT", 10)
    for number in range(30):
        users.verify("alice", b"wrong%d" % number)
    assert len(users._wrong) <= 10


# Changes of the files.


def look(users: Users, clock: Clock) -> Directory:
    clock.now += module.CHECK_SECONDS
    return users.current()


def test_nothing_changes_as_long_as_nothing_changes(users, path, clock):
    first = users.current()
    os.utime(path, (1, 1))
    path.write_bytes(path.read_bytes())
    assert look(users, clock) is first


def test_a_change_that_keeps_size_and_time_is_seen_while_the_file_is_young(users, path, clock):
    users.current()
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    path.write_bytes(b"alice:" + bcrypt.hashpw(b"new", bcrypt.gensalt(4)) + b"\n")
    os.utime(path, ns=times)
    look(users, clock)
    assert users.verify("alice", b"new")


def test_a_file_that_vanishes_leaves_what_was_known(users, path, clock, caplog):
    users.current()
    path.rename(path.with_suffix(".old"))
    assert set(look(users, clock).hashes) == {"alice"}
    look(users, clock)
    assert sum("cannot be read" in record.message for record in caplog.records) == 1, "told once"
    path.write_bytes(b"bob:" + OTHER)
    assert set(look(users, clock).hashes) == {"bob"}


def test_a_file_that_comes_later_counts(path, clock):
    users = Users(path, None, 300, clock)
    assert users.current().hashes == {}
    path.write_bytes(b"bob:" + OTHER)
    assert set(look(users, clock).hashes) == {"bob"}


def test_groups_change(users, tmp_path, clock):
    users.current()
    (tmp_path / "groups").write_text("ops: alice\n")
    assert look(users, clock).groups_of("alice") == {"ops"}


def test_problems_are_logged_when_they_come(users, path, clock, caplog):
    users.current()
    path.write_bytes(b"alice:" + SECRET + b"\nbob:{SHA}x")
    found = look(users, clock)
    assert found.problems[0].startswith("users.htpasswd:2: ")
    look(users, clock)
    assert sum("users.htpasswd:2" in record.message for record in caplog.records) == 1


# Editing.


def test_editing_keeps_what_it_does_not_change(path):
    path.write_bytes(b"# people\nalice:" + SECRET + b"\n\ncarol:" + OTHER)
    path.chmod(0o640)
    set_user(path, "bob", OTHER, must_exist=False)
    set_user(path, "alice", OTHER, must_exist=True)
    assert path.read_bytes() == b"# people\nalice:" + OTHER + b"\n\ncarol:" + OTHER + b"\nbob:" + OTHER + b"\n"
    assert path.stat().st_mode & 0o777 == 0o640
    remove_user(path, "carol")
    assert b"carol" not in path.read_bytes()
    assert sorted(entry.name for entry in path.parent.iterdir()) == [path.name], "nothing is left behind"


def test_a_new_file_is_for_its_owner_alone(path):
    set_user(path, "alice", SECRET)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_link_stays_a_link(path, tmp_path):
    (tmp_path / "real").write_bytes(b"")
    path.symlink_to("real")
    set_user(path, "alice", SECRET)
    assert path.is_symlink()
    assert (tmp_path / "real").read_bytes().startswith(b"alice:")


@pytest.mark.parametrize(
    "change",
    [
        lambda path: set_user(path, "alice", OTHER, must_exist=False),
        lambda path: set_user(path, "bob", OTHER, must_exist=True),
        lambda path: remove_user(path, "bob"),
        lambda path: set_user(path, "a:b", OTHER),
        lambda path: set_user(path / "none" / "x", "bob", OTHER),
    ],
)
def test_what_cannot_be_done_changes_nothing(path, change):
    path.write_bytes(b"alice:" + SECRET)
    with pytest.raises(UserFileProblem):
        change(path)
    assert path.read_bytes() == b"alice:" + SECRET


@pytest.mark.parametrize("name", ["", "a:b", "a\nb", " a", "#a", "a" * 256, "a\x7f"])
def test_names_that_are_refused(name):
    with pytest.raises(UserFileProblem):
        check_name(name)


@pytest.mark.parametrize("password", ["", "x" * 73, "a\0b", "ü" * 37])
def test_passwords_that_are_refused(password):
    with pytest.raises(UserFileProblem):
        hash_password(password, 4)


def test_a_hash_is_of_the_password(path):
    assert bcrypt.checkpw(b"pass word", hash_password("pass word", 4))


MARK = b"\xef\xbb\xbf"
"""What some editors put in front of UTF-8."""


def test_a_byte_order_mark_and_crlf_are_no_part_of_a_name(path):
    data = MARK + b"alice:" + SECRET + b"\r\nbob:" + OTHER + b"\r\n"
    assert parse_htpasswd(data, "f") == ({"alice": SECRET, "bob": OTHER}, [])
    assert parse_groups(MARK + b"dev: alice bob\r\nops:bob\r\n", "f") == ({"alice": frozenset({"dev"}), "bob": frozenset({"dev", "ops"})}, [])
    path.write_bytes(data)
    set_user(path, "alice", OTHER, must_exist=True)
    assert parse_htpasswd(path.read_bytes(), "f") == ({"alice": OTHER, "bob": OTHER}, [])
    path.write_bytes(data)
    remove_user(path, "alice")
    assert path.read_bytes() == b"bob:" + OTHER + b"\n"


def test_of_many_bad_lines_the_first_are_told():
    _, problems = parse_htpasswd(b"x\n" * 100_000, "f")
    assert problems[-1] == f"and {100_000 - module.MOST_PROBLEMS} more lines that cannot be used"
    assert len(problems) == module.MOST_PROBLEMS + 1
    assert len(parse_groups(b"x\n" * 100_000, "f")[1]) == module.MOST_PROBLEMS + 1


def test_a_file_that_is_too_large_or_no_file_leaves_what_was_known(path, users, clock, monkeypatch, caplog):
    path.write_bytes(b"alice:" + SECRET + b"\n")
    assert list(users.current().hashes) == ["alice"]
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 1024)
    path.write_bytes(b"bob:" + OTHER + b"\n#" + b"x" * 2000)
    clock.now += 10
    assert list(users.current().hashes) == ["alice"]
    assert "users.htpasswd: is larger than 1 KiB, the most that is read; what was known stays" in caplog.text
    path.unlink()
    os.mkfifo(path)
    clock.now += 10
    assert list(users.current().hashes) == ["alice"]
