"""What a login must not cost, outlive, grow or tell: bodies of any size, passwords that change meanwhile, caches, secrets in odd places."""

from __future__ import annotations

import io
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import bcrypt
import pytest

from noraflask.config import RoleRule
from noraflask.services.auth.authenticator import mark_of
from noraflask.services.auth.lockout import ACCOUNT_LIMIT
from noraflask.services.bounded_memory import BoundedMemory
from tests.conftest import write_htpasswd
from tests.oidc import Issuer
from tests.protocol.access import ALL, Door, basic, bearer, rule

USERS = {"alice": "pw-alice", "limited": "pw-limited"}
ALICE = basic("alice", "pw-alice")
IMAGE = "repository:team/app:pull,push"
GRANT = {"grant_type": "password", "username": "alice", "password": "pw-alice"}
RULES = (rule(ALL, users=("alice",)), rule(ALL, users=("limited",), names=("team/**",)))


@pytest.fixture
def door(app_with, monkeypatch) -> Door:
    """What happens to files is seen at once."""
    monkeypatch.setattr("noraflask.services.auth.users.CHECK_SECONDS", 0)
    return Door(app_with(auth={"users": USERS}, access={"rules": RULES}, audit={"mode": "file"}))


def whoami(door: Door, authorization: str, **more) -> tuple[str, str]:
    answer = door.get("/api/v1/whoami", authorization, **more)
    assert answer.status_code == 200, answer.data
    return answer.json["name"], answer.json["source"]


def failures(door: Door) -> list[tuple[str, str]]:
    return [(line["detail"], line["actor"]) for line in door.audit() if line["action"] == "login_failed"]


# Bodies: whoever asks for a token has not logged in yet.


class Body(io.BytesIO):
    """A body that knows how much of it was read."""

    taken = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.taken += len(data)
        return data

    def readinto(self, buffer) -> int:
        count = super().readinto(buffer)
        self.taken += count
        return count


FORM = "application/x-www-form-urlencoded"
FORM_ROUTES = ["/v2/token", "/api/v1/token/exchange"]
MANY = 4_000_000
MULTIPART = b'--x\r\nContent-Disposition: form-data; name="grant_type"; filename="f"\r\n\r\n' + b"a" * MANY + b"\r\n--x--\r\n"


def send(door: Door, path: str, body: bytes, content_type: str | None, *, announced: bool = True) -> tuple[int, int]:
    """Status, and how much of the body was read."""
    stream = Body(body)
    more = {"content_length": len(body)} if announced else {"environ_overrides": {"wsgi.input_terminated": True}}
    answer = door.post(path, input_stream=stream, content_type=content_type, **more)
    return answer.status_code, stream.taken


@pytest.mark.parametrize("path", FORM_ROUTES)
@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize(
    "content_type", ["multipart/form-data; boundary=x", "multipart/form-data", "text/plain", None, "application/x-www-form", FORM + "x"]
)
def test_a_body_that_is_no_form_is_refused_unread(door, monkeypatch, path, announced, content_type):
    """A parser of multipart bodies would spool a part of any size to disk."""
    monkeypatch.setattr("werkzeug.formparser.default_stream_factory", lambda *_, **__: pytest.fail("spooled"))
    assert send(door, path, MULTIPART, content_type, announced=announced) == (415, 0)


@pytest.mark.parametrize("path", FORM_ROUTES)
@pytest.mark.parametrize("announced", [True, False])
def test_a_form_that_is_too_large_is_refused_half_read(door, path, announced):
    status, taken = send(door, path, b"grant_type=password&password=" + b"a" * MANY, FORM, announced=announced)
    assert status == 413
    assert taken <= 2 * 64 * 1024


@pytest.mark.parametrize("path", FORM_ROUTES)
@pytest.mark.parametrize(
    ("wanted", "body"),
    [
        (413, b"a=" + b"a" * (64 * 1024 - 1)),
        (400, b"a=b&" * 200 + b"a=b"),
        (400, b"grant_type=password&username=\xff\xfe"),
        (400, b"&".join(b"f%d=" % number for number in range(1000))),
    ],
    ids=["large", "fields", "no UTF-8", "empty fields"],
)
def test_forms_that_are_none(door, path, wanted, body):
    assert send(door, path, body, FORM)[0] == wanted


def test_a_form_at_the_edge_is_read(door):
    body = b"grant_type=password&username=alice&password=pw-alice&a=" + b"b=c&" * 196
    assert send(door, "/v2/token", body.ljust(64 * 1024, b"x"), FORM + "; charset=UTF-8")[0] == 200


# What is issued for a password that no longer is one.


@pytest.fixture
def meanwhile(monkeypatch, tmp_path):
    """meanwhile(users) → these are the users by the time that bcrypt is done."""

    def set_up(users: dict[str, str]) -> None:
        check = bcrypt.checkpw

        def checkpw(password: bytes, hashed: bytes) -> bool:
            write_htpasswd(tmp_path / "users.htpasswd", users)
            return check(password, hashed)

        monkeypatch.setattr(bcrypt, "checkpw", checkpw)

    return set_up


@pytest.mark.parametrize("users", [{"alice": "another"}, {"limited": "pw-limited"}, {}], ids=["changed", "removed", "all removed"])
def test_a_token_issued_for_a_password_that_changed_while_bcrypt_was_at_work_is_dead(door, meanwhile, users):
    meanwhile(users)
    answer = door.post("/v2/token", data={**GRANT, "scope": IMAGE, "access_type": "offline"})
    assert answer.status_code == 200, "the password was right when it was looked at"
    members = answer.json
    refreshed = door.post("/v2/token", data={"grant_type": "refresh_token", "refresh_token": members["refresh_token"]})
    assert [refreshed.status_code, door.get("/v2/", bearer(members["token"])).status_code] == [401, 401]
    assert door.get("/v2/", ALICE).status_code == 401


@pytest.mark.parametrize("mark", ["", None, 0, "0" * 16])
@pytest.mark.parametrize("name", ["nobody", "alice", ""])
def test_a_mark_of_no_password_is_equal_to_none(door, name, mark):
    logins = door.services.logins
    assert mark_of(None) == ""
    refresh = logins.signer.sign({"typ": "refresh", "sub": name, "src": "password", "pw": mark}, 600)[0]
    assert door.post("/v2/token", data={"grant_type": "refresh_token", "refresh_token": refresh}).status_code == 401
    token = logins.signer.sign({"typ": "bearer", "sub": name, "src": "password", "pw": mark, "access": []}, 600)[0]
    assert door.get("/v2/", bearer(token)).status_code == 401


def test_a_refresh_token_gets_no_later_end_by_being_used(door):
    """Else whoever has found one has it for ever."""
    clock = door.stop_time()
    begun, form = clock.now, {"grant_type": "refresh_token", "access_type": "offline", "scope": IMAGE}
    refresh = door.post("/v2/token", data={**GRANT, "access_type": "offline"}).json["refresh_token"]
    for day in (10, 20, 29):
        clock.now = begun + day * 86400
        answer = door.post("/v2/token", data={**form, "refresh_token": refresh})
        assert answer.status_code == 200
        refresh = answer.json["refresh_token"]
    clock.now = begun + 30 * 86400 - 10
    answer = door.post("/v2/token", data={**form, "refresh_token": refresh})
    assert answer.json["expires_in"] == 10, "nor does a bearer token outlive it"
    clock.now += 10
    for token in (refresh, answer.json["refresh_token"]):
        assert door.post("/v2/token", data={**form, "refresh_token": token}).status_code == 401
    assert door.get("/v2/", bearer(answer.json["token"])).status_code == 401


# Tokens where a user name stands, and names that are none.


@pytest.mark.parametrize("password", ["", "x", "x-oauth-basic"])
def test_a_token_as_the_user_name_logs_in(door, password):
    """As in `curl -u nra_…:`."""
    token = door.api_token("alice")
    assert whoami(door, basic(token, password)) == ("alice", "token")
    assert door.post("/v2/token", data={**GRANT, "username": token, "password": password}).status_code == 200
    assert door.post("/api/tokens/list", json={"username": token, "password": password}).status_code == 200
    exchanged = door.bearer_token(ALICE, IMAGE)
    assert whoami(door, basic(exchanged, password)) == ("alice", "password")


def test_a_token_as_the_password_goes_before_the_name(door):
    assert whoami(door, basic(door.api_token("limited"), door.api_token("alice"))) == ("alice", "token")


@pytest.mark.parametrize("secret", ["nra_" + "5ec2e7" * 5 + "00", "eyJhbGciOiJub25lIn0.c2VjcmV0LXBheWxvYWQ.c2VjcmV0LXNpZ25hdHVyZQ"])
@pytest.mark.parametrize("password", ["", "wrong"])
def test_a_token_as_the_user_name_is_written_nowhere(door, caplog, secret, password):
    caplog.set_level(logging.DEBUG)
    answers = [
        door.get("/v2/", basic(secret, password)),
        door.post("/v2/token", data={**GRANT, "username": secret, "password": password}),
        door.post("/api/tokens", json={"username": secret, "password": password}),
    ]
    assert [answer.status_code for answer in answers] == [401] * 3
    assert len(failures(door)) == 3
    for text in (caplog.text, str(door.audit()), *(answer.text for answer in answers)):
        assert secret not in text
        assert "c2VjcmV0" not in text


@pytest.mark.parametrize("name", ["a" * 256, "a" * 100_000, "ü" * 256, ""])
def test_a_name_that_is_too_long_is_refused_and_not_written(door, caplog, monkeypatch, name):
    monkeypatch.setattr(bcrypt, "checkpw", lambda *_: pytest.fail("looked at"))
    for answer in (door.get("/v2/", basic(name, "x")), door.post("/v2/token", data={**GRANT, "username": name[:60_000]})):
        assert answer.status_code == 401
        assert "1 to 255 characters" in answer.text
    assert failures(door) == [("no_user", "")] * 2
    assert "a" * 200 not in caplog.text


def test_a_name_of_255_characters_is_one(door, caplog):
    assert door.get("/v2/", basic("a" * 255, "x")).status_code == 401
    assert failures(door) == [("wrong_password", "a" * 255)]


def test_where_there_are_no_passwords_none_is_looked_at(app_with, monkeypatch):
    door = Door(app_with(auth={"users": {}}, audit={"mode": "file"}))
    monkeypatch.setattr(bcrypt, "checkpw", lambda *_: pytest.fail("looked at"))
    assert door.get("/v2/", ALICE).status_code == 401
    assert failures(door) == [("no_users", "alice")]
    assert whoami(door, basic("x", door.api_token("ci", service=True))) == ("ci", "token")


# Waiting.


def test_who_is_locked_out_and_tries_on_is_noted_once_a_minute(door, caplog):
    clock = door.stop_time()

    def guess(count: int, user: str = "alice", client: str = "192.0.2.7") -> None:
        for number in range(count):
            door.get("/v2/", basic(user, f"guess {number}"), client=client)

    def noted() -> Counter[tuple[str, str]]:
        return Counter((line["actor"], line["client"]) for line in door.audit() if line["detail"] == "locked_out")

    guess(12)
    assert noted() == {("alice", "192.0.2.7"): 1}
    guess(9, "limited")
    guess(9, client="192.0.2.8")
    assert noted() == {("alice", "192.0.2.7"): 1, ("limited", "192.0.2.7"): 1, ("alice", "192.0.2.8"): 1}
    for _ in range(9):
        door.services.logins.lockout.failed("192.0.2.7", "alice", f"{clock.now}")
        clock.now += 7
        door.get("/v2/", ALICE, client="192.0.2.7")
    assert noted()["alice", "192.0.2.7"] == 2
    assert caplog.text.count("reason=locked_out") == 4


def test_what_is_kept_of_who_was_told_is_bounded(door, monkeypatch):
    logins = door.services.logins
    monkeypatch.setattr(logins, "told", BoundedMemory(5 * 500))
    for number in range(20):
        assert logins.is_news("192.0.2.7", f"user {number}")
        assert not logins.is_news("192.0.2.7", f"user {number}")
    assert 0 < len(logins.told) < 8


class Queue:
    """Where passwords wait for their turn: by then others have been looked at, and were wrong."""

    def __init__(self, door: Door, client: str) -> None:
        self.door, self.client = door, client

    def __enter__(self) -> None:
        for number in range(5):
            self.door.services.logins.lockout.failed(self.client, "alice", f"guess {number}")

    def __exit__(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(("client", "wanted"), [("192.0.2.7", 429), ("192.0.2.8", 200)])
def test_guesses_side_by_side_are_no_more_guesses(door, monkeypatch, client, wanted):
    """All of them were let in before the first was found wrong; each is asked again when it is its turn."""
    door.stop_time()
    looked_at, check = [], bcrypt.checkpw
    monkeypatch.setattr(bcrypt, "checkpw", lambda *given: looked_at.append(given) or check(*given))
    door.services.logins.users._bcrypt = Queue(door, "192.0.2.7")
    assert door.get("/v2/", ALICE, client=client).status_code == wanted
    assert len(looked_at) == (wanted == 200)


@pytest.fixture
def pressed(door) -> Door:
    """Many clients guess at alice's password."""
    door.stop_time()
    for number in range(ACCOUNT_LIMIT + 1):
        door.services.logins.lockout.failed(f"198.18.0.{number}", "alice", "guess")
    return door


def test_under_pressure_the_right_password_of_a_new_client_works_at_once(pressed):
    """Whatever others do: nobody can take the turn of a user."""
    for number in range(10):
        guesser = f"198.51.100.{number}"
        assert pressed.get("/v2/", basic("alice", "guess"), client=guesser).status_code == 401
        assert pressed.get("/v2/", ALICE, client=f"192.0.2.{number}").status_code == 200
        assert pressed.get("/v2/", ALICE, client=guesser).status_code == 429


def test_under_pressure_a_new_client_has_one_guess(pressed):
    assert [pressed.get("/v2/", basic("alice", f"guess {number}"), client="192.0.2.7").status_code for number in range(3)] == [401, 429, 429]
    assert pressed.get("/v2/", basic("limited", "pw-limited"), client="192.0.2.7").status_code == 200
    assert pressed.get("/v2/", basic("limited", "guess"), client="192.0.2.8").status_code == 401
    assert pressed.get("/v2/", basic("limited", "pw-limited"), client="192.0.2.8").status_code == 200


# What is remembered.


def logins_noted(door: Door) -> list[str]:
    return [line["client"] for line in door.audit() if line["action"] == "login"]


@pytest.mark.parametrize("peer", ["127.0.0.1", "192.0.2.1"])
def test_what_is_remembered_of_a_credential_does_not_grow_with_a_header(door, peer):
    for number in range(50):
        assert door.get("/v2/", ALICE, client=f"198.51.100.{number}", environ_overrides={"REMOTE_ADDR": peer}).status_code == 200
    logins = door.services.logins
    assert len(door.authenticator._known) == 1
    assert len(logins.seen) == (50 if peer == "127.0.0.1" else 1)


def test_a_credential_from_another_client_is_a_login_of_its_own_once(door):
    for _ in range(3):
        for client in ("192.0.2.7", "192.0.2.8", "192.0.2.7:4711", "[2001:db8::1]:80", "2001:db8::1"):
            assert door.get("/v2/", ALICE, client=client).status_code == 200
    assert logins_noted(door) == ["192.0.2.7", "192.0.2.8", "2001:db8::1"]


def test_a_login_that_goes_on_is_noted_again_after_a_quarter_of_an_hour(door):
    clock = door.stop_time()
    for minutes in range(31):
        clock.now = 1_800_000_000 + 60 * minutes
        door.get("/v2/", ALICE, client="192.0.2.7")
    assert len(logins_noted(door)) == 3


def test_clients_and_credentials_that_are_remembered_are_bounded(door, monkeypatch):
    logins = door.services.logins
    monkeypatch.setattr(door.authenticator, "_known", BoundedMemory(5 * 2000))
    monkeypatch.setattr(logins, "seen", BoundedMemory(7 * 500))
    for number in range(30):
        assert door.get("/v2/", ALICE, client=f"198.51.100.{number}").status_code == 200
        assert door.get("/v2/", bearer(door.api_token("alice"))).status_code == 200
        assert (len(door.authenticator._known) < 7, len(logins.seen) < 9) == (True, True)


@pytest.mark.parametrize(
    "forwarded", ['192.0.2.7" account="root', "192.0.2.7\nlogin failed: reason=none", "unknown", "\x1b[2J", "192.0.2.7, a\rb", "x" * 5000]
)
def test_no_header_gets_into_a_line_of_the_log(door, caplog, forwarded):
    door.get("/v2/", basic("alice", "wrong"), environ_overrides={"HTTP_X_FORWARDED_FOR": forwarded})
    (line,) = [record.getMessage() for record in caplog.records if record.name == "nora.auth"]
    assert re.fullmatch(r'login failed: reason=wrong_password account="alice" client=127\.0\.0\.1', line)
    assert [entry["client"] for entry in door.audit()] == ["127.0.0.1"]


def test_tokens_in_a_folder_of_their_own_are_for_the_server_alone(app_with, tmp_path):
    old = os.umask(0)
    try:
        door = Door(app_with(auth={"users": USERS, "token_storage": tmp_path / "tokens"}))
        made = door.post("/api/tokens", ALICE, json={}).json
        door.post("/api/tokens/revoke", ALICE, json={"hash_prefix": door.post("/api/tokens", ALICE, json={}).json["hash_prefix"]})
    finally:
        os.umask(old)
    found = {path.relative_to(tmp_path / "tokens"): path.stat().st_mode & 0o777 for path in (tmp_path / "tokens").rglob("*") if path.is_file()}
    assert found[Path(f"{made['hash_prefix']}.json")] == 0o600
    assert (tmp_path / "tokens").stat().st_mode & 0o777 == 0o700


# What is told of rules, and claims.


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with Issuer() as found:
        yield found


def test_no_answer_says_where_the_rules_file_lies(app_with, caplog):
    caplog.set_level(logging.INFO)
    rules = (
        replace(rule(ALL, users=("alice",)), place="/srv/nora-secrets/config.toml:3"),
        replace(rule(("push",), users=("alice",), names=("closed/**",), effect="deny"), place="/srv/nora-secrets/config.toml:9"),
    )
    door = Door(app_with(auth={"users": USERS}, access={"rules": rules}, audit={"mode": "file"}))
    denied = door.post("/v2/closed/x/blobs/uploads/", ALICE)
    admin = bearer(door.api_token("ops", "admin", service=True))
    explained = door.get("/api/v1/access/explain?user=alice&action=push&name=closed/x", admin)
    assert explained.json["decided_by"] == "rule 2 (config.toml:9)"
    assert "rule 2 (config.toml:9)" in denied.text
    whoami = door.get("/api/v1/whoami", ALICE)
    assert [entry["by"] for entry in whoami.json["rights"]] == ["rule 1 (config.toml:3)", "rule 2 (config.toml:9)"]
    for text in (denied.text, explained.text, whoami.text, str(door.audit()), caplog.text):
        assert "nora-secrets" not in text


def test_an_identity_of_more_claims_than_a_rule_can_see_is_refused(app_with, issuer):
    """What was left out might be what a rule denies by."""
    rules = (rule(("pull", "push"), claims=(("groups", "contractors"),), effect="deny"),)
    provider = issuer.provider(role_rules=(RoleRule("*", "write"),))
    door = Door(app_with(auth={"oidc_enabled": True, "oidc_providers": (provider,)}, access={"rules": rules}, audit={"mode": "file"}))
    push = ("POST", "/v2/team/app/blobs/uploads/")
    assert door.ask(*push, bearer(issuer.token(groups=[f"g{number}" for number in range(400)]))).status_code == 202
    assert door.ask(*push, bearer(issuer.token(groups=[*(f"g{number}" for number in range(400)), "contractors"]))).status_code == 403
    answer = door.ask(*push, bearer(issuer.token(groups=[*(f"g{number}" for number in range(500)), "contractors"])))
    assert answer.status_code == 401
    assert "more claims" in answer.text
    assert failures(door) == [("oidc_claims", "")]
