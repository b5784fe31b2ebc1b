"""What gunicorn is told, the same for `nora serve` and `gunicorn -c etc/gunicorn.conf.py wsgi:app`."""

from __future__ import annotations

import gc
import logging
import os
import resource
import sys
import tempfile
from typing import Any

from noraflask.config import Config, ServerConfig
from noraflask.serve.application import application_of
from noraflask.serve.board import SLOTS
from noraflask.serve.master import Arbiter, BindError, give_memory_back, keep_little_free_memory, let_go_of_code, set_title
from noraflask.serve.service_manager import ServiceManager
from noraflask.serve.worker import Worker

log = logging.getLogger("nora.server")

BACKLOG = 2048
WATCHDOG_SECONDS = 60  # a worker whose main thread gives no sign of life for so long is replaced
STOP_MARGIN_SECONDS = 10  # the master kills what its workers have not ended so long after shutdown_timeout


def gunicorn_settings(config: Config) -> dict[str, Any]:
    server = config.server
    return {
        "bind": [address(server.host, server.port)],
        "backlog": BACKLOG,
        "workers": server.workers,
        "threads": server.threads,
        "worker_class": Worker.configured(server),
        "worker_tmp_dir": heartbeat_folder(),
        "timeout": WATCHDOG_SECONDS,
        "graceful_timeout": server.shutdown_timeout + STOP_MARGIN_SECONDS,
        "keepalive": server.keep_alive_timeout,
        "preload_app": True,
        "control_socket_disable": True,
        "forwarded_allow_ips": "",
        "logger_class": Logger,
        "loglevel": {"trace": "debug", "warn": "warning"}.get(config.logging.level, config.logging.level),
        "accesslog": None,
        "proc_name": address(server.host, server.port),
        "on_starting": on_starting,
        "when_ready": when_ready,
        "pre_fork": pre_fork,
        "post_fork": post_fork,
        "child_exit": child_exit,
    }


def address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def heartbeat_folder() -> str:
    """A folder for the workers' heartbeat files: on tmpfs where it is writable, so that a busy disk cannot stop a heartbeat."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir()


# gunicorn's hooks


def on_starting(server: Any) -> None:
    Arbiter.adopt(server)
    server.service_manager = ServiceManager.from_environment(os.environ)
    try:
        server.listen()
    except BindError as error:
        sys.exit(f"nora: {error}")


def when_ready(server: Any) -> None:
    raise_descriptor_limit(server.cfg.workers, server.worker_class.limits)
    keep_little_free_memory()
    give_memory_back()
    let_go_of_code()
    gc.freeze()  # what the master has made so far is for good: the collector must not touch, and so copy, its pages in the workers


def pre_fork(server: Any, worker: Any) -> None:
    set_title("master", server.cfg)
    taken = {other.slot for other in server.WORKERS.values()}
    worker.slot = next((slot for slot in range(SLOTS) if slot not in taken), SLOTS - 1)
    worker.board.note(worker.slot, 0)


def post_fork(server: Any, worker: Any) -> None:
    set_title("worker", server.cfg)


def child_exit(server: Any, worker: Any) -> None:
    worker.board.leave(worker.slot)
    application_of(server.app.wsgi()).worker_ended(str(worker.slot))


def raise_descriptor_limit(workers: int, limits: ServerConfig) -> None:
    """The usual soft limit is 1024."""
    needed = limits.descriptors_needed(workers)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < needed:
        log.warning("%d open files are allowed (ulimit -n), server.max_connections = %d needs %d", allowed, limits.max_connections, needed)


class Logger:
    """gunicorn's own log lines, as ours. The application writes the request lines itself."""

    def __init__(self, cfg: Any) -> None:
        self.cfg = cfg
        self.critical, self.error, self.warning = log.critical, log.error, log.warning
        self.info, self.debug, self.exception, self.log = log.info, log.debug, log.exception, log.log

    def setup(self, cfg: Any) -> None:
        self.cfg = cfg

    def access(self, *args: Any) -> None:
        """The application's task."""

    def reopen_files(self) -> None:
        """Logs go to stdout."""

    def close_on_exec(self) -> None:
        """Logs go to stdout."""
