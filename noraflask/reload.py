"""The reload: the master reads everything again and hands on what it could take over itself; every process takes over exactly that.

Until the one assignment in adopt() nothing has changed; from then on every new request has the new state, whole.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass

from noraflask.assembly import make_state
from noraflask.config import Config, reload, restart_only
from noraflask.services import Services
from noraflask.services.audit import Record
from noraflask.services.curation.ledger import read
from noraflask.services.curation.loading import FLIP_DAYS, check_flips, load_policy
from noraflask.services.curation.policy import Policy
from noraflask.services.state import State, as_at_start, without_secrets
from noraflask.services.state_folder import ledger_folder

DAY = 86400

log = logging.getLogger("nora.reload")
limits_log = logging.getLogger("nora.limits")


@dataclass(frozen=True)
class Snapshot:
    """What the master has read, to be pickled; the compiled policy goes beside it, in memory that all processes share."""

    config: Config
    when: float
    """Seconds since the epoch."""
    warnings: tuple[str, ...] = ()


def read_again(services: Services) -> tuple[Snapshot, bytes]:
    """What is configured now, and the compiled policy. Raises ConfigError. In a child of the master: it changes nothing, here or there."""
    before, now = services.live.state, time.time()
    config = reload(before.config, os.environ)
    data, rules = load_policy(config.curation, now)
    served = read(ledger_folder(services.config), now - FLIP_DAYS * DAY)  # it is where it was at the start
    check_flips(config.curation, rules, before.policy, Policy.from_buffer(data), served, now)
    different = (f"{name} differs now; it takes a restart to change it" for name in restart_only(before.config, config))
    warnings = (*config.warnings, *rules.warnings, *different)
    return Snapshot(without_secrets(as_at_start(before.config, config)), now, warnings), data


def warn(snapshot: Snapshot) -> None:
    """In the master, once it has adopted that."""
    for warning in snapshot.warnings:
        log.warning("%s", warning)


def adopt(services: Services, snapshot: Snapshot, policy_bytes: bytes | memoryview) -> State:
    """Make the snapshot's state and take it over: from the next request on it counts. Whatever it raises, nothing has changed then."""
    before = services.live.state
    config = as_at_start(before.config, snapshot.config)
    state = make_state(config, Policy.from_buffer(policy_bytes), snapshot.when, services.logins, services.formats, before)
    services.live.state = state
    return state


def start(services: Services, before: State | None = None) -> None:
    """In a worker: the threads that its state asks for, and the word that it has all of it. `before`: whose threads run already."""
    state = services.live.state
    authenticator, running = state.authenticator, before.authenticator if before else None
    if authenticator is not None and (running is None or not running.oidc.shares_keys(authenticator.oidc)):
        authenticator.oidc.start()
    if state.keeps_ledger:
        services.curation.ledger.start()
    services.reloads.adopted(state.policy.fingerprint, state.fingerprint)


def refused(services: Services, problem: str) -> None:
    """In the master: figures and audit."""
    services.reloads.failed()
    services.audit.record(Record("reload", "operator", detail=problem, outcome="failed"))


def succeeded(services: Services, before: State) -> None:
    """In the master, once all of it is handed on: log, audit and figures."""
    state = services.live.state
    services.reloads.succeeded(state.policy.fingerprint, state.fingerprint)
    if state.limits != before.limits:
        limits_log.info("%s", services.limits.describe(state.limits))
    detail = f"access {state.access.policy.fingerprint} curation {state.policy.fingerprint}"
    services.audit.record(Record("reload", "operator", detail=detail))
