"""What epoll tells of: the descriptors of a worker, as each phase of a connection wants it.

Of a connection that waits for a request (HEAD, IDLE) it tells as long as there is something to read, so that an answer of the leader costs no call of
epoll_ctl; it is disarmed when it is handed over. Of any other one, and of a listener, it tells once (EPOLLONESHOT).
"""

from __future__ import annotations

import os
import select
from contextlib import suppress

from noraflask.serve.connection import Phase

_ONCE = select.EPOLLIN | select.EPOLLONESHOT
_EVENTS = {
    Phase.HEAD: select.EPOLLIN,
    Phase.IDLE: select.EPOLLIN,
    Phase.BODY: _ONCE,
    Phase.LINGERING: _ONCE,
    Phase.READY: _ONCE | select.EPOLLOUT,  # a socket is writable nearly always: this comes back at once
    Phase.SENDING: select.EPOLLOUT | select.EPOLLONESHOT,
}
DISARMED = select.EPOLLONESHOT
"""With 0 epoll would go on telling of an error or a hang-up, which no mask keeps out: epoll_ctl(2)."""


class Epoll:
    def __init__(self) -> None:
        self._epoll = select.epoll()

    def poll(self, most: int) -> list[tuple[int, int]]:
        """Wait for something to happen."""
        return self._epoll.poll(None, most)

    def add(self, fd: int) -> None:
        """A new connection, not armed yet. Raises OSError (fs.epoll.max_user_watches)."""
        self._epoll.register(fd, DISARMED)

    def add_listener(self, fd: int) -> None:
        self._epoll.register(fd, _ONCE)

    def arm(self, fd: int, phase: Phase) -> None:
        try:
            self._epoll.modify(fd, _EVENTS[phase])
        except OSError:
            pass  # closed meanwhile

    def arm_listener(self, fd: int) -> None:
        with suppress(OSError):  # closed: the worker is stopping
            self._epoll.modify(fd, _ONCE)

    def disarm(self, fd: int) -> None:
        self._epoll.modify(fd, DISARMED)

    def wake(self) -> None:
        """From now on poll() returns at once."""
        self._epoll.register(os.eventfd(1), select.EPOLLIN)
