"""What the doctor asks of a front for files: one that is put in two parts, read whole and in part, looked at and deleted."""

from __future__ import annotations

import contextlib
import os
import random
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256

from noraflask.ecosystems.raw import ECOSYSTEM
from noraflask.formats.raw.protocol import folder_key
from noraflask.services.doctor import remedies
from noraflask.services.doctor.findings import NAME, Finding, ok, warning, wrong
from noraflask.services.doctor.format_checks import Check, Context, FormatChecks
from noraflask.services.doctor.front import Answer, Front, NoAnswer

TITLE = "files"
SIZE_BYTES = 256 * 1024
HALF = SIZE_BYTES // 2
DATA = random.Random("nora-doctor").randbytes(SIZE_BYTES)
"""The same for each run, so that storage has it once until it is deleted; no proxy can compress it."""
DIGEST = sha256(DATA).hexdigest()


class Stop(Exception):
    """What comes next makes no sense any more; the finding says why."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.text)
        self.finding = finding


@dataclass
class Canary:
    front: Front
    name: str = field(default_factory=lambda: f"{NAME}/{secrets.token_hex(6)}")

    @property
    def path(self) -> str:
        return f"{self.front.target.prefix}/raw/{self.name}"

    def run(self) -> Iterator[Finding]:
        try:
            for step in (self.put, self.get, self.part, self.condition):
                yield from step()
        except Stop as stop:
            yield stop.finding
        except NoAnswer as problem:
            yield wrong(TITLE, f"the connection broke: {problem}", *remedies.TIMEOUT)
        finally:
            yield from self.delete()

    def put(self) -> Iterator[Finding]:
        """In two parts, as a broken upload goes on."""
        for first, statuses in ((0, (202,)), (HALF, (200, 201))):
            headers = {"Content-Range": f"bytes {first}-{first + HALF - 1}/{SIZE_BYTES}", "Content-Type": "application/octet-stream"}
            answer = self.front.ask("PUT", self.path, DATA[first : first + HALF], headers)
            if answer.status == 404:
                raise Stop(ok(TITLE, "are not served here"))
            self._expect("a part of a file", answer, statuses)
        yield ok(TITLE, "put in two parts: a broken upload can be resumed")

    def get(self) -> Iterator[Finding]:
        answer = self.front.ask("GET", self.path, headers={"Accept-Encoding": "gzip"})
        if answer.status == 403:
            raise Stop(warning(TITLE, f"not read: {_said(answer)}", f'[[allow]]   format = "raw"   name = "{NAME}/**"   (in curation.rules_path)'))
        self._expect("GET", answer, (200,))
        if answer.headers.get("Content-Encoding") or answer.digest != f"sha256:{DIGEST}":
            raise Stop(wrong(TITLE, "other bytes come back than were put", *remedies.COMPRESSION))
        if answer.headers.get("ETag") != f'"{DIGEST}"':
            raise Stop(wrong(TITLE, f'ETag is {answer.headers.get("ETag") or "missing"}, expected "{DIGEST}"', *remedies.ANSWER_HEADERS))
        yield ok(TITLE, "read as they were put; ETag comes through")

    def part(self) -> Iterator[Finding]:
        answer = self.front.ask("GET", self.path, headers={"Range": f"bytes={HALF}-", "If-Range": f'"{DIGEST}"'})
        if answer.status != 206 or answer.body != DATA[HALF:]:
            raise Stop(wrong(TITLE, f"a range is answered with {_said(answer)}: no download can be resumed", *remedies.RANGE))
        yield ok(TITLE, "a part is read: a broken download can be resumed")

    def condition(self) -> Iterator[Finding]:
        """Proxies that take If-Match away let two writers overwrite each other."""
        answer = self.front.ask("PUT", self.path, b"other", headers={"If-Match": '"0"'})
        if answer.status != 412:
            raise Stop(wrong(TITLE, f"If-Match of another state is answered with {_said(answer)} instead of 412", *remedies.ANSWER_HEADERS))
        yield ok(TITLE, "If-Match is judged by the registry")

    def delete(self) -> Iterator[Finding]:
        try:
            answer = self.front.ask("DELETE", self.path)
        except NoAnswer as problem:
            yield warning(TITLE, f"{self.path} stays: {problem}")
            return
        if answer.status not in (204, 404):
            yield warning(TITLE, f"{self.path} stays: {_said(answer)}", *remedies.METHODS, "or a login that may delete there")

    def _expect(self, what: str, answer: Answer, statuses: tuple[int, ...]) -> None:
        """Raises Stop."""
        if answer.status in statuses:
            return
        if answer.status in (401, 403):
            raise Stop(wrong(TITLE, f"{what} is refused: {_said(answer)}", remedies.LOGIN, *remedies.METHODS))
        if answer.status == 413:
            raise Stop(wrong(TITLE, f"{what} is refused: {_said(answer)}", *remedies.BODY_LIMIT))
        if answer.status in (502, 503, 504):
            raise Stop(wrong(TITLE, f"{what}: the proxy does not reach the registry: {_said(answer)}", *remedies.UPSTREAM))
        raise Stop(wrong(TITLE, f"{what} is answered with {_said(answer)} instead of {statuses[0]}"))


def _said(answer: Answer) -> str:
    """The status, and the first line of a text."""
    is_text = answer.headers.get("Content-Type", "").startswith("text/plain")
    line = answer.body.decode(errors="replace").partition("\n")[0][:200] if is_text else ""
    return f"{answer.status}{f': {line}' if line else ''}"


def canary(context: Context) -> Iterator[Finding]:
    yield from Canary(context.front).run()
    forget(context)


def forget(context: Context) -> None:
    """The folder of a removed canary, where this machine keeps the storage; another run's canary may be in it."""
    if context.own is not None:
        with contextlib.suppress(OSError):
            os.rmdir(context.own.path / folder_key(ECOSYSTEM.id, NAME))


CHECKS = FormatChecks(
    checks=(Check(TITLE, canary, needs_login=True),),
    trust=("curl:     --cacert ca.crt with each command, wget: --ca-certificate=ca.crt; GET /setup/raw tells how",),
)
