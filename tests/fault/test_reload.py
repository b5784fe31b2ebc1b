"""SIGHUP: every worker takes over the same policy or none, requests do not notice, and no file on disk can make a running server worse."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.oidc import Issuer
from tests.server import ROOT, wait_until

from .guarded import AUTH, LOADED, RULES, WORKERS, Crowd, Guarded, basic, bearer, docker_token, mint, password_of
from .oci import Client

MANIFEST = "/v2/app/one/manifests/none"
"""404 for whoever may pull it: it is not there."""
DENIED = RULES + '[[access.rules]]\nusers = ["dora"]\nnames = ["app/**"]\neffect = "deny"\nactions = ["pull"]\n'
BROKEN = RULES + '[[access.rules]]\nusers = ["dora"]\nactions = ["fly"]\n'
BROKEN_PLACE = f"config.toml:{(AUTH + BROKEN).count(chr(10))}"
"""The last line."""
QUIET = {"NORA_ACCESS_LOG": "false"}


class UnderGunicorn(Guarded):
    """As operators start it who start gunicorn themselves."""

    def launch(self) -> subprocess.Popen[bytes]:
        for folder in (self.folder, self.storage, self.staging):
            folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "gunicorn", "-c", "etc/gunicorn.conf.py", "wsgi:app"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, cwd=ROOT, env=self.environment(), stdout=log, stderr=log, start_new_session=True)
        return self._process


@pytest.fixture
def server(folder: Path, request: pytest.FixtureRequest) -> Iterator[Guarded]:
    kind = getattr(request, "param", Guarded)
    with kind(folder / "server", env=QUIET) as server:
        yield server.all_up()
        assert server.own_faults() == []


either = pytest.mark.parametrize("server", [Guarded, UnderGunicorn], indirect=True, ids=["nora", "gunicorn"])


def reload(server: Guarded) -> None:
    """SIGHUP to the master, and its word that it has read the file."""
    before = reloads(server)
    server.hup()
    wait_until(lambda: reloads(server) > before, LOADED, "the master to read the file")


def reloads(server: Guarded) -> int:
    text = server.log_text()
    return text.count("policy reload failed") + text.count("SIGHUP: telling")


def refusals(server: Guarded) -> list[str]:
    return [line for line in server.log_text().splitlines() if "policy reload failed" in line]


def wait_for_one_other(crowd: Crowd, before: str) -> str:
    """Until all workers have the same policy, and not the one from before."""
    wait_until(lambda: len(found := crowd.policies()) == 1 and found != {before}, LOADED, "all workers to have the new policy")
    return crowd.policies().pop()


def wait_for_another_than(worker: int, server: Guarded) -> None:
    wait_until(lambda: worker not in server.worker_pids() and len(server.worker_pids()) == WORKERS, LOADED, "a worker in its place")


@either
def test_a_changed_rule_counts_in_every_worker(server: Guarded) -> None:
    token, _ = mint(server, password_of("dora"))
    issued = docker_token(server, password_of("dora"), "repository:app/one:pull")["token"]
    credentials = [password_of("dora"), bearer(token), bearer(issued)]
    workers = server.worker_pids()
    with Crowd(server) as crowd:
        (first,) = crowd.policies()
        assert [crowd.statuses(headers, MANIFEST) for headers in credentials] == [{404}] * 3
        server.write_config(DENIED)
        reload(server)
        wait_for_one_other(crowd, first)
        assert [crowd.statuses(headers, MANIFEST) for headers in credentials] == [{403}] * 3
        server.write_config(RULES)
        reload(server)
        wait_until(lambda: crowd.policies() == {first}, LOADED, "the old policy again")
        assert [crowd.statuses(headers, MANIFEST) for headers in credentials] == [{404}] * 3
    assert server.worker_pids() == workers


@either
def test_a_bad_file_is_told_with_its_line_and_changes_nothing(server: Guarded) -> None:
    workers = server.worker_pids()
    with Crowd(server) as crowd:
        policies = crowd.policies()
        server.write_config(BROKEN)
        reload(server)
        (line,) = refusals(server)
        event = json.loads(line)
        assert event["level"] == "warning"
        assert BROKEN_PLACE in event["message"]
        assert "keeping previous config" in event["message"]
        assert crowd.policies() == policies
        assert crowd.statuses(password_of("dora"), MANIFEST) == {404}
    assert server.worker_pids() == workers


@pytest.mark.parametrize("text", ["", "[access\n", "\0", "\ufeff[auth]\nenabled = true\n[auth]\n", None])
def test_a_file_that_is_empty_or_torn_or_gone_opens_nothing(text: str | None, server: Guarded) -> None:
    """Without a file the defaults would count, and those ask for no login."""
    with Crowd(server) as crowd:
        policies = crowd.policies()
        if text is None:
            server.config.unlink()
        else:
            server.config.write_text(text)
        reload(server)
        if text == "":  # a sound file, and what it leaves out takes a restart: auth.enabled
            wait_for_one_other(crowd, policies.pop())
        else:
            assert len(refusals(server)) == 1
            assert crowd.policies() == policies
            assert crowd.statuses(password_of("dora"), MANIFEST) == {404}
        assert crowd.statuses({}, MANIFEST) == {401}
        assert crowd.statuses(basic("dora", "guess"), MANIFEST) == {401}


def test_to_switch_logins_off_takes_a_restart(server: Guarded) -> None:
    with Crowd(server) as crowd:
        server.config.write_text(server.config.read_text().replace("enabled = true", "enabled = false"))
        reload(server)
        assert "auth.enabled differs now; it takes a restart" in server.log_text()
        wait_until(lambda: server.log_text().count('"reloaded"') == WORKERS, LOADED, "all workers to reload")
        assert crowd.statuses({}, MANIFEST) == {401}


@either
def test_a_new_worker_has_the_last_good_policy_whatever_the_file_says_by_then(server: Guarded) -> None:
    with Crowd(server) as crowd:
        (first,) = crowd.policies()
        server.write_config(DENIED)
        reload(server)
        good = wait_for_one_other(crowd, first)
    server.write_config(BROKEN)
    for pid in server.worker_pids()[:2]:
        os.kill(pid, signal.SIGKILL)
        wait_for_another_than(pid, server)
    with Crowd(server) as crowd:
        assert crowd.policies() == {good}
        assert crowd.statuses(password_of("dora"), MANIFEST) == {403}
        server.write_config(RULES)
        reload(server)
        wait_until(lambda: crowd.policies() == {first}, LOADED, "the new workers to take over the next one too")


@either
def test_a_hup_to_all_processes_at_once(server: Guarded) -> None:
    """A worker may be told before the master has read the file: then it is told again."""
    workers = server.worker_pids()
    with Crowd(server) as crowd:
        (seen,) = crowd.policies()
        for number in range(10):
            server.write_config(DENIED if number % 2 == 0 else RULES)
            for pid in server.pids():
                os.kill(pid, signal.SIGHUP)
            seen = wait_for_one_other(crowd, seen)
    assert server.worker_pids() == workers


def test_a_hup_while_workers_start(server: Guarded) -> None:
    with Crowd(server) as crowd:
        (first,) = crowd.policies()
    for number in range(3):
        victim = server.worker_pids()[number]
        os.kill(victim, signal.SIGKILL)
        server.write_config(DENIED if number % 2 == 0 else RULES)
        for pid in server.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGHUP)
        wait_for_another_than(victim, server)
        with Crowd(server) as crowd:
            first = wait_for_one_other(crowd, first)


@pytest.mark.slow
@pytest.mark.parametrize("reloads", [20, pytest.param(200, marks=pytest.mark.soak)])
def test_requests_do_not_notice_reloads(reloads: int, server: Guarded) -> None:
    """64 connections with good credentials of all kinds; every second file is bad. No request fails, no worker is replaced."""
    token, _ = mint(server, password_of("dora"))
    refreshable = docker_token(server, password_of("dora"), "repository:app/one:pull")
    kinds = [password_of("dora"), bearer(token), basic("x", token), bearer(refreshable["token"])]
    workers, stop = server.worker_pids(), threading.Event()

    def ask(number: int) -> Counter[int]:
        found: Counter[int] = Counter()
        with Client(server.port) as client:
            while not stop.is_set():
                found[client.ask("GET", MANIFEST, headers=kinds[number % len(kinds)]).status] += 1
        return found

    others = [RULES + f'[[access.rules]]\nusers = ["u{number}"]\nactions = ["pull"]\n' for number in range(reloads // 2)]
    with Crowd(server) as crowd, ThreadPoolExecutor(64) as pool:
        (seen,) = crowd.policies()
        running = [pool.submit(ask, number) for number in range(64)]
        try:
            for number, good in enumerate(others, 1):
                server.write_config(good)
                reload(server)
                seen = wait_for_one_other(crowd, seen)
                server.write_config(BROKEN)
                reload(server)
                assert len(refusals(server)) == number
                assert crowd.policies() == {seen}
        finally:
            stop.set()
        answers = sum((each.result() for each in running), Counter())
    assert set(answers) == {404}
    assert all(BROKEN_PLACE in line for line in refusals(server))
    assert server.worker_pids() == workers


def provider(issuer: Issuer, role: str = "write") -> str:
    return f"""
[auth.oidc]
enabled = true
[[auth.oidc.providers]]
name = "ci"
issuer = "{issuer.url}"
audience = ["registry"]
algorithms = ["ES256"]
role_rules = [{{pattern = "repo:team/*", role = "{role}"}}]
"""


def test_a_provider_that_is_taken_out_ends_its_identities_in_every_worker(server: Guarded) -> None:
    """Also those that hold a token which this registry gave them for the issuer's."""
    with Issuer() as issuer, Crowd(server) as crowd:
        issued = bearer(issuer.token(alg="ES256"))
        assert crowd.statuses(issued, MANIFEST) == {401}
        (seen,) = crowd.policies()
        server.write_config(RULES.replace("[access]", provider(issuer) + "[access]"))
        reload(server)
        wait_until(lambda: crowd.statuses(issued, MANIFEST) == {404}, LOADED, "all workers to take the provider's tokens")
        exchanged = bearer(crowd.ask(issued, "/api/v1/token/exchange", "POST", b"")[0].json()["token"])
        assert crowd.statuses(exchanged, MANIFEST) == {404}
        server.write_config(RULES)
        reload(server)
        wait_until(lambda: crowd.statuses(issued, MANIFEST) == {401}, LOADED, "all workers to refuse them")
        assert crowd.statuses(exchanged, MANIFEST) == {401}
        assert crowd.policies() == {seen}
