"""A real server, and real clients with a home of their own.

NORAFLASK_TEST_REGISTRY=127.0.0.1:5000 points the tests at a registry that already runs, for a comparison; tests of our own process
are then left out. CI=true or NORAFLASK_REQUIRE_CLIENTS=1 makes a missing client a failure.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.client.fronts import Machine, engine_on, machine_with_ca, registry_on
from tests.client.guarded import Guarded, guarded_server
from tests.client.layout import Layout
from tests.client.logins import Goods, Seat, make_goods
from tests.client.machine import base_image
from tests.client.registry import Answer as Answer
from tests.client.registry import Registry as Registry
from tests.client.tools import Client, as_root, clean_environment, listens, missing, tool
from tests.oidc import Issuer
from tests.server import ROOT, Server, free_port, wait_until


def finish(server: Server) -> None:
    """The end that every server must have: asked to stop it stops, with 0, and it has never stumbled."""
    code = server.stop() if server.running else 0
    faults = server.log_faults()
    assert not faults, "in the server's log:\n" + "\n".join(faults[:20])
    assert code == 0, f"the server ended with {code}\n{server.log_text()[-2000:]}"


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """One server for all tests of this folder: each test has a repository name of its own."""
    external = os.environ.get("NORAFLASK_TEST_REGISTRY")
    if external:
        yield Registry(external)
        return
    with Server(tmp_path_factory.mktemp("server")) as server:
        yield Registry(server.address)
        finish(server)


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start a server with settings of the test's own: own_server(env={…}, staging=…)."""
    if os.environ.get("NORAFLASK_TEST_REGISTRY"):
        pytest.skip("needs our own server, and NORAFLASK_TEST_REGISTRY names another")
    servers: list[Server] = []

    def start(**options: Any) -> Server:
        servers.append(Server(options.pop("folder", tmp_path / f"server{len(servers)}"), **options))
        return servers[-1].start()

    with contextlib.ExitStack() as stack:
        yield start
        for server in servers:
            stack.callback(server.kill)
        for server in servers:
            finish(server)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "layout")


@pytest.fixture
def disk() -> Iterator[Path]:
    """A folder on a real disk, where /tmp may be memory, with room for the largest test."""
    folder = Path(tempfile.mkdtemp(prefix="noraflask-", dir="/var/tmp"))
    try:
        free = shutil.disk_usage(folder).free
        if free < 12 << 30:
            missing(f"12 GiB of free disk in /var/tmp, where {free >> 30} GiB are free")
        yield folder
    finally:
        shutil.rmtree(folder)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A Docker engine takes seconds to start and stop, and its images minutes to build: one for all who use it."""
    for item in items:
        parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        if "engine" in getattr(item, "fixturenames", ()) or parameters.get("program") == "docker":
            item.add_marker(pytest.mark.together("engine"))


# ---------------------------------------------------------------------------------------------------------- single programs


@pytest.fixture
def skopeo(tmp_path: Path) -> Client:
    return Client("skopeo", tmp_path / "skopeo")


@pytest.fixture
def crane(tmp_path: Path) -> Client:
    return Client("crane", tmp_path / "crane", "--insecure")


@pytest.fixture
def oras(tmp_path: Path) -> Client:
    return Client("oras", tmp_path / "oras")


@pytest.fixture
def helm(tmp_path: Path) -> Client:
    return Client("helm", tmp_path / "helm")


@pytest.fixture
def cosign(tmp_path: Path) -> Client:
    return Client("cosign", tmp_path / "cosign", env={"COSIGN_PASSWORD": "for a test"})


@pytest.fixture
def regctl(tmp_path: Path, registry: Registry) -> Client:
    return Client("regctl", tmp_path / "regctl", "--host", f"reg={registry.address},tls=disabled")


@pytest.fixture
def podman() -> Iterator[Client]:
    # runc comes with docker.io; the usual crun refuses to start where both kinds of cgroups are mounted.
    with _own_store("podman", "--runtime", tool("runc")) as client:
        yield client


@pytest.fixture
def buildah() -> Iterator[Client]:
    with _own_store("buildah") as client:
        yield client


@contextlib.contextmanager
def _own_store(name: str, *options: str) -> Iterator[Client]:
    # Not below pytest's folder: podman wants its runroot in 50 characters.
    home = Path(tempfile.mkdtemp(prefix="nf-", dir="/var/tmp"))
    client = Client(name, home, *options, "--storage-driver", "vfs", "--root", home / "store", "--runroot", home / "runroot")
    try:
        yield client
    finally:
        client.run("rm", "--all")
        client.run("rmi", "--all", "--force")
        if os.geteuid():
            client.run("unshare", "rm", "-rf", home / "store", home / "runroot")  # files of the user's other ids
        shutil.rmtree(home)


# ---------------------------------------------------------------------------------------------------------- the Docker engine


@dataclass(frozen=True)
class Engine:
    """A dockerd of our own; `containerd` is the socket of the containerd that it runs."""

    docker: Client
    containerd: Path

    def docker_of_own(self, home: Path) -> Client:
        """Another client of the same engine, with its own logins."""
        return Client("docker", home, env={name: self.docker.env[name] for name in ("DOCKER_HOST", "DOCKER_BUILDKIT", "DOCKER_CLI_EXPERIMENTAL")})


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    as_root("dockerd")
    # Not below pytest's folder: a socket path has 108 characters at most.
    folder = Path(tempfile.mkdtemp(prefix="noraflask-docker-", dir="/var/tmp"))
    log = folder / "dockerd.log"
    pidfile, socket = folder / "d.pid", folder / "d.sock"
    (folder / "daemon.json").write_text("{}")
    command = as_root(
        *("env", *(f"{key}={value}" for key, value in clean_environment(folder / "home").items())),
        *(tool("dockerd"), "--config-file", folder / "daemon.json", "--group", str(os.getgid())),
        *("--iptables=false", "--ip6tables=false", "--bridge=none", f"--storage-driver={storage_driver(folder)}"),
        *("--data-root", folder / "data", "--exec-root", folder / "exec", "--pidfile", pidfile, "-H", f"unix://{socket}"),
    )
    docker = Client(
        "docker", folder / "client", env={"DOCKER_HOST": f"unix://{socket}", "DOCKER_BUILDKIT": "0", "DOCKER_CLI_EXPERIMENTAL": "enabled"}
    )
    with log.open("wb") as output:
        daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: daemon.poll() is not None or docker.run("version").returncode == 0, 60, "dockerd to answer")
        if daemon.poll() is not None:
            missing("dockerd does not run here: " + log.read_text(errors="replace")[-1000:])
        yield Engine(docker, folder / "exec" / "containerd" / "containerd.sock")
    finally:
        if daemon.poll() is None:
            subprocess.run(as_root("sh", "-c", f"kill -TERM {pidfile.read_text().strip()}"), check=True)
            daemon.wait(60)
        for mounted in (folder / "exec" / "netns" / "default", folder / "data"):
            subprocess.run(as_root("umount", mounted), capture_output=True, check=False)
        subprocess.run(as_root("rm", "-rf", "--one-file-system", folder), check=True)


def storage_driver(folder: Path) -> str:
    """overlay2, unless the folder is itself on such a file system; vfs works everywhere, and copies the whole system for each layer."""
    parts = [folder / name for name in ("lower", "upper", "work", "merged")]
    for part in parts:
        part.mkdir()
    options = "lowerdir={},upperdir={},workdir={}".format(*parts)
    if subprocess.run(as_root("mount", "-t", "overlay", "-o", options, "overlay", parts[-1]), capture_output=True, check=False).returncode:
        return "vfs"
    subprocess.run(as_root("umount", parts[-1]), check=True)
    return "overlay2"


@functools.cache
def image_of(engine: Engine) -> str:
    """The registry's own image, made by our Dockerfile on a base of this machine; `<name>-base` is that base."""
    name = "noraflask-test"
    base = base_image(engine.docker, f"{name}-base")
    engine.docker("build", "--network", "host", "--build-arg", f"BASE={base}", "--tag", name, ROOT, seconds=600)
    return name


@pytest.fixture
def docker(engine: Engine) -> Client:
    return engine.docker


@pytest.fixture
def ctr(engine: Engine, tmp_path: Path) -> Client:
    return Client("ctr", tmp_path / "ctr", "--address", engine.containerd, "--namespace", "noraflask", root=True)


# ---------------------------------------------------------------------------------------------------------- with logins


@pytest.fixture(scope="session")
def issuer() -> Iterator[Issuer]:
    with Issuer() as running:
        yield running


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer) -> Iterator[Guarded]:
    """One server for all that wants a login. Each test has a repository name of its own."""
    yield from _guarded(tmp_path_factory, issuer)


@pytest.fixture(scope="session")
def half_open(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer) -> Iterator[Guarded]:
    """As `guarded`, and images may be pulled without a login."""
    yield from _guarded(tmp_path_factory, issuer, anon_pull=True)


def _guarded(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer, **options: Any) -> Iterator[Guarded]:
    if os.environ.get("NORAFLASK_TEST_REGISTRY"):
        pytest.skip("needs our own server, and NORAFLASK_TEST_REGISTRY names another")
    with guarded_server(tmp_path_factory.mktemp("guarded") / "server", issuer, **options) as server:
        yield Guarded(server, issuer)
        finish(server)


@pytest.fixture(scope="session")
def goods(tmp_path_factory: pytest.TempPathFactory) -> Goods:
    return make_goods(tmp_path_factory.mktemp("goods"))


@pytest.fixture
def seat(request: pytest.FixtureRequest, goods: Goods, tmp_path: Path) -> Callable[[str, str], Seat]:
    """seat("docker", "127.0.0.1:4000") → that program, without any credentials as yet."""

    def take(program: str, host: str) -> Seat:
        if program == "docker":
            client: Client = request.getfixturevalue("engine").docker_of_own(tmp_path / "docker")
        elif program == "regctl":
            client = Client(program, tmp_path / "regctl", "--host", f"reg={host},tls=disabled")
        else:
            client = request.getfixturevalue(program)
        return Seat(client, host, goods)

    return take


# ---------------------------------------------------------------------------------------------------------- nginx


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Callable[..., int]]:
    """nginx(server_block) starts one; PORT in the text becomes a free port, which is returned. Of root's, `user` is whom its workers run as."""
    running: list[subprocess.Popen[bytes]] = []
    binary = tool("nginx")

    def start(server_block: str, user: str = "root") -> int:
        folder = tmp_path / f"nginx{len(running)}"
        (folder / "temp").mkdir(parents=True)
        port = free_port()
        temp = "".join(f"{kind}_temp_path {folder}/temp/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        as_user = f"user {user};\n" if os.geteuid() == 0 else ""
        (folder / "nginx.conf").write_text(
            f"{as_user}daemon off;\nworker_processes 1;\npid {folder}/nginx.pid;\nerror_log stderr;\n"
            f"events {{}}\nhttp {{\naccess_log off;\n{temp}{server_block.replace('PORT', str(port))}\n}}\n"
        )
        log = folder / "error.log"
        with log.open("wb") as output:
            process = subprocess.Popen([binary, "-c", folder / "nginx.conf", "-p", folder], stdout=output, stderr=output)
        running.append(process)
        wait_until(lambda: process.poll() is not None or listens(port), 10, "nginx to listen")
        assert process.poll() is None, log.read_text()
        return port

    yield start
    for process in running:
        process.terminate()
        process.wait(20)


# ---------------------------------------------------------------------------------------------------------- by the guide


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with machine_with_ca() as made:
        yield made


@pytest.fixture(scope="module")
def machine_registry(machine: Machine) -> Iterator[Server]:
    with registry_on(machine) as started:
        yield started


@pytest.fixture(scope="module")
def machine_docker(machine: Machine) -> Iterator[Client]:
    with engine_on(machine) as client:
        yield client
