"""Patterns of access rules and scopes that can never match anything: a right that nobody has, or a denial that denies nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from noraflask.config.model import Config
from noraflask.config.repositories import RESERVED
from noraflask.config.text_file import shown
from noraflask.ecosystems import ECOSYSTEMS, Ecosystem, find
from noraflask.errors import NoraError
from noraflask.settings.texts import glob

_FOREIGN = re.compile(r"[^a-z0-9._*-]")
_PLACEHOLDER = re.compile(r"\{[^{}]*\}")


def formats_of(config: Config) -> dict[str, Ecosystem]:
    """Of each repository that is served, by its name."""
    named = {one.name: ECOSYSTEMS[one.format] for one in config.repositories}
    return named | {id: ECOSYSTEMS[id] for id, section in config.formats.items() if section.enabled}


def dead_repository(pattern: str) -> str:
    """Why no repository can have such a name; empty: one may."""
    stranger = _FOREIGN.search(pattern)
    if stranger is not None:
        return f"{shown(pattern)} can never match: names of repositories have small letters, digits and . _ - alone, and no {shown(stranger[0])}"
    ecosystem = find(pattern)
    if ecosystem is not None and ecosystem.id != pattern:
        return f"{shown(pattern)} can never match: the repository is called {ecosystem.id}"
    if pattern in RESERVED and ecosystem is None:
        return f"{shown(pattern)} can never match: it is a word of the server's own, and * stands for all"
    return ""


def dead_name(pattern: str, ecosystems: Iterable[Ecosystem]) -> str:
    """Why none of these formats can have such a name; empty: one may, or there is no format to ask."""
    asked = list(dict.fromkeys(ecosystems))
    if not asked or any(can_match(pattern, ecosystem) for ecosystem in asked):
        return ""
    return f"{shown(pattern)} can never match: {'; '.join(ecosystem.names.rule for ecosystem in asked)}"


def can_match(pattern: str, ecosystem: Ecosystem) -> bool:
    """Whether a client can send a name like it. What a placeholder or a star stands for is taken for a letter, or for nothing."""
    text = _PLACEHOLDER.sub("x", pattern)
    return any(_is_name(ecosystem, re.sub(r"\*+", instead, text)) for instead in ("x", ""))


def _is_name(ecosystem: Ecosystem, text: str) -> bool:
    try:
        ecosystem.parse_name(text)
    except NoraError:
        return False
    return True


def dead_scope(repositories: Iterable[str], names: Iterable[str], formats: Mapping[str, Ecosystem]) -> Iterator[tuple[str, str]]:
    """Of patterns that stand together: which of the two, and why. `formats`: of each repository, by its name."""
    repositories = tuple(repositories)
    dead = [("repositories", why) for why in map(dead_repository, repositories) if why]
    yield from dead
    if not dead:
        meant = [ecosystem for name, ecosystem in formats.items() if any(glob(pattern, name) for pattern in repositories)]
        yield from (("names", why) for name in names if (why := dead_name(name, meant)))
