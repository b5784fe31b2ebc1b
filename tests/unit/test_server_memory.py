"""What is not in the memory of a server that has just started."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

MADE = """
import sys
from noraflask.cli import main
import noraflask.serve
noraflask.serve.run = lambda config: (noraflask.serve._create_app(config), __import__("noraflask.serve.settings"))
main(["serve"])
"""
LET_GO = """
import hashlib, re
from pathlib import Path
from noraflask.serve.master import _UNTOUCHED, let_go_of_code
def size():
    return sum(int(re.search(r"Rss: +([0-9]+)", found[0])[1]) for found in _UNTOUCHED.finditer(Path("/proc/self/smaps").read_text()))
first, before = hashlib.sha256(b"x").hexdigest(), size()
let_go_of_code()
assert size() < before / 2, (size(), before)
assert hashlib.sha256(b"x").hexdigest() == first
"""


def run(code: str, folder: Path) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder, env={"PYTHONPATH": str(Path.cwd())}).stdout


def test_what_no_server_uses_is_not_imported(tmp_path: Path) -> None:
    modules = run(MADE + "print(*sys.modules)", tmp_path).split()
    assert "noraflask.app" in modules
    for name in (
        "asyncio",
        "limits.aio",
        "noraflask.services.doctor",
        "noraflask.formats.docker.doctor",
        "noraflask.cli.doctor",
        "cryptography",
        "bcrypt",
    ):
        assert name not in modules


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux alone tells")
def test_code_that_is_let_go_comes_back(tmp_path: Path) -> None:
    run(LET_GO, tmp_path)
