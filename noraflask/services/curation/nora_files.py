"""NORA's two JSON files, version 1, and the bare array that its published guide shows; each rule with its line.

The array is read element by element, so that the line of each is known and the rules of a large file are never there twice.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from noraflask.config.problem_lines import nearest
from noraflask.config.text_file import FileProblem, label_of, read_text, shown
from noraflask.ecosystems import ecosystem_of
from noraflask.services.curation.model import Kind, Rule
from noraflask.services.curation.rule_values import (
    CLEAN,
    MOST_REASON,
    Sink,
    described,
    digests_of,
    format_of,
    is_range,
    name_of,
    never_matches,
    range_of,
    reason_of,
    version_of,
)

MOST_BYTES = 512 * 1024 * 1024

_SPACE = re.compile(r"[ \t\n\r]*")
_AFTER = re.compile(r"[ \t\n\r]*([,\]}])[ \t\n\r]*")
_COLON = re.compile(r"[ \t\n\r]*:[ \t\n\r]*")
_KNOWN = {
    Kind.BLOCK: ("registry", "name", "version", "versions", "reason"),
    Kind.ALLOW: ("registry", "name", "version", "versions", "reason", "integrity", "integrity_source"),
}
ALLOW = Kind.ALLOW
_LISTS = {Kind.BLOCK: "rules", Kind.ALLOW: "entries"}


def read_blocklist(path: Path, sink: Sink) -> None:
    _List(path, Kind.BLOCK, sink).read()


def read_allowlist(path: Path, sink: Sink) -> None:
    _List(path, Kind.ALLOW, sink).read()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A key that is there twice would hide its first value."""
    made = dict(pairs)
    if len(made) != len(pairs):
        seen = set[str]()
        for key, _ in pairs:
            if key in seen:
                raise _Twice(key)
            seen.add(key)
    return made


class _Twice(ValueError):
    pass


_DECODER: Any = json.JSONDecoder(object_pairs_hook=_object)
_DECODE: Callable[[str, int], tuple[Any, int]] = _DECODER.raw_decode
_SCAN: Callable[[str, int], tuple[Any, int]] = _DECODER.scan_once
_PLAIN_HASH = re.compile(r"sha256:[0-9a-f]{64}").fullmatch


class _List:
    def __init__(self, path: Path, kind: Kind, sink: Sink) -> None:
        self.path, self.kind, self.sink = path, kind, sink
        self.label = label_of(path)
        self.file = path.name
        self.at = 0
        self.line = 1
        self.counted = 0
        self.is_bare = False
        self.formats: dict[str, str] = {}
        self.plain_formats: dict[str, str] = {}
        self.reasons: dict[str, str] = {}
        self.unknown: dict[str, str] = {}
        self.plain_keys = _PLAIN_KEYS[kind]
        self.rules = sink.rules

    def read(self) -> None:
        try:
            self.text = read_text(self.path, MOST_BYTES)
            self._document()
        except FileProblem as problem:
            self.sink.notes.problem(f"{self.label}{str(problem).partition(': ')[0]}", str(problem).partition(": ")[2])
        except json.JSONDecodeError as error:
            self.sink.notes.problem(f"{self.label}:{error.lineno}:{error.colno}", f"not valid JSON: {error.msg}")
        except _Twice as twice:
            self.sink.notes.problem(self._here(), f"the key {shown(str(twice))} is there twice; remove one")
        except RecursionError:
            self.sink.notes.problem(self._here(), "not valid JSON: nested too deeply")
        except ValueError:  # a number of thousands of digits
            self.sink.notes.problem(self._here(), "not valid JSON: a number is too large")
        for key, note in self.unknown.items():
            near = nearest(key, list(_KNOWN[self.kind]))
            self.sink.notes.warn(
                note, f"the key {shown(key)} is not known and ignored, here and in other rules{f'; did you mean {near}?' if near else ''}"
            )

    def _here(self) -> str:
        return f"{self.label}:{self._line()}"

    def _line(self) -> int:
        """Of what begins at `at`; every part of the text is counted once."""
        self.line += self.text.count("\n", self.counted, self.at)
        self.counted = self.at
        return self.line

    def _skip(self, pattern: re.Pattern[str], expected: str) -> str:
        found = pattern.match(self.text, self.at)
        if found is None:
            raise json.JSONDecodeError(f"Expecting {expected}", self.text, self.at)
        self.at = found.end()
        return found[found.re.groups]

    def _document(self) -> None:
        self._skip(_SPACE, "a value")
        sign = self.text[self.at : self.at + 1]
        if sign == "[":
            self.is_bare = True
            self._rules()
        elif sign == "{":
            self._object()
        else:
            raise json.JSONDecodeError(f'Expecting an object {{"version": 1, "{_LISTS[self.kind]}": […]}}', self.text, self.at)
        self._skip(_SPACE, "nothing more")
        if self.at < len(self.text):
            raise json.JSONDecodeError("Extra data", self.text, self.at)

    def _object(self) -> None:
        wanted = _LISTS[self.kind]
        seen: dict[str, Any] = {}
        for key in self._members():
            if key in seen:
                raise _Twice(key)
            if key == wanted and self.text[self.at : self.at + 1] == "[":
                self._rules()
                seen[key] = []
            else:
                seen[key], self.at = _DECODE(self.text, self.at)
        if type(seen.get("version")) is not int or seen["version"] != 1:
            self.sink.notes.problem(self.label, f'expected "version": 1, got {described(seen.get("version"))}')
        if not isinstance(seen.get(wanted), list):
            other = next((name for name in _LISTS.values() if name != wanted and name in seen), None)
            hint = f'; "{other}" belongs to the other list' if other else ""
            self.sink.notes.problem(self.label, f'expected an array "{wanted}", got {described(seen.get(wanted))}{hint}')

    def _members(self) -> Iterator[str]:
        """Each key, with `at` at its value; whoever asks for the next has read the value."""
        self.at += 1
        self._skip(_SPACE, "a key")
        if self.text[self.at : self.at + 1] == "}":
            self.at += 1
            return
        while True:
            key, self.at = _DECODE(self.text, self.at)
            if not isinstance(key, str):
                raise json.JSONDecodeError("Expecting a key in double quotes", self.text, self.at)
            self._skip(_COLON, "':'")
            yield key
            if self._after("}"):
                return

    def _after(self, closing: str) -> bool:
        """Past the comma, or past the end."""
        start = self.at
        sign = self._skip(_AFTER, f"',' or '{closing}'")
        if sign not in (",", closing):
            raise json.JSONDecodeError(f"Expecting ',' or '{closing}'", self.text, start)
        return sign == closing

    def _rules(self) -> None:
        self.at += 1
        self._skip(_SPACE, "a rule")
        if self.text[self.at : self.at + 1] == "]":
            self.at += 1
            return
        text, scan, after, number = self.text, _SCAN, _AFTER.match, 0
        while True:
            number += 1
            self.line += text.count("\n", self.counted, self.at)
            self.counted = self.at
            try:
                value, self.at = scan(text, self.at)
            except StopIteration as stop:
                raise json.JSONDecodeError("Expecting value", text, stop.value) from None
            if type(value) is not dict or not self._plain(value, number):
                self._rule(value, number, self.line)
            token = after(text, self.at)
            if token is None or token[1] == "}":
                raise json.JSONDecodeError("Expecting ',' or ']'", text, self.at)
            self.at = token.end()
            if token[1] == "]":
                return

    def _plain(self, value: dict[str, Any], number: int) -> bool:
        """Takes a rule of the usual words, quickly, and leaves all others to _rule(), which gives the same result and says what is wrong."""
        try:
            format = self.plain_formats[value["registry"]]
            name, version, reason, digest = value["name"], value["version"], value.get("reason", ""), value.get("integrity")
            known = self.reasons.get(reason) or (self._reason(reason) if len(reason) < MOST_REASON else None)
            if known is None or CLEAN(name) is None or not value.keys() <= self.plain_keys or (digest and not _PLAIN_HASH(digest)):
                return False
            if version != "*":
                if CLEAN(version) is None:
                    return False
                version = ecosystem_of(format).version_pattern(version)
            elif self.kind is ALLOW:
                return False
        except (KeyError, TypeError):
            return False
        name = ecosystem_of(format).name_pattern(name)
        place, integrity = f"{self.file}:{self.line}", (digest,) if digest else ()
        rule = Rule(f"{self.file}#{number}", self.kind, format, name, version, reason=known, place=place, integrity=integrity)
        self.rules.append(rule)
        if never_matches(format, name):
            self.sink.suspects.append(rule)
        return True

    def _rule(self, value: Any, number: int, line: int) -> None:
        try:
            if not isinstance(value, dict):
                raise _Wrong("", f"expected an object, got {described(value)}")
            self._take(value, number, line)
        except _Wrong as wrong:
            self.sink.notes.problem(f"{self.label}:{line}", f"rule {number}: {wrong}")

    def _take(self, value: dict[str, Any], number: int, line: int) -> None:
        format = self._format(value)
        name = _checked("name", name_of, format, _required(value, "name"))
        digests = () if value.get("integrity") is None or self.kind is Kind.BLOCK else _checked("integrity", digests_of, value["integrity"])
        reason = self._reason(value.get("reason", ""))
        versions = self._versions(value, format)
        if not value.keys() <= _KEYS[self.kind]:
            for key in value.keys() - _KEYS[self.kind]:
                if len(self.unknown) < 20:
                    self.unknown.setdefault(key, f"{self.label}:{line}: rule {number}")
        place = f"{self.file}:{line}"
        if self.kind is Kind.ALLOW and self._is_dead(name, versions, f"{self.label}:{line}", number):
            return
        for version, range in versions:
            self.sink.add(Rule(f"{self.file}#{number}", self.kind, format, name, version, range, reason=reason, place=place, integrity=digests))

    def _format(self, value: dict[str, Any]) -> str:
        given = _required(value, "registry")
        found = self.formats.get(given) if isinstance(given, str) else None
        if found is None:
            found = _checked("registry", format_of, given)
            if found == "*" and self.kind is Kind.ALLOW:
                raise _Wrong("registry", "an entry is about one format; name it")
            self.formats[given] = found
            if found != "*":
                self.plain_formats[given] = found
        return found

    def _reason(self, given: Any) -> str:
        """Many rules share one."""
        found = self.reasons.get(given) if isinstance(given, str) else None
        if found is None:
            found = self.reasons[given] = _checked("reason", reason_of, given)
        return found

    def _versions(self, value: dict[str, Any], format: str) -> list[tuple[str, str]]:
        if "version" in value:
            if "versions" in value:
                raise _Wrong("versions", "stands beside version; leave one of them")
            given = value["version"]
            return [("*" if given == "*" else _checked("version", version_of, format, given), "")]
        if "versions" not in value:
            if self.is_bare:
                return [("*", "")]
            raise _Wrong("version", "is missing; * stands for all")
        given = value["versions"]
        if not isinstance(given, list) or not given or not all(isinstance(text, str) for text in given):
            raise _Wrong("versions", "expected an array of versions or ranges; leave it out for all")
        return [self._version(text, format) for text in given]

    def _version(self, text: str, format: str) -> tuple[str, str]:
        if is_range(text):
            return "*", _checked("versions", range_of, format, text)
        return _checked("versions", version_of, format, text), ""

    def _is_dead(self, name: str, versions: list[tuple[str, str]], place: str, number: int) -> bool:
        """NORA's entries are exact, so a star there has never let anything through, and must not begin to."""
        dead = "*" in name or (not self.is_bare and any("*" in version for version, _ in versions))
        if dead:
            text = "a star stands for itself here, as in NORA, so nothing matches; patterns go into [[allow]] of the rules file"
            self.sink.notes.warn(place, f"rule {number}: {text}")
        return dead


_PLAIN_KEYS = {
    Kind.BLOCK: frozenset({"registry", "name", "version", "reason"}),
    Kind.ALLOW: frozenset({"registry", "name", "version", "reason", "integrity", "integrity_source"}),
}
_KEYS = {kind: frozenset(keys) for kind, keys in _KNOWN.items()}


class _Wrong(ValueError):
    def __init__(self, key: str, text: str) -> None:
        super().__init__(f"{key}: {text}" if key else text)


def _required(value: dict[str, Any], key: str) -> Any:
    if key not in value:
        raise _Wrong(key, "is missing")
    return value[key]


def _checked(key: str, read: Callable[..., Any], *given: Any) -> Any:
    try:
        return read(*given)
    except ValueError as error:
        raise _Wrong(key, str(error)) from None
