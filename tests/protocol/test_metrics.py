"""GET /metrics: who may read it, what is in it, and that what happens is counted."""

from __future__ import annotations

import re
import threading
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor

import pytest
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families

from noraflask.app import ServedRegistry
from noraflask.services.limits.bucket import TICKS, Bucket
from noraflask.services.metrics.scrape_metrics import gauge
from noraflask.web.metrics import FRESH, KEPT_SECONDS, Gathering, StillGathering
from tests.clock import Clock
from tests.protocol.oci import Registry

NORA_1_4_3 = re.split(
    r"\s+",
    """\
nora_http_requests_total nora_http_request_duration_seconds nora_upstream_request_duration_seconds nora_upstream_policy_blocked_total
nora_cache_requests_total nora_cache_write_errors_total nora_downloads_total nora_uploads_total nora_artifacts_total nora_storage_bytes
nora_storage_operations_total nora_storage_verify_duration_seconds nora_storage_get_bytes nora_metadata_corrupt_total nora_circuit_breaker_state
nora_circuit_breaker_rejections_total nora_proxy_coalesced_total nora_proxy_inflight nora_proxy_coalesce_fallthrough_total
nora_proxy_upstream_304_total nora_proxy_revalidation_bytes_saved_total nora_proxy_revalidation_errors_total nora_proxy_active_downloads
nora_proxy_download_bytes_total nora_upload_sessions nora_upload_in_flight nora_curation_decisions_total nora_namespace_isolation_refused_total
nora_quarantine_holds_total nora_response_upstream_url_leak_total nora_leak_detection_skipped_total nora_gc_blobs_removed_total
nora_gc_bytes_freed_total nora_gc_metadata_phantoms_total nora_gc_stat_failures_total nora_gc_duration_seconds nora_gc_last_run_timestamp
nora_retention_versions_deleted_total nora_retention_bytes_freed_total nora_retention_duration_seconds nora_retention_last_run_timestamp
nora_uptime_seconds nora_auth_oidc_rejected_total nora_config_deprecated nora_task_panics_total nora_maintenance_timeouts_total
nora_packument_rebuilt_total nora_gc_proxy_cache_evicted_total nora_gc_proxy_cache_bytes_freed_total nora_gc_docker_mark_failures_total""",
)
"""All but nora_auth_namespace_scope_total, whose label is a provider of the configuration."""


def samples(client, **arguments):
    """{(name, labels): value}."""
    answer = client.get("/metrics", **arguments)
    assert answer.status_code == 200, answer.text
    families = text_string_to_metric_families(answer.text)
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for family in families for sample in family.samples}


def value(client, name, **labels):
    return samples(client).get((name, tuple(sorted(labels.items()))))


class Reader(FlaskClient):
    """Takes each answer to its end, as a server does: a request counts when its last byte has left."""

    def open(self, *arguments, **options):
        return super().open(*arguments, buffered=True, **options)


@pytest.fixture
def start(make_app):
    """start(auth=…, …) → the client of an app with metrics."""

    def begin(**sections):
        app = make_app(**{"metrics": {"enabled": True}, **sections})
        app.test_client_class = Reader
        return app.test_client()

    return begin


@pytest.fixture
def client(start):
    return start()


@pytest.fixture
def registry(client):
    return Registry(client)


# ---- what is in it


@pytest.mark.parametrize("name", NORA_1_4_3)
def test_every_metric_of_nora_is_there_before_anything_happens(client, name):
    assert re.search(rf"^{name}(_count)?(\{{.*\}})? ", client.get("/metrics").text, re.MULTILINE)


def test_it_is_text_for_prometheus(client):
    answer = client.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    assert answer.headers["Cache-Control"] == "no-store"
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", answer.text, re.MULTILINE))
    assert (types["nora_http_requests_total"], types["nora_artifacts_total"], types["nora_http_last_byte_seconds"]) == (
        "counter",
        "gauge",
        "histogram",
    )
    told = re.findall(r"^# TYPE (\S+)", answer.text, re.MULTILINE)
    assert len(told) == len(set(told)), "a family is told twice"


def test_a_scraper_may_ask_for_openmetrics_and_for_single_samples(client):
    answer = client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")
    some = client.get("/metrics?name[]=nora_workers_wanted&name[]=nora_downloads_total").text
    assert sorted({line.split("{")[0].split(" ")[0] for line in some.splitlines() if line[0] != "#"}) == [
        "nora_downloads_total",
        "nora_workers_wanted",
    ]
    assert client.get("/metrics?name[]=nonsense").text == ""


def test_head_and_other_methods(client):
    assert client.head("/metrics").status_code == 200
    assert client.post("/metrics").status_code == 405


def test_no_label_holds_what_a_client_sent(client):
    for path in ("/v2/team/secret-project/manifests/v1", "/nowhere/secret-project", "/v2/team/secret-project/tags/list"):
        client.get(path, headers={"User-Agent": "secret-project"})
        client.open(path, method="SECRET-PROJECT")
    text = client.get("/metrics").text
    assert "secret" not in text.lower()


def test_none_where_metrics_are_off(make_app):
    assert make_app(metrics={"enabled": False}).test_client().get("/metrics").status_code == 404


def test_a_server_that_finds_no_folder_for_them_serves_without(start, monkeypatch, caplog, tmp_path):
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path / "absent" / "folder"))
    client = start()
    assert client.get("/metrics").status_code == 404
    assert client.get("/v2/").status_code == 200
    assert "metrics are off" in caplog.text


# ---- what happens is counted


def test_a_push_and_a_pull(client, registry):
    data = b"layer" * 1000
    digest = registry.push_blob("team/app", data)
    manifest = registry.push_image("team/app", "v1")
    before = samples(client)
    assert client.get(f"/v2/team/app/blobs/{digest}").data == data
    assert client.head(f"/v2/team/app/blobs/{digest}").status_code == 200
    assert client.get(f"/v2/team/app/blobs/{digest}", headers={"Range": "bytes=0-9"}).status_code == 206
    assert client.get(f"/v2/team/app/blobs/{digest}", headers={"If-None-Match": f'"{digest}"'}).status_code == 304
    assert client.get("/v2/team/app/manifests/v1").status_code == 200
    assert client.get("/v2/team/app/manifests/nope").status_code == 404
    after = samples(client)
    change = {key: after[key] - before.get(key, 0) for key in after if after[key] != before.get(key, 0)}

    def changed(name, **labels):
        return change.get((name, tuple(sorted(labels.items()))), 0)

    assert before["nora_uploads_total", (("registry", "docker"),)] >= 3
    assert changed("nora_downloads_total", registry="docker") == 3, "not HEAD, not 304"
    assert changed("nora_cache_requests_total", registry="docker", result="hit") == 3
    assert changed("nora_http_requests_total", registry="docker", method="GET", status="200") == 2
    assert changed("nora_http_requests_total", registry="docker", method="HEAD", status="200") == 1
    assert changed("nora_http_requests_total", registry="docker", method="GET", status="304") == 1
    assert changed("nora_http_requests_total", registry="docker", method="GET", status="404") == 1
    missing = len(client.get("/v2/team/app/manifests/nope").data)
    manifest_bytes = len(client.get("/v2/team/app/manifests/v1").data)
    assert changed("nora_http_response_bytes_total", registry="docker") == len(data) + 10 + manifest_bytes + missing
    assert changed("nora_curation_decisions_total", decision="skip") >= 4
    assert manifest


def test_a_refusal_of_the_gate(start):
    rules = '[[block]]\nid = "b-1"\nformat = "docker"\nname = "bad/*"\nreason = "no"\n'
    client = start(curation={"mode": "enforce", "rules": rules})
    registry = Registry(client)
    registry.push_image("good/app", "v1")
    registry.push_image("bad/app", "v1")
    assert client.get("/v2/bad/app/manifests/v1").status_code == 403
    assert client.get("/v2/good/app/manifests/v1").status_code == 200
    assert value(client, "nora_curation_blocks_total", registry="docker", rule="blocklist", mode="enforce") == 1
    assert value(client, "nora_curation_decisions_total", decision="block") == 1
    assert value(client, "nora_curation_decisions_total", decision="allow") >= 1
    assert value(client, "nora_policy_info", fingerprint=client.application.services.live.state.policy.fingerprint, mode="enforce") == 1


def test_logins_and_denials(start):
    client = start(auth={"users": {"ann": "right"}}, access={"default_role": "read"})
    assert client.get("/v2/", headers=basic("ann", "wrong")).status_code == 401
    assert client.get("/v2/", headers={"Authorization": "Bearer nra_" + "0" * 32}).status_code == 401
    assert client.get("/v2/", headers=basic("ann", "right")).status_code == 200
    assert client.post("/v2/team/app/blobs/uploads/", headers=basic("ann", "right")).status_code == 403
    assert client.get("/v2/team/app/manifests/v1").status_code == 401
    assert value(client, "nora_auth_logins_total", method="password", result="failed") == 1
    assert value(client, "nora_auth_logins_total", method="password", result="ok") == 1
    assert value(client, "nora_auth_logins_total", method="token", result="failed") == 1
    assert value(client, "nora_access_denied_total", registry="docker", action="push", status="403") == 1
    assert value(client, "nora_access_denied_total", registry="docker", action="pull", status="401") == 1
    assert value(client, "nora_auth_wrong_passwords_total") == 1


# ---- who may read it

OPEN, LOGIN, FORBIDDEN = 200, 401, 403


@pytest.mark.parametrize(
    ("metrics", "auth", "client", "headers", "status"),
    [
        ({}, None, "10.9.9.9", {}, OPEN),
        ({}, {}, "10.9.9.9", {}, OPEN),
        ({}, {"public_metrics": False}, "10.9.9.9", {}, LOGIN),
        ({}, {"public_metrics": False}, "10.9.9.9", "login", OPEN),
        ({}, {"public_metrics": False}, "10.9.9.9", "wrong login", LOGIN),
        ({"allow_from": ("10.0.0.0/8",)}, None, "10.9.9.9", {}, OPEN),
        ({"allow_from": ("10.0.0.0/8",)}, None, "11.9.9.9", {}, FORBIDDEN),
        ({"allow_from": ("10.0.0.0/8",)}, {}, "11.9.9.9", {}, LOGIN),
        ({"allow_from": ("10.0.0.0/8",)}, {}, "11.9.9.9", "login", OPEN),
        ({"token_file": "token"}, None, "11.9.9.9", {"Authorization": "Bearer scrape-me"}, OPEN),
        ({"token_file": "token"}, None, "11.9.9.9", {"Authorization": "bearer scrape-me"}, OPEN),
        ({"token_file": "token"}, None, "11.9.9.9", {"Authorization": "Bearer scrape-m"}, LOGIN),
        ({"token_file": "token"}, None, "11.9.9.9", {}, LOGIN),
        ({"token_file": "absent"}, None, "11.9.9.9", {"Authorization": "Bearer "}, LOGIN),
        ({"token_file": "empty"}, None, "11.9.9.9", {"Authorization": "Bearer "}, LOGIN),
        ({"token_file": "token", "allow_from": ("10.0.0.0/8",)}, None, "11.9.9.9", {"Authorization": "Bearer scrape-me"}, OPEN),
        ({"token_file": "token", "allow_from": ("10.0.0.0/8",)}, None, "10.9.9.9", {}, OPEN),
        ({"token_file": "token"}, {"public_metrics": False}, "11.9.9.9", {"Authorization": "Bearer scrape-me"}, OPEN),
    ],
)
def test_who_may_read(start, tmp_path, metrics, auth, client, headers, status):
    (tmp_path / "token").write_text("scrape-me\n")
    (tmp_path / "empty").write_text("\n")
    if "token_file" in metrics:
        metrics = {**metrics, "token_file": tmp_path / metrics["token_file"]}
    sections = {} if auth is None else {"auth": {"users": {"ann": "right"}, **auth}}
    asker = start(metrics={"enabled": True, **metrics}, server={"trusted_proxies": ("127.0.0.1",)}, **sections)
    if isinstance(headers, str):
        headers = basic("ann", "right" if headers == "login" else "wrong")
    answer = asker.get("/metrics", headers={**headers, "X-Forwarded-For": client})
    assert answer.status_code == status
    assert ("WWW-Authenticate" in answer.headers) == (status == LOGIN)


def test_a_forged_address_opens_nothing(start):
    client = start(metrics={"enabled": True, "allow_from": ("10.0.0.0/8",)}, server={"trusted_proxies": ()})
    assert client.get("/metrics", headers={"X-Forwarded-For": "10.1.1.1"}).status_code == FORBIDDEN


def basic(name, password):
    return {"Authorization": "Basic " + b64encode(f"{name}:{password}".encode()).decode()}


def test_a_reload_that_breaks_is_counted(client):
    """By the master, in which there is no worker's background work."""
    ServedRegistry(client.application).reload_broke()
    assert value(client, "nora_task_panics_total", task="sighup") == 1
    assert value(client, "nora_reloads_total", result="failed") == 1


# ---- how much it may cost


class Counted:
    """A collector that says how often it was asked."""

    def __init__(self, work=lambda: None):
        self.times, self._work = 0, work

    def collect(self):
        self.times += 1
        self._work()
        yield gauge("asked", "How often.", (), [((), self.times)])


def shown(gathering):
    return next(iter(gathering.figures().collect())).samples[0].value


def test_who_asks_now_and_then_gets_what_is_true_now():
    clock, counted = Clock(1000.0), Counted()
    gathering = Gathering([counted], lambda: clock.now)
    for second in range(100):
        assert shown(gathering) == second + 1
        clock.now += 1


def test_a_flood_gets_figures_of_less_than_a_second_ago():
    clock, counted = Clock(1000.0), Counted()
    gathering = Gathering([counted], lambda: clock.now)
    for _ in range(10_000):
        gathering.figures()
        clock.now += 0.01
        assert clock.now - gathering._kept.gathered < KEPT_SECONDS + 0.02
    assert counted.times <= FRESH.burst + 101


def test_requests_that_come_meanwhile_wait_for_the_same_figures():
    begun, go_on = threading.Event(), threading.Event()

    def work():
        begun.set()
        assert go_on.wait(10)

    counted = Counted(work)
    gathering = Gathering([counted])
    with ThreadPoolExecutor(50) as pool:
        first = pool.submit(shown, gathering)
        assert begun.wait(10)
        others = [pool.submit(shown, gathering) for _ in range(49)]
        go_on.set()
        assert first.result() == 1
        assert {other.result() for other in others} <= {1, 2, 3}, "those that came while the first were gathered get the next ones, together"
    assert counted.times <= 3


def test_a_scrape_that_hangs_holds_no_other(monkeypatch):
    monkeypatch.setattr("noraflask.web.metrics.WAIT_SECONDS", 0.05)
    begun, go_on = threading.Event(), threading.Event()

    def work():
        begun.set()
        assert go_on.wait(10)

    gathering = Gathering([Counted(work)])
    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(shown, gathering)
        assert begun.wait(10)
        with pytest.raises(StillGathering) as caught:
            gathering.figures()
        assert (caught.value.status, caught.value.headers["Retry-After"]) == (503, "1")
        go_on.set()
        assert hanging.result() == 1


def test_a_collector_that_fails_fails_alone():
    outcomes = iter((ValueError("no"), None))

    def work():
        if problem := next(outcomes):
            raise problem

    gathering = Gathering([Counted(work)])
    with pytest.raises(ValueError, match="no"):
        gathering.figures()
    assert shown(gathering) == 2


def test_each_form_and_choice_is_of_the_same_figures(client, monkeypatch):
    monkeypatch.setattr("noraflask.web.metrics.FRESH", Bucket(1e-6, 1))
    monkeypatch.setattr("noraflask.web.metrics.KEPT_SECONDS", 1e6)
    client.get("/metrics")
    whole = client.get("/metrics").text
    some = client.get("/metrics?name[]=nora_workers_wanted").text
    again = client.get("/metrics").text
    assert whole == again, "what was left out of one answer is in the others"
    assert some.splitlines()[-1] in whole.splitlines()
    for number in range(30):
        client.get("/metrics", headers={"Accept": f"application/openmetrics-text;version=1.0.0;escaping={number}"})
    assert client.get("/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0"}).text.endswith("# EOF\n")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_flood_meets_a_limit_and_monitors_do_not(start, method, monkeypatch):
    client = start(rate_limit={"enabled": True})
    clock = Clock(1000.0)
    client.application.services.limits._here.buckets._clock = lambda: round(clock.now * TICKS)
    for _ in range(10):
        assert {client.open("/metrics", method=method).status_code for _ in range(10)} == {200}, "ten monitors, each second"
        clock.now += 1
    answers = [client.open("/metrics", method=method).status_code for _ in range(200)]
    assert answers.count(429) == 100
    assert client.get("/health").status_code == client.get("/v2/").status_code == 200, "nobody else is refused for that"
    clock.now += 1
    monkeypatch.setattr("noraflask.web.metrics.KEPT_SECONDS", 0)
    assert value(client, "nora_rate_limit_requests_total", tier="metrics", outcome="refused") == 100


def test_metrics_are_counted_here_while_redis_is_away(start):
    """Closed: whatever Redis should count is refused."""
    limits = {"enabled": True, "storage_url": "redis://127.0.0.1:1/0", "on_failure": "closed"}
    client = start(rate_limit=limits)
    assert client.get("/v2/").status_code == 503
    assert value(client, "nora_rate_limit_store_failures_total") >= 1
