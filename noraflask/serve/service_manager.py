"""What the master tells the service manager that started it, systemd or another that gives NOTIFY_SOCKET: sd_notify(3), in a few lines of our own."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, MutableMapping

log = logging.getLogger("nora.server")

SEND_SECONDS = 1.0  # a service manager that does not read must not hold up the server


class ServiceManager:
    """Quiet where there is none. No method raises."""

    def __init__(self, address: str = "", watchdog_seconds: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        """The address is the path of a datagram socket, or that of an abstract one, which begins with @. Signs of life are due every
        `watchdog_seconds`; 0: none are."""
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._beat_seconds = watchdog_seconds / 2  # sd_watchdog_enabled(3): "every half of the time"
        self._clock = clock
        self._beaten = clock()
        self._problem = ""
        self.is_waiting = bool(address)
        """It has not been told yet that the server is ready."""

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> ServiceManager:
        """Takes the variables away, so that no child speaks in the master's name."""
        address = environ.pop("NOTIFY_SOCKET", "")
        period = environ.pop("WATCHDOG_USEC", "")
        meant_for = environ.pop("WATCHDOG_PID", "")
        replaces_a_master = "GUNICORN_PID" in environ  # SIGUSR2: the variables are those of the one before
        watched = period.isascii() and period.isdigit() and (meant_for in ("", str(os.getpid())) or replaces_a_master)
        return cls(address, int(period) / 1e6 if watched else 0.0)

    def ready(self, status: str) -> None:
        """The server serves; or, after `reloading()`, it has carried that out."""
        self.is_waiting = False
        self._tell("READY=1", f"STATUS={_one_line(status)}")

    def reloading(self) -> None:
        """The time is for Type=notify-reload, which tells by it which signal this is the answer to."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}", "STATUS=reading the configuration")

    def stopping(self, seconds: float) -> None:
        self._tell("STOPPING=1", f"STATUS=running requests have {seconds:g} seconds to finish")

    def replaced_by(self, pid: int) -> None:
        """Another master goes on in the place of this one, which ends."""
        self._tell(f"MAINPID={pid}")

    def beat(self) -> None:
        """Called more often than signs of life are due."""
        now = self._clock()
        if self._beat_seconds and now - self._beaten >= self._beat_seconds:
            self._beaten = now
            self._tell("WATCHDOG=1")

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(SEND_SECONDS)
                sender.sendto("\n".join(lines).encode(errors="replace"), self._address)
        except (OSError, ValueError) as error:
            if str(error) != self._problem:  # signs of life would repeat it for ever
                self._problem = str(error)
                log.warning("the service manager at NOTIFY_SOCKET cannot be told %s: %s", lines[0], error)
        else:
            self._problem = ""


def _one_line(text: str) -> str:
    return " ".join(text.split())
