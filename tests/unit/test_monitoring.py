"""docs/monitoring.md, the alert rules and the dashboard agree with each other and with what is counted.

tests/client/test_monitoring.py has real judges. `python -m tests.unit.test_monitoring`, run in the top folder, writes the table of metrics anew.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from pathlib import Path

import pytest
import yaml

from noraflask.app import SCRAPE_METRICS, create_app
from noraflask.ecosystems import ECOSYSTEMS
from noraflask.services.metrics import catalogue
from noraflask.services.metrics.catalogue import FAMILIES
from noraflask.storage.memory import MemoryStorage
from noraflask.web.flask_app import RegistryFlask
from tests.conftest import config_of
from tests.protocol.test_metrics import NORA_1_4_3

ROOT = Path(__file__).parents[2]
PAGE_PATH = ROOT / "docs/monitoring.md"
PAGE = PAGE_PATH.read_text(encoding="utf-8")
RULES = yaml.safe_load((ROOT / "etc/prometheus/nora-alerts.yml").read_text(encoding="utf-8"))
TESTS = yaml.safe_load((ROOT / "etc/prometheus/nora-alerts.test.yml").read_text(encoding="utf-8"))["tests"]
BOARD = json.loads((ROOT / "etc/grafana/nora-overview.json").read_text(encoding="utf-8"))
ALERTS = {rule["alert"]: rule for group in RULES["groups"] for rule in group["rules"]}
OF_NORA = ("NoraHighErrorRate", "NoraHighLatency", "NoraCircuitBreakerOpen", "NoraCacheLowHitRate", "NoraUpstreamUrlLeak", "NoraIntegrityFailure")
REPOSITORIES = "the repositories"
TABLE_BEGINS = "| name | type | labels | meaning | |\n|---|---|---|---|---|\n"


def metrics_table(app: RegistryFlask) -> str:
    """All metrics for docs/monitoring.md, in the order of their names."""
    rows = {}
    for family in FAMILIES:
        kind = "gauge" if family.kind == catalogue.GAUGE else family.kind
        values = [[REPOSITORIES if value == catalogue.REGISTRIES[0] else value for value in of_label] for of_label in family.values or ()]
        rows[family.name] = (kind, dict(zip(family.labels, values, strict=False)) or {label: ["…"] for label in family.labels}, family.help)
    for metric in app.extensions[SCRAPE_METRICS].collect():
        name = metric.name + "_total" * (metric.type == "counter")
        labels = {label: sorted({sample.labels[label] for sample in metric.samples}) for label in metric.samples[0].labels}
        for free in ("version", "python", "fingerprint"):
            labels |= {free: ["…"]} if free in labels else {}
        labels |= (
            {"registry": list(dict.fromkeys(REPOSITORIES if value in ECOSYSTEMS else value for value in labels["registry"]))}
            if "registry" in labels
            else {}
        )
        labels |= {"mode": ["off", "audit", "enforce"]} if "mode" in labels else {}
        rows[name] = (metric.type, labels, metric.documentation)
    still = {family.name for family in catalogue._OF_UPSTREAMS} | {metric.name for metric in app.extensions[SCRAPE_METRICS]._of_nora()}
    lines = [TABLE_BEGINS.strip()]
    for name, (kind, labels, meaning) in sorted(rows.items()):
        of_nora = name in NORA_1_4_3 or name == catalogue.NAMESPACE_SCOPE.name
        told = "; ".join(f"`{label}`: {', '.join(values)}" for label, values in labels.items())
        lines.append(f"| `{name}` | {kind} | {told} | {meaning} | {'NORA, 0 for now' if name in still else 'NORA' if of_nora else ''} |")
    return "\n".join(lines) + "\n"


def with_figures(folder: Path) -> RegistryFlask:
    """As a server has them: with a storage folder and with connections."""
    (folder / "storage").mkdir()
    app = create_app(config_of(folder, metrics={"enabled": True}), MemoryStorage())
    app.extensions[SCRAPE_METRICS].connections = lambda: 0
    return app


@pytest.fixture
def app(tmp_path):
    return with_figures(tmp_path)


def test_the_table_of_metrics(app):
    assert PAGE.partition(TABLE_BEGINS)[1:] == (TABLE_BEGINS, metrics_table(app).removeprefix(TABLE_BEGINS))


def test_no_label_is_one_of_prometheus_own(app):
    """It would be renamed to exported_… by each scrape."""
    names = {label for family in FAMILIES for label in family.labels}
    names |= {label for metric in app.extensions[SCRAPE_METRICS].collect() for sample in metric.samples for label in sample.labels}
    assert not names & {"job", "instance", "le", "quantile"}


# ---- alerts


def test_the_six_of_nora_are_there():
    assert set(OF_NORA) <= set(ALERTS)


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_what_it_means_and_where_more_is_told(name):
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert page == "docs/monitoring.md"
    section = next((part for part in re.split(r"^(?=#{2,3} )", PAGE, flags=re.MULTILINE) if anchor_of(part) == anchor), "")
    (row,) = re.findall(rf"^\| `{name}` \| (\w+) \|", section, re.MULTILINE)
    assert row == rule["labels"]["severity"]


def test_the_page_tells_of_no_other_alert():
    assert Counter(re.findall(r"^\| `(Nora[A-Z]\w+)` \|", PAGE, re.MULTILINE)) == Counter(list(ALERTS))


def anchor_of(section: str) -> str:
    """As forges make it of a heading."""
    return re.sub(r"[^\w -]", "", section.partition("\n")[0].lstrip("# ").lower()).replace(" ", "-")


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_is_tried_both_ways(name):
    tests = [test for test in TESTS if test["name"].partition(",")[0] == name]
    checks = [check for test in tests for check in test["promql_expr_test"]]
    assert all(f'alertname="{name}",alertstate="firing"' in check["expr"] for check in checks)
    fired = [sample["labels"] for check in checks for sample in check["exp_samples"]]
    if name == "NoraAbsent":
        assert fired == ['{alertname="NoraAbsent"}']
        assert any(not check["exp_samples"] for check in checks)
    else:
        assert fired == [f'{{alertname="{name}",instance="bad"}}']
        assert {"bad", "good"} == {re.search(r'instance="(\w+)"', given["series"]).group(1) for test in tests for given in test["input_series"]}


# ---- the dashboard


def test_the_dashboard_is_one():
    assert (BOARD["uid"], BOARD["schemaVersion"]) == ("nora-overview", 39)
    panels = BOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    variables = {variable["name"]: variable for variable in BOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["registry"]["multi"]
    for panel in panels:
        for target in panel.get("targets", ()):
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]
            used = {name for name in re.findall(r"\$\{?(\w+)", target["expr"]) if not name.startswith("__")}
            assert used <= set(variables), panel["title"]


def test_panels_do_not_overlap():
    taken = Counter(
        (x, y)
        for place in (panel["gridPos"] for panel in BOARD["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    )
    assert max(taken.values()) == 1
    assert max(x for x, _ in taken) < 24


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        PAGE_PATH.write_text(PAGE.partition(TABLE_BEGINS)[0] + metrics_table(with_figures(Path(place))), encoding="utf-8")
