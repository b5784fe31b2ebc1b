"""Our rule file: [[block]], [[allow]], [[except]], [[age]], [[pin]], [[bypass]] and [[expect]] tables, in TOML."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from noraflask.config.problem_lines import nearest
from noraflask.config.text_file import FileProblem, label_of, place, read_text, shown
from noraflask.config.toml_file import dotted
from noraflask.ecosystems import ecosystem_of
from noraflask.services.curation.model import Bypass, Expect, Kind, Rule
from noraflask.services.curation.rule_values import (
    Sink,
    described,
    digests_of,
    format_of,
    is_clean,
    name_of,
    namespaces_of,
    never_matches,
    range_of,
    reason_of,
    seconds_of,
    sha256_of,
    text_of,
    version_of,
    word_of,
)
from noraflask.services.curation.toml_tables import KEYS, PEOPLE, Document, Table, parse
from noraflask.settings.texts import read_duration

MOST_BYTES = 256 * 1024 * 1024
MOST_OF_ONE_TABLE = 10_000
"""Rules: formats by names by versions."""

_NEEDED = {"block": ("name",), "allow": ("name",), "except": ("name",), "age": ("min_release_age",), "pin": ("name", "integrity")}
_FEED_KEYS = frozenset({"id", "format", "name", "version", "reason", "ticket"})
_TOP = ("internal_namespaces", "flip_until")


class _Wrong(ValueError):
    def __init__(self, key: str, text: str) -> None:
        super().__init__(f"{key}: {text}" if key else text)


def read(path: Path, sink: Sink) -> None:
    label = label_of(path)
    try:
        text = read_text(path, MOST_BYTES)
        if not text.strip():  # without a word it would be a policy without a rule
            raise FileProblem(": is empty; write it aside and rename it, or put a comment into it when it shall say nothing")
        document = parse(text)
    except FileProblem as problem:
        place, _, text = str(problem).partition(": ")
        sink.notes.problem(f"{label}{place}", text)
        return
    _Reader(path, label, sink).take(document)


# ---- the tables


@dataclass
class _Reader:
    path: Path
    label: str
    sink: Sink
    ids: dict[str, str] = field(default_factory=dict)
    bypasses: dict[str, str] = field(default_factory=dict)

    def take(self, document: Document) -> None:
        self._top(document.top, document.lines)
        makers = {"bypass": self._bypass, "expect": self._expect}
        for table in document.tables:
            place = f"{self.path.name}:{table.line}" if table.line else self.path.name
            if table.kind == "block" and self._plain_block(table.values, place):
                continue
            for wrong in self._problems(table, makers.get(table.kind, self._rule), place):
                self.sink.notes.problem(f"{self.label}:{table.line}" if table.line else self.label, f"{table.kind} {table.number}: {wrong}")

    def _plain_block(self, values: dict[str, Any], place: str) -> bool:
        """Takes what feeds are made of, quickly, and leaves all others to _rule(), which gives the same result and says what is wrong."""
        try:
            if not (values.keys() <= _FEED_KEYS and is_clean(values["name"])):
                return False
            format, identity, version = format_of(values["format"]), word_of(values["id"]), values["version"]
            if format == "*" or (version != "*" and not is_clean(version)):
                return False
            reason = reason_of(values.get("reason", ""))
            ticket = text_of(values["ticket"]) if "ticket" in values else ""
        except (KeyError, TypeError, ValueError):
            return False
        if self.ids.setdefault(identity, place) is not place:
            return False
        name = ecosystem_of(format).name_pattern(values["name"])
        version = version if version == "*" else ecosystem_of(format).version_pattern(version)
        rule = Rule(identity, Kind.BLOCK, format, name, version, reason=reason, place=place, ticket=ticket)
        self.sink.rules.append(rule)
        if never_matches(format, name):
            self.sink.suspects.append(rule)
        return True

    def _problems(self, table: Table, make: Callable[[Table, str], None], place: str) -> Iterator[str]:
        known = KEYS[table.kind]
        unknown = [key for key in table.values if key not in known]
        for key in unknown:
            near = self._nearest(key, list(known))
            yield f"{dotted((key,))}: unknown key, " + (f"did you mean {near}?" if near else f"valid are {', '.join(known)}")
        missing = [key for key in _NEEDED.get(table.kind, ()) if not {key, f"{key}s"} & table.values.keys()]
        yield from (f"{key}: is missing" for key in missing)
        if not unknown and not missing:
            try:
                make(table, place)
            except _Wrong as wrong:
                yield str(wrong)

    def _nearest(self, key: str, known: list[str]) -> str | None:
        """Looked for while somebody will read it: it takes longer than all else of a line."""
        return None if self.sink.notes.is_full else nearest(key, known)

    def _top(self, top: dict[str, Any], lines: dict[str, int]) -> None:
        for key in [key for key in top if key not in _TOP]:
            near = self._nearest(key, [*_TOP, *KEYS])
            self._say(lines, key, "unknown key, " + (f"did you mean {near}?" if near else f"valid are {', '.join((*_TOP, *KEYS))}"))
        if "flip_until" in top:
            try:
                self.sink.flip_until = seconds_of(top["flip_until"])
            except ValueError as error:
                self._say(lines, "flip_until", str(error))
        names = top.get("internal_namespaces", [])
        for number, entry in enumerate(names if isinstance(names, list) else [names], 1):
            try:
                self._namespace(entry)
            except ValueError as error:
                self._say(lines, "internal_namespaces", f"entry {number}: {error}")

    def _namespace(self, entry: Any) -> None:
        if isinstance(entry, dict) and not {"pattern"} <= entry.keys() <= {"pattern", "format"}:
            raise ValueError("expected a pattern, or a table { pattern, format }")
        table = entry if isinstance(entry, dict) else {"pattern": entry}
        self.sink.namespaces += namespaces_of(table["pattern"], table.get("format", "*"), self.path.name)

    def _say(self, lines: dict[str, int], key: str, text: str) -> None:
        self.sink.notes.problem(place(self.label, lines.get(key, 0)), f"{dotted((key,))}: {text}")

    def _rule(self, table: Table, place: str) -> None:
        values = table.values
        kind = Kind(table.kind)
        if kind is Kind.ALLOW:
            self.sink.has_allow_table = True
        formats = list(dict.fromkeys(_each(values, "format", "formats", format_of)))
        given = _given_versions(values)
        if kind is Kind.PIN and given == ("version", ["*"]):
            raise _Wrong("version", "is missing; a hash belongs to one version")
        shared: dict[str, Any] = {
            "repository": _optional(values, "repository", lambda text: name_of("*", text), "*"),
            "reason": _optional(values, "reason", reason_of, ""),
            "audit_only": _optional(values, "mode", _mode, default=False),
            "expires": _optional(values, "expires", seconds_of, None),
            "owner": _optional(values, "owner", text_of, ""),
            "ticket": _optional(values, "ticket", text_of, ""),
            "integrity": _optional(values, "integrity", digests_of, ()),
            "min_age": _optional(values, "min_release_age", _age, None),
        }
        identity = self._id(table, place)
        names = _strings(values, "name", "names")
        if len(formats) * len(names) * len(given[1]) > MOST_OF_ONE_TABLE:
            raise _Wrong("", f"makes more than {MOST_OF_ONE_TABLE} rules; make several tables of it")
        for format, name, version in product(formats, names, given[1]):
            span = {given[0]: _checked(given[0], range_of if given[0] == "range" else version_of, format, version)}
            self.sink.add(Rule(identity, kind, format, _checked("name", name_of, format, name), place=place, **span, **shared))

    def _id(self, table: Table, place: str) -> str:
        if "id" not in table.values:
            return f"{self.path.name}#{table.order}"
        identity: str = _checked("id", word_of, table.values["id"])
        first = self.ids.setdefault(identity, place)
        if first is not place:
            raise _Wrong("id", f"{shown(identity)} is that of {first} as well")
        return identity

    def _bypass(self, table: Table, place: str) -> None:
        values = table.values
        name = _checked("name", word_of, values.get("name"))
        first = self.bypasses.setdefault(name, place)
        if first is not place:
            raise _Wrong("name", f"{shown(name)} is that of {first} as well")
        if ("token_sha256" in values) == ("token_file" in values):
            raise _Wrong("", "expected either token_sha256 or token_file")
        for key in PEOPLE:
            _optional(values, key, reason_of, "")
        digest = _checked("token_sha256", sha256_of, values["token_sha256"]) if "token_sha256" in values else _digest_of_file(values["token_file"])
        self.sink.bypasses.append(Bypass(name, digest, _optional(values, "expires", seconds_of, None), place))

    def _expect(self, table: Table, place: str) -> None:
        values = table.values
        format = _checked("format", format_of, values.get("format"))
        name, version = _checked("name", _exact, values.get("name")), _optional(values, "version", _exact, None)
        if format == "*":
            raise _Wrong("format", "a test is about one package; name its format")
        if values.get("result") not in ("block", "allow"):
            raise _Wrong("result", f"expected block or allow, got {described(values.get('result'))}")
        hosted = values.get("hosted", False)
        if not isinstance(hosted, bool):
            raise _Wrong("hosted", "expected true or false, without quotes")
        self.sink.expects.append(
            Expect(
                format,
                ecosystem_of(format).same_name(name),
                None if version is None else ecosystem_of(format).same_version(version),
                values["result"] == "allow",
                _optional(values, "age", _age, None),
                hosted,
                place,
            )
        )


# ---- values


def _checked(key: str, read: Callable[..., Any], *given: Any) -> Any:
    try:
        return read(*given)
    except ValueError as error:
        raise _Wrong(key, str(error)) from None


def _optional(values: dict[str, Any], key: str, read: Callable[[Any], Any], default: Any) -> Any:
    return _checked(key, read, values[key]) if key in values else default


def _strings(values: dict[str, Any], one: str, many: str) -> list[Any]:
    """What `one` or `many` says; all, when neither is there."""
    if one in values and many in values:
        raise _Wrong(many, f"stands beside {one}; leave one of them")
    texts = values.get(many, values.get(one, "*"))
    if isinstance(texts, str) and many in values:
        raise _Wrong(many, "expected an array of strings")
    texts = texts if isinstance(texts, list) else [texts]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise _Wrong(many if many in values else one, "expected a string, or an array of strings that is not empty")
    return texts


def _each(values: dict[str, Any], one: str, many: str, read: Callable[[Any], str]) -> list[str]:
    return [_checked(many if many in values else one, read, text) for text in _strings(values, one, many)]


def _given_versions(values: dict[str, Any]) -> tuple[str, list[Any]]:
    """Which field of the rule, and the texts for it."""
    if "range" not in values:
        return "version", _strings(values, "version", "versions")
    if "version" in values or "versions" in values:
        raise _Wrong("range", "stands beside version; leave one of them")
    return "range", [values["range"]]


def _mode(value: Any) -> bool:
    if value not in ("audit", "enforce"):
        raise ValueError(f"expected audit or enforce, got {described(value)}")
    return bool(value == "audit")


def _age(value: Any) -> float:
    try:
        return read_duration(value)
    except (ValueError, TypeError):
        raise ValueError("expected a duration of weeks, days and hours such as 7d, 1w2d or 36h, or 0d") from None


def _exact(value: Any) -> str:
    if not isinstance(value, str) or not value or len(value) > 512 or not value.isprintable():
        raise ValueError("expected a string of 1 to 512 printable characters")
    if "*" in value:
        raise ValueError("a test is about one package and takes no star")
    return value


def _digest_of_file(given: Any) -> str:
    if not isinstance(given, str) or not given.strip() or not given.isprintable():
        raise _Wrong("token_file", "expected a path of printable characters")
    try:
        token = read_text(Path(given)).strip()
    except FileProblem as problem:
        raise _Wrong("token_file", f"{label_of(Path(given))}{problem}") from None
    if not re.fullmatch(r"[!-~]{1,1024}", token):
        raise _Wrong("token_file", f"{label_of(Path(given))}: expected one token of 1 to 1024 printable ASCII characters without spaces")
    return hashlib.sha256(token.encode()).hexdigest()
