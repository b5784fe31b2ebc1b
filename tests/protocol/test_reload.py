"""A reload: one state for each request, whenever the reload lands; what cannot be adopted changes nothing."""

from __future__ import annotations

import gc
import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from noraflask import reload
from noraflask.app import ServedRegistry, create_app
from noraflask.config import ServerConfig, load
from noraflask.serve.application import PlainApplication, application_of
from noraflask.serve.handover import Handover
from noraflask.serve.master import Arbiter
from noraflask.serve.plans import Plans, Sight
from noraflask.serve.response import Whole
from noraflask.serve.worker import Worker
from noraflask.services.auth.authenticator import Authenticator
from noraflask.services.auth.rules import Access
from noraflask.services.content import Content
from noraflask.services.curation.gate import Curation
from noraflask.services.limits.rates import RateLimits
from noraflask.services.state import State
from noraflask.storage.memory import MemoryStorage
from noraflask.web.context import STATE
from tests.conftest import write_htpasswd
from tests.protocol.access import basic
from tests.protocol.oci import Registry

CONFIG = """
[server]
port = {port}
[auth]
enabled = true
htpasswd_file = "{folder}/users.htpasswd"
bearer_ttl_secs = {seconds}
[access]
contact = "{contact}"
[[access.rules]]
users = ["{user}", "both"]
actions = ["pull", "push"]
[curation]
mode = "enforce"
rules_path = "{folder}/rules.toml"
bypass_token = "a-secret-of-sixteen-characters-or-more"
[audit]
mode = "off"
[docker]
max_upload_sessions = {sessions}
[staging]
path = "{folder}/tmpfs"
[rate_limit]
upload_burst = {burst}
"""
BLOCK = '[[block]]\nformat = "docker"\nname = "app"\nreason = "{reason}"\n'
OLD = {"port": 4000, "sessions": 100, "seconds": 300, "contact": "the old team", "user": "alice", "burst": 5000}
NEW = {"port": 4001, "sessions": 200, "seconds": 60, "contact": "the new team", "user": "bob", "burst": 6000}
ALICE, BOB, BOTH = (basic(name, f"pw-{name}") for name in ("alice", "bob", "both"))


class Reloaded:
    """A server's application and its master, without processes. Two states: an old one in which alice may all, and a new one in which bob may
    and app is blocked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_htpasswd(folder / "users.htpasswd", {name: f"pw-{name}" for name in ("alice", "bob", "both")})
        self.write(OLD, 'name = "other"')
        self.app = create_app(load(folder / "config.toml", {}), MemoryStorage())
        self.served = ServedRegistry(self.app)
        self.services = self.app.services
        self.client = self.app.test_client()
        self.client.environ_base["HTTP_AUTHORIZATION"] = ALICE
        registry = Registry(self.client)
        self.digest = registry.push_image("app", "1")
        self.master: Any = object.__new__(Arbiter)
        self.worker_class = Worker.configured(ServerConfig())
        self.signals: list[int] = []
        self.master.app = type("Loader", (), {"wsgi": lambda _: self.served})()
        self.master.LISTENERS, self.master._num_workers, self.master.cfg = [], 2, SimpleNamespace(proc_name="test")
        self.master.worker_class, self.master.WORKERS, self.master.kill_workers = self.worker_class, {}, self.signals.append

    @property
    def handover(self) -> Handover:
        return self.worker_class.handover

    @property
    def state(self) -> State:
        return self.services.live.state

    def write(self, values: dict[str, Any], name: str = 'name = "app"') -> None:
        (self.folder / "rules.toml").write_text(BLOCK.replace('name = "app"', name).format(reason=values["contact"]))
        (self.folder / "config.toml").write_text(CONFIG.format(folder=self.folder, **values))

    def reload(self) -> str:
        """As the master does it between other things."""
        told: list[str] = []
        self.master.service_manager = SimpleNamespace(reloading=lambda: None, ready=told.append)
        self.master.handle_hup()
        while self.master.reading is not None:
            time.sleep(0.005)
            self.master.go_on_reading()
        (status,) = told
        return status.partition("; the last reload was refused: ")[2]

    def get(self, authorization: str, path: str = "/v2/app/manifests/1", **more: Any) -> Any:
        return self.client.get(path, headers={"Authorization": authorization}, **more)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reloaded:
    for name in [name for name in os.environ if name.startswith("NORA_")]:
        monkeypatch.delenv(name)
    return Reloaded(tmp_path)


# One state for each request.

MOMENTS: dict[str, tuple[type, str]] = {
    "limits": (RateLimits, "check"),
    "login": (Authenticator, "authenticate"),
    "guard": (Access, "decide"),
    "gate": (Curation, "check"),
    "bytes": (Content, "read"),
}
"""What a request does one after another."""


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_request_sees_one_state_to_its_end(server, monkeypatch, moment, before):
    """The reload lands before or after one of its steps, whichever."""
    old, (owner, name) = server.state, MOMENTS[moment]
    original: Callable[..., Any] = getattr(owner, name)
    landed = []

    def reloading(self: Any, *arguments: Any, **more: Any) -> Any:
        if landed:
            return original(self, *arguments, **more)
        landed.append(True)
        if before:
            assert server.reload() == ""
            return original(self, *arguments, **more)
        found = original(self, *arguments, **more)
        assert server.reload() == ""
        return found

    server.write(NEW)
    environs: list[dict[str, Any]] = []
    inner = server.app.wsgi_app
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, reloading)
        patch.setattr(server.app, "wsgi_app", lambda environ, start: environs.append(environ) or inner(environ, start))
        answer = server.get(ALICE)
    assert landed
    assert answer.status_code == 200, "by the old rights, and the old rules"
    assert answer.headers["X-Nora-Policy"] == old.policy.fingerprint
    assert answer.headers["x-ratelimit-limit"] == "5000"
    assert environs[0][STATE] is old
    assert (old.config.access.contact, [one.name for one in old.repositories]) == ("the old team", ["docker", "raw"])
    new = server.state
    assert new is not old
    answer = server.get(ALICE)
    assert (answer.status_code, answer.headers["x-ratelimit-limit"], "the new team" in answer.text) == (403, "6000", True), "by the new rights"
    answer = server.get(BOB)
    assert (answer.status_code, answer.headers["X-Nora-Policy"]) == (403, new.policy.fingerprint), "and the new rules"


def test_who_was_recognised_by_the_old_state_is_looked_at_anew(server):
    server.get(BOTH)
    known = server.state.authenticator._known
    assert len(known) > 0
    assert server.reload() == ""
    assert len(server.state.authenticator._known) == 0
    assert server.state.authenticator.logins is server.services.logins


def test_what_is_as_before_is_not_made_anew(server):
    old = server.state
    assert server.reload() == ""
    new = server.state
    assert (new.fingerprint, new.policy is old.policy, new.policy_when) == (old.fingerprint, True, old.policy_when)
    assert new.authenticator.oidc.shares_keys(old.authenticator.oidc)
    assert new.when > old.when
    assert new.permits is not old.permits
    server.write(OLD)
    assert server.reload() == ""
    assert server.state.policy_when == server.state.when > old.policy_when


def test_the_fingerprint_is_of_all(server):
    seen = {server.state.fingerprint}
    for number, name in enumerate(("seconds", "contact", "user", "burst")):
        server.write({**OLD, name: NEW[name]}, 'name = "other"' if name != "contact" else "")
        (server.folder / "rules.toml").write_text(BLOCK.format(reason="the same"))
        assert server.reload() == ""
        seen.add(server.state.fingerprint)
        assert len(seen) == number + 2, name


def test_what_takes_a_restart_stays_as_it_was(server, caplog):
    server.write(NEW)
    with caplog.at_level(logging.WARNING, "nora.reload"):
        assert server.reload() == ""
    config = server.state.config
    assert (config.server.port, config.access.contact, config.auth.bearer_ttl_secs) == (4000, "the new team", 60)
    assert config.formats["docker"].max_upload_sessions == server.state.repositories.default("docker").settings.max_upload_sessions == 100
    for name in ("server.port", "docker.max_upload_sessions"):
        assert f"{name} differs now; it takes a restart to change it" in caplog.text


def test_no_secret_is_handed_on(server):
    server.write(NEW)
    assert server.reload() == ""
    snapshot, _ = server.handover.current()
    assert (snapshot.config.curation.bypass_token, snapshot.config.rate_limit.storage_url) == (None, None)
    assert snapshot.config.access.contact == "the new team"


# What cannot be adopted.


def break_adoption(server: Reloaded, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: Any) -> State:
        raise RuntimeError("it does not fit")

    monkeypatch.setattr(reload, "make_state", fails)


def large_files() -> int:
    return sum("nora-policy" in os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink())


def test_what_the_master_cannot_adopt_changes_nothing_anywhere(server, monkeypatch):
    lines: list[tuple[str, ...]] = []
    assert server.reload() == ""
    old, published, files = server.state, server.handover.current()[0], large_files()
    told = server.services.reloads.figures()
    server.signals.clear()
    server.write(NEW)
    with monkeypatch.context() as patch:
        break_adoption(server, patch)
        patch.setattr("noraflask.serve.master.log.exception", lambda *line: lines.append(line))  # a record would hold what its traceback holds
        for _ in range(5):
            assert server.reload() == "it does not fit"
    assert server.state is old
    assert server.handover.current()[0] == published
    assert lines == [("Curation policy reload failed, keeping previous config error=%s", '"it does not fit"')] * 5
    gc.collect()
    assert large_files() <= files
    assert server.signals == [], "no worker is told"
    figures = server.services.reloads.figures()
    assert (figures.succeeded, figures.failed, figures.state) == (told.succeeded, told.failed + 5, old.fingerprint)
    assert server.get(ALICE).status_code == 200
    assert server.reload() == ""
    assert server.get(ALICE).status_code == 403


def test_what_is_published_is_what_the_master_has(server):
    server.write(NEW)
    assert server.reload() == ""
    snapshot, large = server.handover.current()
    worker = ServedRegistry(create_app(load_old(server), MemoryStorage()))
    worker.adopt(snapshot, memoryview(large))
    assert worker.services.live.state.fingerprint == server.state.fingerprint
    assert len(server.signals) == 1


def load_old(server: Reloaded) -> Any:
    server.write(OLD, 'name = "other"')
    return load(server.folder / "config.toml", {})


def worker_of(server: Reloaded) -> Any:
    worker: Any = object.__new__(server.worker_class)
    worker.application, worker.alive = server.served, True
    worker.runner = SimpleNamespace(plans=Plans(1 << 20))
    return worker


def test_a_worker_that_cannot_adopt_stops(server, monkeypatch, caplog):
    server.write(NEW)
    assert server.reload() == ""
    worker = worker_of(server)
    plans, sight = worker.runner.plans, Sight(b"key", "")
    plans.keep(sight, SimpleNamespace(body=b"", varying=(), size_bytes=1), Whole(b"", b"", b""))
    assert plans.find(sight)
    worker.reload()
    assert worker.alive
    assert plans.find(sight) is None  # it would keep the old state in memory
    with monkeypatch.context() as patch:
        break_adoption(server, patch)
        worker.reload()
    assert not worker.alive
    assert "this worker stops, and the one in its place begins with it" in caplog.text


def test_a_worker_says_that_it_has_adopted_when_it_has_all_of_it(server, monkeypatch):
    """Also what has to be started."""
    services = server.services
    monkeypatch.setattr(type(services.health), "is_started", True)
    reload.start(services)
    old = server.state
    assert [worker.state for worker in services.reloads.workers()] == [old.fingerprint]
    server.write(NEW)
    snapshot, large = reload.read_again(services)
    with monkeypatch.context() as patch:
        patch.setattr(type(services.curation.ledger), "start", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            server.served.adopt(snapshot, large)
    assert [worker.state for worker in services.reloads.workers()] == [old.fingerprint]
    server.served.adopt(snapshot, large)
    assert [worker.state for worker in services.reloads.workers()] == [server.state.fingerprint]
    services.curation.ledger.stop()


def test_a_worker_with_the_rules_of_now_and_the_rights_of_before_is_behind(server):
    """It adopted late what was published before."""
    reloads, state = server.services.reloads, server.state
    reloads.succeeded(state.policy.fingerprint, "rights of now")
    reloads.adopted(state.policy.fingerprint, state.fingerprint)
    told = json.loads(server.get(ALICE, "/health").data)["policy"]
    assert (told["workers"], told["current"]) == (1, 0)
    reloads.adopted(state.policy.fingerprint, "rights of now")
    assert json.loads(server.get(ALICE, "/health").data)["policy"]["current"] == 1


# The two sides of the server.


def test_a_plain_application_is_served_and_reloads_nothing(server):
    def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        return [b"plain"]

    plain = application_of(wsgi)
    assert isinstance(plain, PlainApplication)
    assert plain({}, lambda *_: None) == [b"plain"]
    assert plain.read_again() is None
    server.master.app = type("Loader", (), {"wsgi": lambda _: wsgi})()
    assert server.reload() == ""
    assert (len(server.signals), server.handover.current()) == (1, None)
    worker = worker_of(server)
    worker.application = plain
    worker.reload()
    assert worker.alive


def test_the_registry_is_served_as_itself(server):
    assert application_of(server.served) is server.served
    assert isinstance(application_of(server.app), PlainApplication), "a Flask alone knows no workers"
