"""etc/tls/make-ca.sh: what it makes is what clients take, and what it is told wrongly it refuses."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "etc" / "tls" / "make-ca.sh"

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


def make(folder: Path, *names: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([SCRIPT, folder, *names], capture_output=True, text=True, check=False)


def shown(file: Path, *options: str) -> str:
    return subprocess.run(["openssl", "x509", "-noout", "-in", file, *options], capture_output=True, text=True, check=True).stdout


@pytest.fixture
def made(tmp_path):
    done = make(tmp_path / "tls", "registry.example.com", "192.0.2.10", "2001:db8::1")
    assert done.returncode == 0, done.stderr
    assert "registry.example.com" in done.stdout
    return tmp_path / "tls"


def test_a_client_that_trusts_the_ca_takes_the_certificate(made):
    for option, name, good in (
        ("-verify_hostname", "registry.example.com", True),
        ("-verify_hostname", "other.example.com", False),
        ("-verify_ip", "192.0.2.10", True),
        ("-verify_ip", "2001:db8::1", True),
        ("-verify_ip", "192.0.2.11", False),
    ):
        command = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", made / "ca.crt", option, name, made / "server.crt"]
        assert (subprocess.run(command, capture_output=True, check=False).returncode == 0) is good, name


def test_extensions_and_lifetimes(made):
    ca, server = (shown(made / file, "-ext", "basicConstraints,keyUsage,extendedKeyUsage") for file in ("ca.crt", "server.crt"))
    assert "CA:TRUE, pathlen:0" in ca
    assert "Certificate Sign, CRL Sign" in ca
    assert "CA:FALSE" in server
    assert "TLS Web Server Authentication" in server
    day = 86400
    for file, days in (("ca.crt", 3650), ("server.crt", 397)):
        for seconds, ends in (((days - 1) * day, "will not expire"), ((days + 1) * day, "will expire")):
            command = ["openssl", "x509", "-noout", "-checkend", str(seconds), "-in", made / file]
            assert ends in subprocess.run(command, capture_output=True, text=True, check=False).stdout


def modes_of(folder: Path) -> dict[str, str]:
    return {file.name: oct(file.stat().st_mode & 0o777) for file in folder.iterdir()}


def test_keys_are_for_their_owner_alone(made):
    assert oct(made.stat().st_mode & 0o777) == "0o700"
    assert modes_of(made) == {"ca.crt": "0o644", "ca.key": "0o600", "server.crt": "0o644", "server.key": "0o600"}


def test_run_again_it_renews_and_keeps_the_ca(made):
    (made / "server.key").chmod(0o640)
    before = {file.name: file.read_bytes() for file in made.iterdir()}
    assert make(made, "registry.example.com", "new.example.com").returncode == 0
    after = {file.name: file.read_bytes() for file in made.iterdir()}
    assert {name for name in before if before[name] != after[name]} == {"server.crt", "server.key"}
    assert modes_of(made)["server.key"] == "0o640"
    assert "new.example.com" in shown(made / "server.crt", "-ext", "subjectAltName")
    assert subprocess.run(["openssl", "verify", "-CAfile", made / "ca.crt", made / "server.crt"], capture_output=True, check=False).returncode == 0


def test_without_its_key_a_ca_is_not_replaced(made, tmp_path):
    (made / "ca.key").rename(tmp_path / "ca.key")
    before = {file.name: file.read_bytes() for file in made.iterdir()}
    done = make(made, "registry.example.com")
    assert done.returncode == 66
    assert "ca.key is not here" in done.stderr
    assert {file.name: file.read_bytes() for file in made.iterdir()} == before


@pytest.mark.parametrize("names", [(), ("",), ("a b",), ("a,DNS:evil.example",), ("a\nb",), ("1.2.3",), ("registry.example.com", "::zz")])
def test_what_is_no_name_changes_nothing(made, names):
    before = {file.name: file.read_bytes() for file in made.iterdir()}
    done = make(made, *names)
    assert done.returncode != 0
    assert done.stderr
    assert {file.name: file.read_bytes() for file in made.iterdir()} == before
