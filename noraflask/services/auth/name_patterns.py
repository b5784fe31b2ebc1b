"""Patterns over names: `*` within a segment, `**` for any number of segments. No regular expressions: what a user writes must not take long."""

from __future__ import annotations

from noraflask.settings.texts import glob


def matches_name(pattern: str, name: str) -> bool:
    """By slash-parted segments: `*` is any run of characters in one of them, `**` any number of segments, none included. `*` alone is everything."""
    if pattern in ("*", "**"):
        return True
    if "*" not in pattern:
        return pattern == name
    if not name.startswith(pattern.partition("*")[0].rstrip("/")):  # most patterns differ there already; `team/**` is `team` as well
        return False
    wanted, parts = pattern.split("/"), name.split("/")
    at_wanted = at_part = 0
    star, resume = -1, 0  # the last `**`, and the part from which to try again after it
    while at_part < len(parts):
        if at_wanted < len(wanted) and wanted[at_wanted] == "**":
            star, resume = at_wanted, at_part
            at_wanted += 1
        elif at_wanted < len(wanted) and glob(wanted[at_wanted], parts[at_part]):
            at_wanted, at_part = at_wanted + 1, at_part + 1
        elif star >= 0:
            resume += 1
            at_wanted, at_part = star + 1, resume
        else:
            return False
    return all(rest == "**" for rest in wanted[at_wanted:])


def holds_all_below(pattern: str, folder: str) -> bool:
    return pattern in ("*", "**") or (pattern.endswith("/**") and matches_name(pattern, folder))


def leads_below(pattern: str, folder: str) -> bool:
    """Can it match a name below the folder?"""
    wanted, parts = pattern.split("/"), folder.split("/")
    if pattern == "*" or "**" in wanted[: len(parts)]:
        start = wanted.index("**") if "**" in wanted else 0
        return all(glob(*pair) for pair in zip(wanted[:start], parts, strict=False))
    return len(wanted) > len(parts) and all(glob(*pair) for pair in zip(wanted, parts, strict=False))
