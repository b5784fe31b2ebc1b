"""Where each table and key of a TOML text begins: what tomllib does not tell, found in one pass that never goes back.

It also bounds what tomllib is given: the depth of nested values and dotted keys, over which tomllib takes quadratic time or recursion.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from typing import Any

from noraflask.config.text_file import FileProblem
from noraflask.config.toml_file import dotted

MAX_DEPTH = 64
"""Parts of a dotted key, and arrays and inline tables inside each other."""

_PART = r"""(?:[A-Za-z0-9_-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')"""
_PARTS = re.compile(_PART)
_KEY = re.compile(rf"[ \t]*+({_PART}(?:[ \t]*+\.[ \t]*+{_PART})*+)[ \t]*+")
_BLANK = re.compile(r"(?:[ \t\r\n]++|#[^\n]*+)*+")
_REST = re.compile(r"[ \t]*+(?:#[^\n]*+)?\r?(?:\n|\Z)")
_TOKEN = re.compile(
    r'(?P<text>"""(?s:[^"\\]|\\.|"(?!""))*+"{3,5}+'
    r"|'''(?:[^']|'(?!''))*+'{3,5}+"
    r'|"(?!"")(?:[^"\\\n]|\\.)*+"'
    r"|'(?!'')[^'\n]*+')"
    r"|(?P<open>[\[{])|(?P<close>[\]}])|(?P<comma>,)|(?P<comment>\#[^\n]*+)|(?P<end>\n)"
    r"""|(?P<plain>[^\[\]{},"'#\n]++)"""
)

_IN_ARRAY = re.compile(r"""[^\[\]{}"'#]*+""")


@dataclass(frozen=True, slots=True)
class Statement:
    header: str
    """`[` or `[[` for the header of a table; empty: a key with its value."""
    key: tuple[str, ...]
    line: int
    at: int
    """Offset."""
    below: dict[tuple[str, ...], int]
    """Of keys in an inline table over several lines: how many lines further down."""


@dataclass(frozen=True, slots=True)
class Stop:
    """The text cannot be followed any further."""

    at: int
    """Offset; of a string or bracket that is not closed, where it begins."""
    reason: str
    is_limit: bool = False
    """It may be valid, and is refused all the same."""


def parse(text: str) -> tuple[dict[str, Any], list[Statement]]:
    """What the text says, and where. Raises FileProblem with the line."""
    blanks = list[tuple[int, int]]()
    statements, stop = scan(text, blanks)
    if stop is not None and stop.is_limit:
        raise FileProblem(f"{place_of(text, stop.at)}: {stop.reason}")
    plain = _blanked(text, blanks)
    try:
        values = tomllib.loads(plain)
    except RecursionError:
        raise FileProblem(": not valid TOML: nested too deeply") from None
    except ValueError as error:
        raise FileProblem(_explained(error, text, plain, statements, stop)) from None
    if stop is not None:
        raise FileProblem(f"{place_of(text, stop.at)}: not valid TOML: {stop.reason}")
    return values, statements


def _blanked(text: str, blanks: list[tuple[int, int]]) -> str:
    """Of the same length, with spaces in place of what TOML 1.1 takes between the braces of an inline table and tomllib does not."""
    pieces, at = list[str](), 0
    for start, end in sorted(blanks):
        pieces += (text[at:start], " " * (end - start))
        at = end
    return "".join((*pieces, text[at:])) if blanks else text


_AT = re.compile(r"(.*) \(at (?:line (\d+), column (\d+)|(end of document))\)", re.DOTALL)
_TWICE = ("Cannot overwrite a value", "Cannot declare ")


def _explained(error: ValueError, text: str, plain: str, statements: list[Statement], stop: Stop | None) -> str:
    """Where and why. What is open at the end of the text is told where it begins, and what tomllib gives no place for at its statement."""
    found = _AT.fullmatch(str(error))
    if found is None:
        return f"{_first_bad(plain, statements)}: not valid TOML: a number is too large, or there is no such day or time"
    said = found[1].splitlines()[0]
    if said.startswith(_TWICE):
        line = int(found[2] or len(text))
        last = max((number for number, one in enumerate(statements) if one.line <= line), default=0)
        header = next((one.key for one in reversed(statements[:last]) if one.header), ()) if not statements[last].header else ()
        return f":{statements[last].line}: {dotted((*header, *statements[last].key))}: is set twice"
    if found[4]:
        where = place_of(text, stop.at if stop else len(text))
        return f"{where}: not valid TOML: {stop.reason if stop else said}"
    return f"{place_of(text, _offset(plain, int(found[2]), int(found[3])))}: not valid TOML: {said}"


def _offset(text: str, line: int, column: int) -> int:
    at = 0
    for _ in range(line - 1):
        at = text.index("\n", at) + 1
    return at + column - 1


def _first_bad(text: str, statements: list[Statement]) -> str:
    """The line of the value that tomllib cannot make: int() and datetime refuse it without a place."""
    ends = [*(statement.at for statement in statements[1:]), len(text)]
    for statement, end in zip(statements, ends, strict=False):
        try:
            tomllib.loads("" if statement.header else text[statement.at : end])
        except ValueError:
            return f":{statement.line}"
    return ""


def scan(text: str, blanks: list[tuple[int, int]]) -> tuple[list[Statement], Stop | None]:
    """All statements of a valid text, in order. Of another one those before the first mistake, which tomllib explains better.

    Adds to `blanks` what a parser of TOML 1.0 must not see.
    """
    statements, at, line, counted = list[Statement](), 0, 1, 0
    try:
        while True:
            at = _end(_BLANK, text, at)
            if at == len(text):
                return statements, None
            line += text.count("\n", counted, at)
            counted = at
            header = "[[" if text.startswith("[[", at) else "[" if text[at] == "[" else ""
            start = at
            key, at = _key(text, at + len(header))
            value = _Value(text, at, blanks)
            at = _header(text, at, header) if header else value.end()
            statements.append(Statement(header, key, line, start, value.below))
            at = _end(_REST, text, at)
    except _Stopped as stopped:
        return statements, stopped.stop


def place_of(text: str, at: int) -> str:
    """`:line:column`, both from 1."""
    return f":{text.count(chr(10), 0, at) + 1}:{at - text.rfind(chr(10), 0, at)}"


class _Stopped(Exception):
    def __init__(self, at: int, reason: str, is_limit: bool = False) -> None:
        self.stop = Stop(at, reason, is_limit)


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    if found is None:
        raise _Stopped(at, "expected the end of the line")
    return found.end()


def _key(text: str, at: int) -> tuple[tuple[str, ...], int]:
    found = _KEY.match(text, at)
    if found is None:
        raise _Stopped(at, "expected a key")
    parts = _PARTS.findall(found[1])
    if len(parts) > MAX_DEPTH:
        raise _Stopped(at, f"a key has more than {MAX_DEPTH} parts", is_limit=True)
    try:
        return tuple(part if part[0] not in "\"'" else tomllib.loads(f"key={part}")["key"] for part in parts), found.end()
    except ValueError:
        raise _Stopped(at, "a key is not valid") from None


def _header(text: str, at: int, opened: str) -> int:
    closing = "]" * len(opened)
    if not text.startswith(closing, at):
        raise _Stopped(at, f"expected {closing}")
    return at + len(closing)


class _Value:
    """Passes over one value, by its strings and brackets."""

    def __init__(self, text: str, at: int, blanks: list[tuple[int, int]]) -> None:
        self.text, self.at, self.blanks = text, at, blanks
        self.open: list[tuple[str, int]] = []
        """Brackets and their offsets."""
        self.paths: list[tuple[str, ...] | None] = [()]
        """Where the values are that come now, for the value itself and each open bracket; None: in an array."""
        self.below: dict[tuple[str, ...], int] = {}
        self.lines, self.counted = 0, at
        self.comma = -1
        """Offset of one in an inline table, while nothing but blanks has come after it."""

    def end(self) -> int:
        """Past the sign and the value, to what may be a comment."""
        text, at = self.text, self.at
        if text[at : at + 1] != "=":
            raise _Stopped(at, "expected = after a key")
        at += 1
        while at < len(text):
            if self.open and self.open[-1][0] == "[":
                at = _end(_IN_ARRAY, text, at)
            found = _TOKEN.match(text, at)
            if found is None:
                break
            if not self.open and found.lastgroup in ("end", "comment", "comma", "close"):
                return at
            at = self._take(found)
        if at < len(text):
            raise _Stopped(at, "a string is not closed")
        if self.open:
            raise _Stopped(self.open[-1][1], "a bracket is not closed")
        return at

    def _take(self, token: re.Match[str]) -> int:
        """Past the token, and past the key behind it."""
        kind, at = token.lastgroup, token.end()
        if kind == "open":
            self.open.append((token[0], token.start()))
            if len(self.open) > MAX_DEPTH:
                raise _Stopped(self.open[0][1], f"nested more than {MAX_DEPTH} levels deep", is_limit=True)
            self.paths.append(self.paths[-1] if token[0] == "{" else None)
        elif kind == "close":
            self.paths.pop()
        if self.open and self.open[-1][0] == "{":
            self._in_table(kind, token)
            if kind in ("open", "comma", "end") and _KEY.match(self.text, at):
                self.comma = -1
                return self._key(at)
        elif kind == "close":
            self.open.pop()
        return at

    def _key(self, at: int) -> int:
        """Past a key of an inline table."""
        key, end = _key(self.text, at)
        self.lines += self.text.count("\n", self.counted, at)
        self.counted = at
        around = self.paths[-2]
        self.paths[-1] = None if around is None else (*around, *key)
        if self.lines and around is not None:
            for number in range(1, len(key) + 1):
                self.below.setdefault((*around, *key[:number]), self.lines)
        return end

    def _in_table(self, kind: str | None, token: re.Match[str]) -> None:
        if kind == "close":
            self.open.pop()
            self.blanks += [(self.comma, self.comma + 1)] if self.comma >= 0 else []
        elif kind in ("end", "comment"):
            self.blanks.append((token.start() - (self.text[token.start() - 1] == "\r"), token.end()))
        if kind not in ("end", "comment") and not token[0].isspace():
            self.comma = token.start() if kind == "comma" else -1
