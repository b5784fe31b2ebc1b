"""What a client of files does, on Flask's client, in as few words as a test can have."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

STREAMED = {"headers": {"Transfer-Encoding": "chunked"}, "environ_overrides": {"wsgi.input_terminated": True}}
"""A body whose length is not announced."""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def etag(data: bytes) -> str:
    return f'"{sha256(data)}"'


def digest_field(data: bytes, algorithm: str = "sha256") -> str:
    value = base64.b64encode(hashlib.new(algorithm, data).digest()).decode()
    return f"{algorithm[:3]}-{algorithm[3:]}=:{value}:"


class Files:
    def __init__(self, client: FlaskClient, mount: str = "/raw") -> None:
        self.client = client
        self.mount = mount

    def ask(self, method: str, path: str, **more: Any) -> TestResponse:
        """`path` below the mount, or one that the registry gave us."""
        return self.client.open(path if path.startswith(("/", "http://localhost/")) else f"{self.mount}/{path}", method=method, **more)

    def put(self, path: str, data: bytes = b"", headers: dict[str, str] | None = None, **more: Any) -> TestResponse:
        return self.ask("PUT", path, data=data, headers=headers or {}, **more)

    def part(self, path: str, data: bytes, first: int, size: int, headers: dict[str, str] | None = None) -> TestResponse:
        """A part of a whole of that size."""
        given = {"Content-Range": f"bytes {first}-{first + len(data) - 1}/{size}", **(headers or {})}
        return self.put(path, data, given)

    def get(self, path: str, **headers: str) -> TestResponse:
        return self.ask("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    def head(self, path: str, **headers: str) -> TestResponse:
        return self.ask("HEAD", path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    def delete(self, path: str, **headers: str) -> TestResponse:
        return self.ask("DELETE", path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    def have(self, **files: bytes) -> None:
        """Keyword arguments, for names that are words."""
        for path, data in files.items():
            self.store(path, data)

    def store(self, path: str, data: bytes = b"data", **more: Any) -> None:
        answer = self.put(path, data, **more)
        assert answer.status_code == 200, answer.data


def error(answer: TestResponse) -> tuple[int, str]:
    """Status and text; one line of plain text that says what to do."""
    assert answer.content_type == "text/plain; charset=utf-8"
    assert answer.text.endswith("\n")
    assert answer.text.count("\n") == 1
    assert "Traceback" not in answer.text
    return answer.status_code, answer.text.strip()
