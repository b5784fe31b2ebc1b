"""docs/deployment.md, carried out: an automatic certificate, a registry that is down, the firewall, backup, restore, a restart without a gap."""

from __future__ import annotations

import os
import re
import shutil
import threading
from pathlib import Path

import pytest

from tests.client.fronts import CA, CLIENT_ADDRESS, GUIDE, HOST, WORDS, Front, Machine, blocks, front_on, registry_on, running
from tests.client.guarded import password_of
from tests.client.layout import Layout, busybox_files, digest_of, tarball
from tests.client.registry import Registry
from tests.client.test_large_layers import with_digest
from tests.client.tools import Client
from tests.server import ROOT, Server, wait_until

LOGIN = ("--user", f"writer:{password_of('writer')}")


def push_blob(front: Front, name: str, data: Path) -> str:
    """POST and PUT through the front; returns the digest."""
    digest = digest_of(data.read_bytes())
    upload = front.ask(f"/v2/{name}/blobs/uploads/", *LOGIN, "-X", "POST")
    assert front.ask(with_digest(upload.headers["location"], digest), *LOGIN, "-X", "PUT", "-T", data).status == 201
    return digest


@pytest.fixture
def data(tmp_path: Path) -> Path:
    file = tmp_path / "data"
    file.write_bytes(os.urandom(3 << 20))
    return file


def test_the_samples_take_another_name(machine: Machine, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "etc", tmp_path / "etc", ignore=shutil.ignore_patterns("__pycache__"))
    machine.follow("Your name for it", tmp_path)
    texts = {file: file.read_text() for file in (tmp_path / "etc").rglob("*") if file.is_file()}
    assert [file for file, text in texts.items() if HOST in text] == []
    named = {file.name for file, text in texts.items() if "hub.corp.example" in text}
    assert named >= {"nginx.conf", "Caddyfile", "nora.yml", "docker-compose.labels.yml", "hosts.toml"}
    machine.sh("etc/tls/make-ca.sh etc/nora hub.corp.example; sed -i s:/etc/nora/tls:$PWD/etc/nora:g etc/nginx/nginx.conf", tmp_path)
    machine.sh("nginx -t -c $PWD/etc/nginx/nginx.conf", tmp_path)


# ---- the proxies


ACME_CADDYFILE = """{
	admin off
	auto_https disable_redirects
	skip_install_trust
	pki {
		ca local {
			intermediate_cn "An authority for a test"
		}
	}
}
https://acme.example.com:8555 {
	tls internal
	acme_server
}
"""


AUTOMATIC = {
    "Caddy": ("with an authority that speaks ACME", "sed -i 's|acme.example.com/|acme.example.com:8555/|' /etc/caddy/Caddyfile"),
    "Traefik": ("with an automatic certificate", "sed -i -e 's|acme.example.com/|acme.example.com:8555/|' -e 's/# ca/ca/' /etc/traefik/traefik.yml"),
}
"""The section, and what names the authority."""


@pytest.mark.slow
@pytest.mark.parametrize("name", AUTOMATIC)
def test_the_certificate_comes_by_itself(name: str, machine: Machine, machine_registry: Server, tmp_path: Path) -> None:
    """From an authority that wants proof: another Caddy, which must reach port 80 or 443 of the name."""
    (tmp_path / "Caddyfile").write_text(ACME_CADDYFILE)
    machine.sh("grep -q acme.example.com /etc/hosts || echo '127.0.0.1 acme.example.com' >>/etc/hosts")
    root = tmp_path / "data" / "caddy" / "pki" / "authorities" / "local" / "root.crt"
    authority = ("env", f"XDG_DATA_HOME={tmp_path}/data", "caddy", "run", "--config", tmp_path / "Caddyfile")
    section, named = AUTOMATIC[name]
    with running(machine, tmp_path / "acme.log", *authority):
        directory = f"curl -sf --cacert {root} https://acme.example.com:8555/acme/local/directory || true"
        wait_until(lambda: "newOrder" in machine.sh(directory), 20, "the authority to be there")
        machine.sh(f"cp {root} /etc/nora/tls/acme-root.crt")
        with front_on(machine, machine_registry, name, variant=section, prepare=named):
            issuer = f"curl -sSv --cacert {root} -o /dev/null https://{HOST}/health 2>&1 | grep issuer: || true"
            wait_until(
                lambda: "CN=An authority for a test" in machine.sh(issuer), 90, f"{name} to have a certificate that the authority's root vouches for"
            )


@pytest.mark.parametrize("name", WORDS)
def test_while_the_registry_is_down(name: str, machine: Machine, machine_registry: Server) -> None:
    """Clients are told so, and served at once when it is back."""
    with front_on(machine, machine_registry, name) as front:
        machine_registry.stop()
        try:
            answer = front.ask("/v2/")
        finally:
            with machine.network():
                machine_registry.start()
        assert front.ask("/v2/").status == 401
    if name == "Traefik":
        assert answer.status == 502
    else:
        assert (answer.status, answer.headers["retry-after"], answer.headers["content-type"]) == (503, "5", "application/json")
        assert answer.json()["errors"][0]["code"] == "UNAVAILABLE"


def test_only_nginx_is_left_a_blob(machine: Machine, machine_registry: Server, data: Path) -> None:
    """Elsewhere a client's own X-Nora-Accel has no effect: it gets the bytes, and no path. And what nginx sends has every header."""
    machine_registry.stop()
    machine.sh("chmod o+x /var/lib/nora/storage")
    answers = {}
    with registry_on(machine, NORA_ACCEL_REDIRECT="/_nora/") as told:
        for name in WORDS:
            with front_on(machine, told, name, sub_path="/hub") as front:
                digest = push_blob(front, "left/to/nginx", data)
                machine.sh("chmod -R o+rX /var/lib/nora/storage/blobs")
                for prefix in ("", "/hub"):
                    url = f"{prefix}/v2/left/to/nginx/blobs/{digest}"
                    for header in ("on", "failed", "off"):
                        answers[name] = front.ask(url, *LOGIN, "-H", f"X-Nora-Accel: {header}", "-H", f"X_Nora_Accel: {header}")
                        assert answers[name].body == data.read_bytes()
                    part = front.ask(url, *LOGIN, "-H", "Range: bytes=5-9")
                    assert (part.status, part.body) == (206, data.read_bytes()[5:10])
                machine.sh("chmod -R o-rwx /var/lib/nora/storage/blobs")  # now nginx can only try, and the registry is told
                assert "could not read" not in told.log_text()
                assert front.ask(f"/hub/v2/left/to/nginx/blobs/{digest}", *LOGIN).body == data.read_bytes()
                assert ("could not read" in told.log_text()) is (name == "nginx")
                if name == "nginx":
                    told.log.write_text("")
    with machine.network():
        machine_registry.start()
    for name, answer in answers.items():
        assert "x-accel-redirect" not in answer.headers, name
        assert answer.headers["docker-content-digest"] == digest, name
        assert answer.headers["etag"] == f'"{digest}"', name
        assert "sandbox" in answer.headers["content-security-policy"], name
    lost = {name for name in answers["Caddy"].headers if name not in answers["nginx"].headers} - {"via"}
    assert not lost


RELOADS = {
    "nginx": "nginx -s reload",
    "Caddy": "caddy reload --force --config /etc/caddy/Caddyfile",  # what its unit does
    "Traefik": "touch /etc/traefik/dynamic/nora.yml",
}


@pytest.mark.parametrize("name", WORDS)
def test_a_renewed_certificate_is_served_after_a_reload(name: str, machine: Machine, machine_registry: Server) -> None:
    """And clients need nothing new."""
    shown = f"openssl s_client -connect {HOST}:443 -servername {HOST} -CAfile {CA} -verify_return_error </dev/null 2>&1 | openssl x509 -noout -serial"
    with front_on(machine, machine_registry, name) as front:
        before, root = machine.sh(shown), machine.sh(f"sha256sum {CA}")
        machine.follow("Renewing the certificate")
        machine.sh(RELOADS[name])
        wait_until(lambda: machine.sh(shown) != before, 20, f"{name} to serve the new certificate")
        assert machine.sh(f"sha256sum {CA}") == root
        assert front.ask("/health").status == 200


def test_a_public_url_with_a_sub_path_is_not_for_docker(machine: Machine, machine_registry: Server, machine_docker: Client, data: Path) -> None:
    """Every address has it, so other clients follow; docker does so without its login, and the guide says that."""
    reference, digest = f"{HOST}/public/docker:1", digest_of(data.read_bytes())
    machine_docker("import", "-", reference, stdin=tarball({"etc/motd": b"hello\n"}))
    machine_registry.stop()
    with registry_on(machine, NORA_PUBLIC_URL=f"https://{HOST}/hub") as told:
        silent = "sed -i '/X-Forwarded-Prefix/d' /etc/nginx/nginx.conf"
        with front_on(machine, told, "nginx", sub_path="/hub", prepare=silent) as front:
            for prefix in ("", "/hub"):
                answer = front.ask(f"{prefix}/v2/public/url/blobs/uploads/", *LOGIN, "-X", "POST")
                assert answer.headers["location"].startswith(f"https://{HOST}/hub/v2/public/url/blobs/uploads/")
                assert front.ask(with_digest(answer.headers["location"], digest), *LOGIN, "-X", "PUT", "-T", data).status == 201
            machine_docker("login", "--username", "writer", "--password-stdin", HOST, stdin=password_of("writer").encode())
            assert "authentication is required" in machine_docker.refused("push", reference)
    with machine.network():
        machine_registry.start()


def test_traefik_by_the_labels_of_a_container(machine: Machine, machine_registry: Server, machine_docker: Client) -> None:
    """A container with these labels, in the network of the machine, so that what is served at its port is the registry."""
    lines = (ROOT / "etc" / "traefik" / "docker-compose.labels.yml").read_text().splitlines()
    labels = [re.sub(r'^([^:]+): "?([^"]*)"?$', r"\1=\2", line.strip()) for line in lines if line.startswith("      traefik.")]
    assert len(labels) >= 15
    machine_docker("import", "-", "holder:1", stdin=tarball(busybox_files()))
    words = [word for label in labels for word in ("--label", label)]
    container = machine_docker("run", "--detach", "--network", "host", *words, "holder:1", "/bin/busybox", "sleep", "600").strip()
    endpoint = f"sed -i 's|^  docker:|&\\n    endpoint: {machine_docker.env['DOCKER_HOST']}|' /etc/traefik/traefik.yml"
    try:
        with front_on(machine, machine_registry, "Traefik", variant="by labels", prepare=endpoint) as front:
            assert front.ask("/v2/").headers["www-authenticate"].startswith(f'Bearer realm="{front.url}/v2/token"')
            assert front.ask("/metrics", "--interface", CLIENT_ADDRESS).status == 403
            assert front.ask("/metrics", "--connect-to", f"{HOST}:443:127.0.0.1:443").status != 403
            assert front.log_lines()[-1]["RouterName"] == "nora-metrics@docker"
    finally:
        machine_docker("rm", "--force", container)


def test_the_firewall_lets_in_the_clients_alone(machine: Machine) -> None:
    told = machine.follow("Ports and firewall")
    try:
        assert "policy drop" in told
        assert re.search(r"tcp dport \{ 22, 80, 443 \} accept", told)
    finally:
        machine.sh("nft delete table inet registry")


# ---- operation


PUSH = f"skopeo copy --quiet --dest-tls-verify=false --dest-creds=writer:{password_of('writer')} oci:{{layout}}:{{tag}} docker://127.0.0.1:4000/backup/app:{{tag}}"
RSYNC = """#!/bin/sh
/usr/bin/rsync "$@" || exit
number=$(wc -l <{folder}/pushed)
echo >>{folder}/pushed
{push}
"""
"""After each step of a backup a new image is whole in the registry."""


def test_a_backup_under_load_is_whole(machine: Machine, machine_registry: Server, layout: Layout, tmp_path: Path) -> None:
    """Images are pushed between its steps; restored, each tag of it has all its bytes, and none that was there before it is missing."""
    for tag in ("before", "during0", "during1", "during2", "during3", "after"):
        layout.tag(layout.image([layout.layer({tag: os.urandom(20_000)})]), tag)
    push = {tag: PUSH.format(layout=layout.folder, tag=tag) for tag in ("before", "during$number", "after")}
    machine.sh(push["before"])
    (tmp_path / "pushed").touch()
    (tmp_path / "rsync").write_text(RSYNC.format(folder=tmp_path, push=push["during$number"]))
    machine.sh(f"install {tmp_path}/rsync /usr/local/bin/rsync")
    try:
        machine.follow("Backup")
    finally:
        machine.sh("rm /usr/local/bin/rsync")
    assert len((tmp_path / "pushed").read_text()) == 3
    machine.sh(push["after"])
    machine_registry.stop()
    machine.sh("rm -rf /var/lib/nora/storage/* /etc/nora")
    machine.follow("Restore")
    machine.sh("test -s /etc/nora/tls/ca.crt")
    crane = machine.client("crane", tmp_path / "crane", "--insecure")
    crane("auth", "login", "--username", "writer", "--password-stdin", "127.0.0.1:4000", stdin=password_of("writer").encode())
    with machine.network():
        machine_registry.start()
        tags = Registry("127.0.0.1:4000", f"writer:{password_of('writer')}").tags("backup/app")
    assert "before" in tags
    assert "after" not in tags
    for tag in tags:
        crane("validate", "--remote", f"127.0.0.1:4000/backup/app:{tag}")


def test_a_restart_without_a_gap(machine: Machine, machine_registry: Server, data: Path, tmp_path: Path) -> None:
    """An upload that is running ends in the old registry, and goes on in the new one; meanwhile everyone is served."""
    digest = digest_of(data.read_bytes())
    with front_on(machine, machine_registry, "nginx") as front:
        upload = front.ask("/v2/without/gap/blobs/uploads/", *LOGIN, "-X", "POST")
        slow: list[object] = []
        words = (upload.headers["location"], *LOGIN, "-X", "PATCH", "-T", data, "--limit-rate", "1M")
        uploading = threading.Thread(target=lambda: slow.append(front.ask(*words)))
        uploading.start()
        session = upload.headers["location"].rpartition("/")[2].partition("?")[0]
        staged = (machine.folder / "staging", machine_registry.storage / ".incoming")
        wait_until(
            lambda: any(session in str(file) and file.stat().st_size for folder in staged for file in folder.rglob("*")), 10, "the first bytes"
        )
        with registry_on(machine, port=4001) as second:
            machine.follow("Restarting without a gap")
            wait_until(lambda: front.ask("/health").status == 200 and '"path": "/health"' in second.log_text(), 10, "nginx to ask the second one")
            assert machine_registry.stop() == 0
            uploading.join()
            (patched,) = slow
            assert patched.status == 202  # type: ignore[attr-defined]
            assert front.ask(with_digest(upload.headers["location"], digest), *LOGIN, "-X", "PUT").status == 201
            assert front.ask(f"/v2/without/gap/blobs/{digest}", *LOGIN).body == data.read_bytes()
            assert any(line["path"].endswith(session) and line["method"] == "PUT" for line in Front("nginx", machine, second).logged())
    with machine.network():
        machine_registry.start()


# ---- the page itself


def test_every_fence_is_run_or_says_why_not() -> None:
    """`sh` is run by a test of these folders, `console` cannot be; there are no others but pictures."""
    text = GUIDE.read_text(encoding="utf-8")
    assert set(re.findall(r"^```(\w*)$", text, re.MULTILINE)) == {"", "sh", "console"}
    titles = [title for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE) if blocks(title)]
    tests = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "tests" / "client").glob("*.py"))
    by_name = {title for title in titles if title in WORDS or re.match(rf"({'|'.join(WORDS)}) (on another port|below a sub-path|with |by )", title)}
    assert [title for title in titles if title not in by_name and f'"{title}"' not in tests] == []
    assert len(titles) >= 20


def test_the_samples_are_named_in_the_guide() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    folders = ("nginx", "caddy", "traefik", "containerd", "tls")
    assert [file.name for folder in folders for file in (ROOT / "etc" / folder).iterdir() if f"etc/{folder}/{file.name}" not in text] == []
    assert all((ROOT / "docs" / link).resolve().exists() for link in re.findall(r"\]\((\.\./etc[^)#]*)", text))
    assert HOST in text
