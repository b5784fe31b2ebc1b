"""The folder of what the server writes for itself (state.path), and the places in it.

audit.jsonl     the audit log (services/audit.py), unless audit.path names another file
ledger/         what was served, to whom (services/curation/ledger.py), unless curation.ledger_path names another folder
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from noraflask.config import Config, ConfigError
from noraflask.config.other_users import planted

AUDIT_FILE, LEDGER = "audit.jsonl", "ledger"
MODE = 0o750


def audit_file(config: Config) -> Path:
    return config.audit.path or config.state.path / AUDIT_FILE


def ledger_folder(config: Config) -> Path:
    return config.curation.ledger_path or config.state.path / LEDGER


def prepare(config: Config) -> None:
    """Make the folder where it is missing.

    Raises ConfigError when it cannot be made or written to, and for a folder of the server's that somebody else has put there.
    """
    strangers = [
        f"{key} = {path}: {stranger}; remove it, or choose another place"
        for key, path in (
            ("state.path", config.state.path),
            ("storage.path", config.storage.path),
            ("audit.path", audit_file(config).parent),
            ("curation.ledger_path", ledger_folder(config)),
            ("auth.token_storage", config.auth.token_storage),
        )
        if path is not None and (stranger := planted(path))
    ]
    if strangers:
        raise ConfigError(strangers)
    folder = config.state.path
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=MODE, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as problem:
        raise ConfigError([f"state.path = {folder}: the server cannot write there: {problem.strerror}; {_remedy(folder)}"]) from None


def left_in_storage(config: Config) -> list[str]:
    """Warnings about files that an earlier version kept in the storage folder. They are not moved: somebody may collect them there."""
    return [
        f"{old} was written by an earlier version; new entries go to {new}, so move it there or remove it"
        for old, new in (
            (config.storage.path / AUDIT_FILE, audit_file(config)),
            (config.storage.path / LEDGER, ledger_folder(config)),
        )
        if os.path.lexists(old) and os.path.abspath(old) != os.path.abspath(new)
    ]


def _remedy(folder: Path) -> str:
    return f"set NORA_STATE_PATH to a folder on a disk, or give {folder} to the server's user"
