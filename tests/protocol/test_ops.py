"""/health: is the process well? /ready: can it take work?"""

from __future__ import annotations

import pytest

from noraflask import __version__
from noraflask.errors import StorageFull, StorageReadOnly, Unavailable
from noraflask.services import health as module
from noraflask.storage.memory import MemoryStorage


def test_health(client):
    answer = client.get("/health")
    assert (answer.status_code, answer.content_type) == (200, "application/json")
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.json == {
        "status": "healthy",
        "version": __version__,
        "uptime_seconds": answer.json["uptime_seconds"],
        "storage": {"backend": "memory", "reachable": True},
        "registries": {"docker": "ok", "raw": "ok"},
        "upstreams": {},
        "policy": answer.json["policy"],
    }
    fingerprint = client.application.services.live.state.policy.fingerprint
    told = answer.json["policy"]
    assert told == {"fingerprint": fingerprint, "workers": 0, "current": 0, "last_reload": told["last_reload"], "failed_reload": None}
    assert 0 <= answer.json["uptime_seconds"] < 60


def test_a_server_that_can_only_be_read_from_is_degraded_not_dead(app, client, monkeypatch):
    monkeypatch.setattr(app.extensions["noraflask"].health, "storage_reachable", False)
    answer = client.get("/health")
    assert (answer.status_code, answer.json["status"], answer.json["storage"]["reachable"]) == (200, "degraded", False)


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_head(client, path):
    """`wget --spider` sends HEAD."""
    answer = client.head(path)
    assert (answer.status_code, answer.data, answer.content_type) == (200, b"", "application/json")
    assert int(answer.headers["Content-Length"]) > 0


@pytest.mark.parametrize("path", ["/health/", "//health", "/./health", "/ready/", "/api/v1/policy/"])
def test_an_address_has_one_spelling(client, path):
    assert client.get(path).status_code == 404


def test_ready(client):
    answer = client.get("/ready")
    assert (answer.status_code, answer.json) == (200, {"status": "ready", "storage": "ok", "staging": "ok"})
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (StorageFull(), StorageFull.default_message),
        (StorageReadOnly(), StorageReadOnly.default_message),
        (Unavailable("words"), "words"),
        (OSError(5, "Input/output error", "/secret/path"), "does not work; the server's log says why"),
    ],
)
def test_a_storage_that_does_not_work(make_app, problem, words):
    class Broken(MemoryStorage):
        def probe(self):
            raise problem

    client = make_app(Broken()).test_client()
    answer = client.get("/ready")
    assert (answer.status_code, answer.json) == (503, {"status": "unready", "storage": words, "staging": "ok"})
    assert client.head("/ready").status_code == 503
    assert client.get("/health").status_code == 200


def test_ready_is_about_this_server_and_not_about_how_many_uploads_clients_left(make_app, monkeypatch):
    """Else one client's uploads would take the server out of its balancer, and everybody's pulls with it."""
    client = make_app(docker={"max_upload_sessions": 1}).test_client()
    assert [client.post("/v2/app/blobs/uploads/").status_code for _ in range(2)] == [202, 429]
    monkeypatch.setattr(module, "PROBE_FRESH_SECONDS", -1)
    answer = client.get("/ready")
    assert (answer.status_code, answer.json) == (200, {"status": "ready", "storage": "ok", "staging": "ok"})
    assert client.get("/health").status_code == 200


def test_a_recovered_storage_is_ready_a_second_later(make_app, monkeypatch):
    class Recovers(MemoryStorage):
        probes = 0

        def probe(self):
            self.probes += 1
            if self.probes == 1:
                raise StorageFull()

    storage = Recovers()
    client = make_app(storage).test_client()
    assert [client.get("/ready").status_code, client.get("/ready").status_code, storage.probes] == [503, 503, 1]
    monkeypatch.setattr(module, "PROBE_FRESH_SECONDS", -1)
    assert [client.get("/ready").status_code, storage.probes] == [200, 2]


def test_probes_leave_nothing(client, tmp_path):
    client.get("/ready")
    assert not list(tmp_path.rglob("*.upload"))
