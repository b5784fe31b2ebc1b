"""scripts/bench auth: what a login costs a read, beside the same read of a server that asks for none.

A small manifest is read by its tag, by wrk, with each kind of credential. In every round all kinds take their turn on the same machine, in another
order; a ratio compares a kind with "logins off" of the same round, and the table holds medians with their span. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from bench_oci import MANIFEST_TYPE, ROOT, TIMES, Answer, Client, Failed, figure, machine, manifest_of, push_bytes, with_span

sys.path.insert(0, str(ROOT))

from noraflask.services.auth.users import hash_password, set_user
from tests.oidc import Issuer

PATH = "/v2/bench/app/manifests/v1"
NAME, PASSWORD = "bench", "a password of the bench"
TARGET = 0.85
CONNECTIONS = (16, 128)
RULES = 1000

Header = Callable[[int, Issuer], str]
"""The Authorization header for the server on a port; empty: none."""


# ---------------------------------------------------------------------------------------------------------------- credentials


def password(port: int, issuer: Issuer) -> str:
    return "Basic " + base64.b64encode(f"{NAME}:{PASSWORD}".encode()).decode()


def api_token(port: int, issuer: Issuer) -> str:
    return f"Bearer {ask_json(port, 'POST', '/api/tokens', password(port, issuer), b'{}')['token']}"


def bearer_token(port: int, issuer: Issuer) -> str:
    return f"Bearer {ask_json(port, 'GET', '/v2/token?scope=repository:bench/app:pull', password(port, issuer))['token']}"


def exchanged(port: int, issuer: Issuer) -> str:
    return f"Bearer {ask_json(port, 'POST', '/api/v1/token/exchange', from_issuer(port, issuer))['token']}"


def from_issuer(port: int, issuer: Issuer) -> str:
    return f"Bearer {issuer.token(alg='ES256', lifetime=3600)}"


def nothing(port: int, issuer: Issuer) -> str:
    return ""


def ask_json(port: int, method: str, path: str, login: str, body: bytes = b"") -> dict[str, str]:
    with Client(port) as client:
        found: dict[str, str] = json.loads(client.ask(method, path, body, f"Authorization: {login}\r\nContent-Type: application/json\r\n", 200).body)
    return found


# ---------------------------------------------------------------------------------------------------------------- the servers


@dataclass(frozen=True)
class Server:
    name: str
    logins: bool
    rules: int = 0
    anonymous: bool = False


OFF, ON, OPEN = Server("off", logins=False), Server("on", logins=True), Server("open", logins=True, anonymous=True)
RULED = Server("ruled", logins=True, rules=RULES)


@dataclass(frozen=True)
class Kind:
    name: str
    title: str
    server: Server
    header: Header


KINDS = (
    Kind("off", "logins off", OFF, nothing),
    Kind("anonymous", "open to all, no credentials", OPEN, nothing),
    Kind("token", "API token", ON, api_token),
    Kind("bearer", "Docker bearer token", ON, bearer_token),
    Kind("password", "password (Basic)", ON, password),
    Kind("exchanged", "exchanged OIDC identity", ON, exchanged),
    Kind("oidc", "JWT of an OIDC issuer", ON, from_issuer),
    Kind("token-ruled", f"API token, {RULES} rules", RULED, api_token),
    Kind("bearer-ruled", f"Docker bearer token, {RULES} rules", RULED, bearer_token),
    Kind("password-ruled", f"password, {RULES} rules", RULED, password),
)


def config_of(server: Server, folder: Path, issuer: Issuer) -> str:
    """With rules: they all concern the user, and the last one grants."""
    provider = f'name = "ci"\nissuer = "{issuer.url}"\naudience = ["registry"]\nalgorithms = ["ES256"]\nmax_token_lifetime_secs = 86400\n'
    lines = [
        "[auth]",
        f"enabled = {str(server.logins).lower()}",
        f"docker_anon_pull = {str(server.anonymous).lower()}",
        f'htpasswd_file = "{folder}/users"',
        f'groups_file = "{folder}/groups"',
        "bearer_ttl_secs = 86400",
        "[auth.oidc]",
        "enabled = true",
        f'[[auth.oidc.providers]]\n{provider}role_rules = [{{pattern = "*", role = "read"}}]',
    ]
    for number in range(server.rules):
        names = "bench/**" if number == server.rules - 1 else f"team{number}/*/app-*"
        lines.append(f'[[access.rules]]\ngroups = ["bench*"]\nnames = ["{names}"]\nactions = ["pull", "push"]')
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Up:
    """A started server: one session of processes."""

    port: int
    session: int

    def cpu_seconds(self) -> float:
        """What all its processes have used so far."""
        ticks = 0
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                with suppress(FileNotFoundError, ProcessLookupError):  # ended while we looked
                    fields = (folder / "stat").read_text().rpartition(")")[2].split()
                    ticks += int(fields[11]) + int(fields[12]) if int(fields[3]) == self.session else 0
        return ticks / os.sysconf("SC_CLK_TCK")


@contextmanager
def running(server: Server, work: Path, issuer: Issuer) -> Iterator[Up]:
    """A server that holds the manifest."""
    folder = Path(tempfile.mkdtemp(prefix=f"{server.name}-", dir=work))
    (folder / "staging").mkdir()
    set_user(folder / "users", NAME, hash_password(PASSWORD, 10))
    (folder / "groups").write_text(f"benchers: {NAME}\n")
    (folder / "config.toml").write_text(config_of(server, folder, issuer))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    where = {"CONFIG": folder / "config.toml", "STORAGE": folder / "storage", "STAGING": folder / "staging"}
    settings = {f"NORA_{name}_PATH": str(path) for name, path in where.items()} | {
        "NORA_HOST": "127.0.0.1",
        "NORA_PORT": str(port),
        "NORA_RATE_LIMIT_ENABLED": "false",
    }
    environ = {key: value for key, value in os.environ.items() if not key.startswith("NORA_")} | settings
    command = [sys.executable, "-m", "noraflask", "serve"]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(command, env=environ, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
    try:
        end = time.monotonic() + 30
        while not is_healthy(port):
            if process.poll() is not None or time.monotonic() > end:
                raise Failed(f"did not start: {(folder / 'log').read_text(errors='replace')[-500:]}")
        push_manifest(port, password(port, issuer))
        yield Up(port, process.pid)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its own session: nobody else is in it
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def is_healthy(port: int) -> bool:
    try:
        with Client(port) as client:
            return client.ask("GET", "/health").status == 200
    except OSError:
        time.sleep(0.01)
        return False


class LoggedIn(Client):
    """A client whose every request carries the same login."""

    def __init__(self, port: int, login: str) -> None:
        super().__init__(port)
        self._login = login

    def ask(self, method: str, path: str, body: bytes = b"", headers: str = "", want: int = 0) -> Answer:
        return super().ask(method, path, body, f"{headers}Authorization: {self._login}\r\n", want)


def push_manifest(port: int, login: str) -> None:
    client = LoggedIn(port, login)
    with client:
        config, layer = b'{"architecture":"amd64","os":"linux"}', os.urandom(400)
        parts = [(push_bytes(client, "bench/app", data), len(data)) for data in (config, layer)]
        client.ask("PUT", PATH, manifest_of(parts[0], parts[1]), f"Content-Type: {MANIFEST_TYPE}\r\n", want=201)


# ----------------------------------------------------------------------------------------------------------- what is measured


@dataclass(frozen=True)
class Figure:
    """Of one run of wrk."""

    rate: float
    """Reads a second."""
    cpu: float
    """Microseconds of the server's processor time for one read: what others do on the machine hardly shows in it."""


def wrk(up: Up, header: str, connections: int, seconds: float) -> Figure:
    """Any read that fails makes the run fail."""
    headers = ["-H", f"Accept: {MANIFEST_TYPE}", *(("-H", f"Authorization: {header}") if header else ())]
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "--timeout", "10s", *headers, f"http://127.0.0.1:{up.port}{PATH}"]
    before = up.cpu_seconds()
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    used = up.cpu_seconds() - before
    rate, count = re.search(r"Requests/sec:\s+([\d.]+)", said), re.search(r"(\d+) requests in", said)
    if not rate or not count or "Non-2xx" in said or "Socket errors" in said:
        raise Failed(said)
    return Figure(float(rate[1]), used / int(count[1]) * 1e6)


@dataclass
class Results:
    figures: dict[tuple[str, int], list[Figure]] = field(default_factory=dict)  # (kind, connections) -> one for each round

    def add(self, kind: str, connections: int, figure: Figure) -> None:
        self.figures.setdefault((kind, connections), []).append(figure)

    def ratios(self, kind: str, connections: int) -> tuple[list[float], list[float]]:
        """By rate and by processor time; in both, more is better."""
        pairs = list(zip(self.figures[kind, connections], self.figures["off", connections], strict=True))
        return [mine.rate / off.rate for mine, off in pairs], [off.cpu / mine.cpu for mine, off in pairs]


def measure(kinds: list[Kind], rounds: int, seconds: float, work: Path) -> Results:
    results = Results()
    with ExitStack() as stack:
        issuer = stack.enter_context(Issuer())
        up = {server: stack.enter_context(running(server, work, issuer)) for server in dict.fromkeys(kind.server for kind in kinds)}
        headers = {kind.name: kind.header(up[kind.server].port, issuer) for kind in kinds}
        for kind in kinds:
            wrk(up[kind.server], headers[kind.name], 16, 1)  # warms what remembers
        for number in range(rounds):
            for connections in CONNECTIONS:
                turn = number % len(kinds)
                for kind in kinds[turn:] + kinds[:turn]:  # nobody is always the first
                    results.add(kind.name, connections, wrk(up[kind.server], headers[kind.name], connections, seconds))
            told = " ".join(f"{kind.name}={'/'.join(figure(results.figures[kind.name, count][-1].rate) for count in CONNECTIONS)}" for kind in kinds)
            print(f"round {number + 1}/{rounds} {told}", file=sys.stderr)
    return results


def render_table(results: Results, kinds: list[Kind]) -> str:
    columns = " | ".join(f"{count} connections, reads/s | ratio | processor, µs | ratio" for count in CONNECTIONS)
    lines = [f"| credential | {columns} | target {TARGET}{TIMES} |", f"|---|{'---:|' * 4 * len(CONNECTIONS)}---|"]
    for kind in kinds:
        cells, least = [], 1.0
        for count in CONNECTIONS:
            figures, (by_rate, by_cpu) = results.figures[kind.name, count], results.ratios(kind.name, count)
            cells += [with_span([one.rate for one in figures]), ratio(by_rate), with_span([one.cpu for one in figures]), ratio(by_cpu)]
            least = min(least, statistics.median(by_rate))
        reached = "" if kind.name == "off" else "reached" if least >= TARGET else "**missed**"
        lines.append(f"| {kind.title} | {' | '.join(cells)} | {reached} |")
    return "\n".join(lines)


def ratio(found: list[float]) -> str:
    return f"{statistics.median(found):.2f}{TIMES} ({min(found):.2f} to {max(found):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench auth", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 rounds of 1 s: to see that it works, not to compare")
    parser.add_argument("--only", action="append", choices=[kind.name for kind in KINDS[1:]], help="measure this kind; may be given again")
    parser.add_argument("--reps", type=int, help="rounds (default 7; with --quick 3)")
    parser.add_argument("--seconds", type=float, help="of each figure (default 3; with --quick 1)")
    parser.add_argument("--disk", default="/var/tmp", help="folder whose disk the servers write to (default %(default)s)")
    options = parser.parse_args()
    if not shutil.which("wrk"):
        parser.error("wrk is missing (apt install wrk)")
    kinds = [kind for kind in KINDS if kind.name == "off" or not options.only or kind.name in options.only]
    rounds, seconds = options.reps or (3 if options.quick else 7), options.seconds or (1 if options.quick else 3)
    with tempfile.TemporaryDirectory(prefix="nora-bench-", dir=options.disk) as work:
        results = measure(kinds, rounds, seconds, Path(work))
    print(f"\n{machine()}. Medians of {rounds} rounds (lowest to highest).\n\n{render_table(results, kinds)}")


if __name__ == "__main__":
    main()
