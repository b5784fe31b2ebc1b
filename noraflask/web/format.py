"""What a format tells the frame about itself. Everybody else asks these values instead of knowing a format by its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flask import Blueprint

from noraflask.ecosystems import Ecosystem
from noraflask.services.auth.principal import Action
from noraflask.services.stock import Stock
from noraflask.web.setup_pages import Page

if TYPE_CHECKING:
    from noraflask.services.doctor.format_checks import FormatChecks

Challenge = Callable[[Action, str | None, str], str]
"""A WWW-Authenticate header for an action on a name; the third argument is an error code of RFC 6750, 3.1, or empty."""
Renderer = Callable[[Exception], tuple[str, bytes]]
"""An error's content type and body in a format's own form."""


@dataclass(frozen=True)
class Login:
    """How a format's clients log in."""

    challenge: Challenge | None = None
    """None: Basic will do."""
    password_paths: tuple[str, ...] = ()
    """Ends of addresses whose requests may carry a password in their body, with the mount in front, such as "/v2/token"."""


@dataclass(frozen=True)
class Format:
    ecosystem: Ecosystem
    mounts: tuple[str, ...]
    """Paths of its default repository, one segment each, such as "/v2"."""
    routes: Blueprint
    """Registered once, below an inner mount, whatever repositories there are (targets.py)."""
    render_error: Renderer
    stock: Stock
    login: Login = field(default_factory=Login)
    headers: tuple[tuple[str, str], ...] = ()
    """On every answer."""
    request_headers: tuple[str, ...] = ()
    answer_headers: tuple[str, ...] = ()
    """Of its protocol, that pages of other origins may send and read where they are let in (browsers.py). Those of HTTP itself go without saying."""
    root: str = ""
    """What stands between a named repository's address, /repository/<name>, and what follows the mount."""
    names_begin_with_repository: bool = False
    """The first segment below the mount may be a repository's name, for clients that cannot be given a path."""
    takes_encoded_slash: bool = False
    """Its clients write %2F for a slash that is part of a name."""
    setup: tuple[Page, ...] = ()
    """How its clients are set up; the names of clients are distinct among all formats."""
    checks: Callable[[], FormatChecks] | None = None
    """Gives what the doctor asks of a front for it; imported by this call alone, for a server never makes it."""

    @property
    def id(self) -> str:
        return self.ecosystem.id
