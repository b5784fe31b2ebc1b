"""What an OCI client does, on Flask's client, in as few words as a test can have."""

from __future__ import annotations

import json
from typing import Any

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from noraflask.digest import Digest
from noraflask.formats.docker.protocol.media_types import OCI_INDEX, OCI_MANIFEST

CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
STREAMED = {"headers": {"Transfer-Encoding": "chunked"}, "environ_overrides": {"wsgi.input_terminated": True}}
"""A body whose length is not announced."""


def descriptor(data: bytes | Digest, media_type: str = LAYER_TYPE, **more: Any) -> dict[str, Any]:
    digest = data if isinstance(data, Digest) else Digest.of(data)
    return {"mediaType": media_type, "digest": str(digest), "size": len(data) if isinstance(data, bytes) else 1, **more}


def image(config: bytes = b"{}", layers: tuple[bytes, ...] = (b"layer",), media_type: str = OCI_MANIFEST, **more: Any) -> bytes:
    entries = [descriptor(layer) for layer in layers]
    return json.dumps({"schemaVersion": 2, "mediaType": media_type, "config": descriptor(config, CONFIG_TYPE), "layers": entries, **more}).encode()


def index(*children: dict[str, Any], media_type: str = OCI_INDEX, **more: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": media_type, "manifests": children, **more}).encode()


class Registry:
    def __init__(self, client: FlaskClient, mount: str = "/v2") -> None:
        self.client = client
        self.mount = mount

    def ask(self, method: str, path: str, **more: Any) -> TestResponse:
        """`path` below the mount, or one that the registry gave us."""
        return self.client.open(path if path.startswith("/") else f"{self.mount}/{path}", method=method, **more)

    def begin(self, name: str) -> str:
        """Start an upload; its Location."""
        answer = self.ask("POST", f"{name}/blobs/uploads/")
        assert answer.status_code == 202
        return answer.headers["Location"]

    def push_blob(self, name: str, data: bytes, algorithm: str = "sha256") -> Digest:
        digest = Digest.of(data, algorithm)
        answer = self.ask("POST", f"{name}/blobs/uploads/", query_string={"digest": str(digest)}, data=data)
        assert answer.status_code == 201, answer.data
        return digest

    def push(self, name: str, reference: Any, body: bytes, content_type: str | None = None, query: Any = None) -> TestResponse:
        media_type = content_type if content_type is not None else json.loads(body).get("mediaType", OCI_MANIFEST)
        return self.ask("PUT", f"{name}/manifests/{reference}", data=body, content_type=media_type, query_string=query)

    def push_image(self, name: str, reference: Any = None, layers: tuple[bytes, ...] = (b"layer",), **more: Any) -> Digest:
        """With all that it needs."""
        for blob in (b"{}", *layers):
            self.push_blob(name, blob)
        body = image(layers=layers, **more)
        answer = self.push(name, reference or Digest.of(body), body)
        assert answer.status_code == 201, answer.data
        return Digest.of(body)

    def tags(self, name: str) -> list[str]:
        return self.ask("GET", f"{name}/tags/list").json["tags"]

    def status(self, path: str, method: str = "HEAD") -> int:
        return self.ask(method, path).status_code

    def referrers(self, name: str, subject: Any, **query: str) -> list[dict[str, Any]]:
        answer = self.ask("GET", f"{name}/referrers/{subject}", query_string=query)
        assert (answer.status_code, answer.content_type) == (200, OCI_INDEX)
        assert (answer.json["schemaVersion"], answer.json["mediaType"]) == (2, OCI_INDEX)
        return answer.json["manifests"]

    def follow(self, path: str, member: str) -> list[Any]:
        """All entries of a listing, page by page, as its Links lead."""
        found, pages = [], 0
        while path:
            answer = self.ask("GET", path)
            assert answer.status_code == 200
            assert answer.json[member], "an empty page at the end of a Link"
            found += answer.json[member]
            link = answer.headers.get("Link", "")
            assert not link or link.endswith('>; rel="next"')
            path = link.partition(">")[0][1:]
            pages += 1
            assert pages < 100
        return found


def code(answer: TestResponse) -> tuple[int, str]:
    """Status and error code; the body has the spec's form."""
    assert answer.content_type == "application/json"
    (entry,) = answer.json["errors"]
    assert set(entry) == {"code", "message", "detail"}
    assert entry["message"]
    return answer.status_code, entry["code"]
