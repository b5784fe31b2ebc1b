"""The file as a list of nodes: the dotted key, the plain value and the line of everything in it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from noraflask.config.text_file import label_of, place, read_text, shown

if TYPE_CHECKING:
    from noraflask.config.toml_lines import Statement

LONGEST_KEY = 80
"""Characters of a part of a key that a message repeats."""


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


def read_nodes(path: Path) -> list[Node]:
    """Every table and value in the order of the file; a table that is written in several pieces comes once for each.

    Raises FileProblem.
    """
    from noraflask.config.toml_lines import parse  # here, because a server without a file does without it

    values, statements = parse(read_text(path))
    return list(_Walk(label_of(path), values).nodes(statements))


def dotted(parts: tuple[str, ...]) -> str:
    return ".".join(part if re.fullmatch(r"[A-Za-z0-9_-]+", part) and len(part) <= LONGEST_KEY else shown(part) for part in parts)


class _Walk:
    """Brings together what a file says and where each statement of it stands."""

    def __init__(self, label: str, values: dict[str, Any]) -> None:
        self.label = label
        self.root = values
        self.table: dict[str, Any] = values
        """In which the keys of the present header are."""
        self.path: tuple[str, ...] | None = ()
        """Of that table; None: it is in a table of an array."""
        self.owner: LinedTable | None = None
        """That table of the array."""
        self.below = ""
        """The key of `owner` by which the present table is reached; empty: it is `owner` itself."""
        self.counts: dict[int, int] = {}
        """Of each array of tables, by identity: headers so far."""

    def nodes(self, statements: list[Statement]) -> Iterator[Node]:
        for statement in statements:
            if statement.header:
                yield from self.header(statement)
            else:
                yield from self.value(statement)

    def header(self, statement: Statement) -> Iterator[Node]:
        self.table, self.path, self.owner, self.below = self.root, (), None, ""
        last = len(statement.key) - 1
        for number, part in enumerate(statement.key):
            value = self.table[part]
            if self.owner is not None and not self.below:
                self.owner.lines.setdefault(part, statement.line)
                self.below = part
            if self.path is not None:
                self.path = (*self.path, part)
            if not isinstance(value, list):
                if self.path is not None:
                    yield Node(self.path, Table, statement.line)
                self.table = value
                continue
            at = self.counts.get(id(value), 0)
            if number == last and statement.header == "[[":
                self.counts[id(value)] = at + 1
                if self.path is not None and at == 0:
                    yield Node(self.path, value, statement.line)
                value[at] = LinedTable(value[at], self.label, statement.line)
                at += 1
            self.owner = self.table = value[at - 1]
            self.path, self.below = None, ""

    def value(self, statement: Statement) -> Iterator[Node]:
        *parents, name = statement.key
        if self.owner is not None and not self.below:
            self.owner.lines.setdefault(statement.key[0], statement.line)
        table, path = self.table, self.path
        for part in parents:
            table = table[part]
            if path is not None:
                path = (*path, part)
                yield Node(path, Table, statement.line)
        value = table[name] = self.plain(table[name], statement.line)
        if path is not None:
            yield from _below((*path, name), value, statement, ())

    def plain(self, value: Any, line: int) -> Any:
        """The value, the tables of an inline array with the line where it begins."""
        if isinstance(value, dict):
            return {key: self.plain(inner, line) for key, inner in value.items()}
        if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
            return value
        return [LinedTable(self.plain(entry, line), self.label, line) for entry in value]


def _below(path: tuple[str, ...], value: Any, statement: Statement, inner: tuple[str, ...]) -> Iterator[Node]:
    """A value, and of an inline table all that is in it."""
    line = statement.line + statement.below.get(inner, 0)
    if not isinstance(value, dict):
        yield Node(path, value, line)
        return
    yield Node(path, Table, line)
    for key, entry in value.items():
        yield from _below((*path, key), entry, statement, (*inner, key))
