"""helm: charts beside the images, by oci://."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.client.conftest import Registry
from tests.client.tools import Client

CHART = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"


@pytest.fixture
def package(helm: Client) -> Path:
    helm("create", "shop")
    helm("package", "--version", "1.2.3+build.4", "shop")
    return helm.home / "shop-1.2.3+build.4.tgz"


def test_push_show_and_pull(helm: Client, registry: Registry, package: Path) -> None:
    """A version may hold a plus sign, which no tag may: helm writes an underscore."""
    helm("push", "--plain-http", package, f"oci://{registry.address}/helm/charts")
    assert registry.tags("helm/charts/shop") == ["1.2.3_build.4"]
    (layer,) = registry.manifest("helm/charts/shop", "1.2.3_build.4").json()["layers"]
    assert layer["mediaType"] == CHART
    chart = f"oci://{registry.address}/helm/charts/shop"
    assert "name: shop" in helm("show", "chart", "--plain-http", chart, "--version", "1.2.3+build.4")
    back = helm.home / "back"
    back.mkdir()
    helm("pull", "--plain-http", chart, "--version", "1.2.3+build.4", "--destination", back)
    assert (back / package.name).read_bytes() == package.read_bytes()
    assert "kind: Deployment" in helm("template", "--plain-http", chart, "--version", "1.2.3+build.4")


def test_newest_version_is_found_by_the_tag_list(helm: Client, registry: Registry) -> None:
    helm("create", "till")
    for version in ("0.9.0", "0.10.0", "0.2.0"):
        helm("package", "--version", version, "till")
        helm("push", "--plain-http", helm.home / f"till-{version}.tgz", f"oci://{registry.address}/helm/charts")
    assert "version: 0.10.0" in helm("show", "chart", "--plain-http", f"oci://{registry.address}/helm/charts/till")


def test_missing_chart(helm: Client, registry: Registry) -> None:
    message = helm.refused("pull", "--plain-http", f"oci://{registry.address}/helm/charts/none", "--version", "1.0.0")
    assert "not found" in message
