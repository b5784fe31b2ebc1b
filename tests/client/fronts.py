"""nginx, Caddy and Traefik as docs/deployment.md sets them up, each on a machine of its own.

A machine is a network namespace and a mount namespace: its ports 80 and 443 are free, its /etc can be changed, and both are gone with it.
So the files of etc/ are copied and changed by the commands of the guide itself, to the places and ports that the guide names.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from noraflask.services.auth.users import hash_password
from tests.client.guarded import password_of
from tests.client.tools import Client, clean_environment, missing, tool
from tests.server import ROOT, Server, wait_until

HOST = "registry.example.com"
"""The name that the samples and the guide use; on a machine it is ADDRESS."""
ADDRESS = "192.0.2.10"
CLIENT_ADDRESS = "192.0.2.20"
"""Where clients come from that want to be told apart from the proxy."""
CA = "/etc/nora/tls/ca.crt"
GUIDE = ROOT / "docs" / "deployment.md"
_CLONE_NEWNET = 0x40000000
_OVERLAID = ("/etc", "/usr/local", "/var/lib", "/var/log", "/srv")
_SET_UP = """
ip link set lo up
ip address add {address}/32 dev lo
ip address add {client}/32 dev lo
mount -t tmpfs tmpfs {folder}/layers
for place in {overlaid}; do
    mkdir -p {folder}/layers$place/upper {folder}/layers$place/work
    mount -t overlay overlay -o lowerdir=$place,upperdir={folder}/layers$place/upper,workdir={folder}/layers$place/work $place
done
mkdir -p /var/lib/nora
mount --bind {folder}/nora /var/lib/nora
rm -rf /etc/docker /etc/containers/certs.d
echo '{address} {host}' >>/etc/hosts
echo ready
exec sleep infinity
"""


# ---- the guide


def blocks(title: str) -> list[str]:
    """The commands below a heading of the guide, up to the next heading: those in fences marked `sh`."""
    parts = re.split(r"^#+ (.*)$", GUIDE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    section = dict(zip(parts[1::2], parts[2::2], strict=True))[title]
    return re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)


# ---- the machine


class Machine:
    """`with Machine(folder) as machine:` Needs root. What is started in it must be stopped before it ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._holder: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        if os.geteuid():
            missing("a network namespace, for ports 80 and 443 and an /etc of its own, needs root")
        for name in ("layers", "nora"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "nora").chmod(0o755)
        script = _SET_UP.format(folder=self.folder, address=ADDRESS, client=CLIENT_ADDRESS, host=HOST, overlaid=" ".join(_OVERLAID))
        self._holder = subprocess.Popen(
            [tool("unshare"), "--net", "--mount", "sh", "-euc", script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert self._holder.stdout
        if self._holder.stdout.readline() != b"ready\n":
            missing(f"no machine of its own for a test: {self._holder.communicate()[1].decode()}")
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._holder
        self._holder.terminate()
        self._holder.communicate(timeout=10)

    def command(self, *words: str | Path) -> list[str]:
        """What runs a program there; its working folder is /."""
        assert self._holder
        return [tool("nsenter"), f"--target={self._holder.pid}", "--net", "--mount", "--", *map(str, words)]

    def sh(self, script: str, folder: str | Path = ROOT) -> str:
        """Runs a script there, as root of the machine; the first command that fails ends it, and the test."""
        done = subprocess.run(
            self.command("env", f"--chdir={folder}", *_pairs(self.environment()), "sh", "-eu"),
            input=script.encode(),
            capture_output=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{script}\nended with {done.returncode}\n{done.stdout.decode()}\n{done.stderr.decode()}"
        return done.stdout.decode()

    def follow(self, title: str, folder: str | Path = ROOT, *changes: tuple[str, str]) -> str:
        """Does what the guide says below that heading. `changes`: what the reader puts in the place of what; each must be there."""
        script = "\n".join(blocks(title))
        assert script, f"nothing to do below {title!r}"
        for old, new in changes:
            assert old in script, (title, old)
            script = script.replace(old, new)
        return self.sh(script, folder)

    def environment(self) -> dict[str, str]:
        """No proxy to keep programs on this machine: this one has no way out."""
        known = clean_environment(self.folder / "home") | {"HTTP_PROXY": "", "HTTPS_PROXY": "", "NO_PROXY": "*"}
        return known | {"PATH": f"{Path(sys.executable).parent}:{known['PATH']}"}

    @contextlib.contextmanager
    def network(self) -> Iterator[None]:
        """This thread, and the processes that it starts, are in the machine's network meanwhile; all else stays where it is."""
        assert self._holder
        libc = ctypes.CDLL(None, use_errno=True)
        with open("/proc/thread-self/ns/net") as own, open(f"/proc/{self._holder.pid}/ns/net") as there:
            assert libc.setns(there.fileno(), _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
            try:
                yield
            finally:
                assert libc.setns(own.fileno(), _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())

    def listens(self, port: int, address: str = ADDRESS) -> bool:
        with self.network(), socket.socket() as probe:
            return probe.connect_ex((address, port)) == 0

    def client(self, name: str, home: Path, *options: str | Path) -> Client:
        """A program that runs there."""
        client = Client(name, home)
        client._command = self.command("env", f"--chdir={home}", *_pairs(client.env | self.environment() | {"HOME": str(home)}), tool(name), *options)
        return client


def _pairs(environment: dict[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in environment.items()]


@contextlib.contextmanager
def running(machine: Machine, log: Path, *words: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program of the machine, until the block ends."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            machine.command("env", *_pairs(machine.environment()), *words), stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


@contextlib.contextmanager
def machine_with_ca() -> Iterator[Machine]:
    """With a CA and a certificate by the guide, and a Docker engine's folder that knows it for both ports."""
    folder = Path(tempfile.mkdtemp(prefix="noraflask-machine-", dir="/var/tmp"))  # a real disk, where /tmp may be memory
    try:
        with Machine(folder) as machine:
            machine.follow("A CA of your own")
            for host in (HOST, f"{HOST}:8443"):
                machine.follow("Docker", "/etc/nora/tls", (HOST, host))
            yield machine
    finally:
        shutil.rmtree(folder)


# ---- the registry on it


@contextlib.contextmanager
def registry_on(machine: Machine, port: int = 4000, **env: str) -> Iterator[Server]:
    """The registry as the guide has it: on 127.0.0.1:4000, with logins, its data in /var/lib/nora."""
    htpasswd = machine.folder / "users.htpasswd"
    htpasswd.write_bytes(b"writer:%s\n" % hash_password(password_of("writer"), 4))
    env = {"NORA_AUTH_ENABLED": "true", "NORA_AUTH_HTPASSWD_FILE": str(htpasswd), "NORA_LOG_OPS_INTERVAL_SECS": "0"} | env
    storage, staging = machine.folder / "nora" / "storage", machine.folder / "staging"
    server = Server(machine.folder / f"server-{port}", env, port=port, storage=storage, staging=staging)
    server.state = machine.folder / "nora" / "state"
    server.storage.mkdir(mode=0o750, exist_ok=True)
    with machine.network():
        server.start()
    try:
        yield server
    finally:
        code, faults = server.stop() if server.running else 0, server.log_faults()
    assert not faults, "in the server's log:\n" + "\n".join(faults[:20])
    assert code == 0, server.log_text()[-2000:]


@contextlib.contextmanager
def engine_on(machine: Machine) -> Iterator[Client]:
    """A Docker engine that trusts whom /etc/docker/certs.d of the machine says; returns a client of it."""
    # Not below pytest's folder: a socket path has 108 characters at most.
    folder = Path(tempfile.mkdtemp(prefix="noraflask-front-", dir="/var/tmp"))
    log = folder / "dockerd.log"
    (folder / "daemon.json").write_text("{}")
    words = [tool("dockerd"), "--config-file", folder / "daemon.json", "--iptables=false", "--ip6tables=false", "--bridge=none"]
    words += ["--storage-driver=vfs", "--data-root", folder / "data", "--exec-root", folder / "exec", "--pidfile", folder / "d.pid"]
    docker = Client("docker", folder / "client", env={"DOCKER_HOST": f"unix://{folder}/d.sock", "DOCKER_BUILDKIT": "0"})
    try:
        with running(machine, log, *words, "-H", f"unix://{folder}/d.sock") as daemon:
            wait_until(lambda: daemon.poll() is not None or docker.run("version").returncode == 0, 60, "dockerd to answer")
            if daemon.poll() is not None:
                missing("dockerd does not run here: " + log.read_text(errors="replace")[-1000:])
            yield docker
            machine.sh(f"umount {folder}/exec/netns/default || true; umount {folder}/data || true")
    finally:
        shutil.rmtree(folder)


# ---- the proxies


@dataclass(frozen=True)
class Asked:
    status: int
    protocol: str
    headers: dict[str, str]
    """By small letters."""
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Front:
    """One of the three before the registry."""

    name: str
    machine: Machine
    server: Server
    port: int = 443
    sub_path: str = ""

    @property
    def host(self) -> str:
        """As clients write it."""
        return HOST if self.port == 443 else f"{HOST}:{self.port}"

    @property
    def url(self) -> str:
        return f"https://{self.host}"

    def ask(self, url: str, *options: str | Path) -> Asked:
        """By curl, which knows the CA. A path alone is one of this front."""
        url = self.url + url if url.startswith("/") else url
        with tempfile.TemporaryDirectory(prefix="nf-") as folder:
            head, body = Path(folder, "head"), Path(folder, "body")
            told = self.machine.sh(
                " ".join(
                    ["curl", "-sS", "--path-as-is", f"--cacert {CA} -D {head} -o {body} -w '%{{http_code}} %{{http_version}}'"]
                    + [_quoted(str(option)) for option in options]
                    + [_quoted(url)]
                )
            )
            status, protocol = told.split()
            lines = head.read_text().split("\n\n")[-2 if head.read_text().endswith("\n\n") else -1].splitlines()[1:]
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines) if name}
            return Asked(int(status), protocol, headers, body.read_bytes() if body.exists() else b"")

    def log_lines(self) -> list[dict[str, Any]]:
        """The proxy's access log."""
        return [json.loads(line) for line in self.machine.sh(f"cat {LOGS[self.name]} 2>/dev/null || true").splitlines()]

    def lines_of(self, request_id: str) -> list[dict[str, Any]]:
        """The registry's, of a request that has reached it; a line is written after the client has its answer."""
        wait_until(lambda: self.logged(request_id=request_id), 5, f"{request_id} in the registry's log")
        return self.logged(request_id=request_id)

    def logged(self, **wanted: object) -> list[dict[str, Any]]:
        """Lines of the registry's log in which all these members are so."""
        lines = [json.loads(line) for line in self.server.log_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["message"] == "request" and wanted.items() <= line.items()]


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


LOGS = {"nginx": "/var/log/nginx/access.log", "Caddy": "/var/log/caddy/access.log", "Traefik": "/var/log/traefik/access.log"}
WORDS = {
    "nginx": ("nginx", "-g", "daemon off;"),
    "Caddy": ("caddy", "run", "--config", "/etc/caddy/Caddyfile"),
    "Traefik": ("traefik",),
}


@contextlib.contextmanager
def front_on(
    machine: Machine,
    server: Server,
    name: str,
    port: int = 443,
    sub_path: str = "",
    variant: str = "",
    prepare: str = "",
) -> Iterator[Front]:
    """The proxy as the guide sets it up. `variant`: one of its sections about this proxy. `prepare`: a script before the start."""
    machine.sh("rm -rf /etc/nginx/nginx.conf /etc/caddy /etc/traefik /var/log/nginx/access.log /var/log/caddy /var/log/traefik")
    machine.follow(name)
    if variant or name == "Caddy":
        machine.follow(f"{name} {variant or 'with a certificate of your own'}")
    if port != 443:
        machine.follow(f"{name} on another port")
    if sub_path:
        machine.follow(f"{name} below a sub-path")
    machine.sh(prepare)
    log = machine.folder / f"{name}.log"
    with running(machine, log, *WORDS[name]) as process:
        wait_until(lambda: process.poll() is not None or (machine.listens(port) and machine.listens(80)), 20, f"{name} to listen")
        assert process.poll() is None, log.read_text()
        front = Front(name, machine, server, port, sub_path)
        wait_until(lambda: _is_well(front), 20, f"{name} to know its routes and its certificate")
        yield front


def _is_well(front: Front) -> bool:
    ask = ["curl", "-sS", "--fail", "--output", "/dev/null", "--insecure", f"{front.url}/health"]
    return subprocess.run(front.machine.command(*ask), capture_output=True, check=False).returncode == 0
