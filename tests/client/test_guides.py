"""The commands of the guides, run in the order of their pages, against what the pages speak of."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificates import make_ca
from tests.client.conftest import Engine, finish
from tests.client.layout import Layout, tarball
from tests.client.test_nginx import PROXY, Nginx
from tests.client.tools import CACHE, Client, clean_environment, tool
from tests.conftest import write_htpasswd
from tests.server import Server, free_port, wait_until
from tests.snippets import DOCS, Shell, snippets

pytestmark = pytest.mark.slow

PASSWORDS = {"alice": "pw-alice", "bob": "pw-bob"}
CONFIG = """\
[auth]
enabled = true
htpasswd_file = "{folder}/users.htpasswd"
[access]
contact = "#platform"
[[access.rules]]
title = "alice writes"
users = "alice"
actions = "write"
[[access.rules]]
title = "bob reads"
users = "bob"
actions = "read"
[curation]
mode = "enforce"
rules_path = "{folder}/rules.toml"
"""
RULES = '[[block]]\nid = "SEC-17"\nformat = "docker"\nname = "team/blocked"\nreason = "it ships a key"\n'


def commands(folder: Path) -> Path:
    """A folder with `nora` that runs this tree."""
    (folder / "bin").mkdir()
    own = folder / "bin" / "nora"
    own.write_text(f'#!/bin/sh\nexec {sys.executable} -m noraflask "$@"\n')
    own.chmod(0o755)
    return own.parent


def environment(server: Server, home: Path, **more: str) -> dict[str, str]:
    """That of the server, so that `nora` means it, with the clients' homes."""
    clean = clean_environment(home)
    own = {name: value for name, value in server.environment().items() if name.startswith("NORA_") or name == "PYTHONPATH"}
    return {**clean, **own, "PATH": f"{commands(home)}:{clean['PATH']}", **more}


def run_page(page: str, shell: Shell) -> None:
    for snippet in snippets(DOCS / page):
        shell.go(snippet)


def guarded(folder: Path) -> Server:
    folder.mkdir()
    write_htpasswd(folder / "users.htpasswd", PASSWORDS)
    (folder / "users.htpasswd").chmod(0o600)
    (folder / "rules.toml").write_text(RULES)
    return Server(folder, config_text=CONFIG.format(folder=folder))


@pytest.fixture
def podman_words(podman: Client, layout: Layout) -> Client:
    """podman that has the image team/app in its own store."""
    image = layout.image([layout.layer({"etc/motd": os.urandom(3 << 20)})])
    layout.tag(image, "1")
    podman("pull", f"oci:{layout.folder}:1")
    podman("tag", podman("images", "--quiet").split()[0], "team/app")
    return podman


def test_troubleshooting(podman_words: Client, engine: Engine, skopeo: Client, nginx: Nginx, layout: Layout, tmp_path: Path) -> None:
    folder, ca = tmp_path / "server", make_ca()
    work = tmp_path / "work"
    intermediate = ca.issue("an intermediate CA", ca=True)
    issued = intermediate.issue("registry")
    certificate, key = issued.write(work)
    other, other_key = intermediate.issue("other", names=("192.0.2.1",)).write(work / "other")
    for name, data in (("ca.crt", ca.pem()), ("intermediate.crt", intermediate.pem()), ("trusted/ca.crt", ca.pem())):
        (work / name).parent.mkdir(exist_ok=True)
        (work / name).write_bytes(data)
    server = guarded(folder)
    docker = engine.docker_of_own(tmp_path / "docker")
    docker("import", "-", "team/app", stdin=tarball({"etc/motd": os.urandom(3 << 20)}))
    with server:
        port = nginx(tls(certificate, key, PROXY, server))
        other_port = nginx(tls(other, other_key, PROXY, server))
        small = nginx(f"server {{ listen 127.0.0.1:PORT; location / {{ {PROXY.replace('client_max_body_size 0;', '')} proxy_pass {server.url}; }} }}")
        for name in ("app", "blocked"):
            login = f"--dest-creds=alice:{PASSWORDS['alice']}"
            skopeo("copy", "--dest-tls-verify=false", login, f"oci:{layout.folder}:1", f"docker://{server.address}/team/{name}:1")
        names = {
            "-connect registry.example.com": f"-connect 127.0.0.1:{port}",
            "-servername registry.example.com": "",
            "registry.example.com": f"127.0.0.1:{port}",
            "other.example.com": f"127.0.0.1:{other_port}",
            "plain.example.com": server.address,
            "small.example.com": f"127.0.0.1:{small}",
            "127.0.0.1:4000": server.address,
            "/var/lib/nora": str(server.storage),
            "> rules.toml": f"> {folder}/rules.toml",
            "rules.toml:1": f"{folder}/rules.toml:1",
            "podman ": podman_command(podman_words) + " ",
        }
        before_first = Shell(work, environment(server, tmp_path / "home"), {})
        before_first.go(next(snippet for snippet in snippets(DOCS / "troubleshooting.md") if "> canary.token" in snippet.text))
        own = {**podman_environment(podman_words), **{name: docker.env[name] for name in ("DOCKER_HOST", "DOCKER_CONFIG")}}
        run_page("troubleshooting.md", Shell(work, environment(server, tmp_path / "home2", **own), names))
        (folder / "rules.toml").write_text(RULES)
        finish(server)


def tls(certificate: Path, key: Path, proxy: str, server: Server) -> str:
    return f"""
    server {{
        listen 127.0.0.1:PORT ssl http2;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        location / {{ {proxy} proxy_pass {server.url}; }}
    }}"""


def podman_command(podman: Client) -> str:
    """With the options that keep it off the machine's own store."""
    return " ".join(podman._command)


def podman_environment(podman: Client) -> dict[str, str]:
    return {name: podman.env[name] for name in ("XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "REGISTRY_AUTH_FILE", "TMPDIR")}


@contextlib.contextmanager
def old_registry(folder: Path) -> Iterator[str]:
    """NORA 1.4.3 where scripts/clients has built it, else a server of ours in its place; its address."""
    program, port = CACHE / "nora", free_port()
    folder.mkdir()
    if not program.exists():
        with Server(folder) as server:
            yield server.address
        return
    settings = {"HOST": "127.0.0.1", "PORT": str(port), "STORAGE_PATH": str(folder / "data"), "RATE_LIMIT_ENABLED": "false", "CURATION_MODE": "off"}
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), **{f"NORA_{name}": value for name, value in settings.items()}}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, "serve"], cwd=folder, env=env, stdout=log, stderr=log)
    try:
        probe = ["curl", "-sf", f"http://127.0.0.1:{port}/health"]
        wait_until(lambda: subprocess.run(probe, capture_output=True, check=False).returncode == 0, 30, "NORA to answer")
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.parametrize("mover", ["crane", "skopeo"])
def test_upgrade(mover: str, skopeo: Client, layout: Layout, tmp_path: Path) -> None:
    """With each of the two that move images alone, so that the one does not hide what the other has left."""
    folder = tmp_path / "server"
    server = guarded(folder)
    new = Server(tmp_path / "new")
    image = layout.image([layout.layer({"etc/motd": b"hello"})])
    layout.tag(image, "1")
    work = tmp_path / "work"
    work.mkdir()
    with old_registry(tmp_path / "old") as old, server, new:
        for name in ("team/app:1", "team/app:2", "base/deep/er:1"):
            skopeo("copy", "--dest-tls-verify=false", f"oci:{layout.folder}:1", f"docker://{old}/{name}")
        names = {
            "old.example.com:4000": old,
            "new.example.com:4001": new.address,
            "http://127.0.0.1:4000": server.url,
            "/etc/nora": str(folder),
            "/var/lib/nora/storage": str(server.storage),
            "/var/lib/nora/state": str(server.state),
            "/var/backups": str(tmp_path / "backups"),
        }
        shell = Shell(work, environment(server, tmp_path / "home"), names, tool)
        for snippet in snippets(DOCS / "upgrade.md"):
            if not {"crane", "skopeo"} & set(snippet.programs) - {mover} or "digest" in snippet.text.split():
                shell.go(snippet)
        for name in ("team/app:1", "team/app:2", "base/deep/er:1"):
            assert image["digest"] in skopeo("inspect", "--tls-verify=false", "--format", "{{.Digest}}", f"docker://{new.address}/{name}")
        finish(new)


def test_pages_say_of_each_fence_what_becomes_of_it() -> None:
    """The pages that run; a fence without a mark is an AssertionError."""
    for page in ("troubleshooting.md", "upgrade.md"):
        found = snippets(DOCS / page)
        assert sum(snippet.word == "run" for snippet in found) >= 8
        assert sum(snippet.word == "not run" for snippet in found) <= 2


def test_a_page_that_is_wrong_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```sh\ntrue\n```\n")
    with pytest.raises(AssertionError, match=r"page\.md:1: say above the fence"):
        snippets(page)
    page.write_text("<!-- run -->\n```sh\necho one; echo two two; echo three\n```\n\n<!-- output -->\n```text\none\n…\nthr…\n```\n")
    shell = Shell(tmp_path, {"PATH": os.environ["PATH"]}, {})
    for snippet in snippets(page):
        shell.go(snippet)
    wrong = ("<!-- output -->\n```text\ntwo\n```", "<!-- run -->\n```sh\nfalse | true\n```", "<!-- run: fails -->\n```sh\ntrue\n```")
    page.write_text("\n".join(("<!-- run -->\n```sh\necho one\n```", *wrong)))
    ran, *rest = snippets(page)
    shell.go(ran)
    for snippet in rest:
        with pytest.raises(AssertionError, match=r"page\.md"):
            shell.go(snippet)
