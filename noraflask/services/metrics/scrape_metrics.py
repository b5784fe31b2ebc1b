"""What nobody has to count, worked out at each scrape: processes, space, policy, uploads, stock.

A collector of prometheus_client: `collect()` gives the families. Nothing in it waits for a disk that hangs, but for the two calls of statvfs(2).
"""

from __future__ import annotations

import os
import platform
import resource
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from noraflask import __version__
from noraflask.services.auth.lockout import Lockout
from noraflask.services.curation.freeze import Freeze
from noraflask.services.health import Health
from noraflask.services.inventory import Inventory
from noraflask.services.memory_limit import memory_limit
from noraflask.services.reloads import Reloads
from noraflask.services.staging import Staging
from noraflask.services.state import Live

TICKS = os.sysconf("SC_CLK_TCK")

Labelled = tuple[tuple[str, ...], float]


@dataclass(eq=False)
class ScrapeMetrics:
    repositories: Callable[[], Collection[str]]
    """Names of those that there are now."""
    workers: int
    """As configured."""
    max_connections: int
    volumes: dict[str, Path]
    """Folders by name: storage, staging, and state where it lies on another file system."""
    health: Health
    staging: Staging
    live: Live
    freeze: Freeze
    reloads: Reloads
    inventory: Inventory
    lockout: Lockout | None
    connections: Callable[[], int] | None = None
    """Open client connections of all workers; None where the server is not ours."""

    def collect(self) -> Iterator[Metric]:
        yield from self._server()
        yield from self._processes()
        yield from self._space()
        yield from self._uploads()
        yield from self._policy()
        yield from self._logins()
        yield from self._stock()
        yield from self._of_nora()

    def _server(self) -> Iterator[Metric]:
        yield gauge("nora_build_info", "Versions, as labels.", ("version", "python"), [((__version__, platform.python_version()), 1)])
        yield gauge("nora_uptime_seconds", "Since the master process started.", (), [((), self.health.uptime_seconds())])
        yield gauge(
            "nora_storage_reachable", "Whether the last write to the storage, for a trial, went well.", (), [((), self.health.storage_reachable)]
        )
        if self.connections is not None:
            yield gauge("nora_connections", "Open client connections.", (), [((), self.connections())])
        yield gauge("nora_connections_max", "server.max_connections.", (), [((), self.max_connections)])

    def _processes(self) -> Iterator[Metric]:
        pids = {"master": [self.reloads.master], "worker": [worker.pid for worker in self.reloads.workers()]}
        if os.getpid() not in pids["worker"]:  # no server around it
            pids = {"master": [os.getpid()], "worker": []}
        found = {role: [usage for pid in of_role if (usage := Usage.of(pid))] for role, of_role in pids.items()}
        yield gauge("nora_workers", "Worker processes that run.", (), [((), len(found["worker"]))])
        yield gauge("nora_workers_wanted", "server.workers.", (), [((), self.workers)])
        every = [usage for of_role in found.values() for usage in of_role]
        cpu = {role: sum(usage.cpu_seconds for usage in usages) for role, usages in found.items()}
        cpu["worker"] += sum(usage.children_cpu_seconds for usage in found["master"])  # else the end of a worker would look like a new start of all
        yield counter(
            "process_cpu_seconds_total",
            "Processor time of the master, and of all workers, also of those that ended.",
            ("process",),
            [((role,), seconds) for role, seconds in cpu.items()],
        )
        yield gauge(
            "process_resident_memory_bytes",
            "Memory of all processes, pages that they share counted once.",
            (),
            [((), sum(usage.memory_bytes for usage in every))],
        )
        yield gauge("nora_memory_limit_bytes", "What the cgroup or the machine grants.", (), [((), memory_limit())])
        most = max((usage.descriptors for usage in every), default=0)
        yield gauge("process_open_fds", "Open descriptors of the process that has most, to be compared with process_max_fds.", (), [((), most)])
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        yield gauge("process_max_fds", "Descriptors that one process may open.", (), [((), -1 if limit == resource.RLIM_INFINITY else limit)])

    def _space(self) -> Iterator[Metric]:
        found = {name: space for name, path in self.volumes.items() if (space := _space_of(path))}
        for name, help, figure in (
            ("nora_disk_size_bytes", "Size of the volume.", lambda space: space.f_blocks * space.f_frsize),
            ("nora_disk_free_bytes", "What is left of it for this server's user.", lambda space: space.f_bavail * space.f_frsize),
            ("nora_disk_inodes", "Inodes of the volume; 0 where they are not limited.", lambda space: space.f_files),
            ("nora_disk_free_inodes", "What is left of them.", lambda space: space.f_favail),
        ):
            yield gauge(name, help, ("volume",), [((volume,), figure(space)) for volume, space in found.items()])

    def _uploads(self) -> Iterator[Metric]:
        staging = self.staging
        yield gauge("nora_upload_sessions", "Unfinished uploads.", (), [((), staging.open_sessions())])
        yield gauge("nora_upload_sessions_max", "How many there may be.", (), [((), staging.max_sessions)])
        yield gauge("nora_upload_sessions_of_one", "Of the principal who has most.", (), [((), staging.open_sessions_of_one())])
        yield gauge("nora_upload_sessions_of_one_max", "How many one principal may have.", (), [((), staging.max_sessions_of_one)])
        yield gauge("nora_staging_bytes", "What unfinished uploads take of the temporary folder.", (), [((), staging.taken_bytes())])
        yield gauge("nora_staging_budget_bytes", "staging.budget_bytes.", (), [((), staging.budget_bytes)])

    def _policy(self) -> Iterator[Metric]:
        figures, policy = self.reloads.figures(), self.live.state.policy
        yield counter("nora_reloads_total", "Reloads by SIGHUP or API.", ("result",), [(("ok",), figures.succeeded), (("failed",), figures.failed)])
        yield gauge("nora_reload_last_success_timestamp_seconds", "The last good one, or the start.", (), [((), figures.last_success)])
        yield gauge("nora_reload_last_failure_timestamp_seconds", "The last refused one; 0: there was none.", (), [((), figures.last_failure)])
        yield gauge(
            "nora_policy_info", "The curation policy in force, as labels.", ("fingerprint", "mode"), [((policy.fingerprint, policy.settings.mode), 1)]
        )
        yield gauge("nora_policy_rules", "Its rules by kind.", ("kind",), [((kind,), count) for kind, count in sorted(policy.counts.items())])
        behind = sum(worker.fingerprint != figures.fingerprint for worker in self.reloads.workers())
        yield gauge("nora_policy_workers_behind", "Workers that have another policy than the last good one.", (), [((), behind)])
        yield gauge(
            "nora_curation_frozen",
            "Whether nothing new is fetched by order of an administrator.",
            (),
            [((), self.freeze.current() is not None)],
        )

    def _logins(self) -> Iterator[Metric]:
        counts = self.lockout.counters() if self.lockout else {"failures": 0, "repeated": 0, "refused": 0}
        yield counter("nora_auth_wrong_passwords_total", "Wrong passwords.", (), [((), counts["failures"])])
        yield counter("nora_auth_repeated_passwords_total", "Of these, the same one again from the same client.", (), [((), counts["repeated"])])
        yield counter("nora_auth_lockouts_total", "Logins refused unseen, because of wrong ones before.", (), [((), counts["refused"])])

    def _stock(self) -> Iterator[Metric]:
        totals = self.inventory.current()
        artifacts, names = totals.artifacts or {}, self.repositories()
        yield gauge("nora_artifacts_total", "Names that hold artifacts.", ("registry",), [((name,), artifacts.get(name, 0)) for name in names])
        places = (*names, "total") if len(names) == 1 else ("total",)
        yield gauge(
            "nora_storage_bytes", "Bytes of stored content; repositories share it.", ("registry",), [((place,), totals.bytes) for place in places]
        )
        yield gauge("nora_storage_objects", "Stored contents.", (), [((), totals.objects)])
        tokens = [(("valid",), float(totals.tokens)), (("expiring",), float(totals.tokens_expiring))]
        yield gauge("nora_auth_tokens", "API tokens that have not expired; expiring: within 7 days.", ("state",), tokens)
        yield gauge("nora_inventory_timestamp_seconds", "When these were counted; 0: not yet.", (), [((), totals.counted_at)])

    def _of_nora(self) -> Iterator[Metric]:
        """Of what this version does not do yet; see catalogue.py."""
        for name, help in (("nora_circuit_breaker_state", "0: no upstream is cut off."), ("nora_proxy_inflight", "Fetches under way.")):
            yield gauge(name, help, ("registry",), [((name,), 0) for name in self.repositories()])
        yield gauge("nora_config_deprecated", "Deprecated settings in use.", ("reason",), [(("curation_mode_implicit",), 0)])
        for name, help in (
            ("nora_proxy_active_downloads", "Blob fetches under way."),
            ("nora_gc_last_run_timestamp", "The last garbage collection; 0: none yet."),
            ("nora_retention_last_run_timestamp", "The last retention run; 0: none yet."),
        ):
            yield gauge(name, help, (), [((), 0)])


@dataclass(frozen=True)
class Usage:
    """What a process uses, of /proc (proc(5))."""

    cpu_seconds: float
    children_cpu_seconds: float
    """Of children that have ended and were waited for."""
    memory_bytes: int
    """Proportional set size: a page that n processes share counts as its n-th part."""
    descriptors: int

    @staticmethod
    def of(pid: int) -> Usage | None:
        """None when the process has ended."""
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            descriptors = len(os.listdir(f"/proc/{pid}/fd"))
        except OSError:
            return None
        memory = next((int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:")), 0)
        own, children = (sum(map(int, fields[first : first + 2])) / TICKS for first in (11, 13))
        return Usage(own, children, memory, descriptors)


def _space_of(path: Path) -> os.statvfs_result | None:
    try:
        return os.statvfs(path)
    except OSError:
        return None


def gauge(name: str, help: str, labels: tuple[str, ...], values: Iterable[Labelled]) -> Metric:
    return _filled(GaugeMetricFamily(name, help, labels=labels), values)


def counter(name: str, help: str, labels: tuple[str, ...], values: Iterable[Labelled]) -> Metric:
    return _filled(CounterMetricFamily(name, help, labels=labels), values)


def _filled(family: GaugeMetricFamily | CounterMetricFamily, values: Iterable[Labelled]) -> Metric:
    for labels, value in values:
        family.add_metric(labels, float(value))
    return family
