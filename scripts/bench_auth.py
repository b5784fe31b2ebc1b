"""scripts/bench auth: what a login costs a read, beside the same read of a server that asks for none.

A small manifest is read by its tag, by wrk, with each kind of credential. In every round all kinds take their turn on the same machine, in another
order; a ratio compares a kind with "logins off" of the same round, and the table holds medians with their span. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import base64
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench_client import Client, push_manifest
from bench_common import CONNECTIONS, ROOT, TIMES, Figure, Running, answers, figure, machine, ours, ratio, started, with_span, wrk

sys.path.insert(0, str(ROOT))

from noraflask.services.auth.users import hash_password, set_user
from tests.oidc import Issuer

NAME, PASSWORD = "bench", "a password of the bench"
TARGET = 0.85
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


@contextmanager
def running(server: Server, work: Path, issuer: Issuer) -> Iterator[Running]:
    """A server that holds the manifest."""

    def command(folder: Path, port: int) -> tuple[list[str], Mapping[str, str]]:
        set_user(folder / "users", NAME, hash_password(PASSWORD, 10))
        (folder / "groups").write_text(f"benchers: {NAME}\n")
        (folder / "config.toml").write_text(config_of(server, folder, issuer))
        return ours(folder, port)

    with started(server.name, work, command, answers("/health")) as up:
        with Client(up.port, password(up.port, issuer)) as client:
            push_manifest(client)
        yield up


# ----------------------------------------------------------------------------------------------------------- what is measured


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
