"""The official suite, opencontainers/distribution-spec conformance/, as the released version and as the coming one."""

from __future__ import annotations

import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.client.conftest import Registry
from tests.client.tools import clean_environment, tool

# What the suite leaves out by its own choice of version; nothing here may be something that a registry can offer.
NOT_OFFERED = {
    "1.1": {"blob-post-cancel"},  # DELETE of an upload came after 1.1; "dev" tests it
    "dev": set[str](),
}


def name(case: ElementTree.Element) -> str:
    return case.get("name", "").rpartition("/")[2]


def told(case: ElementTree.Element) -> str:
    """The check and what it has to say."""
    words = case.findtext("system-out") or case.findtext("system-err") or ""
    return f"{case.get('name')}: {words.strip()[:300]}"


@pytest.mark.parametrize("version", ["1.1", "dev"])
def test_official_conformance_suite(registry: Registry, tmp_path: Path, version: str) -> None:
    results = tmp_path / "results"
    setting = {
        "OCI_REGISTRY": registry.address,
        "OCI_TLS": "disabled",
        "OCI_RESULTS_DIR": str(results),
        "OCI_VERSION": version,
        "OCI_REPO1": f"conformance/v{version}/one",
        "OCI_REPO2": f"conformance/v{version}/two",
    }
    done = subprocess.run(
        [tool("conformance")], env=clean_environment(tmp_path / "home") | setting, capture_output=True, text=True, timeout=300, check=False
    )
    cases = list(ElementTree.parse(results / "junit.xml").iter("testcase"))
    wrong = [told(case) for case in cases if case.get("status") not in ("passed", "skipped")]
    skipped = sorted({told(case) for case in cases if case.get("status") == "skipped" and name(case) not in NOT_OFFERED[version]})
    assert len(cases) > 600, done.stdout[-2000:]
    assert not wrong, f"{len(wrong)} of {len(cases)} checks failed:\n" + "\n".join(wrong[:40])
    assert not skipped, "skipped, though a registry can offer it:\n" + "\n".join(skipped)
    assert done.returncode == 0, done.stdout[-2000:]
