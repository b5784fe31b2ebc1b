"""A request at the gate (services/curation/gate.py): who asks, with which bypass token, and what the logs are told."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable

from flask import request

from noraflask.errors import CurationDenied
from noraflask.services.auth.principal import Principal, Source
from noraflask.services.curation.gate import Permit, Refusal, refusal
from noraflask.services.curation.model import Decision, Package
from noraflask.services.curation.policy import Policy
from noraflask.services.metrics import catalogue
from noraflask.web.context import note, principal, repository_name, services, state

PERMIT = "nora.permit"
"""In a request's environ, once the gate was asked."""
REFUSED = "nora.refused"
"""Likewise, once it refused: what the client is told."""
BYPASS_HEADERS = ("HTTP_X_NORA_BYPASS_TOKEN", "HTTP_X_NORA_BYPASS")
CI_CLAIMS = ("repository", "project_path", "kubernetes.io.namespace", "ref", "run_id", "job_id", "sha")
"""What tells a CI job in the ledger."""

log = logging.getLogger("nora.curation")


def policy() -> Policy:
    """The policy of the state that this request began with."""
    return state().policy


def open_permit() -> Permit | None:
    """Where no policy could refuse anything: then nothing need be worked out for the gate."""
    granted = state().permits.open
    if granted is not None:
        request.environ[PERMIT] = granted
    return granted


def permit(package: Package, decision: Decision | None = None) -> Permit:
    """Ask for the bytes of an artifact, or for an index as a whole. Raises CurationDenied.

    `decision`: what the format has worked out itself, from several answers of decide().
    """
    found = policy()
    try:
        granted = services().curation.check(found, package, bypass_token(), decision)
    except CurationDenied as denied:
        request.environ[REFUSED] = denied.refusal
        _count(denied.refusal, "enforce")
        _tell(denied.refusal, "blocked")
        raise
    request.environ[PERMIT] = granted
    if granted.decision.would_block or granted.decision.bypassed_by:
        what = "would be blocked" if granted.decision.would_block else f"let past by the bypass token {granted.decision.bypassed_by}"
        told = refusal(found, package, granted.decision, services().curation.now())
        if granted.decision.would_block:
            _count(told, "audit")
        _tell(told, what)
    elif found.settings.audit_allows:
        note("curation_allow", _artifact(package), found.fingerprint, registry=package.format)
    return granted


def recall(key: Hashable, stamp: Callable[[], object | None]) -> Permit | None:
    """The permit that was given for the same before, where nothing has changed since."""
    granted = services().curation.recall(state().permits, key, stamp)
    if granted is not None:
        request.environ[PERMIT] = granted
    return granted


def remember(key: Hashable, granted: Permit, stamp: object | None) -> Permit:
    services().curation.remember(state().permits, key, granted, stamp)
    return granted


def decide(package: Package) -> Decision:
    """Without a permit: for formats that work out an answer from several."""
    return services().curation.decide(policy(), package, bypass_token())


def bypass_token() -> str | None:
    for name in BYPASS_HEADERS:
        if name in request.environ:
            return str(request.environ[name])
    return None


def served(granted: Permit, digest: str) -> None:
    """Note in the ledger what leaves now, and to whom."""
    if not state().keeps_ledger:
        return
    who = principal()
    services().curation.ledger.served(granted.package, digest, who.name, who.source.value, ci_of(who))


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
    outcome = {"blocked": "denied", "would be blocked": "ok"}.get(what, "ok")
    action = "curation_bypass" if what.startswith("let past") else "curation_block" if what == "blocked" else "curation_would_block"
    note(action, _artifact(package), f"{told.rule} {told.rule_id} {told.reason} {what} {told.id}", outcome, registry=package.format)


def _artifact(package: Package) -> str:
    return f"{package.name}@{package.version}" if package.version else package.name
