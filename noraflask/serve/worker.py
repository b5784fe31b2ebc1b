"""The worker process: one request thread waits in epoll, and passes that on before it runs what it found. docs/decisions/0001-worker.md says why.

*Request threads* accept, read heads and run GET, HEAD and OPTIONS; they never wait for a peer. The *pool* takes bodies and sends what a peer
does not take at once. The *main thread*, here, keeps the heartbeat, ends what has waited too long, and handles signals.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import threading
import time
from typing import Any, ClassVar

from gunicorn.workers.base import Worker as BaseWorker

from noraflask.config import ServerConfig
from noraflask.serve.application import Application, application_of
from noraflask.serve.board import Board
from noraflask.serve.handover import Handover
from noraflask.serve.request import NO_BODY
from noraflask.serve.response import FileWrapper
from noraflask.serve.runner import Runner
from noraflask.suspension import SUSPENDS

log = logging.getLogger("nora.server")

BEAT_SECONDS = 1.0
CUT_SECONDS = 3.0  # between cutting the requests that did not end in time and leaving


class Worker(BaseWorker):
    """`configured(server)` makes the class that gunicorn is given; gunicorn itself knows nothing of our configuration."""

    limits: ClassVar[ServerConfig]
    board: ClassVar[Board]
    handover: ClassVar[Handover]
    application: Application
    slot: int  # on the board; the master gives it before the fork

    @classmethod
    def configured(cls, server: ServerConfig) -> type[Worker]:
        return type("Worker", (cls,), {"limits": server, "board": Board(), "handover": Handover()})

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.reload_requested = self.quick = False

    # Signals

    def init_signals(self) -> None:
        """Called with all of them blocked (master.Arbiter.spawn_worker), so that none is lost or deadly before its handler is set."""
        super().init_signals()
        handlers = {signal.SIGHUP: self.handle_hup, signal.SIGINT: self.handle_exit, signal.SIGQUIT: self.handle_quit}
        for number, handler in handlers.items():
            signal.signal(number, handler)
            signal.siginterrupt(number, False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self.SIGNALS)

    def handle_hup(self, signum: int, frame: Any) -> None:
        self.reload_requested = True

    def handle_quit(self, signum: int, frame: Any) -> None:
        """Stop without waiting for requests. SIGINT is like SIGTERM instead: Ctrl-C reaches the master and all workers."""
        self.quick = True
        self.alive = False

    def reload(self) -> None:
        """SIGHUP: take over what the master has read. When there is nothing new, or the master refused it, nothing changes."""
        try:
            found = self.handover.current()
            if found is not None:
                snapshot, large = found
                self.application.adopt(snapshot, memoryview(large if large is not None else b""))
                self.runner.plans.clear()
        except Exception:
            log.exception("what the master has read cannot be taken over; this worker stops, and the one in its place begins with it")
            self.application.reload_broke()
            self.alive = False
            return
        log.info("reloaded")

    # The main thread

    def run(self) -> None:
        self.handover.leave_to_master()
        self.application = application_of(self.wsgi)
        self.application.start_worker(str(self.slot), self.board.connections)
        share = max(1, -(-self.limits.max_connections // max(1, self.cfg.workers)))
        self.runner = Runner(self.application, self.limits, share, self.board, self.slot)
        self.reactor = self.runner.reactor
        for listener in self.sockets:
            self.reactor.listen(listener.sock, self._base_environ(listener.sock))
        self._wake = select.poll()
        self._wake.register(self.PIPE[0], select.POLLIN)
        self.threads: list[threading.Thread] = []
        while self.alive:
            self._beat()
            self.board.serve(self.slot)
            self._pause(BEAT_SECONDS)
        self._stop()

    def _base_environ(self, listener: socket.socket) -> dict[str, Any]:
        """What all requests of a listener have in common."""
        name = listener.getsockname()
        host, port = (name[0], str(name[1])) if isinstance(name, tuple) else (str(name), "")
        return {
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": NO_BODY,
            "wsgi.input_terminated": True,
            "wsgi.errors": ErrorLines(),
            "wsgi.multithread": True,
            "wsgi.multiprocess": self.cfg.workers > 1,
            "wsgi.run_once": False,
            "wsgi.file_wrapper": FileWrapper,
            SUSPENDS: True,
            "SERVER_SOFTWARE": "nora",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "SERVER_NAME": host,
            "SERVER_PORT": port,
            "SCRIPT_NAME": "",
        }

    def _beat(self) -> None:
        """Once a second: tell the master that all is well, see that it is, and end what has waited too long."""
        self.notify()
        if os.getppid() != self.ppid and self.alive:
            log.warning("the master process is gone; this worker stops")
            self.alive = False
        if self.reload_requested:
            self.reload_requested = False
            self.reload()
        self.threads = [thread for thread in self.threads if thread.is_alive()]
        while len(self.threads) < self.runner.request_threads:
            thread = threading.Thread(target=self._serve, name="request", daemon=True)
            self.threads.append(thread)
            thread.start()
        self.reactor.sweep()
        self.application.flush()  # what nobody took when the leader offered it

    def _pause(self, seconds: float) -> None:
        """Sleep until a signal comes, at most `seconds`."""
        if self._wake.poll(seconds * 1000):
            os.read(self.PIPE[0], 4096)

    def _serve(self) -> None:
        while not self.ended:
            try:
                self.reactor.work()
            except BaseException:
                log.exception("a request thread met an error it did not expect")

    ended = False

    # Stopping

    def _stop(self) -> None:
        """No new connections; running requests get `shutdown_timeout`, then are cut."""
        self.runner.stopping = True
        self.reactor.stop_listening()
        end = time.monotonic() + self.limits.shutdown_timeout
        while self.reactor.connections and time.monotonic() < end and not self.quick:
            self.reactor.close_idle()
            self._beat()
            self._pause(0.1)
        if self.reactor.connections:
            log.warning("stopping with %d connections still busy", len(self.reactor.connections))
            self._cut()
        self.application.stop_worker()
        self.ended = True
        self.reactor.wake_all()
        for thread in self.threads:
            thread.join(0.2)

    def _cut(self) -> None:
        end = time.monotonic() + CUT_SECONDS
        self.reactor.cut_all()
        while self.reactor.connections and time.monotonic() < end:
            self._pause(0.05)


class ErrorLines:
    """`wsgi.errors`: what the application writes there becomes log lines."""

    def write(self, text: str) -> None:
        if text.strip():
            log.error("%s", text.rstrip())

    def writelines(self, lines: list[str]) -> None:
        self.write("".join(lines))

    def flush(self) -> None:
        """Nothing is kept back."""
