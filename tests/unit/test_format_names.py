"""Nothing but a format's own folders knows it by its name; whoever needs to know something of formats asks their values."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import noraflask

ROOT = Path(noraflask.__file__).parent
NAMES = "docker oci npm pypi maven cargo rubygems nuget conan terraform ansible rpm apt deb cpan huggingface helm"
NAMED = re.compile(rf"\b({'|'.join(NAMES.split())})\b", re.IGNORECASE)
PLACES = ("formats/", "ecosystems/")
EXCEPTIONS = {
    "config/access.py": "NORA's setting anonymous_read means all formats but one, and its text says which",
    "config/checks.py": "the same setting's warning, and the clients that fall over a short-lived token",
    "config/document.py": "an example in the file that is generated",
    "services/doctor/machine.py": "the command `docker run`, with which an operator gives the server's container more",
    "services/doctor/server.py": "the command `docker logs`, with which an operator reads the server's log",
}
"""Files that may, and why."""


def naming(root: Path) -> dict[str, list[str]]:
    """Lines that name a format, comments aside, by file."""
    found: dict[str, list[str]] = {}
    for path in sorted(root.rglob("*.py")):
        place = path.relative_to(root).as_posix()
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if not place.startswith(PLACES) and not line.lstrip().startswith("#") and NAMED.search(line):
                found.setdefault(place, []).append(f"{place}:{number}: {line.strip()}")
    return found


def test_no_format_is_named_outside_of_its_folders() -> None:
    assert [line for place, lines in naming(ROOT).items() if place not in EXCEPTIONS for line in lines] == []


def test_no_exception_is_left_over() -> None:
    assert set(EXCEPTIONS) <= set(naming(ROOT))


@pytest.mark.parametrize(
    ("line", "is_found"), [('if format == "docker":', True), ("OCI = 1", True), ("# docker", False), ("adapter = deliver()", False)]
)
def test_the_search_finds_names(tmp_path: Path, line: str, is_found: bool) -> None:
    (tmp_path / "module.py").write_text(f"{line}\n")
    assert bool(naming(tmp_path)) is is_found
