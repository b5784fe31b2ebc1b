"""[[repositories]]: instances of formats beside the default ones, each with a name, a kind and settings of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, replace
from typing import Any

from noraflask.config.tables import TableArray
from noraflask.ecosystems import ECOSYSTEMS, find
from noraflask.settings import Bad, Listed, Setting, Text, setting, settings_of
from noraflask.settings.texts import read_authority, read_text

MOST = 1000
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
_SEPARATED = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_KINDS = ("hosted",)
_KINDS_TO_COME = ("proxy", "group")
_HOSTS = "host names such as images.example.com or localhost:5000"

RESERVED = frozenset(
    (
        *("api", "api-docs", "health", "ready", "metrics", "setup", "ui", "static", "favicon.ico", "robots.txt", "repository", "repositories"),
        *("v1", "v2", "v3", "simple", "packages", "artifacts", "catalog", "token", "tokens", "auth", "login", "logout", "user", "users", "admin"),
        *("blobs", "keys", "policy", "curation", "ledger", "audit", "state", "storage", "staging", "cache", "tmp"),
        *("all", "default", "none", "nora", "server"),
    )
)
"""Words with which the server's own addresses and keys begin, or which would be misread in a rule or a label."""


def is_reserved(name: str) -> bool:
    return name in RESERVED or find(name) is not None or any(name in ecosystem.reserved for ecosystem in ECOSYSTEMS.values())


def _read_name(text: str) -> str:
    if not _NAME.fullmatch(text) or not _SEPARATED.fullmatch(text):
        raise ValueError(text)
    if is_reserved(text):
        raise Bad("is a word of the server's own; take another name, such as the team's in front: team-…")
    return text


def _read_format(text: str) -> str:
    ecosystem = find(text)
    served = [known.id for known in ECOSYSTEMS.values() if known.section]
    if ecosystem is not None and not ecosystem.section:
        raise Bad(f"the format {ecosystem.id} is not supported by this version, expected {' or '.join(served)}", show_value=False)
    if ecosystem is None:
        raise Bad(f"expected {' or '.join(served)}")
    return ecosystem.id


def _read_kind(text: str) -> str:
    word = text.lower()
    if word in _KINDS_TO_COME:
        raise Bad(f"{word} comes with a later version, expected {' or '.join(_KINDS)}", show_value=False)
    if word not in _KINDS:
        raise ValueError(text)
    return word


@dataclass(frozen=True)
class RepositoryConfig:
    place: str = field(compare=False)
    """Where it was read: "config.toml:14"."""
    name: str = setting(
        MISSING,
        Text("1 to 64 small letters and digits, parted by one of . _ __ -", _read_name),
        "In addresses, rules, metrics and logs. Words with which the server's own addresses begin, and formats, are no names.",
    )
    format: str = setting(MISSING, Text("a format that this version serves", _read_format), "Any of its names will do.")
    kind: str = setting("hosted", Text("hosted", _read_kind), "hosted = it holds what is pushed to it. proxy and group come with a later version.")
    title: str = setting("", Text("1 to 255 printable characters", read_text), "For people.")
    hosts: tuple[str, ...] = setting(
        (), Listed(_HOSTS, read_authority), "Host names whose requests are for this repository; each for one repository of a format."
    )
    ns: tuple[str, ...] = setting(
        (), Listed(_HOSTS, read_authority), "What a mirror's client says it came for (containerd's `?ns=`); each for one repository of a format."
    )
    own: tuple[tuple[str, Any], ...] = ()
    """What it says in place of its format's section, by field."""
    settings: Any = field(default=None, compare=False)
    """Its format's section with that."""


SHARED = tuple(settings_of(RepositoryConfig))


def own_settings(format: str) -> tuple[Setting, ...]:
    """Settings of a format's section that a repository may set for itself."""
    section = ECOSYSTEMS[format].section
    return tuple(entry for entry in settings_of(section) if entry.per_repository) if section else ()


def _settings_of_table(table: Mapping[str, Any]) -> tuple[Setting, ...]:
    """A table without a format that is served has none beside the shared ones."""
    word = table.get("format")
    ecosystem = find(word) if isinstance(word, str) else None
    return own_settings(ecosystem.id) if ecosystem else ()


def _finish(place: str, values: dict[str, Any]) -> dict[str, Any]:
    """The settings of its format go apart."""
    shared = {entry.key for entry in SHARED}
    own = {key: value for key, value in values.items() if key not in shared}
    return {"place": place, **{key: value for key, value in values.items() if key in shared}, "own": tuple(own.items())}


REPOSITORIES = TableArray("repositories", RepositoryConfig, most=MOST, finish=_finish, more=_settings_of_table)


def repository_of(values: dict[str, Any], formats: Mapping[str, Any], place: str = "") -> RepositoryConfig:
    """From the keys of a table, as they are in the file."""
    return with_settings(RepositoryConfig(**_finish(place, values)), formats)


def with_settings(repository: RepositoryConfig, formats: Mapping[str, Any]) -> RepositoryConfig:
    """`formats`: the section of each."""
    return replace(repository, settings=replace(formats[repository.format], **dict(repository.own)))


def conflicts(repositories: tuple[RepositoryConfig, ...], formats: Mapping[str, Any], sources: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with repositories beside each other, one line each."""
    taken: dict[tuple[str, ...], tuple[int, RepositoryConfig]] = {}
    for number, repository in enumerate(repositories, 1):
        begin = f"{repository.place}: repositories[{number}]"
        if not formats[repository.format].enabled:
            switch = f"{repository.format}.enabled"
            yield f"{begin}.format: {repository.format} is switched off (by {sources[switch]}); switch it on, or take the repository out"
        for key, *words in _claims(repository):
            other, first = taken.setdefault((key, *words), (number, repository))
            if first is not repository:
                what = "is" if key == "name" else f"{words[-1]} is"
                yield f"{begin}.{key}: {what} that of repositories[{other}] ({first.place}) as well"


def _claims(repository: RepositoryConfig) -> Iterator[tuple[str, ...]]:
    """What only one repository may have: the key, and by what they are compared."""
    yield "name", repository.name
    yield from (("hosts", repository.format, host) for host in repository.hosts)
    yield from (("ns", repository.format, ns) for ns in repository.ns)
