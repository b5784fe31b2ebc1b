"""What etc/prometheus and etc/grafana say is true of a server that runs. The judges are promtool and Prometheus themselves."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.client.conftest import Registry, finish
from tests.client.guarded import Guarded, guarded_server, password_of
from tests.client.tools import Client, clean_environment, tool
from tests.oidc import Issuer
from tests.server import ROOT, free_port, wait_until

ETC = ROOT / "etc/prometheus"
ALERTS = [rule for group in yaml.safe_load((ETC / "nora-alerts.yml").read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]
BOARD = json.loads((ROOT / "etc/grafana/nora-overview.json").read_text(encoding="utf-8"))
OF_PROMETHEUS = {"up", "ALERTS"}
TARGET_LABELS = {"job", "instance"}
MATCHER = re.compile(r'(\w+)(=~|!~|!=|=)"((?:[^"\\]|\\.)*)"')

Labels = dict[str, str]


@pytest.fixture
def promtool(tmp_path: Path) -> Client:
    return Client("promtool", tmp_path / "promtool")


def expressions() -> list[str]:
    """Of all rules, panels and variables; what Grafana fills in is filled in."""
    found = [rule["expr"] for rule in ALERTS]
    found += [re.fullmatch(r"label_values\((.+), \w+\)", each["query"]["query"]).group(1) for each in BOARD["templating"]["list"][1:]]
    found += [target["expr"] for panel in BOARD["panels"] for target in panel.get("targets", ())]
    return [re.sub(r"\$(\w+)", ".*", expression.replace("$__rate_interval", "5m")) for expression in found]


# ---- the files


@pytest.mark.slow
def test_the_rules_are_good_and_their_own_tests_pass(promtool):
    promtool("check", "rules", "--lint=all", "--lint-fatal", ETC / "nora-alerts.yml")
    assert "SUCCESS" in promtool("test", "rules", ETC / "nora-alerts.test.yml")


def through_the_proxy(sample: str) -> str:
    """The sample with its second job, which is a comment, in the place of the first."""
    head, _, rest = sample.partition("  - job_name: nora #")
    commented = rest[rest.index("  # - job_name: nora") :]
    return head + "".join(line.replace("# ", "", 1) for line in commented.splitlines(keepends=True))


@pytest.mark.parametrize("variant", [lambda sample: sample, through_the_proxy], ids=["plain", "TLS with a CA of one's own"])
def test_the_configuration_is_good(promtool, tmp_path, variant):
    folder = copied(tmp_path, variant)
    (folder / "registry-ca.crt").touch()
    told = promtool("check", "config", "--lint=all", "--lint-fatal", folder / "prometheus.yml")
    assert "1 rule files found" in told
    (job,) = yaml.safe_load((folder / "prometheus.yml").read_text())["scrape_configs"]
    assert ("tls_config" in job) == (variant is through_the_proxy)


def test_the_page_s_other_configurations_are_good(promtool, tmp_path):
    (job,) = [block for block in blocks_of("yaml") if block.startswith("scrape_configs")]
    (tmp_path / "prometheus.yml").write_text(job)
    promtool("check", "config", "--lint=all", "--lint-fatal", tmp_path / "prometheus.yml")


def blocks_of(language: str) -> list[str]:
    """Of docs/monitoring.md."""
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / "docs/monitoring.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def copied(folder: Path, change: Callable[[str], str] = lambda text: text) -> Path:
    """etc/prometheus as an operator copies it to /etc/prometheus, that folder being another one here."""
    place = folder / "etc-prometheus"
    place.mkdir()
    shutil.copy(ETC / "nora-alerts.yml", place)
    (place / "nora-scrape-token").write_text("scrape-me\n")
    (place / "prometheus.yml").write_text(change((ETC / "prometheus.yml").read_text(encoding="utf-8")).replace("/etc/prometheus", str(place)))
    return place


# ---- what a server shows


@pytest.fixture
def exposition(guarded: Guarded) -> bytes:
    answer = Registry(guarded.address).request("GET", "/metrics")
    assert answer.status == 200, answer
    return answer.body


def test_what_a_server_shows_is_in_good_form(promtool, exposition):
    done = promtool.run("check", "metrics", stdin=exposition)
    complaints = (done.stdout + done.stderr).decode().strip().splitlines()
    assert complaints == ['nora_artifacts_total non-counter metrics should not have "_total" suffix'], "that name is NORA's"


def test_all_that_rules_and_panels_name_is_there(promtool, exposition):
    families = text_string_to_metric_families(exposition.decode())
    series: dict[str, list[Labels]] = {}
    for family in families:
        for sample in family.samples:
            series.setdefault(sample.name, []).append(sample.labels)
    # promtool parses them, and marks each selector with a matcher, so that all have the same form
    marked = promtool("--experimental", "promql", "label-matchers", "set", " or ".join(f"({each})" for each in expressions()), "marked", "yes")
    selectors = [(name, matchers) for name, matchers in re.findall(r"([a-zA-Z_:]\w*)\{([^{}]*)\}", marked) if 'marked="yes"' in matchers]
    assert len(selectors) == marked.count('marked="yes"') > 100
    missing = {f"{name}{{{matchers}}}" for name, matchers in selectors if name not in OF_PROMETHEUS and not is_there(series.get(name, []), matchers)}
    assert not missing


def is_there(candidates: list[Labels], matchers: str) -> bool:
    wanted = [found for found in MATCHER.findall(matchers) if found[0] not in {"marked", *TARGET_LABELS}]
    return any(all(matches(labels.get(name, ""), operator, value) for name, operator, value in wanted) for labels in candidates)


def matches(value: str, operator: str, wanted: str) -> bool:
    same = value == wanted if "~" not in operator else re.fullmatch(wanted, value) is not None
    return same != operator.startswith("!")


def test_labels_that_rules_and_panels_group_by_are_there(exposition):
    labels: dict[str, set[str]] = {name: set(TARGET_LABELS) for name in OF_PROMETHEUS}
    for family in text_string_to_metric_families(exposition.decode()):
        for sample in family.samples:
            labels.setdefault(sample.name, set(TARGET_LABELS)).update(sample.labels)
    texts = [(rule["expr"], " ".join(rule["annotations"].values())) for rule in ALERTS]
    texts += [(target["expr"], target["legendFormat"]) for panel in BOARD["panels"] for target in panel.get("targets", ())]
    for expression, told in texts:
        names = set(re.findall(r"\b(?:nora_|process_)\w+", expression)) | (OF_PROMETHEUS & set(re.findall(r"\w+", expression)))
        have = set().union(*(labels[name] for name in names)) - {"__name__"}
        grouped = {label for found in re.findall(r"\b(?:by|on|group_left)\s*\(([^)]*)\)", expression) for label in found.replace(" ", "").split(",")}
        shown = set(re.findall(r"\$labels\.(\w+)", told)) | set(re.findall(r"\{\{(\w+)\}\}", told))
        assert grouped <= have, expression
        assert shown <= (grouped - {"le"} if " by " in expression else have), f"{expression}: {told}"


# ---- docs/monitoring.md


NGINX = """
    log_format nora escape=json '{"path":"$uri","request_id":"$http_x_request_id"}';
    server { listen 127.0.0.1:PORT; access_log LOG nora; location / { proxy_pass UPSTREAM; } }
"""


@pytest.mark.slow
def test_the_commands_of_the_page_do_what_it_says(tmp_path, guarded, issuer, nginx):
    """In the page's order, on a server that has seen a wrong password; folders and addresses are other ones here."""
    for program in ("jq", "openssl", "promtool"):
        tool(program)
    key = tmp_path / "nora/scrape-token"
    server = guarded_server(tmp_path / "server", issuer, env={"NORA_METRICS_TOKEN_FILE": str(key)})
    for name in ("nora", "prometheus"):
        (tmp_path / name).mkdir()
    replaced = {
        "journalctl -u nora -o cat --since -10min": f"cat {server.log}",
        "journalctl -u nora -o cat": f"cat {server.log}",
        "/etc/nora/": f"{tmp_path}/nora/",
        "/etc/prometheus/": f"{tmp_path}/prometheus/",
        "/var/log/nginx/access.log": f"{tmp_path}/access.log",
        "/var/lib/nora/storage": f"{server.storage}",
        "/var/lib/nora/state": f"{server.state}",
        "/var/lib/nora /tmp": f"{server.storage} {server.staging}",
        " -g nora": "",
        " -g prometheus": "",
        "promtool test rules nora-alerts.test.yml": "",  # takes long, and has a test above
    }

    def run(block: str, url: str) -> str:
        for written, here in {**replaced, "http://127.0.0.1:4000": url}.items():
            block = block.replace(written, here)
        environment = clean_environment(tmp_path / "home")
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", block], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    well, token, *others = blocks_of("sh")
    assert '"status": "healthy"' in run(well, guarded.server.url)
    run(token.replace("promtool check config /etc/prometheus/prometheus.yml", ""), server.url)
    sample = tmp_path / "prometheus/prometheus.yml"
    sample.write_text(sample.read_text().replace("/etc/prometheus/", f"{tmp_path}/prometheus/"))
    run("promtool check config /etc/prometheus/prometheus.yml", server.url)
    assert key.stat().st_mode & 0o777 == 0o640
    with server:
        scraper = {"Authorization": f"Bearer {key.read_text().strip()}"}
        scrape = Registry(server.address).request
        wait_until(lambda: b"nora_workers 2.0" in scrape("GET", "/metrics", headers=scraper).body, 10, "both workers to run")
        assert Registry(server.address).request("GET", "/metrics").status == 401
        assert Registry(server.address, "writer:wrong").request("GET", "/v2/").status == 401
        block = NGINX.replace("LOG", str(tmp_path / "access.log")).replace("UPSTREAM", server.url)
        through = f"http://127.0.0.1:{nginx(block)}"
        told = [run(block, through if "X-Request-Id" in block else server.url) for block in others]
        finish(server)
    for expected in ("nora_workers 2.0", "SUCCESS", "X-Request-Id: build-4711", "login_failed", '"status": "ready"', "127.0.0.1\n"):
        assert any(expected in output for output in told), expected
    (followed,) = [output for output in told if "X-Request-Id" in output]
    assert followed.count("build-4711") == 3, "client, nginx, registry"


# ---- a real Prometheus, with the files as they are


class Prometheus:
    """Scrapes and judges every second, otherwise as etc/prometheus/prometheus.yml has it."""

    def __init__(self, folder: Path, target: str) -> None:
        self.port = free_port()
        place = copied(folder, lambda sample: sample.replace("127.0.0.1:4000", target).replace("interval: 15s", "interval: 1s"))
        self.log = folder / "prometheus.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    tool("prometheus"),
                    f"--config.file={place / 'prometheus.yml'}",
                    f"--storage.tsdb.path={folder / 'series'}",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                    "--log.level=warn",
                ],
                stdout=log,
                stderr=log,
                env=clean_environment(folder / "home"),
            )

    def ask(self, path: str) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read()
        except OSError:
            assert self.process.poll() is None, self.log.read_text()
            return None
        finally:
            connection.close()
        return json.loads(body)["data"] if response.status == 200 else None

    def value(self, query: str) -> float | None:
        found = (self.ask("/api/v1/query?" + urlencode({"query": query})) or {}).get("result")
        return float(found[0]["value"][1]) if found else None

    def firing(self) -> dict[str, dict[str, str]]:
        """Annotations by name."""
        alerts = (self.ask("/api/v1/alerts") or {}).get("alerts", [])
        return {alert["labels"]["alertname"]: alert["annotations"] for alert in alerts if alert["state"] == "firing"}


@pytest.fixture
def guarded_target(tmp_path: Path, issuer: Issuer) -> Iterator[Guarded]:
    """A server of its own that wants logins, and of scrapers the token."""
    (tmp_path / "token").write_text("scrape-me\n")
    with guarded_server(tmp_path / "server", issuer, env={"NORA_METRICS_TOKEN_FILE": str(tmp_path / "token")}) as server:
        yield Guarded(server, issuer)
        finish(server)


@pytest.fixture
def prometheus(tmp_path: Path, guarded_target: Guarded) -> Iterator[Prometheus]:
    running = Prometheus(tmp_path, guarded_target.address)
    yield running
    running.process.terminate()
    running.process.wait(30)


@pytest.mark.slow
def test_unauthorized_access_makes_alerts_fire(guarded_target, prometheus):
    assert Registry(guarded_target.address).request("GET", "/metrics").status == 401
    wait_until(lambda: prometheus.value("nora_auth_wrong_passwords_total") == 0, 60, "Prometheus to have read the server with the token")

    def log_in(user: str, password: str) -> None:
        assert Registry(guarded_target.address, f"{user}:{password}").request("GET", "/v2/").status == 401

    for _ in range(20):  # a machine with an old password
        log_in("writer", "of-last-year")
    wait_until(lambda: prometheus.value("nora_auth_repeated_passwords_total") == 19, 30, "the scrape after that")
    scrapes = prometheus.value("count_over_time(up[10m])") or 0
    wait_until(lambda: (prometheus.value("count_over_time(up[10m])") or 0) > scrapes + 2, 30, "the rules to be asked about it")
    assert prometheus.firing() == {}

    for user in ("root", "reader", "mounter", "nobody"):  # somebody who guesses, never often enough at one account to be locked out
        for number in range(4):
            log_in(user, f"guess-{number}")
    reader = Registry(guarded_target.address, f"reader:{password_of('reader')}")
    for _ in range(8):  # a known user who tries what only administrators may
        assert reader.request("GET", "/api/v1/admin/logins").status == 403
    wait_until(lambda: {"NoraPasswordGuessing", "NoraAdminDenied"} <= prometheus.firing().keys(), 60, "both alerts to fire")
    assert prometheus.firing().keys() == {"NoraPasswordGuessing", "NoraAdminDenied"}
    assert f"different wrong passwords at {guarded_target.address}" in prometheus.firing()["NoraPasswordGuessing"]["summary"]
