"""The file as a list of nodes: the dotted key, the plain value and the line of everything in it."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

MAX_BYTES = 1024 * 1024


class Table:
    """The value of a node that is a table; its keys are nodes of their own."""


class LinedTable(dict[str, Any]):
    """A table of an array, with its lines; below an inline one all lines are the line where the array begins."""

    def __init__(self, values: Mapping[str, Any], label: str, line: int, lines: Mapping[str, int] = MappingProxyType({})) -> None:
        super().__init__(values)
        self.label = label
        self.line = line
        self.lines = dict(lines)

    def place(self, key: str = "") -> str:
        """Of the key, where it has a line of its own, else of the table: `config.toml:14`."""
        return place(self.label, self.lines.get(key, self.line))


@dataclass(frozen=True)
class Node:
    path: tuple[str, ...]
    value: Any  # the tables of an array are LinedTables
    line: int

    @property
    def key(self) -> str:
        """Dotted, quoted where TOML wants quotes."""
        return dotted(self.path)


class FileProblem(Exception):
    """The file cannot be used at all. The text begins after the file's name: `:12:3: not valid TOML: …`"""


def read_nodes(path: Path) -> list[Node]:
    """Every table and value in the order of the file; a table that is written in several pieces comes once for each.

    A key that is there twice is mostly refused by tomlkit; what slips through comes twice. Where tomlkit moved pieces of an
    array of tables together, lines cannot be told and are 0.
    Raises FileProblem.
    """
    text = read_text(path)
    document = _parse(text)
    walk = _Walk(label_of(path))
    walk.container(document, ())
    if document.as_string() != text:
        walk.forget_lines()
    return walk.nodes


def label_of(path: Path) -> str:
    """How problems name the file."""
    return str(path) if str(path).isprintable() else shown(str(path))


def place(label: str, line: int) -> str:
    return f"{label}:{line}" if line else label


def shown(text: str) -> str:
    """The text in quotes, on one line, not too long, and safe on any terminal."""
    short = text if len(text) <= 80 else text[:77] + "..."
    return json.dumps(short, ensure_ascii=not short.isprintable())


def dotted(parts: tuple[str, ...]) -> str:
    return ".".join(part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else shown(part) for part in parts)


def read_text(path: Path, most: int = MAX_BYTES) -> str:
    """A text file of at most so many bytes, a multiple of 1 MiB. Raises FileProblem."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise FileProblem(": is a folder, expected a file")
        if not stat.S_ISREG(mode) and not stat.S_ISCHR(mode):
            raise FileProblem(": is not a regular file")
        with path.open("rb") as file:
            data = file.read(most + 1)
    except (OSError, ValueError) as error:
        raise FileProblem(f": cannot be read: {getattr(error, 'strerror', None) or 'the path is not valid'}") from None
    if len(data) > most:
        raise FileProblem(f": is larger than {most // MAX_BYTES} MiB, the most that is read")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise FileProblem(f":{line}: is not UTF-8 text: byte 0x{data[error.start]:02x}") from None


def _parse(text: str) -> Any:
    import tomlkit  # here, because a server without a file does without it

    try:
        return tomlkit.parse(text)
    except RecursionError:
        raise FileProblem(": not valid TOML: nested too deeply") from None
    except Exception as error:  # besides its own errors tomlkit lets some of datetime, int and dict through
        place = _place(error, text)
        reason = re.sub(r" at line \d+ col \d+$", "", str(error)).splitlines() or [type(error).__name__]
        raise FileProblem(f"{place}: not valid TOML: {reason[0]}") from None


def _place(error: Exception, text: str) -> str:
    """`:line:column`, both from 1. tomlkit knows it for most mistakes, tomllib for the rest."""
    if hasattr(error, "line") and hasattr(error, "col"):
        return f":{error.line}:{error.col + 1}"
    import tomllib

    try:
        tomllib.loads(text)
    except (ValueError, RecursionError) as other:
        found = re.search(r"\(at line (\d+), column (\d+)\)$", str(other))
        if found:
            return f":{found[1]}:{found[2]}"
    return ""


class _Walk:
    """Goes through tomlkit's bodies, which keep comments and blank lines, and counts the newlines of what it passes."""

    def __init__(self, label: str, line: int = 1, tables: list[LinedTable] | None = None) -> None:
        self.label = label
        self.line = line
        self.nodes: list[Node] = []
        self.arrays: dict[tuple[str, ...], list[LinedTable]] = {}
        self.tables = [] if tables is None else tables  # every one of any array

    def forget_lines(self) -> None:
        self.nodes = [replace(node, line=0) for node in self.nodes]
        for table in self.tables:
            table.line, table.lines = 0, {}

    def container(self, container: Any, prefix: tuple[str, ...]) -> None:
        for key, item in container.body:
            if key is None:
                self.line += item.as_string().count("\n")
            else:
                self.item((*prefix, key.key), item)

    def item(self, path: tuple[str, ...], item: Any) -> None:
        kind = type(item).__name__
        if kind == "Table":
            self.nodes.append(Node(path, Table, self.line))
            self.table(path, item)
        elif kind == "AoT":
            self.array_of_tables(path, item)
        else:
            self.value(path, item, inline_table=kind == "InlineTable")

    def table(self, path: tuple[str, ...], table: Any) -> None:
        if not table.is_super_table():  # it has a [header] of its own
            self.line += 1
        self.container(table.value, path)

    def array_of_tables(self, path: tuple[str, ...], array: Any) -> None:
        """One node, also when other tables stand between its tables. They are its value."""
        if path not in self.arrays:
            self.arrays[path] = []
            self.nodes.append(Node(path, self.arrays[path], self.line))
        for table in array.body:
            inner = _Walk(self.label, self.line, self.tables)
            inner.table(path, table)
            self.arrays[path].append(self.with_lines(table.unwrap(), inner.nodes, len(path)))
            self.line = inner.line

    def with_lines(self, values: dict[str, Any], nodes: list[Node], depth: int) -> LinedTable:
        """The table that begins here, from its plain values and from the nodes below it, which know the lines."""
        lines: dict[str, int] = {}
        for node in nodes:
            name = node.path[depth]
            lines.setdefault(name, node.line)
            if len(node.path) == depth + 1 and isinstance(node.value, list):
                values[name] = node.value
        table = LinedTable(values, self.label, self.line, lines)
        self.tables.append(table)
        return table

    def value(self, path: tuple[str, ...], item: Any, inline_table: bool) -> None:
        start = self.line
        self.nodes.append(Node(path, Table if inline_table else self.plain(item.unwrap()), start))
        if inline_table:
            self.container(item.value, path)
        self.line = start + item.as_string().count("\n") + item.trivia.trail.count("\n")

    def plain(self, value: Any) -> Any:
        """The value, the tables of an inline array with the line where it begins."""
        if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
            return value
        return [self.with_lines({key: self.plain(inner) for key, inner in entry.items()}, [], 0) for entry in value]
