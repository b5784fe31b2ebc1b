"""A Debian system with Python, made here where no hub can be reached: what `docker pull` of the Dockerfile's base would have given, more or less.

It is kept in ~/.cache/noraflask. How packages are had on this machine (mirror, index, authorities) goes into a layer above it, each time anew.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.client.tools import CACHE, Client, as_root, missing, tool

SUITE = "bookworm"
PACKAGES = "ca-certificates,python3,python3-venv"
UNWANTED = ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "dev")
LOCAL = ("find-links", "cert", "client-cert", "log", "cache-dir")
"""Of pip's configuration: files of this machine, which a container does not have."""
AUTHORITIES = "etc/ssl/certs/ca-certificates.crt"


def base_image(docker: Client, name: str) -> str:
    """Makes the image known as `name`; returns that."""
    plain = f"{name}-plain"
    docker("import", str(tree()), plain)
    with tempfile.TemporaryDirectory(prefix="noraflask-base-", dir="/var/tmp") as folder:
        context = Path(folder)
        for path, text in ways_out().items():
            file = context / "add" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(text)
        (context / "Dockerfile").write_text(f"FROM {plain}\nCOPY add /\n")
        docker("build", "--tag", name, context)
    return name


def tree() -> Path:
    """The system as a tar."""
    made = CACHE.parent / f"debian-{SUITE}-python.tar"
    made.parent.mkdir(parents=True, exist_ok=True)
    with (made.parent / "debian.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            _bootstrap(made)
    return made


def _bootstrap(made: Path) -> None:
    command = as_root(tool("debootstrap"), "--variant=minbase", f"--include={PACKAGES}", SUITE)
    with tempfile.TemporaryDirectory(prefix="noraflask-debian-", dir="/var/tmp") as folder:
        root, packed = Path(folder) / "root", Path(folder) / "packed.tar"
        done = subprocess.run([*command, str(root), mirror()], capture_output=True, text=True, check=False)
        if done.returncode:
            subprocess.run(as_root("rm", "-rf", "--one-file-system", root), check=True)
            missing(f"debootstrap makes no Debian system here: {done.stdout[-500:]}{done.stderr[-500:]}")
        left_out = [f"--exclude=./{path}/*" for path in UNWANTED]
        subprocess.run(as_root("tar", "-C", root, "--numeric-owner", *left_out, "-cf", packed, "."), check=True)
        subprocess.run(as_root("rm", "-rf", "--one-file-system", root), check=True)
        partial = made.with_suffix(".partial")
        shutil.copyfile(packed, partial)
        partial.rename(made)


def mirror() -> str:
    """Where this machine gets Debian's packages."""
    found = subprocess.run(["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)"], capture_output=True, text=True, check=False).stdout
    uris = [uri for uri, _, release in (line.partition(" ") for line in found.splitlines()) if release == SUITE]
    if not uris:
        missing(f"apt-get knows no mirror of Debian {SUITE} here")
    return uris[0]


def ways_out() -> dict[str, bytes]:
    """What a package manager in the container needs to know of this machine: files by path."""
    apt = subprocess.run(["apt-config", "dump", "Acquire"], capture_output=True, text=True, check=False).stdout
    files = {"etc/pip.conf": "\n".join(["[global]", *_pip_settings(), ""]).encode(), "etc/apt/apt.conf.d/99-this-machine": _plain(apt).encode()}
    authorities = os.environ.get("PIP_CERT") or ssl.get_default_verify_paths().cafile
    if authorities and Path(authorities).is_file():
        files[AUTHORITIES] = Path(authorities).read_bytes()
    return files


def _pip_settings() -> Iterator[str]:
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True).stdout
    for section, key, value in re.findall(r"^(global|install|:env:)\.([\w-]+)='(.*)'$", listed, re.MULTILINE):
        if key not in LOCAL and section != "install":
            yield f"{key} = {value}"
    yield f"cert = /{AUTHORITIES}"


def _plain(settings: str) -> str:
    """Of apt's settings those about the way, without those that name files of this machine."""
    wanted = re.compile(r"Acquire::(https?|Check-Valid-Until|Check-Date|Retries)\b")
    return "".join(f"{line}\n" for line in settings.splitlines() if wanted.match(line) and '"/' not in line)
