"""A server with logins and four workers for the fault tests, connections that reach each of its workers, and other processes' hands on its data."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from noraflask.assembly import make_signer, make_tokens
from noraflask.config import AuthConfig, Config, StorageConfig
from noraflask.services.auth.signing import Signer
from noraflask.services.auth.tokens import Tokens
from noraflask.services.auth.users import hash_password, remove_user, set_user
from noraflask.storage.disk import DiskStorage
from tests.server import ROOT, Server, wait_until

from .oci import Answer, Client

WORKERS = 4
COST = 4
"""The cheapest that bcrypt has."""
SOON = 1.0
"""Seconds within which a change counts in every worker."""
LOADED = 30.0
"""Seconds that a loaded machine may take for what is told by a signal."""

AUTH = """
[auth]
enabled = true
htpasswd_file = "{folder}/users.htpasswd"
groups_file = "{folder}/groups"
admin_users = ["root"]
"""
RULES = """
[access]
default_role = "none"
[[access.rules]]
groups = ["dev"]
names = ["app/**"]
actions = ["write"]
[[access.rules]]
users = ["root"]
actions = ["admin"]
"""

COUNT_BCRYPT = """
import os, bcrypt
check = bcrypt.checkpw
def counted(password, hashed):
    file = os.open(os.environ["COUNT_BCRYPT"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, b"%d %d\\n" % (os.getpid(), int(hashed[4:6])))
    os.close(file)
    return check(password, hashed)
bcrypt.checkpw = counted
"""


class Guarded(Server):
    """`nora serve` with logins; users.htpasswd, groups and config.toml lie in its folder. Each start writes the configuration it was made with."""

    def __init__(self, folder: Path, rules: str = RULES, env: Mapping[str, str | None] | None = None, workers: int = WORKERS, **options: Any) -> None:
        self._workers = workers
        folder.mkdir(parents=True, exist_ok=True)
        self.users, self.groups, self.bcrypts = folder / "users.htpasswd", folder / "groups", folder / "bcrypts"
        (folder / "site").mkdir(exist_ok=True)
        (folder / "site" / "sitecustomize.py").write_text(COUNT_BCRYPT)
        counting = {"COUNT_BCRYPT": str(self.bcrypts), "PYTHONPATH": f"{folder / 'site'}:{Path(__file__).parents[2]}"}
        super().__init__(folder, {"NORA_WORKERS": str(workers), **counting, **(env or {})}, AUTH.format(folder=folder) + rules, **options)
        self.config = folder / "config.toml"
        for name in ("root", "dora"):
            self.set_user(name, f"{name}'s password")
        self.groups.write_text("dev: dora\n")

    def all_up(self) -> Self:
        wait_until(lambda: len(self.worker_pids()) == self._workers, LOADED, "all workers to run")
        return self

    # What operators change.

    def set_user(self, name: str, password: str, cost: int = COST) -> None:
        set_user(self.users, name, hash_password(password, cost))

    def remove_user(self, name: str) -> None:
        remove_user(self.users, name)

    def write_config(self, rules: str) -> None:
        """All or nothing, as a careful operator's tool does."""
        new = self.config.with_suffix(".new")
        new.write_text(AUTH.format(folder=self.folder) + rules)
        os.replace(new, self.config)

    def hup(self) -> None:
        os.kill(self.pid, signal.SIGHUP)

    # Another process on the same storage.

    def tokens(self) -> Tokens:
        return make_tokens(self._as_configured(), DiskStorage(self.storage))

    def signer(self) -> Signer:
        return make_signer(self._as_configured(), DiskStorage(self.storage))

    def _as_configured(self) -> Config:
        return Config(storage=StorageConfig(path=self.storage), auth=AuthConfig(enabled=True))

    # What it says.

    def bcrypts_by_worker(self) -> dict[str, list[int]]:
        """The cost of each password that was checked, by process; without the master, which tries bcrypt once at its start."""
        found: dict[str, list[int]] = {}
        for line in self.bcrypts.read_text().splitlines() if self.bcrypts.exists() else ():
            pid, cost = line.split()
            if int(pid) != self.pid:
                found.setdefault(pid, []).append(int(cost))
        return found

    def failed_logins(self) -> dict[str, int]:
        """Asked with a token, whose login fails for nobody."""
        token, _ = self.tokens().mint("counter", "admin", 600, service=True)
        with Client(self.port) as client:
            answer = client.ask("GET", "/api/v1/admin/logins", headers=bearer(token))
        assert answer.status == 200, answer
        counters: dict[str, int] = answer.json()["failed_logins"]
        return counters

    def own_faults(self) -> list[str]:
        """Tracebacks in the log, with what follows."""
        text = self.log_text()
        return [text[at : at + 3000] for at in [text.find("Traceback (most recent call last)")] if at >= 0]


CURATION = """
[curation]
mode = "{mode}"
rules_path = "{folder}/rules.toml"
blocklist_path = "{folder}/blocklist.json"
"""
NO_BLOCKLIST = '{"version": 1, "rules": []}'


class Curated(Server):
    """`nora serve` without logins, with rule files in its folder; or, `gunicorn=True`, as operators start it who start gunicorn themselves."""

    def __init__(self, folder: Path, rules: str = "", mode: str = "enforce", gunicorn: bool = False, workers: int = WORKERS, **more: str) -> None:
        """`more`: variables."""
        self._gunicorn, self._workers = gunicorn, workers
        folder.mkdir(parents=True, exist_ok=True)
        env = {"NORA_WORKERS": str(workers), "NORA_ACCESS_LOG": "false", **more}
        super().__init__(folder, env, CURATION.format(folder=folder, mode=mode))
        self.config, self.rules, self.blocklist = folder / "config.toml", folder / "rules.toml", folder / "blocklist.json"
        self.write(self.rules, rules)
        self.write(self.blocklist, NO_BLOCKLIST)

    def launch(self) -> subprocess.Popen[bytes]:
        if not self._gunicorn:
            return super().launch()
        for folder in (self.folder, self.storage, self.staging):
            folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "gunicorn", "-c", "etc/gunicorn.conf.py", "wsgi:app"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, cwd=ROOT, env=self.environment(), stdout=log, stderr=log, start_new_session=True)
        return self._process

    def all_up(self) -> Self:
        wait_until(lambda: len(self.worker_pids()) == self._workers, LOADED, "all workers to run")
        return self

    def write(self, path: Path, text: str) -> None:
        """All or nothing, as a careful operator's tool does."""
        new = path.with_suffix(".new")
        new.write_text(text)
        os.replace(new, path)

    def hup(self, everybody: bool = False) -> None:
        """To the master, or to all processes at once, as `systemctl kill` and some supervisors do."""
        for pid in self.pids() if everybody else [self.pid]:
            with contextlib.suppress(ProcessLookupError):  # a worker that was killed meanwhile
                os.kill(pid, signal.SIGHUP)

    def refusals(self) -> list[str]:
        return [line for line in self.log_text().splitlines() if "policy reload failed" in line]

    def large_files(self) -> dict[int, list[str]]:
        """The compiled policies that each process keeps open, by process id."""
        return {pid: [link for link in links_of(pid) if "nora-policy" in link] for pid in self.pids()}


def links_of(pid: int) -> list[str]:
    found = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(path))
    return found


class Crowd:
    """A kept-alive connection to each worker. The first 16 hex digits of a request id are one for each process."""

    def __init__(self, server: Server, count: int = WORKERS) -> None:
        self.clients: dict[str, Client] = {}
        with contextlib.ExitStack() as spare:
            deadline = time.monotonic() + LOADED
            while len(self.clients) < count:
                assert time.monotonic() < deadline, f"only {len(self.clients)} workers accept connections"
                client = Client(server.port)
                worker = worker_of(client.ask("GET", "/health"))
                if self.clients.setdefault(worker, client) is not client:
                    spare.enter_context(client)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self.clients.values():
            client.__exit__()

    def ask(self, headers: Mapping[str, str], path: str = "/v2/", method: str = "GET", body: bytes | None = None) -> list[Answer]:
        """The answer of each worker."""
        answers = {worker: client.ask(method, path, body, headers) for worker, client in self.clients.items()}
        assert [worker_of(answer) for answer in answers.values()] == list(answers), "a connection was lost, and another worker has answered"
        return list(answers.values())

    def statuses(self, headers: Mapping[str, str], path: str = "/v2/") -> set[int]:
        """Of all workers; one element when they agree."""
        return {answer.status for answer in self.ask(headers, path)}

    def policies(self) -> set[str]:
        return {answer.json()["policy"] for answer in self.ask({}, "/api/v1/whoami")}

    def curations(self, path: str) -> set[str]:
        """Fingerprints of the policies that the workers' answers about a gated thing rest on."""
        return {answer.headers["X-Nora-Policy"] for answer in self.ask({}, path)}


def worker_of(answer: Answer) -> str:
    return answer.headers["X-Request-Id"][:16]


def pass_soon() -> None:
    """Let the time pass within which a change must have come through; more of it does no harm."""
    time.sleep(SOON)


def basic(name: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


def password_of(name: str) -> dict[str, str]:
    """The password that a Guarded server begins with."""
    return basic(name, f"{name}'s password")


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def post(client: Client, path: str, members: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Answer:
    return client.ask("POST", path, json.dumps(members).encode(), {"Content-Type": "application/json", **(headers or {})})


def mint(server: Server, headers: Mapping[str, str], **members: Any) -> tuple[str, str]:
    """An API token and its id."""
    with Client(server.port) as client:
        answer = post(client, "/api/tokens", members, headers)
    assert answer.status == 200, answer
    return answer.json()["token"], answer.json()["hash_prefix"]


def docker_token(server: Server, headers: Mapping[str, str], scope: str = "") -> dict[str, Any]:
    """The members of /v2/token's answer, a refresh token included."""
    with Client(server.port) as client:
        answer = client.ask("GET", f"/v2/token?offline_token=true&scope={scope}", headers=headers)
    assert answer.status == 200, answer
    found: dict[str, Any] = answer.json()
    return found
