"""Request bodies on their way into files."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

from noraflask.config import ServerConfig
from noraflask.serve.body import LengthBody
from noraflask.serve.limits import Receiver


def test_a_thread_that_ends_leaves_no_descriptor(tmp_path: Path) -> None:
    """The pool's threads end when there is nothing to do, and others begin."""
    here, there = socket.socketpair()
    with here, there, (tmp_path / "file").open("wb", buffering=0) as file:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            there.sendall(b"some")
            body = LengthBody(Receiver(here, ServerConfig()), b"", 4, None)
            thread = threading.Thread(target=body.into_file, args=(file.fileno(), 4))
            thread.start()
            thread.join()
        assert len(os.listdir("/proc/self/fd")) == before
    assert (tmp_path / "file").read_bytes() == 5 * b"some"
