"""The floors of the house (shared/style.md, 3), drawn from the imports: they go down or sideways, never up."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "noraflask"
FLOORS = (
    (
        *(
            "errors",
            "settings",
            "ecosystems",
            "config",
            "digest",
            "keys",
            "log",
            "http_client",
            "json_document",
            "lazy_import",
            "pointer",
            "recording",
        ),
        "suspension",
    ),
    ("storage",),
    ("services",),
    ("web", "formats"),
    ("app", "assembly", "reload", "serve", "cli", "__main__"),
)
FLOOR_OF = {part: floor for floor, parts in enumerate(FLOORS) for part in parts} | {"": 0}
"""The package itself ("") holds the version alone."""

SOURCES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip("."): path for path in PACKAGE.rglob("*.py")}
"""Module (without `noraflask.` in front) -> file."""


def part_of(module: str) -> str:
    return module.partition(".")[0]


@cache
def imports_of(module: str) -> list[ast.Import | ast.ImportFrom]:
    return [node for node in ast.walk(ast.parse(SOURCES[module].read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]


def imported(module: str) -> Iterator[str]:
    """Full names of all modules that a module imports, wherever in its text, conditional ones included."""
    for node in imports_of(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        else:
            assert not node.level, f"{module} imports relatively; write the whole name"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner.removeprefix("noraflask.") in SOURCES else str(node.module)


def own_imports(module: str) -> list[str]:
    return [name.removeprefix("noraflask").lstrip(".") for name in imported(module) if name.split(".")[0] == "noraflask"]


def test_every_module_has_a_floor():
    assert {part_of(module) for module in SOURCES} == set(FLOOR_OF)


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_no_import_goes_up(module):
    up = [name for name in own_imports(module) if FLOOR_OF[part_of(name)] > FLOOR_OF[part_of(module)]]
    assert not up, f"{module} (floor {FLOOR_OF[part_of(module)]}) imports {up}"


@pytest.mark.parametrize("module", sorted(name for name in SOURCES if name.startswith("formats.") and ".protocol" in name))
def test_a_protocol_knows_plain_values_and_the_standard_library_alone(module):
    own_folder = module.partition(".protocol")[0] + ".protocol."
    strangers = [name for name in own_imports(module) if FLOOR_OF[part_of(name)] > 0 and not name.startswith(own_folder)]
    strangers += [name for name in imported(module) if name.split(".")[0] not in {"noraflask", *sys.stdlib_module_names}]
    assert not strangers


@pytest.mark.parametrize("module", sorted(name for name in SOURCES if name.startswith("formats.")))
def test_a_format_does_not_import_another(module):
    own_folder = ".".join(module.split(".")[:2])
    assert not [name for name in own_imports(module) if name.startswith("formats.") and not name.startswith(own_folder)]


@pytest.mark.parametrize("floor", range(3))
def test_below_the_web_floor_nobody_thinks_in_responses(floor):
    knowing = {name: sorted({i.split(".")[0] for i in imported(name)} & {"flask", "werkzeug", "gunicorn"}) for name in SOURCES}
    assert not {name: found for name, found in knowing.items() if found and FLOOR_OF[part_of(name)] == floor}


def test_context_alone_reads_what_flask_keeps_for_a_request():
    readers = [module for module in SOURCES if {"flask.current_app", "flask.g"} & names_from_flask(module)]
    assert readers == ["web.context"]


def names_from_flask(module: str) -> set[str]:
    return {f"flask.{alias.name}" for node in imports_of(module) if getattr(node, "module", "") == "flask" for alias in node.names}
