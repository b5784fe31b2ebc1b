"""Who may come in, for tests of the guard: headers as clients write them, and an app with users, rules and an OIDC issuer."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from noraflask.app import create_app
from noraflask.config import AccessRule
from noraflask.services.auth.authenticator import Authenticator
from noraflask.services.auth.lockout import Lockout
from noraflask.services.auth.principal import Principal, Scope
from noraflask.services.state import State
from noraflask.storage.memory import MemoryStorage
from tests.clock import Clock
from tests.conftest import config_of

CONTACT = "the platform team"
READ, WRITE, ALL = ("pull",), ("push", "delete"), ("pull", "push", "delete")


def basic(user: str, password: str, scheme: str = "Basic") -> str:
    return f"{scheme} " + base64.b64encode(f"{user}:{password}".encode()).decode()


def bearer(token: str) -> str:
    return f"Bearer {token}"


def rule(actions: tuple[str, ...], **members: Any) -> AccessRule:
    return AccessRule("config.toml:1", actions, **members)


def guarded(folder: Path, **sections: Any) -> Flask:
    """An app with logins on, built without the fixture of a single test."""
    folder.mkdir(parents=True, exist_ok=True)
    return create_app(config_of(folder, **sections), MemoryStorage())


class Door:
    """Asks an app with an Authorization header, and makes tokens behind its back."""

    def __init__(self, app: Flask) -> None:
        self.app = app
        self.client: FlaskClient = app.test_client()
        self.services = app.services  # type: ignore[attr-defined]

    @property
    def state(self) -> State:
        return self.services.live.state

    @property
    def authenticator(self) -> Authenticator:
        """For an app with logins."""
        found: Any = self.state.authenticator
        return found

    def ask(self, method: str, path: str, authorization: str | None = None, client: str | None = None, **more: Any) -> TestResponse:
        """`client`: the address that a trusted proxy names."""
        headers = dict(more.pop("headers", {}))
        if authorization is not None:
            headers["Authorization"] = authorization
        if client is not None:
            headers["X-Forwarded-For"] = client
        return self.client.open(path, method=method, headers=headers, **more)

    def stop_time(self) -> Clock:
        """All that looks at the time of day, or counts failed logins, goes by a clock of the test's from now on. Call it first of all."""
        clock, logins = Clock(), self.services.logins
        for part in (self.services.tokens, logins.signer):
            part._clock = clock
        logins.clock = clock
        logins.signer.rotate(drop_old=True)  # the key was made by the other clock
        logins.lockout = Lockout(clock)
        return clock

    def audit(self) -> list[dict[str, Any]]:
        """The lines of the audit log."""
        path = self.services.config.state.path / "audit.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def get(self, path: str, authorization: str | None = None, **more: Any) -> TestResponse:
        return self.ask("GET", path, authorization, **more)

    def post(self, path: str, authorization: str | None = None, **more: Any) -> TestResponse:
        return self.ask("POST", path, authorization, **more)

    def api_token(self, user: str, role: str = "write", lifetime: int = 3600, **more: Any) -> str:
        token: str = self.services.tokens.mint(user, role, lifetime, **more)[0]
        return token

    def bearer_token(self, authorization: str | None, *scopes: str) -> str:
        """By the token endpoint, as docker gets it."""
        answer = self.get("/v2/token", authorization, query_string={"scope": list(scopes)})
        assert answer.status_code == 200, answer.data
        token: str = (answer.json or {})["token"]
        return token

    def signed(self, principal: Principal, lifetime: float, kind: str = "bearer", scopes: tuple[Scope, ...] | None = ()) -> str:
        token: str = self.authenticator.issue(principal, kind, lifetime, scopes)[0]
        return token


class Authorized:
    """A client with credentials, for what drives one."""

    def __init__(self, door: Door, authorization: str | None) -> None:
        self.door, self.authorization = door, authorization

    def open(self, path: str, method: str, **more: Any) -> TestResponse:
        return self.door.ask(method, path, self.authorization, **more)


def parse_challenge(answer: TestResponse) -> tuple[str, dict[str, str]]:
    """Scheme and parameters of the only WWW-Authenticate header."""
    (header,) = answer.headers.getlist("WWW-Authenticate")
    scheme, _, rest = header.partition(" ")
    found = dict(re.findall(r'([a-z]+)="([^"]*)"', rest))
    assert rest.replace(", ", ",") == ",".join(f'{name}="{value}"' for name, value in found.items()), header
    return scheme, found


def words_of(answer: TestResponse) -> str:
    """What an error says to a person, in whatever form."""
    if answer.mimetype != "application/json":
        return str(answer.text)
    members = json.loads(answer.data)
    return str(members["error"] if "error" in members else members["errors"][0]["message"])
