"""Requests as our server sends them when it wants a plan, and answers by the plan, within one process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flask import Flask
from werkzeug.test import EnvironBuilder

from noraflask.app import ENVELOPE
from noraflask.recording import PLAN, WANTED
from noraflask.serve.application import Plan
from noraflask.web.envelope import Envelope


@dataclass
class Seen:
    """An answer, and the plan that was made of it, if any."""

    status: int
    headers: dict[str, str]
    body: bytes
    plan: Plan | None

    def again(self, given_id: str = "") -> bool:
        """Is the same request answered again? All is done then that each answer does."""
        assert self.plan is not None
        turn = self.plan.again(given_id)
        if turn is not None:
            turn.done()
        return turn is not None


class Planner:
    def __init__(self, app: Flask) -> None:
        self.app = app
        envelope: Envelope = app.extensions[ENVELOPE]
        self.envelope = envelope

    def ask(self, path: str, method: str = "GET", **headers: str) -> Seen:
        """Twice, as a plan is made the second time. `headers`: If_None_Match="…"."""
        self._once(path, method, headers)
        return self._once(path, method, headers)

    def _once(self, path: str, method: str, headers: dict[str, str]) -> Seen:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        environ: dict[str, Any] = EnvironBuilder(path, method=method, headers=given, environ_overrides={"REMOTE_ADDR": "127.0.0.1"}).get_environ()
        environ[WANTED] = True
        answered: list[Any] = []
        answer: Any = self.app.wsgi_app(environ, lambda status, headers, exc_info=None: answered.extend((status, headers)))
        body = b"".join(answer)
        answer.close()
        return Seen(int(answered[0][:3]), dict(answered[1]), body, environ.get(PLAN))
