"""What a format gives to the doctor: an address that shows whether a front leads to this registry, and checks of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from noraflask.services.doctor.findings import Finding
from noraflask.services.doctor.front import Answer, Front
from noraflask.storage import Storage

OpenStorage = Callable[[], AbstractContextManager[Storage]]
"""Opens the storage as its owner. Raises OSError."""


@dataclass(frozen=True, slots=True)
class OwnStorage:
    """The storage of this machine."""

    path: Path
    open: OpenStorage


@dataclass(frozen=True, slots=True)
class Context:
    """What a check may use."""

    front: Front
    size: int
    """Bytes of a large artifact, as the operator wants it."""
    pause_seconds: float
    """Of silence within an upload, which must be survived."""
    own: OwnStorage | None = None
    """What this machine keeps; the front may lead to it, or to another machine."""


@dataclass(frozen=True, slots=True)
class Check:
    title: str
    run: Callable[[Context], Iterable[Finding]]
    needs_login: bool = False
    """It pushes; not run where the registry wants a login and there is none."""


@dataclass(frozen=True, slots=True)
class Home:
    """An address that answers 200, or 401 to whoever must log in."""

    path: str
    is_ours: Callable[[Answer], bool]
    """Whether it was this registry that answered."""


@dataclass(frozen=True, slots=True)
class FormatChecks:
    home: Home | None = None
    checks: tuple[Check, ...] = ()
    trust: tuple[str, ...] = ()
    """Where its clients take the certificate of a CA from, one line each."""


def _is_health(answer: Answer) -> bool:
    members = answer.json()
    return isinstance(members, dict) and "version" in members


HEALTH = Home("/health", _is_health)
"""Where no format has a home."""
