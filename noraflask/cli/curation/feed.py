"""nora curation import-osv."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from noraflask.cli.subcommand import (
    Failed,
    WrongUse,
    tell,
)

if TYPE_CHECKING:
    pass


def import_osv(options: argparse.Namespace) -> int:
    from noraflask.services.curation.osv.blocklist import write_blocklist
    from noraflask.services.curation.osv.feed import import_osv as read_feed
    from noraflask.services.curation.osv.values import OsvProblem

    if options.min_severity is not None and not options.all:
        raise WrongUse("--min-severity is about what is vulnerable and not malicious; add --all")
    try:
        feed = read_feed(
            options.path,
            only_malicious=not options.all,
            min_severity=options.min_severity,
            ecosystems=options.ecosystem,
            exceptions=options.exception,
        )
        count = write_blocklist(feed, options.output, force=options.force)
    except OsvProblem as problem:
        raise Failed(str(problem)) from None
    for line in feed.summary():
        tell(line)
    print(f"{count} rules are in {options.output}; `nora curation validate` tries them, `nora reload` puts them in force")
    return 0
