"""What the commands of curation read: the configuration, its policy, the freeze, and what kind of rule file a file is."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from noraflask.config import Config, CurationConfig
    from noraflask.services.curation.freeze import Freeze
    from noraflask.services.curation.policy import Policy

HEAD_BYTES = 65536
LARGEST = 256 * 1024 * 1024
"""Bytes of a file of rules."""
BLOCKLIST, ALLOWLIST, RULES = "blocklist_path", "allowlist_path", "rules_path"
NAMES = {BLOCKLIST: "a block list", ALLOWLIST: "an allow list", RULES: "a rules file"}

_LIST_KEY = re.compile(rb'"(rules|entries|integrity)"\s*:')


def read_configuration() -> Config:
    """Raises ConfigError. Whether there are logins is no matter here."""
    from noraflask.config import load

    return load()


def policy_of(curation: CurationConfig) -> Policy:
    """Raises ConfigError."""
    from noraflask.services.curation.loading import load_policy
    from noraflask.services.curation.policy import Policy

    return Policy.from_buffer(load_policy(curation, time.time())[0])


def freeze_of(storage: Any) -> Freeze:
    from noraflask.assembly import CURATION
    from noraflask.services.curation.freeze import Freeze
    from noraflask.services.documents import Documents

    return Freeze(Documents(storage, f"{CURATION}/"))


def kind_of(path: Path) -> str | None:
    """What a file is: the setting that it would stand under, None for a whole configuration. Raises OSError."""
    from noraflask.config.text_file import without_mark

    with path.open("rb") as file:
        head = without_mark(file.read(HEAD_BYTES))
    if path.suffix.lower() == ".json" or (path.suffix.lower() != ".toml" and head.lstrip()[:1] == b"{"):
        key = _LIST_KEY.search(head)
        return ALLOWLIST if key and key[1] != b"rules" else BLOCKLIST
    return None if _is_configuration(path) else RULES


def _is_configuration(path: Path) -> bool:
    from noraflask.config.settings import SECTIONS
    from noraflask.config.text_file import FileProblem, read_text
    from noraflask.config.toml_lines import parse

    try:
        return not SECTIONS.isdisjoint(parse(read_text(path, LARGEST))[0])
    except FileProblem:
        return False  # the reader of rules says what is wrong with it, with the line
