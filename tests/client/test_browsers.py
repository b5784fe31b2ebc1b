"""Pages of other sites in a real browser: a registry browser that is let in, a page that is not, and one whose name leads to this machine."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.client.browser import Browser, browser
from tests.client.conftest import finish
from tests.client.guarded import Guarded, guarded_server
from tests.client.logins import Goods
from tests.client.tools import Client
from tests.oidc import Issuer
from tests.server import Server, wait_until

UI, EVIL = "ui.example", "evil.example"
LOGIN = "Basic d3JpdGVyOnBhc3Mtd3JpdGVyLXdvcmQ="  # writer:pass-writer-word


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"<!doctype html><title>a page</title>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def pages() -> Iterator[int]:
    """The port of a web server that has a page for each site."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Every site's name leads to this machine, as by DNS rebinding."""
    options = ("--host-resolver-rules=MAP *.example 127.0.0.1", "--no-proxy-server")
    with browser(tmp_path_factory.mktemp("downloads"), *options) as one:
        yield one


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer, pages: int) -> Iterator[Guarded]:
    """With a login; pages of UI are let in."""
    env = {"NORA_CORS_ALLOWED_ORIGINS": f"http://{UI}:{pages}"}
    with guarded_server(tmp_path_factory.mktemp("browsers") / "server", issuer, env=env) as server:
        yield Guarded(server, issuer)
        finish(server)


@pytest.fixture(scope="module")
def open_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """As `nora serve` starts without any configuration: on 127.0.0.1, without logins."""
    with Server(tmp_path_factory.mktemp("open")) as server:
        yield server
        finish(server)


REGISTRY_BROWSER = """
const [registry, name, login] = arguments;
const found = {};
const challenge = await fetch(`${registry}/v2/${name}/tags/list`);
found.challenge = [challenge.status, challenge.headers.get("WWW-Authenticate").split(" ")[0]];
const scope = `repository:${name}:pull,delete`;
const got = await fetch(`${registry}/v2/token?service=registry&scope=${scope}`, {headers: {Authorization: login}, credentials: "include"});
const headers = {Authorization: `Bearer ${(await got.json()).token}`, Accept: "application/vnd.oci.image.manifest.v1+json"};
found.tags = (await (await fetch(`${registry}/v2/${name}/tags/list`, {headers})).json()).tags;
const manifest = await fetch(`${registry}/v2/${name}/manifests/v1`, {headers, cache: "no-cache"});
const digest = manifest.headers.get("Docker-Content-Digest");
found.digest = digest.slice(0, 7);
found.missing = (await fetch(`${registry}/v2/${name}/manifests/none`, {headers})).status;
found.gone = (await fetch(`${registry}/v2/${name}/manifests/${digest}`, {method: "DELETE", headers})).status;
return found;
"""


def test_a_registry_browser_reads_and_deletes(person: Browser, registry: Guarded, pages: int, crane: Client, goods: Goods) -> None:
    name = "shown/in-a-browser"
    crane("auth", "login", "-u", "writer", "-p", "pass-writer-word", registry.address)
    crane("push", goods.layout, f"{registry.address}/{name}:v1")
    person.go(f"http://{UI}:{pages}/")
    found = person.run(REGISTRY_BROWSER, f"http://{registry.address}", name, LOGIN)
    assert found == {"challenge": [401, "Bearer"], "tags": ["v1"], "digest": "sha256:", "missing": 404, "gone": 202}
    assert not registry.tags(name)


def test_a_page_that_is_not_let_in_reads_nothing(person: Browser, registry: Guarded, open_registry: Server, pages: int) -> None:
    person.go(f"http://{EVIL}:{pages}/")
    for address in (registry.address, open_registry.address):
        for script in (
            "fetch(arguments[0])",
            "fetch(arguments[0], {headers: {Authorization: 'Basic x'}})",
            "fetch(arguments[0], {method: 'DELETE'})",
        ):
            assert person.run(f"return (await {script}).status", f"http://{address}/v2/") == "TypeError: Failed to fetch"


SIMPLE = """
const answers = [];
for (const path of ["/v2/planted/blobs/uploads/", "/api/v1/admin/reload", "/raw/planted"]) {
    const answer = await fetch(arguments[0] + path, {method: "POST", mode: "no-cors", body: "x"});
    answers.push(answer.type);
}
return answers;
"""
FORM = """
const form = document.createElement("form");
form.method = "post"; form.action = arguments[0] + "/v2/planted/blobs/uploads/";
document.body.append(form); form.submit();
await new Promise(() => {});
"""


def test_a_page_of_another_site_changes_nothing(person: Browser, open_registry: Server, pages: int) -> None:
    """By requests that need no preflight, which any page may send."""
    for site in (f"{EVIL}:{pages}", f"127.0.0.1:{pages}"):
        person.go(f"http://{site}/")
        assert person.run(SIMPLE, open_registry.url) == ["opaque"] * 3
        with contextlib.suppress(OSError):  # the page is gone before it can say so
            person.run("setTimeout(async () => {" + FORM + "}); return 1", open_registry.url)
        wait_for_text(person, "another site may not change anything here")
    log = open_registry.log_text()
    assert log.count('"path": "/v2/planted/blobs/uploads/", "status": 403') == 4
    assert '"path": "/v2/planted/blobs/uploads/", "status": 202' not in log


def wait_for_text(person: Browser, text: str) -> None:
    wait_until(lambda: text in person.text, 20, f"{text!r} to be shown")


def test_a_name_that_was_led_here_is_refused(person: Browser, open_registry: Server) -> None:
    """DNS rebinding: such a page and the server are of one origin, so the browser lets it read all that is answered."""
    for path in ("", "v2/_catalog", "raw/"):
        person.go(f"http://{EVIL}:{open_registry.port}/{path}")
        assert "server.allowed_hosts" in person.text


def test_the_root_leads_to_the_settings_of_each_client(person: Browser, open_registry: Server) -> None:
    for name in ("localhost", "127.0.0.1"):
        person.go(f"http://{name}:{open_registry.port}/")
        assert person.title == "noraflask"
        assert {"Docker engine", "Kubernetes", "Files: curl, wget"} <= set(person.links)
        person.click("Docker engine")
        assert person.url == f"http://{name}:{open_registry.port}/setup/docker"
        assert f"docker login {name}:{open_registry.port}" in person.text
