"""A server that wants a login: its users, its rules and its issuer, the same ones for all tests about logins."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noraflask.services.auth.users import hash_password
from tests.client.registry import Registry
from tests.oidc import Issuer
from tests.server import Server

CONTACT = "the registry team"
USERS = ("writer", "reader", "mounter", "mistaken", "root")
BCRYPT_COST = 4  # the least: what a hash costs is not what these tests are about
CONFIG = """
[auth]
enabled = true
htpasswd_file = "{htpasswd}"
docker_anon_pull = {anon_pull}

[auth.oidc]
enabled = true
[[auth.oidc.providers]]
name = "ci"
issuer = "{issuer}"
audience = ["registry"]
namespace_scope = ["ci/**"]
[[auth.oidc.providers.role_rules]]
pattern = "repo:team/*"
role = "write"

[access]
contact = "{contact}"
[[access.rules]]
title = "Writers push"
users = ["writer", "mistaken"]
actions = ["pull", "push", "delete"]
[[access.rules]]
title = "Administration"
users = ["root"]
actions = ["admin"]
[[access.rules]]
title = "Readers pull"
users = ["reader"]
actions = ["pull"]
[[access.rules]]
title = "From open to own"
users = ["mounter"]
actions = ["pull"]
names = ["open/**"]
[[access.rules]]
title = "Into own"
users = ["mounter"]
actions = ["pull", "push"]
names = ["own/**"]
"""


def password_of(user: str) -> str:
    return f"pass-{user}-word"


@dataclass(frozen=True)
class Guarded:
    server: Server
    issuer: Issuer

    @property
    def address(self) -> str:
        return self.server.address

    def as_user(self, user: str) -> Registry:
        """Plain HTTP with that user's login."""
        return Registry(self.address, f"{user}:{password_of(user)}")

    def api_token(self, user: str, **members: Any) -> str:
        body = {"username": user, "password": password_of(user), **members}
        answer = Registry(self.address).request("POST", "/api/tokens", json.dumps(body), {"Content-Type": "application/json"})
        assert answer.status == 200, answer
        token: str = answer.json()["token"]
        return token

    def tags(self, name: str) -> list[str] | None:
        """None: nobody has pushed to that name."""
        answer = self.as_user("reader").request("GET", f"/v2/{name}/tags/list")
        assert answer.status in (200, 404), answer
        if answer.status == 404:
            return None
        tags: list[str] = answer.json()["tags"]
        return tags

    def digest(self, name: str, tag: str) -> str:
        return str(self.as_user("reader").manifest(name, tag).headers["Docker-Content-Digest"])

    def failed_logins(self) -> tuple[int, int]:
        """All, and those with a password that the same client had sent for the same user before."""
        answer = self.as_user("root").request("GET", "/api/v1/admin/logins")
        assert answer.status == 200, answer
        counted = answer.json()["failed_logins"]
        return counted["failures"], counted["repeated"]

    def requests(self, method: str, path: str) -> int:
        """How many the server has answered."""
        return self.server.log_text().count(f'"method": "{method}", "path": "{path}"')

    def audit(self, **wanted: str) -> list[dict[str, str]]:
        """Records of the audit log in which all these members are so."""
        lines = (self.server.state / "audit.jsonl").read_text().splitlines()
        return [record for record in map(json.loads, lines) if wanted.items() <= record.items()]


def guarded_server(folder: Path, issuer: Issuer, anon_pull: bool = False, **options: Any) -> Server:
    """Not started yet. `options` go to Server."""
    folder.mkdir(parents=True)
    htpasswd = folder / "users.htpasswd"
    htpasswd.write_bytes(b"".join(b"%s:%s\n" % (user.encode(), hash_password(password_of(user), BCRYPT_COST)) for user in USERS))
    text = CONFIG.format(htpasswd=htpasswd, anon_pull=str(anon_pull).lower(), issuer=issuer.url, contact=CONTACT)
    return Server(folder, config_text=text, **options)
