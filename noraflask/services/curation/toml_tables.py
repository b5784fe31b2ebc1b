"""The tables of a rule file, each with its line: the text is cut at the headers.

Tables of plain strings, of which feeds have very many, are read without a parser.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from noraflask.config import toml_lines
from noraflask.config.text_file import FileProblem

PEOPLE = ("reason", "owner", "ticket")
_OF_RULES = ("id", "format", "formats", "name", "names", "version", "versions", "range", "repository", "expires", *PEOPLE)
KEYS: dict[str, tuple[str, ...]] = {
    "block": (*_OF_RULES, "mode"),
    "allow": (*_OF_RULES, "integrity"),
    "except": _OF_RULES,
    "age": (*_OF_RULES, "mode", "min_release_age"),
    "pin": (*_OF_RULES, "mode", "integrity"),
    "bypass": ("name", "token_sha256", "token_file", "expires", *PEOPLE),
    "expect": ("format", "name", "version", "result", "age", "hosted"),
}

_TOKEN = re.compile(
    r'\#[^\n]*+|"""(?:[^"\\]|\\.|"(?!""))*+"{0,5}+|'
    r"'''(?:[^']|'(?!''))*+'{0,5}+|"
    r'"(?:[^"\\\n]|\\.)*+"?+|'
    r"'[^'\n]*+'?+|"
    rf"^[ \t]*+\[\[[ \t]*+({'|'.join(KEYS)})[ \t]*+\]\](?=[ \t]*+(?:\#[^\n]*+)?\r?(?:\n|\Z))",
    re.MULTILINE | re.DOTALL,
)
"""A string or comment, or the header of a table. None is tried twice: a string that is not closed goes to the end, and tomllib says so."""
_PAIR = re.compile(r'^[ \t]*+([A-Za-z0-9_-]++)[ \t]*+=[ \t]*+"([^"\\\x00-\x08\x0a-\x1f\x7f]*+)"[ \t]*+\r?$', re.MULTILINE)
_PLAIN = re.compile(r'(?:[ \t]*+(?:[A-Za-z0-9_-]++[ \t]*+=[ \t]*+"[^"\\\x00-\x08\x0a-\x1f\x7f]*+"[ \t]*+)?+(?:\r?\n|\Z))*+')


@dataclass
class Table:
    kind: str
    values: dict[str, Any]
    line: int  # 0: not known
    number: int  # among those of its kind
    order: int  # among those of all kinds


@dataclass
class Document:
    top: dict[str, Any]
    tables: list[Table]
    lines: dict[str, int]
    """Of the keys of `top`."""


def parse(text: str) -> Document:
    """Raises FileProblem."""
    return _by_pieces(text) or _as_a_whole(text)


def _headers(text: str) -> list[tuple[str, int, int]]:
    """Kind, where it begins and where it ends; comments and strings are passed over."""
    return [(found[1], found.start(), found.end()) for found in _TOKEN.finditer(text) if found[1]]


def _by_pieces(text: str) -> Document | None:
    """None: it is not valid, or not what cutting at the headers may be trusted with."""
    headers = _headers(text)
    ends = [start for _, start, _ in headers[1:]] + [len(text)]
    try:
        top, statements = toml_lines.parse(text[: headers[0][1]] if headers else text)
        lines = _lines_of(statements)
        tables, line, counted = list[Table](), 1, 0
        numbers = dict.fromkeys(KEYS, 0)
        for order, ((kind, start, begin), end) in enumerate(zip(headers, ends, strict=False), 1):
            line += text.count("\n", counted, start)
            counted = start
            numbers[kind] += 1
            values = _plain(text, begin, end)
            if values is None:
                piece, statements = toml_lines.parse(text[start:end])
                values = piece.pop(kind)[0]
                if any(key in top or key in KEYS for key in piece):
                    return None
                top |= piece
                lines |= {key: line - 1 + at for key, at in _lines_of(statements).items() if key in piece}
            tables.append(Table(kind, values, line, numbers[kind], order))
    except (ValueError, FileProblem):
        return None
    return None if top.keys() & KEYS.keys() else Document(top, tables, lines)


def _lines_of(statements: list[toml_lines.Statement]) -> dict[str, int]:
    """Of the keys of the whole: those of headers, and those before any header."""
    lines: dict[str, int] = {}
    headers = False
    for statement in statements:
        headers = headers or bool(statement.header)
        if statement.header or not headers:
            lines.setdefault(statement.key[0], statement.line)
    return lines


def _plain(text: str, begin: int, end: int) -> dict[str, Any] | None:
    """What stands below a header, when it is nothing but `key = "text"` lines."""
    rest = text.find("\n", begin, end)
    if rest < 0 or "#" in text[begin:rest] or _PLAIN.fullmatch(text, rest + 1, end) is None:
        return None
    pairs = _PAIR.findall(text, rest + 1, end)
    values = dict(pairs)
    return values if len(values) == len(pairs) else None


def _as_a_whole(text: str) -> Document:
    """Lines only where there are as many headers as tables."""
    top, statements = toml_lines.parse(text)
    lines: dict[str, list[int]] = {kind: [] for kind in KEYS}
    line, counted = 1, 0
    for kind, start, _ in _headers(text):
        line += text.count("\n", counted, start)
        counted = start
        lines[kind].append(line)
    tables = []
    for kind in [key for key in top if key in KEYS]:
        values = top.pop(kind)
        if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
            raise FileProblem(f": {kind}: expected [[{kind}]] tables, in double brackets")
        known = lines[kind] if len(lines[kind]) == len(values) else [0] * len(values)
        tables += [Table(kind, value, line, number, 0) for number, (value, line) in enumerate(zip(values, known, strict=True), 1)]
    tables.sort(key=lambda table: table.line)
    for order, table in enumerate(tables, 1):
        table.order = order
    return Document(top, tables, _lines_of(statements))
