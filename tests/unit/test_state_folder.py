"""The folder of what the server writes for itself: made at the start, refused in one line, and what lies elsewhere is named."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

import pytest

from noraflask.config import AuditConfig, Config, ConfigError, CurationConfig, StateConfig, StorageConfig
from noraflask.services import state_folder
from tests.conftest import config_of


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(storage=StorageConfig(path=tmp_path / "storage"), state=StateConfig(path=tmp_path / "var" / "state"))


def test_it_is_made_for_the_server_and_its_group(config):
    before = os.umask(0)
    try:
        state_folder.prepare(config)
        state_folder.prepare(config)
    finally:
        os.umask(before)
    assert config.state.path.stat().st_mode & 0o777 == 0o750
    assert list(config.state.path.iterdir()) == []


@pytest.mark.parametrize("blocked", ["var", "var/state"])
def test_one_that_cannot_be_made_or_written_to_is_refused_in_one_line(config, tmp_path, blocked):
    (tmp_path / blocked).parent.mkdir(exist_ok=True)
    (tmp_path / blocked).write_text("no folder")
    with pytest.raises(ConfigError) as refused:
        state_folder.prepare(config)
    (line,) = refused.value.problems
    assert line.startswith(f"state.path = {config.state.path}: the server cannot write there: ")
    assert "NORA_STATE_PATH" in line


def test_a_read_only_one_is_refused(config, monkeypatch):
    def read_only(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(state_folder.tempfile, "TemporaryFile", read_only)
    with pytest.raises(ConfigError, match="Read-only file system"):
        state_folder.prepare(config)


def test_the_places_in_it_and_those_that_are_configured(config, tmp_path):
    assert state_folder.audit_file(config) == config.state.path / "audit.jsonl"
    assert state_folder.ledger_folder(config) == config.state.path / "ledger"
    elsewhere = replace(config, audit=AuditConfig(path=tmp_path / "a"), curation=CurationConfig(ledger_path=tmp_path / "l"))
    assert (state_folder.audit_file(elsewhere), state_folder.ledger_folder(elsewhere)) == (tmp_path / "a", tmp_path / "l")


def test_files_of_an_earlier_version_are_named_with_the_new_places(config, tmp_path):
    assert state_folder.left_in_storage(config) == []
    (tmp_path / "storage" / "ledger").mkdir(parents=True)
    (tmp_path / "storage" / "audit.jsonl").touch()
    audit, ledger = state_folder.left_in_storage(config)
    assert f"{tmp_path}/storage/audit.jsonl" in audit
    assert f"{tmp_path}/var/state/audit.jsonl" in audit
    assert f"{tmp_path}/storage/ledger" in ledger
    assert f"{tmp_path}/var/state/ledger" in ledger


def test_where_both_folders_are_one_nothing_was_left(config):
    config = replace(config, state=StateConfig(path=config.storage.path))
    state_folder.prepare(config)
    (config.state.path / "audit.jsonl").touch()
    assert state_folder.left_in_storage(config) == []


def test_the_start_makes_it_and_warns(make_app, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    (tmp_path / "storage").mkdir()
    (tmp_path / "storage" / "audit.jsonl").touch()
    make_app()
    assert config_of(tmp_path).state.path.is_dir()
    assert [record.name for record in caplog.records if "earlier version" in record.getMessage()] == ["nora.config"]
