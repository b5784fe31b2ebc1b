"""The processes of a running server on this machine, found by the titles that it gives them."""

from __future__ import annotations

from pathlib import Path

PROC = Path("/proc")
_MASTER = "nora: master ["


def find_masters(address: str, proc: Path = PROC) -> list[int]:
    """Process ids of the masters that listen on an address; most often one."""
    pids = _titled(f"{_MASTER}{address}]", proc)
    return [pid for pid in pids if _parent(proc / str(pid)) not in pids]  # a worker has its master's title for a moment


def count_workers(address: str, proc: Path = PROC) -> int:
    return len(_titled(f"nora: worker [{address}]", proc))


def is_master(pid: int, proc: Path = PROC) -> bool:
    """Whether a process is the master of a server, whatever its address: a SIGHUP would end any other program."""
    return _title(proc / str(pid)).startswith(_MASTER)


def _titled(title: str, proc: Path) -> list[int]:
    return sorted(int(folder.name) for folder in proc.iterdir() if folder.name.isdigit() and _title(folder) == title)


def _title(folder: Path) -> str:
    """Empty when the process has ended, or nobody may look at it."""
    try:
        return (folder / "cmdline").read_bytes().rstrip(b"\0 ").decode(errors="replace")
    except OSError:
        return ""


def _parent(folder: Path) -> int:
    try:
        return int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
