"""Programs that the tests drive: found or missed by name, each run with a home and credentials of its own."""

from __future__ import annotations

import functools
import http.client
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "noraflask" / "bin"  # where scripts/clients builds
CLOSED_PROXY = "http://127.0.0.1:1"  # nobody listens: a client that wants to leave this machine fails


def clients_required() -> bool:
    return os.environ.get("CI", "").lower() in ("1", "true") or bool(os.environ.get("NORAFLASK_REQUIRE_CLIENTS"))


def missing(what: str) -> NoReturn:
    """Skip by name; in CI an absent client is a failure, because there the suite must be whole."""
    if clients_required():
        pytest.fail(f"{what} (CI or NORAFLASK_REQUIRE_CLIENTS is set, so this is a failure)", pytrace=False)
    pytest.skip(what)


def tool(name: str) -> str:
    """Built by scripts/clients, or of PyPI beside this Python, or of the system."""
    places = f"{CACHE}:{Path(sys.executable).parent}:{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    path = shutil.which(name, path=places)
    if path is None:
        missing(f"{name} is not installed; ./scripts/clients and ./scripts/setup test get what the tests need")
    return str(path)


@functools.cache
def root_prefix() -> tuple[str, ...] | None:
    """What to put before a command that only root may run; None where nothing helps."""
    if os.geteuid() == 0:
        return ()
    if shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False).returncode == 0:
        return ("sudo", "-n")
    return None


def as_root(*command: str | Path, why: str | None = None) -> list[str]:
    prefix = root_prefix()
    if prefix is None:
        missing(f"{why or Path(command[0]).name} needs root or `sudo -n`")
    return [*prefix, *map(str, command)]


def clean_environment(home: Path) -> dict[str, str]:
    """An environment that knows none of the caller's logins and leads nowhere but to loopback."""
    home.mkdir(parents=True, exist_ok=True)
    runtime, temp = home / "run", home / "tmp"
    runtime.mkdir(mode=0o700, exist_ok=True)
    temp.mkdir(exist_ok=True)
    containers = home / ".config" / "containers"
    if not containers.exists():
        containers.mkdir(parents=True)
        (containers / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        (containers / "registries.conf").write_text("unqualified-search-registries = []\n")
    (home / "auth.json").write_text("{}")
    return {
        "PATH": f"{CACHE}:{os.environ.get('PATH', '')}:/usr/sbin:/sbin",
        "HOME": str(home),
        "LC_ALL": "C.UTF-8",
        "TMPDIR": str(temp),
        "XDG_CONFIG_HOME": str(home / ".config"),
        "XDG_CACHE_HOME": str(home / ".cache"),
        "XDG_DATA_HOME": str(home / ".local"),
        "XDG_RUNTIME_DIR": str(runtime),
        "DOCKER_CONFIG": str(home / "docker"),
        "REGISTRY_AUTH_FILE": str(home / "auth.json"),
        "HTTP_PROXY": CLOSED_PROXY,
        "HTTPS_PROXY": CLOSED_PROXY,
        "NO_PROXY": "127.0.0.1,localhost",
    }


class Client:
    """One program and the options that every call of it gets; `client("tag", "ls", ref)` returns its standard output."""

    def __init__(self, name: str, home: Path, *options: str | Path, root: bool = False, env: dict[str, str] | None = None) -> None:
        self.name = name
        path = tool(name)
        self.home = home
        self.env = clean_environment(home) | (env or {})
        # sudo starts with an environment of its own
        outside = ["env", *(f"{key}={value}" for key, value in self.env.items())] if root and root_prefix() else []
        command: list[str | Path] = [*outside, path, *options]
        self._command = as_root(*command) if root else list(map(str, command))

    def __call__(self, *arguments: str | Path, stdin: bytes | None = None, seconds: float = 300) -> str:
        done = self.run(*arguments, stdin=stdin, seconds=seconds)
        if done.returncode:
            shown = " ".join([self.name, *map(str, arguments)])
            raise AssertionError(f"`{shown}` ended with {done.returncode}\n{done.stdout.decode()}\n{done.stderr.decode()}")
        return done.stdout.decode()

    def refused(self, *arguments: str | Path, stdin: bytes | None = None, seconds: float = 300) -> str:
        """The message of a call that must fail."""
        done = self.run(*arguments, stdin=stdin, seconds=seconds)
        assert done.returncode, f"{self.name} {arguments} was to fail and did not: {done.stdout.decode()}"
        return done.stdout.decode() + done.stderr.decode()

    def run(self, *arguments: str | Path, stdin: bytes | None = None, seconds: float = 300) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [*self._command, *map(str, arguments)],
            input=stdin if stdin is not None else b"",
            capture_output=True,
            env=self.env,
            cwd=self.home,
            timeout=seconds,
            check=False,
        )


def listens(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.connect()
    except OSError:
        return False
    finally:
        connection.close()
    return True
