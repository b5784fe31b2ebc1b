"""tests/lanes.py: what it runs together, beside and after what, and that no outcome of a test is lost."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.server import ROOT, wait_until

pytestmark = pytest.mark.slow

MARKERS = "[pytest]\nmarkers =\n    waits(seconds)\n    together(name)\n    alone\n"
HEAD = """
import os, time
from pathlib import Path
import pytest

HERE = Path(__file__).parent

def told(name, text=""):
    with open(HERE / name, "a") as file:
        file.write(f"{text or os.getpid()}\\n")

def seen(name):
    return (HERE / name).read_text().split()
"""


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """start(text of a module, …) → pytest, with three lanes."""

    def call(*modules: str, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        (tmp_path / "pytest.ini").write_text(MARKERS)
        for number, text in enumerate(modules):
            (tmp_path / f"test_{number}.py").write_text(HEAD + text)
        command = [sys.executable, "-m", "pytest", "-p", "tests.lanes", "--lanes", "3", "-p", "no:cacheprovider", "-rA", *options, str(tmp_path)]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")} | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )

    return call


@pytest.fixture
def run(start: Callable[..., subprocess.Popen[str]]) -> Callable[..., str]:
    """run(text of a module, …) → what pytest wrote, with its exit status as the first line."""

    def call(*modules: str, options: tuple[str, ...] = ()) -> str:
        with start(*modules, options=options) as process:
            text = process.communicate(timeout=120)[0]
        return f"{process.returncode}\n{text}"

    return call


def closing_line(text: str) -> str:
    return re.findall(r"^=+ (.*) in [\d.]+s.*=+$", text, re.MULTILINE)[-1]


def test_every_outcome_is_told_as_ever(run) -> None:
    text = run("""
def test_good(): pass
def test_bad(): print("its output"); assert 1 == 2
def test_left_out(): pytest.skip("for a reason")
@pytest.fixture
def broken(): raise OSError("no fixture")
def test_error(broken): pass
@pytest.mark.xfail
def test_expected(): assert False
""")
    assert text.startswith("1\n")
    assert closing_line(text) == "1 failed, 1 passed, 1 skipped, 1 xfailed, 1 error"
    for words in ("assert 1 == 2", "its output", "for a reason", "no fixture"):
        assert words in text


def test_a_process_that_dies_costs_its_test_and_no_other(run) -> None:
    dies = """
@pytest.fixture(scope="module")
def server(): pass
def test_before(server): pass
def test_dies(server): os._exit(0)
def test_after(server): pass
"""
    text = run(*[dies] * 5)
    assert text.startswith("1\n")
    assert closing_line(text) == "5 failed, 10 passed"
    assert text.count("ended with 0 in its midst") >= 5
    assert "test_4.py::test_dies" in text


def test_what_a_module_makes_once_is_made_once(run, tmp_path: Path) -> None:
    module = """
@pytest.fixture(scope="module")
def server():
    told("made", __name__)
    yield
    told("stopped", __name__)
@pytest.mark.parametrize("n", range(5))
def test_it(server, n): time.sleep(0.02)
"""
    assert closing_line(run(module, module)) == "10 passed"
    assert sorted((tmp_path / "made").read_text().split()) == sorted((tmp_path / "stopped").read_text().split()) == ["test_0", "test_1"]


def test_what_belongs_together_is_in_one_process(run, tmp_path: Path) -> None:
    module = """
@pytest.mark.together("engine")
@pytest.mark.parametrize("n", range(4))
def test_it(n): told("pids"); time.sleep(0.02)
def test_another(): time.sleep(0.02)
"""
    assert closing_line(run(module, module)) == "10 passed"
    pids = (tmp_path / "pids").read_text().split()
    assert (len(pids), len(set(pids))) == (8, 1)


def test_a_session_s_fixture_lives_until_its_lane_has_nothing_left_and_its_end_is_told(run, tmp_path: Path) -> None:
    text = run("""
@pytest.fixture(scope="session")
def server():
    told("made")
    yield
    assert False, "it has stumbled"
@pytest.mark.parametrize("n", range(12))
def test_it(server, n): time.sleep(0.02)
""")
    lanes = len((tmp_path / "made").read_text().split())
    assert 1 <= lanes <= 3
    assert closing_line(text) == f"12 passed, {lanes} error{'s' if lanes > 1 else ''}"
    assert "it has stumbled" in text


def test_the_longest_wait_begins_first_and_who_wants_to_be_alone_is(run, tmp_path: Path) -> None:
    text = run("""
@pytest.mark.alone
def test_alone(): assert len(seen("done")) == 14
@pytest.mark.parametrize("n", range(12))
def test_work(n): time.sleep(0.05); told("done")
@pytest.mark.waits(1)
def test_short_wait(): told("begun", "short"); time.sleep(0.5); told("done")
@pytest.mark.waits(2)
def test_long_wait():
    told("begun", "long")
    for _ in range(600):
        if (HERE / "done").exists() and len(seen("done")) >= 6: break
        time.sleep(0.05)
    assert len(seen("done")) >= 6
    told("done")
""")
    assert closing_line(text) == "15 passed", text
    assert sorted((tmp_path / "begun").read_text().split()) == ["long", "short"]


def test_the_first_failure_may_be_the_last(run) -> None:
    text = run(*["def test_bad(): assert False\n"] * 3, *["def test_good(): time.sleep(0.2)\n"] * 30, options=("-x",))
    assert re.search(r"stopping after [123] failures", text)  # each lane may have had one when the first was told
    assert int(re.findall(r"(\d+) passed", closing_line(text) + " 0 passed")[0]) < 30


def test_temporary_folders_are_nobody_else_s_and_go_when_all_is_well(run, tmp_path: Path) -> None:
    module = """
@pytest.mark.parametrize("n", range(5))
def test_it(n, tmp_path): (tmp_path / "mine").touch(exist_ok=False); told("folders", tmp_path)
"""
    assert closing_line(run(module, module, options=("-o", "tmp_path_retention_policy=failed"))) == "10 passed"
    folders = (tmp_path / "folders").read_text().split()
    assert len(set(folders)) == 10
    assert not any(Path(folder).exists() for folder in folders)


def test_an_interrupt_stops_what_runs_for_the_tests(start, tmp_path: Path) -> None:
    module = """
@pytest.fixture
def server():
    told("begun")
    yield
    time.sleep(0.1)
    told("stopped")
def test_it(server): time.sleep(60)
"""
    with start(module, module) as process:
        wait_until(lambda: len((tmp_path / "begun").read_text().split()) == 2 if (tmp_path / "begun").exists() else False, 60, "two tests to run")
        os.killpg(process.pid, signal.SIGINT)
        text = process.communicate(timeout=60)[0]
    assert process.returncode == pytest.ExitCode.INTERRUPTED
    assert "KeyboardInterrupt" in text
    assert len((tmp_path / "stopped").read_text().split()) == 2
