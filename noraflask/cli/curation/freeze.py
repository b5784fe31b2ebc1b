"""nora curation freeze."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from noraflask.cli.curation.sources import freeze_of, read_configuration
from noraflask.cli.subcommand import (
    WrongUse,
    print_line,
    record,
    storage_of,
    tell_json,
)

if TYPE_CHECKING:
    from noraflask.services.curation.freeze import Frozen


def freeze(options: argparse.Namespace) -> int:
    if (options.lift or options.status) and (options.reason or options.seconds is not None):
        raise WrongUse("--reason and --for belong to a freeze that begins")
    if options.seconds == 0:
        raise WrongUse("--for must be longer than 0; leave it out to freeze until --lift")
    config = read_configuration()
    with storage_of(config) as storage:
        control = freeze_of(storage)
        before = control.current()
        if options.lift:
            control.lift()
        elif not options.status:
            control.begin("cli", options.reason or "no reason is given", options.seconds)
        frozen = control.current()
    if options.lift and before:
        record(config, "curation_lift", "", f"frozen by {before.by}: {before.reason}")
    elif frozen and not options.status:
        record(config, "curation_freeze", "", f"{frozen.reason}; {_until(frozen)}")
    _show_freeze(options, frozen)
    return 0


def _show_freeze(options: argparse.Namespace, frozen: Frozen | None) -> None:
    from noraflask.services.curation.explaining import stamp

    if options.json:
        times = {"since": stamp(frozen.since), "until": stamp(frozen.until)} if frozen else {}
        tell_json({"freeze": {"by": frozen.by, "reason": frozen.reason, **times} if frozen else None})
    elif frozen is None:
        print("there is no freeze: upstreams are asked as usual")
    else:
        print_line(f"frozen since {stamp(frozen.since)} by {frozen.by}, {_until(frozen)}: {frozen.reason}")


def _until(frozen: Frozen) -> str:
    from noraflask.services.curation.explaining import stamp

    return "until it is lifted" if frozen.until is None else f"until {stamp(frozen.until)}"
