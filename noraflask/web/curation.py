"""Curation over HTTP, all JSON: which policy is in force, why something is blocked, who got it, reload and freeze."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, request

from noraflask.errors import BadRequest, NoraError, Unauthenticated, Unprocessable
from noraflask.services import state_folder
from noraflask.services.auth.principal import Action, Source
from noraflask.services.curation import replay
from noraflask.services.curation.explaining import Given, Judge, Stored, digests_of_version, explain, parse_coordinate, question_of, stamp
from noraflask.services.curation.freeze import Frozen
from noraflask.services.curation.ledger import read
from noraflask.services.curation.model import Package
from noraflask.services.curation.rule_values import digests_of, seconds_of
from noraflask.services.master_process import is_master
from noraflask.services.reloads import ReloadFigures, Reloads, WorkerState
from noraflask.settings.texts import read_duration
from noraflask.suspension import Steps
from noraflask.web.access import ADMIN, LOGIN, access
from noraflask.web.auth import read_json
from noraflask.web.context import formats, note, principal, repositories, services, state
from noraflask.web.gate import policy
from noraflask.web.responses import Answer

bp = Blueprint("curation", __name__)

RELOAD_SECONDS = 5.0
PAUSE_SECONDS = 0.05
LONGEST_REASON = 500
MOST_RECEIPTS = 10_000
USUAL_SINCE = "90d"


class ReloadFailed(NoraError):
    status = 409
    default_message = "the reload failed; the log says why"


class NoMaster(NoraError):
    status = 409
    default_message = "there is no master process to reload: this server was not started by `nora serve` or gunicorn"


@bp.get("/api/v1/policy")
@access(LOGIN)
def show_policy() -> Response:
    recognised()
    current, parts = policy(), services()
    frozen = parts.curation.freeze.current()
    figures, workers, now = parts.reloads.figures(), parts.reloads.workers(), time.time()
    return _json(
        {
            "fingerprint": current.fingerprint,
            "mode": current.settings.mode,
            "rules": len(current),
            "counts": current.counts,
            "has_allowlist": current.has_allowlist,
            "warnings": len(current.warnings),
            "adopted": stamp(state().policy_when),
            "workers": [worker_members(worker, figures, now) for worker in workers],
            "reloads": reload_members(figures),
            "freeze": freeze_members(frozen),
        }
    )


@bp.get("/api/v1/curation/explain")
@access(LOGIN)
def explain_decision() -> Response:
    """?format=…&name=…&version=1.3.0, or ?decision=d-…; also repository, at, age, published, digest, upstream=true and among, repeatable."""
    recognised()
    query, curation = request.args, services().curation
    try:
        words = [query["decision"]] if query.get("decision") else [query.get("format", ""), query.get("name", "")]
        given = Given(
            repository=query.get("repository", ""),
            hosted=query.get("upstream") != "true",
            published=_read("published", seconds_of),
            age=_read("age", read_duration),
            digests=tuple(digest for text in query.getlist("digest") for digest in digests_of(text)),
            at=_read("at", seconds_of),
            among=query.getlist("among"),
        )
        question = question_of(words, curation.now(), query.get("version"), given)
    except ValueError as problem:
        raise BadRequest(str(problem)) from None
    return _json(explain(policy(), question, look, curation.freeze.current()))


@bp.get("/api/v1/admin/curation/impact")
@access(ADMIN)
def show_impact() -> Response:
    """Who got it: ?format=…&name=…, or ?coordinate=FORMAT:NAME@1.3.0; also version (a pattern or a range) and since=90d."""
    query, curation = request.args, services().curation
    try:
        told = parse_coordinate(query["coordinate"]) if query.get("coordinate") else (query.get("format", ""), query.get("name", ""), None)
        since = read_duration(query.get("since", USUAL_SINCE))
        curation.ledger.flush()
        entries = read(ledger_folder(), curation.now() - since)
        version = query.get("version") or told[2] or "*"
        kinds = ((one.format, one.name) for one in repositories())
        receipts = replay.impact(entries, told[0], told[1], version, digests_of_version(look, kinds, told[0], told[1], version))
    except ValueError as problem:
        raise BadRequest(f"{problem}: ask with coordinate=FORMAT:NAME[@VERSION] and since=90d") from None
    return _json({**replay.impact_as_dict(receipts[:MOST_RECEIPTS]), "receipts_count": len(receipts)})


@bp.post("/api/v1/admin/reload")
@access(ADMIN)
def reload() -> Response:
    """As SIGHUP to the master, and waits until every worker has what it read."""
    reloads = services().reloads
    master = find_master()
    note("reload_request", registry="api")
    before = reloads.figures()
    try:
        os.kill(master, signal.SIGHUP)
    except OSError as problem:
        raise NoMaster(f"the master process cannot be told to reload: {problem.strerror}") from None
    figures = wait_for_reload(reloads, before)
    workers = reloads.workers()
    return _json({"reloads": reload_members(figures), "workers": [worker_members(worker, figures, time.time()) for worker in workers]})


@bp.post("/api/v1/admin/curation/freeze")
@access(ADMIN)
def begin_freeze() -> Steps[Response]:
    """{"reason": "…", "for": "12h"}, both as one likes. From now on nothing new comes from any upstream."""
    members = (yield from read_json()) if request.content_length or request.mimetype else {}
    reason, span = members.get("reason", "no reason is given"), members.get("for")
    if not isinstance(reason, str) or not reason.strip() or len(reason) > LONGEST_REASON or not reason.isprintable():
        raise Unprocessable(f"reason must be one line of 1 to {LONGEST_REASON} printable characters")
    frozen = services().curation.freeze.begin(principal().name, reason, None if span is None else _span(span))
    note("curation_freeze", detail=f"{reason}; {_until(frozen)}", registry="api")
    return _json({"freeze": freeze_members(frozen)})


@bp.delete("/api/v1/admin/curation/freeze")
@access(ADMIN)
def lift_freeze() -> Response:
    services().curation.freeze.lift()
    note("curation_lift", registry="api")
    return _json({"freeze": None})


# What requests say.


def recognised() -> None:
    """Anybody with a credential of one's own. A bearer token that was issued to nobody in particular, for open images, is none."""
    if state().access.policy.enabled and principal().source is Source.ANONYMOUS:
        raise Unauthenticated()


def _read(name: str, parse: Callable[[str], float]) -> float | None:
    text = request.args.get(name)
    if text is None:
        return None
    try:
        return parse(text)
    except ValueError as problem:
        raise ValueError(f"{name}: {problem}") from None


def _span(given: Any) -> float:
    try:
        seconds = read_duration(given) if isinstance(given, str) else 0.0
    except ValueError:
        seconds = 0.0
    if not seconds:
        raise Unprocessable('for must be a duration of weeks, days and hours such as "12h"; leave it out to freeze until it is lifted')
    return seconds


def look(package: Package, judge: Judge) -> Stored | None:
    """In storage, for whoever may pull it: tags and digests of others are nobody's business."""
    format = formats().get(package.format)
    found: Stored | None = format.stock.look(services().content, package, judge) if format else None
    if found is not None and not state().access.allowed(principal(), Action.PULL, package.repository, found.name):
        return None
    return found


def ledger_folder() -> Path:
    return state_folder.ledger_folder(services().config)


# The reload.


def find_master() -> int:
    """The process id of this worker's master. Raises NoMaster."""
    master = os.getppid()
    if not services().health.is_started or not is_master(master):
        raise NoMaster()
    return master


def wait_for_reload(
    reloads: Reloads,
    before: ReloadFigures,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> ReloadFigures:
    """Raises ReloadFailed: the master refused the configuration, or not all have it in time."""
    end = clock() + RELOAD_SECONDS
    while True:
        figures = reloads.figures()
        if figures.failed != before.failed:
            raise ReloadFailed()
        current, workers = count_current(reloads, figures)
        if figures.succeeded != before.succeeded and current == workers:
            return figures
        if clock() >= end:
            told = f"after {RELOAD_SECONDS:g} seconds {current} of {workers} workers have the new policy"
            raise ReloadFailed(f"{told}; GET /api/v1/policy shows them, the log says more")
        pause(PAUSE_SECONDS)


def is_current(worker: WorkerState, figures: ReloadFigures) -> bool:
    """It has taken over all that the master read last, and not before."""
    return worker.state == figures.state and worker.since >= figures.last_success


def count_current(reloads: Reloads, figures: ReloadFigures) -> tuple[int, int]:
    """How many workers are current, and how many there are."""
    workers = reloads.workers()
    return sum(is_current(worker, figures) for worker in workers), len(workers)


# What answers say.


def health_members() -> dict[str, Any]:
    """The part of /health by which `nora reload` sees how far it is. Times to the millisecond: two reloads in one second are two."""
    reloads = services().reloads
    figures = reloads.figures()
    current, workers = count_current(reloads, figures)
    return {
        "fingerprint": figures.fingerprint,
        "workers": workers,
        "current": current,
        "last_reload": round(figures.last_success, 3),
        "failed_reload": round(figures.last_failure, 3) or None,
    }


def worker_members(worker: WorkerState, figures: ReloadFigures, now: float) -> dict[str, Any]:
    age = round(max(0.0, now - worker.since), 3)
    return {
        "pid": worker.pid,
        "fingerprint": worker.fingerprint,
        "state": worker.state,
        "since": stamp(worker.since),
        "age_seconds": age,
        "current": is_current(worker, figures),
    }


def reload_members(figures: ReloadFigures) -> dict[str, Any]:
    return {
        "succeeded": figures.succeeded,
        "failed": figures.failed,
        "last_success": stamp(figures.last_success),
        "last_failure": stamp(figures.last_failure or None),
        "fingerprint": figures.fingerprint,
        "state": figures.state,
    }


def freeze_members(frozen: Frozen | None) -> dict[str, Any] | None:
    if frozen is None:
        return None
    return {"by": frozen.by, "reason": frozen.reason, "since": stamp(frozen.since), "until": stamp(frozen.until)}


def _until(frozen: Frozen) -> str:
    return "until it is lifted" if frozen.until is None else f"until {stamp(frozen.until)}"


def _json(members: dict[str, Any]) -> Response:
    return Answer(json.dumps(members), content_type="application/json", headers={"Cache-Control": "no-store"})
