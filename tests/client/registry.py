"""A plain HTTP client of a registry, to look at what others left there."""

from __future__ import annotations

import base64
import http.client
import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Registry:
    """Where the clients push to."""

    address: str
    login: str = ""
    """user:password, where the registry wants one."""

    def request(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        basic = {"Authorization": "Basic " + base64.b64encode(self.login.encode()).decode()} if self.login else {}
        connection = http.client.HTTPConnection(self.address, timeout=60)
        try:
            connection.request(method, path, body=body, headers=basic | (headers or {}))
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def manifest(self, repository: str, reference: str) -> Answer:
        answer = self.request("GET", f"/v2/{repository}/manifests/{reference}", headers={"Accept": "*/*, " + ", ".join(MANIFEST_TYPES)})
        assert answer.status == 200, answer
        return answer

    def tags(self, repository: str) -> list[str]:
        answer = self.request("GET", f"/v2/{repository}/tags/list")
        assert answer.status == 200, answer
        tags: list[str] = answer.json()["tags"]
        return tags

    def referrers(self, repository: str, digest: str) -> list[dict[str, Any]]:
        answer = self.request("GET", f"/v2/{repository}/referrers/{digest}")
        assert answer.status == 200, answer
        found: list[dict[str, Any]] = answer.json()["manifests"]
        return found


MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
