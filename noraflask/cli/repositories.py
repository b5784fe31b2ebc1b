"""nora repo: which repositories the configuration makes, where clients reach each, and where each of its settings was set."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from noraflask.cli.subcommand import Commands, Failed, add, add_group, print_line, storage_of, table, tell_json

if TYPE_CHECKING:
    from noraflask.config import Config
    from noraflask.services.repositories import Repository
    from noraflask.web.format import Format

DESCRIPTION = """\
Repositories: the default one of each format, and those of [[repositories]]. The commands read the configuration; a server that runs has what it read
last, which GET /api/v1/repositories shows.
"""
SHOW_DESCRIPTION = """\
Shows one repository: where clients reach it, each setting with its value and where it was set, and how many names it holds.
The names are counted where the storage is, so run this on the server's machine.
"""


def add_commands(commands: Commands) -> None:
    group = add_group(commands, "repo", "repositories and their settings", DESCRIPTION)
    parser = add(group, "list", "show all repositories", "Shows all repositories, the default ones first.")
    _add_json(parser, list_repositories)
    parser = add(group, "show", "show one repository", SHOW_DESCRIPTION)
    parser.add_argument("name", metavar="NAME")
    _add_json(parser, show_repository)


def _add_json(parser: argparse.ArgumentParser, work: Any) -> None:
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(work=work)


def list_repositories(options: argparse.Namespace) -> int:
    config, formats, repositories = _read()
    members = [_members(config, repository, formats[repository.format]) for repository in repositories.values()]
    if options.json:
        tell_json({"repositories": members})
        return 0
    print(table([("NAME", "FORMAT", "KIND", "ADDRESSES"), *(_row(one) for one in members)]))
    return 0


def show_repository(options: argparse.Namespace) -> int:
    config, formats, repositories = _read()
    repository = repositories.get(options.name)
    if repository is None:
        raise Failed(f"there is no repository {options.name}, there is {', '.join(sorted(repositories))}")
    members = _members(config, repository, formats[repository.format])
    sources = _sources(config, repository)
    names = _count_names(config, repository, formats[repository.format])
    if options.json:
        tell_json({**members, "place": repository.place or None, "sources": sources, "names": names})
        return 0
    for key in ("name", "format", "kind", "title"):
        if members[key]:
            print_line(f"{key + ':':11}{members[key]}")
    print_line(f"{'set in:':11}{repository.place or 'the default repository of its format'}")
    for key in ("addresses", "hosts", "ns"):
        if members[key]:
            print_line(f"{key + ':':11}{' '.join(members[key])}")
    print_line(f"{'names:':11}{'not counted, the storage is not on this machine' if names is None else names}")
    print("settings:")
    for key, value in members["settings"].items():
        print_line(f"  {key} = {_text(value)}  # from {sources[key]}")
    return 0


def _read() -> tuple[Config, dict[str, Format], dict[str, Repository]]:
    """The configuration, the formats by id, the repositories by name. Raises ConfigError."""
    from noraflask.assembly import repositories_of
    from noraflask.config import load
    from noraflask.formats import FORMATS

    config = load()
    return config, {format.id: format for format in FORMATS}, {repository.name: repository for repository in repositories_of(config, FORMATS)}


def _members(config: Config, repository: Repository, format: Format) -> dict[str, Any]:
    """In the words of the API."""
    from noraflask.services.repositories import describe
    from noraflask.web.repositories import addresses_of

    addresses = [f"{config.server.public_url or ''}{path}" for path in addresses_of(repository, format)]
    return {**describe(repository), "addresses": addresses}


def _row(members: dict[str, Any]) -> tuple[str, ...]:
    more = [f"host {host}" for host in members["hosts"]] + [f"ns {ns}" for ns in members["ns"]]
    return members["name"], members["format"], members["kind"], ", ".join([*members["addresses"], *more])


def _sources(config: Config, repository: Repository) -> dict[str, str]:
    """Where each of its settings was set: its own table, else what the format's section says."""
    own = {key for one in config.repositories if one.name == repository.name for key, _ in one.own}
    keys = sorted(vars(repository.settings))
    return {key: repository.place if key in own else config.sources.get(f"{repository.format}.{key}", "default") for key in keys}


def _count_names(config: Config, repository: Repository, format: Format) -> int | None:
    """None: the storage is not here."""
    from noraflask.services.content import Content

    if not config.storage.path.is_dir():
        return None
    with storage_of(config) as storage:
        return sum(1 for _ in format.stock.names(Content(storage), repository.name))


def _text(value: Any) -> str:
    from noraflask.config.document import toml

    return toml(value) if value is not None else "not set"
