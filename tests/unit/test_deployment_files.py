"""What operators copy from etc/ for containers, systemd and Kubernetes: it is what the server takes, and the parts agree with each other."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from noraflask.config import Config, StagingConfig, load
from noraflask.formats import FORMATS
from noraflask.serve.settings import STOP_MARGIN_SECONDS
from noraflask.serve.worker import CUT_SECONDS

ROOT = Path(__file__).parents[2]
ETC = ROOT / "etc"
MIB = 1024 * 1024
LONGEST_STOP_SECONDS = Config().server.shutdown_timeout + STOP_MARGIN_SECONDS + CUT_SECONDS


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


# ---- nora.env


def sample_variables() -> dict[str, str]:
    """Those of nora.env, with the ones that are commented out."""
    return dict(re.findall(r"^#? ?(NORA_\w+)=(.*)$", (ETC / "nora.env").read_text(encoding="utf-8"), re.MULTILINE))


def test_each_variable_of_the_sample_is_one(tmp_path):
    variables = sample_variables()
    assert len(variables) > 10
    for name, place in (("NORA_CONFIG_PATH", "config.toml"), ("NORA_CURATION_RULES_PATH", "rules.toml")):
        assert variables[name] == f"/etc/nora/{place}"
        (tmp_path / place).touch()
        variables[name] = str(tmp_path / place)
    load(None, variables)


def test_the_sample_sets_nothing_by_itself():
    lines = (ETC / "nora.env").read_text(encoding="utf-8").splitlines()
    assert all(not line or line.startswith("#") for line in lines)


# ---- systemd


def unit() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in (ETC / "systemd" / "nora.service").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith(("#", "[")):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def test_the_unit_waits_longer_than_the_server_needs_to_stop():
    (seconds,) = unit()["TimeoutStopSec"]
    assert int(seconds.removesuffix("s")) > LONGEST_STOP_SECONDS


def test_the_unit_and_the_server_mean_the_same():
    found = unit()
    assert found["RestartPreventExitStatus"] == ["78"]
    assert found["EnvironmentFile"] == ["-/etc/nora/nora.env"]
    assert found["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    variables = dict(pair.split("=", 1) for pair in shlex.split(found["Environment"][0]))
    config = load(None, {name: value for name, value in variables.items() if name.startswith("NORA_")})
    assert str(config.storage.path).startswith(f"/var/lib/{found['StateDirectory'][0]}/")
    assert str(config.state.path) == f"/var/lib/{found['StateDirectory'][0]}/state"
    assert str(config.staging.path) == f"/run/{found['RuntimeDirectory'][0]}"
    assert found["WorkingDirectory"] == ["/var/lib/nora"]
    assert (variables["PROMETHEUS_MULTIPROC_DIR"], found["RuntimeDirectoryMode"]) == (str(config.staging.path), ["0700"])


def test_the_audit_log_that_is_turned_over_is_the_units():
    assert "/var/lib/nora/state/audit.jsonl {" in (ETC / "logrotate.d" / "nora").read_text(encoding="utf-8")


# ---- the Dockerfile and docker compose


def dockerfile_variables() -> dict[str, str]:
    return dict(re.findall(r"(NORA_\w+)=(\S+)", (ROOT / "Dockerfile").read_text(encoding="utf-8")))


def test_the_container_listens_everywhere_and_keeps_to_its_folders():
    config = load(None, dockerfile_variables())
    assert config.server.host == "0.0.0.0"
    assert (str(config.storage.path), str(config.state.path), str(config.staging.path)) == ("/data/storage", "/data/state", "/tmp")


def test_the_counts_of_the_container_are_in_a_folder_that_the_server_makes_for_itself():
    (place,) = re.findall(r"PROMETHEUS_MULTIPROC_DIR=(\S+)", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    assert Path(place).parent == load(None, dockerfile_variables()).staging.path


def test_the_container_means_the_default_port_and_its_health_check_the_configured_one():
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert f"\nEXPOSE {Config().server.port}\n" in text
    (command,) = re.findall(r"^HEALTHCHECK .*\\\n +CMD (\[.*\])$", text, re.MULTILINE)
    assert json.loads(command) == compose()["services"]["nora"]["healthcheck"]["test"][1:] == ["nora", "healthcheck", "--timeout-secs", "4"]


def test_the_build_gets_what_it_copies():
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    copied = {name for line in re.findall(r"^COPY (?!--)(.*) \S+$", text, re.MULTILINE) for name in line.split()}
    let_in = set(re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(encoding="utf-8"), re.MULTILINE))
    assert copied == let_in
    assert all((ROOT / name).exists() for name in copied)


def compose(name: str = "docker-compose.yml") -> dict[str, Any]:
    (found,) = documents(ETC / name)
    return found


def tmpfs_bytes(service: dict[str, Any], at: str) -> int:
    (options,) = (options for path, options in (entry.split(":", 1) for entry in service["tmpfs"]) if path == at)
    return int(re.search(r"size=(\d+)M", options)[1]) * MIB


def test_the_compose_file_is_hardened():
    nora = compose()["services"]["nora"]
    assert nora["read_only"] is True
    assert nora["cap_drop"] == ["ALL"]
    assert nora["security_opt"] == ["no-new-privileges:true"]
    assert (nora["mem_limit"], nora["mem_reservation"]) == ("512m", "128m")
    assert tmpfs_bytes(nora, "/tmp") == 256 * MIB > StagingConfig().budget_bytes
    assert nora["healthcheck"]["test"][:3] == ["CMD", "nora", "healthcheck"], "wherever the server listens"
    assert int(nora["stop_grace_period"].removesuffix("s")) > LONGEST_STOP_SECONDS
    assert nora["logging"]["options"] == {"max-size": "10m", "max-file": "5"}
    assert "ports" not in nora, "Caddy is the way in"


@pytest.mark.parametrize(("name", "service"), [("docker-compose.yml", "caddy"), ("docker-compose.traefik.yml", "traefik")])
def test_the_proxies_are_hardened_as_well(name, service):
    proxy = compose(name)["services"][service]
    assert proxy["read_only"] is True
    assert proxy["cap_drop"] == ["ALL"]
    assert proxy["security_opt"] == ["no-new-privileges:true"]
    assert re.search(r":[\w.-]*\d", proxy["image"]), "a version"


def test_the_compose_files_variables_are_the_servers():
    found = compose()
    config = load(None, dockerfile_variables() | found["services"]["nora"]["environment"])
    assert config.server.trusted_proxies == (found["networks"]["front"]["ipam"]["config"][0]["subnet"],)


# ---- Kubernetes

MANIFESTS = [path for path in sorted((ETC / "kubernetes").glob("*.yaml")) if path.name != "kustomization.yaml"]


def manifest(kind: str) -> dict[str, Any]:
    (found,) = (document for path in MANIFESTS for document in documents(path) if document["kind"] == kind)
    return found


def pod() -> dict[str, Any]:
    found: dict[str, Any] = manifest("StatefulSet")["spec"]["template"]["spec"]
    return found


def container() -> dict[str, Any]:
    (found,) = pod()["containers"]
    return found


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_a_manifest_is_one_of_kubernetes(path):
    for document in documents(path):
        kubernetes_validate.validate(document, "1.30", strict=True)


def test_a_misspelt_key_of_a_manifest_would_be_noticed():
    broken = manifest("StatefulSet")
    broken["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, "1.30", strict=True)


def test_all_manifests_are_applied():
    (customization,) = documents(ETC / "kubernetes" / "kustomization.yaml")
    assert sorted(customization["resources"]) == [path.name for path in MANIFESTS]
    assert {image["name"] for image in customization["images"]} == {container()["image"]}


def test_the_pod_is_restricted():
    assert pod()["securityContext"]["runAsNonRoot"] is True
    assert pod()["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    context = container()["securityContext"]
    assert context == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    assert f"{pod()['securityContext']['runAsUser']}:{pod()['securityContext']['runAsGroup']}" in (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert pod()["enableServiceLinks"] is False
    assert pod()["terminationGracePeriodSeconds"] > LONGEST_STOP_SECONDS
    assert container()["livenessProbe"]["httpGet"]["path"] == "/health"
    assert container()["readinessProbe"]["httpGet"]["path"] == "/ready"


def test_the_pods_configuration_is_one(tmp_path):
    file = tmp_path / "config.toml"
    file.write_text(manifest("ConfigMap")["data"]["config.toml"])
    load(file, dockerfile_variables())
    file.write_text(re.sub(r"^# (\w+ = )", r"\1", file.read_text(), flags=re.MULTILINE))
    assert load(file, dockerfile_variables()).auth.enabled


def test_what_the_parts_call_each_other():
    labels = manifest("StatefulSet")["spec"]["template"]["metadata"]["labels"]
    for selector in (
        manifest("StatefulSet")["spec"]["selector"]["matchLabels"],
        manifest("Service")["spec"]["selector"],
        manifest("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
    assert manifest("StatefulSet")["spec"]["serviceName"] == manifest("Service")["metadata"]["name"]
    ports = {port["name"] for port in container()["ports"]}
    assert manifest("Service")["spec"]["ports"][0]["targetPort"] in ports
    volumes = {volume["name"] for volume in pod()["volumes"]} | {
        claim["metadata"]["name"] for claim in manifest("StatefulSet")["spec"]["volumeClaimTemplates"]
    }
    assert volumes == {mount["name"] for mount in container()["volumeMounts"]}
    assert {mount["mountPath"] for mount in container()["volumeMounts"]} == {"/data", "/tmp", "/etc/nora"}


def test_the_ingress_lets_bodies_through_and_reaches_each_format():
    ingress = manifest("Ingress")
    notes = ingress["metadata"]["annotations"]
    assert notes["nginx.ingress.kubernetes.io/proxy-body-size"] == "0"
    assert notes["nginx.ingress.kubernetes.io/proxy-request-buffering"] == "off"
    (rule,) = ingress["spec"]["rules"]
    paths = [path["path"] for path in rule["http"]["paths"]]
    for format_ in FORMATS:
        assert set(format_.mounts) <= set(paths)
    assert not {"/", "/metrics"} & set(paths)
