"""The services that all formats lean on, made once by `app.create_app`. What may change while they run is the live state's (state.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from noraflask.config import Config
from noraflask.services.audit import Audit
from noraflask.services.auth.logins import Logins
from noraflask.services.auth.tokens import Tokens
from noraflask.services.content import Content
from noraflask.services.curation.gate import Curation
from noraflask.services.health import Health
from noraflask.services.inventory import Inventory
from noraflask.services.limits.rates import RateLimits
from noraflask.services.metrics.counting import NullMetrics
from noraflask.services.reloads import Reloads
from noraflask.services.staging import Staging
from noraflask.services.state import Live


@dataclass(frozen=True)
class Services:
    config: Config
    """As it was at the start. A request asks its state."""
    live: Live
    content: Content
    staging: Staging
    health: Health
    curation: Curation
    reloads: Reloads
    limits: RateLimits
    tokens: Tokens
    audit: Audit
    metrics: NullMetrics
    inventory: Inventory | None
    """None where metrics are off."""
    logins: Logins | None
    """None where authentication is off."""
    formats: tuple[Any, ...] = ()
    """Those that are served, of web/format.py: what a reload makes repositories of."""
