"""Text files that people edit, and how messages name them and what stands in them."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

MAX_BYTES = 1024 * 1024


class FileProblem(Exception):
    """The file cannot be used at all. The text begins after the file's name: `:12:3: not valid TOML: …`"""


def label_of(path: Path) -> str:
    """How problems name the file."""
    return str(path) if str(path).isprintable() else shown(str(path))


def place(label: str, line: int) -> str:
    return f"{label}:{line}" if line else label


def shown(text: str) -> str:
    """The text in quotes, on one line, not too long, and safe on any terminal."""
    short = text if len(text) <= 80 else text[:77] + "..."
    return json.dumps(short, ensure_ascii=not short.isprintable())


def read_text(path: Path, most: int = MAX_BYTES) -> str:
    """A text file of at most so many bytes, without the byte-order mark that some editors put in front. Raises FileProblem."""
    data = read_bytes(path, most)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise FileProblem(f":{line}: is not UTF-8 text: byte 0x{data[error.start]:02x}") from None


def read_bytes(path: Path, most: int = MAX_BYTES) -> bytes:
    """A regular file of at most so many bytes; no other kind is waited for. Raises FileProblem."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        with open(descriptor, "rb") as file:
            mode = os.fstat(descriptor).st_mode
            if stat.S_ISDIR(mode):
                raise FileProblem(": is a folder, expected a file")
            if not stat.S_ISREG(mode) and not stat.S_ISCHR(mode):
                raise FileProblem(": is not a regular file")
            data = file.read(most + 1) or b""
    except IsADirectoryError:
        raise FileProblem(": is a folder, expected a file") from None
    except (OSError, ValueError) as error:
        raise FileProblem(f": cannot be read: {getattr(error, 'strerror', None) or 'the path is not valid'}") from None
    if len(data) > most:
        raise FileProblem(f": is larger than {_in_units(most)}, the most that is read")
    return data


def without_mark(data: bytes) -> bytes:
    """Without the byte-order mark that some editors put in front of UTF-8."""
    return data.removeprefix(b"\xef\xbb\xbf")


def _in_units(most: int) -> str:
    return f"{most // MAX_BYTES} MiB" if most >= MAX_BYTES else f"{most // 1024} KiB"
