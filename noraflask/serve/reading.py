"""What a reload reads, read in a child of the master: the master goes on with its signals, signs of life and workers meanwhile.

The child is a fork, so it knows all that the master knows. What it found it leaves in a nameless file. It ends with the master, when it takes too
long, or when memory runs out: the kernel is asked to take it first.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from noraflask.config import ConfigError
from noraflask.serve.limits import wait_readable

_PR_SET_PDEATHSIG = 1
_LENGTH_BYTES = 8

Result = tuple[Any, "bytes | memoryview"]


@dataclass(frozen=True)
class Outcome:
    kind: Literal["read", "nothing", "refused", "broken"]
    """`nothing`: there is nothing that could be reloaded; `broken`: an error that nobody expected."""
    snapshot: Any = None
    large: bytes | memoryview = b""
    problems: tuple[str, ...] = ()
    trace: str = ""


class Reading:
    """One reading, from its begin to its outcome."""

    def __init__(self, read: Callable[[], Result | None], seconds: float, in_child: Callable[[], None] = lambda: None) -> None:
        """`seconds`: after which it is ended. `in_child`: done there first."""
        self._seconds = seconds
        self._end = time.monotonic() + seconds
        self._file = os.memfd_create("nora-reading", os.MFD_CLOEXEC)
        self._alive, held = os.pipe2(os.O_CLOEXEC)
        """Readable once the child is gone, whoever took note of its end."""
        master = os.getpid()
        self._pid = os.fork()
        if not self._pid:
            _leave(self._file, read, master, in_child)
        os.close(held)

    def outcome(self) -> Outcome | None:
        """None: it goes on. Otherwise asked once."""
        if not self._has_ended():
            if time.monotonic() < self._end:
                return None
            self._kill()
            self._close()
            return Outcome(
                "refused",
                problems=(f"reading takes longer than {self._seconds:g} seconds (server.reload_timeout_secs); nothing has changed",),
            )
        try:
            return _found(self._file) or Outcome("broken", problems=("the process that read the configuration was ended",))
        finally:
            self._close()

    def cancel(self) -> None:
        if not self._has_ended():
            self._kill()
        self._close()

    def _has_ended(self) -> bool:
        return wait_readable(self._alive, 0)

    def _kill(self) -> None:
        """It is not waited for: what it reads may be a network's file system that does not answer. The master looks after its children anyway."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)

    def _close(self) -> None:
        with contextlib.suppress(ChildProcessError):  # the master's own look at its children was first
            os.waitpid(self._pid, os.WNOHANG)
        os.ftruncate(self._file, 0)  # a worker that was forked meanwhile has the file too, and needs none of it
        os.close(self._file)
        os.close(self._alive)


def _leave(file: int, read: Callable[[], Result | None], master: int, in_child: Callable[[], None]) -> None:
    """In the child, which never returns from here."""
    try:
        _set_apart(master)
        in_child()
        large, outcome = _outcome_of(read)
        with os.fdopen(file, "wb", closefd=False) as out:
            out.write(len(large).to_bytes(_LENGTH_BYTES, "little"))
            out.write(large)
            pickle.dump(outcome, out)
        os._exit(0)
    finally:
        os._exit(1)


def _outcome_of(read: Callable[[], Result | None]) -> tuple[bytes | memoryview, Outcome]:
    try:
        found = read()
    except ConfigError as error:
        return b"", Outcome("refused", problems=tuple(error.problems))
    except Exception as error:
        return b"", Outcome("broken", problems=(str(error) or type(error).__name__,), trace=traceback.format_exc())
    if found is None:
        return b"", Outcome("nothing")
    return found[1], Outcome("read", found[0])


def _set_apart(master: int) -> None:
    """Signals are the master's business, but for those that end it; without it nobody would miss the child."""
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU, signal.SIGWINCH):
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    with contextlib.suppress(AttributeError):  # a C library that has no such function
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != master:
        os._exit(1)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _found(file: int) -> Outcome | None:
    """None: it did not get that far."""
    with open(file, "rb", closefd=False) as kept:
        kept.seek(0)
        length = int.from_bytes(kept.read(_LENGTH_BYTES), "little")
        large = kept.read(length)
        try:
            outcome: Outcome = pickle.load(kept)  # noqa: S301 (a child of this process wrote it)
        except (EOFError, pickle.UnpicklingError):
            return None
    return replace(outcome, large=large)
