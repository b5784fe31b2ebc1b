"""What a push reads back: the manifest that this very client has just pushed, while nobody may have it yet (docs/decisions/0010-read-back.md).

helm, oras, crane and regctl give a manifest another tag by reading it and pushing it again. Under an allowlist or a minimum age that read would be
refused, and the push with it. So who may push a name gets a manifest of it that is only not allowed *yet*, when a push is under way: with a bearer
token that was issued for pushing, or within READ_BACK_SECONDS after the same client has pushed these bytes. Never what a rule blocks, and no layer.
"""

from __future__ import annotations

import hashlib
import re

from flask import request

from noraflask.digest import Digest
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
    """After a manifest was pushed. Only where a policy could refuse it to its pusher."""
    mark = _mark()
    if mark and not gate.is_open():
        services().content.repoint(
            keys.pushed_pointer(repository().name, name, stored.digest), Pointer(stored.digest, stored.size, stored.media_type, _now(), {"by": mark})
        )


def is_read_back(name: str, digest: Digest, decision: Decision) -> bool:
    """Of a manifest that the gate refuses to pullers."""
    if decision.allowed or decision.filter not in NOT_YET or not may_by_right(PUSH, name):
        return False
    if principal().bearer is not None and may(PUSH, name):
        return True
    mark = _mark()
    pushed = services().content.pointer(keys.pushed_pointer(repository().name, name, digest)) if mark else None
    return pushed is not None and pushed.own.get("by") == mark and 0 <= _now() - pushed.created < READ_BACK_SECONDS


def _mark() -> str:
    """Who asks: name, program, and for those who have no name their address, under this policy. Empty for programs that do not read back."""
    agent = request.environ.get("HTTP_USER_AGENT", "")
    if not READERS.match(agent):
        return ""
    who, here = principal(), state()
    address = client_address(request.environ, here.config.server.trusted_proxies) if who.source is Source.ANONYMOUS else ""
    facts = (who.source.value, who.provider, who.name, address, agent, here.policy.fingerprint)
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()


def _now() -> float:
    return services().content.now()
