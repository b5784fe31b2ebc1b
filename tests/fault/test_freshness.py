"""Under 64 clients that ask the same few things without pause, no answer is older than the change that preceded the request.

What a request changes is seen at once, in both workers; what storage or a signal tells, within a second: tokens that another process revokes,
passwords, rules.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.server import wait_until

from .guarded import LOADED, SOON, Guarded, basic, bearer, mint, password_of
from .oci import MANIFEST_TYPE, Client, config_of, digest_of, manifest_of, noise
from .twin.crowd import Crowd, Target
from .twin.launcher import NO_CLOCK
from .twin.spoils import SLOW
from .twin.wire import Answer

CLIENTS, WRITERS = 64, 4
CHANGES, MANY = 2_000, 40_000
RULES = """
[access]
default_role = "none"
[[access.rules]]
users = ["root", "dora"]
actions = ["admin"]
[raw]
overwrite = "always"
[curation]
mode = "enforce"
rules_path = "rules.toml"
"""
ROOT = password_of("root")
NAME, RULED, STILL = "app/hot", "app/ruled", "app/still"
"""The tags of the first move, the second is refused at times, the third stays as it is."""
FLIPS = 25
"""How often passwords change: each time the old one fails, and with more of that their clients would be locked out."""
PASSWORDS = ("dora's password", "dora's second")


def head(method: str, path: str, *fields: str) -> bytes:
    return "\r\n".join((f"{method} {path} HTTP/1.1", "Host: r", *fields, "", "")).encode()


def login(headers: dict[str, str]) -> str:
    return f"Authorization: {headers['Authorization']}"


def block(name: str) -> str:
    return f'[[block]]\nformat = "docker"\nname = "{name}"\nreason = "so"\n'


def shown_digest(answer: Answer) -> str | None:
    """Of a manifest or a blob."""
    if answer.status == 404:
        return None
    digest = answer.header("docker-content-digest")
    assert (answer.status, bool(digest)) == (200, True), answer.data[:400]
    assert not answer.body or digest_of(answer.body) == digest
    return digest


def shown_etag(answer: Answer) -> str | None:
    """Of a file, or of a piece of it."""
    if answer.status == 404:
        return None
    etag = answer.header("etag")
    assert (answer.status in (200, 206), bool(etag)) == (True, True), answer.data[:400]
    assert answer.status == 206 or not answer.body or etag_of(answer.body) == etag
    return etag


def etag_of(data: bytes) -> str:
    return f'"{digest_of(data).removeprefix("sha256:")}"'


def shown_status(answer: Answer) -> int:
    return answer.status


class Content:
    """Tags, a manifest, a blob and files that come, change and go. Each change is acknowledged by its answer, and counts from then on."""

    def __init__(self, server: Guarded, token: str, seed: int) -> None:
        self._own, self._port, self._seed = threading.local(), server.port, seed
        self._who = bearer(token)
        self.config, self.layer = config_of(noise(700, seed)), noise(700, seed)
        for data in (self.config, self.layer):
            self._push_blob(data)
        self.fixed, self.loose = self._manifest("fixed"), noise(900, seed)
        kinds: list[tuple[str, str, Callable[[str], tuple[Callable[[], object], object]]]] = [
            *((f"tag {tag}", f"/v2/{NAME}/manifests/{tag}", self._change_tag) for tag in ("one", "two", "three")),
            *((f"file {name}", f"/raw/{name}", self._change_file) for name in ("a.txt", "docs/b.txt", "c.bin")),
            ("manifest", f"/v2/{NAME}/manifests/{digest_of(self.fixed)}", self._push_fixed),
            ("blob", f"/v2/{NAME}/blobs/{digest_of(self.loose)}", self._push_loose),
        ]
        self._kinds = [(self._target(name, path), path, change) for name, path, change in kinds]
        self.targets = [target for target, _, _ in self._kinds]
        self.changes = 0
        for target, path, change in self._kinds:
            begin, state = change(path)
            target.change(state, begin)

    def change(self, share: int) -> None:
        """One thing of this share: another in its place, or none, or one again. No two threads have the same share."""
        target, path, change = self._chance.choice(self._kinds[share::WRITERS])
        gone = target.states[-1] is None
        only = target.name in ("manifest", "blob")  # it is there or not
        if not gone and (only or self._chance.random() < 0.25):
            target.change(None, lambda: self._ask("DELETE", path, (202, 204)))
        else:
            carry_out, state = change(path)
            target.change(state, carry_out)
        self.changes += 1

    @property
    def _chance(self) -> random.Random:
        """Of this thread."""
        if not hasattr(self._own, "chance"):
            self._own.chance = random.Random(f"{self._seed} {threading.current_thread().name}")
        return self._own.chance  # type: ignore[no-any-return]

    @property
    def _client(self) -> Client:
        if not hasattr(self._own, "client"):
            self._own.client = Client(self._port, timeout=LOADED)
        return self._own.client  # type: ignore[no-any-return]

    def _target(self, name: str, path: str) -> Target:
        who, accept = login(self._who), f"Accept: {MANIFEST_TYPE}"
        requests = [head("GET", path, who, accept), head("GET", path, accept, who, "User-Agent: x"), head("HEAD", path, who)]
        if not path.startswith("/raw/"):
            return Target(name, tuple(requests), shown_digest)
        return Target(name, (*requests, head("GET", path, who, "Range: bytes=0-4")), shown_etag)

    def _change_tag(self, path: str) -> tuple[Callable[[], object], object]:
        manifest = self._manifest(str(self._chance.random()))
        return (lambda: self._push_manifest(path, manifest)), digest_of(manifest)

    def _change_file(self, path: str) -> tuple[Callable[[], object], object]:
        data = self._chance.randbytes(self._chance.choice((10, 3_000, 70_000)))
        return (lambda: self._ask("PUT", path, (200, 201, 204), data)), etag_of(data)

    def _push_fixed(self, path: str) -> tuple[Callable[[], object], object]:
        return (lambda: self._push_manifest(path, self.fixed)), digest_of(self.fixed)

    def _push_loose(self, path: str) -> tuple[Callable[[], object], object]:
        return (lambda: self._push_blob(self.loose)), digest_of(self.loose)

    def _manifest(self, text: str) -> bytes:
        return json.dumps(json.loads(manifest_of(self.config, self.layer)) | {"annotations": {"text": text}}).encode()

    def _push_manifest(self, path: str, manifest: bytes) -> None:
        self._ask("PUT", path, (201,), manifest, MANIFEST_TYPE)

    def _push_blob(self, data: bytes, name: str = NAME) -> None:
        self._ask("POST", f"/v2/{name}/blobs/uploads/?digest={digest_of(data)}", (201,), data)

    def push_image(self, name: str) -> None:
        """One that stays as it is."""
        for data in (self.config, self.layer):
            self._push_blob(data, name)
        self._push_manifest(f"/v2/{name}/manifests/v1", self.fixed)

    def _ask(self, method: str, path: str, expected: tuple[int, ...], body: bytes | None = None, kind: str = "application/octet-stream") -> None:
        answer = self._client.ask(method, path, body, self._who | ({"Content-Type": kind} if body is not None else {}))
        assert answer.status in expected, f"{method} {path}: {answer}"

    def close(self) -> None:
        """The connection of this thread."""
        self._client.__exit__()


class Rights:
    """What a token, a password and the rules allow. A change is acknowledged when storage, the file or the master's line about the signal says so;
    within a second it counts in both workers."""

    def __init__(self, server: Guarded, token: str) -> None:
        self._server = server
        self.ruled = self._target("rules", head("GET", f"/v2/{RULED}/manifests/v1", login(bearer(token))), 200, 2 * SOON)  # of the clock on the wall
        self.passwords = [
            self._target(f"password {number}", head("GET", "/v2/", login(basic("dora", word)), f"X-Forwarded-For: 192.0.2.{number}"), status)
            for number, (word, status) in enumerate(zip(PASSWORDS, (200, 401), strict=True))
        ]
        self.tokens: list[tuple[Target, str]] = []
        self._forgotten: list[Target] = []
        self.changes = 0
        for _ in range(3):
            self._mint()

    @property
    def targets(self) -> list[Target]:
        return [self.ruled, *self.passwords, *(target for target, _ in self.tokens)]

    @property
    def all(self) -> list[Target]:
        """Forgotten ones as well."""
        return [*self.targets, *self._forgotten]

    def change(self, number: int) -> None:
        """Each in turn."""
        steps = (self._reload, self._revoke, self._change_password if number < 3 * FLIPS else self._reload)
        steps[number % 3]()
        self.changes += 1

    def _reload(self) -> None:
        allowed = self.ruled.states[-1] != 200
        put(self._server.folder / "rules.toml", block("app/nobody" if allowed else RULED))
        self.ruled.change(200 if allowed else 403, self._hup)

    def _hup(self) -> None:
        told = self._told()
        self._server.hup()
        wait_until(lambda: self._told() > told, LOADED, "the master to have read the rules")

    def _told(self) -> int:
        return self._server.log_text().count("telling 2 workers to reload")

    def _revoke(self) -> None:
        """The oldest that holds; the one before it is forgotten, after it was asked for in vain for long enough."""
        target, id = next(one for one in self.tokens if one[0].states[-1] == 200)
        target.change(401, lambda: self._server.tokens().revoke(id))
        self._mint()
        if len(self.tokens) > 5:
            self._forgotten.append(self.tokens[0][0])
            self.tokens = self.tokens[1:]

    def _mint(self) -> None:
        token, id = mint(self._server, ROOT, role="read")
        request = head("GET", f"/v2/{STILL}/manifests/v1", login(bearer(token)))
        self.tokens = [*self.tokens, (self._target(f"token {id}", request, 200), id)]

    def _change_password(self) -> None:
        now = next(number for number, target in enumerate(self.passwords) if target.states[-1] == 200)
        old, new = self.passwords[now], self.passwords[1 - now]

        def carry_out() -> None:
            new.change(200, lambda: self._server.set_user("dora", PASSWORDS[1 - now]))

        old.change(401, carry_out)

    def _target(self, name: str, request: bytes, status: int, slack: float = SOON) -> Target:
        target = Target(name, (request,), lambda answer: answer.status, slack=slack)
        target.change(status, lambda: None)
        return target


def put(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    os.replace(new, path)


class Spoiled(Guarded):
    """With a fault of twin/spoils.py."""

    spoil = ""

    def launch(self) -> subprocess.Popen[bytes]:
        if not self.spoil:
            return super().launch()
        for folder in (self.folder, self.storage, self.staging):
            folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "tests.fault.twin.launcher", NO_CLOCK, self.spoil, "--", "serve"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, cwd=self.folder, env=self.environment(), stdout=log, stderr=log, start_new_session=True)
        return self._process


@pytest.fixture
def server(folder: Path, request: pytest.FixtureRequest) -> Iterator[Guarded]:
    own = folder / "server"
    own.mkdir()
    put(own / "rules.toml", block("app/nobody"))
    spoiled = Spoiled(own, RULES, env={"NORA_ACCESS_LOG": "false"}, workers=2)
    spoiled.spoil = getattr(request, "param", "")
    with spoiled as server:
        yield server.all_up()
        assert server.log_faults() == []


@pytest.mark.slow
def test_no_answer_is_older_than_the_change_before_its_request(server: Guarded) -> None:
    run(server, CHANGES)


@pytest.mark.soak
def test_no_answer_is_older_for_long(server: Guarded) -> None:
    run(server, MANY)


@pytest.mark.slow
@pytest.mark.parametrize("server", SLOW, indirect=True)
def test_each_way_to_be_late_is_noticed(server: Guarded) -> None:
    with pytest.raises(AssertionError, match=r"a request shows"):
        run(server, 500)


def run(server: Guarded, changes: int) -> None:
    seed = int(os.environ.get("NORAFLASK_TWIN_SEED", random.randrange(1 << 32)))
    token, _ = mint(server, ROOT, role="admin")
    content = Content(server, token, seed)
    for name in (RULED, STILL):
        content.push_image(name)
    rights = Rights(server, token)
    try:
        with Crowd(server.port, [*content.targets, *rights.targets], CLIENTS, seed) as crowd, changing(content, changes) as done:
            for number in itertools.count():
                if done.wait(1.5 * SOON if number else 0) and number >= 6:
                    break
                rights.change(number)
                crowd.targets = [*content.targets, *rights.targets]
                time.sleep(1.5 * SOON if done.is_set() else 0)
                crowd.look()
    except AssertionError as problem:
        raise AssertionError(f"NORAFLASK_TWIN_SEED={seed}: {problem}") from problem
    late = {target.name.partition(" ")[0]: f"{target.latest:.3f}" for target in sorted(rights.all, key=lambda target: target.latest)}
    print(f"seed {seed}: {crowd.answers} answers, {content.changes} changes of content, {rights.changes} of rights, seen after at most {late} s")
    assert all(target.answers for target in content.targets)


@contextlib.contextmanager
def changing(content: Content, changes: int) -> Iterator[threading.Event]:
    """On threads of their own, so many changes of content; what it yields is set at their end. Raises what a thread has raised."""
    done, stop, problems = threading.Event(), threading.Event(), list[BaseException]()

    def work(share: int) -> None:
        try:
            while content.changes < changes and not stop.is_set():
                content.change(share)
        except BaseException as problem:
            problems.append(problem)
        finally:
            content.close()
            done.set()

    threads = [threading.Thread(target=work, args=(share,), name=f"changes {share}") for share in range(WRITERS)]
    for thread in threads:
        thread.start()
    try:
        yield done
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        content.close()
    if problems:
        raise problems[0]
