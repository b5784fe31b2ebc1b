"""How much memory this server may take, as the kernel will enforce it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def memory_limit(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes: the least that a cgroup around this process grants (cgroups(7), version 1 and 2), or what the machine has.

    A limit further up holds as well: of the pod, or of the slice. Within a container the path may be the host's, and only the top is there.
    """
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with contextlib.suppress(OSError):
        for line in (proc / "self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                top, name = cgroups, "memory.max"
            elif "memory" in controllers.split(","):
                top, name = cgroups / "memory", "memory.limit_in_bytes"
            else:
                continue
            place = top / path.strip("/")
            for folder in (place, *place.parents):
                if folder.is_relative_to(top):
                    with contextlib.suppress(OSError, ValueError):  # ValueError: "max"
                        limits.append(int((folder / name).read_text()))
    return min(limits)
