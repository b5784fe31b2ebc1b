"""A repository's name is the beginning of addresses and of keys: none of the server's own may be one."""

from __future__ import annotations

import re

from noraflask.config.repositories import is_reserved
from noraflask.storage.memory import MemoryStorage


def test_no_address_of_the_server_begins_with_a_name_that_is_free(make_app):
    app = make_app(metrics={"enabled": True})
    words = {rule.rule.split("/")[1] for rule in app.url_map.iter_rules()}
    assert {"api", "health", "ready", "metrics", "setup"} <= words
    assert not [word for word in words if re.fullmatch(r"[a-z0-9][a-z0-9._-]*", word) and not is_reserved(word)]


def test_no_key_of_the_server_begins_with_a_name_that_is_free(make_app):
    storage = MemoryStorage()
    app = make_app(storage, auth={"users": {"ann": "secret-secret"}})
    client = app.test_client()
    started = client.post("/v2/team/app/blobs/uploads/", auth=("ann", "secret-secret"))
    digest = "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
    done = client.put(f"{started.headers['Location']}?digest={digest}", data=b"foo", auth=("ann", "secret-secret"))
    assert done.status_code == 201
    words = {getattr(entry, "key", entry).partition("/")[0] for entry in storage.list("")}
    assert {"blobs", "docker"} <= words
    assert not [word for word in words if re.fullmatch(r"[a-z0-9][a-z0-9._-]*", word) and not is_reserved(word)]
