"""The services that all formats lean on, made once by `app.create_app`."""

from __future__ import annotations

from dataclasses import dataclass

from noraflask.config import Config
from noraflask.services.audit import Audit
from noraflask.services.auth.authenticator import Authenticator
from noraflask.services.auth.rules import Access
from noraflask.services.auth.tokens import Tokens
from noraflask.services.content import Content
from noraflask.services.curation.gate import Curation
from noraflask.services.health import Health
from noraflask.services.inventory import Inventory
from noraflask.services.limits.rates import RateLimits
from noraflask.services.metrics.counting import NullMetrics
from noraflask.services.reloads import Reloads
from noraflask.services.staging import Staging


@dataclass(frozen=True)
class Services:
    config: Config
    """As it was at the start; what a reload may change is asked of `access` and `logins`."""
    content: Content
    staging: Staging
    health: Health
    access: Access
    curation: Curation
    reloads: Reloads
    limits: RateLimits
    tokens: Tokens
    audit: Audit
    metrics: NullMetrics
    inventory: Inventory | None
    """None where metrics are off."""
    logins: Authenticator | None
    """None where authentication is off: everybody is anonymous and may do everything."""
