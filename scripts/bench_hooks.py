"""For scripts/bench edge: the hooks of a request, how to switch each, and what each costs the application in process."""

from __future__ import annotations

import base64
import cProfile
import json
import os
import pstats
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, NoReturn

from bench_client import MANIFEST_TYPE, PATH, Client, digest_of, manifest_of
from bench_common import ROOT

sys.path.insert(0, str(ROOT))

from noraflask.config.settings import BY_ENV, NOT_YET

NAME, PASSWORD = "bench", "a password of the bench"
NO_BOUND = "1000000"
BATCHES = 10
SHOWN = 8  # functions of each hook
_NOT_YET = {name for setting in NOT_YET for name in setting.env}
KNOWN = set(BY_ENV) - _NOT_YET


@dataclass(frozen=True)
class Hook:
    """Something that each request pays for, and the variables that switch it."""

    name: str
    wanted_on: Mapping[str, str]
    wanted_off: Mapping[str, str]

    @property
    def on(self) -> dict[str, str]:
        return {name: value for name, value in self.wanted_on.items() if name in KNOWN}

    @property
    def off(self) -> dict[str, str]:
        return {name: value for name, value in self.wanted_off.items() if name in KNOWN}

    @property
    def unknown(self) -> list[str]:
        return sorted((set(self.wanted_on) | set(self.wanted_off)) - KNOWN)


LIMITS = {f"NORA_RATE_LIMIT_{tier}_{kind}": NO_BOUND for tier in ("UPLOAD", "GENERAL") for kind in ("RPS", "BURST")}
HOOKS = (
    Hook("log line", {"NORA_ACCESS_LOG": "true"}, {"NORA_ACCESS_LOG": "false"}),
    Hook("metrics", {"NORA_METRICS_ENABLED": "true"}, {"NORA_METRICS_ENABLED": "false"}),
    Hook("limiter", {"NORA_RATE_LIMIT_ENABLED": "true", **LIMITS}, {"NORA_RATE_LIMIT_ENABLED": "false"}),
    Hook("login by token", {"NORA_AUTH_ENABLED": "true"}, {"NORA_AUTH_ENABLED": "false"}),
)
"""In the limiter's buckets there is always one request left: what it costs to let one pass is measured, not what it refuses."""
ALL_ON = {name: value for hook in HOOKS for name, value in hook.on.items()}
ALL_OFF = {name: value for hook in HOOKS for name, value in hook.off.items()}


def password() -> str:
    return "Basic " + base64.b64encode(f"{NAME}:{PASSWORD}".encode()).decode()


def login_settings(folder: Path, settings: Mapping[str, str]) -> dict[str, str]:
    """The users' file of a server with logins; none for one without."""
    if settings.get("NORA_AUTH_ENABLED") != "true":
        return {}
    from noraflask.services.auth.users import hash_password, set_user

    set_user(folder / "users", NAME, hash_password(PASSWORD, 10))
    return {"NORA_AUTH_HTPASSWD_FILE": str(folder / "users")}


def api_token(port: int) -> str:
    """The Authorization header of one that the user of login_settings() has made, and that may push."""
    with Client(port, password()) as client:
        answer = client.ask("POST", "/api/tokens", b'{"role": "write"}', "Content-Type: application/json\r\n", 200)
    return f"Bearer {json.loads(answer.body)['token']}"


# ------------------------------------------------------------------------------------------------------------------ in process


@dataclass(frozen=True)
class Variant:
    """The application in a process of its own, since settings and counters are a process's."""

    name: str
    ask: Callable[[str], Any]


def profile(rounds: int, calls: int) -> str:
    """Tables in Markdown: processor time of one GET of a small manifest by its tag, for each hook alone and for all; then where it goes."""
    settings = {"all off": ALL_OFF}
    settings |= {hook.name: ALL_OFF | hook.on for hook in HOOKS if hook.on}
    settings["all on"] = ALL_ON
    found: dict[str, list[float]] = {name: [] for name in settings}
    with tempfile.TemporaryDirectory(prefix="nora-bench-", dir="/dev/shm") as work:
        variants = [start(name, Path(work), own, calls) for name, own in settings.items()]
        for number in range(rounds):
            turn = number % len(variants)
            for each in variants[turn:] + variants[:turn]:  # nobody is always the first
                found[each.name].append(each.ask("time"))
        where = {each.name: each.ask("profile") for each in variants}
        for each in variants:
            each.ask("end")
    base = min(found["all off"])
    lines = ["| | µs of a request, least of all rounds | more than all off | |", "|---|---:|---:|---:|"]
    for name, figures in found.items():
        took = min(figures)  # what else runs can only make it more
        span = f"{took:.1f} (to {max(figures):.1f})"
        lines.append(f"| {name} | {span} | {took - base:+.1f} | {(took / base - 1) * 100:+.0f} % |")
    lines.append("\nWhere it goes: µs of a request in a function itself, more than with all off, by cProfile, which makes short functions dearer.")
    for name in list(settings)[1:-1]:
        lines.append(f"\n{name}:\n```\n{dearer(where['all off'], where[name])}\n```")
    return "\n".join(lines)


def start(name: str, work: Path, settings: Mapping[str, str], calls: int) -> Variant:
    mine, its = Pipe()
    pid = os.fork()
    if pid == 0:
        serve(its, Path(tempfile.mkdtemp(dir=work)), settings, calls)
    its.close()

    def ask(word: str) -> Any:
        mine.send(word)
        if word == "end":
            os.waitpid(pid, 0)
            return None
        answer = mine.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer

    return Variant(name, ask)


def serve(pipe: Connection, folder: Path, settings: Mapping[str, str], calls: int) -> NoReturn:
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # where the log lines go
        call = application(folder, settings)
        for _ in range(calls // 10):
            call()  # warms what remembers
        while (word := pipe.recv()) != "end":
            pipe.send(timed(call, calls) if word == "time" else profiled(call, calls))
        os._exit(0)
    except BaseException as problem:
        pipe.send(RuntimeError(f"{type(problem).__name__}: {problem}"))
        os._exit(1)


def application(folder: Path, settings: Mapping[str, str]) -> Callable[[], None]:
    """One request, as the server makes it; the answer is read to its end."""
    from werkzeug.test import Client as TestClient
    from werkzeug.test import create_environ

    from noraflask.app import create_app
    from noraflask.config import load

    paths = {"NORA_STORAGE_PATH": str(folder / "storage"), "NORA_STAGING_PATH": str(folder / "staging")}
    os.environ.update(paths | dict(settings) | login_settings(folder, settings))
    os.chdir(folder)
    app: Any = create_app(load())
    client = TestClient(app)
    head = {"Authorization": password()} if app.services.logins else {}
    parts = []
    for data in (b'{"architecture":"amd64","os":"linux"}', os.urandom(400)):
        parts.append((digest_of(data), len(data)))
        pushed = client.post("/v2/bench/app/blobs/uploads/", query_string={"digest": parts[-1][0]}, data=data, headers=head)
        assert pushed.status_code == 201, pushed.data
    pushed = client.put(PATH, data=manifest_of(parts[0], parts[1]), headers={"Content-Type": MANIFEST_TYPE, **head})
    assert pushed.status_code == 201, pushed.data
    if head:
        answer = client.post("/api/tokens", data="{}", headers={"Content-Type": "application/json", **head})
        head = {"Authorization": f"Bearer {json.loads(answer.data)['token']}"}
    environ = create_environ(PATH, headers={"Accept": MANIFEST_TYPE, "User-Agent": "bench", **head})
    environ["REMOTE_ADDR"] = "127.0.0.1"
    said: list[str] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        said[:] = [status]

    def call() -> None:
        body = app.wsgi_app(dict(environ), start_response)
        try:
            for _ in body:
                pass
        finally:
            getattr(body, "close", lambda: None)()
        assert said == ["200 OK"], said

    return call


def timed(call: Callable[[], None], calls: int) -> float:
    """Microseconds of this thread's processor time for one call, the least of some batches."""
    return min(batch(call, calls // BATCHES) for _ in range(BATCHES))


def batch(call: Callable[[], None], calls: int) -> float:
    begin = time.thread_time()
    for _ in range(calls):
        call()
    return (time.thread_time() - begin) / calls * 1e6


def profiled(call: Callable[[], None], calls: int) -> dict[str, float]:
    """Microseconds of one call by function, without what it calls in turn; under cProfile, which makes short functions dearer than they are."""
    profiler = cProfile.Profile(time.thread_time)
    profiler.enable()
    for _ in range(calls):
        call()
    profiler.disable()
    found: dict[tuple[str, int, str], tuple[int, int, float, float, Any]] = pstats.Stats(profiler).strip_dirs().stats  # type: ignore[attr-defined]
    return {f"{name} ({file}:{line})" if line else name: own / calls * 1e6 for (file, line, name), (_, _, own, _, _) in found.items()}


def dearer(than: Mapping[str, float], found: Mapping[str, float]) -> str:
    """The functions that a variant takes more time in."""
    more = sorted(((took - than.get(name, 0.0), name) for name, took in found.items()), reverse=True)
    return "\n".join(f"{took:6.1f}  {name}" for took, name in more[:SHOWN])
