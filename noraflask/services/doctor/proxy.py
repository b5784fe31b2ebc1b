"""What the front shows without a push: who answers, how it forwards clients, TLS, redirect, /metrics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from noraflask.services.doctor import remedies
from noraflask.services.doctor.findings import Finding, ok, warning, wrong
from noraflask.services.doctor.format_checks import Home
from noraflask.services.doctor.front import Answer, Front, NoAnswer, Target
from noraflask.services.doctor.server import clock_of

FORGED_ADDRESS = "192.0.2.99"  # RFC 5737: documentation, nobody has it
FORGED_HOST = "forged.invalid"
REQUEST_ID = "nora-doctor-4711"


def reachable(front: Front, home: Home) -> Iterator[Finding]:
    """Ends with a WRONG finding when it is not our registry that answers."""
    try:
        answer = front.ask("GET", front.target.prefix + home.path)
    except NoAnswer as problem:
        yield wrong("front", f"no answer from {front.target.base}: {problem}", *remedies.UPSTREAM)
        return
    if answer.status in (502, 503, 504) and not answer.is_ours:
        yield wrong("front", f"the proxy does not reach the registry: {answer.told()}", *remedies.UPSTREAM)
    elif answer.status == 401 and front.authorization:
        yield wrong("front", f"the login is refused: {answer.told()}", "nora whoami --url … --user <name>: the same login, alone", *_dropped_login())
    elif answer.status == 403 and b"server.allowed_hosts" in answer.body:
        told = f"the registry listens on a loopback address, and the proxy does not say that it is one: the name {front.target.host} is refused"
        yield wrong("front", told, *remedies.unknown_host(front.target.base))
    elif answer.status not in (200, 401) or not home.is_ours(answer):
        hint = remedies.outside_address(front.target.base, front.target.prefix) if front.target.prefix else remedies.UPSTREAM
        yield wrong("front", f"{front.target.base}{home.path} is no registry: {answer.told()}", *hint)
    else:
        yield ok("front", f"{front.target.base} is the registry")
        yield from clock_of("clock of the front", answer)


def _dropped_login() -> tuple[str, ...]:
    return ("nginx:   take `proxy_set_header Authorization` and `auth_basic` out",)


def forwarded(front: Front) -> Iterator[Finding]:
    """What the registry knows of its clients, by its own word: `request` in /api/v1/whoami."""
    path = f"{front.target.prefix}/api/v1/whoami"
    answer = front.ask("GET", path, headers={"X-Request-Id": REQUEST_ID})
    seen = _seen(answer)
    if seen is None:
        yield warning("forwarded headers", f"the registry does not say what it sees: {answer.told()}")
        return
    yield from judge_address(seen, answer.own_address, front.target)
    if seen["forwarded"] == "trusted":
        forgery = {"X-Forwarded-For": FORGED_ADDRESS, "X-Forwarded-Host": FORGED_HOST, "X-Forwarded-Proto": "http", "X-Real-IP": FORGED_ADDRESS}
        yield from judge_forgery(_seen(front.ask("GET", path, headers=forgery)) or {})
    if answer.headers.get("X-Request-Id") == REQUEST_ID:
        yield ok("request id", "X-Request-Id comes through, there and back")
    else:
        yield warning("request id", "X-Request-Id does not come through: a client's request cannot be found in the log by it", *remedies.REQUEST_ID)


def _seen(answer: Answer) -> dict[str, Any] | None:
    members = answer.json()
    seen = members.get("request") if isinstance(members, dict) else None
    return seen if isinstance(seen, dict) and {"client", "url", "forwarded"} <= set(seen) else None


def judge_address(seen: dict[str, Any], own_address: str, target: Target) -> Iterator[Finding]:
    """`seen`: client, url, forwarded (trusted, untrusted, none), as the registry sees the request; `own_address`: from where it was sent."""
    client, url, forwarded = (str(seen[name]) for name in ("client", "url", "forwarded"))
    if forwarded == "untrusted":
        yield wrong(
            "client address",
            f"the proxy comes from {client}, which the registry does not trust: it takes the proxy for the client of every request",
            f'noraflask: auth.trusted_proxies = ["127.0.0.1", "::1", "{client}"] (NORA_AUTH_TRUSTED_PROXIES)',
        )
    elif forwarded == "none" and client != own_address:
        told = f"the registry sees {client} for {own_address}: the proxy does not say whose requests it brings"
        yield wrong("client address", told, *remedies.CLIENT_ADDRESS)
    else:
        yield ok("client address", f"the registry sees this request come from {client}")
    if url.rstrip("/") != target.base:
        yield wrong(
            "address", f"the registry takes itself for {url}, clients use {target.base}", *remedies.outside_address(target.base, target.prefix)
        )
    else:
        yield ok("address", f"the registry knows that clients use {url}")


def judge_forgery(seen: dict[str, Any]) -> Iterator[Finding]:
    """What became of X-Forwarded-* headers that the client itself sent."""
    if seen.get("client") == FORGED_ADDRESS:
        yield wrong(
            "forged address", "the proxy passes X-Forwarded-For of clients on: any client can take another one's address", *remedies.FORGED_CLIENT
        )
    if FORGED_HOST in str(seen.get("url")):
        yield wrong("forged host", "the proxy passes X-Forwarded-Host of clients on: links can be made to lead elsewhere", *remedies.FORGED_HOST)
    if seen and seen.get("client") != FORGED_ADDRESS and FORGED_HOST not in str(seen.get("url")):
        yield ok("forged headers", "X-Forwarded-* headers of clients are not believed")


def transport(front: Front) -> Iterator[Finding]:
    if front.target.scheme == "http":
        if not is_loopback(front.target.host):
            yield warning("TLS", "there is none: passwords and images can be read and changed on the way", *remedies.NO_TLS)
        return
    version, protocol = front.offered_protocol()
    if protocol == "h2":
        yield ok("TLS", f"{version}, HTTP/2 is offered")
    else:
        yield warning("TLS", f"{version}, HTTP/2 is not offered: clients open a connection for each layer", *remedies.HTTP_2)


def is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def redirect(target: Target, home: Home, port: int = 80) -> Iterator[Finding]:
    """Of plain HTTP, where https is on its usual port."""
    try:
        answer = Front(Target("http", target.host, port, target.prefix), timeout=5).ask("GET", target.prefix + home.path)
    except NoAnswer:
        yield ok("http", f"port {port} is closed")
        return
    location = answer.headers.get("Location", "")
    if answer.status in (301, 302, 303, 307, 308) and location.startswith(f"https://{target.authority}"):
        yield ok("http", f"is sent to https ({answer.status})")
    elif answer.status in (301, 302, 303, 307, 308):
        yield wrong("http", f"is sent to {location or 'nowhere'} instead of {target.base}", *remedies.REDIRECT)
    elif answer.status in (200, 401):
        yield wrong("http", f"port {port} answers {answer.status} without TLS: passwords can be read on the way", *remedies.REDIRECT)
    else:
        yield ok("http", f"port {port} answers {answer.status}")


def metrics(front: Front) -> Iterator[Finding]:
    answer = front.ask("GET", f"{front.target.prefix}/metrics", with_login=False)
    if answer.status == 200 and b"# TYPE" in answer.body:
        yield warning("metrics", "/metrics is open to everybody through the front", *remedies.METRICS)
    else:
        yield ok("metrics", f"not open through the front ({answer.status})")
