"""Arrays of tables, as [[access.rules]]: one value of a dataclass for each table, whose fields say what the table may hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Any

from noraflask.config.problem_lines import got, nearest
from noraflask.config.toml_file import LinedTable, dotted
from noraflask.settings import Bad, Setting, settings_of

MOST_PROBLEMS = 100
"""Of a file; one that is wrong in every line is wrong in one way."""


@dataclass(frozen=True)
class Problem:
    place: str  # "config.toml:14"; empty: where the array is
    path: str  # after the key of the array: "[2].actions"
    text: str


class BadTables(Bad):
    def __init__(self, problems: list[Problem]) -> None:
        super().__init__(problems[0].text)
        self.problems = problems


def _as_read(place: str, values: dict[str, Any]) -> dict[str, Any]:
    return values


def _nothing_more(table: Mapping[str, Any]) -> tuple[Setting, ...]:
    return ()


@dataclass(frozen=True)
class TableArray:
    header: str
    made: type[Any]
    """Of the values, a dataclass."""
    most: int
    finish: Callable[[str, dict[str, Any]], dict[str, Any]] = _as_read
    """From the place of a table and the fields that are there, the arguments of `made`; may raise Bad about them together."""
    more: Callable[[Mapping[str, Any]], tuple[Setting, ...]] = _nothing_more
    """What else this table may hold, by what it says."""

    @cached_property
    def fields(self) -> tuple[Setting, ...]:
        return tuple(settings_of(self.made))

    @property
    def expected(self) -> str:
        return f"at most {self.most} tables [[{self.header}]]"

    def from_text(self, text: str) -> tuple[Any, ...]:
        raise Bad(f"expected {self.expected} in the file")

    def from_toml(self, value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list) or not all(isinstance(table, dict) for table in value):
            raise Bad(f"expected {self.expected}")
        if len(value) > self.most:
            raise Bad(f"expected {self.expected}, got {len(value)}", show_value=False)
        problems: list[Problem] = []
        made = []
        for number, table in enumerate(value, 1):
            made.append(self._made(table, f"[{number}]", problems))
            if len(problems) >= MOST_PROBLEMS:
                break
        if problems:
            raise BadTables(problems[:MOST_PROBLEMS])
        return tuple(made)

    def _made(self, table: dict[str, Any], path: str, problems: list[Problem]) -> Any:
        """The value; with a problem, which is added to the others, nothing."""
        values: dict[str, Any] = {}
        in_table = list(islice(self._read(table, values), MOST_PROBLEMS))
        if not in_table:
            try:
                return self.made(**self.finish(_place(table), values))
            except Bad as bad:
                in_table = [Problem(_place(table), "", bad.text)]
        problems += [replace(problem, path=path + problem.path) for problem in in_table]
        return None

    def _read(self, table: dict[str, Any], values: dict[str, Any]) -> Iterator[Problem]:
        known = {field.key: field for field in (*self.fields, *self.more(table))}
        for key, value in table.items():
            place, path = _place(table, key), "." + dotted((key,))
            if key not in known:
                yield Problem(place, path, _unknown(key, list(known)))
                continue
            try:
                values[key] = known[key].type.from_toml(value)
            except BadTables as bad:
                yield from (replace(inner, place=inner.place or place, path=path + inner.path) for inner in bad.problems)
            except Bad as bad:
                yield Problem(place, path, bad.text + got(value, bad, known[key].type, (key,)))
        for field in known.values():
            if field.is_required and field.key not in table:
                yield Problem(_place(table), f".{field.key}", f"is missing, expected {field.type.expected}")


def places(value: Any) -> tuple[str, ...]:
    """Of each table of an array; nothing for other values."""
    return tuple(_place(table) for table in value) if isinstance(value, list) else ()


def _place(table: Any, key: str = "") -> str:
    return table.place(key) if isinstance(table, LinedTable) else ""


def _unknown(key: str, known: list[str]) -> str:
    near = nearest(key, known)
    return f"unknown key, did you mean {near}?" if near else f"unknown key, valid are {', '.join(known)}"
