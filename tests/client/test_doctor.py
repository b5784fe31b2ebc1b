"""`nora doctor` before real proxies: right settings are all ✓, and each wrong one is named with its line."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from noraflask.formats.docker import canary
from noraflask.formats.docker.canary import Canary
from noraflask.formats.docker.doctor import CHECKS
from noraflask.services.doctor.examination import FrontOptions, through_front
from noraflask.services.doctor.findings import OK, WARNING, WRONG, Finding, ok
from noraflask.services.doctor.format_checks import Check, FormatChecks, Home
from noraflask.services.doctor.front import Front, NoAnswer, Target
from noraflask.services.doctor.proxy import redirect
from tests.certificates import Issued, make_ca
from tests.client.conftest import Registry, finish
from tests.client.test_nginx import PROXY, Nginx
from tests.client.tools import listens, tool
from tests.conftest import write_htpasswd
from tests.server import Server, free_port, wait_until

SIZE = 2 << 20


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxies here are as near as can be, so that less patience shows as much."""
    monkeypatch.setattr(canary, "EARLY_SECONDS", 0.7)
    monkeypatch.setattr(canary, "SEEN_SECONDS", 1.5)


# ---------------------------------------------------------------------------------------------------------- certificates and proxies


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """Its metrics are for nobody who comes through a proxy of these tests."""
    with Server(tmp_path_factory.mktemp("examined"), {"NORA_METRICS_ALLOW_FROM": "192.0.2.1"}) as server:
        yield Registry(server.address)
        finish(server)


@dataclass(frozen=True)
class Certificates:
    folder: Path
    ca: Issued
    intermediate: Issued

    @property
    def ca_file(self) -> Path:
        return self.folder / "ca.crt"

    def files(self, name: str = "registry", *, chain: bool = True, **wrong: object) -> tuple[Path, Path]:
        return self.intermediate.issue(name, **wrong).write(self.folder / name.replace(" ", "-"), chain=chain)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    ca, folder = make_ca(), tmp_path_factory.mktemp("tls")
    (folder / "ca.crt").write_bytes(ca.pem())
    return Certificates(folder, ca, ca.issue("an intermediate CA", ca=True, days=400))


@contextlib.contextmanager
def running(command: list[str], port: int, folder: Path) -> Iterator[None]:
    log = folder / "proxy.log"
    environment = {**os.environ, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "XDG_DATA_HOME": str(folder)}
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output, env=environment)
    try:
        wait_until(lambda: process.poll() is not None or listens(port), 30, f"{command[0]} to listen")
        assert process.poll() is None, log.read_text()
        yield
    finally:
        process.terminate()
        process.wait(20)


def routes(port: int) -> bool:
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=ssl._create_unverified_context())
    try:
        connection.request("GET", "/v2/")
        return connection.getresponse().status != 404
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


Proxy = Callable[..., int]
"""Started with what one wants otherwise; returns its port."""


@pytest.fixture
def caddy(tmp_path: Path, registry: Registry, certificates: Certificates) -> Iterator[Proxy]:
    """caddy(site="…", upstream="…", servers="…")"""
    binary, stack = tool("caddy"), contextlib.ExitStack()

    def start(site: str = "", upstream: str = "", servers: str = "") -> int:
        port, folder = free_port(), tmp_path / "caddy"
        folder.mkdir()
        certificate, key = certificates.files()
        (folder / "Caddyfile").write_text(
            f"{{\n admin off\n auto_https off\n servers {{\n{servers}\n}}\n}}\n"
            f"https://127.0.0.1:{port} {{\n bind 127.0.0.1\n tls {certificate} {key}\n {site}\n"
            f" reverse_proxy {registry.address} {{\n{upstream}\n}}\n}}\n"
        )
        stack.enter_context(running([binary, "run", "--config", "Caddyfile", "--adapter", "caddyfile"], port, folder))
        return port

    with stack:
        yield start


@pytest.fixture
def traefik(tmp_path: Path, registry: Registry, certificates: Certificates) -> Iterator[Proxy]:
    """traefik({"buffering": {…}}, transport={…}): the router's one middleware, and how the entry point waits."""
    binary, stack = tool("traefik"), contextlib.ExitStack()

    def start(middleware: dict[str, object] | None = None, transport: dict[str, object] | None = None) -> int:
        port, folder = free_port(), tmp_path / "traefik"
        folder.mkdir()
        certificate, key = certificates.files()
        entry = {"address": f"127.0.0.1:{port}", "transport": transport or {"respondingTimeouts": {"readTimeout": "0s"}}}
        static = {
            "global": {"checkNewVersion": False, "sendAnonymousUsage": False},
            "entryPoints": {"websecure": entry},
            "providers": {"file": {"filename": str(folder / "dynamic.json"), "watch": False}},
        }
        router: dict[str, object] = {"rule": "PathPrefix(`/`)", "service": "nora", "entryPoints": ["websecure"], "tls": {}}
        web: dict[str, object] = {"services": {"nora": {"loadBalancer": {"servers": [{"url": f"http://{registry.address}"}]}}}}
        if middleware:
            router["middlewares"], web["middlewares"] = ["own"], {"own": middleware}
        web["routers"] = {"nora": router}
        dynamic = {"http": web, "tls": {"certificates": [{"certFile": str(certificate), "keyFile": str(key)}]}}
        (folder / "traefik.yml").write_text(json.dumps(static))
        (folder / "dynamic.json").write_text(json.dumps(dynamic))
        stack.enter_context(running([binary, f"--configFile={folder / 'traefik.yml'}"], port, folder))
        wait_until(lambda: routes(port), 30, "Traefik to read its routes")
        return port

    with stack:
        yield start


@pytest.fixture
def tls_nginx(nginx: Nginx, registry: Registry, certificates: Certificates) -> Callable[..., int]:
    """tls_nginx("client_max_body_size 1m;") → all right but for that; what stands in PROXY goes where a setting of the same name is given."""

    def start(
        *wrong: str,
        location: str = "/",
        server: str = "",
        files: tuple[Path, Path] | None = None,
        upstream: str = "",
        listen: str = "ssl http2",
    ) -> int:
        names = {setting.split()[0] + (f" {setting.split()[1]}" if "proxy_set_header" in setting else "") for setting in wrong}
        right = "".join(line for line in PROXY.splitlines(keepends=True) if not any(line.strip().startswith(f"{name} ") for name in names))
        certificate, key = files or certificates.files()
        return nginx(f"""
        {UNLESS_TOLD}
        server {{
            listen 127.0.0.1:PORT {listen};
            ssl_certificate {certificate};
            ssl_certificate_key {key};
            {server}
            location {location} {{ {right} {" ".join(wrong)} proxy_pass http://{upstream or registry.address}{"/" if location != "/" else ""}; }}
        }}""")

    return start


def examine(port: int, certificates: Certificates, prefix: str = "", **options: object) -> list[Finding]:
    target = Target("https", "127.0.0.1", port, prefix)
    wanted = FrontOptions(target, certificates.ca_file, size=SIZE, pause_seconds=0)
    return list(through_front(replace(wanted, **options), [CHECKS]))  # type: ignore[arg-type]


def verdicts(found: list[Finding], verdict: str) -> dict[str, Finding]:
    return {finding.check: finding for finding in found if finding.verdict == verdict}


def left_behind(registry: Registry) -> list[str]:
    """Manifests, tags and blobs of canaries; their names stay on the list."""
    names: list[str] = registry.request("GET", "/v2/_catalog").json()["repositories"]
    return [name for name in names if name.startswith("nora-doctor/") and registry.request("GET", f"/v2/{name}/tags/list").json()["tags"]]


# ---------------------------------------------------------------------------------------------------------- all right

SEEN = {
    *("certificate", "front", "clock of the front", "client address", "address", "forged headers", "request id", "metrics", "TLS", "body limit"),
    *("Location", "push", "request buffering", "chunked push", "HEAD", "pull", "range", "manifest", "clean-up"),
}


def assert_well(found: list[Finding], registry: Registry) -> None:
    assert [finding for finding in found if finding.verdict != OK] == []
    assert {finding.check for finding in found} == SEEN
    assert left_behind(registry) == []


@pytest.mark.parametrize("proxy", ["nginx", "caddy", "traefik"])
def test_right_settings_are_all_well(proxy: str, registry: Registry, certificates: Certificates, request: pytest.FixtureRequest) -> None:
    port = request.getfixturevalue("tls_nginx" if proxy == "nginx" else proxy)()
    assert_well(examine(port, certificates, pause_seconds=1), registry)


def test_a_sub_path_that_is_named_is_well(tls_nginx: Callable[..., int], registry: Registry, certificates: Certificates) -> None:
    port = tls_nginx("proxy_set_header X-Forwarded-Prefix /hub;", location="/hub/")
    assert_well(examine(port, certificates, "/hub"), registry)


def test_the_registry_itself_is_well(registry: Registry) -> None:
    host, _, port = registry.address.partition(":")
    found = list(through_front(FrontOptions(Target("http", host, int(port), ""), size=SIZE, pause_seconds=0), [CHECKS]))
    assert [finding for finding in found if finding.verdict != OK] == []
    assert left_behind(registry) == []


# ---------------------------------------------------------------------------------------------------------- each wrong setting

WRONG_NGINX = {
    "a body limit": (("client_max_body_size 1m;",), "body limit", "client_max_body_size 0;"),
    "a body limit that is large": (("client_max_body_size 1g;",), "body limit", "client_max_body_size 0;"),
    "request buffering": (("proxy_request_buffering on;",), "request buffering", "proxy_request_buffering off;"),
    "http Location": (("proxy_set_header X-Forwarded-Proto http;",), "Location", "proxy_set_header X-Forwarded-Proto $scheme;"),
    "a host without its port": (("proxy_set_header X-Forwarded-Host $host;",), "Location", "X-Forwarded-Host $http_host;"),
    "no client": (('proxy_set_header X-Forwarded-For "";',), "client address", "X-Forwarded-For $proxy_add_x_forwarded_for;"),
    "a client that is forged": (
        ("proxy_set_header X-Forwarded-For $remote_addr_unless_told;",),
        "forged address",
        "X-Forwarded-For $proxy_add_x_forwarded_for;",
    ),
    "no ranges": (('proxy_set_header Range "";',), "range", "proxy_set_header Range $http_range;"),
    "a digest that is hidden": (("proxy_hide_header Docker-Content-Digest;",), "pull", "proxy_hide_header"),
    "compression": (("gzip on; gzip_min_length 1; gzip_proxied any; gzip_types *;",), "manifest", "gzip off;"),
    "an accel that nobody acts on": (("add_header X-Accel-Redirect /_nora/x;",), "pull", "location /_nora/ { internal;"),
    "an accel that clients ask for": (("add_header X-Accel-Redirect $http_x_nora_accel;",), "accel", "location /_nora/ { internal;"),
    "another upstream": ((), "front", "proxy_pass http://127.0.0.1:4000;"),
}
UNLESS_TOLD = "map $http_x_forwarded_for $remote_addr_unless_told { '' $remote_addr; default $http_x_forwarded_for; }"
"""As proxies do that set the header only where the client has not."""


@pytest.mark.parametrize("wrong", WRONG_NGINX)
def test_what_nginx_gets_wrong_is_named(wrong: str, tls_nginx: Callable[..., int], registry: Registry, certificates: Certificates) -> None:
    settings, check, line = WRONG_NGINX[wrong]
    upstream = f"127.0.0.1:{free_port()}" if wrong == "another upstream" else ""
    port = tls_nginx(*settings, upstream=upstream)
    assert_named(examine(port, certificates), check, f"nginx:   {line}", registry)


def assert_named(found: list[Finding], check: str, line: str, registry: Registry) -> None:
    named = verdicts(found, WRONG).get(check)
    assert named is not None, "\n".join(line for finding in found for line in finding.lines())
    proxy, _, setting = line.partition(":")
    assert any(remedy.startswith(proxy) and setting.strip() in remedy for remedy in named.remedy), named
    assert left_behind(registry) == []


def test_a_sub_path_that_nobody_names_is_told(tls_nginx: Callable[..., int], registry: Registry, certificates: Certificates) -> None:
    port = tls_nginx("proxy_set_header X-Forwarded-Host $http_host;", location="/hub/")
    found = examine(port, certificates, "/hub")
    assert_named(found, "Location", "nginx: proxy_set_header X-Forwarded-Prefix /hub;", registry)
    assert "range" in verdicts(found, OK), "what else there is was looked at as well"


@pytest.mark.slow
def test_a_silence_that_nginx_does_not_bear_is_told(tls_nginx: Callable[..., int], registry: Registry, certificates: Certificates) -> None:
    port = tls_nginx("client_body_timeout 1s;")
    assert_named(examine(port, certificates, pause_seconds=3), "pause", "nginx: client_body_timeout 300s;", registry)


def test_methods_that_nginx_refuses_are_told(tls_nginx: Callable[..., int], registry: Registry, certificates: Certificates) -> None:
    """The canary stays, and its name is told."""
    found = examine(tls_nginx("limit_except GET POST PUT PATCH { deny all; }"), certificates)
    told = verdicts(found, WARNING)["clean-up"]
    assert "stay in nora-doctor/" in told.text
    assert any("limit_except" in line for line in told.remedy)
    for name in left_behind(registry):
        registry.request("DELETE", f"/v2/{name}/manifests/canary")


def test_what_is_worth_a_remark(tls_nginx: Callable[..., int], nginx: Nginx, certificates: Certificates) -> None:
    """/metrics that is open to all, and no HTTP/2."""
    open_to_all = 'location = /metrics { return 200 "# TYPE nora_requests_total counter"; }'
    found = examine(tls_nginx(server=open_to_all, listen="ssl"), certificates)
    assert {check: finding.remedy[0].split()[1] for check, finding in verdicts(found, WARNING).items()} == {"metrics": "location", "TLS": "listen"}
    assert verdicts(found, WRONG) == {}


HTTP = {
    "is sent to https": ("return 308 https://$host$request_uri;", OK, "is sent to https (308)"),
    "is sent elsewhere": ("return 301 https://other.example.com/;", WRONG, "is sent to https://other.example.com/ instead of"),
    "is sent to http": ("return 301 http://$host/;", WRONG, "is sent to http://127.0.0.1/ instead of"),
    "is served": ("location / { proxy_pass http://REGISTRY; }", WRONG, "answers 200 without TLS"),
    "is refused": ("return 403;", OK, "answers 403"),
}


@pytest.mark.parametrize("what", HTTP)
def test_plain_http_beside_https(what: str, nginx: Nginx, registry: Registry) -> None:
    settings, verdict, text = HTTP[what]
    port = nginx(f"server {{ listen 127.0.0.1:PORT; {settings.replace('REGISTRY', registry.address)} }}")
    (found,) = redirect(Target("https", "127.0.0.1", 443, ""), CHECKS.home, port)
    assert (found.check, found.verdict) == ("http", verdict)
    assert text in found.text
    assert bool(found.remedy) is (verdict == WRONG)


def test_plain_http_that_is_closed() -> None:
    (found,) = redirect(Target("https", "127.0.0.1", 443, ""), CHECKS.home, free_port())
    assert (found.verdict, found.text.endswith("is closed")) == (OK, True)


WRONG_CADDY: dict[str, tuple[dict[str, str], str, str]] = {
    "a body limit": ({"site": "request_body {\n max_size 1MB\n }"}, "push", "take `request_body"),
    "request buffering": ({"upstream": "request_buffers 64MiB"}, "request buffering", "take `request_buffers`"),
    "http Location": ({"upstream": "header_up X-Forwarded-Proto http"}, "Location", "take `header_up`"),
    "no client": ({"upstream": "header_up -X-Forwarded-For"}, "client address", "take `header_up -X-Forwarded-For`"),
    "a host that is forged": ({"servers": "trusted_proxies static 127.0.0.0/8"}, "forged host", "take `trusted_proxies`"),
    "compression": ({"site": "encode {\n gzip\n minimum_length 1\n match {\n header Content-Type *\n }\n }"}, "manifest", "`encode`"),
}


@pytest.mark.parametrize("wrong", WRONG_CADDY)
def test_what_caddy_gets_wrong_is_named(wrong: str, caddy: Proxy, registry: Registry, certificates: Certificates) -> None:
    settings, check, line = WRONG_CADDY[wrong]
    assert_named(examine(caddy(**settings), certificates), check, f"Caddy: {line}", registry)


@pytest.mark.slow
def test_a_silence_that_caddy_does_not_bear_is_told(caddy: Proxy, registry: Registry, certificates: Certificates) -> None:
    port = caddy(servers="timeouts {\n read_body 1s\n }")
    assert_named(examine(port, certificates, pause_seconds=3), "pause", "Caddy: take `read_body`", registry)


WRONG_TRAEFIK: dict[str, tuple[dict[str, object], str, str]] = {
    "a body limit": ({"buffering": {"maxRequestBodyBytes": 1 << 20}}, "body limit", "take the middleware `buffering`"),
    "request buffering": ({"buffering": {"memRequestBodyBytes": 1 << 20}}, "request buffering", "take the middleware `buffering`"),
    "http Location": ({"headers": {"customRequestHeaders": {"X-Forwarded-Proto": "http"}}}, "Location", "take the middleware `headers`"),
    "no client": ({"headers": {"customRequestHeaders": {"X-Forwarded-For": ""}}}, "client address", "take the middleware that removes"),
    "compression": ({"compress": {"minResponseBodyBytes": 1}}, "manifest", "`compress`"),
}


@pytest.mark.parametrize("wrong", WRONG_TRAEFIK)
def test_what_traefik_gets_wrong_is_named(wrong: str, traefik: Proxy, registry: Registry, certificates: Certificates) -> None:
    middleware, check, line = WRONG_TRAEFIK[wrong]
    assert_named(examine(traefik(middleware), certificates), check, f"Traefik: {line}", registry)


@pytest.mark.slow
def test_a_silence_that_traefik_does_not_bear_is_told(traefik: Proxy, registry: Registry, certificates: Certificates) -> None:
    port = traefik(transport={"respondingTimeouts": {"readTimeout": "1s"}})
    assert_named(examine(port, certificates, pause_seconds=3), "pause", "Traefik: entryPoints.<name>.transport", registry)


# ---------------------------------------------------------------------------------------------------------- certificates

CHAINS: dict[str, tuple[dict[str, object], str, str]] = {
    "ends soon": ({"days": 10.0}, WARNING, "ends in 10 days"),
    "ends very soon": ({"days": 2.0}, WRONG, "ends in 2 days"),
    "has ended": ({"days": -1.0, "since": 30}, WRONG, "has expired on"),
    "is not yet valid": ({"since": -5, "days": 90}, WRONG, "is the clock right"),
    "is for others": ({"names": ("registry.example.com",)}, WRONG, "it is for registry.example.com, not for 127.0.0.1"),
    "is incomplete": ({"chain": False}, WRONG, "signed by an intermediate CA, which the server does not send"),
}


@pytest.mark.parametrize("wrong", CHAINS)
def test_what_is_wrong_with_a_certificate_is_told(wrong: str, tls_nginx: Callable[..., int], certificates: Certificates) -> None:
    options, verdict, text = CHAINS[wrong]
    found = examine(tls_nginx(files=certificates.files(wrong, **options)), certificates)  # type: ignore[arg-type]
    told = verdicts(found, verdict)["certificate"]
    assert text in told.text
    assert told.remedy or wrong == "is not yet valid"
    went_on = "front" in verdicts(found, OK)
    assert went_on is wrong.startswith("ends")
    assert ("canary" in verdicts(found, WARNING)) is not went_on, "nothing is sent where the certificate is not trusted"


def test_a_ca_that_nobody_knows_is_told(tls_nginx: Callable[..., int], certificates: Certificates, tmp_path: Path) -> None:
    other = tmp_path / "other.crt"
    other.write_bytes(make_ca("another CA").pem())
    found = examine(tls_nginx(), certificates, ca_file=other)
    told = verdicts(found, WRONG)["certificate"]
    assert "a CA that is not trusted here" in told.text
    assert any("/etc/docker/certs.d/" in line for line in told.remedy)


def test_a_port_without_tls_is_told(registry: Registry, certificates: Certificates) -> None:
    told = verdicts(examine(int(registry.address.rpartition(":")[2]), certificates), WRONG)["certificate"]
    assert "it does not speak TLS there" in told.text


# ---------------------------------------------------------------------------------------------------------- the command, logins, untrusted proxies


def nora_doctor(server: Server, *options: str | Path) -> tuple[int, dict[str, Finding], str]:
    """Exit code, findings by check (the worst of a check counts), standard error."""
    command = [sys.executable, "-m", "noraflask", "doctor", "--json", "--pause", "0", "--size", "1M", *map(str, options)]
    done = subprocess.run(command, cwd=server.folder, env=server.environment(), capture_output=True, text=True, timeout=120, check=False)
    members = json.loads(done.stdout)
    order = (OK, WARNING, WRONG)
    found = [Finding(one["check"], one["verdict"], one["text"], tuple(one["remedy"])) for one in members["findings"]]
    assert members["well"] is not any(finding.verdict == WRONG for finding in found)
    return done.returncode, {finding.check: finding for finding in sorted(found, key=lambda one: order.index(one.verdict))}, done.stderr


def test_what_a_format_gives_is_run_and_without_one_the_front_is_known_by_its_health(registry: Registry) -> None:
    host, _, port = registry.address.partition(":")
    options = FrontOptions(Target("http", host, int(port), ""), size=SIZE, pause_seconds=0)
    toy = FormatChecks(checks=(Check("toy", lambda context: [ok("toy", f"{context.size} bytes")]),))
    found = list(through_front(options, [toy]))
    assert [finding for finding in found if finding.verdict != OK] == []
    assert {finding.check for finding in found} >= {"front", "toy", "client address"}
    assert not {finding.check for finding in found} & {"push", "login address"}
    elsewhere = FormatChecks(home=Home("/api/v1/whoami", lambda answer: False))
    assert verdicts(list(through_front(options, [elsewhere])), WRONG)["front"].text.startswith(
        f"http://{registry.address}/api/v1/whoami is no registry"
    )


def test_a_policy_that_lets_no_canary_through_is_a_remark(own_server: Callable[..., Server], tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text('[[allow]]\nformat = "docker"\nname = "team/**"\n')
    server = own_server(config_text=f'[curation]\nmode = "enforce"\nrules_path = "{tmp_path / "rules.toml"}"\n')
    found = list(through_front(FrontOptions(Target("http", "127.0.0.1", server.port, ""), size=SIZE, pause_seconds=0), [CHECKS]))
    assert verdicts(found, WRONG) == {}
    told = verdicts(found, WARNING)["pull"]
    assert "by policy" in told.text
    assert 'name = "nora-doctor/**"' in told.remedy[0]
    assert found[-1].check == "clean-up"


@pytest.mark.slow
def test_the_command_with_a_login(own_server: Callable[..., Server], nginx: Nginx, tmp_path: Path) -> None:
    """Of this machine, of the running server, and through nginx; the secret is on no command line, and nothing of the canary stays."""
    folder = tmp_path / "guarded"
    folder.mkdir()
    write_htpasswd(folder / "users.htpasswd", {"alice": "pw-alice"})
    (folder / "users.htpasswd").chmod(0o640)
    server = own_server(folder=folder, env={"NORA_AUTH_ENABLED": "true"})
    port = nginx(f"server {{ listen 127.0.0.1:PORT; location / {{ {PROXY} proxy_pass {server.url}; }} }}")
    url = f"http://127.0.0.1:{port}"
    (folder / "password").write_text("pw-alice\n")
    code, found, errors = nora_doctor(server, "--public-url", url, "--user", "alice", "--password-file", folder / "password")
    assert (code, errors) == (0, ""), found
    for check in ("storage", "server", "workers", "policy", "htpasswd file", "open files", "login address", "push", "range", "clean-up"):
        assert found[check].verdict == OK, found[check]
    assert found["login address"].text == f"{url}/v2/token"
    assert not list(server.storage.glob("**/*nora-doctor*")), "the name is gone from the list, and its folders"

    code, found, _ = nora_doctor(server, "--public-url", url)
    assert (code, found["canary"].verdict) == (0, WARNING)
    assert "--token-file" in found["canary"].remedy[0]

    lying = nginx(f"server {{ listen 127.0.0.1:PORT; location / {{ {PROXY.replace('$scheme', 'https')} proxy_pass {server.url}; }} }}")
    code, found, _ = nora_doctor(server, "--public-url", f"http://127.0.0.1:{lying}")
    assert (code, found["login address"].verdict) == (1, WRONG)
    assert f"logins are sent to https://127.0.0.1:{lying}/v2/token instead of" in found["login address"].text

    (folder / "password").write_text("no-such-password\n")
    code, found, _ = nora_doctor(server, "--public-url", url, "--user", "alice", "--password-file", folder / "password")
    assert (code, found["front"].verdict) == (1, WRONG)
    assert "the login is refused" in found["front"].text


def test_a_proxy_that_is_not_trusted_is_told(own_server: Callable[..., Server], nginx: Nginx) -> None:
    server = own_server(env={"NORA_AUTH_TRUSTED_PROXIES": "192.0.2.1"})
    port = nginx(f"server {{ listen 127.0.0.1:PORT; location / {{ {PROXY} proxy_pass {server.url}; }} }}")
    code, found, _ = nora_doctor(server, "--public-url", f"http://127.0.0.1:{port}")
    assert (code, found["client address"].verdict) == (1, WRONG)
    assert any('auth.trusted_proxies = ["127.0.0.1", "::1", "127.0.0.1"]' in line for line in found["client address"].remedy)


def test_the_command_where_all_is_broken(own_server: Callable[..., Server], tmp_path: Path) -> None:
    """No server, no storage, no rules, a configuration with mistakes: a line for each, and no traceback."""
    server = own_server()
    server.stop()
    (server.folder / "config.toml").write_text('[server]\nprot = 1\n[curation]\nmode = "audit"\nrules_path = "no.toml"\n')
    shutil.rmtree(server.storage)
    code, found, errors = nora_doctor(server, "--public-url", f"http://127.0.0.1:{server.port}")
    assert code == 1
    assert "Traceback" not in errors
    assert {check for check, finding in found.items() if finding.verdict == WRONG} >= {"configuration", "storage folder", "server", "front"}


def test_an_interrupted_canary_is_removed(registry: Registry) -> None:
    host, _, port = registry.address.partition(":")
    bird = Canary(Front(Target("http", host, int(port), "")), SIZE, 0)
    steps = bird.run()
    for finding in steps:
        if finding.check == "pull":
            break
    assert registry.tags(bird.name) == ["canary"]
    digests = list(bird.blobs)
    steps.close()
    assert registry.request("GET", f"/v2/{bird.name}/tags/list").status == 404
    assert {registry.request("HEAD", f"/v2/{bird.name}/blobs/{digest}").status for digest in digests} == {404}


def test_a_front_that_breaks_in_the_middle_is_told(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    host, _, port = registry.address.partition(":")
    bird = Canary(Front(Target("http", host, int(port), "")), SIZE, 0)
    monkeypatch.setattr(bird, "pull", lambda: (_ for _ in ()).throw(NoAnswer("reset by peer")))
    found = list(bird.run())
    assert verdicts(found, WRONG)["canary"].text == "the connection broke: reset by peer"
    assert registry.request("GET", f"/v2/{bird.name}/tags/list").status == 404
