"""The list of rules as a file: NORA's JSON or our TOML."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from noraflask.config.other_users import planted
from noraflask.services.atomic_file import replace_file
from noraflask.services.curation.osv.records import MAX_LISTED
from noraflask.services.curation.osv.values import MADE_BY, Block, Import, OsvProblem

MAX_COMMENTED = 100
"""Of these, in the comment of a TOML file."""

_HEADER = f"# Block list made by `{MADE_BY}`: do not edit, import again."
_quote = json.JSONEncoder(ensure_ascii=False).encode
"""Also a TOML basic string, as long as every character is printable: JSON leaves U+007F as it is, TOML does not."""


def write_blocklist(feed: Import, path: Path, *, force: bool = False) -> int:
    """Write the rules, all or nothing, and return how many: NORA's JSON when the name ends in .json (ranges stay undecided there), else our TOML.

    Raises OsvProblem, and leaves the old file, when it has more than twice as many rules (a feed cut short), or was not made by an import; with
    `force` neither matters.
    """
    stranger = planted(path)
    if stranger:
        raise OsvProblem(f"{path} is not written: {stranger}")
    path = Path(os.path.realpath(path))
    as_json = path.suffix.lower() == ".json"
    count = sum(len(block.versions) for block in feed.blocks) if as_json else len(feed.blocks)
    try:
        if not force:
            _guard(path, _old_count(path, as_json), count)
        parts = _render_json(feed) if as_json else _render_toml(feed)
        replace_file(path, (part.encode() for part in parts), new_mode=0o644)  # the server, which may be another user, reads it
    except OSError as error:
        raise OsvProblem(f"{path} cannot be written ({error.strerror}): the old file, if any, is as it was") from error
    return count


def _render_toml(feed: Import) -> Iterator[str]:
    yield f"{_HEADER}\n"
    for line in feed.summary():
        yield f"# {line}\n"
    for line in feed.undecided_listed[:MAX_COMMENTED]:
        yield f"# undecided: {line}\n"
    numbers: Counter[str] = Counter()
    for block in feed.blocks:
        numbers[block.record] += 1
        number = numbers[block.record]
        name = block.record if number == 1 else f"{block.record}/{number}"
        yield f"\n[[block]]\nid = {_quote(name)}\nformat = {_quote(block.format)}\nname = {_quote(block.name)}\n{_toml_versions(block)}\n"
        yield f"reason = {_quote(block.reason)}\nticket = {_quote(block.ticket)}\n"


def _toml_versions(block: Block) -> str:
    if block.range:
        return f"range = {_quote(block.range)}"
    if len(block.versions) == 1:
        return f"version = {_quote(block.versions[0])}"
    return f"versions = [{', '.join(map(_quote, block.versions))}]"


def _render_json(feed: Import) -> Iterator[str]:
    """NORA's form; members that it does not know, it ignores."""
    ranges = [f"{block.record} {block.format}:{block.name} range {block.range}" for block in feed.blocks if block.range]
    undecided = sorted([*ranges[:MAX_LISTED], *feed.undecided_listed])
    count = feed.undecided + len(ranges)
    about = {"source": feed.source, "digest": feed.digest, "newest": feed.newest, "records": feed.records, "undecided": count}
    yield f'{{\n"version": 1,\n"made_by": {_quote(MADE_BY)},\n"feed": {_quote(about)},\n"summary": {_quote(feed.summary())},\n"rules": ['
    comma = ""
    for block in feed.blocks:
        for version in block.versions:
            rule = {"registry": block.format, "name": block.name, "version": version, "reason": block.reason}
            yield f"{comma}\n{_quote(rule)}"
            comma = ","
    yield f'\n],\n"undecided": {_quote(undecided[:MAX_LISTED])}\n}}\n'


def _old_count(path: Path, as_json: bool) -> int | None:
    """Rules in the file that is there; None when an import did not make it. 0 when there is no file."""
    try:
        if not as_json:
            with path.open(encoding="utf-8", errors="replace") as file:
                return sum(line == "[[block]]\n" for line in file) if file.readline() == f"{_HEADER}\n" else None
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return 0
    except (ValueError, RecursionError):
        return None
    ours = isinstance(document, dict) and document.get("made_by") == MADE_BY and isinstance(document.get("rules"), list)
    return len(document["rules"]) if ours else None


def _guard(path: Path, old: int | None, new: int) -> None:
    if old is None:
        raise OsvProblem(f"{path.name} was not made by an import and was left as it is: name another file, or force it to be replaced")
    if 2 * new < old:
        raise OsvProblem(f"{path.name} has {old} rules and this import only {new}: it was left as it is; look whether the feed is whole, or force it")
