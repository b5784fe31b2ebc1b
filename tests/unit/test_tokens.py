"""API tokens and signed tokens on memory storage; a second object on it is another worker, or another node."""

from __future__ import annotations

import base64
import json
import threading

import pytest
from argon2 import PasswordHasher
from hypothesis import given, settings
from hypothesis import strategies as st

from noraflask.errors import StorageReadOnly, Unavailable
from noraflask.services.auth import tokens as module
from noraflask.services.auth.credentials import kid_of
from noraflask.services.auth.principal import Action, Scope
from noraflask.services.auth.scopes import parse_scope, parse_scopes
from noraflask.services.auth.signing import LOOK_SECONDS, BadToken, Signer
from noraflask.services.auth.tokens import FRESH_SECONDS, TokenRecord, Tokens, parse_record, render_record
from noraflask.services.documents import Documents
from noraflask.storage.memory import MemoryStorage
from tests.clock import Clock
from tests.storage import keys_in

SCOPES = (Scope(frozenset((Action.PULL, Action.PUSH)), ("docker",), ("team/**",)),)
DAY = 86400


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


def worker(storage: MemoryStorage, clock: Clock) -> Tokens:
    return Tokens(Documents(storage, "_auth/tokens/"), 300, clock)


@pytest.fixture
def tokens(storage: MemoryStorage, clock: Clock) -> Tokens:
    return worker(storage, clock)


def everything(storage: MemoryStorage) -> bytes:
    return b"".join(storage.whole(key) + key.encode() for key in keys_in(storage))


def test_a_token_is_found_and_is_not_kept(tokens, storage):
    token, record = tokens.mint("alice", "write", 60, "for CI", SCOPES)
    assert token.startswith("nra_")
    assert len(token) == 36
    assert tokens.check(token) == record
    assert (record.user, record.role, record.description, record.scopes, record.service) == ("alice", "write", "for CI", SCOPES, False)
    assert token.removeprefix("nra_").encode() not in everything(storage)


@pytest.mark.parametrize(
    "text", ["", "nra_", "nra_" + "0" * 31, "nra_" + "0" * 33, "NRA_" + "0" * 32, "nra_" + "G" * 32, "nra_../../../../../../etc/passwd1"]
)
def test_what_is_no_token_is_not_looked_up(tokens, monkeypatch, text):
    monkeypatch.setattr(tokens, "find", lambda id: pytest.fail("looked up"))
    assert tokens.check(text) is None


def test_the_first_half_of_a_hash_is_not_enough(tokens, storage):
    token, record = tokens.mint("alice", "read", 60)
    storage.replace(f"_auth/tokens/{record.id}.json", render_record(record).replace(record.hash[16:].encode(), b"0" * 48))
    assert worker(storage, Clock()).check(token) is None


def test_expiry_is_told_by_the_record(tokens, clock):
    token, _ = tokens.mint("alice", "read", 60)
    clock.now += 59
    assert not tokens.check(token).is_expired(clock.now)
    clock.now += 1
    assert tokens.check(token).is_expired(clock.now)


def test_a_revocation_reaches_other_workers(tokens, storage, clock):
    other = worker(storage, clock)
    token, record = tokens.mint("alice", "read", 60)
    assert other.check(token)
    assert tokens.revoke(record.id)
    assert tokens.check(token) is None, "at once here"
    clock.now += FRESH_SECONDS
    assert other.check(token) is None
    assert not tokens.revoke(record.id)


def test_a_rotation_beside_a_revocation_brings_nothing_back(tokens, storage, clock, monkeypatch):
    """Another node has read the record, and writes it when the revocation is done."""
    token, record = tokens.mint("alice", "read", 3600)
    other = worker(storage, clock)
    mint = other.mint
    monkeypatch.setattr(other, "mint", lambda *arguments: (tokens.revoke(record.id), mint(*arguments))[1])
    other.rotate(record.id, overlap=60)
    clock.now += FRESH_SECONDS
    assert f"_auth/tokens/{record.id}.json" not in keys_in(storage)
    storage.replace(f"_auth/tokens/{record.id}.json", render_record(record))  # by a node that knows nothing of versions
    assert other.check(token) is None
    assert tokens.check(token) is None


@pytest.mark.parametrize("overlap", [0, 60])
def test_a_record_that_another_worker_remembers_does_not_outrun_a_revocation(tokens, storage, clock, overlap):
    token, record = tokens.mint("alice", "read", 3600)
    other = worker(storage, clock)
    assert other.check(token)
    tokens.revoke(record.id)
    assert other.check(token), "the test is of no use unless the other worker still remembers it"
    assert other.rotate(record.id, overlap) is None
    assert tokens.list() == []


def test_a_rotation_that_a_revocation_overtakes_makes_no_token(tokens, storage, clock, monkeypatch):
    _, record = tokens.mint("alice", "read", 3600)
    other = worker(storage, clock)
    mint = other.mint
    monkeypatch.setattr(other, "mint", lambda *arguments: (tokens.revoke(record.id), mint(*arguments))[1])
    assert other.rotate(record.id) is None
    assert tokens.list() == []


def test_a_worker_that_knew_of_no_token_yet_revokes_it(tokens, storage, clock):
    other = worker(storage, clock)
    token, record = tokens.mint("alice", "read", 60)
    assert len(other._read) == 0
    other._read.put(record.id, (None, clock.now), 0)
    assert other.revoke(record.id)
    clock.now += FRESH_SECONDS
    assert tokens.check(token) is None


def test_six_parallel_rotations_give_one_token(tokens, storage, clock):
    """Each in a worker of its own that has read the record before any has marked it."""
    _, record = tokens.mint("alice", "read", 3600)
    barrier, made = threading.Barrier(6), []

    def rotate() -> None:
        mine = worker(storage, clock)
        mint = mine.mint
        mine.mint = lambda *arguments: (barrier.wait(), mint(*arguments))[1]
        made.append(mine.rotate(record.id))

    threads = [threading.Thread(target=rotate) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (found,) = [pair for pair in made if pair is not None]
    assert len(made) == 6
    assert tokens.list() == [found[1]]
    assert tokens.check(found[0])


def test_a_rotation_that_keeps_its_end(tokens, clock):
    old, record = tokens.mint("alice", "write", 10 * DAY)
    for days in (4, 5):
        clock.now += days * DAY
        new, made = tokens.rotate(record.id, keep_end=True)
        assert made.expires_at == 1_800_000_000 + 10 * DAY
        record = made
    clock.now += DAY
    assert tokens.check(new).is_expired(clock.now)
    assert tokens.check(old) is None
    assert tokens.rotate(record.id, keep_end=True) is None


def test_rotation(tokens, clock):
    old, record = tokens.mint("alice", "write", 10 * DAY, "x", SCOPES, service=True)
    clock.now += 9 * DAY
    new, made = tokens.rotate(record.id)
    assert tokens.check(old) is None
    assert tokens.check(new) == made
    assert (made.user, made.role, made.description, made.scopes, made.service) == ("alice", "write", "x", SCOPES, True)
    assert made.expires_at == int(clock.now) + 10 * DAY, "as long as the old one was made for"


def test_rotation_with_an_overlap(tokens, clock):
    old, record = tokens.mint("alice", "write", DAY)
    new, _ = tokens.rotate(record.id, overlap=60)
    clock.now += 59
    assert not tokens.check(old).is_expired(clock.now)
    clock.now += 1
    assert tokens.check(old).is_expired(clock.now)
    assert not tokens.check(new).is_expired(clock.now)


def test_an_overlap_does_not_make_a_token_live_longer(tokens, clock):
    old, record = tokens.mint("alice", "write", 30)
    tokens.rotate(record.id, overlap=600)
    clock.now += 30
    assert tokens.check(old).is_expired(clock.now)
    assert tokens.rotate(record.id) is None, "what has expired is not rotated"


def test_listing(tokens, clock):
    made = []
    for user in ("alice", "bob", "alice"):
        clock.now += 1
        made.append(tokens.mint(user, "read", 60)[1].id)
    assert [record.id for record in tokens.list("alice")] == [made[2], made[0]]
    assert [record.id for record in tokens.list()] == made[::-1]
    assert tokens.revoke_all("alice") == 2
    assert [record.id for record in tokens.list()] == [made[1]]


# Uses.


def test_uses_are_written_now_and_then(tokens, storage, clock, monkeypatch):
    _, record = tokens.mint("alice", "read", DAY)
    written = []
    replace = storage.replace
    monkeypatch.setattr(storage, "replace", lambda key, data: (written.append(key), replace(key, data)))
    for _ in range(1000):
        tokens.used(record.id)
    assert not written
    for _ in range(3):
        tokens.flush()
    assert written == [f"_auth/tokens/used/{record.id}"]
    assert worker(storage, clock).list("alice")[0].last_used == int(clock.now)


def test_a_use_is_seen_before_it_is_written(tokens, clock):
    _, record = tokens.mint("alice", "read", DAY)
    assert tokens.list()[0].last_used is None
    tokens.used(record.id)
    assert tokens.list()[0].last_used == int(clock.now)


def test_a_late_note_of_a_use_brings_nothing_back(tokens, storage, clock):
    other = worker(storage, clock)
    token, record = tokens.mint("alice", "read", DAY)
    other.check(token)
    other.used(record.id)
    tokens.revoke(record.id)
    other.flush()
    clock.now += FRESH_SECONDS
    assert other.check(token) is None
    assert tokens.list() == []


def test_uses_on_read_only_storage_are_kept_for_later(tokens, storage, monkeypatch, clock):
    _, record = tokens.mint("alice", "read", DAY)
    tokens.used(record.id)

    def refuse(key, data):
        raise StorageReadOnly()

    with monkeypatch.context() as patch:
        patch.setattr(storage, "replace", refuse)
        tokens.flush()
    tokens.flush()
    assert worker(storage, clock).list()[0].last_used == int(clock.now)


def test_sweep(tokens, storage, clock):
    old, _ = tokens.mint("alice", "read", DAY)
    young, _ = tokens.mint("alice", "read", 90 * DAY)
    gone = tokens.mint("alice", "read", DAY)[1]
    tokens.revoke(gone.id)
    storage.replace(f"_auth/tokens/{gone.id}.json", render_record(gone))  # by a rotation that came late
    clock.now += 40 * DAY
    tokens.sweep()
    names = {key.rpartition("/")[2].removesuffix(".json") for key in keys_in(storage)}
    assert gone.id not in names
    assert tokens.check(old) is None
    assert tokens.check(young)
    clock.now += 2 * DAY
    tokens.sweep()
    assert len(keys_in(storage)) == 1, "marks go once nothing needs them"


# Records.


def test_records_go_there_and_back():
    for record in (
        TokenRecord("0" * 16, "f" * 64, "alice", "read", 1, 2),
        TokenRecord("0" * 16, "f" * 64, "älice", "admin", 1, 2, "text", SCOPES, True, 60),
    ):
        parsed = parse_record(record.id, render_record(record))
        assert parsed == record


def test_nora_refuses_a_record_with_scopes(tokens, storage):
    """It knows no scopes and would forget them; a role that it does not know it refuses."""
    for role in ("read", "write", "admin"):
        token, record = tokens.mint("alice", role, 60, scopes=SCOPES)
        members = json.loads(storage.whole(f"_auth/tokens/{record.id}.json"))
        assert (members["role"], members["cut_role"]) == ("scoped", role)
        assert worker(storage, Clock()).check(token) == record
        del members["scopes"]
        storage.replace(f"_auth/tokens/{record.id}.json", json.dumps(members).encode())
        assert worker(storage, Clock()).check(token) is None, "what it was cut to is missing, so it is nothing"
    token, record = tokens.mint("alice", "read", 60)
    members = json.loads(storage.whole(f"_auth/tokens/{record.id}.json"))
    assert members["role"] == "read"
    assert "cut_role" not in members


def test_a_record_that_cannot_be_read_hides_no_others(tokens, storage, clock, monkeypatch, caplog):
    ids = [tokens.mint("alice", "read", 60)[1].id for _ in range(3)]
    monkeypatch.setattr(storage, "open", broken_for(storage, ids[1]))
    assert {record.id for record in tokens.list("alice")} == {ids[0], ids[2]}
    assert f"the record of API token {ids[1]} cannot be read, it is left out" in caplog.text
    clock.now += 40 * DAY
    tokens.sweep()
    assert [key for key in keys_in(storage) if key.endswith(".json")] == [f"_auth/tokens/{ids[1]}.json"]


def broken_for(storage: MemoryStorage, id: str):
    real = storage.open

    def open_(key, *arguments):
        if id in key:
            raise Unavailable("the storage does not answer")
        return real(key, *arguments)

    return open_


def test_a_record_of_noras(tokens, storage, clock):
    """Argon2id, no members of ours; whether it stands for itself is told by whether its user is one of ours."""
    token = "nra_" + "5" * 32
    id = module.hashlib.sha256(token.encode()).hexdigest()[:16]
    members = {
        "token_hash": PasswordHasher(time_cost=1, memory_cost=64).hash(token),
        "user": "ci",
        "created_at": 1_700_000_000,
        "expires_at": 1_900_000_000,
        "last_used": 1_750_000_000,
        "description": None,
    }
    storage.create(f"_auth/tokens/{id}.json", json.dumps(members).encode())
    record = tokens.check(token)
    assert (record.user, record.role, record.service) == ("ci", "read", None)
    assert tokens.list()[0].last_used == 1_750_000_000
    assert tokens.check("nra_" + "6" * 32) is None
    storage.replace(f"_auth/tokens/{id}.json", json.dumps({**members, "token_hash": members["token_hash"][:-4] + "AAAA"}).encode())
    clock.now += FRESH_SECONDS
    assert tokens.check(token) is None, "what was right once is asked again when the hash is another one"
    _, made = tokens.rotate(id)
    assert worker(storage, clock).find(made.id).service is None, "nor does a rotation make up who it is"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b'{"token_hash": 1, "user": "a", "created_at": 1, "expires_at": 2}',
        b'{"token_hash": "x", "user": "a", "created_at": "1", "expires_at": 2}',
        b'{"token_hash": "x", "user": "a", "created_at": 1, "expires_at": 2, "role": "god"}',
        b'{"token_hash": "x", "user": "a", "created_at": 1, "expires_at": 2, "role": []}',
        b'{"token_hash": "x", "user": "a", "created_at": 1, "expires_at": 2, "lifetime": "1"}',
        b'{"token_hash": "x", "user": "a", "created_at": 1, "expires_at": 2, "last_used": "a"}',
        b'{"token_hash": "x", "user": "a", "created_at": 1, "expires_at": 2, "description": 5}',
        b'{"token_hash": "x", "user": "a", "created_at": 1, "expires_at": 2, "service": 1}',
        b'{"token_hash": "x", "user": "a", "created_at": 1, "expires_at": 2, "scopes": 1}',
        b'{"token_hash": "x", "user": "a", "created_at": true, "expires_at": 2}',
        b'{"token_hash": "x", "user": "a", "created_at": 1, "expires_at": 2, "scopes": [{}]}',
        b'{"token_hash": "x", "user": "a", "created_at": 1, "expires_at": 2, "role": "scoped"}',
        b'{"token_hash": "x", "user": "a", "created_at": 1, "expires_at": 2, "role": "read", "scopes": [{"actions": ["pull"]}]}',
    ],
)
def test_a_broken_record_is_refused(tokens, storage, data):
    token, record = tokens.mint("alice", "read", 60)
    storage.replace(f"_auth/tokens/{record.id}.json", data)
    assert worker(storage, Clock()).check(token) is None
    assert tokens.list() == []
    tokens.sweep()


# Scopes.


@pytest.mark.parametrize(
    ("value", "actions"),
    [
        ({"actions": ["pull"]}, {"pull"}),
        ({"actions": ["read", "push"]}, {"pull", "push"}),
        ({"actions": ["write"], "names": ["a/*", "**"], "repositories": ["docker"]}, {"pull", "push", "delete"}),
        ({"actions": ["admin"]}, {"pull", "push", "delete", "admin"}),
    ],
)
def test_scopes(value, actions):
    assert {action.value for action in parse_scope(value).actions} == actions


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        "pull",
        [{"actions": []}],
        [{"actions": "pull"}],
        [{"actions": ["pull"], "names": []}],
        [{"actions": ["pull"], "names": ["a**b"]}],
        [{"actions": ["pull"], "names": ["a b"]}],
        [{"actions": ["pull"], "names": ["{user}"]}],
        [{"actions": ["pull"], "name": ["a"]}],
        [{"actions": ["public"]}],
        [{"actions": ["login"]}],
        [{"actions": [1]}],
        [{"names": ["a"]}],
        [{"actions": ["pull"]}] * 101,
    ],
)
def test_scopes_that_are_refused(value):
    with pytest.raises(ValueError, match=r"."):
        parse_scopes(value)


# Signed tokens.


def signer(storage: MemoryStorage, clock: Clock) -> Signer:
    return Signer(Documents(storage, "_auth/keys/"), 3600, clock)


@pytest.fixture
def ours(storage: MemoryStorage, clock: Clock) -> Signer:
    found = signer(storage, clock)
    found.start()
    return found


def kid(signer: Signer) -> str:
    return signer.keys()[0][0]


def test_signed_tokens_are_good_in_every_worker(ours, storage, clock):
    token, issued, lifetime = ours.sign({"sub": "alice"}, 60)
    assert (issued, lifetime) == (int(clock.now), 60)
    assert signer(storage, clock).read(token, kid(ours))["sub"] == "alice"


def test_a_start_makes_a_key_only_where_there_is_none(ours, storage, clock):
    again = signer(storage, clock)
    again.start()
    assert again.keys() == ours.keys()


def test_signed_tokens_end(ours, clock):
    token, _, _ = ours.sign({"sub": "alice"}, 60)
    clock.now += 60
    with pytest.raises(BadToken, match="expired"):
        ours.read(token, kid(ours))


def test_a_token_from_the_future_is_refused(ours, clock):
    token, _, _ = ours.sign({"sub": "alice"}, 600)
    clock.now -= 60
    with pytest.raises(BadToken):
        ours.read(token, kid(ours))


def test_rotation_of_keys(ours, storage, clock):
    other = signer(storage, clock)
    first = kid(ours)
    token, _, _ = ours.sign({"sub": "alice"}, 3600)
    assert other.read(token, first)["sub"] == "alice"
    clock.now += 0.1
    second = ours.rotate()
    newer, _, _ = ours.sign({"sub": "bob"}, 3600)
    assert other.read(newer, second)["sub"] == "bob", "also before the time for another look has come"
    clock.now += LOOK_SECONDS
    assert (kid(ours), kid(other)) == (second, second)
    assert other.read(token, first)["sub"] == "alice"
    assert kid_of(other.sign({}, 60)[0]) == second


def test_old_keys_go_when_nothing_of_theirs_can_be_good(ours, clock):
    first = kid(ours)
    clock.now += 10
    second = ours.rotate()
    clock.now += 3590
    ours.rotate()
    assert ours.holds(first), "the second key is not yet as old as the longest token lives"
    clock.now += 20
    ours.rotate()
    assert not ours.holds(first)
    assert ours.holds(second)


def test_dropping_old_keys_ends_their_tokens(ours, storage, clock):
    other = signer(storage, clock)
    first = kid(ours)
    token, _, _ = ours.sign({"sub": "alice"}, 3600)
    other.read(token, first)
    ours.rotate(drop_old=True)
    clock.now += LOOK_SECONDS
    for each in (ours, other):
        with pytest.raises(BadToken):
            each.read(token, first)


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"created_at": 1, "key": {}}', b'{"created_at": "x", "key": 5}', b"\xff"])
def test_a_broken_key_leaves_the_others_good(ours, storage, clock, data):
    token, _, _ = ours.sign({"sub": "alice"}, 3600)
    storage.create("_auth/keys/nora-broken.json", data)
    other = signer(storage, clock)
    other.start()
    assert other.read(token, kid(ours))["sub"] == "alice"
    other.rotate(drop_old=True)
    with pytest.raises(BadToken):
        other.read(token, kid(ours))


def test_on_read_only_storage_there_is_a_key_of_this_start(storage, clock, monkeypatch):
    def refuse(key, data):
        raise StorageReadOnly()

    monkeypatch.setattr(storage, "create", refuse)
    lonely = signer(storage, clock)
    lonely.start()
    token, _, _ = lonely.sign({"sub": "alice"}, 60)
    clock.now += LOOK_SECONDS
    assert lonely.read(token, kid(lonely))["sub"] == "alice"


def forged(token: str, **header: object) -> str:
    head = base64.urlsafe_b64encode(json.dumps(header).encode()).rstrip(b"=").decode()
    return f"{head}.{token.partition('.')[2]}"


@pytest.mark.parametrize("alg", ["none", "HS256", "RS256", "ES384", None, 5, []])
def test_another_algorithm_is_refused(ours, alg):
    token, _, _ = ours.sign({"sub": "alice"}, 60)
    with pytest.raises(BadToken):
        ours.read(forged(token, alg=alg, kid=kid(ours)), kid(ours))


def test_another_key_is_refused(ours, clock):
    other = signer(MemoryStorage(), clock)
    other.start()
    token, _, _ = other.sign({"sub": "root"}, 60)
    with pytest.raises(BadToken):
        ours.read(token, kid(ours))
    with pytest.raises(BadToken):
        ours.read(token, kid(other))


@settings(max_examples=50)
@given(st.text(alphabet=st.characters(codec="ascii"), max_size=200))
def test_no_text_gets_past_as_a_token(text):
    clock, storage = Clock(), MemoryStorage()
    ours = signer(storage, clock)
    ours._keys = _KEYS
    with pytest.raises(BadToken):
        ours.read(text, "nora-1")


def _one_key() -> dict[str, tuple[float, object]]:
    found = signer(MemoryStorage(), Clock())
    found.start()
    return {"nora-1": next(iter(found._keys.values()))}


_KEYS = _one_key()


def test_threads_sign_and_read_while_keys_rotate(ours, clock):
    problems: list[Exception] = []

    def work() -> None:
        try:
            for _ in range(20):
                token, _, _ = ours.sign({"sub": "alice"}, 60)
                assert ours.read(token, kid_of(token))["sub"] == "alice"
        except Exception as problem:
            problems.append(problem)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        ours.rotate()
    for thread in threads:
        thread.join()
    assert not problems
