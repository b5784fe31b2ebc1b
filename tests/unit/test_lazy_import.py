"""Modules that are imported when they are used (noraflask/lazy_import.py)."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from noraflask.lazy_import import lazily


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`heavy`, and `light` that imports it."""
    (tmp_path / "heavy.py").write_text("VALUE = 7\n")
    (tmp_path / "light.py").write_text("import heavy\ndef value():\n    return heavy.VALUE\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("heavy", "light"):
        monkeypatch.setitem(sys.modules, name, sys)  # so that it is put back as it was: absent
        del sys.modules[name]


@pytest.mark.usefixtures("library")
def test_a_module_is_imported_by_who_takes_something_out_of_it() -> None:
    with lazily("heavy"):
        light = import_module("light")
    assert "heavy" not in sys.modules
    assert light.value() == 7
    assert sys.modules["heavy"].VALUE == 7


@pytest.mark.usefixtures("library")
def test_who_takes_something_out_of_it_inside_has_it_as_usual() -> None:
    with lazily("heavy"):
        light = import_module("light")
        assert light.value() == 7
    assert import_module("heavy").VALUE == 7


@pytest.mark.usefixtures("library")
def test_a_module_that_is_there_stays() -> None:
    heavy = import_module("heavy")
    with lazily("heavy"):
        assert import_module("heavy") is heavy
    assert sys.modules["heavy"] is heavy


def test_a_server_does_not_import_what_it_never_uses() -> None:
    """Each takes some megabytes, or some hundred kilobytes, in each process."""
    code = """
import sys
from noraflask import app, assembly, config
from noraflask.services.metrics.counting import NullMetrics
assembly.make_limits(config.RateLimitConfig(), NullMetrics())
print({"asyncio", "limits.aio", "noraflask.cli", "noraflask.services.doctor"} & set(sys.modules))
import asyncio, limits
print(asyncio.Lock.__module__, limits.aio.storage.__name__)
"""
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split("\n") == ["set()", "asyncio.locks limits.aio.storage", ""]
