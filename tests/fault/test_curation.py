"""The hunt for ways around the gate, on a real server: what is blocked is not served, however it is asked for, or a test's name says why it is."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.server import Server, wait_until

from .guarded import LOADED, Crowd
from .oci import MANIFEST_TYPE, Answer, Client, Wire, config_of, digest_of, manifest_of, noise

INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
WORKERS = 2
LAYER, SHARED, CLEAN = noise(70_000, "bad layer"), noise(70_000, "shared layer"), noise(70_000, "clean layer")
TOKEN, OLD_TOKEN = "let-me-pass", "let-me-pass-until-2020"
CONFIG = """
[curation]
mode = "enforce"
rules_path = "{folder}/rules.toml"
"""
ANYTHING = "# nothing is blocked\n"


def block(name: str, version: str = "*") -> str:
    return f'[[block]]\nformat = "docker"\nname = "{name}"\nversion = "{version}"\nreason = "known to be bad"\n'


def bypass(name: str, token: str, expires: str = "") -> str:
    until = f'expires = "{expires}"\n' if expires else ""
    return f'[[bypass]]\nname = "{name}"\ntoken_sha256 = "{hashlib.sha256(token.encode()).hexdigest()}"\n{until}'


class Curated(Server):
    """Rules lie in rules.toml in its folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.rules = folder / "rules.toml"
        self.rules.write_text(ANYTHING)
        super().__init__(folder, {"NORA_WORKERS": str(WORKERS), "NORA_ACCESS_LOG": "false"}, CONFIG.format(folder=folder))

    def load(self, crowd: Crowd, *tables: str) -> str:
        """These rules and no others, in every worker; their fingerprint."""
        before = fingerprints(crowd)
        self.write(*tables)
        wait_until(lambda: len(now := fingerprints(crowd)) == 1 and now != before, LOADED, "all workers to have the new policy")
        return fingerprints(crowd).pop()

    def write(self, *tables: str) -> None:
        new = self.rules.with_suffix(".new")
        new.write_text("\n".join(tables) or ANYTHING)
        os.replace(new, self.rules)
        os.kill(self.pid, signal.SIGHUP)


def fingerprints(crowd: Crowd) -> set[str]:
    return {answer.headers["X-Nora-Policy"] for answer in crowd.ask({}, "/v2/_catalog")}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Curated]:
    with Curated(tmp_path_factory.mktemp("curation") / "server") as server:
        wait_until(lambda: len(server.worker_pids()) == WORKERS, LOADED, "all workers to run")
        yield server
        assert server.log_faults() == []


@pytest.fixture
def crowd(server: Curated) -> Iterator[Crowd]:
    with Crowd(server, WORKERS) as crowd:
        if len(server.rules.read_text()) != len(ANYTHING):
            server.load(crowd)
        yield crowd


@pytest.fixture
def client(server: Curated) -> Iterator[Client]:
    with Client(server.port) as client:
        yield client


class Stored:
    """team/tool:1, an index of one image (config, LAYER, SHARED); team/tool:2, an image (config, SHARED, CLEAN). Pushed while nothing was blocked."""

    def __init__(self, client: Client, name: str = "team/tool") -> None:
        self.name = name
        self.config, self.clean_config = config_of(LAYER), config_of(CLEAN)
        for blob in (self.config, self.clean_config, LAYER, SHARED, CLEAN):
            client.push_blob(name, blob)
        self.child, self.clean = manifest_of(self.config, LAYER, SHARED), manifest_of(self.clean_config, SHARED, CLEAN)
        entry = {
            "mediaType": MANIFEST_TYPE,
            "digest": digest_of(self.child),
            "size": len(self.child),
            "platform": {"os": "linux", "architecture": "amd64"},
        }
        self.index = json.dumps({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [entry]}).encode()
        assert client.push_manifest(name, digest_of(self.child), self.child).status == 201
        assert client.push_manifest(name, "2", self.clean).status == 201
        assert client.ask("PUT", f"/v2/{name}/manifests/1", self.index, {"Content-Type": INDEX_TYPE}).status == 201

    @property
    def secrets(self) -> tuple[bytes, ...]:
        return (self.index, self.child, self.config, LAYER)

    def paths(self) -> dict[str, str]:
        """All ways to what is bad."""
        mine = f"/v2/{self.name}"
        return {
            "tag": f"{mine}/manifests/1",
            "index": f"{mine}/manifests/{digest_of(self.index)}",
            "child": f"{mine}/manifests/{digest_of(self.child)}",
            "config": f"{mine}/blobs/{digest_of(self.config)}",
            "layer": f"{mine}/blobs/{digest_of(LAYER)}",
        }

    def good_paths(self) -> list[str]:
        mine = f"/v2/{self.name}"
        return [
            f"{mine}/manifests/2",
            f"{mine}/manifests/{digest_of(self.clean)}",
            f"{mine}/blobs/{digest_of(SHARED)}",
            f"{mine}/blobs/{digest_of(CLEAN)}",
        ]


@pytest.fixture(scope="module")
def stored(server: Curated) -> Stored:
    with Client(server.port) as client, Crowd(server, WORKERS) as crowd:
        if len(server.rules.read_text()) != len(ANYTHING):
            server.load(crowd)
        return Stored(client)


def leaks(answer: Answer | None, secrets: tuple[bytes, ...], method: str = "GET") -> bool:
    """Some of the bytes, or a promise of them. By HEAD whoever may push, here everybody, is told what is there."""
    if answer is None:
        return False
    if answer.status < 400:
        return method != "HEAD" or bool(answer.body)
    return any(secret[:40] in answer.body for secret in secrets)


def ask_raw(server: Curated, path: str, method: str = "GET", *headers: str) -> Answer | None:
    with Wire(server.port) as wire:
        wire.head(method, path, "Connection: close", *headers)
        return wire.answer(method)


# A copy that was stored before the rule existed.


@pytest.mark.parametrize(
    "rule", [("team/tool", "1"), ("team/*", "1"), ("*", "1"), ("team/tool", "index"), ("*", "index"), ("team/tool", "*"), ("team/**", "*")]
)
def test_what_was_stored_before_the_rule_is_blocked_in_every_part(
    server: Curated, crowd: Crowd, client: Client, stored: Stored, rule: tuple[str, str]
) -> None:
    for path in stored.paths().values():
        assert client.ask("GET", path).status == 200
    etags = {path: client.ask("GET", path).headers["ETag"] for path in stored.paths().values()}
    name, version = rule
    server.load(crowd, block(name, digest_of(stored.index) if version == "index" else version))
    for short, path in stored.paths().items():
        for headers in (
            {},
            {"Range": "bytes=0-9"},
            {"If-None-Match": etags[path]},
            {"If-Match": "*"},
            {"If-Range": etags[path], "Range": "bytes=1-"},
        ):
            for answer in crowd.ask(headers, path):
                assert (answer.status, answer.code) == (403, "DENIED"), (short, headers)
                assert not leaks(answer, stored.secrets)
        for answer in crowd.ask({}, path, "HEAD"):  # without logins everybody may push, and who may push is told what is there
            assert (answer.status, answer.body) == (200, b"")
    for path in stored.good_paths():
        assert crowd.statuses({}, path) == ({403} if version == "*" else {200})


def test_who_may_push_is_told_what_is_there_but_gets_no_byte_of_it(server: Curated, crowd: Crowd, stored: Stored) -> None:
    """Or no fixed image could be pushed that has a layer of the bad one."""
    server.load(crowd, block("team/tool"))
    for short in stored.paths():
        answer = ask_raw(server, stored.paths()[short], "HEAD")
        assert answer is not None
        assert (answer.status, answer.body) == (200, b"")


def test_rules_hold_after_a_restart(folder: Path) -> None:
    with Curated(folder / "own") as server:
        with Client(server.port) as client:
            stored = Stored(client)
        server.rules.write_text(block("team/tool", "1"))
        server.restart()
        with Client(server.port) as client:
            for path in stored.paths().values():
                assert client.ask("GET", path).status == 403
        server.kill()
        server.start()
        with Client(server.port) as client:
            assert client.ask("GET", stored.paths()["layer"]).status == 403


# Other spellings.

ALIASES = [
    "library/app",
    "docker.io/app",
    "docker.io/library/app",
    "index.docker.io/library/app",
    "registry-1.docker.io/library/app",
    "docker.io/library/app",
]
"""The rule says `app`; all of these are stored here, with the same image."""

SPELLINGS = [
    "/v2/app/manifests/1",
    "/v2/app/manifests/1/",
    "/v2/app/manifests/1//",
    "/v2/app/manifests//1",
    "/v2/app//manifests/1",
    "/v2//app/manifests/1",
    "//v2/app/manifests/1",
    "/v2/./app/manifests/1",
    "/v2/app/./manifests/1",
    "/v2/app/manifests/./1",
    "/v2/other/../app/manifests/1",
    "/v2/other/%2e%2e/app/manifests/1",
    "/v2/other/..%2fapp/manifests/1",
    "/v2/other/manifests/..%2f..%2fapp%2fmanifests%2f1",
    "/v2/../v2/app/manifests/1",
    "/health/../v2/app/manifests/1",
    "/health/..;/v2/app/manifests/1",
    "/v2/APP/manifests/1",
    "/v2/App/manifests/1",
    "/V2/app/manifests/1",
    "/v2/app/MANIFESTS/1",
    "/v2/%61pp/manifests/1",
    "/v2/%61%70%70/%6d%61nifests/%31",
    "/v2/app%2Fmanifests%2F1",
    "/v2%2Fapp%2Fmanifests%2F1",
    "/%76%32/app/manifests/1",
    "/v2/%2561pp/manifests/1",
    "/v2/app%252Fmanifests/1",
    "/v2/app%00/manifests/1",
    "/v2/app/manifests/1%00",
    "/v2/app/manifests/1%20",
    "/v2/app/manifests/1%0a",
    "/v2/app%20/manifests/1",
    "/v2/app./manifests/1",
    "/v2/.app/manifests/1",
    "/v2/app;x/manifests/1",
    "/v2/app/manifests/1;x=y",
    "/v2/app/manifests/1?name=other",
    "/v2/app/manifests/1?x=/v2/other/manifests/1",
    "/v2/app/manifests/1#other",
    "/v2/app:1/manifests/1",
    "/v2/app@1/manifests/1",
    "/v2/\\app\\manifests\\1",
    "/v2/app%5cmanifests/1",
    "/v2/%EF%BD%81pp/manifests/1",  # fullwidth a
    "/v2/%D0%B0pp/manifests/1",  # cyrillic a
    "/v2/a%CC%81pp/manifests/1",  # a with a combining accent
    "/v2/a%E2%80%8Bpp/manifests/1",  # zero width space
    "/v2/%C1%A1pp/manifests/1",  # an overlong a
    "/v2/%e1pp/manifests/1",
    "/v2/app/manifests/%EF%BC%91",  # fullwidth 1
    "/v2/app/manifests/%D9%A1",  # arabic 1
    "http://test/v2/app/manifests/1",
    "http://other.example/v2/app/manifests/1",
    "https://test:443/v2/app/manifests/1",
    "/v2/http://test/app/manifests/1",
    "/v2/127.0.0.1/app/manifests/1",
    "/v2/localhost/app/manifests/1",
    "/v2/localhost:5000/app/manifests/1",
    "/v2/_/app/manifests/1",
    "/v2/docker.io//app/manifests/1",
    "/v2/docker.io:443/library/app/manifests/1",
    "/v2/DOCKER.IO/library/app/manifests/1",
    "/v2/docker.io./library/app/manifests/1",
    "/v2/library//app/manifests/1",
    "/v2/Library/app/manifests/1",
    "/v2/library/library/app/manifests/1",
    *(f"/v2/{name}/manifests/1" for name in ALIASES),
]
DIGESTS = [
    "{digest}",
    "{DIGEST}",
    "SHA256:{hex}",
    "sha256:{HEX}",
    "sha256%3a{hex}",
    "sha256%3A{hex}",
    "sha256-{hex}",
    "sha256:{hex}%20",
    "sha256:{hex}/",
    "sha256:0{hex}",
    "{hex}",
    "1@{digest}",
    "{sha512}",
]


@pytest.fixture(scope="module")
def spelled(server: Curated, stored: Stored) -> tuple[bytes, ...]:
    """What is stored under all those names."""
    with Client(server.port) as client, Crowd(server, WORKERS) as crowd:
        for name in ("app", *ALIASES):
            client.push_image(name, "1", LAYER)
        client.push_image("other", "1", CLEAN)
        server.load(crowd, block("app"))
    config = config_of(LAYER)
    return (manifest_of(config, LAYER), config, LAYER)


@pytest.fixture
def named(server: Curated, spelled: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """`app` is blocked as a whole."""
    if server.rules.read_text() != block("app"):
        with Crowd(server, WORKERS) as crowd:
            server.load(crowd, block("app"))
    return spelled


@pytest.mark.parametrize("path", SPELLINGS)
def test_other_spellings(server: Curated, named: tuple[bytes, ...], path: str) -> None:
    for method in ("GET", "HEAD"):
        assert not leaks(ask_raw(server, path, method), named, method)
    for headers in (["Range: bytes=0-0"], ["If-None-Match: *"], ["Expect: 100-continue"]):
        assert not leaks(ask_raw(server, path, "GET", *headers), named)


@pytest.mark.parametrize("name", ["app", *ALIASES])
def test_names_that_mean_the_same_image_are_blocked_by_the_rule(client: Client, named: tuple[bytes, ...], name: str) -> None:
    manifest, config, layer = named
    for path in ("manifests/1", f"manifests/{digest_of(manifest)}", f"blobs/{digest_of(config)}", f"blobs/{digest_of(layer)}", "tags/list"):
        assert client.ask("GET", f"/v2/{name}/{path}").status == 403, path
    assert name not in client.ask("GET", "/v2/_catalog").json()["repositories"]


@pytest.mark.parametrize("what", ["manifests", "blobs"])
@pytest.mark.parametrize("form", DIGESTS)
def test_spellings_of_digests(server: Curated, named: tuple[bytes, ...], form: str, what: str) -> None:
    data = named[0] if what == "manifests" else LAYER
    digest = digest_of(data)
    text = form.format(digest=digest, DIGEST=digest.upper(), hex=digest[7:], HEX=digest[7:].upper(), sha512=digest_of(data, "sha512"))
    for name in ("app", "library/app", "docker.io/library/app"):
        assert not leaks(ask_raw(server, f"/v2/{name}/{what}/{text}"), named)


def test_a_name_with_another_host_in_front_is_another_image(server: Curated, client: Client, named: tuple[bytes, ...]) -> None:
    """quay.io/app is none of the Hub's; whoever means it too writes **/app or a rule by digest."""
    client.push_image("quay.io/app", "1", LAYER)
    assert client.manifest("quay.io/app", "1").status == 200
    with Crowd(server, WORKERS) as crowd:
        server.load(crowd, block("*/app"))
        assert crowd.statuses({}, "/v2/quay.io/app/manifests/1") == {403}
        server.load(crowd, block("*", digest_of(named[0])))
        assert crowd.statuses({}, "/v2/quay.io/app/manifests/1") == {403}


# Headers and methods.

BAD, HARMLESS = "/v2/app/manifests/1", "/v2/other/manifests/1"
TRICKS = [
    "X-Original-URL",
    "X-Rewrite-URL",
    "X-Original-URI",
    "X-Accel-Redirect",
    "X-Sendfile",
    "X-Forwarded-Uri",
    "X-Forwarded-Prefix",
    "X-Script-Name",
]


@pytest.mark.parametrize("header", TRICKS)
def test_headers_that_proxies_obey_lead_nowhere(server: Curated, named: tuple[bytes, ...], header: str) -> None:
    answer = ask_raw(server, BAD, "GET", f"{header}: {HARMLESS}")
    assert answer is not None
    assert answer.status == 403
    for path in ("/v2/", "/health", HARMLESS):
        answer = ask_raw(server, path, "GET", f"{header}: {BAD}")
        assert answer is not None
        assert not any(secret in answer.body for secret in named)


@pytest.mark.parametrize("header", ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "OPTIONS", "TRACE", "PROPFIND", "get"])
def test_methods(server: Curated, named: tuple[bytes, ...], method: str, header: str) -> None:
    for wanted in ("GET", "HEAD", "PUT"):
        assert not leaks(ask_raw(server, BAD, method, f"{header}: {wanted}", "Content-Length: 0"), named, method)
    layer = f"/v2/app/blobs/{digest_of(LAYER)}"
    if method != "HEAD":
        assert not leaks(ask_raw(server, layer, method, f"{header}: GET", "Content-Length: 0"), named)
    answer = ask_raw(server, layer, "HEAD", f"{header}: GET")
    assert answer is not None
    assert answer.body == b""


@pytest.mark.parametrize("host", ["docker.io", "other.example", "localhost", "", "127.0.0.1:1"])
def test_the_host_does_not_matter(server: Curated, named: tuple[bytes, ...], host: str) -> None:
    with Wire(server.port) as wire:
        wire.send(f"GET {BAD} HTTP/1.1\r\nHost: {host}\r\nX-Forwarded-Host: {host}\r\nConnection: close\r\n\r\n".encode())
        assert not leaks(wire.answer(), named)


def test_a_second_request_hidden_in_the_first_is_asked_about_too(server: Curated, named: tuple[bytes, ...]) -> None:
    with Wire(server.port) as wire:
        hidden = f"GET {BAD} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
        wire.send(f"GET {HARMLESS} HTTP/1.1\r\nHost: test\r\n\r\n{hidden}".encode())
        first = wire.answer()
        assert first is not None
        assert first.status == 200
        assert not leaks(wire.answer(), named)


# Through others.


def test_through_a_mount(server: Curated, crowd: Crowd, client: Client, stored: Stored) -> None:
    """It falls back to an upload: whoever has the bytes may send them."""
    for number, rule in enumerate((block("team/tool"), block("team/tool", "1"), block("*", digest_of(LAYER)))):
        server.load(crowd, rule)
        name = f"mounted{number}"
        for query in (f"mount={digest_of(LAYER)}&from=team/tool", f"mount={digest_of(LAYER)}", f"mount={digest_of(LAYER)}&from=team%2Ftool&from=x"):
            assert client.ask("POST", f"/v2/{name}/blobs/uploads/?{query}").status == 202
        assert client.blob(name, digest_of(LAYER)).status in (403, 404)


def test_a_mount_from_a_name_in_another_spelling(client: Client, named: tuple[bytes, ...]) -> None:
    for name in ALIASES:
        assert client.ask("POST", f"/v2/copy/blobs/uploads/?mount={digest_of(LAYER)}&from={name}").status == 202


def test_through_an_index_that_is_not_blocked(server: Curated, crowd: Crowd, client: Client, stored: Stored) -> None:
    """A rule on the child holds in whatever index it is."""
    other = json.loads(stored.index) | {"annotations": {"made": "to get by"}}
    body = json.dumps(other).encode()
    server.load(crowd, block("*", digest_of(stored.child)))
    client.ask("PUT", "/v2/team/tool/manifests/wrapped", body, {"Content-Type": INDEX_TYPE})
    for path in (stored.paths()["child"], stored.paths()["layer"]):
        assert crowd.statuses({}, path) == {403}
    for answer in crowd.ask({"Accept": MANIFEST_TYPE}, "/v2/team/tool/manifests/wrapped"):
        assert not leaks(answer, stored.secrets)
    client.ask("DELETE", "/v2/team/tool/manifests/wrapped")
    client.ask("DELETE", f"/v2/team/tool/manifests/{digest_of(body)}")


def test_through_referrers(server: Curated, crowd: Crowd, client: Client, stored: Stored) -> None:
    about = json.dumps(
        json.loads(manifest_of(stored.clean_config, CLEAN))
        | {"subject": {"mediaType": INDEX_TYPE, "digest": digest_of(stored.index), "size": len(stored.index)}}
    ).encode()
    assert client.push_manifest("team/tool", digest_of(about), about).status == 201
    path = f"/v2/team/tool/referrers/{digest_of(stored.index)}"
    assert [entry["digest"] for entry in client.ask("GET", path).json()["manifests"]] == [digest_of(about)]
    server.load(crowd, block("team/tool", "1"))
    assert crowd.statuses({}, path) == {403}
    server.load(crowd, block("*", digest_of(about)))
    assert {str(answer.json()["manifests"]) for answer in crowd.ask({}, path)} == {"[]"}
    assert crowd.statuses({}, f"/v2/team/tool/manifests/{digest_of(about)}") == {403}
    client.ask("DELETE", f"/v2/team/tool/manifests/{digest_of(about)}")


def test_through_listings(server: Curated, crowd: Crowd, client: Client, stored: Stored) -> None:
    server.load(crowd, block("team/tool", "1"))
    for query in ("", "?n=1", "?n=100", "?last=0", "?n=1&last="):
        assert {"1"} & set(client.ask("GET", f"/v2/team/tool/tags/list{query}").json()["tags"]) == set()
    server.load(crowd, block("team/tool"))
    assert crowd.statuses({}, "/v2/team/tool/tags/list") == {403}
    for query in ("", "?n=1", "?last=team/too"):
        assert "team/tool" not in client.ask("GET", f"/v2/_catalog{query}").json()["repositories"]


# By pushing.


@pytest.mark.parametrize("version", ["1", "index", "child"])
def test_another_tag_on_a_blocked_digest(server: Curated, crowd: Crowd, client: Client, stored: Stored, version: str) -> None:
    banned, content_type = (stored.child, MANIFEST_TYPE) if version == "child" else (stored.index, INDEX_TYPE)
    server.load(crowd, block("team/tool", "1" if version == "1" else digest_of(banned)))
    assert client.ask("PUT", "/v2/team/tool/manifests/again", banned, {"Content-Type": content_type}).status == 201
    for path in ("/v2/team/tool/manifests/again", f"/v2/team/tool/manifests/{digest_of(banned)}", stored.paths()["layer"]):
        assert crowd.statuses({}, path) == {403}
    assert "again" not in client.ask("GET", "/v2/team/tool/tags/list").json()["tags"]
    client.ask("DELETE", "/v2/team/tool/manifests/again")


def test_a_tag_of_its_own_frees_a_child_as_whoever_set_it_has_the_manifest_and_the_rule_is_about_the_index(
    server: Curated, crowd: Crowd, client: Client, stored: Stored
) -> None:
    """A push takes the manifest's bytes. A rule by the child's digest is not lifted by tags: see the test before."""
    server.load(crowd, block("team/tool", "1"))
    assert crowd.statuses({}, stored.paths()["child"]) == {403}
    assert client.push_manifest("team/tool", "child", stored.child).status == 201
    assert crowd.statuses({}, stored.paths()["child"]) == {200}
    assert crowd.statuses({}, stored.paths()["tag"]) == {403}
    client.ask("DELETE", "/v2/team/tool/manifests/child")
    assert crowd.statuses({}, stored.paths()["child"]) == {403}


def test_a_rule_by_name_does_not_reach_the_same_bytes_under_another_name_and_a_rule_by_digest_does(
    server: Curated, crowd: Crowd, client: Client, stored: Stored
) -> None:
    """Names are what people choose, digests are what they get: to ban bytes takes their digest."""
    copy = Stored(client, "copy/tool")
    server.load(crowd, block("team/tool"))
    for path in copy.paths().values():
        assert crowd.statuses({}, path) == {200}
    server.load(crowd, block("*", digest_of(stored.index)))
    for one in (stored, copy):
        for path in one.paths().values():
            assert crowd.statuses({}, path) == {403}
    server.load(crowd, block("*", digest_of(LAYER)))
    for one in (stored, copy):
        assert crowd.statuses({}, one.paths()["layer"]) == {403}


def test_a_manifest_that_was_changed_is_another_one_for_a_rule_by_its_digest_and_not_for_one_by_its_layer(
    server: Curated, crowd: Crowd, client: Client, stored: Stored
) -> None:
    changed = json.dumps(json.loads(stored.child) | {"annotations": {"a": "b"}}).encode()
    server.load(crowd, block("*", digest_of(stored.child)))
    assert client.push_manifest("team/tool", "changed", changed).status == 201
    assert crowd.statuses({}, "/v2/team/tool/manifests/changed") == {200}
    server.load(crowd, block("*", digest_of(LAYER)))
    assert crowd.statuses({}, stored.paths()["layer"]) == {403}
    client.ask("DELETE", "/v2/team/tool/manifests/changed")
    client.ask("DELETE", f"/v2/team/tool/manifests/{digest_of(changed)}")


def test_a_manifest_pushed_by_another_algorithm_is_the_same_for_a_rule_by_digest(
    server: Curated, crowd: Crowd, client: Client, stored: Stored
) -> None:
    long = digest_of(stored.child, "sha512")
    server.load(crowd, block("*", digest_of(stored.child)))
    assert client.push_manifest("team/tool", long, stored.child).status == 201
    assert crowd.statuses({}, f"/v2/team/tool/manifests/{long}") == {403}
    assert crowd.statuses({}, stored.paths()["layer"]) == {403}
    client.ask("DELETE", f"/v2/team/tool/manifests/{long}")


# Bypass tokens.


@pytest.mark.parametrize(
    "headers",
    [
        [],
        ["X-Nora-Bypass-Token:"],
        ["X-Nora-Bypass-Token: wrong"],
        [f"X-Nora-Bypass-Token: {OLD_TOKEN}"],
        [f"X-Nora-Bypass: {OLD_TOKEN}"],
        [f"X-Nora-Bypass-Token: {TOKEN}x"],
        [f"X-Nora-Bypass-Token: {TOKEN[:-1]}"],
        [f"X-Nora-Bypass-Token: {TOKEN.upper()}"],
        [f"X-Nora-Bypass-Token: {hashlib.sha256(TOKEN.encode()).hexdigest()}"],
        [f"X-Nora-Bypass-Token: Bearer {TOKEN}"],
        [f"X_Nora_Bypass_Token: {TOKEN}"],
        [f"X-Nora-Bypass-Token: {TOKEN}", "X-Nora-Bypass-Token: x"],
        ["X-Nora-Bypass-Token: x", f"X-Nora-Bypass: {TOKEN}"],
        [f"Authorization: Bearer {TOKEN}"],
        [f"Cookie: X-Nora-Bypass-Token={TOKEN}"],
        ["X-Nora-Bypass-Token: " + "x" * 7000],
        ["X-Nora-Bypass-Token: \x7f"],
    ],
    ids=lambda headers: " ".join(headers)[:60],
)
def test_tokens_that_are_none(server: Curated, crowd: Crowd, stored: Stored, headers: list[str]) -> None:
    rules = (block("team/tool", "1"), bypass("ann", TOKEN), bypass("old", OLD_TOKEN, "2020-01-01T00:00:00Z"))
    server.load(crowd, *rules)
    for path in stored.paths().values():
        assert not leaks(ask_raw(server, path, "GET", *headers), stored.secrets)


@pytest.mark.parametrize("header", ["X-Nora-Bypass-Token", "X-Nora-Bypass"])
def test_a_good_token_lets_past_and_is_written_down(server: Curated, crowd: Crowd, stored: Stored, header: str) -> None:
    server.load(crowd, block("team/tool", "1"), bypass("ann", TOKEN))
    for path in stored.paths().values():
        assert crowd.statuses({header: TOKEN}, path) == {200}
        assert crowd.statuses({}, path) == {403}, "it counts for one request"
    wait_until(lambda: "bypassed with the token ann" in server.log_text(), 10, "the line about it")
    assert TOKEN not in server.log_text()


# Reload and download.


def test_a_download_that_has_begun_is_finished(server: Curated, crowd: Crowd, client: Client) -> None:
    """The question was asked and answered; to cut it in the middle would leave a client with an error it cannot tell from a broken network."""
    big = noise(24 << 20, "big")
    client.push_image("big", "1", big)
    with Wire(server.port) as wire:
        wire.head("GET", f"/v2/big/blobs/{digest_of(big)}", "Connection: close")
        first = wire.sock.recv(1000)
        assert first.startswith(b"HTTP/1.1 200")
        server.load(crowd, block("big"))
        rest = b"".join(iter(lambda: wire.sock.recv(1 << 20), b""))
    assert (first + rest).endswith(big)
    assert crowd.statuses({}, f"/v2/big/blobs/{digest_of(big)}") == {403}


def test_every_answer_is_that_of_the_policy_it_names_while_64_clients_pull_and_policies_change(server: Curated, crowd: Crowd, stored: Stored) -> None:
    one, two = f"/v2/team/tool/blobs/{digest_of(LAYER)}", f"/v2/team/tool/blobs/{digest_of(CLEAN)}"
    paths = ["/v2/team/tool/manifests/1", one, "/v2/team/tool/manifests/2", two, "/v2/team/tool/tags/list", "/v2/_catalog"]
    rules = {"first": block("team/tool", "1"), "second": block("team/tool", "2"), "all": block("team/tool"), "none": ""}
    names = {server.load(crowd, rules[name]): name for name in rules}
    statuses = {"first": (403, 403, 200, 200, 200, 200), "second": (200, 200, 403, 403, 200, 200), "all": (403,) * 5 + (200,), "none": (200,) * 6}
    tags = {"first": ["2"], "second": ["1"], "none": ["1", "2"]}
    stop = threading.Event()

    def check(which: int, answer: Answer) -> str | None:
        name = names.get(answer.headers.get("X-Nora-Policy", ""))
        good = name is not None and answer.status == statuses[name][which]
        if good and which == 4 and answer.status == 200:
            good = answer.json()["tags"] == tags[str(name)]
        if good and which == 5:
            good = ("team/tool" in answer.json()["repositories"]) is (name != "all")
        return None if good else f"{paths[which]} {name}: {answer!r}"

    def pull(number: int) -> tuple[list[str], Counter[Any]]:
        wrong, seen = list[str](), Counter[Any]()
        with Client(server.port) as own:
            turn = number
            while not stop.is_set():
                answer = own.ask("GET", paths[turn % len(paths)])
                problem = check(turn % len(paths), answer)
                wrong += [problem] if problem else []
                seen[names.get(answer.headers.get("X-Nora-Policy", ""))] += 1
                turn += 1
        return wrong, seen

    workers = server.worker_pids()
    with ThreadPoolExecutor(64) as pool:
        running = [pool.submit(pull, number) for number in range(64)]
        try:
            for _ in range(3):
                for name in rules:
                    assert names[server.load(crowd, rules[name])] == name
        finally:
            stop.set()
        results = [each.result() for each in running]
    assert [problem for wrong, _ in results for problem in wrong] == []
    assert set(sum((seen for _, seen in results), Counter())) == set(rules)
    assert server.worker_pids() == workers
