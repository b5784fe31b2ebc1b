"""Other rights, rules and logins for an app that runs, as a reload brings them: by another state."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from noraflask.services.curation.gate import Permits
from noraflask.services.curation.policy import Policy
from noraflask.services.state import Live


def change(live: Live, **members: Any) -> None:
    live.state = replace(live.state, **members)


def enforce(live: Live, policy: Policy) -> None:
    """These rules and no others."""
    change(live, policy=policy, permits=Permits(policy), keeps_ledger=policy.settings.mode != "off")
