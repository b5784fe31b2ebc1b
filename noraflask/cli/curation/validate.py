"""nora curation validate."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noraflask.cli.curation.sources import NAMES, kind_of, read_configuration
from noraflask.cli.subcommand import (
    FAILED,
    Failed,
    tell,
    tell_json,
)

if TYPE_CHECKING:
    from noraflask.config import CurationConfig


def validate(options: argparse.Namespace) -> int:
    from noraflask.config import ConfigError
    from noraflask.services.curation.loading import load_policy
    from noraflask.services.curation.policy import Policy

    curation, warnings = (_alone(options.file), []) if options.file else _configured()
    members: dict[str, Any] = {"valid": False, "fingerprint": None, "counts": {}, "warnings": warnings, "problems": []}
    try:
        data, rules = load_policy(curation, time.time())
    except ConfigError as error:
        members["problems"] = error.problems
    else:
        policy = Policy.from_buffer(data)
        members |= {"valid": True, "fingerprint": policy.fingerprint, "warnings": [*warnings, *rules.warnings]}
        members["counts"] = {**policy.counts, "expect": len(rules.expects)}
    good = members["valid"] and not (options.strict and members["warnings"])
    if options.json:
        tell_json({**members, "good": good})
    else:
        _show_validation(options, members)
    return 0 if good else FAILED


def _configured() -> tuple[CurationConfig, list[str]]:
    config = read_configuration()
    return config.curation, [warning for warning in config.warnings if warning.startswith("curation.")]


def _alone(path: Path) -> CurationConfig:
    """As if the file were all there is."""
    from noraflask.config import CurationConfig

    kind = kind_of(path)
    if kind is None:
        raise Failed(f"{path} is a whole configuration and no rule file; try it with NORA_CONFIG_PATH={path} nora curation validate")
    tell(f"remark: {path} is read as {NAMES[kind]}, by itself")
    files: dict[str, Any] = {kind: path}
    return CurationConfig(mode="enforce", **files)


def _show_validation(options: argparse.Namespace, members: dict[str, Any]) -> None:
    for problem in members["problems"]:
        tell(problem)
    for warning in members["warnings"]:
        tell(f"warning: {warning}")
    what = options.file or "the configuration"
    if not members["valid"]:
        count = len(members["problems"])
        tell(f"nora: {what} cannot be used: {count} problem{'s' * (count != 1)}; a server that has other rules would keep them")
        return
    told = ", ".join(f"{count} {kind}" for kind, count in members["counts"].items() if count)
    print(f"{what} is good: {told or 'no rules'}; policy {members['fingerprint']}")
    if options.strict and members["warnings"]:
        tell(f"nora: {len(members['warnings'])} warnings, and --strict is given")
