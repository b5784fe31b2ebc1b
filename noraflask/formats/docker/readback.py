"""What a push reads back: the manifest that this very client has just pushed (docs/decisions/0010-read-back.md).

helm and oras push a manifest by its digest, read it, and push it again under its tag; crane and regctl give an image another tag likewise. Where
pullers are refused, that read would be too, and the push would end with it. So who may push a name gets a manifest that the gate keeps from pullers

- within READ_BACK_SECONDS after the same client has pushed these very bytes there: nothing leaves that it does not have. A tag ends that, but for
  those programs that are known to read what they tagged, since from any other one such a read is a pull;
- with a bearer token that was issued for pushing there.

What a rule blocks, and does not only not allow yet, is read back by these programs alone. No config and no layer is ever read back, and the permit is
not remembered.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

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
"""User agents of programs that push what they read."""


def is_told(name: str) -> bool:
    """Of a HEAD: is what storage has said to whoever asks? To those who may push, but for a HEAD with which a pull begins.

    That is answered as the pull would be, so that an engine which has the image already does not call it up to date, and says what is in the way.
    """
    return request.method == "HEAD" and may_by_right(PUSH, name) and not _begins_pull()


def _begins_pull() -> bool:
    """The Docker engine asks HEAD of manifests in no push; containerd, alone or within other engines, then names the one type that it pushes."""
    agent = _agent()
    if "containerd" in agent or agent.startswith("buildkit/"):
        return request.headers.get("Accept", "").count("application/") > 1
    return agent.startswith("docker/")


def note_push(name: str, stored: Pointer, tags: Sequence[str]) -> None:
    """After a manifest was pushed. Only where the policy could refuse it."""
    if gate.is_open() or not _is_concerned(name):
        return
    content, key = services().content, keys.pushed_pointer(repository().name, name, stored.digest)
    if tags and not _reads_what_it_tagged():
        content.remove(key)
    else:
        content.repoint(key, Pointer(stored.digest, stored.size, stored.media_type, content.now(), {"by": _mark()}))


def _is_concerned(name: str) -> bool:
    package = images.package(repository().name, name)
    return gate.versions_matter(package) or not gate.decide(package).allowed


def is_read_back(name: str, digest: Digest, decision: Decision) -> bool:
    """Of a manifest that the gate refuses to pullers."""
    if decision.allowed or not may_by_right(PUSH, name):
        return False
    if decision.filter not in NOT_YET and not _reads_what_it_tagged():
        return False
    if decision.filter in NOT_YET and principal().bearer is not None and may(PUSH, name):
        return True
    content = services().content
    pushed = content.pointer(keys.pushed_pointer(repository().name, name, digest))
    return pushed is not None and pushed.own.get("by") == _mark() and 0 <= content.now() - pushed.created < READ_BACK_SECONDS


def _reads_what_it_tagged() -> bool:
    return READERS.match(_agent()) is not None


def _agent() -> str:
    return str(request.environ.get("HTTP_USER_AGENT", ""))


def _mark() -> str:
    """Who asks: name, program, and for those who have no name their address, under this policy."""
    who, here = principal(), state()
    address = client_address(request.environ, here.config.server.trusted_proxies) if who.source is Source.ANONYMOUS else ""
    facts = (who.source.value, who.provider, who.name, address, _agent(), here.policy.fingerprint)
    return hashlib.sha256("\0".join(facts).encode("utf-8", "surrogatepass")).hexdigest()
