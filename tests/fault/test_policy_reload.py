"""Rule files that change under load: requests do not notice, each answer is one policy's, and no file makes a running server worse.

There are some policies, the variants. Variant 3 refuses the image app/n3 and hides the tag t3 of app/all, and no other. So an answer tells by which
variants it can have been given; X-Nora-Policy says by which one it was.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from noraflask.config import load
from noraflask.services.curation.loading import load_policy
from noraflask.services.curation.policy import Policy
from tests.server import wait_until

from .guarded import LOADED, NO_BLOCKLIST, SOON, WORKERS, Crowd, Curated, worker_of
from .oci import GONE, Answer, Client, noise

VARIANTS = 8
CLIENTS = 64
TAGS = "/v2/app/all/tags/list"
BAD_JSON = '{"version": 1, "rules": [{"registry": "docker", "name": "app/n1", "version": "*"}'
MANY = 100_000


def image(number: int) -> str:
    return f"/v2/app/n{number}/manifests/v1"


def variant(number: int) -> str:
    return f"""
[[block]]
format = "docker"
name = "app/n{number}"
reason = "variant {number}"
[[block]]
format = "docker"
name = "app/all"
version = "t{number}"
reason = "variant {number}"
[[expect]]
format = "docker"
name = "app/n{number}"
version = "v1"
result = "block"
"""


BAD: dict[str, Callable[[Curated], object]] = {
    "broken JSON": lambda server: server.write(server.blocklist, BAD_JSON),
    "torn": lambda server: server.write(server.rules, variant(1)[:100]),
    "unknown registry": lambda server: server.write(server.rules, variant(2) + '[[block]]\nformat = "floppy"\nname = "x"\n'),
    "failing test": lambda server: server.write(server.rules, variant(3).replace('"block"', '"allow"')),
    "no rules": lambda server: server.rules.unlink(),
    "no blocklist": lambda server: server.blocklist.unlink(),
    "binary": lambda server: server.write(server.rules, "\0\1"),
}
"""What an operator may do to the files; each of them must change nothing. Who writes a file in place shows an empty one meanwhile, which is a sound
one without rules; nobody can tell that it is not meant, so the documentation says to rename."""


def make_good(server: Curated, number: int) -> None:
    server.write(server.blocklist, NO_BLOCKLIST)
    server.write(server.rules, variant(number))


@pytest.fixture
def server(folder: Path, request: pytest.FixtureRequest) -> Iterator[Curated]:
    with Curated(folder / "server", variant(0), gunicorn=getattr(request, "param", "nora") == "gunicorn") as server:
        server.all_up()
        with Client(server.port) as client:
            for number in range(VARIANTS):
                client.push_image(f"app/n{number}", "v1", noise(100, number))
                client.push_image("app/all", f"t{number}", noise(100, f"all {number}"))
        yield server
        assert server.log_faults() == []


either = pytest.mark.parametrize("server", ["nora", "gunicorn"], indirect=True)


def learn(server: Curated, crowd: Crowd) -> dict[str, int]:
    """Variants by fingerprint. In the end the last one counts."""
    known: dict[str, int] = {}
    for number in range(VARIANTS):
        make_good(server, number)
        before = crowd.curations(TAGS)
        server.hup()
        if number:
            wait_for_another(crowd, before)
        (fingerprint,) = crowd.curations(TAGS)
        known[fingerprint] = number
    assert len(known) == VARIANTS
    return known


def wait_for_another(crowd: Crowd, before: set[str], seconds: float = LOADED) -> str:
    wait_until(lambda: len(found := crowd.curations(TAGS)) == 1 and found != before, seconds, "all workers to have the new policy")
    return crowd.curations(TAGS).pop()


def wait_for_refusals(server: Curated, count: int) -> None:
    wait_until(lambda: len(server.refusals()) >= count, LOADED, f"{count} refused reloads")


# Clients.


@dataclass
class Seen:
    """What all clients together had."""

    answers: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    lost: Counter[str] = field(default_factory=Counter)
    """Requests that got no answer, by the worker that their connection had; "": the connection was new."""
    slowest: float = 0.0

    def add(self, other: Seen) -> None:
        self.answers += other.answers
        self.wrong += other.wrong
        self.lost += other.lost
        self.slowest = max(self.slowest, other.slowest)


def judge(answer: Answer, asked: int | None, known: dict[str, int]) -> str:
    """Empty when one valid policy alone explains the answer. `asked`: the image's number; None: the tags."""
    rules = known.get(answer.headers.get("X-Nora-Policy", ""))
    if rules is None:
        return f"not one of the policies: {answer.status} {answer.headers.get('X-Nora-Policy')} {answer!r}"
    if asked is None:
        right = answer.status == 200 and sorted(answer.json()["tags"]) == [f"t{number}" for number in range(VARIANTS) if number != rules]
    elif asked == rules:
        right = answer.status == 403 and f"variant {rules}" in answer.body.decode()
    else:
        right = answer.status == 200
    return "" if right else f"by variant {rules}, asked for {asked}: {answer!r}"


def ask_on(server: Curated, known: dict[str, int], stop: threading.Event, seed: int) -> Seen:
    seen, dice = Seen(), random.Random(seed)
    worker = ""
    with Client(server.port) as client:
        while not stop.is_set():
            asked = dice.choice([None, *range(VARIANTS)])
            began = time.monotonic()
            try:
                answer = client.ask("GET", TAGS if asked is None else image(asked))
            except GONE:
                seen.lost[worker] += 1
                worker = ""
                continue
            seen.slowest = max(seen.slowest, time.monotonic() - began)
            worker = worker_of(answer)
            seen.answers[str(answer.status)] += 1
            if problem := judge(answer, asked, known):
                seen.wrong.append(problem)
    return seen


@contextlib.contextmanager
def clients(server: Curated, known: dict[str, int], count: int) -> Iterator[Seen]:
    """Running meanwhile; what they have seen is there afterwards."""
    seen, stop = Seen(), threading.Event()
    with ThreadPoolExecutor(count) as pool:
        running = [pool.submit(ask_on, server, known, stop, seed) for seed in range(count)]
        try:
            yield seen
        finally:
            stop.set()
        for each in running:
            seen.add(each.result())


# The test itself.


@dataclass
class Course:
    """Of a bombardment."""

    killed: set[int] = field(default_factory=set)
    hups: int = 0
    last_good: int = 0


def bombard(server: Curated, hups: int, seconds: float, everybody: bool, kills: int) -> Course:
    """Good and bad files by turns, a SIGHUP for each, evenly over the time; now and then a worker dies. Ends with a bad file after a good one."""
    dice, course, began = random.Random("course"), Course(), time.monotonic()
    bad = list(BAD.values())
    deaths = {hups * number // (kills + 1) for number in range(1, kills + 1)}
    while course.hups < hups:
        if course.hups % 2 == 0:
            course.last_good = dice.randrange(VARIANTS)
            make_good(server, course.last_good)
        else:
            bad[course.hups // 2 % len(bad)](server)
        if course.hups in deaths:
            victim = dice.choice(server.worker_pids())
            os.kill(victim, signal.SIGKILL)
            course.killed.add(victim)
        server.hup(everybody)
        course.hups += 1
        time.sleep(max(0.0, began + seconds * course.hups / hups - time.monotonic()))
    make_good(server, course.last_good)  # the last ones may have been one SIGHUP to the master, which saw the bad file alone
    return course


def under_fire(server: Curated, hups: int, seconds: float, everybody: bool, kills: int, count: int = CLIENTS) -> None:
    before = set(server.worker_pids())
    with Crowd(server) as crowd:
        known = learn(server, crowd)
    with clients(server, known, count) as seen:
        course = bombard(server, hups, seconds, everybody, kills)
        wait_until(lambda: len(server.worker_pids()) == WORKERS, LOADED, "all workers to run")
        server.hup(everybody)
    wait_for_last(server, known, course.last_good)
    assert seen.wrong == []
    assert set(seen.answers) <= {"200", "403"}
    assert len(set(seen.lost) - {""}) <= len(course.killed), "connections were lost of workers that nobody had killed"
    assert seen.lost.total() <= count * len(course.killed)
    gone = before - set(server.worker_pids())
    assert gone <= course.killed, "a reload has replaced a worker"
    assert booted(server) == WORKERS + len(course.killed)
    lost = f"{seen.lost.total()} lost with {len(course.killed)} killed workers"
    print(f"{course.hups} SIGHUPs, {told(server)}; {dict(seen.answers)}, {lost}; slowest {seen.slowest:.2f} s")


def wait_for_last(server: Curated, known: dict[str, int], last_good: int) -> None:
    """All workers, within a second."""
    wanted = {fingerprint for fingerprint, number in known.items() if number == last_good}
    with Crowd(server) as crowd:
        wait_until(lambda: crowd.curations(TAGS) == wanted, SOON, "all workers to have the last good policy")


def booted(server: Curated) -> int:
    return server.log_text().count("Booting worker")


def told(server: Curated) -> dict[str, int]:
    text = server.log_text()
    return {"good": text.count("SIGHUP: telling"), "refused": text.count("policy reload failed")}


@pytest.mark.soak
@pytest.mark.parametrize("everybody", [False, True], ids=["master", "everybody"])
def test_a_thousand_reloads_under_fire(server: Curated, everybody: bool) -> None:
    under_fire(server, 1000, 60.0, everybody, kills=12)


@either
@pytest.mark.parametrize("everybody", [False, True], ids=["master", "everybody"])
def test_reloads_under_fire(server: Curated, everybody: bool) -> None:
    under_fire(server, 60, 4.0, everybody, kills=2, count=16)


# Files that are bad.


@either
@pytest.mark.parametrize("what", BAD)
def test_a_bad_file_changes_nothing_and_is_told(server: Curated, what: str) -> None:
    workers = server.worker_pids()
    with Crowd(server) as crowd:
        before = crowd.curations(TAGS)
        BAD[what](server)
        server.hup()
        wait_for_refusals(server, 1)
        (line,) = server.refusals()
        assert json.loads(line)["level"] == "warning"
        assert re.search(r"(blocklist\.json|rules\.toml)", line)
        assert crowd.curations(TAGS) == before
        make_good(server, 1)
        server.hup()
        wait_for_another(crowd, before)
    assert server.worker_pids() == workers


@either
def test_a_new_worker_has_the_last_good_policy_while_the_file_is_broken(server: Curated) -> None:
    with Crowd(server) as crowd:
        before = crowd.curations(TAGS)
        make_good(server, 5)
        server.hup()
        good = wait_for_another(crowd, before)
    BAD["torn"](server)
    server.hup()
    wait_for_refusals(server, 1)
    for victim in server.worker_pids():
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda victim=victim: victim not in server.worker_pids() and len(server.worker_pids()) == WORKERS, LOADED, "a worker in its place")
    with Crowd(server) as crowd:
        assert crowd.curations(TAGS) == {good}
        assert crowd.statuses({}, image(5)) == {403}
        assert crowd.statuses({}, image(0)) == {200}


@pytest.mark.parametrize("gunicorn", [False, True], ids=["nora", "gunicorn"])
@pytest.mark.parametrize("what", ["unknown registry", "failing test", "broken JSON", "no rules"])
def test_a_server_does_not_start_with_a_bad_file(folder: Path, gunicorn: bool, what: str) -> None:
    server = Curated(folder / "server", variant(0), gunicorn=gunicorn)
    BAD[what](server)
    process = server.launch()
    try:
        assert process.wait(LOADED) == 78
    finally:
        server.kill()
    text = server.log_text()
    place = {"unknown registry": "rules.toml:16", "failing test": "rules.toml:11", "broken JSON": "blocklist.json:1", "no rules": "rules.toml"}[what]
    assert place in text
    assert "Traceback" not in text


def test_what_nobody_expects_of_a_reload_does_not_end_the_server(server: Curated) -> None:
    """Here a folder in place of a file, and a ledger that cannot be read, which the flip guard wants to see."""
    workers = server.worker_pids()
    server.rules.unlink()
    server.rules.mkdir()
    server.hup()
    wait_for_refusals(server, 1)
    server.rules.rmdir()
    make_good(server, 1)
    with contextlib.closing(socket_in_the_way(server)):
        server.config.write_text(server.config.read_text() + "flip_guard_percent = 10\n")
        server.hup()
        wait_until(lambda: told(server)["good"] + told(server)["refused"] >= 2, LOADED, "the second reload")
    assert server.worker_pids() == workers
    with Client(server.port) as client:
        assert client.ask("GET", image(2)).status == 200


def socket_in_the_way(server: Curated) -> socket.socket:
    """A ledger file that nobody can open, not even root."""
    day = server.state / "ledger" / time.strftime("%Y-%m-%d", time.gmtime())
    day.mkdir(parents=True, exist_ok=True)
    made = socket.socket(socket.AF_UNIX)
    there = os.getcwd()
    os.chdir(day)  # the path may be longer than a socket's address
    try:
        made.bind("other.jsonl")
    finally:
        os.chdir(there)
    return made


# Many rules.


def many(count: int, own: int) -> str:
    rule = '[[block]]\nid = "MAL-{0}"\nformat = "npm"\nname = "evil-package-{0}"\nversion = "*"\nreason = "malicious"\n'
    return "".join(map(rule.format, range(count))) + variant(own)


def memory_kib(pid: int, what: str) -> int:
    found = re.search(rf"^{what}:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    assert found
    return int(found[1])


@pytest.mark.slow
def test_a_large_policy_is_shared_and_takes_no_request_down(server: Curated) -> None:
    with Crowd(server) as crowd:
        known = learn(server, crowd)
        before = {pid: memory_kib(pid, "Private_Dirty") for pid in server.worker_pids()}
        with clients(server, known, 4) as seen:
            for number in range(3):
                server.write(server.rules, many(MANY, number))
                seen_before = crowd.curations(TAGS)
                fingerprint, size = compiled(server)
                known[fingerprint] = number
                server.hup()
                wait_for_another(crowd, seen_before, 4 * LOADED)  # beside clients that leave the master little of two cores
        after = {pid: memory_kib(pid, "Private_Dirty") for pid in server.worker_pids()}
    assert seen.wrong == []
    assert not seen.lost
    assert set(after) == set(before)
    grown = {pid: after[pid] - before[pid] for pid in before}
    print(f"compiled: {size / 2**20:.1f} MiB; grown by {grown} KiB; waits {seen.slowest:.3f} s")
    assert max(grown.values()) * 1024 < size / 2, f"each worker has a copy: {grown} KiB, and the policy is {size} bytes"


def compiled(server: Curated) -> tuple[str, int]:
    """Fingerprint and size of what the files come to, worked out here."""
    data, _ = load_policy(load(server.config, {}).curation, time.time())
    return Policy.from_buffer(data).fingerprint, len(data)


def test_old_policies_are_closed(server: Curated) -> None:
    """After fifty reloads, in the master, in workers that were there from the beginning, and in one that came later."""
    with Crowd(server) as crowd:
        for number in range(50):
            before = crowd.curations(TAGS)
            make_good(server, (number + 1) % VARIANTS)
            server.hup()
            wait_for_another(crowd, before)
    victim = server.worker_pids()[0]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: victim not in server.worker_pids() and len(server.worker_pids()) == WORKERS, LOADED, "a worker in its place")
    with Crowd(server):
        files = server.large_files()
        assert len(files.pop(server.pid)) <= 4
        assert max(map(len, files.values())) <= 1


def test_the_last_of_many_hups_counts(server: Curated) -> None:
    """Those that pile up are done together, but never without the last one."""
    with Crowd(server) as crowd:
        known = learn(server, crowd)
        for number in range(20):
            for _ in range(20):
                server.hup()
            make_good(server, number % VARIANTS)
            server.hup()
            wanted = {fingerprint for fingerprint, own in known.items() if own == number % VARIANTS}
            wait_until(lambda wanted=wanted: crowd.curations(TAGS) == wanted, LOADED, "the last file to count")
