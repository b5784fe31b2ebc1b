"""`nora` with a clock that a test sets, and without chance: `python -m tests.fault.twin.launcher CLOCK [SPOILED] -- serve`.

CLOCK is a file of two numbers of nanoseconds: what time.time() gives, and the monotonic clock of what counts seconds for clients: rate limits,
lockout, how often the users' files are looked at. Everything else keeps the machine's monotonic clock, and so waits and gives up as ever. Tokens,
session ids and signatures are the same in each server that is asked the same. SPOILED names one of spoils.py: a fault that a test must notice.
"""

from __future__ import annotations

import itertools
import mmap
import os
import random
import secrets
import sys
import time
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

CLOCK_BYTES = 16
NO_CLOCK = "-"
"""In the place of CLOCK: time and chance as ever, for a fault alone."""
FIXED = ("noraflask.services.auth.tokens", "noraflask.services.auth.signing", "noraflask.services.staging")
"""Modules whose random texts clients see. Others keep theirs, such as names of temporary files, which two processes must not share."""


class Clock:
    """Both numbers, shared with whoever else has the file."""

    def __init__(self, path: str, writable: bool = False) -> None:
        descriptor = os.open(path, os.O_RDWR if writable else os.O_RDONLY)
        try:
            access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
            self._cells = memoryview(mmap.mmap(descriptor, CLOCK_BYTES, prot=access)).cast("q")
        finally:
            os.close(descriptor)
        self._files = itertools.count()

    def move(self, wall: float, monotonic: float) -> None:
        self._cells[0] += int(wall * 1e9)
        self._cells[1] += int(monotonic * 1e9)

    def time(self) -> float:
        return self._cells[0] / 1e9

    def time_ns(self) -> int:
        """No two are the same, since versions of files rest on it."""
        return self._cells[0] + next(self._files)

    def monotonic(self) -> float:
        return self._cells[1] / 1e9

    def monotonic_ns(self) -> int:
        return self._cells[1]


def take_over_time(clock: Clock) -> None:
    """Before anything of noraflask is imported: many a default is time.time."""
    time.time, time.time_ns = clock.time, clock.time_ns


def take_over_seconds(clock: Clock) -> None:
    from noraflask.services.auth import lockout, users
    from noraflask.services.limits import rates, table

    seconds = time.monotonic
    shown = SimpleNamespace(**vars(time) | {"monotonic": clock.monotonic, "monotonic_ns": clock.monotonic_ns})
    for module in (lockout, users, rates, table):
        module.time = shown  # type: ignore[attr-defined]
    for made in (lockout.Lockout, users.Users, rates.RateLimits):
        defaults = made.__init__.__defaults__ or ()  # type: ignore[misc]
        made.__init__.__defaults__ = tuple(clock.monotonic if value is seconds else value for value in defaults)  # type: ignore[misc]


def take_over_chance() -> None:
    streams: dict[str, random.Random] = {}

    def token_hex(size: int = 32) -> str:
        module = sys._getframe(1).f_globals["__name__"]
        if module not in FIXED:
            return os.urandom(size).hex()
        return streams.setdefault(module, random.Random(module)).randbytes(size).hex()

    secrets.token_hex = token_hex  # type: ignore[assignment]
    _sign_alike()


def _sign_alike() -> None:
    from cryptography.hazmat.primitives.asymmetric import ec
    from joserfc._rfc7518 import jws_algs
    from joserfc.jwk import ECKey

    from noraflask.services.auth import signing

    jws_algs.ECDSA = partial(ec.ECDSA, deterministic_signing=True)  # type: ignore[misc]
    signing._new_key = lambda: (signing.KID_START + "0" * 16, ECKey.import_key(_jwk(ec.derive_private_key(20261129, ec.SECP256R1()))))


def _jwk(key: Any) -> dict[str, Any]:
    from base64 import urlsafe_b64encode

    numbers = key.private_numbers()
    parts = {"x": numbers.public_numbers.x, "y": numbers.public_numbers.y, "d": numbers.private_value}
    return {"kty": "EC", "crv": "P-256"} | {name: urlsafe_b64encode(value.to_bytes(32, "big")).rstrip(b"=").decode() for name, value in parts.items()}


def hurry() -> None:
    """What is written or gathered now and then is so at once, and what runs by itself runs once."""
    from noraflask.services import health, inventory
    from noraflask.services.curation import ledger
    from noraflask.services.limits.bucket import Bucket
    from noraflask.web import metrics

    settings: tuple[tuple[ModuleType | type, str, object], ...] = (
        (ledger, "FLUSH_SECONDS", 0.05),
        (health, "TICK_SECONDS", 1e6),
        (inventory, "LEAST_SECONDS", 1e6),
        (metrics, "FRESH", Bucket(1000, 1000)),
        (health.Health, "uptime_seconds", lambda self: 0),
    )
    for module, name, value in settings:
        assert hasattr(module, name)
        setattr(module, name, value)
    try:
        from noraflask.serve import plans
    except ImportError:
        return
    plans.AGAIN_SECONDS = 0.02  # or little would be planned while so much happens in so little time


def main(arguments: list[str]) -> int:
    ours, theirs = arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]
    if ours[0] != NO_CLOCK:
        clock = Clock(ours[0])
        take_over_time(clock)
        take_over_chance()
        take_over_seconds(clock)
        hurry()
    if ours[1:]:
        from tests.fault.twin.spoils import SLOW, SPOILS

        (SPOILS | SLOW)[ours[1]]()
    from noraflask.cli import main as nora

    return nora(theirs)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
