"""Raw: files at any path, which is their name. They have no versions.

A path has one spelling: no empty part, no `.` and `..`, and Unicode in the form NFC, because a Mac and a Linux machine may write one visible name
with different characters, and two files that look alike are a trap. Letter case counts.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from noraflask.ecosystems.ecosystem import Ecosystem
from noraflask.ecosystems.names import Names, refusal
from noraflask.settings import MIB, TIB, Choice, Switch, Text, WholeNumber, setting

MOST_BYTES = 1024
"""Of a whole path, in UTF-8."""
MOST_BYTES_OF_PART = 255
"""What file systems take for one name."""
REPLACED = "\ufffd"
"""What bytes that are not UTF-8 have become on their way here: different paths would be one."""


def _read_header_value(text: str) -> str:
    if not re.fullmatch(r"[!-~](?:[ -~]{0,198}[!-~])?", text):
        raise ValueError(text)
    return text


@dataclass(frozen=True)
class RawConfig:
    enabled: bool = setting(True, Switch(), "Whether files are served at /raw/.", env="NORA_RAW_ENABLED")
    max_file_size: int = setting(100 * MIB, WholeNumber(1, TIB), "Largest file, in bytes.", env="NORA_RAW_MAX_FILE_SIZE", per_repository=True)
    cache_control: str = setting(
        "no-cache",
        Text("1 to 200 printable ASCII characters", _read_header_value),
        "Cache-Control of files that are read.",
        env="NORA_RAW_CACHE_CONTROL",
        per_repository=True,
    )
    overwrite: str = setting(
        "conditional",
        Choice(("never", "conditional", "always")),
        "Whether a file may be replaced by other bytes: never, conditional = by a request that says with If-Match what it replaces, always.",
        env="NORA_RAW_OVERWRITE",
        per_repository=True,
    )
    listing: bool = setting(True, Switch(), "Whether the address of a folder lists its files.", env="NORA_RAW_LISTING", per_repository=True)


def _parse_name(text: str) -> str:
    """The path. Raises InvalidName."""
    if not 0 < len(text) <= MOST_BYTES:
        raise refusal(text, f"a path has 1 to {MOST_BYTES} bytes")
    parts = text.split("/")
    if not {"", ".", ".."}.isdisjoint(parts):
        raise refusal(text, "a path has no empty part and neither . nor .. between its slashes")
    if not {"\\", REPLACED}.isdisjoint(text) or any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text):
        raise refusal(text, "a path has no backslash, no control characters and is UTF-8")
    if not unicodedata.is_normalized("NFC", text):
        raise refusal(text, "its characters are not in the Unicode form NFC, so another path could look the same; send it in that form")
    if len(text.encode()) > MOST_BYTES or any(len(part.encode()) > MOST_BYTES_OF_PART for part in parts):
        raise refusal(text, f"a path has at most {MOST_BYTES} bytes, and {MOST_BYTES_OF_PART} between two slashes")
    return text


ECOSYSTEM = Ecosystem(
    id="raw",
    title="Raw files",
    section=RawConfig,
    has_ages=False,
    names=Names("paths have no empty part, no control character and no backslash", read=_parse_name),
)
