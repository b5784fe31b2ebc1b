"""The services that all formats lean on, made once by `app.create_app`."""

from __future__ import annotations

from dataclasses import dataclass

from noraflask.config import Config
from noraflask.services.content import Content
from noraflask.services.health import Health
from noraflask.services.staging import Staging


@dataclass(frozen=True)
class Services:
    config: Config
    content: Content
    staging: Staging
    health: Health
