"""Names with {user} in access rules, for users whose names no path can hold: those users have nothing there, and should be told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from noraflask.config import AccessRule, Config
from noraflask.config.dead_patterns import can_match, formats_of
from noraflask.ecosystems import Ecosystem
from noraflask.services.auth.principal import Principal, Source
from noraflask.services.auth.rules import concerns
from noraflask.services.auth.users import Directory
from noraflask.settings.texts import glob, shown_list

USER = "{user}"
MOST_LOOKED_AT = 1000
"""Users with odd names; each rule is asked for each of them."""


def without_place(config: Config, users: Directory) -> Iterator[str]:
    """A line for each rule and format."""
    rules = [(number, rule) for number, rule in enumerate(config.access.rules, 1) if any(USER in name for name in rule.names)]
    formats = formats_of(config) if rules else {}
    for ecosystem in dict.fromkeys(formats.values()):
        odd = [name for name in users.hashes if not _is_plain(name, ecosystem)][:MOST_LOOKED_AT]
        for number, rule in rules if odd else ():
            yield from _lines(number, rule, ecosystem, formats, [Principal(name, Source.PASSWORD, users.groups_of(name)) for name in odd])


def _is_plain(name: str, ecosystem: Ecosystem) -> bool:
    """It can be a part of a name, alone and between letters."""
    return all(can_hold(pattern, name, ecosystem) for pattern in ("x/{user}/x", "x{user}x"))


def can_hold(pattern: str, user: str, ecosystem: Ecosystem) -> bool:
    filled = pattern.replace(USER, user)
    return "/" not in user and not set(user) & set("*{}") and can_match(filled, ecosystem) and ecosystem.same_name(user) == user


def _lines(number: int, rule: AccessRule, ecosystem: Ecosystem, formats: Mapping[str, Ecosystem], odd: list[Principal]) -> Iterator[str]:
    meant = any(one is ecosystem and any(glob(pattern, name) for pattern in rule.repositories) for name, one in formats.items())
    for pattern in [name for name in rule.names if USER in name] if meant else ():
        without = [who.name for who in odd if concerns(rule, who) and not can_hold(pattern, who.name, ecosystem)]
        if without:
            yield f"{rule.place}: access.rules[{number}].names: {pattern} is no {ecosystem.id} name for {shown_list(without)}: {ecosystem.names.rule}"
