"""The tables of a rule file, each with its line: the text is cut at the headers.

Tables of plain strings, of which feeds have very many, are read without tomllib.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from typing import Any

from noraflask.config.toml_file import FileProblem

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
    r'#[^\n]*|"""(?:[^\\]|\\.)*?"{3,5}|'
    r"'''.*?'{3,5}|"
    r'"(?:[^"\\\n]|\\.)*"|'
    r"'[^'\n]*'|"
    rf"^[ \t]*\[\[[ \t]*({'|'.join(KEYS)})[ \t]*\]\](?=[ \t]*(?:#[^\n]*)?\r?(?:\n|\Z))",
    re.MULTILINE | re.DOTALL,
)
_PAIR = re.compile(r'^[ \t]*([A-Za-z0-9_-]+)[ \t]*=[ \t]*"([^"\\\x00-\x08\x0a-\x1f\x7f]*)"[ \t]*\r?$', re.MULTILINE)
_PLAIN = re.compile(r'(?:[ \t]*(?:[A-Za-z0-9_-]+[ \t]*=[ \t]*"[^"\\\x00-\x08\x0a-\x1f\x7f]*")?[ \t]*(?:\r?\n|\Z))*+')


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
        top = tomllib.loads(text[: headers[0][1]] if headers else text)
        tables, line, counted = list[Table](), 1, 0
        numbers = dict.fromkeys(KEYS, 0)
        for order, ((kind, start, begin), end) in enumerate(zip(headers, ends, strict=False), 1):
            line += text.count("\n", counted, start)
            counted = start
            numbers[kind] += 1
            values = _plain(text, begin, end)
            if values is None:
                piece = tomllib.loads(text[start:end])
                values = piece.pop(kind)[0]
                if piece.keys() & (top.keys() | KEYS.keys()):
                    return None
                top |= piece
            tables.append(Table(kind, values, line, numbers[kind], order))
    except (ValueError, RecursionError):
        return None
    return None if top.keys() & KEYS.keys() else Document(top, tables)


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
    try:
        top = tomllib.loads(text)
    except RecursionError:
        raise FileProblem(": not valid TOML: nested too deeply") from None
    except ValueError as error:
        said, _, where = str(error).partition(" (at ")
        match = re.match(r"line (\d+), column (\d+)\)", where)
        place = f":{match[1]}:{match[2]}" if match else ""
        raise FileProblem(f"{place}: not valid TOML: {(said.splitlines() or ['error'])[0]}") from None
    lines: dict[str, list[int]] = {kind: [] for kind in KEYS}
    for kind, start, _ in _headers(text):
        lines[kind].append(text.count("\n", 0, start) + 1)
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
    return Document(top, tables)
