"""What the operator has written: the configuration, rule files, users and groups."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

from noraflask.config import Config, ConfigError, CurationConfig
from noraflask.services.auth.users import parse_groups, parse_htpasswd
from noraflask.services.curation.loading import load_policy
from noraflask.services.curation.policy import Policy
from noraflask.services.doctor.findings import Finding, ok, warning, wrong

MOST_LINES = 20


def configuration(load: Callable[[], Config]) -> tuple[Config, list[Finding]]:
    """What is configured, with the defaults for what cannot be used, and what there is to say about it."""
    try:
        config = load()
    except ConfigError as error:
        findings = [wrong("configuration", problem) for problem in error.problems[:MOST_LINES]]
        return error.usable, findings
    except OSError as problem:  # such as a working folder that is gone
        return Config(), [wrong("configuration", f"cannot be read: {problem.strerror or problem}")]
    changed = sum(source != "default" for source in config.sources.values())
    where = str(config.file) if config.file else "no file"
    findings = [ok("configuration", f"{where}; {changed} settings differ from their defaults")]
    return config, [*findings, *(warning("configuration", line) for line in config.warnings)]


def policy(config: CurationConfig, now: float) -> Iterator[Finding]:
    try:
        data, rules = load_policy(config, now)
    except ConfigError as error:
        yield from (wrong("policy", problem) for problem in error.problems[:MOST_LINES])
        return
    yield from (warning("policy", line) for line in rules.warnings[:MOST_LINES])
    made = Policy.from_buffer(data)
    yield ok("policy", f"mode {config.mode}, {len(made)} rules, {len(rules.expects)} tests of them hold; fingerprint {made.fingerprint}")


def policy_here(config: CurationConfig) -> Iterator[Finding]:
    yield from policy(config, time.time())


def users(config: Config) -> Iterator[Finding]:
    auth = config.auth
    if not auth.enabled:
        yield warning("users", "logins are off: whoever reaches the port may read, write and delete", "auth.enabled = true (NORA_AUTH_ENABLED)")
        return
    data = yield from _text_of("htpasswd file", auth.htpasswd_file)
    if data is not None:
        hashes, problems = parse_htpasswd(data, auth.htpasswd_file.name)
        yield from (warning("htpasswd file", line) for line in problems[:MOST_LINES])
        yield ok("htpasswd file", f"{auth.htpasswd_file}: {len(hashes)} users")
    if auth.groups_file is not None:
        data = yield from _text_of("groups file", auth.groups_file)
        if data is not None:
            members, problems = parse_groups(data, auth.groups_file.name)
            yield from (warning("groups file", line) for line in problems[:MOST_LINES])
            yield ok("groups file", f"{auth.groups_file}: {len(set[str]().union(*members.values()))} groups")


def _text_of(check: str, path: Path) -> Generator[Finding, None, bytes | None]:
    """Returns the bytes, or None after a finding that says why not."""
    try:
        data, mode = path.read_bytes(), os.stat(path).st_mode
    except OSError as problem:
        yield wrong(check, f"{path}: {problem.strerror}", "nora user add <name>, or put the right path into auth.htpasswd_file / auth.groups_file")
        return None
    if mode & stat.S_IWOTH:
        yield wrong(check, f"{path}: everybody on this machine may write to it", f"chmod 640 {path}")
    elif check == "htpasswd file" and mode & stat.S_IROTH:
        yield warning(check, f"{path}: everybody on this machine may read the hashes", f"chmod 640 {path}")
    return data
