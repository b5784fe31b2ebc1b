"""Which repository a request is for. It is found once, before Flask; errors, limits, headers, metrics, log, rights and gate read the one answer.

    /v2/…                     the default repository of the format that is mounted there
    /v2/<name>/…              a named one, where the format's names begin with it, because its clients know no other way to name one
    /repository/<name>/…      any repository; what follows is what follows the mount, below `root` where the format has one
    the host, ?ns=            a repository that has claimed the host's name, or what a mirror's client came for

Flask sees the address below the format's inner mount, which no address from outside can spell, so that a blueprint is registered once for any number
of repositories. One address has one spelling: an empty, `.` or `..` segment, and an encoded slash where the format has none, lead nowhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

from noraflask.services.repositories import Repositories, Repository
from noraflask.web.format import Format
from noraflask.web.peers import front_of

TARGET = "nora.target"
"""In a request's environ."""
OUTER_PATH = "nora.path"
"""Likewise: the path as the client wrote it, percent-decoded."""
INNER = "/."
"""In front of a format's id: the inner mount of its routes."""
NOWHERE = "/.nowhere"
"""An inner address that no route has."""
REPOSITORY = "repository"
LONGEST_QUERY = 8192
"""Characters of a query that is looked through for `ns`; a longer one has none."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a request is for. Below no mount, and for a repository that is not there, there is no repository."""

    repository: Repository | None
    format: Format | None
    mount: str
    """Path in front of the names that the client knows, such as "/v2" and "/repository/team/v2"; no slash at the end."""
    prefix: str = ""
    """What the client's names have in front of the repository's own: its name and a slash, where the names begin with it."""
    is_shared: bool = False
    """Several repositories lie below the mount: a name may begin with the name of one of them."""

    @property
    def base(self) -> str:
        """Path in front of the repository's own addresses, such as "/v2/team"; no slash at the end."""
        return f"{self.mount}/{self.prefix}"[:-1] if self.prefix else self.mount

    @property
    def registry(self) -> str:
        """The repository's name, empty for what belongs to none."""
        return self.repository.name if self.repository else ""


ELSEWHERE = Target(None, None, "")


class Targets:
    """Finds them. `formats`: those that are served; each mount is one segment."""

    def __init__(self, formats: Iterable[Format], trusted_proxies: tuple[str, ...] = ()) -> None:
        self._by_id = {format.id: format for format in formats}
        self._by_mount = {mount[1:]: format for format in self._by_id.values() for mount in format.mounts}
        self._trusted_proxies = trusted_proxies

    def locate(self, environ: dict[str, Any], repositories: Repositories) -> Target:
        """Also turns the environ's PATH_INFO into the inner address, and keeps the outer one."""
        path: str = environ["PATH_INFO"]
        environ[OUTER_PATH] = path
        target, inner = self._find(environ, path, repositories)
        environ[TARGET] = target
        if not _is_plain(path) or ("%" in environ.get("RAW_URI", "") and _hides_slash(environ["RAW_URI"], target.format)):
            inner = NOWHERE
        environ["PATH_INFO"] = inner
        return target

    def _find(self, environ: dict[str, Any], path: str, repositories: Repositories) -> tuple[Target, str]:
        """The target and the inner address."""
        first, slash, rest = path[1:].partition("/")
        if first == REPOSITORY:
            return self._find_by_name(rest, repositories)
        format = self._by_mount.get(first)
        if format is None:
            return ELSEWHERE, NOWHERE if path.startswith(INNER) else path
        mount = f"/{first}"
        repository = self._find_claimed(environ, format, repositories)
        is_shared = repository is None and format.names_begin_with_repository
        if is_shared:
            name, more, below = rest.partition("/")
            named = repositories.get(name) if more else None
            if named is not None and named.format == format.id and not named.is_default:
                return Target(named, format, mount, f"{name}/", True), f"{INNER}{format.id}/{below}"
        repository = repository or repositories.default(format.id)
        return Target(repository, format, mount, is_shared=is_shared), _inner(format, repository, slash + rest)

    def _find_by_name(self, rest: str, repositories: Repositories) -> tuple[Target, str]:
        name, slash, below = rest.partition("/")
        repository = repositories.get(name)
        format = self._by_id.get(repository.format) if repository else None
        if repository is None or format is None:
            return ELSEWHERE, NOWHERE
        mount, inner = f"/{REPOSITORY}/{name}{format.root}", slash + below
        if not inner.startswith(f"{format.root}/"):
            return Target(repository, format, mount), NOWHERE
        return Target(repository, format, mount), _inner(format, repository, inner[len(format.root) :])

    def _find_claimed(self, environ: dict[str, Any], format: Format, repositories: Repositories) -> Repository | None:
        """By what the client came for, then by the host's name."""
        query = environ.get("QUERY_STRING", "")
        if repositories.has_ns and "ns=" in query and len(query) <= LONGEST_QUERY:
            ns = parse_qs(query).get("ns", [""])[0]
            found = repositories.by_ns(format.id, ns.lower())
            if found is not None:
                return found
        return repositories.by_host(format.id, self._host_of(environ)) if repositories.has_hosts else None

    def _host_of(self, environ: dict[str, Any]) -> str:
        """As the client wrote it; through a trusted proxy, what that says."""
        return (front_of(environ, self._trusted_proxies).host or str(environ.get("HTTP_HOST", ""))).lower()


def _inner(format: Format, repository: Repository | None, below: str) -> str:
    return f"{INNER}{format.id}{below}" if repository else NOWHERE


def _is_plain(path: str) -> bool:
    """Has it one spelling: no empty segment but the last, no `.` and `..`?"""
    if "//" in path:
        return False
    return "/." not in path or not any(segment in (".", "..") for segment in path.split("/"))


def _hides_slash(raw: str, format: Format | None) -> bool:
    """A slash written as %2F is one for Flask, and was none for proxies and for who reads logs."""
    if format is not None and format.takes_encoded_slash:
        return False
    return "%2f" in raw.partition("?")[0].lower()
