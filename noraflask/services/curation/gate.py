"""The gate: the one question that must be asked before anything is served.

check() answers with a Permit or raises CurationDenied. A view that serves without having asked is stopped by its guard (web/access.py), so a format
cannot forget. What the answer rests on, one snapshot of the policy, is taken once for each request and kept to its end.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import shlex
import time
import zlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from noraflask.ecosystems import ECOSYSTEMS
from noraflask.errors import CurationDenied
from noraflask.recording import CURRENT, spoil
from noraflask.services.bounded_memory import BoundedMemory, bytes_of
from noraflask.services.curation.deciding import blocks_name, concerns_versions, decide, names_digests, next_change, visible
from noraflask.services.curation.freeze import Freeze
from noraflask.services.curation.ledger import LAST_SECOND, Ledger
from noraflask.services.curation.model import Decision, Package
from noraflask.services.curation.policy import Policy

_SEAL = object()
PERMITS_BYTES = 6 * 1024 * 1024
"""Of the permits that a process remembers."""
PERMIT_BYTES = 900
"""One of them without its texts."""
ID_START = "d-"
ID_CHARACTERS = 4096


class Permit:
    """The gate's word that a package may be served. Nobody else can make one."""

    __slots__ = ("decision", "package", "policy")

    def __init__(self, seal: object, package: Package, decision: Decision, policy: Policy) -> None:
        if seal is not _SEAL:
            raise RuntimeError("a permit comes from Curation.check() alone")
        self.package, self.decision, self.policy = package, decision, policy

    def __init_subclass__(cls) -> None:
        raise RuntimeError("a permit comes from Curation.check() alone")


@dataclass(frozen=True, slots=True)
class Remembered:
    """A permit that was given, and how long it may be given again without asking."""

    permit: Permit
    until: float
    revision: object | None
    """The state of storage that it rests on; None: it rests on none."""


class Permits:
    """A policy and the permits that were given by it. Part of the live state, and dies with it."""

    __slots__ = ("known", "open", "policy")

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.open = Permit(_SEAL, Package("", ""), Decision(True), policy) if is_off(policy) else None
        """For all and everything, where the policy could refuse nothing; None where it could."""
        self.known: BoundedMemory[Hashable, Remembered] = BoundedMemory(PERMITS_BYTES)


class Curation:
    def __init__(self, ledger: Ledger, freeze: Freeze, clock: Callable[[], float] = time.time) -> None:
        self.ledger = ledger
        self.freeze = freeze
        self._clock = clock

    def now(self) -> float:
        spoil("the time was asked")
        return self._clock()

    def recall(self, permits: Permits, key: Hashable, revision: Callable[[], object | None] | None) -> Permit | None:
        """The permit that was given for this before, if nothing that it rests on has changed. `revision`: tells the state of storage now."""
        known = permits.known.get(key) if not permits.policy.settings.audit_allows else None
        if known is None or known.until <= self._clock():
            return None
        if known.revision is not None and (revision is None or known.revision != revision()):
            return None
        recording = CURRENT.get()
        if recording is not None:
            recording.last_until(known.until)
        return known.permit

    def remember(self, permits: Permits, key: Hashable, permit: Permit, revision: object | None) -> None:
        """For a hot read. Only plain permits: what is logged is worked out, and logged, each time; and a freeze may begin at any moment."""
        decision, package = permit.decision, permit.package
        is_plain = decision.allowed and not (decision.would_block or decision.bypassed_by or decision.read_back)
        if not is_plain or not (package.hosted or package.seen is not None):
            return
        ends = [end for end in (decision.until, next_change(permits.policy, self._clock())) if end is not None]
        size = PERMIT_BYTES + bytes_of(package.name, package.version, *package.digests)
        permits.known.put(key, Remembered(permit, min(ends, default=math.inf), revision), size)

    def check(self, policy: Policy, package: Package, bypass_token: str | None = None, decision: Decision | None = None) -> Permit:
        """May it be served? Raises CurationDenied. `decision`: what a format has worked out itself, of several answers of decide()."""
        spoil("a verdict is worked out")
        if decision is None:
            decision = self.decide(policy, package, bypass_token)
        if not decision.allowed:
            raise refusal(policy, package, decision, self._clock()).as_error()
        return Permit(_SEAL, package, decision, policy)

    def decide(self, policy: Policy, package: Package, bypass_token: str | None = None) -> Decision:
        spoil("a verdict is worked out")
        if not package.hosted and package.seen is None:
            frozen = self.freeze.current()
            if frozen is not None:
                return Decision(False, "freeze", reason=f"nothing new is fetched: {frozen.reason}", until=frozen.until)
        return decide(policy, package, self._clock(), bypass_token)

    def blocks_name(self, policy: Policy, package: Package) -> Decision:
        spoil("a verdict is worked out")
        return blocks_name(policy, package.format, package.name, package.repository, self._clock())

    def concerns_versions(self, policy: Policy, package: Package) -> bool:
        return concerns_versions(policy, package.format, package.name, package.repository)

    def names_digests(self, policy: Policy, package: Package, algorithm: str) -> bool:
        return names_digests(policy, package.format, package.name, package.repository, algorithm)

    def visible(self, policy: Policy, packages: Sequence[Package]) -> tuple[list[bool], float | None]:
        """Which versions an index may show, and until when that holds: to be rendered once for (index revision, fingerprint, that moment)."""
        spoil("a verdict is worked out")
        return visible(policy, packages, self._clock())


def is_off(policy: Policy) -> bool:
    """Nothing can be refused, so nothing need be asked."""
    settings = policy.settings
    quarantines = {settings.quarantine, *(own[2] for own in settings.formats)} - {None, "off"}
    return settings.mode == "off" and not policy.counts.get("namespace") and not quarantines


# Refusals.


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a client is told, in NORA's words (fact sheet curation.md, section 12) and ours."""

    package: Package
    rule: str
    reason: str
    rule_id: str
    place: str
    policy: str
    id: str
    docs: str | None
    until: float | None

    @property
    def message(self) -> str:
        version = f"@{self.package.version}" if self.package.version else ""
        what = f"{self.package.format}:{self.package.name}{version}"
        by = f"{self.rule} {self.rule_id}" if self.rule_id else self.rule
        ask = f"to ask for an exception, tell the decision {self.id} to the security team"
        return f"{what} is blocked by policy ({by}): {self.reason or 'no reason is given'}; {ask}{f', see {self.docs}' if self.docs else ''}"

    def members(self) -> dict[str, Any]:
        package = self.package
        version = package.version or "*"
        name = f"{package.format}:{package.name}" + ("" if version == "*" else f"@{version}")
        members: dict[str, Any] = {
            "error": "blocked_by_policy",
            "error_version": "v1",
            "context": {
                "rule": self.rule,
                "reason": self.reason,
                "registry": package.format,
                "package": package.name,
                "version": version,
                "rule_id": self.rule_id,
                "place": self.place,
                "policy": self.policy,
                "decision": self.id,
            },
            "hint": f"Run: nora curation explain {shlex.quote(name)}",
        }
        if self.until is not None:
            members["context"]["until"] = int(self.until)
        if self.docs:
            members["docs"] = self.docs
        return members

    def as_error(self) -> CurationDenied:
        return CurationDenied(self.message, self.members()["context"], self.headers(), self)

    def headers(self) -> dict[str, str]:
        reason = self.reason if self.reason.isascii() and self.reason.isprintable() and self.reason else "unknown"
        return {
            "X-Nora-Decision": "blocked",
            "X-Nora-Rule": self.rule,
            "X-Nora-Reason": reason[:500],
            "X-Nora-Decision-Id": self.id,
            "X-Nora-Policy": self.policy,
            "Cache-Control": "no-store",
        }


def refusal(policy: Policy, package: Package, decision: Decision, now: float) -> Refusal:
    rule = decision.rule
    return Refusal(
        package=package,
        rule=decision.filter,
        reason=decision.reason,
        rule_id=rule.id if rule else "",
        place=rule.place.rpartition("/")[2] if rule else "",
        policy=policy.fingerprint,
        id=decision_id(policy, package, now),
        docs=policy.settings.docs_url,
        until=decision.until,
    )


def decision_id(policy: Policy, package: Package, now: float) -> str:
    """An id that says itself what was asked: whoever is told it, on any node, can explain it without looking anything up."""
    facts = [policy.fingerprint, int(now), package.format, package.name, package.version or "", package.repository]
    packed = zlib.compress(json.dumps(facts, separators=(",", ":")).encode(), 9)
    return ID_START + base64.urlsafe_b64encode(packed).rstrip(b"=").decode()


def read_decision_id(text: str) -> tuple[str, int, Package]:
    """Fingerprint of the policy, time, and package of a decision id. Raises ValueError."""
    if not text.startswith(ID_START) or len(text) > ID_CHARACTERS:
        raise ValueError("a decision id begins with d-")
    body = text.removeprefix(ID_START)
    try:
        packed = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
        unpack = zlib.decompressobj()
        facts = json.loads(unpack.decompress(packed, 8192))
        fingerprint, when, format, name, version, repository = facts
        if not unpack.eof or type(when) is not int or not 0 <= when <= LAST_SECOND or format not in ECOSYSTEMS:
            raise ValueError
        "".join((fingerprint, name, version, repository)).encode()
    except (ValueError, binascii.Error, zlib.error, TypeError, RecursionError):
        raise ValueError("the decision id is damaged; copy it whole") from None
    return fingerprint, when, Package(format, name, version or None, repository)
