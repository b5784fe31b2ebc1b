"""Access on a real server of four workers: withdrawals count in all of them, storms cost little, what was acknowledged stays, no header hurts."""

from __future__ import annotations

import base64
import json
import os
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from noraflask.services.auth.lockout import PAIR_LIMIT
from tests.server import Server, wait_until

from .conftest import Mounts, run
from .guarded import WORKERS, Crowd, Guarded, basic, bearer, docker_token, mint, pass_soon, password_of, post
from .oci import GONE, Answer, Client
from .test_disk import fill
from .test_durability import Machine, Start

MANIFEST = "/v2/app/one/manifests/none"
"""404 for whoever may pull it: it is not there."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """One for all tests that change nothing but their own user."""
    with Guarded(tmp_path_factory.mktemp("guarded")) as server:
        for name in ("ann", "bob", "cid", "eve", "fay", "gus"):
            server.set_user(name, f"{name}'s password")
        pass_soon()
        yield server.all_up()
        assert server.own_faults() == []


@pytest.fixture
def crowd(server: Guarded) -> Iterator[Crowd]:
    with Crowd(server) as crowd:
        yield crowd


@pytest.fixture
def own(folder: Path) -> Iterator[Callable[..., Guarded]]:
    """own(…) → a server of this test alone."""
    with_servers: list[Guarded] = []

    def begin(rules: str = "", **options: object) -> Guarded:
        with_servers.append(Guarded(folder / f"own{len(with_servers)}", **({"rules": rules} if rules else {}), **options))  # type: ignore[arg-type]
        return with_servers[-1].start().all_up()

    yield begin
    for server in with_servers:
        server.kill()


# ------------------------------------------------------------------------------------ what changes, changes in every worker


def test_a_token_revoked_over_http_is_refused_by_every_worker(server: Guarded, crowd: Crowd) -> None:
    token, id = mint(server, password_of("ann"))
    assert crowd.statuses(bearer(token)) == {200}
    with Client(server.port) as client:
        assert post(client, "/api/tokens/revoke", {"hash_prefix": id}, password_of("ann")).status == 200
    pass_soon()
    assert crowd.statuses(bearer(token)) == {401}


def test_a_token_revoked_by_another_process_is_refused_by_every_worker(server: Guarded, crowd: Crowd) -> None:
    token, id = mint(server, password_of("ann"))
    issued = docker_token(server, bearer(token))
    assert crowd.statuses(bearer(token)) == crowd.statuses(bearer(issued["token"])) == {200}
    assert server.tokens().revoke(id)
    pass_soon()
    assert crowd.statuses(bearer(token)) == {401}
    assert crowd.statuses(bearer(issued["token"])) == {401}, "a bearer token outlives the API token it was issued for"


def test_six_rotations_at_once_give_one_token(server: Guarded) -> None:
    """In several workers, each of which may have the record at hand."""
    for _ in range(5):
        token, id = mint(server, password_of("ann"))

        def rotate(_: int, token: str = token, id: str = id) -> Answer:
            with Client(server.port) as client:
                return post(client, "/api/tokens/rotate", {"hash_prefix": id}, bearer(token))

        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(rotate, range(6)))
        assert Counter(answer.status == 200 for answer in answers) == {True: 1, False: 5}
        assert {answer.status for answer in answers} <= {200, 401, 404}
        (new,) = [answer.json()["token"] for answer in answers if answer.status == 200]
        left = [record for record in server.tokens().list("ann") if server.tokens().check(new) == replace(record, last_used=None)]
        assert len(left) == 1
        assert server.tokens().check(token) is None
        server.tokens().revoke(left[0].id)


def test_a_changed_password_ends_the_old_one_and_what_was_issued_for_it(server: Guarded, crowd: Crowd) -> None:
    issued = docker_token(server, password_of("bob"))
    assert crowd.statuses(password_of("bob")) == crowd.statuses(bearer(issued["token"])) == {200}
    assert refreshed(crowd, issued) == {200}
    server.set_user("bob", "new")
    pass_soon()
    assert crowd.statuses(basic("bob", "new")) == {200}
    assert crowd.statuses(password_of("bob")) == {401}
    assert crowd.statuses(bearer(issued["token"])) == {401}
    assert refreshed(crowd, issued) == {401}


def refreshed(crowd: Crowd, issued: dict[str, str]) -> set[int]:
    form = f"grant_type=refresh_token&service=x&refresh_token={issued['refresh_token']}".encode()
    answers = crowd.ask({"Content-Type": "application/x-www-form-urlencoded"}, "/v2/token", "POST", form)
    return {answer.status for answer in answers}


def test_a_removed_user_is_refused_with_all_they_had(server: Guarded, crowd: Crowd) -> None:
    token, _ = mint(server, password_of("cid"))
    issued = docker_token(server, password_of("cid"))
    credentials = [password_of("cid"), bearer(token), bearer(issued["token"])]
    assert [crowd.statuses(headers) for headers in credentials] == [{200}] * 3
    server.remove_user("cid")
    pass_soon()
    assert [crowd.statuses(headers) for headers in credentials] == [{401}] * 3


def test_a_user_added_is_known_to_every_worker(server: Guarded, crowd: Crowd) -> None:
    assert crowd.statuses(password_of("new")) == {401}
    server.set_user("new", "new's password")
    pass_soon()
    assert crowd.statuses(password_of("new")) == {200}


def test_a_changed_group_changes_what_one_may(server: Guarded, crowd: Crowd) -> None:
    token, _ = mint(server, password_of("eve"))
    credentials = [password_of("eve"), bearer(token)]
    assert [crowd.statuses(headers, MANIFEST) for headers in credentials] == [{403}] * 2
    server.groups.write_text("dev: dora eve\n")
    pass_soon()
    assert [crowd.statuses(headers, MANIFEST) for headers in credentials] == [{404}] * 2
    server.groups.write_text("dev: dora\n")
    pass_soon()
    assert [crowd.statuses(headers, MANIFEST) for headers in credentials] == [{403}] * 2


def test_a_dropped_signing_key_ends_what_it_signed(server: Guarded, crowd: Crowd) -> None:
    issued = docker_token(server, password_of("fay"))
    assert crowd.statuses(bearer(issued["token"])) == {200}
    server.signer().rotate(drop_old=True)
    pass_soon()
    assert crowd.statuses(bearer(issued["token"])) == {401}
    assert refreshed(crowd, issued) == {401}
    assert crowd.statuses(bearer(docker_token(server, password_of("fay"))["token"])) == {200}


def test_a_rotated_signing_key_leaves_what_the_old_one_signed(server: Guarded, crowd: Crowd) -> None:
    issued = docker_token(server, password_of("fay"))
    server.signer().rotate()
    pass_soon()
    assert crowd.statuses(bearer(issued["token"])) == {200}
    assert crowd.statuses(bearer(docker_token(server, password_of("fay"))["token"])) == {200}


# ------------------------------------------------------------------------------------------------------------------- storms


def together(count: int, job: Callable[[int], Answer]) -> list[Answer]:
    """The answers to requests that are sent at the same moment."""
    barrier = threading.Barrier(count)

    def one(number: int) -> Answer:
        barrier.wait()
        return job(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def login(server: Server, headers: dict[str, str]) -> Answer:
    with Client(server.port, timeout=120) as client:
        return client.ask("GET", "/v2/", headers=headers)


def from_client(address: str, headers: dict[str, str]) -> dict[str, str]:
    """As a proxy on this machine tells it."""
    return {"X-Forwarded-For": address, **headers}


def test_many_logins_at_once_with_one_password_cost_one_bcrypt_per_worker(own: Callable[..., Guarded]) -> None:
    server = own()
    server.set_user("hal", "secret", cost=10)
    pass_soon()
    answers = together(200, lambda _: login(server, basic("hal", "secret")))
    assert Counter(answer.status for answer in answers) == {200: 200}
    at_once = max(1, (os.cpu_count() or 2) // 2)
    costs = server.bcrypts_by_worker()
    assert 1 <= len(costs) <= WORKERS
    assert all(set(each) == {10} and len(each) <= at_once for each in costs.values()), costs


def test_an_unknown_user_costs_the_same_bcrypt_as_a_wrong_password(own: Callable[..., Guarded]) -> None:
    server = own()
    for name in ("root", "dora", "hal"):
        server.set_user(name, "secret", cost=6)
    pass_soon()
    with Client(server.port) as client:
        for name in ("hal", "nobody"):
            before = sum(map(len, server.bcrypts_by_worker().values()))
            assert client.ask("GET", "/v2/", headers=basic(name, "wrong")).status == 401
            costs = [cost for each in server.bcrypts_by_worker().values() for cost in each]
            assert costs[before:] == [6], name


def test_failed_logins_are_counted_exactly_over_all_workers(own: Callable[..., Guarded]) -> None:
    """Whoever was answered 401 was counted, whoever was answered 429 was refused unseen, however many come at once."""
    server = own()
    answers = together(160, lambda n: login(server, from_client(f"192.0.2.{n % 8}", basic(f"user{n % 16}", f"guess {n}"))))
    found = Counter(answer.status for answer in answers)
    assert set(found) <= {401, 429}
    assert server.failed_logins() == {"failures": found[401], "repeated": 0, "refused": found[429]}


def test_a_lock_holds_in_every_worker_and_for_nobody_else(own: Callable[..., Guarded]) -> None:
    server = own()
    with Crowd(server) as crowd:
        clients = list(crowd.clients.values())
        for n in range(PAIR_LIMIT + 3):  # the last locks are of some seconds, so that none ends while this test runs
            wait_for_attempt(clients[n % WORKERS], n)
        answers = crowd.ask(from_client("192.0.2.1", password_of("gus")))
        assert {answer.status for answer in answers} == {429}
        assert all(int(answer.headers["Retry-After"]) >= 1 for answer in answers)
        assert {answer.code for answer in answers} == {"TOOMANYREQUESTS"}
        assert server.log_text().count("login failed: reason=locked_out") >= WORKERS
        assert crowd.statuses(from_client("192.0.2.2", password_of("dora"))) == {200}
        token, _ = server.tokens().mint("dora", "read", 600)
        assert crowd.statuses(from_client("192.0.2.1", bearer(token))) == {200}, "a token from a locked address"


def wait_for_attempt(client: Client, number: int) -> None:
    """Until no lock keeps a wrong password from being looked at."""
    headers = from_client("192.0.2.1", basic("gus", f"guess {number}"))
    wait_until(lambda: client.ask("GET", "/v2/", headers=headers).status == 401, 60, f"failure {number} to be looked at")


def test_a_flood_of_wrong_logins_stops_neither_health_nor_good_tokens(own: Callable[..., Guarded]) -> None:
    """Good requests go on while the flood does, and the flood soon costs no more bcrypt."""
    server = own()
    for name in ("root", "dora"):
        server.set_user(name, f"{name}'s password", cost=8)
    token, _ = server.tokens().mint("dora", "read", 3600)
    pass_soon()
    stop = threading.Event()

    def flood(number: int) -> Counter[int]:
        found: Counter[int] = Counter()
        with Client(server.port, timeout=120) as client:
            while not stop.is_set():
                headers = from_client("203.0.113.9", basic(f"user{number}", f"guess {sum(found.values())}"))
                found[client.ask("GET", "/v2/", headers=headers).status] += 1
        return found

    with ThreadPoolExecutor(64) as pool:
        floods = [pool.submit(flood, number) for number in range(64)]
        try:
            with Crowd(server) as crowd:
                for _ in range(25):
                    assert crowd.statuses({}, "/health") == {200}
                    assert crowd.statuses(from_client("203.0.113.1", bearer(token)), MANIFEST) == {404}
                    assert not any(each.done() for each in floods)
        finally:
            stop.set()
        answers = sum((each.result() for each in floods), Counter())
    assert set(answers) == {401, 429}
    checked = sum(map(len, server.bcrypts_by_worker().values()))
    assert checked == answers[401] <= 50 + 64, "an address that floods is locked out, but for what was under way"


@pytest.mark.parametrize("in_body", [False, True], ids=["Basic", "POST"])
def test_wrong_logins_from_many_addresses_keep_no_token_waiting(own: Callable[..., Guarded], in_body: bool) -> None:
    """Each one must be looked at, since nobody has failed before. Tokens do not stand in their queue."""
    server = own(workers=1)
    for name in ("root", "dora"):
        server.set_user(name, f"{name}'s password", cost=11)
    token, _ = server.tokens().mint("dora", "write", 3600)
    pass_soon()

    def guess(number: int) -> int:
        address, name = f"203.0.113.{number}", f"user{number}"
        with Client(server.port, timeout=120) as client:
            if in_body:
                return post(client, "/api/tokens", {"username": name, "password": "x"}, {"X-Forwarded-For": address}).status
            return client.ask("GET", "/v2/", headers=from_client(address, basic(name, "x"))).status

    with ThreadPoolExecutor(60) as pool, Client(server.port, timeout=120) as client:
        guesses = [pool.submit(guess, number) for number in range(60)]
        wait_until(lambda: server.bcrypts_by_worker(), 60, "the first guess to be looked at")
        for _ in range(10):
            assert client.ask("GET", MANIFEST, headers=bearer(token)).status == 404
            assert client.ask("DELETE", MANIFEST, headers=bearer(token)).status == 404
        left = sum(not each.done() for each in guesses)
        assert Counter(each.result() for each in guesses) == {401: 60}
    assert left > 30, "the token waited for the guesses"


# --------------------------------------------------------------------------------------------------- what was acknowledged


def test_what_was_acknowledged_survives_a_kill(own: Callable[..., Guarded]) -> None:
    server = own()
    with Client(server.port) as client:
        minted = [post(client, "/api/tokens", {}, password_of("dora")).json() for _ in range(3)]
        assert post(client, "/api/tokens/revoke", {"hash_prefix": minted[1]["hash_prefix"]}, password_of("dora")).status == 200
        rotated = post(client, "/api/tokens/rotate", {"hash_prefix": minted[2]["hash_prefix"]}, password_of("dora")).json()
    issued = docker_token(server, password_of("dora"))
    server.kill()
    server.start().all_up()
    with Crowd(server) as crowd:
        assert crowd.statuses(bearer(minted[0]["token"])) == {200}
        assert crowd.statuses(bearer(minted[1]["token"])) == {401}
        assert crowd.statuses(bearer(minted[2]["token"])) == {401}
        assert crowd.statuses(bearer(rotated["token"])) == {200}
        assert crowd.statuses(bearer(issued["token"])) == {200}, "a restart must not end what was signed before"


@pytest.mark.slow
def test_kill_9_of_all_under_load_loses_no_token_and_brings_none_back(own: Callable[..., Guarded]) -> None:
    server = own()
    good: set[str] = set()
    bad: set[str] = set()

    def run_on(_: int) -> None:
        try:
            with Client(server.port) as client:
                while True:
                    made = post(client, "/api/tokens", {}, password_of("dora")).json()
                    good.add(made["token"])
                    ended = post(client, "/api/tokens", {}, password_of("dora")).json()
                    if post(client, "/api/tokens/revoke", {"hash_prefix": ended["hash_prefix"]}, password_of("dora")).status == 200:
                        bad.add(ended["token"])
        except GONE:
            return

    for target in (40, 80, 120):
        with ThreadPoolExecutor(8) as pool:
            done = [pool.submit(run_on, number) for number in range(8)]
            try:
                wait_for_size(bad, target)
            finally:
                server.kill()
            for each in done:
                each.result()
        server.start()
    with Client(server.port) as client:
        assert {client.ask("GET", "/v2/", headers=bearer(token)).status for token in good} == {200}
        assert {client.ask("GET", "/v2/", headers=bearer(token)).status for token in bad} == {401}
    assert server.own_faults() == []


def wait_for_size(found: set[str], size: int) -> None:
    wait_until(lambda: len(found) >= size, 240, f"{size} tokens to be revoked")


def guarded_env(folder: Path) -> dict[str, str]:
    """For servers that are started without a file: dora may write."""
    users = Guarded(folder / "users").users
    return {"NORA_AUTH_ENABLED": "true", "NORA_AUTH_HTPASSWD_FILE": str(users), "NORA_AUDIT_PATH": str(folder / "audit.jsonl")}


def test_a_power_cut_loses_no_token_and_brings_none_back(folder: Path, mount: Mounts, start: Start) -> None:
    env = guarded_env(folder)
    machine = Machine(folder, mount, lambda *_, **options: start(env, **options), {})
    made: dict[str, str] = {}

    def token_of(path: str, **members: object) -> dict[str, str]:
        with Client(machine.server.port) as client:
            answer = post(client, path, members, password_of("dora"))
        assert answer.status == 200, answer
        return answer.json() if path != "/api/tokens/revoke" else {}

    def statuses_after_a_cut() -> list[int]:
        after = machine.cut_power()
        with Client(after.port) as client:
            found = [client.ask("GET", "/v2/", headers=bearer(token)).status for token in made.values()]
        after.kill()
        return found

    first = token_of("/api/tokens")
    made["first"] = first["token"]
    assert statuses_after_a_cut() == [200]
    token_of("/api/tokens/revoke", hash_prefix=first["hash_prefix"])
    assert statuses_after_a_cut() == [401]
    second = token_of("/api/tokens")
    made |= {"second": second["token"]}
    made["rotated"] = token_of("/api/tokens/rotate", hash_prefix=second["hash_prefix"])["token"]
    assert statuses_after_a_cut() == [401, 401, 200]


def test_with_full_storage_logins_go_on_and_tokens_cannot_be_made(folder: Path, mount: Mounts, start: Start) -> None:
    disk = mount("disk", "-t", "tmpfs", "-o", "size=8m,mode=1777", "tmpfs")
    server = start(guarded_env(folder), storage=disk / "storage")
    token, id = mint(server, password_of("dora"))
    ballast = fill(disk)
    check_without_storage(server, token, id, 507)
    ballast.unlink()
    mint(server, password_of("dora"))


def test_with_read_only_storage_logins_go_on_and_tokens_cannot_be_made(folder: Path, mount: Mounts, start: Start) -> None:
    disk = mount("disk", "-t", "tmpfs", "-o", "size=8m,mode=1777", "tmpfs")
    server = start(guarded_env(folder), storage=disk / "storage")
    token, id = mint(server, password_of("dora"))
    run("mount", "-o", "remount,ro", str(disk))
    try:
        check_without_storage(server, token, id, 503)
        server.restart()
        check_without_storage(server, token, id, 503)
    finally:
        run("mount", "-o", "remount,rw", str(disk))
    mint(server, password_of("dora"))


def check_without_storage(server: Server, token: str, id: str, status: int) -> None:
    with Client(server.port) as client:
        for headers in (password_of("dora"), bearer(token)):
            assert client.ask("GET", "/v2/", headers=headers).status == 200
        assert client.ask("GET", "/v2/", headers=bearer(docker_token(server, password_of("dora"))["token"])).status == 200
        for path, members in (("/api/tokens", {}), ("/api/tokens/rotate", {"hash_prefix": id})):
            answer = post(client, path, members, password_of("dora"))
            assert answer.status == status, (path, answer)
            assert int(answer.headers["Retry-After"]) > 0
        assert client.ask("GET", "/v2/", headers=bearer(token)).status == 200, "a rotation that failed has ended the old token"
    assert "Traceback" not in server.log_text()


# --------------------------------------------------------------------------------------------------------- hostile headers


def b64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def jwt(header: bytes, payload: bytes = b'{"sub":"dora"}', signature: bytes = b"x" * 64) -> bytes:
    return b".".join(map(b64, (header, payload, signature)))


DEEP = b'{"a":' * 2000 + b"1" + b"}" * 2000
JWT_HEADERS = (
    b'{"alg":"none","kid":"nora-0000000000000000"}',
    b'{"alg":"none"}',
    b'{"alg":"HS256","kid":"nora-0000000000000000"}',
    b'{"alg":"ES256","kid":"nora-0000000000000000"}',
    b'{"alg":"ES256","kid":"nora-../../etc/passwd"}',
    b'{"alg":"ES256","kid":["nora-"]}',
    b'{"alg":"ES256","kid":{"a":1}}',
    b'{"alg":["ES256"],"kid":"nora-1"}',
    b'{"alg":"ES256","kid":"nora-\\ud800"}',
    b'{"alg":"ES256","kid":"nora-1","crit":["exp"],"b64":false}',
    b'{"alg":"ES256","kid":"' + b"nora-" * 1000 + b'"}',
    b'{"alg":"RS256","jku":"http://127.0.0.1:1/keys","x5u":"file:///etc/passwd","jwk":{"kty":"oct","k":""}}',
    b'{"alg":1e999,"kid":NaN}',
    b'{"alg":"ES256","kid":"nora-1","typ":' + b"[" * 3000 + b"]" * 3000 + b"}",
    b'{"alg":"ES256","kid":"nora-1"' + b' ,"a":1' * 700 + b"}",
    b'{"a":' + b"9" * 5000 + b"}",
    b"{\xff\xfe",
    b"[]",
    b"null",
    b"{}",
    DEEP,
)
PAYLOADS = (b'{"sub":"dora","exp":1e400}', b'{"iss":["noraflask"],"exp":-1}', b'{"iss":{"a":"b"}}', b"[1]", b"\x00", DEEP)


def hostile_values() -> Iterator[bytes]:
    yield from (b"", b" ", b"Basic", b"Bearer", b"Basic ", b"Bearer  ", b"basic\t", b"\xff\xfe\x80", b"Negotiate abc", b"Digest username=x", b":")
    yield from (b"Basic " + data for data in (b"=", b"====", b"!!!!", b"\xe2\x82\xac", b"A" * 7000, b"OjpkDQo=", b"Og==", b"AA=="))
    for login in (
        b"dora:" + b"p" * 5000,
        b"\xff:x",
        b"a\0b:c\0d",
        b"d" * 3000 + b":x",
        b":x",
        b"x",
        b"\xed\xa0\x80:y",
        b"dora:\xff\xfe\0",
        b"a\r\nb: c:d",
    ):
        yield b"Basic " + base64.b64encode(login)
    for header in JWT_HEADERS:
        yield b"Bearer " + jwt(header)
        yield b"Basic " + base64.b64encode(b"dora:" + jwt(header))
    for payload in PAYLOADS:
        yield from (b"Bearer " + jwt(header, payload) for header in (JWT_HEADERS[3], b'{"alg":"RS256","kid":"x"}'))
    yield from (b"Bearer " + data for data in (b"nra_", b"nra_" + b"0" * 32, b"nra_" + b"G" * 32, b"nra_" + b"0" * 33, b"nra_../../x", b"a b c"))
    yield from (b"Bearer " + data for data in (b"e.e.e", b"e..", b"eyJ.eyJ.", b"e" * 6000 + b".e.e", b"." * 5000, b"eyJhbGciOiJub25lIn0.e30."))
    yield from (b"nra_" + b"0" * 32, jwt(b"{}"), b"x" * 7000)


def exchange(port: int, request: bytes) -> bytes:
    """All that the server says to a request whose connection it is asked to close."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
        received = b""
        try:
            sock.sendall(request)
            while data := sock.recv(65536):
                received += data
        except ConnectionError:
            pass  # it may close before it has read a head that is too large
        return received


def ask_raw(port: int, path: bytes, *headers: bytes) -> int | None:
    """The status; None when the server closes without an answer, as it may for a head that is too large."""
    said = exchange(port, b"\r\n".join([b"GET " + path + b" HTTP/1.1", b"Host: test", b"Connection: close", *headers, b"", b""]))
    return int(said.split(b" ", 2)[1]) if said else None


@pytest.mark.parametrize("path", [b"/v2/", MANIFEST.encode(), b"/v2/token?scope=repository:app/one:pull", b"/api/v1/whoami"])
def test_no_authorization_header_does_harm(path: bytes, server: Guarded) -> None:
    workers = server.worker_pids()
    for value in hostile_values():
        status = ask_raw(server.port, path, b"Authorization: " + value)
        assert status in (200, 400, 401, 403, 404, 429), (value[:200], status)
        assert status != 200 or path in (b"/api/v1/whoami", b"/v2/token?scope=repository:app/one:pull"), value[:200]
        assert ask_raw(server.port, path, b"X-NuGet-ApiKey: " + value) in (200, 400, 401, 403, 404, 429), value[:200]
    assert server.worker_pids() == workers
    assert server.own_faults() == []
    assert not server.log_faults()


def test_a_header_without_end_is_refused(server: Guarded) -> None:
    workers = server.worker_pids()
    for size in (8_000, 9_000, 70_000, 1_000_000, 20_000_000):
        assert ask_raw(server.port, b"/v2/", b"Authorization: Bearer " + b"a" * size) in (None, 400, 401, 431), size
    assert server.worker_pids() == workers
    assert not server.log_faults()


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (0, 0)])
def test_two_authorization_headers_are_no_login(order: tuple[int, int], server: Guarded) -> None:
    """Which of them counts is what a proxy in front and this server could disagree on."""
    good, bad = password_of("dora")["Authorization"], basic("root", "guess")["Authorization"]
    headers = [f"Authorization: {(good, bad)[which]}".encode() for which in order]
    assert ask_raw(server.port, b"/v2/", headers[0]) in (200, 401)
    assert ask_raw(server.port, b"/v2/", *headers) in (400, 401)
    assert not server.log_faults()


def test_hostile_bodies_of_the_token_routes_do_no_harm(server: Guarded) -> None:
    paths = ("/api/tokens", "/api/tokens/list", "/api/tokens/revoke", "/api/tokens/rotate", "/api/v1/token/exchange")
    login = {"username": "dora", "password": "dora's password"}
    bodies = [b"", b"[]", b"null", b"{", DEEP, b'{"username":"\\ud800","password":"\\ud800"}', b'{"username":1,"password":[]}', b"\xff"]
    odd: tuple[dict[str, object], ...] = (
        {"ttl_days": 1e99},
        {"ttl_days": -1},
        {"ttl_days": True},
        {"role": ["admin"]},
        {"scopes": [{"actions": ["\ud800"]}]},
        {"description": "\ud800"},
    )
    odd += ({"hash_prefix": "../../../x"}, {"hash_prefix": None}, {"overlap_secs": 10**30}, {"scopes": [{"actions": ["pull"], "names": ["*" * 200]}]})
    bodies += [json.dumps({**login, **members}).encode() for members in odd]
    forms = [b"grant_type=refresh_token&refresh_token=", b"grant_type=refresh_token&refresh_token=" + jwt(JWT_HEADERS[3]), b"grant_type=%ff&a=%00"]
    with Client(server.port) as client:
        for path in paths:
            for body in bodies:
                answer = client.ask("POST", path, body, {"Content-Type": "application/json"})
                assert answer.status < 500, (path, body[:100], answer)
        for form in (*forms, b"&" * 50_000, b"grant_type=password&username=%ff%00&password=%ff"):
            answer = client.ask("POST", "/v2/token", form, {"Content-Type": "application/x-www-form-urlencoded"})
            assert 400 <= answer.status < 500, (form[:100], answer)
    assert server.own_faults() == []
