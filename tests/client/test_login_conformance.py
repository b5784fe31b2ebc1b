"""The official suite at a server that wants a login: OCI_USERNAME and OCI_PASSWORD, and nothing of the rest may change."""

from __future__ import annotations

import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.client.guarded import Guarded, password_of
from tests.client.test_conformance import NOT_OFFERED, name, told
from tests.client.tools import clean_environment, tool

# A token is for the names it was asked for, and the suite asks for the target's alone. Then a mount begins an upload, as the specification allows.
UPLOADED_INSTEAD = {"blob-mount-anonymous"}


def run(guarded: Guarded, folder: Path, version: str, names: str, password: str) -> tuple[int, list[ElementTree.Element]]:
    setting = {
        "OCI_REGISTRY": guarded.address,
        "OCI_TLS": "disabled",
        "OCI_RESULTS_DIR": str(folder / "results"),
        "OCI_VERSION": version,
        "OCI_REPO1": f"{names}/one",
        "OCI_REPO2": f"{names}/two",
        "OCI_USERNAME": "writer",
        "OCI_PASSWORD": password,
    }
    done = subprocess.run([tool("conformance")], env=clean_environment(folder / "home") | setting, capture_output=True, timeout=300, check=False)
    return done.returncode, list(ElementTree.parse(folder / "results" / "junit.xml").iter("testcase"))


@pytest.mark.parametrize("version", ["1.1", "dev"])
def test_official_conformance_suite_with_a_login(guarded: Guarded, tmp_path: Path, version: str) -> None:
    status, cases = run(guarded, tmp_path, version, f"conformance/v{version}", password_of("writer"))
    wrong = [told(case) for case in cases if case.get("status") not in ("passed", "skipped")]
    expected = NOT_OFFERED[version] | UPLOADED_INSTEAD
    skipped = sorted({told(case) for case in cases if case.get("status") == "skipped" and name(case) not in expected})
    assert len(cases) > 600
    assert not wrong, f"{len(wrong)} of {len(cases)} checks failed:\n" + "\n".join(wrong[:40])
    assert not skipped, "skipped, though a registry can offer it:\n" + "\n".join(skipped)
    assert status == 0


def test_the_suite_is_refused_with_a_wrong_login(guarded: Guarded, tmp_path: Path) -> None:
    """So that the login of the other test is known to matter."""
    status, cases = run(guarded, tmp_path, "1.1", "conformance/refused", "no-such-password")
    assert status
    assert [case for case in cases if case.get("status") not in ("passed", "skipped")]
    assert guarded.tags("conformance/refused/one") is None
