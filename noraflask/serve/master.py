"""The master process: gunicorn's Arbiter, which forwards SIGHUP instead of replacing workers, and the listening sockets."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import json
import logging
import math
import mmap
import os
import re
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import setproctitle
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter as BaseArbiter
from gunicorn.sock import close_sockets, create_sockets
from gunicorn.workers.base import Worker as BaseWorker

from noraflask.config import ConfigError
from noraflask.serve.application import Application, Wsgi, application_of
from noraflask.serve.handover import Handover
from noraflask.serve.reading import Outcome, Reading
from noraflask.serve.service_manager import ServiceManager

log = logging.getLogger("nora.server")

BIND_SECONDS = 3.0  # the workers of a killed master give the port back within a second
REPEAT_SECONDS = 0.5  # a second stop signal within this time is the same request, sent twice (terminal and supervisor, say)
QUICK_SECONDS = 5.0  # for the workers to leave after that
RESPAWN_SECONDS = 1.0
REFUSED = "Curation policy reload failed, keeping previous config error=%s"  # NORA's words
FIRST_SECONDS = 0.05  # between looks whether the first worker serves yet, when somebody waits for that


class BindError(Exception):
    """The server cannot listen where it should; the message is one line for the operator."""


class Arbiter(BaseArbiter):
    """`adopt()` turns gunicorn's own arbiter into one of these, so that `gunicorn -c` and `nora serve` behave alike."""

    service_manager = ServiceManager()
    reading: Reading | None = None
    reads_again = False
    """Another SIGHUP came while `reading` was on its way."""

    @staticmethod
    def adopt(arbiter: BaseArbiter) -> None:
        arbiter.__class__ = Arbiter

    def listen(self) -> None:
        """Make the listening sockets here: gunicorn itself tries for five seconds and tells of it in many lines. Raises BindError."""
        addresses = self.cfg.address
        if inherits_sockets() or not all(isinstance(address, tuple) for address in addresses):
            return
        listeners = [listener for host, port in addresses for listener in bind(host, port, self.cfg.backlog)]
        self.LISTENERS: list[Any] = create_sockets(self.cfg, self.log, [listener.detach() for listener in listeners])

    def spawn_workers(self) -> None:
        """Workers that die as soon as they start are replaced once a second, not in a storm."""
        now = time.monotonic()
        if now - getattr(self, "_spawned", -math.inf) >= RESPAWN_SECONDS:
            self._spawned = now
            super().spawn_workers()

    def spawn_worker(self) -> Any:
        """Signals wait until the worker has its handlers: until then they would end it, or be lost in its copy of our queue."""
        signal.pthread_sigmask(signal.SIG_BLOCK, BaseWorker.SIGNALS)
        try:
            return super().spawn_worker()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, BaseWorker.SIGNALS)

    def wait_for_signals(self, timeout: float = 1.0) -> list[int]:
        """SIGHUPs that have piled up while the last one was carried out are one: the files are read after all of them."""
        self.go_on_reading()
        self._tell_of_life()
        found: list[int] = super().wait_for_signals(min(timeout, FIRST_SECONDS) if self.service_manager.is_waiting else timeout)
        others = [number for number in found if number != signal.SIGHUP]
        return [*others, signal.SIGHUP] if len(others) < len(found) else found

    def maybe_promote_master(self) -> None:
        """After SIGUSR2 the new master stays alone, and gunicorn gives it a title of its own."""
        was_second = self.master_pid
        super().maybe_promote_master()
        if was_second and not self.master_pid:
            set_title("master", self.cfg)

    def _tell_of_life(self) -> None:
        """To the service manager: ready is who has a worker that takes requests."""
        if self.service_manager.is_waiting and self.worker_class.board.any_serves():
            self.service_manager.ready(self._serving())
        self.service_manager.beat()

    def _serving(self) -> str:
        return f"serving on {', '.join(map(str, self.LISTENERS))} with {self.num_workers} workers"

    def handle_hup(self) -> None:
        """Begin to read the configuration again, in a child. One that comes meanwhile is carried out after that: files may have changed since."""
        if self.reading is not None:
            self.reads_again = True
            return
        self.reads_again = False
        self.service_manager.reloading()
        application = application_of(self.app.wsgi())
        self.reading = Reading(application.read_again, application.reload_seconds, self._become_reader)

    def _become_reader(self) -> None:
        """In the child."""
        close_sockets(self.LISTENERS, unlink=False)
        set_title("reload", self.cfg)

    def go_on_reading(self) -> None:
        """Once the child has read everything, or has had its time: take that over, or leave everything as it is."""
        outcome = self.reading.outcome() if self.reading else None
        if outcome is None:
            return
        self.reading = None
        problem = self._take_over(outcome)
        if self.reads_again:
            self.handle_hup()
            return
        self.service_manager.ready(f"{self._serving()}; the last reload was refused: {problem}" if problem else f"{self._serving()}; reloaded")

    def _take_over(self, outcome: Outcome) -> str:
        """Hand it to the workers. Workers that are forked later inherit it from this process.

        Whatever goes wrong is what it returns: an exception that left here would end the server.
        """
        application = application_of(self.app.wsgi())
        problem = "; ".join(outcome.problems)
        if outcome.kind == "broken":
            log.error(f"{REFUSED}\n%s", json.dumps(problem), outcome.trace)
            application.reload_broke()
            return problem
        try:
            if outcome.kind == "refused":
                raise ConfigError(list(outcome.problems))
            if outcome.kind == "read":
                self._hand_on(application, outcome.snapshot, outcome.large)
        except ConfigError as error:
            problem = "; ".join(error.problems)
            log.warning(REFUSED, json.dumps(problem))
            application.reload_refused(error.problems[0])
            return problem
        except Exception as error:
            log.exception(REFUSED, json.dumps(str(error) or type(error).__name__))
            application.reload_broke()
            return str(error) or type(error).__name__
        log.info("SIGHUP: telling %d workers to reload", len(self.WORKERS))
        self.kill_workers(signal.SIGHUP)
        give_memory_back()
        return ""

    def _hand_on(self, application: Application, snapshot: Any, large: bytes | memoryview) -> None:
        """What workers are given is what this process could adopt itself."""
        handover: Handover = self.worker_class.handover
        offer = handover.prepare(snapshot, large)
        try:
            application.adopt(snapshot, memoryview(offer.view))
        except BaseException:
            handover.withdraw(offer)
            raise
        handover.publish(offer)
        application.reload_succeeded()

    def handle_int(self) -> None:
        self.handle_term()

    def stop(self, graceful: bool = True) -> None:
        """Running requests get `graceful_timeout`; a second SIGTERM, SIGINT or SIGQUIT ends them."""
        if self.reading is not None:
            self.reading.cancel()
            self.reading = None
        if self.reexec_pid:
            self.service_manager.replaced_by(self.reexec_pid)
        else:
            self.service_manager.stopping(self.cfg.graceful_timeout if graceful else 0)
        close_sockets(self.LISTENERS, unlink=self.reexec_pid == self.master_pid == 0 and not self.systemd)
        self.LISTENERS = []
        began = time.monotonic()
        end = began + self.cfg.graceful_timeout
        self.kill_workers(signal.SIGTERM if graceful else signal.SIGQUIT)
        while self.WORKERS and time.monotonic() < end:
            if graceful and self._stop_repeated(began):
                log.info("second signal: stopping without waiting for running requests")
                graceful = False
                self.kill_workers(signal.SIGQUIT)
                end = time.monotonic() + QUICK_SECONDS
            self.reap_workers()
            time.sleep(0.05)
        self.kill_workers(signal.SIGKILL)
        self.reap_workers()

    def _stop_repeated(self, began: float) -> bool:
        repeated = any(number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT) for number in self._queued())
        return repeated and time.monotonic() - began > REPEAT_SECONDS

    def _queued(self) -> list[int]:
        return [self.SIG_QUEUE.get_nowait() for _ in range(self.SIG_QUEUE.qsize())]


class GunicornApplication(BaseApplication):
    """What gunicorn asks for: settings, and the WSGI application, which is made in the master and inherited by the workers."""

    def __init__(self, settings: dict[str, Any], make: Callable[[], Wsgi]) -> None:
        self._settings, self._make = settings, make
        super().__init__()

    def load_config(self) -> None:
        for name, value in self._settings.items():
            self.cfg.set(name, value)

    def load(self) -> Wsgi:
        return self._make()


def give_memory_back() -> None:
    """What it took to read large files; else the master keeps it, and every worker begins with it."""
    gc.collect()
    with contextlib.suppress(AttributeError):  # a C library that has no such function
        ctypes.CDLL(None).malloc_trim(0)


_UNTOUCHED = re.compile(r"([0-9a-f]+)-([0-9a-f]+) r-[x-]p \S+ \S+ \d+ +/.*\.so[.\d]*\n(?:\w+: .*\n)*?Anonymous: +0 kB\n")
"""In /proc/self/smaps: code and constants of a library, no page of which differs from its file."""


def let_go_of_code() -> None:
    """Of libraries that the start has used, and the master does not use again. What is wanted all the same comes back from the kernel's cache."""
    with contextlib.suppress(OSError, AttributeError):
        madvise = ctypes.CDLL(None).madvise
        for start, end in _UNTOUCHED.findall(Path("/proc/self/smaps").read_text()):
            first = int(start, 16)
            madvise(ctypes.c_void_p(first), ctypes.c_size_t(int(end, 16) - first), mmap.MADV_DONTNEED)


ALLOCATOR = {
    -3: 2 * 1024 * 1024,  # M_MMAP_THRESHOLD: what is larger goes back at once; without it the bound grows to the largest document that was freed
    -1: 4 * 1024 * 1024,  # M_TRIM_THRESHOLD: so much free memory an arena keeps
    -8: 4,  # M_ARENA_MAX: a thread of Python allocates while it holds the interpreter's lock
}
"""For mallopt(3)."""


def keep_little_free_memory() -> None:
    """Of workers as well. What large documents took would stay with them, once for each of many arenas."""
    with contextlib.suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in ALLOCATOR.items():
            mallopt(parameter, value)


def set_title(role: str, cfg: Any) -> None:
    """`ps` shows "nora: worker [127.0.0.1:4000]"; `pidof nora` and `pkill nora` look at the command name."""
    setproctitle.setproctitle(f"nora: {role} [{cfg.proc_name}]")
    setproctitle.setthreadtitle("nora")


def inherits_sockets() -> bool:
    """From systemd, or from the master that this one replaces (SIGUSR2)."""
    return "LISTEN_FDS" in os.environ or "GUNICORN_FD" in os.environ


def bind(host: str, port: int, backlog: int) -> list[socket.socket]:
    """Listening sockets on all addresses of `host`; `::` takes IPv4 as well. Raises BindError."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise BindError(f"cannot listen on {host}: {error.strerror}; set server.host (NORA_HOST) to an address of this machine") from None
    listeners, problems = [], []
    for family, _, _, _, address in dict.fromkeys(found):
        try:
            listeners.append(_bind_one(family, address, backlog))
        except OSError as error:
            problems.append(error)
    if not listeners or any(error.errno == errno.EADDRINUSE for error in problems):
        for listener in listeners:
            listener.close()
        raise BindError(f"cannot listen on {host} port {port}: {problems[0].strerror}")
    return listeners


def _bind_one(family: int, address: Any, backlog: int) -> socket.socket:
    end = time.monotonic() + BIND_SECONDS
    while True:
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets inherit it
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address[0] != "::")
            listener.bind(address)
            listener.listen(backlog)
            return listener
        except OSError as error:
            listener.close()
            if error.errno != errno.EADDRINUSE or time.monotonic() > end:
                raise
            time.sleep(0.05)
