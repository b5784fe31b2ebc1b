"""The texts inside of tables: patterns, addresses and names of algorithms. Each function returns its text or raises ValueError; Bad says why."""

from __future__ import annotations

import re

from noraflask.config.kinds import Bad, read_url

MAX_LENGTH = 255
ALGORITHMS = (*(f"{family}{bits}" for family in ("RS", "PS", "ES") for bits in (256, 384, 512)), "EdDSA", "Ed25519")

_PLACEHOLDER = re.compile(r"\{user\}|\{claim:[^{}/*]+\}")


def read_text(text: str) -> str:
    if not 1 <= len(text) <= MAX_LENGTH or not text.isprintable() or not text.strip():
        raise ValueError(text)
    return text


def read_word(text: str) -> str:
    if " " in read_text(text):  # the one space that isprintable() lets through
        raise ValueError(text)
    return text


def read_contact(text: str) -> str:
    if len(text) > 200 or not text.isprintable() or not text.strip():
        raise ValueError(text)
    return text


def read_secret(text: str) -> str:
    """What fits into a header; the text of a Bad never holds it."""
    if not re.fullmatch(r"[!-~]{1,1024}", text):
        raise ValueError("not shown")
    return text


def read_internal_prefix(text: str) -> str:
    """Plain characters alone: it stands in front of a key in a header, and in the proxy's configuration."""
    if len(text) > MAX_LENGTH or not re.fullmatch(r"/(?:[A-Za-z0-9_~-][A-Za-z0-9_.~-]*/)+", text):
        raise ValueError(text)
    return text


def read_on_failure(text: str) -> str:
    word = text.lower()
    if word == "open":
        raise Bad("open is refused: a gate that cannot decide says no; expected closed", show_value=False)
    if word != "closed":
        raise ValueError(text)
    return word


def read_name_pattern(text: str) -> str:
    """Of names, with the placeholders of the asker's own words."""
    _check_segments(_PLACEHOLDER.sub("x", read_word(text)), "the placeholders are {user} and {claim:NAME}; other braces are not taken")
    return text


def read_scope_pattern(text: str) -> str:
    _check_segments(read_word(text), "braces are not taken; placeholders are for the names of [[access.rules]]")
    return text


def placeholders(pattern: str) -> set[str]:
    """Which there are: `user`, `claim`."""
    return {found.strip("{}").partition(":")[0] for found in _PLACEHOLDER.findall(pattern)}


def read_issuer(text: str) -> str:
    """Tokens repeat it to the letter, so a slash at its end stays."""
    read_url(text)
    return text


def read_uri(text: str) -> str:
    """As read_url, and there may be a query."""
    before, mark, query = text.partition("?")
    if mark and not re.fullmatch(r"[!$-;=?-~]+", query):
        raise ValueError(text)
    read_url(before)
    return text


def read_algorithm(text: str) -> str:
    if text.upper().startswith("HS") or text.lower() == "none":
        raise Bad("HS* and none are refused: whoever knows the public keys, or anybody at all, could make such tokens")
    if text not in ALGORITHMS:
        raise Bad(f"expected of {', '.join(ALGORITHMS)}")
    return text


def _check_segments(text: str, about_braces: str) -> None:
    if "{" in text or "}" in text:
        raise Bad(about_braces)
    for segment in text.split("/"):
        if not segment:
            raise Bad("has an empty part between slashes, so it matches no name")
        if "**" in segment and segment != "**":
            raise Bad("** stands only as a whole part between slashes, as in team/**; inside of one use *")
