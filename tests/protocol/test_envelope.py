"""The line of a request: what it tells, and how often of those who only look whether all is well."""

from __future__ import annotations

from base64 import b64encode
from types import SimpleNamespace

import pytest
from werkzeug.test import Client

from noraflask.formats import FORMATS
from noraflask.services.metrics.counting import NullMetrics
from noraflask.services.repositories import Repositories
from noraflask.web import envelope as module
from noraflask.web.envelope import Envelope, Lines
from noraflask.web.targets import Targets
from tests.protocol.oci import Registry


class Told:
    """An app within an envelope whose lines are kept."""

    def __init__(self, app, interval=0.0):
        self.events = []
        self.app = app
        inner = getattr(app.wsgi_app, "_application", app.wsgi_app)
        self.client = Client(
            Envelope(
                inner,
                lambda: app.services.live.state,
                Targets(FORMATS),
                ("127.0.0.1",),
                NullMetrics(),
                Lines(SimpleNamespace(write=self.events.append), interval),
            )
        )

    def ask(self, method, path, **more):
        """The answer, and its event."""
        self.events.clear()
        answer = self.client.open(path, method=method, buffered=True, **more)
        return answer, self.events[0] if self.events else None


@pytest.fixture
def told(make_app):
    return Told(make_app())


def test_a_line_tells_who_what_and_how_much(make_app):
    app = make_app(auth={"users": {"ann": "right"}}, access={"default_role": "write"})
    login = {"Authorization": "Basic " + b64encode(b"ann:right").decode()}
    client = app.test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = login["Authorization"]
    digest = Registry(client).push_blob("team/app", b"x" * 100)
    answer, event = Told(app).ask(
        "GET",
        f"/v2/team/app/blobs/{digest}?secret=1",
        headers={**login, "X-Request-Id": "r-1", "User-Agent": "docker/27", "X-Forwarded-For": "10.1.2.3"},
        environ_overrides={"REMOTE_ADDR": "127.0.0.1"},
    )
    assert answer.headers["X-Request-Id"] == "r-1"
    assert event.pop("ms") >= 0
    assert event == {
        "message": "request",
        "method": "GET",
        "path": f"/v2/team/app/blobs/{digest}",
        "status": 200,
        "bytes": 100,
        "client": "10.1.2.3",
        "agent": "docker/27",
        "request_id": "r-1",
        "user": "ann",
        "registry": "docker",
        "name": "team/app",
    }


def test_what_came_in_is_told(told):
    answer, event = told.ask("POST", "/v2/a/b/blobs/uploads/", environ_overrides={"wsgi.input": Body(b"")})
    assert answer.status_code == 202
    assert event["received"] == 17


class Body:
    """As our server's: it knows how much of it has been read."""

    received = 17

    def __init__(self, data):
        self._data = data

    def read(self, size=-1):
        return b""


def test_a_refusal_tells_its_rule(make_app):
    rules = '[[block]]\nid = "b-1"\nformat = "docker"\nname = "bad/*"\nreason = "no"\n'
    app = make_app(curation={"mode": "enforce", "rules": rules})
    Registry(app.test_client()).push_image("bad/app", "v1")
    _, event = Told(app).ask("GET", "/v2/bad/app/manifests/v1")
    assert (event["status"], event["decision"], event["rule"]) == (403, "block", "blocklist b-1")
    assert event["decision_id"].startswith("d-")


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 304)])
def test_no_bytes_are_told_of_answers_without_a_body(app, method, status):
    told = Told(app)
    digest = Registry(app.test_client()).push_blob("a/b", b"x" * 100)
    headers = {"If-None-Match": f'"{digest}"'} if status == 304 else {}
    answer, event = told.ask(method, f"/v2/a/b/blobs/{digest}", headers=headers)
    assert (answer.status_code, event["bytes"]) == (status, 0)


def test_an_answer_that_was_cut_tells_what_left(app):
    told = Told(app)
    digest = Registry(app.test_client()).push_blob("a/b", b"x" * 100)
    _, event = told.ask("GET", f"/v2/a/b/blobs/{digest}", environ_overrides={"nora.cut": "the client is gone", "nora.sent": 40})
    assert (event["bytes"], event["cut"]) == (40, "the client is gone")


def test_time_spent_on_upstreams_is_told(told):
    _, event = told.ask("GET", "/v2/", environ_overrides={module.UPSTREAM_SECONDS: 0.25})
    assert event["upstream_ms"] == 250.0


def test_good_health_is_told_now_and_then(app, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    told = Told(app, interval=60)

    def is_told(path, after=1.0):
        now[0] += after
        return told.ask("GET", path)[1] is not None

    assert [is_told("/health") for _ in range(3)] == [True, False, False]
    assert is_told("/ready"), "each path has its own turn"
    assert [is_told("/v2/") for _ in range(2)] == [True, True], "what is no check is always told"
    assert is_told("/health", after=60)
    monkeypatch.setattr(type(app.services.health), "failing_task", lambda self: "maintenance")
    assert [is_told("/health") for _ in range(2)] == [True, True], "bad news are always told"
    monkeypatch.undo()
    assert told.ask("GET", "/health")[1] is not None, "and that they are over"


def test_with_no_interval_each_is_told(app):
    told = Told(app, interval=0)
    assert all(told.ask("GET", "/health")[1] for _ in range(3))


def test_an_application_that_fails_leaves_a_line_all_the_same(app):
    events = []

    def fails(environ, start_response):
        raise RuntimeError("of the framework itself")

    client = Client(
        Envelope(
            fails,
            lambda: SimpleNamespace(repositories=Repositories([])),
            Targets([]),
            (),
            NullMetrics(),
            Lines(SimpleNamespace(write=events.append), 0),
        )
    )
    with pytest.raises(RuntimeError):
        client.get("/")
    assert events[0]["status"] == 500
