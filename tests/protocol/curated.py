"""A registry under curation whose rules a test changes as it goes."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flask import Flask

from noraflask.digest import Digest
from noraflask.formats.docker.protocol.media_types import OCI_MANIFEST
from noraflask.services.curation.compiling import compile
from noraflask.services.curation.files import read_rules
from noraflask.services.curation.gate import Curation
from noraflask.services.curation.ledger import Entry, read
from noraflask.services.curation.policy import Policy, Settings
from tests.conftest import config_of
from tests.live import enforce
from tests.protocol.access import Clock, basic, rule
from tests.protocol.oci import Registry, descriptor, index

NOW = 1_800_000_000.0


def block(version: str = "*", name: str = "app", **more: str) -> str:
    return table("block", name=name, version=version, **more)


def table(kind: str, **members: Any) -> str:
    members = {"format": "docker", **members} if kind != "bypass" else members
    return f"[[{kind}]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in members.items())


def when(seconds: float) -> str:
    return datetime.fromtimestamp(NOW + seconds, UTC).isoformat().replace("+00:00", "Z")


def with_logins() -> dict[str, Any]:
    """root and ann may push and delete, root may administer, joe may pull; their passwords are their names."""
    rules = (rule(("pull",), users=("joe",)), rule(("pull", "push", "delete"), users=("root", "ann")), rule(("admin",), users=("root",)))
    return {"auth": {"users": {name: name for name in ("root", "ann", "joe")}}, "access": {"default_role": "none", "rules": rules}}


class Curated(Registry):
    """A registry whose rules a test changes as it goes, with a clock of its own.

    app:1 is an index of two images (layers base and amd, base and arm), app:2 an image (base and two); other:1 is app:2 under another name.
    """

    def __init__(self, folder: Path, app_with: Callable[..., Flask], **sections: Any) -> None:
        self.folder = folder
        self.app = app_with(**{"audit": {"mode": "file"}, **sections})
        super().__init__(self.app.test_client())
        self.clock = Clock(NOW)
        self.services = self.app.services  # type: ignore[attr-defined]
        self.curation: Curation = self.services.curation
        self.curation._clock = self.curation.ledger._clock = self.clock
        self.curation.freeze._clock = self.services.content.now = self.clock

    def fill(self) -> Curated:
        self.amd, self.arm = (self.push_image("app", layers=(b"base", layer)) for layer in (b"amd", b"arm"))
        self.one = Digest.of(self._index())
        assert self.push("app", "1", self._index()).status_code == 201
        self.two = self.push_image("app", "2", layers=(b"base", b"two"))
        self.push_image("other", "1", layers=(b"base", b"two"))
        return self

    def as_user(self, name: str) -> Curated:
        self.client.environ_base["HTTP_AUTHORIZATION"] = basic(name, name)
        return self

    def as_program(self, agent: str) -> Curated:
        self.client.environ_base["HTTP_USER_AGENT"] = agent
        return self

    def _index(self) -> bytes:
        entries = [
            descriptor(child, OCI_MANIFEST, platform={"os": "linux", "architecture": name})
            for child, name in ((self.amd, "amd64"), (self.arm, "arm64"))
        ]
        return index(*entries)

    def rules(self, *tables: str, **settings: Any) -> Policy:
        """These and no others from the next request on; in force, unless told otherwise."""
        config = config_of(self.folder, curation={"mode": "enforce", "rules": "\n".join(tables), **settings}).curation
        found = Policy.from_buffer(compile(Settings.of(config), read_rules(config, self.clock.now)))
        enforce(self.services.live, found)
        return found

    def readable(self, name: str = "app", **more: Any) -> set[str]:
        """What of app can be had, by short names."""
        blobs = {layer: Digest.of(layer.encode()) for layer in ("base", "amd", "arm", "two")}
        paths = {f":{tag}": f"manifests/{tag}" for tag in "12"}
        paths |= {"@1": f"manifests/{self.one}", "@amd": f"manifests/{self.amd}", "@arm": f"manifests/{self.arm}", "@2": f"manifests/{self.two}"}
        paths |= {layer: f"blobs/{digest}" for layer, digest in blobs.items()}
        answers = {short: self.ask("GET", f"{name}/{path}", **more).status_code for short, path in paths.items()}
        assert set(answers.values()) <= {200, 403}, answers
        return {short for short, status in answers.items() if status == 200}

    def audit(self, action: str) -> list[dict[str, Any]]:
        path = self.services.config.state.path / "audit.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [line for line in lines if line["action"] == action]

    def ledger(self) -> list[Entry]:
        self.curation.ledger.flush()
        return sorted(read(self.folder / "state" / "ledger", NOW - 1), key=lambda entry: (entry.name, entry.version))
