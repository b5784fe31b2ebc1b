"""This machine: storage, staging, disk, memory, open files, clock. What /proc and /sys say is read in one place and judged by pure functions."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from noraflask.config import Config, ServerConfig, StagingConfig
from noraflask.config.sections import SPARE_DESCRIPTORS
from noraflask.errors import NoraError
from noraflask.keys import Key
from noraflask.services.doctor.findings import NAME, Finding, ok, warning, wrong
from noraflask.services.master_process import PROC, count_workers, find_masters
from noraflask.services.memory_limit import cgroup_limit
from noraflask.storage import Storage
from noraflask.storage.mounts import LOCAL_FILE_SYSTEMS, MEMORY_FILE_SYSTEMS, NETWORK_FILE_SYSTEMS, Mount, mount_here

MIB = 1024 * 1024
GIB = 1024 * MIB
PROBE_BYTES = MIB
SLOW_SYNC_SECONDS = 1.0
LOW_SHARE = 0.05
LOW_BYTES = GIB
NO_BYTES = 64 * MIB
MASTER_BYTES = 48 * MIB
WORKER_BYTES = 40 * MIB
"""Master and two workers together take 60 MB under load (docs/performance.md); twice that leaves room for a large policy and manifests in hand.
server.plan_memory_mb of each worker comes on top of it."""
SKEW_WARNING_SECONDS, SKEW_WRONG_SECONDS = 5.0, 60.0
"""Bearer tokens and JWTs have a leeway of a minute by default."""


# Storage.


def storage_folder(path: Path, mount: Mount) -> Iterator[Finding]:
    if mount.kind in MEMORY_FILE_SYSTEMS:
        yield wrong("storage folder", f"{path} lies on {mount.kind} ({mount.point}): all is lost with the next restart", "storage.path: on a disk")
    elif mount.kind == "overlay":
        yield wrong(
            "storage folder",
            f"{path} lies in the container's own layer and is lost with the container",
            f"docker run -v nora-data:{path}, or `volumes:` of docker-compose.yml",
        )
    elif mount.kind in NETWORK_FILE_SYSTEMS:
        yield warning(
            "storage folder",
            f"{path} lies on {mount.kind}: slow to sync, locks hold only where the server supports them, and no answer is given again",
        )
    elif mount.kind not in LOCAL_FILE_SYSTEMS:
        yield warning("storage folder", f"{path} lies on {mount.kind} ({mount.point}), which is not known to be local: no answer is given again")
    else:
        yield ok("storage folder", f"{path} on {mount.kind} ({mount.point})")


def same_device(path: Path, device_of: Callable[[Path], int]) -> Iterator[Finding]:
    """Objects appear by a link or a rename, which cannot cross file systems."""
    incoming = path / ".incoming"
    if device_of(path) != device_of(incoming):
        yield wrong("storage folder", f"{incoming} is another file system than {path}", f"umount {incoming}")


def round_trip(storage: Storage, clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time) -> Iterator[Finding]:
    """Write, sync, read back, compare and delete an object, by the very calls that the server makes."""
    key, data = Key(f"{NAME}/{secrets.token_hex(8)}"), os.urandom(PROBE_BYTES)
    started = clock()
    try:
        storage.create(key, data)
        written = clock() - started
        try:
            with contextlib.closing(storage.open(key)) as reader:
                same = reader.read() == data
            info = storage.stat(key)
        finally:
            storage.delete(key)
        if storage.stat(key) is not None:
            yield wrong("storage", "what was deleted is still there")
            return
    except NoraError as problem:
        yield wrong("storage", f"a round trip fails: {problem.message}", f"chown -R <the server's user> and `df -h`, `df -i`: {_cause(problem)}")
        return
    if not same:
        yield wrong("storage", "what is read is not what was written: do not trust this disk or its driver")
        return
    told = f"{PROBE_BYTES // MIB} MiB written, synced, read back, compared and deleted; the write took {written * 1000:.0f} ms"
    if written > SLOW_SYNC_SECONDS:
        yield warning("storage", f"{told}: each push waits so long for the disk")
    else:
        yield ok("storage", told)
    if info is not None:
        yield from skew("clock of the storage", info.modified - wall())


def _cause(problem: BaseException) -> str:
    return getattr(problem.__cause__, "strerror", None) or "see the log"


def room(check: str, path: Path, free: int, total: int, unit: str) -> Iterator[Finding]:
    """`unit`: bytes or inodes. Some file systems make inodes as they need them and tell a total of 0."""
    if total <= 0:
        return
    shown = f"{size_text(free)} of {size_text(total)} free" if unit == "bytes" else f"{free:,} of {total:,} inodes free"
    share = free / total
    if free <= (NO_BYTES if unit == "bytes" else 0):
        flag = "-h" if unit == "bytes" else "-hi"
        yield wrong(check, f"{path}: {shown}: pushes are refused with 507", f"delete images or enlarge the volume; `df {flag} {path}`")
    elif share < LOW_SHARE or (unit == "bytes" and free < LOW_BYTES):
        yield warning(check, f"{path}: {shown}: less than {LOW_SHARE:.0%} or {size_text(LOW_BYTES)} is left")
    else:
        yield ok(check, f"{path}: {shown}")


def disk(path: Path) -> Iterator[Finding]:
    volume = os.statvfs(path)
    yield from room("disk", path, volume.f_bavail * volume.f_frsize, volume.f_blocks * volume.f_frsize, "bytes")
    yield from room("inodes", path, volume.f_favail, volume.f_files, "inodes")


# Staging.


def staging(config: StagingConfig, mount: Mount, total: int, free: int) -> Iterator[Finding]:
    """`total` and `free`: bytes of the file system that holds staging.path."""
    path, budget = config.path, config.budget_bytes
    if mount.kind not in MEMORY_FILE_SYSTEMS:
        yield warning(
            "staging",
            f"{path} lies on {mount.kind}, not on a tmpfs: uploads are written to disk twice",
            f"tmpfs {path} tmpfs size=256M,mode=1777 0 0   (in /etc/fstab); docker run --tmpfs {path}:size=256M; NORA_STAGING_PATH=/dev/shm",
        )
    elif total < budget:
        yield warning(
            "staging",
            f"{path} is a tmpfs of {size_text(total)}, and staging.budget_bytes allows {size_text(budget)}: it fills up before uploads spill",
            f"staging.budget_bytes = {total * 3 // 4} (NORA_STAGING_BUDGET_BYTES)",
        )
    elif free < config.share_bytes:
        yield warning("staging", f"{path}: only {size_text(free)} are free: uploads go to the data volume at once", f"du -sh {path}/*")
    else:
        yield ok("staging", f"{path} is a tmpfs of {size_text(total)}, {size_text(free)} free; uploads may use {size_text(budget)}")


def staging_here(config: StagingConfig) -> Iterator[Finding]:
    path = config.path
    if not path.is_dir():
        yield warning("staging", f"{path} is not there: uploads go to the data volume at once", f"mkdir -m 1777 {path}")
        return
    volume = os.statvfs(path)
    yield from staging(config, mount_here(path), volume.f_blocks * volume.f_frsize, volume.f_bavail * volume.f_frsize)
    if not os.access(path, os.W_OK | os.X_OK, effective_ids=True):
        yield warning("staging", f"{path} cannot be written to: uploads go to the data volume at once", f"chmod 1777 {path}")


# Clock.


def skew(check: str, seconds: float) -> Iterator[Finding]:
    """`seconds`: how far the other clock is ahead of ours."""
    shown = f"{abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} this machine's"
    if abs(seconds) > SKEW_WRONG_SECONDS:
        yield wrong(check, f"it is {shown}: tokens are refused as expired or not yet valid", "timedatectl set-ntp true")
    elif abs(seconds) > SKEW_WARNING_SECONDS:
        yield warning(check, f"it is {shown}", "timedatectl set-ntp true")
    else:
        yield ok(check, "agrees with this machine's")


def clock(now: float, built: float, ticks: tuple[float, float]) -> Iterator[Finding]:
    """`built`: when this program was installed, which cannot be later than now. `ticks`: two readings of the monotonic clock, in order."""
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now)) if 0 <= now < 1 << 40 else str(now)
    if now < built:
        yield wrong("clock", f"it is {shown}, which is before this program was installed", "timedatectl set-ntp true")
    elif ticks[1] < ticks[0]:
        yield wrong("clock", "the monotonic clock runs backwards: time limits cannot hold")
    else:
        yield ok("clock", shown)


def clock_here() -> Iterator[Finding]:
    ticks = time.monotonic(), time.monotonic()
    yield from clock(time.time(), os.stat(__file__).st_mtime, ticks)


# Open files and memory.


@dataclass(frozen=True, slots=True)
class Process:
    """The running server's master, as /proc shows it; its own limits count, not those of this shell."""

    pid: int
    workers: int


def find_server(server: ServerConfig, proc: Path = PROC) -> Process | None:
    address = f"[{server.host}]:{server.port}" if ":" in server.host else f"{server.host}:{server.port}"
    masters = find_masters(address, proc)
    return Process(masters[-1], count_workers(address, proc)) if masters else None


def descriptors(server: ServerConfig, limits: str, whose: str) -> Iterator[Finding]:
    """`limits`: the text of /proc/<pid>/limits. The server raises its soft limit to the hard one by itself."""
    needed = server.descriptors_needed(server.workers)
    line = next((line for line in limits.splitlines() if line.startswith("Max open files")), "")
    hard = line.split()[4] if len(line.split()) > 4 else ""
    if hard == "unlimited" or (hard.isdigit() and int(hard) >= needed):
        yield ok("open files", f"{hard} allowed ({whose}), {needed} needed for server.max_connections = {server.max_connections}")
    elif hard.isdigit():
        yield wrong(
            "open files",
            f"{hard} allowed ({whose}), {needed} needed for server.max_connections = {server.max_connections}",
            f"LimitNOFILE={needed}   (systemd); docker run --ulimit nofile={needed}; or server.max_connections = "
            f"{max(server.workers, (int(hard) - SPARE_DESCRIPTORS) * server.workers // 2)}",
        )
    else:
        yield warning("open files", "the limit cannot be read")


def memory(config: Config, limit: int | None, staging_in_memory: bool) -> Iterator[Finding]:
    staged = config.staging.budget_bytes if staging_in_memory else 0
    worker_bytes = WORKER_BYTES + config.server.plan_memory_mb * MIB
    needed = MASTER_BYTES + config.server.workers * worker_bytes + staged
    shown = f"{config.server.workers} workers{f' and {size_text(staged)} of staging' if staged else ''} want about {size_text(needed)}"
    if limit is None:
        yield ok("memory", f"no limit by a cgroup; {shown}")
    elif needed > limit:
        workers = max(1, (limit - MASTER_BYTES - staged) // worker_bytes)
        yield wrong(
            "memory",
            f"the cgroup allows {size_text(limit)}, {shown}: workers are killed under load",
            f"MemoryMax={needed // MIB}M   (systemd); docker run --memory {needed // MIB}m; or server.workers = {workers}",
        )
    else:
        yield ok("memory", f"the cgroup allows {size_text(limit)}; {shown}")


def process_limits(config: Config) -> Iterator[Finding]:
    """Of the running server, else of this process, as the next start would have it."""
    running = find_server(config.server)
    place = f"/proc/{running.pid if running else 'self'}"
    whose = f"the server, pid {running.pid}" if running else "this shell"
    yield from descriptors(config.server, Path(place, "limits").read_text(), whose)
    in_memory = config.staging.path.is_dir() and mount_here(config.staging.path).kind in MEMORY_FILE_SYSTEMS
    yield from memory(config, cgroup_limit(Path(place, "cgroup").read_text()), in_memory)
    if running and running.workers != config.server.workers:
        yield warning("workers", f"{running.workers} are running, server.workers is {config.server.workers}", "restart the server")
    elif running:
        yield ok("workers", f"{running.workers} are running")


def size_text(size: int) -> str:
    for unit, factor in (("GiB", GIB), ("MiB", MIB)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}".replace(".0 ", " ")
    return f"{size} bytes"
