"""/setup/<client>: settings with the address that the caller used, and nothing in them that a caller could have put there."""

from __future__ import annotations

import json
import re
import shlex
import tomllib

import pytest

from noraflask.formats import FORMATS
from noraflask.formats.docker.setup import PAGES
from noraflask.web.setup_pages import Place

CLIENTS = tuple(page.client for page in PAGES)

FORWARDED = {"X-Forwarded-Host": "r.example:8443", "X-Forwarded-Proto": "https"}


def page(client, name, headers=None, peer="127.0.0.1"):
    answer = client.get(f"/setup/{name}", headers=headers, environ_overrides={"REMOTE_ADDR": peer})
    assert (answer.status_code, answer.content_type) == (200, "text/plain; charset=utf-8")
    return answer.text


def commands(text: str) -> list[list[str]]:
    """Words of each command, without comments and what is put into files; an error where a shell would see one."""
    bare = re.sub(r"(?ms) <<'END'\n.*?^END$", "", text)
    return [shlex.split(line) for line in bare.splitlines() if line and not line.startswith("#")]


def test_the_list(client):
    answer = client.get("/setup", headers={"Host": "r.example:5000"})
    assert answer.text.splitlines()[1:] == [f"http://r.example:5000/setup/{name}" for name in (*CLIENTS, "raw")]
    assert set(CLIENTS) == {"docker", "podman", "containerd", "kubernetes", "helm"}


def test_the_clients_of_all_formats_are_distinct():
    clients = [page.client for format in FORMATS for page in format.setup]
    assert sorted(set(clients)) == sorted(clients)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.client)
def test_a_named_repository_stands_in_the_names_of_images(page):
    text = page.render(Place("https://r.example", repository="shop"))
    assert "r.example/team/app" not in text
    assert "r.example/shop/team/app:1" in text or "oci://r.example/shop/charts" in text
    assert page.render(Place("https://r.example")) != text


@pytest.mark.parametrize("path", ["/setup/npm", "/setup/Docker", "/setup/docker/x", "/setup/%0ax"])
def test_another_client(client, path):
    answer = client.get(path)
    assert answer.status_code == 404
    assert "Traceback" not in answer.text
    assert path.count("/") > 2 or "docker, podman, containerd, kubernetes, helm" in answer.text


@pytest.mark.parametrize("name", CLIENTS)
@pytest.mark.parametrize(
    ("headers", "host", "scheme"),
    [
        ({"Host": "r.example:5000"}, "r.example:5000", "http"),
        ({"Host": "[2001:db8::1]:5000"}, "[2001:db8::1]:5000", "http"),
        (FORWARDED, "r.example:8443", "https"),
        ({**FORWARDED, "X-Forwarded-Host": "r.example"}, "r.example", "https"),
    ],
    ids=str,
)
def test_the_address_is_the_callers(client, name, headers, host, scheme):
    text = page(client, name, headers)
    assert text.startswith(f"# {text[2:].partition(' with ')[0]} with {scheme}://{host}\n")
    assert f"{host}/" in "".join(" ".join(words) for words in commands(text)) or name == "kubernetes"
    assert "localhost" not in text
    assert ("--plain-http" in text or "--tls-verify=false" in text) is (scheme == "http" and name in ("podman", "containerd", "helm"))
    assert ("ca.crt" in text) is (scheme == "https" and name != "kubernetes")


def test_a_public_url_is_what_all_are_told(make_app):
    client = make_app(server={"public_url": "https://r.example/hub"}).test_client()
    for name in CLIENTS:
        text = page(client, name, {"Host": "other.example"})
        assert "r.example" in text
        assert "other.example" not in text
        assert "Container clients ask for https://r.example/v2/" in text, "a sub-path is not in the name of an image"
        assert "r.example/team/app:1" in text or name == "helm"


def test_behind_a_sub_path(client):
    text = page(client, "docker", {**FORWARDED, "X-Forwarded-Prefix": "/hub"})
    assert "beside /hub/" in text
    assert "docker login r.example:8443\n" in text


HOSTILE = ["$(reboot)", "a;reboot", "`id`", "r.example' ; reboot '", "a b", "r.example\\", 'x"><script>', "r.example/../x", "r:port"]


@pytest.mark.parametrize("name", CLIENTS)
@pytest.mark.parametrize("host", HOSTILE)
def test_a_host_that_is_none_is_not_repeated(client, name, host):
    usual = page(client, name, {"Host": "localhost:80"})
    assert page(client, name, {"Host": host}) == usual
    forwarded = page(client, name, {"Host": "localhost:80", "X-Forwarded-Host": host, "X-Forwarded-Prefix": f"/{host}", "X-Forwarded-Proto": host})
    assert not re.search(r"[$`\\]\(|reboot|<script|`id`", forwarded)


def test_a_host_of_somebody_who_is_not_trusted_is_not_repeated(client):
    assert "evil.example" not in page(client, "docker", {"X-Forwarded-Host": "evil.example"}, "192.0.2.1")


def test_docker_on_this_machine_needs_no_setting(client):
    assert "insecure-registries" not in page(client, "docker", {"Host": "127.0.0.1:4000"})
    assert '"insecure-registries": ["10.0.0.5:4000"]' in page(client, "docker", {"Host": "10.0.0.5:4000"})


@pytest.mark.parametrize("headers", [{"Host": "r.example:5000"}, FORWARDED], ids=str)
def test_the_files_of_containerd_and_podman_are_toml(client, headers):
    text = page(client, "containerd", headers)
    hosts = tomllib.loads(re.search(r"(?s)<<'END'\n(.*?)^END$", text, re.MULTILINE)[1])
    (origin,) = hosts["host"]
    assert hosts["server"] == origin
    assert hosts["host"][origin]["capabilities"] == ["pull", "resolve", "push"]
    assert ("ca" in hosts["host"][origin]) is origin.startswith("https://")
    if origin.startswith("http://"):
        told = re.findall(r"^#   (.*)$", page(client, "podman", headers), re.MULTILINE)
        assert tomllib.loads("\n".join(told)) == {"registry": [{"location": "r.example:5000", "insecure": True}]}


def test_kubernetes_pulls_with_the_secret_that_it_makes(client):
    text = page(client, "kubernetes", FORWARDED)
    (made,) = [words for words in commands(text) if words[:3] == ["kubectl", "create", "secret"]]
    assert made[3:6] == ["docker-registry", "nora-pull", "--docker-server=r.example:8443"]
    manifest = re.search(r"(?s)<<'END'\n(.*?)^END$", text, re.MULTILINE)[1]
    assert "imagePullSecrets:\n    - name: nora-pull\n" in manifest
    assert "image: r.example:8443/team/app:1\n" in manifest
    (patch,) = [words for words in commands(text) if words[1] == "patch"]
    assert json.loads(patch[-1]) == {"imagePullSecrets": [{"name": "nora-pull"}]}
    assert "https://r.example:8443/setup/containerd" in text


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/setup/docker?repository=team", 200, "localhost/team/team/app:1"),
        ("/setup/raw?repository=drawings", 200, "/repository/drawings"),
        ("/setup/docker?repository=docker", 200, "docker push localhost/team/app:1"),
        ("/setup/docker?repository=drawings", 404, "no such repository"),
        ("/setup/docker?repository=nobody", 404, "no such repository"),
    ],
)
def test_a_page_for_a_named_repository(make_app, path, status, said):
    client = make_app(repositories=[{"name": "team", "format": "docker"}, {"name": "drawings", "format": "raw"}]).test_client()
    answer = client.get(path)
    assert (answer.status_code, said in answer.text) == (status, True), answer.text


def test_a_page_does_not_tell_which_repositories_others_have(make_app):
    client = make_app(repositories=[{"name": "team", "format": "docker"}], auth={"users": {}}).test_client()
    assert [client.get(f"/setup/docker?repository={name}").status_code for name in ("team", "nobody")] == [404, 404]
    assert client.get("/setup/docker").status_code == 200


# The page at the root.

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (None, "text/plain; charset=utf-8"),
        ("*/*", "text/plain; charset=utf-8"),
        (BROWSER, "text/html; charset=utf-8"),
        ("text/html", "text/html; charset=utf-8"),
        ("application/json", "application/json"),
        ("application/json, */*;q=0.1", "application/json"),
        ("application/*", "application/json"),
        ("text/html;q=0.1, application/json;q=0.2", "application/json"),
        ("image/png", "text/plain; charset=utf-8"),
        ("", "text/plain; charset=utf-8"),
        ("nonsense;;q=x,,\x7f", "text/plain; charset=utf-8"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_root_is_what_the_caller_reads_best(client, accept, content_type, method):
    answer = client.open("/", method=method, headers={"Accept": accept} if accept is not None else {})
    assert (answer.status_code, answer.content_type) == (200, content_type)
    assert (answer.headers["Cache-Control"], answer.headers["Vary"]) == ("no-store", "Accept")
    assert answer.headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'; sandbox"
    assert bool(answer.data) == (method == "GET")
    assert int(answer.headers["Content-Length"]) > 0


def shown(client, accept, **headers):
    return client.get("/", headers={"Accept": accept, **headers}, environ_overrides={"REMOTE_ADDR": "127.0.0.1"}).text


@pytest.mark.parametrize("accept", ["*/*", BROWSER, "application/json"])
@pytest.mark.parametrize(
    ("headers", "url"),
    [
        ({"Host": "r.example:5000"}, "http://r.example:5000"),
        (FORWARDED, "https://r.example:8443"),
        ({**FORWARDED, "X-Forwarded-Prefix": "/hub"}, "https://r.example:8443/hub"),
    ],
)
def test_the_root_tells_where_each_client_is_set_up(client, accept, headers, url):
    text = shown(client, accept, **headers)
    for format in FORMATS:
        assert format.ecosystem.title in text
        for page in format.setup:
            assert f"{url}/setup/{page.client}" in text
            assert client.get(f"/setup/{page.client}").status_code == 200
        for mount in format.mounts:
            assert f"{url}{mount}/" in text


@pytest.mark.parametrize("accept", ["*/*", BROWSER, "application/json"])
def test_the_root_takes_the_public_url(make_app, accept):
    client = make_app(server={"public_url": "https://hub.example.com/registry"}).test_client()
    assert "https://hub.example.com/registry/setup/raw" in shown(client, accept, Host="other.example")


@pytest.mark.parametrize("accept", ["*/*", BROWSER, "application/json"])
def test_what_is_switched_off_is_not_shown(make_app, accept):
    text = shown(make_app(raw={"enabled": False}).test_client(), accept)
    assert "/setup/docker" in text
    assert "raw" not in text.lower()


def test_the_root_in_json(client):
    found = json.loads(shown(client, "application/json"))
    assert found["url"] == "http://localhost"
    assert [entry["format"] for entry in found["formats"]] == [format.id for format in FORMATS]
    docker = found["formats"][0]
    assert docker["addresses"] == ["http://localhost/v2/"]
    assert docker["setup"][0] == {"client": "docker", "title": "Docker engine", "url": "http://localhost/setup/docker"}


@pytest.mark.parametrize("host", HOSTILE)
@pytest.mark.parametrize("accept", ["*/*", BROWSER, "application/json"])
def test_nothing_of_a_caller_gets_into_the_root(client, accept, host):
    usual = shown(client, accept, Host="localhost:80")
    assert shown(client, accept, Host=host) == usual
    assert shown(client, accept, **{"Host": "localhost:80", "X-Forwarded-Host": host, "X-Forwarded-Proto": host}) == usual
    prefixed = shown(client, accept, **{"Host": "localhost:80", "X-Forwarded-Prefix": f"/{host}"})
    assert not re.search(r"[$`\\]\(|reboot|<script|`id`", prefixed)


def test_the_root_needs_no_login_and_takes_no_other_method(make_app):
    client = make_app(auth={"users": {"alice": "pw"}}).test_client()
    assert client.get("/").status_code == 200
    assert client.post("/").status_code == 405
    assert client.get("/ui/").status_code == 404
