"""For scripts/bench edge: a registry, and nginx with TLS before it, by the nginx.conf that is shipped."""

from __future__ import annotations

import json
import os
import pwd
import re
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench_client import Failed
from bench_common import Running, free_port, started
from bench_peers import Registry, Server, running

HOST = "registry.example.com"
STORAGE = "/var/lib/nora/storage"
"""The name and the folder in etc/nginx/nginx.conf."""


def make_certificates(folder: Path) -> None:
    """ca.crt, and server.crt of it for HOST."""
    (folder / "names").write_text(f"subjectAltName=DNS:{HOST}\n")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for call in (
        ("req", "-x509", *key, "-days", "2", "-subj", "/CN=a CA of the bench", "-keyout", "ca.key", "-out", "ca.crt"),
        ("req", *key, "-subj", f"/CN={HOST}", "-keyout", "server.key", "-out", "server.csr"),
        *[("x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2")],
    ):
        end = ("-extfile", "names", "-out", "server.crt") if call[0] == "x509" else ()
        subprocess.run(["openssl", *call, *end], cwd=folder, check=True, capture_output=True)


def adapted(text: str, folder: Path, port: int, tls: Path, registry: Running) -> str:
    """The nginx.conf that is shipped, for this machine; and what it serves statically to be compared with."""
    places = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    static = f"location /static/ {{ alias {registry.storage}/blobs/; sendfile on; tcp_nopush on; output_buffers 2 512k; }}\n"
    for pattern, new in (
        (r"(?m)^user [^;]*;", f"user {pwd.getpwuid(0).pw_name};" if os.geteuid() == 0 else ""),
        (r"(?m)^pid [^;]*;", f"pid {folder}/nginx.pid;"),
        (r"/var/log/nginx", str(folder)),
        (r"(?m)^ *listen \[::\].*\n", ""),
        (r"listen 80;", f"listen 127.0.0.1:{free_port()};"),
        (r"listen 443 ", f"listen 127.0.0.1:{port} "),
        (r"/etc/nora/tls", str(tls)),
        (r"(?m)^( *ssl_certificate )", rf"{static}\1"),
        (r"server 127\.0\.0\.1:4000;", f"server 127.0.0.1:{registry.port};"),
        (re.escape(STORAGE), str(registry.storage)),
        (r"(?m)^http \{\n", f"http {{\n{places}"),
    ):
        text, found = re.subn(pattern, new, text)
        if not found:
            raise Failed(f"the nginx.conf has no {pattern}")
    return text


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass(frozen=True)
class Front:
    """A registry, and nginx before it."""

    registry: Registry
    nginx: Running
    trust: Path

    def cpu_seconds(self) -> float:
        return self.registry.up.cpu_seconds() + self.nginx.cpu_seconds()

    def url(self, path: str) -> str:
        return f"https://{HOST}:{self.nginx.port}{path}"

    def trusting(self) -> list[str]:
        """Options of curl."""
        return ["--cacert", str(self.trust), "--resolve", f"{HOST}:{self.nginx.port}:127.0.0.1"]

    def registry_login(self) -> list[str]:
        """Options of curl."""
        return ["-H", f"Authorization: {self.registry.login}"] if self.registry.login else []


@contextmanager
def front(server: Server, work: Path, conf: Path, tls: Path) -> Iterator[Front]:
    with running(server, work) as registry:

        def nginx_command(folder: Path, port: int) -> tuple[list[str], Mapping[str, str]]:
            (folder / "nginx.conf").write_text(adapted(conf.read_text(), folder, port, tls, registry.up))
            return ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-g", "daemon off;"], {}

        with started(f"{server.name}-nginx", work, nginx_command, listens) as nginx:
            yield Front(registry, nginx, tls / "ca.crt")


def curl(*arguments: str, want: int) -> tuple[float, int]:
    """Seconds of the transfer, and bytes that came."""
    said = subprocess.run(["curl", "-sS", "-w", "%{stderr}%{json}", *arguments], capture_output=True, text=True, check=True).stderr
    told = json.loads(said)
    if told["http_code"] != want:
        raise Failed(f"curl {arguments[-1]} gave {told['http_code']}, not {want}")
    return told["time_total"], told["size_download"]
