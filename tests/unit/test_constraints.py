"""The container is built with versions that are written down: all of them, and such as requirements.txt allows."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


def lines(name: str) -> list[Requirement]:
    return [Requirement(text) for line in (ROOT / name).read_text().splitlines() if (text := line.partition("#")[0].strip())]


def test_each_version_is_written_down_and_allowed():
    pinned = {canonicalize_name(line.name): line.specifier for line in lines("constraints.txt")}
    assert all(len(specifier) == 1 and next(iter(specifier)).operator == "==" for specifier in pinned.values())
    todo, needed = lines("requirements.txt"), dict[str, Requirement]()
    for requirement in todo:
        name = canonicalize_name(requirement.name)
        if name in pinned:
            (version,) = pinned[name]
            assert requirement.specifier.contains(version.version), f"constraints.txt: {name} {version} is not {requirement}"
        if name not in needed:
            needed[name] = requirement
            todo += needs(requirement)
    assert set(pinned) == set(needed), "write constraints.txt anew; its first lines say how"


def needs(requirement: Requirement) -> list[Requirement]:
    try:
        found = [Requirement(text) for text in requires(requirement.name) or ()]
    except PackageNotFoundError:
        return []
    extras = requirement.extras or {""}
    return [each for each in found if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in extras)]
