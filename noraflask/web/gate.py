"""A request at the gate (services/curation/gate.py): who asks, with which bypass token, and what is logged.

A view that serves bytes asks once(), and hands the permit to send(); a view that lists asks shown():

    permit = gate.once((path, digest), None, lambda: Package("raw", path, digests=(digest,)))
    gate.served(permit, digest)
    return send(permit, …)

    entries = gate.shown(Package("raw", folder, is_index=True), entries, lambda entry: Package("raw", entry.path))

A view that asks neither serves nothing: its guard (access.py) sees to that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import TypeVar

from flask import request

from noraflask.digest import Digest
from noraflask.errors import CurationDenied
from noraflask.recording import CURRENT
from noraflask.services.auth.principal import Principal, Source
from noraflask.services.curation.gate import Permit, Refusal, refusal
from noraflask.services.curation.model import Decision, Package
from noraflask.services.curation.policy import Policy
from noraflask.services.metrics import catalogue
from noraflask.web.context import STATE, note, recognise, repository_name, services, state, surroundings

PERMIT = "nora.permit"
"""In a request's environ, once the gate was asked."""
REFUSED = "nora.refused"
"""Likewise, once it refused: what the client is told."""
BYPASS_HEADERS = ("HTTP_X_NORA_BYPASS_TOKEN", "HTTP_X_NORA_BYPASS")
CI_CLAIMS = ("repository", "project_path", "kubernetes.io.namespace", "ref", "run_id", "job_id", "sha")
"""What tells a CI job in the ledger."""

Asked = Package | tuple[Package, Decision]
"""What the gate is asked about, and, where a format has worked it out itself from several answers of decide(), the verdict."""
Entry = TypeVar("Entry")

READ_BACK = "read back by its pusher"
_ACTIONS = {"blocked": "curation_block", "would be blocked": "curation_would_block", READ_BACK: "curation_read_back"}

log = logging.getLogger("nora.curation")


def policy() -> Policy:
    """The policy of the state that this request began with."""
    return state().policy


def once(key: Hashable, revision: Callable[[], object | None] | None, work: Callable[[], Asked]) -> Permit:
    """The permit for bytes, or for an index as a whole. Raises CurationDenied.

    `work` says what is asked about; it runs where the policy could refuse anything at all, and no permit is remembered for `key`, within this
    repository. The key names all that the verdict depends on, but for the policy and the time; None: never remember. `revision` tells the state of
    storage that the verdict rests on; None where it rests on none. While it cannot be told, because something is changing, nothing is remembered.
    """
    services, environ, repository = surroundings()
    curation, permits = services.curation, environ[STATE].permits
    granted: Permit | None = permits.open
    if granted is None and key is not None:
        granted = curation.recall(permits, (repository, key), revision)
    if granted is not None:
        environ[PERMIT] = granted
        return granted
    before = revision() if revision else None  # first of all: what changes while the work is done makes it an old one
    asked = work()
    package, decision = asked if isinstance(asked, tuple) else (asked, None)
    granted = _check(package, decision)
    rests_on_storage = revision is not None and (decision is not None or versions_matter(package))
    if key is not None and not (rests_on_storage and before is None):
        curation.remember(permits, (repository, key), granted, before if rests_on_storage else None)
    return granted


def shown(index: Asked, entries: Iterable[Entry], judge: Callable[[Entry], Package | Decision]) -> Iterator[Entry]:
    """The entries of an index that may be had; raises CurationDenied for the index as a whole. `judge`: what an entry is, or the verdict on it."""
    if not once(None, None, lambda: index).package.format:
        return iter(entries)
    return (entry for entry in entries if _may_be_had(judge(entry)))


def _may_be_had(asked: Package | Decision) -> bool:
    return (decide(asked) if isinstance(asked, Package) else asked).allowed


def _check(package: Package, decision: Decision | None) -> Permit:
    snapshot = policy()
    try:
        granted = services().curation.check(snapshot, package, bypass_token(), decision)
    except CurationDenied as denied:
        request.environ[REFUSED] = denied.refusal
        _count(denied.refusal, "enforce")
        _tell(denied.refusal, "blocked")
        raise
    request.environ[PERMIT] = granted
    if granted.decision.would_block or granted.decision.bypassed_by or granted.decision.read_back:
        what = _told_as(granted.decision)
        told = refusal(snapshot, package, granted.decision, services().curation.now())
        if granted.decision.would_block:
            _count(told, "audit")
        _tell(told, what)
    elif snapshot.settings.audit_allows:
        note("curation_allow", _artifact(package), snapshot.fingerprint, registry=package.repository or None)
    return granted


def _told_as(decision: Decision) -> str:
    if decision.would_block:
        return "would be blocked"
    return READ_BACK if decision.read_back else f"bypassed with the token {decision.bypassed_by}"


def is_open() -> bool:
    """No policy could refuse anything."""
    return state().permits.open is not None


def decide(package: Package) -> Decision:
    """Without a permit: for formats that work out an answer from several."""
    return services().curation.decide(policy(), package, bypass_token())


def decide_for_all(package: Package) -> Decision:
    """As decide(), whatever bypass token the request has: for what is remembered of the package."""
    return services().curation.decide(policy(), package)


def names_digests(package: Package, algorithm: str) -> bool:
    """Whether a rule on the package's name speaks of digests of that algorithm."""
    return services().curation.names_digests(policy(), package, algorithm)


def versions_matter(package: Package) -> bool:
    """Whether the policy can tell one version of the package's name from another."""
    return services().curation.concerns_versions(policy(), package)


def bypass_token() -> str | None:
    for name in BYPASS_HEADERS:
        if name in request.environ:
            return str(request.environ[name])
    return None


def served(granted: Permit, digest: Digest) -> None:
    """Note in the ledger what leaves now, and to whom. Nothing leaves on HEAD."""
    if not granted.package.format:
        return
    services, environ, _ = surroundings()
    if environ["REQUEST_METHOD"] == "GET" and environ[STATE].keeps_ledger:
        who = recognise(environ)
        line = (granted.package, str(digest), who.name, who.source.value, ci_of(who))
        services.curation.ledger.served(*line)
        recording = CURRENT.get()
        if recording is not None:
            recording.effects.append(lambda now: services.curation.ledger.served(*line))


def ci_of(who: Principal) -> str:
    if who.source is not Source.OIDC:
        return ""
    claims = dict(who.claims)
    return " ".join(f"{name}={claims[name]}" for name in CI_CLAIMS if name in claims)[:300]


def _count(told: Refusal, mode: str) -> None:
    metrics, registry = services().metrics, told.package.repository or repository_name()
    metrics.count(catalogue.CURATION_BLOCKS, registry, told.rule, mode)
    if told.rule == "namespace":
        metrics.count(catalogue.NAMESPACE_REFUSED, registry)
    if told.rule == "quarantine":
        metrics.count(catalogue.QUARANTINE_HOLDS, registry, "blocked" if mode == "enforce" else "observed")


def _tell(told: Refusal, what: str) -> None:
    package = told.package
    log.info("%s: %s (%s)", what, told.message, package.repository or repository_name())
    outcome = "denied" if what == "blocked" else "ok"
    action = _ACTIONS.get(what, "curation_bypass")
    note(action, _artifact(package), f"{told.rule} {told.rule_id} {told.reason} {what} {told.id}", outcome, registry=package.repository or None)


def _artifact(package: Package) -> str:
    return f"{package.name}@{package.version}" if package.version else package.name
