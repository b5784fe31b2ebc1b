"""Repositories: instances of formats, each with a name, a kind and settings of its own, and which of them a request is for.

The default repository of a format bears the format's id and lies at its mounts, such as /v2/ and /raw/. A named one is found by

    /repository/<name>/…      any format: what follows is what follows the format's mount
    its mount, first segment  where the format says so: /v2/<name>/<image>/…
    the host's name           `hosts`: its addresses below the format's mount belong to it alone
    ?ns=                      `ns`: what a mirror's client says it came for (containerd)

A table of them is frozen and part of the live state: a request is asked about one table, from its first line to its end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

HOSTED, PROXY, GROUP = "hosted", "proxy", "group"


@dataclass(frozen=True, slots=True)
class Repository:
    name: str
    """Keys, rights, rules, metrics, log and audit all say it."""
    format: str
    """The id of its ecosystem."""
    kind: str = HOSTED
    settings: Any = field(default=None, compare=False)
    """The format's section of the configuration, with what the repository says itself in place of the section's values."""
    hosts: tuple[str, ...] = ()
    ns: tuple[str, ...] = ()
    is_default: bool = False
    title: str = ""
    """For people."""
    place: str = field(default="", compare=False)
    """Where it was configured, such as "config.toml:14"; empty for a default one."""


class Repositories:
    """All repositories of one state, by name. Lookups cost the same however many there are."""

    def __init__(self, repositories: Iterable[Repository]) -> None:
        self._by_name: Mapping[str, Repository] = {repository.name: repository for repository in repositories}
        self._defaults = {repository.format: repository for repository in self._by_name.values() if repository.is_default}
        self._by_host = {(repository.format, host): repository for repository in self._by_name.values() for host in repository.hosts}
        self._by_ns = {(repository.format, ns): repository for repository in self._by_name.values() for ns in repository.ns}
        self.names = frozenset(self._by_name)
        self.hosts = frozenset(host for _, host in self._by_host)
        self.has_hosts, self.has_ns = bool(self._by_host), bool(self._by_ns)

    def __iter__(self) -> Iterator[Repository]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)

    def get(self, name: str) -> Repository | None:
        return self._by_name.get(name)

    def default(self, format: str) -> Repository | None:
        """None: the format is switched off, or its mount belongs to nobody."""
        return self._defaults.get(format)

    def by_host(self, format: str, host: str) -> Repository | None:
        return self._by_host.get((format, host))

    def by_ns(self, format: str, ns: str) -> Repository | None:
        return self._by_ns.get((format, ns))


def describe(repository: Repository) -> dict[str, object]:
    """JSON-ready, for the API and the command line."""
    settings = repository.settings
    return {
        "name": repository.name,
        "format": repository.format,
        "kind": repository.kind,
        "title": repository.title,
        "default": repository.is_default,
        "hosts": list(repository.hosts),
        "ns": list(repository.ns),
        "settings": {name: getattr(settings, name) for name in sorted(vars(settings))} if settings is not None else {},
    }
