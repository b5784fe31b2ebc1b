"""What a push reads back: the manifest that this very client has just pushed (docs/decisions/0010-read-back.md).

helm, oras, crane and regctl give a manifest another tag by reading it and pushing it again. Where pullers are refused, that read would be too, and the
push would end with it. So who may push a name gets a manifest that the gate keeps from pullers

- within READ_BACK_SECONDS after the same client has pushed these very bytes there: nothing leaves that it does not have;
- with a bearer token that was issued for pushing there, while the manifest is only not allowed yet. What a rule blocks does not leave so.

No config and no layer is ever read back, and the permit is not remembered.
"""

from __future__ import annotations

import hashlib
import re

from flask import request

from noraflask.digest import Digest
from noraflask.formats.docker import images
from noraflask.formats.docker.protocol import keys
from noraflask.pointer import Pointer
from noraflask.services.auth.principal import Source
from noraflask.services.curation.model import Decision
from noraflask.web import gate
from noraflask.web.access import PUSH, may, may_by_right
from noraflask.web.context import principal, repository, services, state
from noraflask.web.peers import client_address

READ_BACK_SECONDS = 300.0
NOT_YET = ("allowlist", "min-release-age")
"""Filters that say nothing against the bytes, only that nobody has let them pass yet."""
READERS = re.compile(r"(?:helm|oras|crane|go-containerregistry|regclient|regctl)\b", re.IGNORECASE)
"""User agents that push what they read. From others a read after a push is a pull, and is to be told at once what is in the way."""


def note_push(name: str, stored: Pointer) -> None:
    """After a manifest was pushed. Only where the policy could refuse it."""
    mark = _mark()
    if not mark or gate.is_open() or not _is_concerned(name):
        return
    content = services().content
    note = Pointer(stored.digest, stored.size, stored.media_type, content.now(), {"by": mark})
    content.repoint(keys.pushed_pointer(repository().name, name, stored.digest), note)


def _is_concerned(name: str) -> bool:
    package = images.package(repository().name, name)
    return gate.versions_matter(package) or not gate.decide(package).allowed


def is_read_back(name: str, digest: Digest, decision: Decision) -> bool:
    """Of a manifest that the gate refuses to pullers."""
    if decision.allowed or not may_by_right(PUSH, name):
        return False
    if decision.filter in NOT_YET and principal().bearer is not None and may(PUSH, name):
        return True
    mark, content = _mark(), services().content
    pushed = content.pointer(keys.pushed_pointer(repository().name, name, digest)) if mark else None
    return pushed is not None and pushed.own.get("by") == mark and 0 <= content.now() - pushed.created < READ_BACK_SECONDS


def _mark() -> str:
    """Who asks: name, program, and for those who have no name their address, under this policy. Empty for programs that do not read back."""
    agent = request.environ.get("HTTP_USER_AGENT", "")
    if not READERS.match(agent):
        return ""
    who, here = principal(), state()
    address = client_address(request.environ, here.config.server.trusted_proxies) if who.source is Source.ANONYMOUS else ""
    facts = (who.source.value, who.provider, who.name, address, agent, here.policy.fingerprint)
    return hashlib.sha256("\0".join(facts).encode("utf-8", "surrogatepass")).hexdigest()
