"""The live state: all that a reload may change, as one frozen object. It is replaced by one assignment; a request keeps the one it began with.

What outlives a state is a service: the counts of rate limits, users and tokens, the lockout, keys of issuers, the ledger's file.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from noraflask.config import Config, restart_only
from noraflask.services.auth.authenticator import Authenticator
from noraflask.services.auth.rules import Access
from noraflask.services.curation.gate import Permits
from noraflask.services.curation.policy import Policy
from noraflask.services.limits.rates import Limits
from noraflask.services.repositories import Repositories


@dataclass(frozen=True, eq=False)
class State:
    config: Config
    """As it was read last; what takes a restart, as it was at the start."""
    repositories: Repositories
    access: Access
    policy: Policy
    """Of curation."""
    permits: Permits
    """By that policy."""
    limits: Limits
    authenticator: Authenticator | None
    """None where authentication is off: everybody is anonymous and may do everything."""
    when: float
    """When the configuration was read, seconds since the epoch."""
    policy_when: float
    """Likewise of the first state that had this policy."""
    keeps_ledger: bool
    """Is noted what is served?"""
    fingerprint: str
    """Of all of it; that of the policy alone is another."""


class Live:
    """Holds the state that requests begin with."""

    __slots__ = ("state",)

    def __init__(self, state: State) -> None:
        self.state = state


def fingerprint_of(config: Config, policy: Policy) -> str:
    """Equal for equal settings and rules, on any server. All else of a state follows from these two."""
    return hashlib.sha256(f"{policy.fingerprint} {config!r}".encode()).hexdigest()[:16]


def without_secrets(config: Config) -> Config:
    """What may be handed on: compiled into the policy, or wanted at the start alone, the secrets are not missed afterwards."""
    curation, limits = replace(config.curation, bypass_token=None), replace(config.rate_limit, storage_url=None)
    return replace(config, curation=curation, rate_limit=limits)


def as_at_start(old: Config, new: Config) -> Config:
    """The new configuration, with what takes a restart as the old one has it."""
    for name in restart_only(old, new):
        section, _, field = name.partition(".")
        if section in new.formats:
            put_back = replace(new.formats[section], **{field: getattr(old.formats[section], field)})
            new = replace(new, formats={**new.formats, section: put_back})
        else:
            put_back = replace(getattr(new, section), **{field: getattr(getattr(old, section), field)})
            new = replace(new, **{section: put_back})
    return new
