"""Lines that several processes append to one file; what the audit log and the ledger lean on, which have tests of their own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from noraflask.services.append_file import AppendFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "var" / "lines"


def test_a_file_that_is_renamed_gets_no_more_lines_a_second_later(path):
    file = AppendFile()
    file.append(path, b"1\n", 0.0)
    path.rename(path.with_suffix(".old"))
    file.append(path, b"2\n", 0.5)
    file.append(path, b"3\n", 1.5)
    assert (path.with_suffix(".old").read_bytes(), path.read_bytes()) == (b"1\n2\n", b"3\n")


def test_a_file_that_is_removed_is_made_anew_at_once(path):
    file = AppendFile()
    file.append(path, b"1\n", 0.0)
    path.unlink()
    file.append(path, b"2\n", 0.0)
    assert path.read_bytes() == b"2\n"


def test_another_path_is_another_file(path):
    file = AppendFile()
    for name in ("a", "b", "a"):
        file.append(path / name, b"x\n", 0.0)
    assert ((path / "a").read_bytes(), (path / "b").read_bytes()) == (b"x\nx\n", b"x\n")


def test_a_forked_process_opens_the_file_for_itself(path):
    file = AppendFile()
    file.append(path, b"parent\n", 0.0)
    before = file._descriptor, os.fstat(file._descriptor).st_ino
    path.rename(path.with_suffix(".old"))
    child = os.fork()
    if not child:
        file.append(path, b"child\n", 0.0)
        os._exit(0)
    os.waitpid(child, 0)
    assert path.read_bytes() == b"child\n"
    assert before == (file._descriptor, os.fstat(file._descriptor).st_ino)


def test_a_line_that_was_cut_off_is_ended_before_the_next(path):
    path.parent.mkdir()
    path.write_bytes(b"whole\ncut o")
    AppendFile().append(path, b"next\n", 0.0)
    assert path.read_bytes() == b"whole\ncut o\nnext\n"


@pytest.mark.parametrize(("room", "whole"), [(0, 0), (3, 0), (4, 1), (9, 2)])
def test_it_says_how_many_lines_a_full_disk_took(path, monkeypatch, room, whole):
    file, write = AppendFile(), os.write
    file.append(path, b"", 0.0)

    def full(descriptor: int, data: bytes) -> int:
        nonlocal room
        if not room:
            raise OSError(28, "No space left on device")
        done = write(descriptor, bytes(data)[:room])
        room -= done
        return done

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space"):
            file.append(path, b"one\ntwo.\nthree\n", 0.0)
    assert file.whole_lines == whole
    file.append(path, b"four\n", 0.0)
    assert file.whole_lines == 1
    written = path.read_bytes().split(b"\n")
    assert written[:whole] == [b"one", b"two."][:whole]
    assert written[-2:] == [b"four", b""]
