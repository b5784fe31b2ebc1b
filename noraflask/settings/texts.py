"""How texts of settings are read: durations, paths, hosts, addresses, patterns. A function returns the value or raises ValueError; Bad says why."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path

MAX_LENGTH = 255
ALGORITHMS = (*(f"{family}{bits}" for family in ("RS", "PS", "ES") for bits in (256, 384, 512)), "EdDSA", "Ed25519")

_PLACEHOLDER = re.compile(r"\{user\}|\{claim:[^{}/*]+\}")


class Bad(ValueError):
    """The value cannot be used. Its text follows the name of the setting; ", got …" is added when the value may be shown."""

    def __init__(self, text: str, show_value: bool = True) -> None:
        super().__init__(text)
        self.text = text
        self.show_value = show_value


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


_DURATION = re.compile(r"(?:[0-9]{1,6}[hdw])+|0", re.ASCII)
_UNITS = {"h": 3600.0, "d": 86400.0, "w": 604800.0}
LONGEST_SECONDS = 3650 * 86400.0


def read_duration(text: str) -> float:
    """`1w2d`, `36h`; a plain 0 as well, which Duration refuses and rules for single packages may say."""
    if not _DURATION.fullmatch(text):
        raise ValueError(text)
    seconds = sum(int(number) * _UNITS[unit] for number, unit in re.findall(r"([0-9]+)([hdw])", text))
    if seconds > LONGEST_SECONDS:
        raise ValueError(text)
    return float(seconds)


def duration_text(seconds: float) -> str:
    """As read_duration() reads it again."""
    return f"{seconds / 86400:.0f}d" if seconds % 86400 == 0 else f"{seconds / 3600:.0f}h"


def read_path(text: str) -> Path:
    if not text.strip() or not text.isprintable():
        raise ValueError(text)
    return Path(text)


def read_host(text: str) -> str:
    """An IP address, or a name whose letters a resolver takes; digits and dots alone must be an address."""
    if ":" in text or re.fullmatch(r"[0-9.]*", text):
        ipaddress.ip_address(text)
    elif not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,252})", text):
        raise ValueError(text)
    return text


_URL = re.compile(r"https?://(?P<host>[a-z0-9][a-z0-9._-]*|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?(?:/[a-z0-9._~!$&'()*+,;=:@%/-]*)?", re.I | re.A)


def read_url(text: str) -> str:
    """RFC 3986, "Generic Syntax", for http and https: no user part, query or fragment; trailing slashes go."""
    found = _URL.fullmatch(text)
    if not found:
        raise ValueError(text)
    if found["host"].startswith("["):
        ipaddress.IPv6Address(found["host"][1:-1])
    if found["port"] and not 1 <= int(found["port"]) <= 65535:
        raise ValueError(text)
    return text.rstrip("/")


REDIS_URLS = "redis://HOST:PORT/DB, rediss://HOST:PORT/DB?ssl_ca_certs=/FILE or unix:///SOCKET?db=DB, with USER:PASSWORD@ in front of the host"

_REDIS = re.compile(
    r"(?P<net>rediss?://(?:[!$-.0-;=A-Z_a-z~]*@)?(?P<host>[a-z0-9][a-z0-9._-]*|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?(?:/[0-9]{0,5})?"
    r"(?:\?ssl_ca_certs=/[a-z0-9._~/+-]+)?)|(?P<unix>(?:redis\+)?unix://(?:[!$-.0-;=A-Z_a-z~]*@)?/[a-z0-9._~/+-]+(?:\?db=[0-9]{1,5})?)",
    re.I | re.A,
)


def read_redis_url(text: str) -> str:
    """As the clients of Redis write it. The text of a Bad never holds it: there may be a password in it."""
    found = _REDIS.fullmatch(text)
    if not found or (found["port"] and not 1 <= int(found["port"]) <= 65535):
        raise Bad(f"expected {REDIS_URLS}", show_value=False)
    try:
        ipaddress.IPv6Address(found["host"][1:-1] if (found["host"] or "").startswith("[") else "::")
    except ValueError:
        raise Bad(f"expected {REDIS_URLS}", show_value=False) from None
    return text if found["net"] or text.startswith("redis+") else f"redis+{text}"


_ORIGIN = re.compile(r"(?P<scheme>https?)://(?P<authority>[^/?#@]+)")
_USUAL_PORTS = {"http": ":80", "https": ":443"}


def read_origin(text: str) -> str:
    """As a browser sends it in Origin (RFC 6454, 6.2): scheme and host in small letters, no usual port, nothing behind; or `*`."""
    if text == "*":
        return text
    found = _ORIGIN.fullmatch(text.lower().removesuffix("/"))
    if not found:
        raise ValueError(text)
    authority = read_authority(found["authority"])
    return f"{found['scheme']}://{authority.removesuffix(_USUAL_PORTS[found['scheme']])}"


def read_allowed_host(text: str) -> str:
    return text if text == "*" else read_authority(text)


_AUTHORITY = re.compile(r"(?:[a-z0-9](?:[a-z0-9._-]{0,252}[a-z0-9])?|\[(?P<address>[0-9a-f:.]+)\])(?::(?P<port>[0-9]{1,5}))?")


def read_authority(text: str) -> str:
    """A host with or without a port, as a Host header has it, in small letters."""
    text = text.lower()
    match = _AUTHORITY.fullmatch(text)
    if not match or (match["port"] and not 1 <= int(match["port"]) <= 65535):
        raise ValueError(text)
    if match["address"]:
        ipaddress.IPv6Address(match["address"])
    return text


def glob(pattern: str, text: str) -> bool:
    """`*` stands for any run of characters, none and slashes included; all else for itself."""
    if "*" not in pattern:
        return pattern == text
    first, *middle, last = pattern.split("*")
    if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
        return False
    position, end = len(first), len(text) - len(last)
    for part in middle:
        found = text.find(part, position, end)
        if found < 0:
            return False
        position = found + len(part)
    return True
